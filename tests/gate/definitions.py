"""Plan pairs about definitions that others use: domains, casts, operator classes, aggregates, policies, rules, roles.

They follow the same rule as those of `corpus`: every change of a group is paired with every use of it.
"""

from __future__ import annotations

from tests.gate.cases import Group

DOMAINS = Group(
    name="domains",
    thinned=True,
    kept=3,
    changes="""
        CREATE DOMAIN money2 AS numeric(10, 2) DEFAULT 0 NOT NULL
        CREATE DOMAIN money2 AS positive
        ALTER DOMAIN positive SET DEFAULT 5
        ALTER DOMAIN positive SET NOT NULL
        ALTER DOMAIN positive ADD CONSTRAINT even CHECK (VALUE % 2 = 0) NOT VALID
        ALTER DOMAIN positive DROP CONSTRAINT IF EXISTS nope
        ALTER DOMAIN positive RENAME TO plus
        ALTER DOMAIN positive SET SCHEMA s1
        ALTER DOMAIN positive OWNER TO gate_nobody
        ALTER TABLE t DROP COLUMN d; DROP DOMAIN positive
        ALTER TABLE t ALTER COLUMN d TYPE int
        DROP DOMAIN positive CASCADE; CREATE DOMAIN positive AS text
        CREATE TYPE money2 AS ENUM ('low')
        CREATE TYPE money2
    """,
    uses="""
        INSERT INTO t (id, d) VALUES (80, 3)
        INSERT INTO t (id) VALUES (80); SELECT 'positive'
        UPDATE t SET d = 'x' WHERE false
        SELECT d + 1 FROM t
        SELECT 3::positive
        SELECT 'x'::positive
        SELECT 3::plus
        SELECT 3::s1.positive
        SELECT 1.5::money2
        SELECT 'low'::money2
        SELECT NULL::money2
        CREATE TABLE w (m money2)
        CREATE TABLE w (m positive DEFAULT 4)
        ALTER TABLE t ADD COLUMN m money2
        DROP DOMAIN positive
        DROP DOMAIN money2
        DROP TYPE positive
        DROP TYPE money2
        ALTER DOMAIN positive VALIDATE CONSTRAINT even
        ALTER DOMAIN positive DROP CONSTRAINT even
        ALTER DOMAIN positive DROP CONSTRAINT positive_check
        ALTER DOMAIN positive DROP DEFAULT
        ALTER DOMAIN positive DROP NOT NULL
        ALTER DOMAIN money2 ADD CHECK (VALUE > 0)
        ALTER TYPE positive RENAME TO plus
        ALTER TYPE money2 ADD VALUE 'high'
        ALTER TYPE money2 ADD ATTRIBUTE z int
        COMMENT ON DOMAIN positive IS 'x'
        COMMENT ON CONSTRAINT positive_check ON DOMAIN positive IS 'x'
        GRANT USAGE ON DOMAIN positive TO gate_reader
        CREATE FUNCTION g(positive) RETURNS int LANGUAGE sql AS 'SELECT 1'
        CREATE FUNCTION g(x positive) RETURNS money2 LANGUAGE sql AS 'SELECT NULL::money2'
        CREATE CAST (positive AS text) WITH INOUT
        role=gate_nobody ALTER DOMAIN positive DROP DEFAULT
        CREATE DOMAIN positive AS int
        CREATE TYPE positive AS (a int)
    """,
)

CLASSES = Group(
    name="operator classes",
    thinned=True,
    changes="""
        CREATE OPERATOR FAMILY fam USING btree
        CREATE OPERATOR CLASS cls FOR TYPE int USING btree FAMILY integer_ops AS OPERATOR 3 =, FUNCTION 1 btint4cmp(int, int)
        CREATE OPERATOR CLASS cls FOR TYPE int USING hash AS OPERATOR 1 =, FUNCTION 1 hashint4(int)
        CREATE OPERATOR CLASS cls DEFAULT FOR TYPE mood USING gist AS STORAGE int
        CREATE FUNCTION cmp(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true'; CREATE OPERATOR = (LEFTARG = text, RIGHTARG = text, FUNCTION = cmp)
        CREATE OPERATOR @#@ (LEFTARG = text, RIGHTARG = text, FUNCTION = textcat)
        CREATE OPERATOR s1.@#@ (LEFTARG = int, RIGHTARG = int, FUNCTION = int4mi)
        CREATE OPERATOR !!! (RIGHTARG = int, FUNCTION = int4um)
        ALTER OPERATOR @#@ (int, int) SET SCHEMA s1
        ALTER OPERATOR @#@ (int, int) OWNER TO gate_nobody
        DROP OPERATOR IF EXISTS @#@ (int, int)
        CREATE EXTENSION btree_gist
        CREATE EXTENSION btree_gin SCHEMA s1
        CREATE EXTENSION citext; ALTER TABLE t ALTER COLUMN c TYPE citext
        CREATE EXTENSION intarray
    """,  # noqa: E501 -- a case is a line
    uses="""
        SELECT 1 @#@ 2
        SELECT 'a'::text @#@ 'b'::text
        SELECT 1 OPERATOR(s1.@#@) 2
        SELECT 1 OPERATOR(public.@#@) 2
        SELECT !!! 5
        CREATE INDEX ON t (b cls)
        CREATE INDEX ON t USING hash (b cls)
        CREATE INDEX ON t USING gist (m)
        CREATE INDEX ON t USING gist (b); SELECT 'btree_gist'
        CREATE INDEX ON t USING gin (b); SELECT 'btree_gin'
        CREATE INDEX ON t USING gin (b s1.int4_ops); SELECT 'btree_gin'
        ALTER TABLE t ADD EXCLUDE USING gist (b WITH =); SELECT 'btree_gist'
        ALTER TABLE t ADD CONSTRAINT e9 EXCLUDE (b WITH @#@)
        ALTER OPERATOR FAMILY fam USING btree ADD OPERATOR 3 = (int, int), FUNCTION 1 btint4cmp(int, int)
        ALTER OPERATOR FAMILY fam USING btree RENAME TO fam2
        DROP OPERATOR FAMILY fam USING btree
        DROP OPERATOR FAMILY cls USING btree
        DROP OPERATOR FAMILY cls USING hash
        DROP OPERATOR CLASS cls USING btree
        DROP OPERATOR CLASS cls USING hash
        CREATE OPERATOR CLASS cls FOR TYPE int USING hash AS OPERATOR 1 =, FUNCTION 1 hashint4(int)
        CREATE OPERATOR FAMILY fam USING btree
        DROP OPERATOR @#@ (int, int)
        DROP OPERATOR !!! (NONE, int)
        CREATE OPERATOR @#@ (LEFTARG = int, RIGHTARG = int, FUNCTION = int4mi)
        COMMENT ON OPERATOR @#@ (int, int) IS 'x'
        COMMENT ON OPERATOR CLASS cls USING btree IS 'x'
        ALTER OPERATOR @#@ (int, int) SET (RESTRICT = eqsel)
        SELECT count(*) FROM t WHERE c = 'C1'; SELECT 'citext'
        SELECT c || 'x' FROM t; SELECT 'citext'
        CREATE FUNCTION g(int) RETURNS int LANGUAGE sql AS 'SELECT $1 @#@ 2'
        SELECT ARRAY[1, 2] && ARRAY[2]; SELECT 'intarray'
        SELECT sort(ARRAY[2, 1]); SELECT 'intarray'
        role=gate_nobody DROP OPERATOR @#@ (int, int)
    """,
)

CALLED = Group(
    name="casts and aggregates",
    thinned=True,
    kept=3,
    changes="""
        CREATE AGGREGATE total(numeric) (SFUNC = numeric_add, STYPE = numeric, INITCOND = '0')
        CREATE OR REPLACE AGGREGATE total(int) (SFUNC = int4mul, STYPE = int, INITCOND = '1')
        ALTER AGGREGATE total(int) SET SCHEMA s1
        ALTER AGGREGATE total(int) OWNER TO gate_nobody
        CREATE FUNCTION addup(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2'
        CREATE FUNCTION addup(int, int) RETURNS int LANGUAGE sql AS 'SELECT $1'; CREATE AGGREGATE summed(int) (SFUNC = addup, STYPE = int)
        CREATE CAST (text AS s4.color) WITH INOUT AS IMPLICIT
        CREATE CAST (int AS s4.color) WITHOUT FUNCTION
        CREATE FUNCTION to_color(int) RETURNS s4.color LANGUAGE sql AS 'SELECT ''red''::s4.color'; CREATE CAST (int AS s4.color) WITH FUNCTION to_color(int) AS ASSIGNMENT
        DROP CAST IF EXISTS (s4.color AS int)
        DROP FUNCTION color_int(s4.color) CASCADE
        DROP FUNCTION color_int
        ALTER FUNCTION color_int(s4.color) RENAME TO colour_int
        ALTER FUNCTION color_int(s4.color) STRICT PARALLEL SAFE COST 5
        CREATE OR REPLACE FUNCTION color_int(s4.color) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 2'
        CREATE OR REPLACE FUNCTION f(x int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 2'
        ALTER FUNCTION f(int) VOLATILE
        ALTER FUNCTION f(int) RESET ALL
        ALTER FUNCTION f(int) SET search_path = nowhere
        CREATE OR REPLACE PROCEDURE pr(int, INOUT y int DEFAULT 2) LANGUAGE sql AS 'SELECT 1'
        ALTER ROUTINE pr(int) RENAME TO pr9
        CREATE TRUSTED LANGUAGE plx HANDLER plpgsql_call_handler
        DROP LANGUAGE plpgsql CASCADE
        CREATE FUNCTION broken() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN nope FROM t; END'
    """,  # noqa: E501 -- a case is a line
    uses="""
        SELECT total(b) FROM t
        SELECT total(b::numeric) FROM t
        SELECT s1.total(b) FROM t
        SELECT summed(b) FROM t
        DROP AGGREGATE total(int)
        DROP AGGREGATE summed(int)
        CREATE AGGREGATE summed(int) (SFUNC = addup, STYPE = int)
        DROP FUNCTION addup(int, int)
        SELECT 'red'::s4.color::int
        SELECT 3::s4.color
        CREATE TABLE w (c s4.color); INSERT INTO w VALUES (3)
        CREATE TABLE w (c s4.color); INSERT INTO w SELECT c FROM t WHERE false
        CREATE CAST (s4.color AS int) WITH FUNCTION color_int(s4.color)
        CREATE CAST (int AS s4.color) WITH INOUT
        CREATE CAST (s4.color AS bigint) WITH FUNCTION color_int(s4.color)
        DROP CAST (s4.color AS int)
        DROP CAST (int AS s4.color)
        COMMENT ON CAST (s4.color AS int) IS 'x'
        DROP FUNCTION color_int(s4.color)
        DROP FUNCTION colour_int(s4.color)
        CREATE INDEX ON t (f(b))
        CREATE INDEX ON t (b) WHERE f(b) > 3
        CREATE TABLE w (a int, z int GENERATED ALWAYS AS (f(a)) STORED)
        SELECT f(x => 1)
        SELECT f(1)
        CREATE OR REPLACE FUNCTION f(y int) RETURNS int LANGUAGE sql AS 'SELECT $1'
        CREATE OR REPLACE FUNCTION f(int) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'
        CREATE OR REPLACE PROCEDURE f(int) LANGUAGE sql AS 'SELECT 1'
        CREATE OR REPLACE FUNCTION pr(int) RETURNS int LANGUAGE sql AS 'SELECT 1'
        CALL pr(1)
        CALL pr(1, 2)
        CALL pr9(1)
        CALL f(1)
        SELECT pr(1)
        DROP PROCEDURE pr
        DROP ROUTINE pr9(int)
        DROP FUNCTION pr(int)
        CREATE FUNCTION g() RETURNS int LANGUAGE plx AS 'BEGIN RETURN 1; END'
        CREATE FUNCTION g() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'
        DO $$ BEGIN NULL; END $$; SELECT 'plpgsql'
        CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT nope()'
        CREATE FUNCTION g() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT f(1); END
        CREATE FUNCTION g() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT nope FROM t; END
        CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT broken()'
        SELECT broken()
        role=gate_nobody DROP AGGREGATE total(int)
        role=gate_nobody ALTER FUNCTION color_int(s4.color) RENAME TO mine
    """,
)

POLICIES = Group(
    name="policies, rules, triggers",
    thinned=True,
    kept=4,
    changes="""
        CREATE POLICY rls_w ON rls FOR UPDATE TO gate_reader USING (true) WITH CHECK (tenant = 1); GRANT UPDATE ON rls TO gate_reader
        CREATE POLICY rls_r ON rls AS RESTRICTIVE TO gate_reader USING (nope(tenant))
        CREATE POLICY rls_r ON rls AS RESTRICTIVE TO gate_reader USING (false)
        GRANT INSERT ON rls TO gate_reader
        ALTER TABLE rls FORCE ROW LEVEL SECURITY
        ALTER TABLE rls DISABLE ROW LEVEL SECURITY
        ALTER TABLE rls OWNER TO gate_reader
        ALTER POLICY rls_p ON rls TO gate_nobody
        DROP POLICY IF EXISTS rls_p ON rls
        ALTER TABLE trg DISABLE TRIGGER ALL
        ALTER TABLE trg DISABLE TRIGGER trg_stamp
        ALTER TRIGGER trg_stamp ON trg RENAME TO trg_9
        DROP TRIGGER IF EXISTS trg_stamp ON trg
        CREATE OR REPLACE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''refused''; END'
        CREATE OR REPLACE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.nope := 1; RETURN NEW; END'
        CREATE TRIGGER late AFTER INSERT ON trg REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION stamp()
        CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON trg DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION stamp()
        ALTER TABLE trg RENAME COLUMN a TO aa
        CREATE RULE trg_ru AS ON UPDATE TO trg DO INSTEAD NOTHING
        CREATE RULE trg_del AS ON DELETE TO trg DO ALSO INSERT INTO base VALUES (OLD.id + 900, OLD.a)
        ALTER RULE trg_ru ON trg RENAME TO x
        DROP RULE IF EXISTS trg_ru ON trg
    """,  # noqa: E501 -- a case is a line
    uses="""
        role=gate_reader UPDATE rls SET tenant = 1
        role=gate_reader SELECT count(*) FROM rls
        role=gate_reader INSERT INTO rls VALUES (9, 9)
        role=gate_reader ALTER TABLE rls ADD COLUMN z int
        UPDATE rls SET tenant = 3
        SET row_security = off; SELECT count(*) FROM rls
        role=gate_reader SET row_security = off; SELECT count(*) FROM rls
        role=gate_nobody SELECT count(*) FROM rls
        DROP POLICY rls_p ON rls
        DROP POLICY rls_r ON rls
        CREATE POLICY rls_p ON rls USING (true)
        ALTER POLICY rls_p ON rls USING (nope = 1)
        COPY rls TO '/tmp/gate_rls'
        ALTER TABLE rls DROP COLUMN tenant
        ALTER TABLE rls ALTER COLUMN tenant TYPE bigint
        INSERT INTO trg (id) VALUES (1)
        UPDATE trg SET a = 1
        UPDATE trg SET aa = 1
        DELETE FROM trg
        DROP TRIGGER trg_stamp ON trg
        DROP TRIGGER trg_9 ON trg
        DROP TRIGGER late ON trg
        CREATE TRIGGER trg_stamp BEFORE UPDATE ON trg FOR EACH ROW EXECUTE FUNCTION stamp()
        CREATE OR REPLACE TRIGGER trg_stamp BEFORE UPDATE ON trg FOR EACH ROW EXECUTE FUNCTION stamp()
        CREATE TRIGGER t9 BEFORE UPDATE OF nope ON trg FOR EACH ROW EXECUTE FUNCTION stamp()
        CREATE TRIGGER t9 INSTEAD OF UPDATE ON trg FOR EACH ROW EXECUTE FUNCTION stamp()
        CREATE TRIGGER t9 BEFORE TRUNCATE ON trg FOR EACH ROW EXECUTE FUNCTION stamp()
        CREATE TRIGGER t9 BEFORE INSERT ON trg WHEN (NEW.nope IS NULL) EXECUTE FUNCTION stamp()
        CREATE TRIGGER t9 BEFORE INSERT ON trg FOR EACH ROW WHEN (NEW.a > 3) EXECUTE FUNCTION stamp()
        CREATE TRIGGER t9 BEFORE INSERT ON trg FOR EACH ROW WHEN (OLD.a > 3) EXECUTE FUNCTION stamp()
        CREATE TRIGGER t9 AFTER INSERT ON trg FOR EACH ROW EXECUTE FUNCTION f(1)
        CREATE TRIGGER t9 AFTER INSERT ON p REFERENCING NEW TABLE AS n FOR EACH ROW EXECUTE FUNCTION stamp()
        SET CONSTRAINTS late IMMEDIATE; SELECT 'trg'
        SET CONSTRAINTS trg_stamp IMMEDIATE; SELECT 1
        ALTER TABLE trg ENABLE ALWAYS TRIGGER trg_stamp
        ALTER TABLE trg DROP COLUMN a
        ALTER TABLE trg ENABLE RULE trg_ru
        DROP RULE trg_ru ON trg
        CREATE RULE trg_ru AS ON UPDATE TO trg DO INSTEAD NOTHING
        CREATE RULE "_RETURN" AS ON SELECT TO trg DO INSTEAD SELECT 1
        CREATE RULE r9 AS ON INSERT TO trg WHERE NEW.nope > 1 DO INSTEAD NOTHING
        COMMENT ON RULE trg_ru ON trg IS 'x'
        COMMENT ON TRIGGER trg_9 ON trg IS 'x'
        MERGE INTO trg USING base ON trg.id = base.id WHEN MATCHED THEN UPDATE SET a = 1
        INSERT INTO trg (id) VALUES (1) ON CONFLICT (id) DO NOTHING
    """,
)

SERVER_ROLES = Group(
    name="roles and settings",
    thinned=True,
    kept=3,
    changes="""
        ALTER ROLE gate_nobody SET search_path = s1 -- ALTER ROLE gate_nobody RESET ALL
        ALTER ROLE gate_nobody NOINHERIT -- ALTER ROLE gate_nobody INHERIT
        ALTER ROLE gate_nobody CONNECTION LIMIT 0 -- ALTER ROLE gate_nobody CONNECTION LIMIT -1
        ALTER ROLE gate_nobody LOGIN -- ALTER ROLE gate_nobody NOLOGIN
        ALTER ROLE gate_nobody CREATEDB -- ALTER ROLE gate_nobody NOCREATEDB; DROP DATABASE IF EXISTS gate_db9
        ALTER ROLE gate_reader RENAME TO gate_new -- ALTER ROLE gate_new RENAME TO gate_reader
        CREATE ROLE gate_new IN ROLE gate_owner -- DROP OWNED BY gate_new; DROP ROLE gate_new
        CREATE ROLE gate_new ROLE gate_nobody; GRANT ALL ON t TO gate_new -- DROP OWNED BY gate_new; DROP ROLE gate_new
        CREATE ROLE gate_new; DROP ROLE gate_new
        CREATE ROLE gate_new; GRANT SELECT ON t TO gate_new -- DROP OWNED BY gate_new; DROP ROLE gate_new
        GRANT gate_owner TO gate_nobody WITH ADMIN OPTION -- REVOKE gate_owner FROM gate_nobody CASCADE
        GRANT gate_owner TO gate_nobody WITH SET FALSE -- REVOKE gate_owner FROM gate_nobody CASCADE
        GRANT SET ON PARAMETER log_statement TO gate_nobody -- REVOKE SET ON PARAMETER log_statement FROM gate_nobody
        GRANT ALTER SYSTEM ON PARAMETER work_mem TO gate_nobody -- REVOKE ALL ON PARAMETER work_mem FROM gate_nobody
        GRANT CREATE ON DATABASE gate_here TO gate_nobody
        GRANT CREATE ON TABLESPACE pg_default TO gate_nobody -- REVOKE CREATE ON TABLESPACE pg_default FROM gate_nobody
        GRANT EXECUTE ON FUNCTION pg_switch_wal() TO gate_nobody
        GRANT pg_monitor TO gate_nobody -- REVOKE pg_monitor FROM gate_nobody
        GRANT pg_signal_backend TO gate_nobody -- REVOKE pg_signal_backend FROM gate_nobody
        GRANT pg_write_server_files TO gate_nobody -- REVOKE pg_write_server_files FROM gate_nobody
        ALTER SYSTEM SET work_mem = '8MB' -- ALTER SYSTEM RESET work_mem
    """,
    uses="""
        role=gate_nobody SELECT id FROM a
        role=gate_nobody SELECT id FROM t
        role=gate_nobody SELECT tenant FROM own
        role=gate_nobody ALTER TABLE own ADD COLUMN z int
        role=gate_nobody SET ROLE gate_owner; SELECT tenant FROM own
        role=gate_nobody GRANT gate_owner TO gate_reader
        role=gate_new SELECT tenant FROM own
        role=gate_new SELECT id FROM t
        role=gate_reader SELECT id FROM t
        DROP ROLE gate_new
        DROP ROLE gate_reader
        DROP ROLE gate_missing
        DROP ROLE IF EXISTS gate_missing
        DROP ROLE gate_owner
        DROP OWNED BY gate_missing
        REASSIGN OWNED BY gate_missing TO gate_owner
        GRANT gate_missing TO gate_owner
        GRANT gate_owner TO gate_owner
        role=gate_nobody SET log_statement = 'none'; SELECT 1
        role=gate_nobody SET log_min_duration_statement = 5; SELECT 1
        role=gate_nobody ALTER SYSTEM SET work_mem = '8MB'
        role=gate_nobody CREATE SCHEMA mine
        role=gate_nobody CREATE DATABASE gate_db9
        role=gate_nobody CREATE PUBLICATION mine
        role=gate_nobody SELECT pg_switch_wal()
        role=gate_nobody COPY (SELECT 1) TO '/tmp/gate_mine'
        role=gate_nobody COPY (SELECT 1) TO PROGRAM 'cat >/dev/null'
        role=gate_nobody ALTER ROLE gate_reader NOLOGIN
        role=gate_nobody DROP ROLE gate_reader
        role=gate_nobody ALTER DATABASE gate_here SET work_mem = '8MB'
        role=gate_nobody ALTER ROLE gate_nobody SET work_mem = '8MB'
        role=gate_nobody SELECT pg_reload_conf()
        CREATE ROLE gate_reader
        CREATE ROLE pg_mine
        ALTER ROLE gate_missing LOGIN
        ALTER ROLE gate_reader RENAME TO gate_owner
        GRANT SET ON PARAMETER nonsense TO gate_reader
        COMMENT ON ROLE gate_missing IS 'x'
        SECURITY LABEL FOR nowhere ON TABLE t IS 'x'
        COMMENT ON DATABASE gate_missing IS 'x'
        COMMENT ON LARGE OBJECT 4711 IS 'x'
        COMMENT ON LANGUAGE nowhere IS 'x'
        COMMENT ON EXTENSION hstore IS 'x'
    """,
)

EXTENDED = Group(
    name="statistics and extensions",
    thinned=True,
    kept=2,
    changes="""
        CREATE STATISTICS st9 (ndistinct) ON b, c FROM t
        CREATE STATISTICS st9 ON (b + 1) FROM t
        ALTER STATISTICS st0 SET SCHEMA s1
        ALTER STATISTICS st0 OWNER TO gate_nobody
        ALTER TABLE t DROP COLUMN b
        ALTER TABLE t RENAME TO t9
        DROP STATISTICS IF EXISTS nope
        CREATE EXTENSION hstore
        CREATE EXTENSION hstore VERSION '1.4'
        CREATE EXTENSION IF NOT EXISTS hstore SCHEMA s1
        CREATE EXTENSION hstore; ALTER EXTENSION hstore SET SCHEMA s1
        CREATE EXTENSION hstore; ALTER EXTENSION hstore ADD TABLE victim
        CREATE EXTENSION earthdistance CASCADE
        CREATE EXTENSION hstore; DROP EXTENSION hstore
        CREATE EXTENSION hstore; CREATE TABLE fresh (h hstore)
        -
    """,
    uses="""
        DROP STATISTICS st0
        DROP STATISTICS s1.st0
        DROP STATISTICS st9
        ALTER STATISTICS st0 RENAME TO st9
        ALTER STATISTICS st0 SET STATISTICS 20000
        COMMENT ON STATISTICS st0 IS 'x'
        CREATE STATISTICS st0 ON id, b FROM t
        CREATE STATISTICS IF NOT EXISTS st0 ON id, b FROM t
        CREATE STATISTICS st8 (nonsense) ON id, b FROM t
        CREATE STATISTICS st8 (mcv) ON (b + 1), id FROM t
        CREATE STATISTICS st8 ON b, b FROM t
        CREATE STATISTICS st8 ON j, m FROM v
        CREATE STATISTICS st8 ON id, b FROM base
        SELECT 'a=>1'::hstore
        SELECT 'a=>1'::s1.hstore
        SELECT count(*) FROM fresh WHERE h ? 'a'; SELECT 'hstore'
        DROP EXTENSION hstore
        DROP EXTENSION hstore CASCADE
        DROP EXTENSION IF EXISTS hstore
        CREATE EXTENSION hstore
        CREATE EXTENSION IF NOT EXISTS hstore
        CREATE EXTENSION nonsense
        CREATE EXTENSION hstore VERSION '9.9'
        CREATE EXTENSION hstore SCHEMA nowhere
        CREATE EXTENSION earthdistance
        ALTER EXTENSION hstore UPDATE
        ALTER EXTENSION hstore UPDATE TO '1.8'
        ALTER EXTENSION hstore UPDATE TO '9.9'
        ALTER EXTENSION nonsense UPDATE
        ALTER EXTENSION hstore DROP TABLE victim
        DROP TABLE victim; SELECT 'hstore'
        DROP EXTENSION cube; SELECT 'earthdistance'
        SELECT cube(1); SELECT 'earthdistance'
        DROP EXTENSION plpgsql
        COMMENT ON EXTENSION hstore IS 'x'
        role=gate_nobody ALTER STATISTICS st0 RENAME TO mine
        role=gate_nobody DROP EXTENSION hstore
        CREATE TYPE hstore AS (a int)
    """,
)

SHADOWS = Group(
    name="search path",
    thinned=True,
    kept=2,
    changes="""
        CREATE TABLE s1.t (z int)
        CREATE VIEW s1.base AS SELECT 1 AS one
        CREATE FUNCTION s1.f(int) RETURNS text LANGUAGE sql AS 'SELECT ''x'''
        CREATE TYPE s1.mood AS ENUM ('shy')
        CREATE SEQUENCE s1.sq
        CREATE TABLE s1.fresh (id int); CREATE TABLE fresh (z int)
        DROP TABLE s1.a; CREATE TABLE a (id int, b int)
        DROP TABLE s1.a
        ALTER TABLE s1.a RENAME TO t
        ALTER TABLE t SET SCHEMA s1
        ALTER TABLE t SET SCHEMA s4; ALTER TABLE s4.t RENAME TO x9
        CREATE SCHEMA s2; CREATE TABLE s2.t (z int)
        DROP SCHEMA s1 CASCADE
        ALTER SCHEMA s1 RENAME TO s2
        CREATE TABLE s1.x (z int)
        DROP TABLE s4.x
        DO $$ BEGIN EXECUTE 'CREATE TABLE s1.t (z int)'; END $$
        -
    """,
    uses="""
        SET search_path = s1, public; SELECT b FROM t
        SET search_path = s1, public; SELECT z FROM t
        SET search_path = s1, public; UPDATE t SET b = 1
        SET search_path = s1, public; ALTER TABLE t ADD COLUMN q int
        SET search_path = s1, public; ALTER TABLE t DROP COLUMN b
        SET search_path = s1, public; DROP TABLE t
        SET search_path = s1, public; CREATE TABLE t (q int)
        SET search_path = s1, public; CREATE INDEX ON t (b)
        SET search_path = s1, public; INSERT INTO base (id) VALUES (9)
        SET search_path = s1, public; SELECT f(1) + 1
        SET search_path = s1, public; SELECT 'sad'::mood
        SET search_path = s1, public; SELECT 'shy'::mood
        SET search_path = s1, public; SELECT nextval('sq')
        SET search_path = s1, public; SELECT id FROM fresh
        SET search_path = public, s1; SELECT id FROM fresh
        SET search_path = s1, public; SELECT id FROM a
        SET search_path = public, s1; SELECT id FROM a
        SET search_path = public, s1; SELECT b FROM a
        SET search_path = public, s1; SELECT b FROM t
        SET search_path = s1, public; DROP TABLE a
        SET search_path = s2, public; SELECT b FROM t
        SET search_path = s2, s1; SELECT id FROM a
        SET search_path = s1, s4; SELECT id FROM x
        SET search_path = s4, s1; SELECT z FROM x
        SET search_path = s4, s1, public; DROP TABLE x
        SET search_path = s2; CREATE TABLE w (id int)
        SET search_path = s1, public; ANALYZE t (b)
        SET search_path = s1, public; COMMENT ON COLUMN t.b IS 'x'
        SET search_path = s1, public; TRUNCATE t
        SET search_path = s1, public; INSERT INTO t (id) VALUES (1) ON CONFLICT (id) DO NOTHING
    """,
)

SESSION = Group(
    name="settings of a step",
    together=True,
    changes="""
        SET TRANSACTION READ ONLY
        SET LOCAL transaction_read_only = on
        SET default_transaction_read_only = on
        SET TRANSACTION ISOLATION LEVEL SERIALIZABLE
        SELECT 1; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE
        SET default_table_access_method = nowhere
        SET default_tablespace = nowhere
        SET default_tablespace = pg_default
        SET check_function_bodies = off
        SET session_replication_role = replica
        SET standard_conforming_strings = off
        SET client_encoding = 'LATIN1'
        SET event_triggers = off
        SET allow_in_place_tablespaces = on
        SET row_security = off
        SET plpgsql.variable_conflict = use_column
        SET SESSION AUTHORIZATION gate_nobody
        SET LOCAL ROLE NONE
        SET LOCAL search_path TO DEFAULT
        SET lock_timeout = DEFAULT
        SET default_with_oids = on
        SET default_toast_compression = 'nope'
        SET temp_tablespaces = 'nowhere'
        SET datestyle = 'ISO, DMY'
        SET session_authorization = gate_reader
        SET is_superuser = on
        SET server_version = '3'
        SET statement_timeout = '1d'
        SET work_mem = '64kB'
        SET xmloption = document
        SET default_statistics_target = 100000
        SAVEPOINT s1; ROLLBACK TO s1
        PREPARE pre AS SELECT id FROM t
        SET CONSTRAINTS ALL DEFERRED
        CREATE TEMP TABLE w (id int)
        DISCARD PLANS
        LISTEN gate
        LOCK TABLE t
    """,
    uses="""
        UPDATE t SET b = 3 WHERE id = 1
        CREATE TABLE w (id int)
        CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT nope()'
        EXECUTE pre
        SELECT nextval('sq')
    """,
)

USERS = Group(
    name="users of a step",
    together=True,
    changes="""
        RESET ROLE
        SET ROLE NONE
        SET ROLE DEFAULT
        SET ROLE gate_owner
        SET LOCAL ROLE gate_owner
        SET ROLE gate_owner; RESET ROLE
        RESET ALL
        SET SESSION AUTHORIZATION gate_owner
        SET SESSION AUTHORIZATION gate_owner; RESET SESSION AUTHORIZATION
        SET SESSION AUTHORIZATION gate_owner; SET ROLE gate_reader
        SET search_path = s1; RESET search_path
        SET search_path = s1; RESET ALL
        SET search_path TO DEFAULT
    """,
    uses="""
        SELECT count(*) FROM own
        role=gate_reader SELECT count(*) FROM own
        role=gate_owner SELECT count(*) FROM own
        role=gate_reader SELECT count(*) FROM t
        role=gate_nobody CREATE TABLE w (id int)
        role=gate_nobody SELECT count(*) FROM a
    """,
)

DEFINITIONS = (DOMAINS, CLASSES, CALLED, POLICIES, SERVER_ROLES, EXTENDED, SHADOWS, SESSION, USERS)
