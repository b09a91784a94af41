"""Plan pairs about what the catalog holds beside tables: event triggers, default privileges, search, sequences.

They follow the same rule as those of `corpus`: every change of a group is paired with every use of it.
"""

from __future__ import annotations

from tests.gate.cases import Group

SEARCH = Group(
    name="text search",
    thinned=True,
    changes="""
        CREATE TEXT SEARCH DICTIONARY stem (TEMPLATE = snowball, Language = english)
        CREATE TEXT SEARCH DICTIONARY stem (TEMPLATE = simple); ALTER TEXT SEARCH DICTIONARY stem RENAME TO stem2
        CREATE TEXT SEARCH CONFIGURATION conf8 (PARSER = default)
        CREATE TEXT SEARCH CONFIGURATION conf8 (COPY = english)
        ALTER TEXT SEARCH CONFIGURATION plainconf DROP MAPPING FOR asciiword
        ALTER TEXT SEARCH CONFIGURATION plainconf ALTER MAPPING FOR asciiword WITH english_stem
        ALTER TEXT SEARCH CONFIGURATION plainconf SET SCHEMA s1
        ALTER TEXT SEARCH CONFIGURATION plainconf OWNER TO gate_nobody
        DROP TEXT SEARCH CONFIGURATION IF EXISTS plainconf
        DROP TEXT SEARCH CONFIGURATION IF EXISTS nowhere
    """,
    uses="""
        SELECT ts_lexize('stem', 'running')
        SELECT ts_lexize('stem2', 'running')
        ALTER TEXT SEARCH DICTIONARY stem (StopWords = english)
        DROP TEXT SEARCH DICTIONARY stem
        DROP TEXT SEARCH DICTIONARY stem2
        CREATE TEXT SEARCH DICTIONARY stem (TEMPLATE = simple)
        ALTER TEXT SEARCH CONFIGURATION conf8 ADD MAPPING FOR asciiword WITH simple
        ALTER TEXT SEARCH CONFIGURATION conf8 ALTER MAPPING FOR asciiword WITH simple
        ALTER TEXT SEARCH CONFIGURATION conf8 ADD MAPPING FOR asciiword WITH stem
        ALTER TEXT SEARCH CONFIGURATION plainconf ALTER MAPPING FOR asciiword WITH stem
        ALTER TEXT SEARCH CONFIGURATION plainconf ADD MAPPING FOR asciiword WITH simple
        ALTER TEXT SEARCH CONFIGURATION plainconf DROP MAPPING FOR asciiword
        ALTER TEXT SEARCH CONFIGURATION plainconf DROP MAPPING IF EXISTS FOR asciiword
        ALTER TEXT SEARCH CONFIGURATION plainconf DROP MAPPING FOR nonsense
        CREATE INDEX ON t USING gin (to_tsvector('conf8', c))
        CREATE INDEX ON t USING gin (to_tsvector('plainconf'::regconfig, c))
        SELECT to_tsvector('s1.plainconf', 'a')
        SELECT count(*) FROM t WHERE to_tsvector('plainconf', c) @@ to_tsquery('plainconf', 'c1')
        COMMENT ON TEXT SEARCH CONFIGURATION plainconf IS 'x'
        SET default_text_search_config = 'conf8'; SELECT to_tsvector('a')
        SET default_text_search_config = 'plainconf'; SELECT to_tsvector('a')
        role=gate_nobody DROP TEXT SEARCH CONFIGURATION plainconf
        role=gate_nobody ALTER TEXT SEARCH CONFIGURATION plainconf RENAME TO other
    """,
)

EVENTS = Group(
    name="event triggers",
    thinned=True,
    kept=2,
    changes="""
        CREATE EVENT TRIGGER evt ON ddl_command_start EXECUTE FUNCTION refuses()
        CREATE EVENT TRIGGER evt ON sql_drop EXECUTE FUNCTION refuses()
        CREATE EVENT TRIGGER evt ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION refuses()
        CREATE EVENT TRIGGER evt ON table_rewrite EXECUTE FUNCTION refuses()
        CREATE EVENT TRIGGER evt ON ddl_command_end EXECUTE FUNCTION refuses()
        ALTER EVENT TRIGGER quiet ENABLE
        ALTER EVENT TRIGGER quiet RENAME TO evt
        DROP EVENT TRIGGER quiet
        DROP EVENT TRIGGER IF EXISTS evt
        CREATE FUNCTION refuses2() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'
        -
    """,
    uses="""
        CREATE TABLE w (evt int, refuses int, quiet int)
        DROP TABLE victim; SELECT 'evt refuses quiet'
        ALTER TABLE t ALTER COLUMN b TYPE bigint; SELECT 'evt refuses quiet'
        CREATE INDEX evt ON t (b); SELECT 'evt refuses quiet'
        UPDATE t SET b = 2; SELECT 'evt refuses quiet'
        DROP EVENT TRIGGER evt
        DROP EVENT TRIGGER quiet
        ALTER EVENT TRIGGER evt DISABLE
        CREATE EVENT TRIGGER evt ON ddl_command_end EXECUTE FUNCTION refuses()
        CREATE EVENT TRIGGER evt3 ON ddl_command_end EXECUTE FUNCTION refuses2()
        CREATE EVENT TRIGGER evt3 ON nonsense EXECUTE FUNCTION refuses()
        CREATE EVENT TRIGGER evt3 ON ddl_command_end EXECUTE FUNCTION notes()
        CREATE EVENT TRIGGER evt3 ON sql_drop WHEN TAG IN ('NONSENSE') EXECUTE FUNCTION refuses()
        COMMENT ON EVENT TRIGGER quiet IS 'x'
        DROP FUNCTION refuses()
        role=gate_nobody CREATE EVENT TRIGGER evt4 ON ddl_command_end EXECUTE FUNCTION refuses()
        role=gate_nobody DROP EVENT TRIGGER quiet
    """,
)

DEFAULTS = Group(
    name="default privileges",
    thinned=True,
    kept=2,
    changes="""
        ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO gate_nobody; CREATE TABLE fresh (id int)
        CREATE TABLE fresh (id int); ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO gate_nobody
        ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC; CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'
        ALTER DEFAULT PRIVILEGES IN SCHEMA s1 GRANT ALL ON TABLES TO gate_nobody; CREATE TABLE s1.fresh (id int)
        ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO gate_nobody; CREATE SCHEMA s8; CREATE TABLE s8.fresh (id int)
        ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC; CREATE TYPE humour AS ENUM ('a')
        CREATE FUNCTION g() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'
        CREATE SCHEMA s8 AUTHORIZATION gate_nobody
        CREATE SCHEMA s8; CREATE TABLE s8.fresh (id int); GRANT SELECT ON s8.fresh TO gate_nobody
        CREATE SCHEMA s8; CREATE TABLE s8.fresh (id int); GRANT SELECT ON ALL TABLES IN SCHEMA s8 TO gate_nobody; GRANT USAGE ON SCHEMA s8 TO gate_nobody
        REVOKE USAGE ON TYPE mood FROM PUBLIC
        REVOKE USAGE ON LANGUAGE sql FROM PUBLIC; CREATE TABLE fresh (id int)
        REVOKE TEMPORARY ON DATABASE gate_here FROM PUBLIC
        CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 1'; REVOKE ALL ON FUNCTION g() FROM PUBLIC
        REASSIGN OWNED BY gate_owner TO gate_nobody
        DROP OWNED BY gate_owner
        DROP OWNED BY gate_owner CASCADE
        DROP OWNED BY gate_reader
        REASSIGN OWNED BY gate_nobody TO gate_owner
    """,  # noqa: E501 -- a case is a line
    uses="""
        role=gate_nobody SELECT count(*) FROM fresh
        role=gate_nobody INSERT INTO fresh VALUES (1)
        role=gate_nobody SELECT g()
        role=gate_nobody SELECT id FROM s1.fresh
        role=gate_nobody SELECT id FROM s8.fresh
        role=gate_nobody CREATE TABLE s8.w (id int)
        role=gate_nobody DROP SCHEMA s8
        role=gate_nobody DROP TABLE s8.fresh
        role=gate_nobody CREATE TEMP TABLE w (m mood)
        role=gate_nobody CREATE TEMP TABLE w (m humour); SELECT 'fresh'
        role=gate_nobody SELECT 'sad'::mood
        role=gate_nobody SELECT tenant FROM own
        role=gate_nobody ALTER TABLE own ADD COLUMN z int; SELECT 'gate_owner'
        role=gate_nobody DROP TABLE own; SELECT 'gate_owner'
        role=gate_owner SELECT tenant FROM own
        role=gate_owner CREATE TABLE w (id int)
        role=gate_owner DROP TABLE own
        role=gate_reader SELECT count(*) FROM t
        role=gate_reader SELECT count(*) FROM rls
        SELECT tenant FROM own; SELECT 'gate_owner'
        INSERT INTO own VALUES (77, 1); SELECT 'gate_owner'
        role=gate_nobody CREATE FUNCTION pg_temp.ff() RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT 'fresh'
    """,
)

PUBLISHED = Group(
    name="publications",
    thinned=True,
    kept=2,
    changes="""
        CREATE PUBLICATION pub FOR TABLE victim
        CREATE PUBLICATION pub FOR ALL TABLES; SELECT 'victim t'
        CREATE PUBLICATION pub FOR TABLES IN SCHEMA public; SELECT 'victim t'
        CREATE PUBLICATION pub FOR TABLE victim WITH (publish = 'insert')
        CREATE PUBLICATION pub FOR TABLE t (id, b)
        CREATE PUBLICATION pub FOR TABLE t WHERE (b > 3)
        CREATE PUBLICATION pub FOR TABLE t WHERE (id > 3)
        CREATE PUBLICATION pub FOR TABLE base; DROP PUBLICATION pub; SELECT 'victim t'
        ALTER PUBLICATION pub0 ADD TABLE victim
        ALTER PUBLICATION pub0 SET TABLE victim
        ALTER PUBLICATION pub0 OWNER TO gate_nobody
        ALTER TABLE base REPLICA IDENTITY NOTHING
        ALTER TABLE pubt REPLICA IDENTITY FULL
        ALTER TABLE pubt ALTER COLUMN id SET NOT NULL; ALTER TABLE pubt REPLICA IDENTITY USING INDEX pubt_id
        ALTER TABLE pubt ADD PRIMARY KEY (id)
        DROP PUBLICATION pub1; SELECT 'pubt'
        ALTER PUBLICATION pub1 DROP TABLE pubt
        ALTER PUBLICATION pub1 SET (publish = 'insert'); SELECT 'pubt'
        ALTER TABLE base SET UNLOGGED
        ALTER TABLE ul SET LOGGED
        ALTER TABLE base DROP CONSTRAINT base_pkey
        ALTER TABLE victim REPLICA IDENTITY FULL; CREATE PUBLICATION pub FOR TABLE victim
        CREATE SUBSCRIPTION sub CONNECTION 'host=/nowhere dbname=x' PUBLICATION p1 WITH (connect = false, slot_name = NONE) -- DROP SUBSCRIPTION IF EXISTS sub
    """,  # noqa: E501 -- a case is a line
    uses="""
        UPDATE victim SET id = 2
        DELETE FROM victim
        INSERT INTO victim VALUES (3)
        UPDATE base SET b = 3
        DELETE FROM base WHERE false
        UPDATE pubt SET b = 2
        DELETE FROM pubt WHERE id = 1
        DROP INDEX pubt_id
        CREATE TABLE w (id int REFERENCES base)
        CREATE TABLE w (id int REFERENCES ul)
        ALTER PUBLICATION pub0 ADD TABLE ul
        CREATE PUBLICATION pub FOR TABLE base, ul
        UPDATE t SET b = 4
        UPDATE t SET b = 4 WHERE false; SELECT 'pub'
        ALTER TABLE t DROP COLUMN b
        ALTER TABLE t ALTER COLUMN b TYPE bigint
        ALTER TABLE t DROP CONSTRAINT t_pkey
        DROP TABLE victim
        TRUNCATE victim
        ALTER PUBLICATION pub DROP TABLE t
        ALTER PUBLICATION pub DROP TABLE victim
        ALTER PUBLICATION pub ADD TABLE t
        ALTER PUBLICATION pub0 ADD TABLE victim
        ALTER PUBLICATION pub0 ADD TABLE base
        ALTER PUBLICATION pub SET (publish = 'insert')
        ALTER PUBLICATION pub SET (publish = 'nonsense')
        ALTER PUBLICATION pub SET (nonsense = 1)
        DROP PUBLICATION pub
        CREATE PUBLICATION pub FOR TABLE t
        ALTER SUBSCRIPTION sub DISABLE
        DROP SUBSCRIPTION sub
        role=gate_nobody DROP PUBLICATION pub0
        role=gate_nobody CREATE PUBLICATION pub FOR TABLE t
    """,
)

SEQUENCES = Group(
    name="sequences",
    thinned=True,
    kept=2,
    changes="""
        ALTER SEQUENCE sq MAXVALUE 5
        ALTER SEQUENCE sq AS smallint
        ALTER SEQUENCE sq OWNED BY t.b
        ALTER SEQUENCE sq OWNED BY t.b; ALTER TABLE t DROP COLUMN b
        ALTER SEQUENCE sq OWNED BY t.b; ALTER TABLE t ALTER COLUMN b SET DEFAULT nextval('sq')
        ALTER SEQUENCE sq OWNED BY victim.id; DROP TABLE victim
        ALTER SEQUENCE sq SET UNLOGGED
        ALTER TABLE t ALTER COLUMN b SET DEFAULT nextval('sq')
        ALTER TABLE gen ALTER COLUMN a SET NOT NULL, ALTER COLUMN a ADD GENERATED BY DEFAULT AS IDENTITY
        ALTER TABLE gen ALTER COLUMN id RESTART WITH 100
        ALTER TABLE gen DROP COLUMN id
        ALTER TABLE gen RENAME TO gen2
        DROP TABLE gen
        SELECT setval('sq', 9223372036854775807)
        CREATE SEQUENCE sq5 MAXVALUE 1; SELECT nextval('sq5')
        CREATE TEMP SEQUENCE sq
        CREATE SEQUENCE s1.sq
    """,
    uses="""
        SELECT nextval('sq')
        SELECT setval('sq', 50)
        SELECT nextval('s1.sq')
        SELECT nextval('sq5')
        SELECT setval('sq5', 3)
        SELECT last_value FROM sq
        ALTER SEQUENCE sq MAXVALUE 100000
        ALTER SEQUENCE sq MINVALUE 10
        ALTER SEQUENCE sq OWNED BY base.b
        ALTER SEQUENCE sq OWNER TO gate_owner
        ALTER SEQUENCE sq SET SCHEMA s1
        ALTER SEQUENCE sq RENAME TO t
        ALTER SEQUENCE gen_id_seq RESTART
        ALTER SEQUENCE gen_id_seq OWNED BY NONE
        ALTER SEQUENCE gen_id_seq SET SCHEMA s1
        DROP SEQUENCE gen_id_seq
        DROP SEQUENCE gen_a_seq
        SELECT nextval('gen_id_seq')
        SELECT nextval('gen_a_seq')
        SELECT nextval('gen2_id_seq')
        SELECT pg_get_serial_sequence('gen', 'a')
        INSERT INTO gen (id, a) VALUES (50, 50)
        INSERT INTO gen (a) VALUES (50)
        INSERT INTO t (id) VALUES (nextval('sq') + 100)
        ALTER TABLE gen ALTER COLUMN id DROP IDENTITY
        ALTER TABLE gen ALTER COLUMN a DROP IDENTITY
        ALTER TABLE gen ALTER COLUMN a DROP IDENTITY IF EXISTS
        ALTER TABLE gen ALTER COLUMN a ADD GENERATED ALWAYS AS IDENTITY
        ALTER TABLE gen ALTER COLUMN id SET START WITH 5
        ALTER TABLE gen ALTER COLUMN id SET DEFAULT 4
        DROP SEQUENCE sq
        DROP SEQUENCE sq CASCADE
        ALTER TABLE t DROP COLUMN b
        CREATE TABLE w (id int DEFAULT nextval('sq'))
        TRUNCATE gen RESTART IDENTITY
        GRANT USAGE ON SEQUENCE sq TO gate_reader
        COMMENT ON SEQUENCE sq IS 'x'
    """,
)

FOREIGN = Group(
    name="foreign tables",
    thinned=True,
    changes="""
        ALTER FOREIGN TABLE ft0 ADD COLUMN z int
        ALTER FOREIGN TABLE ft0 RENAME TO ft9
        ALTER FOREIGN TABLE ft0 OPTIONS (ADD x 'y')
        ALTER FOREIGN TABLE ft0 SET SCHEMA s1
        ALTER SERVER basesrv OPTIONS (ADD host 'x')
        ALTER SERVER basesrv OWNER TO gate_nobody
        GRANT USAGE ON FOREIGN SERVER basesrv TO gate_nobody
        GRANT USAGE ON FOREIGN DATA WRAPPER basefdw TO gate_nobody
        CREATE FOREIGN TABLE ft9 PARTITION OF p FOR VALUES FROM ('2030-01-01') TO ('2030-02-01') SERVER basesrv
        CREATE EXTENSION postgres_fdw
        CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw
        CREATE USER MAPPING FOR CURRENT_USER SERVER basesrv
        ALTER FOREIGN DATA WRAPPER basefdw OPTIONS (ADD a 'b')
        ALTER FOREIGN DATA WRAPPER basefdw RENAME TO fdw9
        -
    """,
    uses="""
        SELECT id FROM ft0
        SELECT z FROM ft0
        SELECT id FROM ft9
        SELECT id FROM s1.ft0
        INSERT INTO ft0 VALUES (1)
        UPDATE ft0 SET id = 2
        ALTER TABLE ft0 ADD COLUMN y int
        ALTER FOREIGN TABLE t ADD COLUMN y int
        ALTER FOREIGN TABLE ft0 OPTIONS (SET x 'z')
        ALTER FOREIGN TABLE ft0 OPTIONS (DROP nope)
        ALTER SERVER basesrv OPTIONS (DROP host)
        DROP FOREIGN TABLE ft9
        DROP TABLE ft0
        DROP SERVER basesrv
        DROP FOREIGN DATA WRAPPER basefdw
        CREATE UNIQUE INDEX px ON p (id, at); SELECT 'ft9'
        CREATE INDEX px ON p (id); SELECT 'ft9'
        INSERT INTO p VALUES (1, '2030-01-05'); SELECT 'ft9'
        CREATE SERVER remote FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'x')
        CREATE SERVER remote FOREIGN DATA WRAPPER postgres_fdw OPTIONS (nonsense 'x')
        CREATE FOREIGN TABLE fx (a text) SERVER files OPTIONS (filename '/nowhere')
        IMPORT FOREIGN SCHEMA public FROM SERVER basesrv INTO s1
        CREATE USER MAPPING FOR CURRENT_USER SERVER basesrv
        ALTER USER MAPPING FOR CURRENT_USER SERVER basesrv OPTIONS (ADD a 'b')
        DROP USER MAPPING FOR CURRENT_USER SERVER basesrv
        DROP USER MAPPING IF EXISTS FOR CURRENT_USER SERVER basesrv
        CREATE USER MAPPING FOR CURRENT_USER SERVER nowhere
        role=gate_nobody CREATE FOREIGN TABLE pg_temp.w (id int) SERVER basesrv
        role=gate_nobody DROP SERVER basesrv
        role=gate_nobody CREATE SERVER mine FOREIGN DATA WRAPPER basefdw
        CREATE SERVER mine FOREIGN DATA WRAPPER basefdw
        CREATE SERVER mine FOREIGN DATA WRAPPER fdw9
        VACUUM ft0
        ANALYZE ft0
        TRUNCATE ft0
        CREATE TRIGGER tr BEFORE INSERT ON ft0 FOR EACH ROW EXECUTE FUNCTION notes()
        COPY ft0 TO '/tmp/gate_ft'
        LOCK ft0; SELECT 1
    """,
)

ROWS = Group(
    name="rows as values",
    changes="""
        ALTER TABLE rowy ADD COLUMN z text
        ALTER TABLE rowy RENAME COLUMN name TO z
        ALTER TYPE addr ADD ATTRIBUTE z text
        ALTER TYPE addr DROP ATTRIBUTE zip
        ALTER TYPE addr RENAME ATTRIBUTE zip TO z
        DROP FUNCTION rowy_all; DROP TABLE rowheld
    """,
    uses="""
        SELECT (rowy_all()).z
        SELECT (rowy_all()).name
        SELECT q.z FROM rowy_all() q
        SELECT name FROM rowy_all()
        SELECT q.z FROM (SELECT (rowy_all()).*) q
        SELECT (r).z FROM rowheld
        SELECT (r).name FROM rowheld
        UPDATE rowheld SET r.z = 'a'
        UPDATE rowheld SET r.name = 'a'
        INSERT INTO rowheld (r.z) VALUES ('a')
        SELECT z FROM json_populate_record(NULL::rowy, '{}')
        SELECT (NULL::rowy).name
        SELECT (a).z FROM homes
        SELECT (a).zip FROM homes
        UPDATE homes SET a.z = '1'
        UPDATE homes SET a.zip = '1'
        DROP TYPE addr
        DROP TABLE rowy
        role=gate_nobody CREATE TABLE pg_temp.w (a addr)
    """,
)

CASCADES = Group(
    name="cascades",
    changes="""
        ALTER TABLE casc DROP COLUMN name CASCADE
        ALTER TABLE casc DROP CONSTRAINT casc_pkey CASCADE
        DROP TABLE casc CASCADE
        DROP VIEW casc_v CASCADE
        DROP FUNCTION casc_f(int) CASCADE
        DROP TYPE casc_t CASCADE
        DROP TABLE casc_r; DROP VIEW casc_v; DROP MATERIALIZED VIEW casc_m; DROP TABLE casc
        DROP TABLE par CASCADE
        DROP TABLE p
        ALTER TABLE gen SET SCHEMA s1
        DROP TABLE gen
        ALTER TABLE t SET SCHEMA s1
    """,
    uses="""
        DROP VIEW casc_v
        SELECT id FROM casc_v
        CREATE VIEW casc_v AS SELECT 1 AS a
        COMMENT ON VIEW casc_v IS 'x'
        REFRESH MATERIALIZED VIEW casc_m
        DROP MATERIALIZED VIEW casc_m
        DROP INDEX casc_i
        REINDEX INDEX casc_i
        CREATE INDEX casc_i ON base (id)
        ALTER TABLE casc_r DROP CONSTRAINT casc_fk
        ALTER TABLE casc_r ADD CONSTRAINT casc_fk FOREIGN KEY (casc_id) REFERENCES casc
        UPDATE casc SET m = 'a'
        INSERT INTO casc (id) VALUES (1) ON CONFLICT (id) DO NOTHING
        DROP TABLE casc
        VACUUM kid
        CREATE TABLE kid (id int)
        VACUUM p_1
        SELECT id FROM p_1
        CREATE TABLE p_1 (id int)
        SELECT nextval('gen_id_seq')
        SELECT nextval('s1.gen_id_seq')
        ALTER SEQUENCE gen_id_seq RESTART
        ALTER SEQUENCE s1.gen_id_seq RESTART
        DROP INDEX t_b
        DROP INDEX s1.t_b
        CREATE INDEX t_b ON base (id)
    """,
)

CATALOGS = (SEARCH, EVENTS, DEFAULTS, PUBLISHED, SEQUENCES, FOREIGN, ROWS, CASCADES)
