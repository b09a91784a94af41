"""Statements that are a plan of their own: maintenance, options and parameters, ALTER TABLE in parts, new tables."""

from __future__ import annotations

from tests.gate.cases import Group

MAINTENANCE = Group(
    name="maintenance",
    changes="-",
    uses="""
        CLUSTER (VERBOSE) t
        CLUSTER s1.a
        CLUSTER t USING t_pkey
        CLUSTER nowhere USING t_b
        CLUSTER mf
        CLUSTER v
        CLUSTER t USING base_pkey
        REINDEX SCHEMA CONCURRENTLY s1
        REINDEX SCHEMA pg_catalog
        REINDEX SCHEMA CONCURRENTLY pg_catalog
        REINDEX TABLE CONCURRENTLY p
        REINDEX INDEX CONCURRENTLY p_at
        REINDEX TABLE CONCURRENTLY pg_toast.pg_toast_1255
        REINDEX INDEX pg_toast.pg_toast_1255_index
        REINDEX INDEX CONCURRENTLY pg_toast.pg_toast_1255_index
        REINDEX TABLE v
        REINDEX TABLE mf
        REINDEX INDEX t
        REINDEX TABLE t_b
        REINDEX INDEX nowhere
        REINDEX SYSTEM
        REINDEX (TABLESPACE pg_default) TABLE t
        REINDEX (TABLESPACE nowhere) TABLE t
        REINDEX (TABLESPACE pg_global) TABLE t
        REINDEX (CONCURRENTLY) TABLE t
        REINDEX (CONCURRENTLY) TABLE pg_class
        REINDEX (CONCURRENTLY off) TABLE pg_class
        REINDEX INDEX CONCURRENTLY ex_excl
        REINDEX INDEX ex_excl
        REINDEX TABLE CONCURRENTLY ex
        CREATE TABLE w (a int, b int) PARTITION BY LIST ((ROW(a, b)::w))
        ALTER TABLE ex ADD CONSTRAINT exu UNIQUE USING INDEX ex_desc
        ALTER TABLE t RESET (fillfactor = 12)
        ALTER TABLE t ADD COLUMN xmin int
        ALTER TABLE t RENAME COLUMN b TO ctid
        CREATE TABLE w (tableoid int)
        role=gate_owner VACUUM
        REINDEX (VERBOSE, nonsense) TABLE t
        VACUUM (FULL, ANALYZE) t
        VACUUM (FULL, INDEX_CLEANUP off) t
        VACUUM (FULL, SKIP_LOCKED) t
        VACUUM (FULL, PROCESS_TOAST off) t
        VACUUM (FULL, PROCESS_MAIN off) t
        VACUUM (PROCESS_MAIN off, PROCESS_TOAST off) t
        EXPLAIN (ANALYZE, TIMING off, WAL, SERIALIZE) SELECT 1
        EXPLAIN (TIMING off, WAL off, SERIALIZE none) SELECT 1
        EXPLAIN (COSTS maybe) SELECT 1
        EXPLAIN (BUFFERS, SUMMARY, SETTINGS, MEMORY) SELECT 1
        EXPLAIN (GENERIC_PLAN) SELECT id FROM t WHERE b = $1
        EXPLAIN (FORMAT YAML, ANALYZE 0) SELECT 1
        EXPLAIN (SERIALIZE nonsense, ANALYZE) SELECT 1
        VACUUM (PARALLEL) t
        VACUUM (PARALLEL -1) t
        VACUUM (PARALLEL 0) t
        VACUUM (FULL, PARALLEL 0) t
        VACUUM (ANALYZE off) t (b)
        VACUUM (TRUNCATE maybe) t
        VACUUM (FULL maybe) t
        VACUUM (INDEX_CLEANUP on) t
        VACUUM (SKIP_DATABASE_STATS, ONLY_DATABASE_STATS)
        VACUUM (ONLY_DATABASE_STATS, VERBOSE)
        VACUUM (ONLY_DATABASE_STATS, ANALYZE)
        VACUUM (BUFFER_USAGE_LIMIT 256) t
        VACUUM (BUFFER_USAGE_LIMIT 1) t
        VACUUM (BUFFER_USAGE_LIMIT '17GB') t
        VACUUM (BUFFER_USAGE_LIMIT '512 kB') t
        VACUUM (FULL, BUFFER_USAGE_LIMIT '1MB') t
        VACUUM (FULL, ANALYZE, BUFFER_USAGE_LIMIT '1MB') t
        VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) t
        VACUUM FULL p
        VACUUM sq
        VACUUM t_b
        VACUUM mf
        VACUUM pg_class
        VACUUM nowhere
        VACUUM t, nowhere
        VACUUM t, base
        VACUUM ft0
        VACUUM ONLY p
        VACUUM (VERBOSE) t (b, nope)
        VACUUM (ANALYZE) t (b, nope)
        ANALYZE t, v
        ANALYZE t (b, b)
        ANALYZE (VERBOSE off) t
        ANALYZE (BUFFER_USAGE_LIMIT 5) t
        ANALYZE (SKIP_LOCKED maybe) t
        ANALYZE p
        ANALYZE t_b
        DROP INDEX CONCURRENTLY t_b, t_c
        DROP INDEX CONCURRENTLY t_b CASCADE
        DROP INDEX CONCURRENTLY t_b
        DROP INDEX CONCURRENTLY t_pkey
        DROP INDEX CONCURRENTLY IF EXISTS nowhere
        DROP INDEX IF EXISTS nowhere
        DROP INDEX nowhere
        DROP INDEX t_pkey CASCADE
        DROP INDEX p_1_at_idx, p_at
        DROP INDEX p_at
        CREATE INDEX CONCURRENTLY ON v (id)
        CREATE INDEX ON v (id)
        CREATE INDEX ON mf (a)
        CREATE INDEX ON ft0 (id)
        CREATE INDEX ON sq (last_value)
        CREATE INDEX CONCURRENTLY ON pg_class (relpages)
        CREATE INDEX ON t (b) TABLESPACE nowhere
        CREATE INDEX ON t (b) TABLESPACE pg_global
        CREATE UNIQUE INDEX ON t USING hash (b)
        CREATE INDEX ON t USING hash (b, id)
        CREATE INDEX ON t USING gin (b)
        CREATE INDEX ON t USING brin (b) INCLUDE (c)
        CREATE INDEX ON t (b) INCLUDE (c)
        CREATE INDEX ON t (b nope_ops)
        CREATE INDEX ON t (b text_ops)
        CREATE INDEX ON t (random())
        CREATE INDEX ON t ((b + 1))
        CREATE INDEX ON t (nope)
        CREATE INDEX ON t (b) WHERE nope
        CREATE INDEX ON t (b) WHERE now() > '2020-01-01'
        CREATE UNIQUE INDEX ON p (id)
        CREATE UNIQUE INDEX ON p (at)
        CREATE INDEX ON t USING hash (b DESC)
        CREATE INDEX ON nowhere (b)
        REFRESH MATERIALIZED VIEW CONCURRENTLY mf WITH NO DATA
        REFRESH MATERIALIZED VIEW t
        REFRESH MATERIALIZED VIEW nowhere
        TRUNCATE v
        TRUNCATE mf
        TRUNCATE ft0
        TRUNCATE p
        TRUNCATE ONLY p
        TRUNCATE pg_class
        TRUNCATE t RESTART IDENTITY CASCADE
        TRUNCATE nowhere
        LOCK nowhere; SELECT 1
        LOCK sq; SELECT 1
        LOCK t_b; SELECT 1
        LOCK mf; SELECT 1
        EXPLAIN (ANALYZE, GENERIC_PLAN) SELECT 1
        EXPLAIN (SERIALIZE) SELECT 1
        EXPLAIN (TIMING) SELECT 1
        EXPLAIN (WAL) SELECT 1
        EXPLAIN (FORMAT nonsense) SELECT 1
        EXPLAIN (FORMAT json, COSTS off) SELECT 1
        COPY t TO '/tmp/gate_copy' (FORMAT csv, HEADER)
        COPY t TO '/tmp/gate_copy' (FORMAT csv, DELIMITER ';;')
        COPY t TO '/tmp/gate_copy' (FORMAT text, QUOTE '"')
        COPY t TO '/tmp/gate_copy' (FORMAT nonsense)
        COPY t TO '/tmp/gate_copy' (FREEZE)
        COPY t TO '/tmp/gate_copy' (ON_ERROR ignore)
        COPY t TO '/tmp/gate_copy' (FORCE_NULL (b))
        COPY v TO '/tmp/gate_copy'
        COPY mf TO '/tmp/gate_copy'
        COPY p TO '/tmp/gate_copy'
        COPY (SELECT nope FROM t) TO '/tmp/gate_copy'
        COPY t FROM '/tmp/gate_no_such_file'
        COPY v FROM '/tmp/gate_no_such_file'
        DO $$ BEGIN ROLLBACK; END $$
        DO $$ BEGIN BEGIN UPDATE t SET b = 1; ROLLBACK; EXCEPTION WHEN division_by_zero THEN NULL; END; END $$
        DO $$ BEGIN BEGIN PERFORM 1 / 0; EXCEPTION WHEN OTHERS THEN COMMIT; END; END $$
        DO $$ BEGIN LOOP BEGIN COMMIT; EXCEPTION WHEN division_by_zero THEN NULL; END; EXIT; END LOOP; END $$
        DO $$ BEGIN UPDATE t SET b = 1; COMMIT; UPDATE t SET b = 2; EXCEPTION WHEN division_by_zero THEN NULL; END $$
        DO $$ BEGIN FOR i IN 1..3 LOOP UPDATE t SET b = i; COMMIT; END LOOP; END $$
        DO $$ BEGIN BEGIN VACUUM t; END; END $$
        DO $$ BEGIN COMMIT AND CHAIN; END $$
        DO $$ BEGIN SAVEPOINT s; END $$
        DO $$ BEGIN PERFORM nope FROM t; END $$
        DO LANGUAGE nowhere $$ BEGIN END $$
    """,
)

PARAMETERS = Group(
    name="parameters",
    changes="-",
    uses="""
        ALTER TABLE t SET TABLESPACE nowhere
        ALTER TABLE t SET TABLESPACE pg_default
        ALTER INDEX t_b SET TABLESPACE pg_default
        ALTER INDEX p_at ATTACH PARTITION t_b
        ALTER INDEX t_b ALTER COLUMN 1 SET STATISTICS 100
        ALTER INDEX nowhere RENAME TO x
        ALTER INDEX IF EXISTS nowhere RENAME TO x
        ALTER TABLE t_b RENAME TO x9
        ALTER TABLE v RENAME TO v9
        ALTER VIEW t RENAME TO x
        ALTER MATERIALIZED VIEW mf SET (fillfactor = 20)
        ALTER MATERIALIZED VIEW v SET (fillfactor = 20)
        ALTER TABLE mf SET (fillfactor = 20)
        ALTER TABLE p SET (fillfactor = 20)
        ALTER TABLE p SET (autovacuum_enabled = off)
        ALTER TABLE t RESET (nonsense)
        ALTER TABLE t SET (toast_tuple_target = 200)
        ALTER TABLE t SET (toast_tuple_target = 20)
        ALTER TABLE t SET (parallel_workers = 2000)
        ALTER TABLE t SET (parallel_workers = 4)
        ALTER TABLE t SET (user_catalog_table = true)
        ALTER TABLE t SET (vacuum_truncate = maybe)
        ALTER TABLE t SET (vacuum_truncate)
        ALTER TABLE t SET (fillfactor)
        ALTER TABLE t SET (fillfactor = 'much')
        ALTER TABLE t SET (fillfactor = 70.5)
        ALTER TABLE t SET (log_autovacuum_min_duration = -1)
        ALTER TABLE t SET (toast.nonsense = 1)
        ALTER TABLE t SET (toast.autovacuum_vacuum_threshold = 10)
        ALTER TABLE t SET (nowhere.fillfactor = 10)
        ALTER TABLE t SET (autovacuum_vacuum_insert_threshold = -5)
        ALTER TABLE t SET (autovacuum_freeze_max_age = 5)
        ALTER TABLE t SET (autovacuum_vacuum_cost_delay = 0.5)
        ALTER TABLE t SET (autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 5)
        ALTER INDEX t_b SET (deduplicate_items = off)
        ALTER INDEX t_b RESET (fillfactor)
        ALTER INDEX t_b SET (autovacuum_enabled = off)
        ALTER TABLE t ALTER COLUMN b SET (n_distinct = -0.5)
        ALTER TABLE t ALTER COLUMN b SET (n_distinct = -5)
        ALTER TABLE t ALTER COLUMN b SET (nonsense = 1)
        ALTER TABLE t ALTER COLUMN b RESET (n_distinct)
        ALTER TABLE t ALTER COLUMN nope SET STATISTICS 100
        ALTER TABLE t ALTER COLUMN b SET STATISTICS 100000
        ALTER TABLE t ALTER COLUMN b SET STATISTICS -1
        ALTER TABLE t ALTER COLUMN b SET STATISTICS DEFAULT
        ALTER TABLE t ALTER COLUMN b SET STORAGE external
        ALTER TABLE t ALTER COLUMN c SET STORAGE external
        ALTER TABLE t ALTER COLUMN c SET STORAGE nonsense
        ALTER TABLE t ALTER COLUMN c SET COMPRESSION pglz
        ALTER TABLE t ALTER COLUMN c SET COMPRESSION nope
        ALTER VIEW v SET (check_option = local)
        ALTER VIEW v SET (check_option = nope)
        ALTER VIEW v SET (nonsense = 1)
        ALTER VIEW v ALTER COLUMN b SET DEFAULT 3
        ALTER VIEW v ALTER COLUMN nope SET DEFAULT 3
        ALTER VIEW v RENAME COLUMN nope TO x
        CREATE OR REPLACE VIEW v AS SELECT id, b::bigint AS b FROM base
        CREATE OR REPLACE VIEW v (id, bee) AS SELECT id, b FROM base
        CREATE OR REPLACE VIEW v AS SELECT b, id FROM base
        CREATE OR REPLACE VIEW mf AS SELECT 1 AS a
        CREATE OR REPLACE VIEW v WITH (security_barrier) AS SELECT id, b FROM base
        CREATE OR REPLACE VIEW v WITH (fillfactor = 3) AS SELECT id, b FROM base
        CREATE VIEW w WITH (security_invoker = maybe) AS SELECT 1 AS a
        CREATE VIEW w WITH (check_option = cascaded) AS SELECT id FROM base
        CREATE INDEX i ON t (b) WITH (buffering = off)
        CREATE INDEX i ON t USING btree (b) WITH (fillfactor = 90, deduplicate_items = on)
        CREATE INDEX i ON t USING gin (to_tsvector('simple', c)) WITH (fastupdate = off, gin_pending_list_limit = 64)
        CREATE INDEX i ON t USING gin (to_tsvector('simple', c)) WITH (gin_pending_list_limit = 1)
        CREATE INDEX i ON t USING gist (point(b, b)) WITH (buffering = auto, fillfactor = 60)
        CREATE INDEX i ON t USING gist (point(b, b)) WITH (buffering = maybe)
        CREATE INDEX i ON t USING spgist (c) WITH (fillfactor = 70)
        CREATE INDEX i ON t USING brin (b) WITH (pages_per_range = 0)
        CREATE INDEX i ON t USING brin (b int4_minmax_multi_ops (values_per_range = 16))
        CREATE INDEX i ON t USING gist (to_tsvector('simple', c) tsvector_ops (siglen = 100))
        CREATE INDEX i ON t USING gist (to_tsvector('simple', c) tsvector_ops (nonsense = 100))
        CREATE INDEX i ON p (id) WITH (fillfactor = 60)
        CREATE MATERIALIZED VIEW w WITH (autovacuum_enabled = off, fillfactor = 50) AS SELECT 1 AS a
        CREATE MATERIALIZED VIEW w WITH (nonsense = off) AS SELECT 1 AS a
        CREATE TABLE w WITH (fillfactor = 50) AS SELECT 1 AS a
        CREATE TABLE w WITH (nonsense = 50) AS SELECT 1 AS a
        CREATE TABLE w (id int) WITH (oids = false)
        CREATE TABLE w (id int) WITH (toast.autovacuum_enabled = off)
        CREATE TABLE w (id int PRIMARY KEY WITH (fillfactor = 60))
        CREATE TABLE w (id int PRIMARY KEY WITH (nonsense = 60))
        CREATE TABLE w (id int) PARTITION BY RANGE (id) WITH (fillfactor = 20)
        CREATE TABLE w (id int, UNIQUE (id) USING INDEX TABLESPACE nowhere)
        CREATE TABLE w (id int) TABLESPACE nowhere
        ALTER TABLE t ADD UNIQUE (b) WITH (fillfactor = 70)
        ALTER TABLE t ADD CONSTRAINT u9 UNIQUE (b) WITH (nonsense = 70)
        ALTER TABLE t ADD CONSTRAINT e9 EXCLUDE USING gist (point(b, b) WITH ~=) WITH (buffering = on)
        ALTER DOMAIN short SET DEFAULT 'abc'
        ALTER TYPE span SET (subtype_diff = nope)
        ALTER ROLE gate_nobody SET work_mem = '4MB'
        ALTER ROLE gate_nobody SET nonsense = '4MB'
        ALTER ROLE gate_missing SET work_mem = '4MB'
        ALTER DATABASE gate_missing SET work_mem = '4MB'
        SET work_mem = '1'; SELECT 1
        SET LOCAL lock_timeout = 'soon'; SELECT 1
        SET max_connections = 10; SELECT 1
        SET TIME ZONE 'Nowhere/Land'; SELECT 1
        SET app.tenant = '3'; SELECT current_setting('app.tenant')
        RESET ALL; SELECT 1
        RESET nonsense; SELECT 1
        SHOW nonsense
        SELECT set_config('work_mem', '1kB', true)
        SELECT current_setting('nonsense')
        SELECT current_setting('nonsense', true)
        ALTER SYSTEM SET nonsense = 1
        ALTER SYSTEM RESET work_mem
    """,
)

PARTS = Group(
    name="parts",
    changes="-",
    uses="""
        ALTER TABLE t ADD COLUMN z text GENERATED ALWAYS AS IDENTITY
        ALTER TABLE t ADD COLUMN z positive GENERATED ALWAYS AS IDENTITY
        ALTER TABLE t ADD COLUMN z smallint GENERATED BY DEFAULT AS IDENTITY
        CREATE TABLE w (id numeric GENERATED ALWAYS AS IDENTITY)
        CREATE TABLE w (id bigint GENERATED ALWAYS AS IDENTITY)
        UPDATE t SET b = 1 WHERE CURRENT OF nowhere
        ALTER TABLE t ADD COLUMN z mood DEFAULT 'shy'
        ALTER TABLE t ADD COLUMN z mood DEFAULT 'sad'
        ALTER TABLE t ADD COLUMN z int DEFAULT 'x'
        ALTER TABLE t ADD COLUMN z int DEFAULT true
        ALTER TABLE t ADD COLUMN z date DEFAULT 5
        ALTER TABLE t ADD COLUMN z varchar(2) DEFAULT 'long'
        ALTER TABLE t ADD COLUMN z smallint DEFAULT 99999
        ALTER TABLE t ALTER b SET DEFAULT 'x'
        ALTER TABLE t ALTER b SET DEFAULT true
        ALTER TABLE t ALTER m SET DEFAULT 'shy'
        ALTER TABLE t ADD COLUMN z text DEFAULT 5, ADD COLUMN y numeric DEFAULT 1.5, ADD COLUMN x text DEFAULT 'a'
        CREATE TABLE otherdb.public.w (id int)
        CREATE TABLE postgres.public.w (id int)
        DROP TABLE otherdb.public.victim
        ALTER TABLE otherdb.public.t ADD COLUMN z int
        TRUNCATE otherdb.public.victim
        VACUUM otherdb.public.t
        SELECT id FROM otherdb.public.t
        CREATE TABLE w (a int NOT NULL NULL)
        CREATE TABLE w (a int PRIMARY KEY NULL)
        CREATE TABLE w (a int NULL)
        CREATE TABLE w (a json PRIMARY KEY)
        CREATE TABLE w (a json, UNIQUE (a))
        CREATE TABLE w (a jsonb PRIMARY KEY, b int[] UNIQUE, c uuid UNIQUE, d inet UNIQUE, e bytea UNIQUE)
        CREATE TABLE w (a point UNIQUE)
        ALTER TABLE t ADD COLUMN z xml UNIQUE
        CREATE TABLE w (a varchar(0))
        CREATE TABLE w (a char(10485761))
        CREATE TABLE w (a varchar(10485760), b numeric(1000, 1000), c bit(3), e timestamp(6))
        CREATE TABLE w (a numeric(2000, 2))
        CREATE TABLE w (a bit(0))
        CREATE TABLE w (a setof int)
        CREATE TEMP TABLE public.w (a int)
        CREATE TEMP TABLE pg_temp.w (a int)
        ALTER TABLE t ADD COLUMN z varchar(0)
        ALTER TABLE t ALTER c TYPE varchar(0)
        CREATE MATERIALIZED VIEW w WITH (nonsense = off) AS SELECT 1 AS a
        CREATE MATERIALIZED VIEW w WITH (fillfactor = 70) AS SELECT 1 AS a
        CREATE TABLE w WITH (fillfactor = 5) AS SELECT 1 AS a
        CREATE TABLE w WITH (fillfactor = 50) AS SELECT 1 AS a
        ALTER TABLE t ALTER b SET (n_distinct = -5)
        ALTER TABLE t ALTER b SET (n_distinct = -0.5)
        ALTER TABLE t ALTER b SET (n_distinct = 1e9, n_distinct_inherited = 3)
        ALTER TABLE t ALTER b SET (fillfactor = 50)
        ALTER TABLE t ALTER b SET STATISTICS -2
        ALTER TABLE t ALTER b SET STATISTICS -1
        ALTER TABLE t ALTER b SET STATISTICS DEFAULT
        ALTER TABLE t SET TABLESPACE pg_global
        ALTER INDEX t_b SET TABLESPACE pg_global
        CREATE TABLE w (id int) TABLESPACE pg_global
        CREATE INDEX w ON t (b) TABLESPACE pg_global
        DELETE FROM t WHERE CURRENT OF nowhere
        ALTER TABLE t ADD COLUMN x int, ADD COLUMN y int DEFAULT 1, ALTER COLUMN y SET NOT NULL
        ALTER TABLE t ADD COLUMN x int, ADD PRIMARY KEY (x)
        ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id)
        ALTER TABLE t DROP COLUMN id, ADD COLUMN id bigint
        ALTER TABLE t ADD COLUMN x int, ADD FOREIGN KEY (x) REFERENCES parent
        ALTER TABLE t ALTER COLUMN b TYPE text, ALTER COLUMN b SET DEFAULT 'z'
        ALTER TABLE t ALTER COLUMN b DROP NOT NULL, ALTER COLUMN b TYPE bigint
        ALTER TABLE t ADD CONSTRAINT q CHECK (x > 0), ADD COLUMN x int
        ALTER TABLE t DROP COLUMN x, ADD COLUMN x int
        ALTER TABLE t ALTER COLUMN x SET DEFAULT 1, ADD COLUMN x int
        ALTER TABLE t ALTER COLUMN x SET NOT NULL, ADD COLUMN x int DEFAULT 1
        ALTER TABLE t ALTER COLUMN x TYPE text, ADD COLUMN x int
        ALTER TABLE t ADD UNIQUE (x), ADD COLUMN x int
        ALTER TABLE t ADD UNIQUE (b), CLUSTER ON t_b_key
        ALTER TABLE t ADD CONSTRAINT u UNIQUE (id), REPLICA IDENTITY USING INDEX u
        ALTER TABLE t DROP CONSTRAINT t_check, DROP CONSTRAINT t_check
        ALTER TABLE t DROP CONSTRAINT IF EXISTS nope, ADD CONSTRAINT nope CHECK (b > -5)
        ALTER TABLE t ADD COLUMN IF NOT EXISTS b int, ADD COLUMN IF NOT EXISTS x int
        ALTER TABLE t ADD COLUMN x int, ADD COLUMN x int
        ALTER TABLE t ADD COLUMN x int, ADD COLUMN IF NOT EXISTS x int
        ALTER TABLE t ADD CONSTRAINT q CHECK (b > -5), ADD CONSTRAINT q CHECK (b > -6)
        ALTER TABLE t VALIDATE CONSTRAINT t_check, DROP CONSTRAINT t_check
        ALTER TABLE t DROP COLUMN IF EXISTS nope, DROP COLUMN b
        ALTER TABLE t DROP COLUMN b, DROP CONSTRAINT t_check
        ALTER TABLE t ADD CONSTRAINT n NOT NULL b, VALIDATE CONSTRAINT n
        ALTER TABLE t RENAME CONSTRAINT nope TO x
        ALTER TABLE t RENAME CONSTRAINT t_check TO t_pkey
        ALTER TABLE child ALTER CONSTRAINT child_fk NOT DEFERRABLE
        ALTER TABLE child ALTER CONSTRAINT child_fk NOT ENFORCED
        ALTER TABLE child ALTER CONSTRAINT child_fk INITIALLY IMMEDIATE
        ALTER TABLE child ALTER CONSTRAINT child_fk INITIALLY DEFERRED
        ALTER TABLE t ALTER CONSTRAINT t_check NOT ENFORCED
        ALTER TABLE t ALTER CONSTRAINT t_check DEFERRABLE
        ALTER TABLE par ALTER CONSTRAINT par_b_not_null INHERIT
        ALTER TABLE par ALTER CONSTRAINT par_b_not_null NO INHERIT
        ALTER TABLE par ALTER CONSTRAINT pos NO INHERIT
        CREATE TABLE w (id int, CONSTRAINT c CHECK (id > 0) NOT ENFORCED)
        CREATE TABLE w (id int REFERENCES parent NOT ENFORCED)
        CREATE TABLE w (id int UNIQUE NOT ENFORCED)
        CREATE SCHEMA s8 CREATE TABLE a8 (id int PRIMARY KEY) CREATE INDEX ON a8 (id) CREATE SEQUENCE q8
        CREATE SCHEMA s8 CREATE VIEW v8 AS SELECT id FROM a8 CREATE TABLE a8 (id int)
        CREATE SCHEMA s8 CREATE TABLE a8 (id int REFERENCES b8) CREATE TABLE b8 (id int PRIMARY KEY)
        CREATE SCHEMA s8 AUTHORIZATION gate_owner CREATE TABLE a8 (id int) GRANT SELECT ON a8 TO gate_reader
        CREATE SCHEMA s8 CREATE TABLE a8 (id int) CREATE TRIGGER g BEFORE INSERT ON a8 EXECUTE FUNCTION notes()
        CREATE SCHEMA s8 CREATE TABLE s9.a8 (id int)
        CREATE SCHEMA s8 CREATE VIEW v8 AS SELECT nope FROM t
        CREATE SCHEMA s8 CREATE TABLE a8 (id nowhere)
        CREATE SCHEMA IF NOT EXISTS s1
        CREATE SCHEMA AUTHORIZATION gate_missing
        CREATE SEQUENCE sq3 OWNED BY base.b
        CREATE SEQUENCE sq3 AS smallint MAXVALUE 100000
        CREATE SEQUENCE sq3 START 5 MAXVALUE 3
        CREATE SEQUENCE sq3 OWNED BY s1.a.id
        CREATE SEQUENCE IF NOT EXISTS sq
        CREATE SEQUENCE sq
        ALTER SEQUENCE sq OWNED BY nowhere.id
        ALTER SEQUENCE sq OWNED BY v.id
        ALTER SEQUENCE sq AS nope
        ALTER SEQUENCE sq AS bigint
        ALTER SEQUENCE sq MINVALUE 10
        ALTER SEQUENCE IF EXISTS nowhere RESTART
        ALTER SEQUENCE sq OWNER TO gate_owner
        ALTER SEQUENCE sq SET UNLOGGED
        ALTER SEQUENCE nowhere SET LOGGED
        CREATE TABLE kid2 () INHERITS (par)
        CREATE TABLE kid2 (a int) INHERITS (par)
        CREATE TABLE kid2 (a int CHECK (a > 5)) INHERITS (par)
        CREATE TABLE kid2 (CONSTRAINT pos CHECK (a > 0)) INHERITS (par)
        CREATE TABLE kid2 (b int NULL) INHERITS (par)
        CREATE TABLE kid2 (a text) INHERITS (par)
        CREATE TABLE kid2 () INHERITS (par, orphan)
        CREATE TABLE kid2 () INHERITS (par, par)
        CREATE TABLE kid2 () INHERITS (nowhere)
        CREATE TABLE kid2 () INHERITS (v)
        CREATE TABLE kid2 (CONSTRAINT pos CHECK (a > 0) NO INHERIT) INHERITS (par)
        ALTER TABLE par ADD CONSTRAINT kc CHECK (a < 100)
        ALTER TABLE ONLY par ADD CONSTRAINT kc CHECK (a < 100)
        ALTER TABLE ONLY par ADD CONSTRAINT kc CHECK (a < 100) NO INHERIT
        ALTER TABLE kid ALTER b DROP NOT NULL
        ALTER TABLE par ALTER b DROP NOT NULL
        ALTER TABLE par ADD NOT NULL a
        ALTER TABLE par ADD CONSTRAINT ann NOT NULL a NOT VALID
        ALTER TABLE kid RENAME CONSTRAINT pos TO pos2
        ALTER TABLE par RENAME CONSTRAINT pos TO pos2
        ALTER TABLE ONLY par RENAME CONSTRAINT pos TO pos2
        ALTER TABLE ONLY par RENAME COLUMN a TO aa
        ALTER TABLE kid DROP COLUMN a
        ALTER TABLE kid ALTER a TYPE bigint
        ALTER TABLE p_1 DROP COLUMN id
        ALTER TABLE p_1 ADD COLUMN z int
        ALTER TABLE p_1 RENAME COLUMN id TO z
        ALTER TABLE p_1 ALTER at DROP NOT NULL
        ALTER TABLE p DROP COLUMN at
        ALTER TABLE p ALTER at TYPE timestamp
        CREATE TABLE w (LIKE t INCLUDING CONSTRAINTS INCLUDING INDEXES)
        CREATE TABLE w (LIKE nowhere)
        CREATE TABLE w (LIKE v)
        CREATE TABLE w (LIKE pair)
        CREATE TABLE w (LIKE t, b int)
        CREATE TABLE w (LIKE t INCLUDING DEFAULTS EXCLUDING INDEXES, extra int, PRIMARY KEY (id))
        CREATE TABLE w (id int, UNIQUE (id), CHECK (id > 0), FOREIGN KEY (id) REFERENCES t)
        CREATE TABLE w (id int, FOREIGN KEY (nope) REFERENCES t)
        CREATE TABLE w (id int, UNIQUE (nope))
        CREATE TABLE w (id int, EXCLUDE USING gist (id WITH =))
        CREATE TABLE w (r int4range, EXCLUDE USING gist (r WITH &&))
        CREATE TABLE w (id int GENERATED ALWAYS AS IDENTITY DEFAULT 3)
        CREATE TABLE w (a int, b int GENERATED ALWAYS AS (a + c) STORED)
        CREATE TABLE w (a int, b int GENERATED ALWAYS AS (a) VIRTUAL)
        CREATE TABLE w (a int DEFAULT nextval('sq'))
        CREATE TABLE w (a int DEFAULT nextval('nowhere'))
        CREATE TABLE w (a int DEFAULT nope(1))
        CREATE TABLE w (a int CHECK (s1.nope(a)))
        CREATE TABLE w (a nope[])
        CREATE TABLE w (a serial, b bigserial, c smallserial)
        CREATE TABLE w (a t, b t[], c public.mood[], d pg_catalog.int4, e "char", f interval day to second(3))
        CREATE TABLE w (a bit varying(5), b national character varying(3), c time(3) with time zone, d numeric(5, -2))
        CREATE TABLE w (a varchar(0))
        CREATE TABLE w (a numeric(1001))
        CREATE TABLE w (a text COLLATE "nope")
        CREATE TABLE w (a int COLLATE "C")
        CREATE TABLE w (a text STORAGE nope)
        CREATE TABLE w (a text STORAGE external COMPRESSION pglz)
        CREATE TABLE w (a int STORAGE extended)
        CREATE TABLE pg_catalog.w (a int)
        CREATE TABLE pg_temp.w (a int)
        SET search_path = s1, public; CREATE TABLE t (q int)
        SET search_path = s1, public; CREATE OR REPLACE VIEW v AS SELECT 1 AS one
        CREATE TEMP TABLE t (q int); CREATE TABLE t9 (q int); CREATE TABLE t9 (q int)
        ALTER TABLE s1.a SET SCHEMA s1
        ALTER TABLE IF EXISTS nowhere SET SCHEMA nowhere
        ALTER TABLE IF EXISTS nowhere RENAME TO t
        ALTER TABLE s1.a SET SCHEMA public
        ALTER TABLE parent SET UNLOGGED
        ALTER TABLE ul SET LOGGED
        ALTER TABLE t ADD PRIMARY KEY (id, b)
        ALTER TABLE t ADD CONSTRAINT q UNIQUE NULLS NOT DISTINCT (b) INCLUDE (c)
        ALTER TABLE t ADD CONSTRAINT q FOREIGN KEY (b) REFERENCES parent ON DELETE SET NULL (b) NOT VALID
        ALTER TABLE t ADD CONSTRAINT q FOREIGN KEY (b) REFERENCES v
        ALTER TABLE t ADD CONSTRAINT q FOREIGN KEY (c) REFERENCES parent
        ALTER TABLE t ADD CONSTRAINT q FOREIGN KEY (b, id) REFERENCES parent
        ALTER TABLE t ADD CHECK (b > 0 AND nope)
        ALTER TABLE t ADD CHECK (b > (SELECT 1))
        ALTER TABLE t ENABLE TRIGGER nope
        ALTER TABLE t ENABLE TRIGGER ALL
        ALTER TABLE t ENABLE RULE nope
        ALTER TABLE t OF pair
        ALTER TABLE t INHERIT par
        ALTER TABLE t NO INHERIT par
        ALTER TABLE kid INHERIT par
        ALTER TABLE t ATTACH PARTITION base FOR VALUES IN (1)
        ALTER TABLE p ATTACH PARTITION p_new DEFAULT
        ALTER TABLE p ATTACH PARTITION p_new FOR VALUES IN (1)
        ALTER TABLE p ATTACH PARTITION p_new FOR VALUES FROM ('2024-01-10') TO ('2024-01-20')
        ALTER TABLE p ATTACH PARTITION p_new FOR VALUES FROM ('2027-01-10') TO ('2027-01-20')
        ALTER TABLE p ATTACH PARTITION nowhere FOR VALUES FROM ('2027-01-10') TO ('2027-01-20')
        ALTER TABLE p ATTACH PARTITION p_1 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')
        ALTER TABLE p ATTACH PARTITION base FOR VALUES FROM ('2027-01-10') TO ('2027-01-20')
        CREATE TABLE p_9 PARTITION OF p FOR VALUES FROM ('2024-01-10') TO ('2024-01-20')
        CREATE TABLE p_9 PARTITION OF p FOR VALUES FROM ('2024-05-10') TO ('2024-05-01')
        CREATE TABLE p_9 PARTITION OF p FOR VALUES FROM ('2024-05-10') TO ('2024-05-21')
        CREATE TABLE p_9 PARTITION OF p DEFAULT
        CREATE TABLE p_9 PARTITION OF p (id PRIMARY KEY) FOR VALUES FROM ('2024-05-10') TO ('2024-05-21')
        CREATE TABLE p_9 PARTITION OF base FOR VALUES IN (1)
        CREATE TABLE w (a int) PARTITION BY RANGE (nope)
        CREATE TABLE w (a int PRIMARY KEY, b int) PARTITION BY RANGE (b)
        CREATE TABLE w (a int, UNIQUE (a)) PARTITION BY HASH (a)
        CREATE TABLE w (a int, b int) PARTITION BY LIST (a, b)
        CREATE UNLOGGED TABLE w (a int) PARTITION BY HASH (a)
        CREATE TABLE w AS SELECT id FROM t; ALTER TABLE w ADD COLUMN z int; INSERT INTO w VALUES (1, 2)
        CREATE TABLE w (a int); CREATE TABLE w (a int)
        ALTER TABLE p CLUSTER ON p_at
        ALTER TABLE p SET WITHOUT CLUSTER
        ALTER TABLE p DETACH PARTITION p_1 FINALIZE
        ALTER TABLE p DETACH PARTITION p_new FINALIZE
        ALTER TABLE t ADD COLUMN z int COLLATE "C"
        ALTER TABLE t ADD COLUMN z text[] COLLATE "C"
        ALTER TABLE t ALTER COLUMN b TYPE bigint COLLATE "C"
        ALTER TABLE t ADD COLUMN z record
        ALTER TABLE t ADD COLUMN z t
        ALTER TABLE t ADD COLUMN z t[]
        ALTER TABLE t ADD COLUMN z model
        ALTER TABLE t SET SCHEMA pg_catalog
        ALTER TABLE t SET SCHEMA pg_toast
        CREATE TABLE pg_catalog.w (id int)
        ALTER TABLE t SET ACCESS METHOD btree
        CREATE TABLE w (id int) USING btree
        CREATE INDEX ON t USING heap (b)
        SELECT * INTO t FROM base
        SELECT 1 AS a, 2 AS a INTO w
        CREATE TABLE w (id int) ON COMMIT DROP
        CREATE TABLE w ON COMMIT DROP AS SELECT 1
        CREATE TABLE pg_temp.w (id int) ON COMMIT DROP
        CREATE MATERIALIZED VIEW w AS SELECT 1 / 0 AS a WITH NO DATA
        CREATE TABLE w AS SELECT 1 / 0 AS a WITH NO DATA
        CREATE MATERIALIZED VIEW w AS SELECT 1 AS a, 2 AS a WITH NO DATA
        role=gate_owner CREATE TABLE w AS SELECT * FROM base WITH NO DATA
        role=gate_owner CREATE TABLE w AS SELECT * FROM base
        CREATE TYPE w AS (a int); CREATE TABLE w2 OF w; ALTER TABLE w2 ADD COLUMN z int
        ALTER TABLE base ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (START 1000 INCREMENT BY 2 CYCLE)
        CREATE TABLE w (id int GENERATED BY DEFAULT AS IDENTITY (START 10 CACHE 5) PRIMARY KEY)
        CREATE TABLE w (id int, UNIQUE (id) WITH (start = 10))
        CREATE VIEW w WITH (check_option = local) AS SELECT b, count(*) FROM t GROUP BY b
        REINDEX SCHEMA CONCURRENTLY public
        CREATE TABLE w (a int); CREATE TABLE IF NOT EXISTS w (b int); INSERT INTO w (a) VALUES (1)
    """,
)

SINGLE = (MAINTENANCE, PARAMETERS, PARTS)
