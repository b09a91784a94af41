"""Plan pairs for the dry run: a first step that changes something, and a second step that needs or loses it.

A group is a list of changes and a list of uses; every change is paired with every use of its group. The outcome is not
written here: each pair is run for real, and the dry run is compared with what happened.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.gate.cases import Case, Group
from tests.gate.catalogs import CATALOGS
from tests.gate.definitions import DEFINITIONS
from tests.gate.further import FURTHER

COLUMNS = Group(
    name="columns",
    changes="""
        ALTER TABLE t ADD COLUMN x int
        ALTER TABLE t ADD COLUMN x int NOT NULL DEFAULT 1, ADD COLUMN y text
        ALTER TABLE t DROP COLUMN b
        ALTER TABLE t DROP COLUMN IF EXISTS b CASCADE
        ALTER TABLE t RENAME COLUMN b TO x
        ALTER TABLE t RENAME b TO bb
        ALTER TABLE t ALTER COLUMN b TYPE text
        ALTER TABLE t ALTER COLUMN j TYPE jsonb USING j::jsonb
        ALTER TABLE t ALTER COLUMN b SET NOT NULL
        ALTER TABLE t ALTER COLUMN b SET DEFAULT 3
        ALTER TABLE t ALTER COLUMN b ADD GENERATED ALWAYS AS IDENTITY
        ALTER TABLE t ADD COLUMN x int GENERATED ALWAYS AS (id + 1) STORED
        ALTER TABLE t SET (fillfactor = 80)
        ALTER TABLE t RENAME TO t2
        DROP TABLE t
        DO $$ BEGIN ALTER TABLE t RENAME COLUMN b TO x; END $$
    """,
    uses="""
        SELECT b FROM t
        SELECT t.b FROM t WHERE t.b > 1 ORDER BY 1
        SELECT count(*) FROM t WHERE x = 1
        UPDATE t SET b = 1
        UPDATE t SET x = 1
        INSERT INTO t (id, b) VALUES (100, 1)
        INSERT INTO t (id, x) VALUES (100, 1)
        INSERT INTO t VALUES (100, 1, 'z')
        DELETE FROM t WHERE b = 1
        UPDATE t SET j = NULL WHERE j ? 'k'
        SELECT j || 'x' FROM t
        SELECT b + 1 FROM t
        SELECT length(b) FROM t
        CREATE INDEX t_x ON t (x)
        CREATE INDEX t_b2 ON t (b)
        CREATE VIEW w AS SELECT b FROM t
        CREATE TABLE w AS SELECT x FROM t
        ALTER TABLE t DROP COLUMN b
        ALTER TABLE t DROP COLUMN x
        ALTER TABLE t ADD COLUMN x int
        ALTER TABLE t ALTER COLUMN x SET NOT NULL
        ALTER TABLE t ALTER COLUMN b DROP DEFAULT
        ALTER TABLE t ADD CONSTRAINT t_x CHECK (x > 0)
        ALTER TABLE t ADD CONSTRAINT t_b3 CHECK (b > 0) NOT VALID
        ALTER TABLE t RENAME COLUMN b TO b9
        ALTER TABLE t ADD UNIQUE (x)
        ANALYZE t (b)
        COMMENT ON COLUMN t.b IS 'b'
        MERGE INTO t USING base ON t.id = base.id WHEN MATCHED THEN UPDATE SET b = 1
    """,
)

KEYS = Group(
    name="keys",
    changes="""
        CREATE UNIQUE INDEX CONCURRENTLY t_bu ON t (b)
        CREATE UNIQUE INDEX t_bu ON t (b) WHERE b > 0
        ALTER TABLE t ADD CONSTRAINT t_bu UNIQUE (b)
        ALTER TABLE t ADD CONSTRAINT t_bu UNIQUE (b) DEFERRABLE
        ALTER TABLE t ADD COLUMN x int UNIQUE
        DROP INDEX t_c
        DROP INDEX CONCURRENTLY t_c
        ALTER TABLE t DROP CONSTRAINT t_pkey
        ALTER TABLE t ADD CONSTRAINT t_cu UNIQUE USING INDEX t_c
        ALTER INDEX t_c RENAME TO t_c9
        ALTER TABLE t RENAME CONSTRAINT t_pkey TO t_key
        ALTER TABLE t DROP COLUMN c
        ALTER TABLE t VALIDATE CONSTRAINT t_check
        ALTER TABLE t DROP CONSTRAINT t_check
        ALTER TABLE t ADD CONSTRAINT t_ex EXCLUDE USING btree (b WITH =)
    """,
    uses="""
        INSERT INTO t (id, b) VALUES (1, 1) ON CONFLICT (b) DO NOTHING
        INSERT INTO t (id, c) VALUES (1, 'c1') ON CONFLICT (c) DO NOTHING
        INSERT INTO t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET m = 'ok'
        INSERT INTO t (id, b) VALUES (1, 1) ON CONFLICT ON CONSTRAINT t_bu DO NOTHING
        INSERT INTO t (id) VALUES (1) ON CONFLICT ON CONSTRAINT t_pkey DO NOTHING
        INSERT INTO t (id) VALUES (1) ON CONFLICT DO NOTHING
        INSERT INTO t (id, b) VALUES (1, 1) ON CONFLICT (b) WHERE b > 0 DO NOTHING
        CREATE TABLE ref (t_b int REFERENCES t (b))
        CREATE TABLE ref (t_id int REFERENCES t)
        ALTER TABLE child ADD FOREIGN KEY (id) REFERENCES t (id) NOT VALID
        ALTER TABLE t REPLICA IDENTITY USING INDEX t_c
        ALTER TABLE t ADD CONSTRAINT t_cu9 UNIQUE USING INDEX t_c
        ALTER TABLE t CLUSTER ON t_c
        CLUSTER t USING t_c
        REINDEX INDEX t_c
        DROP INDEX t_c
        ALTER TABLE t DROP CONSTRAINT t_check
        ALTER TABLE t ADD CONSTRAINT t_check CHECK (b >= 0)
        CREATE INDEX t_bu ON t (b)
        ALTER TABLE t ADD PRIMARY KEY (id)
        SELECT b, c FROM t GROUP BY id
    """,
)

TYPES = Group(
    name="types",
    changes="""
        ALTER TYPE mood ADD VALUE 'shy'
        ALTER TYPE mood RENAME VALUE 'sad' TO 'shy'
        ALTER TYPE mood RENAME TO humour
        DROP TYPE pair
        CREATE TYPE humour AS ENUM ('shy')
        CREATE DOMAIN humour AS text
        CREATE TYPE humour AS (x int)
        ALTER TYPE pair ADD ATTRIBUTE z int
        ALTER TYPE pair RENAME ATTRIBUTE x TO z
        ALTER DOMAIN positive DROP CONSTRAINT positive_check
        ALTER DOMAIN positive ADD CONSTRAINT small CHECK (VALUE < 100)
        DROP DOMAIN IF EXISTS positive CASCADE
        ALTER TYPE mood SET SCHEMA s1
        CREATE CAST (text AS mood) WITH INOUT AS ASSIGNMENT
    """,
    uses="""
        UPDATE t SET m = 'shy' WHERE id = 1
        SELECT 'shy'::mood
        SELECT 'sad'::mood
        SELECT 'shy'::humour
        SELECT count(*) FROM t WHERE m = 'sad'
        SELECT (1, 2)::pair
        SELECT ((1, 2)::pair).x
        SELECT ((1, 2, 3)::pair).z
        INSERT INTO t (id, d) VALUES (50, -1)
        SELECT 3::positive
        UPDATE t SET m = c WHERE false
        CREATE TABLE w (h humour)
        CREATE TABLE w (h mood DEFAULT 'shy')
        ALTER TABLE t ADD COLUMN h humour
        CREATE FUNCTION g(mood) RETURNS int LANGUAGE sql AS 'SELECT 1'
        DROP TYPE pair
        DROP TYPE humour
        ALTER TYPE mood ADD VALUE 'shy'
        ALTER TYPE mood RENAME VALUE 'sad' TO 'sorry'
        CREATE TYPE pair AS (a int)
    """,
)

ENUMS = Group(
    name="one transaction",
    together=True,
    changes="""
        ALTER TYPE mood ADD VALUE 'shy'
        ALTER TYPE mood ADD VALUE IF NOT EXISTS 'shy'
        ALTER TYPE mood RENAME VALUE 'ok' TO 'shy'
        CREATE TYPE humour AS ENUM ('a'); ALTER TYPE humour ADD VALUE 'shy'
        ALTER TABLE t ADD COLUMN x int
        CREATE TABLE fresh (id int PRIMARY KEY, m mood)
        CREATE UNIQUE INDEX t_bu ON t (b)
        DROP INDEX t_c
    """,
    uses="""
        UPDATE t SET m = 'shy' WHERE id = 1
        CREATE TABLE w (m mood DEFAULT 'shy')
        ALTER TABLE t ALTER COLUMN m SET DEFAULT 'shy'
        ALTER TABLE t ADD COLUMN m2 mood DEFAULT 'shy'
        SELECT 'shy'::text
        UPDATE t SET c = 'shy' WHERE id = 1
        SELECT 'shy'::humour
        UPDATE t SET x = 1
        INSERT INTO fresh VALUES (1, 'ok') ON CONFLICT (id) DO NOTHING
        INSERT INTO t (id, b) VALUES (1, 1) ON CONFLICT (b) DO NOTHING
        INSERT INTO t (id, c) VALUES (1, 'c1') ON CONFLICT (c) DO NOTHING
    """,
)

FUNCTIONS = Group(
    name="functions",
    changes="""
        CREATE FUNCTION g(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'
        CREATE FUNCTION f(text) RETURNS text LANGUAGE sql AS 'SELECT $1'
        CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1'
        DROP FUNCTION f(int)
        DROP FUNCTION f
        ALTER FUNCTION f(int) RENAME TO g
        ALTER FUNCTION f(int) SET SCHEMA s1
        CREATE PROCEDURE g(int) LANGUAGE sql AS 'SELECT 1'
        CREATE AGGREGATE g(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0')
        CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)
        CREATE EXTENSION pg_trgm
        CREATE FUNCTION tg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'
        DROP SEQUENCE sq
        CREATE SEQUENCE sq2
    """,
    uses="""
        SELECT f(1)
        SELECT f('a'::text)
        SELECT g(1)
        SELECT g(id) FROM t GROUP BY id
        SELECT s1.f(1)
        CALL g(1)
        SELECT 1 === 1
        SELECT similarity('a', 'b')
        CREATE INDEX t_f ON t (f(b))
        CREATE INDEX t_g ON t (g(b))
        CREATE INDEX t_trgm ON t USING gin (c gin_trgm_ops)
        DROP FUNCTION f(int)
        DROP FUNCTION g(int)
        CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION tg()
        CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 2'
        ALTER FUNCTION f(int) STABLE
        COMMENT ON FUNCTION f(int) IS 'f'
        SELECT nextval('sq')
        SELECT nextval('sq2')
        ALTER SEQUENCE sq RESTART
        GRANT EXECUTE ON FUNCTION f(int) TO gate_reader
    """,
)

RIGHTS = Group(
    name="rights",
    changes="""
        GRANT SELECT ON t TO gate_nobody
        GRANT ALL ON t TO gate_nobody
        GRANT SELECT (id) ON t TO gate_nobody
        GRANT ALL ON ALL TABLES IN SCHEMA public TO gate_nobody
        GRANT gate_owner TO gate_nobody -- REVOKE gate_owner FROM gate_nobody
        GRANT gate_reader TO gate_nobody -- REVOKE gate_reader FROM gate_nobody
        ALTER TABLE t OWNER TO gate_nobody
        REVOKE SELECT ON t FROM gate_reader
        REVOKE ALL ON ALL TABLES IN SCHEMA public FROM gate_reader
        ALTER ROLE gate_nobody SUPERUSER -- ALTER ROLE gate_nobody NOSUPERUSER
        ALTER ROLE gate_nobody BYPASSRLS -- ALTER ROLE gate_nobody NOBYPASSRLS
        ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO gate_nobody
        GRANT CREATE ON SCHEMA public TO gate_nobody
        GRANT USAGE ON SCHEMA s1 TO gate_nobody
        REASSIGN OWNED BY gate_owner TO gate_nobody
        GRANT pg_read_all_data TO gate_nobody -- REVOKE pg_read_all_data FROM gate_nobody
        DO $$ BEGIN EXECUTE 'GRANT ALL ON t TO gate_nobody'; END $$
    """,
    uses="""
        role=gate_nobody SELECT count(id) FROM t
        role=gate_nobody SELECT count(*) FROM t
        role=gate_nobody UPDATE t SET b = 1 WHERE id = 1
        role=gate_nobody TRUNCATE t
        role=gate_nobody VACUUM t
        role=gate_nobody ALTER TABLE t SET (fillfactor = 90)
        role=gate_nobody DROP TABLE t
        role=gate_nobody CREATE TABLE w (id int)
        role=gate_nobody CREATE INDEX w ON t (b)
        role=gate_nobody SELECT count(*) FROM s1.a
        role=gate_nobody ALTER TABLE own ADD COLUMN z int
        role=gate_nobody LOCK TABLE t; SELECT 1
        role=gate_reader SELECT count(*) FROM t
        role=gate_owner SELECT count(*) FROM own
        role=gate_owner ALTER TABLE own ADD COLUMN z int
        role=gate_nobody COPY t TO '/tmp/gate_out'
    """,
)

ROLE_CHANGES = Group(
    name="roles",
    changes="""
        CREATE ROLE gate_new -- DROP OWNED BY gate_new; DROP ROLE gate_new
        CREATE ROLE gate_new SUPERUSER -- DROP OWNED BY gate_new; DROP ROLE gate_new
        -
    """,
    uses="""
        role=gate_new SELECT 1
        role=gate_new SELECT count(*) FROM t
        GRANT SELECT ON t TO gate_new
        ALTER TABLE t OWNER TO gate_new
        SET ROLE gate_new; SELECT 1
        ALTER ROLE gate_new NOLOGIN
        CREATE POLICY pol ON t TO gate_new USING (true)
        CREATE SCHEMA AUTHORIZATION gate_new
        GRANT gate_reader TO gate_new
    """,
)

NAMES = Group(
    name="names",
    changes="""
        CREATE TABLE fresh (id int PRIMARY KEY)
        CREATE TABLE IF NOT EXISTS t (z int)
        CREATE VIEW fresh AS SELECT 1 AS id
        CREATE SCHEMA s2
        CREATE SCHEMA s2 CREATE TABLE fresh (id int) CREATE VIEW w AS SELECT id FROM fresh
        DROP TABLE t
        DROP TABLE base CASCADE
        DROP VIEW v
        DROP SCHEMA s1 CASCADE
        ALTER SCHEMA s1 RENAME TO s2
        ALTER TABLE t RENAME TO fresh
        ALTER TABLE t SET SCHEMA s1
        ALTER TABLE child DROP CONSTRAINT child_fk
        DROP TABLE child
        ALTER VIEW v RENAME TO fresh
        CREATE OR REPLACE VIEW v AS SELECT id, b, 1 AS x FROM base
        SELECT * INTO fresh FROM t
        CREATE TABLE fresh (LIKE t INCLUDING ALL)
        CREATE TABLE fresh (id int) INHERITS (base)
        DROP TABLE parent CASCADE
    """,
    uses="""
        SELECT id FROM fresh
        SELECT id FROM t
        SELECT id FROM s1.a
        SELECT id FROM s2.fresh
        SELECT id FROM s1.t
        SELECT id FROM v
        SELECT x FROM v
        INSERT INTO base VALUES (1, 1)
        DROP TABLE base
        DROP TABLE parent
        DROP TABLE t
        DROP VIEW v
        TRUNCATE parent
        CREATE TABLE t (id int)
        CREATE TABLE fresh (id int)
        CREATE TABLE s2.n (id int)
        CREATE TABLE s1.n (id int)
        CREATE SCHEMA s2
        DROP SCHEMA s1
        DROP SCHEMA s1 CASCADE
        CREATE OR REPLACE VIEW v AS SELECT id FROM base
        ALTER TABLE t RENAME TO old
        ANALYZE fresh
        INSERT INTO child VALUES (1, 99)
        CREATE INDEX ON fresh (id)
    """,
)

PARTITIONS = Group(
    name="partitions",
    changes="""
        ALTER TABLE p DETACH PARTITION p_default
        ALTER TABLE p DETACH PARTITION p_1
        ALTER TABLE p ATTACH PARTITION p_new FOR VALUES FROM ('2025-01-01') TO ('2025-02-01')
        CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM ('2025-03-01') TO ('2025-04-01')
        DROP TABLE p_default
        DROP TABLE p_1
        ALTER TABLE p ADD COLUMN x int
        DROP INDEX p_at
        ALTER TABLE p_1 RENAME TO p_2
        -
    """,
    uses="""
        ALTER TABLE p DETACH PARTITION p_1 CONCURRENTLY
        ALTER TABLE p DETACH PARTITION p_1
        ALTER TABLE p DETACH PARTITION p_new
        ALTER TABLE p DETACH PARTITION p_2 CONCURRENTLY
        ALTER TABLE p ATTACH PARTITION p_1 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')
        ALTER TABLE p ATTACH PARTITION p_new FOR VALUES FROM ('2025-01-01') TO ('2025-02-01')
        DROP TABLE p_1
        DROP TABLE p_new
        INSERT INTO p VALUES (1, '2024-01-05')
        SELECT x FROM p
        SELECT x FROM p_1
        CREATE INDEX CONCURRENTLY px ON p (id)
        CREATE INDEX px ON p (id)
        REINDEX TABLE p
        VACUUM p
        DROP INDEX p_1_at_idx
        TRUNCATE p_1
        ALTER TABLE p ADD PRIMARY KEY (id)
        CREATE UNIQUE INDEX ON p_1 (id)
    """,
)

UPKEEP = Group(
    name="upkeep",
    changes="""
        -
        REFRESH MATERIALIZED VIEW mv
        REFRESH MATERIALIZED VIEW mf WITH NO DATA
        CREATE UNIQUE INDEX mf_a ON mf (a)
        DROP INDEX mv_a
        CLUSTER t USING t_b
        ALTER TABLE t CLUSTER ON t_b
        ALTER TABLE t SET WITHOUT CLUSTER
        ALTER TABLE t ENABLE ROW LEVEL SECURITY
        CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION notes()
        CREATE POLICY pol ON t USING (true)
        CREATE RULE ru AS ON INSERT TO t DO NOTHING
        CREATE STATISTICS st ON b, c FROM t
    """,
    uses="""
        REFRESH MATERIALIZED VIEW CONCURRENTLY mv
        REFRESH MATERIALIZED VIEW CONCURRENTLY mf
        SELECT a FROM mv
        SELECT a FROM mf
        CLUSTER t
        CLUSTER t USING nope
        VACUUM (FULL) t
        REINDEX TABLE CONCURRENTLY t
        DROP TRIGGER tr ON t
        ALTER TABLE t DISABLE TRIGGER tr
        DROP POLICY pol ON t
        CREATE POLICY pol ON t USING (true)
        DROP RULE ru ON t
        DROP STATISTICS st
        CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION notes()
    """,
)

OBJECTS = Group(
    name="objects",
    changes="""
        CREATE COLLATION german FROM "C"
        CREATE OPERATOR CLASS int_ops2 FOR TYPE int USING btree AS OPERATOR 3 =, FUNCTION 1 btint4cmp(int, int)
        CREATE FOREIGN DATA WRAPPER fdw
        CREATE FOREIGN DATA WRAPPER fdw; CREATE SERVER srv FOREIGN DATA WRAPPER fdw
        CREATE PUBLICATION pub FOR TABLE t
        CREATE TEXT SEARCH CONFIGURATION conf (COPY = simple)
        CREATE CAST (int AS mood) WITH FUNCTION f(int)
        CREATE EXTENSION hstore
        -
    """,
    uses="""
        SELECT c COLLATE german FROM t
        CREATE INDEX tc ON t (c COLLATE german)
        CREATE TABLE w (c text COLLATE german)
        CREATE INDEX ti ON t (b int_ops2)
        CREATE SERVER srv FOREIGN DATA WRAPPER fdw
        CREATE FOREIGN TABLE ft (id int) SERVER srv
        CREATE USER MAPPING FOR CURRENT_USER SERVER srv
        ALTER PUBLICATION pub ADD TABLE base
        DROP PUBLICATION pub
        SELECT to_tsvector('conf', c) FROM t
        SELECT 'a=>1'::hstore -> 'a'
        CREATE TABLE w (h hstore)
        DROP EXTENSION hstore
        DROP COLLATION german
    """,
)

SETTINGS = Group(
    name="settings",
    together=True,
    changes="""
        SET search_path = s1
        SELECT set_config('search_path', 's1', true)
        SELECT set_config('search_path', quote_ident('s' || 1) || ', public', true)
        SET LOCAL search_path = nowhere
        SET search_path = ''
        SELECT pg_catalog.set_config('search_path', '', true)
        SELECT set_config('role', 'gate_' || 'reader', true)
        SET ROLE gate_owner
        SET row_security = off
        CREATE TEMP TABLE a (id int)
        CREATE TEMP TABLE t (z int)
    """,
    uses="""
        SELECT id FROM a
        SELECT id FROM t
        INSERT INTO a VALUES (1)
        UPDATE own SET tenant = 2
        CREATE TABLE w (id int)
        SELECT f(1)
        SELECT 'sad'::mood
        ANALYZE a
        ALTER TABLE a ADD COLUMN z int
    """,
)

OPAQUE = Group(
    name="opaque",
    changes="""
        DO $$ BEGIN EXECUTE 'CREATE TABLE fresh (id int, b int); CREATE TYPE humour AS ENUM (''shy'')'; END $$
        DO $$ BEGIN EXECUTE 'DROP TABLE base CASCADE; CREATE TABLE base (z int)'; END $$
        DO $$ BEGIN EXECUTE 'REFRESH MATERIALIZED VIEW mv; ALTER TABLE p DETACH PARTITION p_default'; END $$
        DO $$ BEGIN EXECUTE 'CREATE UNIQUE INDEX t_bu ON t (b)'; END $$
        DO $$ BEGIN EXECUTE 'ALTER TABLE child DROP CONSTRAINT child_fk'; END $$
        DO $$ BEGIN EXECUTE 'CREATE ROLE gate_new'; END $$ -- DROP ROLE gate_new
        DO $$ BEGIN EXECUTE 'DROP TABLE t; CREATE VIEW t AS SELECT 1 AS id'; END $$
    """,
    uses="""
        SELECT id FROM fresh
        SELECT 'shy'::humour
        INSERT INTO base (z) VALUES (1)
        CREATE TABLE t (id int)
        CREATE INDEX ON fresh (id)
        REFRESH MATERIALIZED VIEW CONCURRENTLY mv
        ALTER TABLE p DETACH PARTITION p_1 CONCURRENTLY
        INSERT INTO t (id, b) VALUES (1, 1) ON CONFLICT (b) DO NOTHING
        DROP TABLE parent
        role=gate_new SELECT 1
        DROP VIEW t
        ALTER TABLE base DROP COLUMN z
    """,
)

ALONE = Group(
    name="alone",
    changes="-",
    uses="""
        REINDEX SYSTEM CONCURRENTLY gate_here
        REINDEX DATABASE CONCURRENTLY otherdb
        REINDEX DATABASE otherdb
        REINDEX SYSTEM otherdb
        REINDEX SCHEMA nowhere
        REINDEX SCHEMA s1
        REINDEX TABLE CONCURRENTLY pg_class
        REINDEX INDEX CONCURRENTLY pg_class_oid_index
        REINDEX TABLE pg_class
        CLUSTER t
        CLUSTER t USING nowhere
        CLUSTER t USING mv_a
        CLUSTER p USING p_at
        CLUSTER p
        VACUUM (nonsense) t
        VACUUM (FULL, PARALLEL 2) t
        VACUUM (FULL, DISABLE_PAGE_SKIPPING) t
        VACUUM (PARALLEL 5000) t
        VACUUM (INDEX_CLEANUP maybe) t
        VACUUM (ONLY_DATABASE_STATS) t
        VACUUM (BUFFER_USAGE_LIMIT '1GB') t
        VACUUM (BUFFER_USAGE_LIMIT 'much') t
        ANALYZE (SKIP_LOCKED, VERBOSE) t
        ANALYZE t (nope)
        VACUUM t (b)
        VACUUM (ANALYZE) t (b)
        VACUUM v
        ANALYZE v
        DROP INDEX p_1_at_idx
        DROP INDEX CONCURRENTLY p_at
        DROP INDEX t_pkey
        DROP INDEX t
        DROP TABLE v
        DROP VIEW t
        CREATE OR REPLACE VIEW v AS SELECT id FROM base
        CREATE OR REPLACE VIEW v AS SELECT id, b, 3 AS more FROM base
        CREATE OR REPLACE VIEW v AS SELECT id AS x, b FROM base
        CREATE OR REPLACE VIEW t AS SELECT 1 AS id
        ALTER TABLE t SET (fillfactor = 5)
        ALTER TABLE t SET (fillfactor = 50)
        ALTER TABLE t SET (nonsense = 1)
        ALTER TABLE t SET (autovacuum_enabled = off)
        ALTER TABLE t SET (autovacuum_vacuum_scale_factor = 500)
        ALTER TABLE t SET (toast.autovacuum_enabled = off)
        ALTER TABLE t RESET (fillfactor)
        ALTER INDEX t_b SET (fillfactor = 101)
        ALTER INDEX t_b SET (fillfactor = 70)
        ALTER INDEX t_b SET (fastupdate = off)
        CREATE INDEX ix ON t USING gist (b) WITH (buffering = off)
        CREATE INDEX ix ON t (b) WITH (fillfactor = 1)
        CREATE INDEX ix ON t USING hash (b) WITH (fillfactor = 60)
        CREATE INDEX ix ON t USING brin (b) WITH (pages_per_range = 4, autosummarize = on)
        CREATE INDEX ix ON t USING nowhere (b)
        CREATE TABLE w (id int) WITH (autovacuum_enabled = off, fillfactor = 70)
        CREATE TABLE w (id int) WITH (fillfactor = 7000)
        CREATE TABLE w (id int) WITH (buffering = off)
        ALTER TABLE v ADD COLUMN z int
        ALTER VIEW v SET (security_barrier = on)
        ALTER VIEW v SET (fillfactor = 50)
        ALTER TABLE mv ADD COLUMN z int
        ALTER TABLE t ALTER CONSTRAINT t_pkey DEFERRABLE
        ALTER TABLE child ALTER CONSTRAINT child_fk DEFERRABLE INITIALLY DEFERRED
        ALTER TABLE child ALTER CONSTRAINT nope DEFERRABLE
        CREATE SCHEMA s3 CREATE TABLE a3 (id int) CREATE VIEW v3 AS SELECT id FROM a3
        ALTER TABLE t ADD COLUMN x int, ALTER COLUMN x SET DEFAULT 3
        ALTER TABLE t ADD COLUMN x int, ADD CONSTRAINT xu UNIQUE (x)
        ALTER TABLE t DROP COLUMN b, ADD COLUMN b text
        ALTER TABLE t ADD CONSTRAINT c9 CHECK (b > -1), VALIDATE CONSTRAINT c9
        ALTER TABLE t DROP CONSTRAINT t_check, ADD CONSTRAINT t_check CHECK (b > -1)
        ALTER TABLE t ADD COLUMN x int, DROP COLUMN x
        CREATE SEQUENCE sq3 OWNED BY t.id
        CREATE SEQUENCE sq3 OWNED BY t.nope
        CREATE SEQUENCE sq3 OWNED BY NONE
        ALTER SEQUENCE sq OWNED BY t.b
        CREATE TABLE kid (CONSTRAINT t_check CHECK (b >= 0)) INHERITS (t)
        CREATE TABLE kid (b int) INHERITS (base)
        CREATE TABLE kid (b text) INHERITS (base)
        ALTER TABLE p ADD FOREIGN KEY (id) REFERENCES parent NOT VALID
        ALTER TABLE p SET ACCESS METHOD heap
        CREATE INDEX CONCURRENTLY px ON p (id)
        CREATE INDEX px ON ONLY p (id)
        CHECKPOINT
        role=gate_nobody CHECKPOINT
        role=gate_nobody REINDEX SCHEMA s1
        role=gate_nobody REINDEX SCHEMA public
        role=gate_nobody REINDEX DATABASE gate_here
        role=gate_nobody CREATE SCHEMA s9
        role=gate_nobody CREATE EXTENSION hstore
        role=gate_nobody CREATE DATABASE gate_db9
        role=gate_nobody CREATE ROLE gate_r9
        role=gate_nobody ALTER SYSTEM SET work_mem = '4MB'
        role=gate_nobody VACUUM
        role=gate_nobody ANALYZE
        role=gate_owner REFRESH MATERIALIZED VIEW mf
        role=gate_owner ALTER TABLE own SET (fillfactor = 90)
        role=gate_owner REINDEX TABLE own
        role=gate_missing ANALYZE t
        EXPLAIN (GENERIC_PLAN) SELECT $1::int
        EXPLAIN (nonsense) SELECT 1
        SET transaction_timeout = '5min'; SELECT 1
        SET nonsense = 1
        GRANT MAINTAIN ON t TO gate_reader
        GRANT NONSENSE ON t TO gate_reader
        GRANT SELECT ON nowhere TO gate_reader
        COMMENT ON TABLE t IS 'x'
        COMMENT ON COLUMN t.nope IS 'x'
        COMMENT ON INDEX t_b IS 'x'
        DO $$ BEGIN COMMIT; END $$
        DO $$ BEGIN BEGIN COMMIT; EXCEPTION WHEN OTHERS THEN RAISE; END; END $$
        DO $$ BEGIN BEGIN UPDATE t SET b = 1; COMMIT; EXCEPTION WHEN division_by_zero THEN NULL; END; END $$
        DO $$ BEGIN BEGIN UPDATE t SET b = 1; EXCEPTION WHEN division_by_zero THEN NULL; END; COMMIT; END $$
        DROP TABLE parent
        DROP TABLE parent, child
        DROP TABLE IF EXISTS nowhere
        DROP TABLE base
        TRUNCATE parent
        TRUNCATE parent, child
        ALTER TABLE t ADD CONSTRAINT t_id CHECK (nope > 0)
        ALTER TABLE t ALTER COLUMN b SET DATA TYPE nowhere
        ALTER TABLE t ALTER COLUMN c TYPE int
        ALTER TABLE t INHERIT nowhere
        CREATE TABLE w (id int REFERENCES nowhere)
        CREATE TABLE w (id int REFERENCES v)
        CREATE TABLE w (id int, CHECK (nope > 0))
        CREATE TABLE w PARTITION OF t FOR VALUES IN (1)
        CREATE STATISTICS st ON b FROM t
        CREATE STATISTICS st ON nope, b FROM t
        CREATE TRIGGER tr AFTER UPDATE OF nope ON t FOR EACH ROW EXECUTE FUNCTION notes()
        CREATE RULE ru AS ON UPDATE TO nowhere DO NOTHING
        CREATE POLICY pol ON v USING (true)
        CREATE VIEW w AS SELECT nope FROM t
        COPY t (nope) TO '/tmp/gate_copy'
        COPY t TO '/tmp/gate_copy' (nonsense)
        ALTER INDEX t_b RENAME TO t_c
        ALTER TABLE t RENAME TO base
        ALTER SEQUENCE sq RESTART WITH 5
        ALTER SEQUENCE t RESTART
        LOCK TABLE v IN SHARE MODE; SELECT 1
        INSERT INTO v VALUES (5, 5)
        REFRESH MATERIALIZED VIEW v
        SECURITY LABEL ON TABLE t IS 'x'
        NOTIFY gate
        ALTER TYPE mood ADD VALUE 'sad'
        ALTER TYPE mood ADD VALUE IF NOT EXISTS 'sad'
        ALTER TYPE mood ADD VALUE 'new' BEFORE 'nope'
        DROP TYPE mood
        DROP FUNCTION notes()
        DROP FUNCTION f(text)
        DROP SEQUENCE sq
        ALTER DOMAIN positive DROP CONSTRAINT nope
        CREATE DOMAIN w AS nowhere
        CREATE PUBLICATION pub FOR TABLE nowhere
        CREATE PUBLICATION pub FOR TABLE v
        ALTER TABLE p SET UNLOGGED
        ALTER TABLE t SET ACCESS METHOD nowhere
        CREATE TABLE w (id int) USING nowhere
        CREATE TABLE w (id int) USING heap
        ALTER TABLE t ADD COLUMN x int GENERATED ALWAYS AS (random()) STORED
        ALTER TABLE t ADD COLUMN x int DEFAULT b
        ALTER TABLE t ADD COLUMN x int DEFAULT 3
        ALTER TABLE t ADD COLUMN x int REFERENCES parent (nope)
        ALTER TABLE t ADD COLUMN x int REFERENCES t (b)
        ALTER TABLE t ADD CONSTRAINT x UNIQUE USING INDEX t_b
        ALTER TABLE t ADD CONSTRAINT x UNIQUE USING INDEX t_c
        CREATE TABLE w (id int, id text)
        CREATE TABLE w (id int PRIMARY KEY, PRIMARY KEY (id))
        CREATE TABLE w (x, y) AS SELECT id FROM t
        CREATE TABLE w (x) AS SELECT id, b FROM t WITH NO DATA
        CREATE TABLE w AS SELECT id, id FROM t
        CREATE TABLE w AS TABLE t WITH DATA
        CREATE VIEW w AS SELECT id, id FROM t
        CREATE VIEW w (x, y) AS SELECT id, id FROM t
        CREATE VIEW w (x, y, z) AS SELECT id, b FROM t
        CREATE VIEW w AS SELECT 1 AS x WITH CHECK OPTION
        CREATE VIEW w AS SELECT id FROM t WITH CHECK OPTION
        CREATE MATERIALIZED VIEW w AS SELECT id, id FROM t
        CREATE SCHEMA pg_mine
        SELECT currval('sq')
        role=gate_nobody SELECT nextval('sq')
    """,
)

CHILDREN = Group(
    name="children",
    changes="""
        ALTER TABLE kid NO INHERIT par
        ALTER TABLE par ADD COLUMN z int
        ALTER TABLE par DROP COLUMN a
        ALTER TABLE par RENAME COLUMN a TO aa
        ALTER TABLE par DROP CONSTRAINT pos
        ALTER TABLE orphan ADD CONSTRAINT pos CHECK (a > 0), ALTER b SET NOT NULL
        DROP TABLE rowed
        DROP FUNCTION of_shape(shape)
        -
    """,
    uses="""
        ALTER TABLE kid DROP CONSTRAINT pos
        ALTER TABLE kid ADD CONSTRAINT pos CHECK (a > 0)
        ALTER TABLE kid ADD CONSTRAINT pos CHECK (a > 1)
        ALTER TABLE kid ADD COLUMN z int
        ALTER TABLE kid RENAME COLUMN a TO aa
        SELECT a FROM kid
        SELECT z FROM kid
        ALTER TABLE orphan INHERIT par
        ALTER TABLE ONLY par ADD COLUMN q int
        ALTER TABLE ONLY p DROP COLUMN id
        CREATE TABLE other (a int, CONSTRAINT pos CHECK (a > 0)) INHERITS (par)
        CREATE TABLE other (CONSTRAINT pos CHECK (a > 9)) INHERITS (par)
        DROP TABLE par
        DROP TABLE par, kid
        DROP TABLE par CASCADE
        DROP TABLE model
        DROP TABLE model CASCADE
        DROP TABLE shape
        TRUNCATE par
    """,
)

GROUPS = (
    *(COLUMNS, KEYS, TYPES, ENUMS, FUNCTIONS, RIGHTS, ROLE_CHANGES, NAMES, PARTITIONS, UPKEEP, OBJECTS, SETTINGS),
    *(OPAQUE, ALONE, CHILDREN),
    *FURTHER,
    *CATALOGS,
    *DEFINITIONS,
)


def every_case() -> tuple[Case, ...]:
    """Return all cases, in order."""
    return tuple(case for group in GROUPS for case in group.cases())


def sample(cases: Sequence[Case], size: int) -> list[Case]:
    """Return so many of the cases, always the same ones, in their order; each group has one at least."""
    draw = random.Random(14)  # noqa: S311 -- no secret
    groups: dict[str, list[int]] = {}
    for number, case in enumerate(cases):
        groups.setdefault(case.group, []).append(number)
    chosen = {draw.choice(numbers) for numbers in groups.values()}
    rest = [number for number in range(len(cases)) if number not in chosen]
    chosen.update(draw.sample(rest, max(0, min(size, len(cases)) - len(chosen))))
    return [cases[number] for number in sorted(chosen)]
