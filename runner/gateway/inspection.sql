-- The statements of `jobplan doctor` and `jobplan dry-run`. Every block runs between `look` and `rollback`, with a
-- statement_timeout and a lock_timeout, and with a pinned search_path as in all of jobplan's sessions.

-- name: look
-- The first statement of every inspecting transaction: it is READ ONLY.
BEGIN TRANSACTION READ ONLY

-- name: facts_server
-- The server, the extension, and the privileges of this role; one row. Without the extension its columns are NULL.
SELECT current_setting('server_version'),
       current_setting('server_version_num')::int4,
       current_database(),
       current_user,
       pg_is_in_recovery(),
       pg_backend_pid(),
       e.extversion,
       n.nspname,
       (SELECT default_version FROM pg_available_extensions WHERE name = 'pg_background'),
       has_schema_privilege(n.oid, 'USAGE'),
       has_function_privilege(f.oid, 'EXECUTE'),
       pg_has_role('pg_read_all_stats', 'member'),
       (SELECT setting = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only'),
       (SELECT source FROM pg_settings WHERE name = 'default_transaction_read_only'),
       current_setting('track_activities') = 'on',
       (SELECT setting FROM pg_settings WHERE name = 'track_activity_query_size'),
       pg_has_role('pg_monitor', 'member')
FROM (SELECT) AS one
LEFT JOIN pg_extension AS e ON e.extname = 'pg_background'
LEFT JOIN pg_namespace AS n ON n.oid = e.extnamespace
LEFT JOIN pg_proc AS f ON f.pronamespace = n.oid AND f.proname = 'pg_background_launch' AND f.pronargs = 3

-- name: facts_capacity
-- Used workers and connections, and their limits; one row. Processes of a kind not visible to this role are counted
-- apart.
SELECT current_setting('max_worker_processes')::int4,
       count(*) FILTER (WHERE backend_type NOT IN (
         'client backend', 'autovacuum launcher', 'autovacuum worker', 'background writer', 'checkpointer', 'archiver',
         'startup', 'walreceiver', 'walsender', 'walwriter', 'walsummarizer', 'slotsync worker', 'io worker',
         'standalone backend', 'logger')),
       count(*) FILTER (WHERE backend_type = 'pg_background'),
       count(*) FILTER (WHERE backend_type IS NULL),
       current_setting('max_parallel_workers')::int4,
       current_setting('max_connections')::int4,
       current_setting('superuser_reserved_connections')::int4
         + coalesce(current_setting('reserved_connections', true), '0')::int4,
       count(*) FILTER (WHERE backend_type = 'client backend' OR (backend_type IS NULL AND datid IS NOT NULL)),
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user),
       count(*) FILTER (WHERE usename = session_user AND backend_type = 'client backend'),
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
       count(*) FILTER (WHERE datname = current_database()
                        AND (backend_type = 'client backend' OR backend_type IS NULL)),
       nullif(current_setting('pg_background.max_workers', true), '')
FROM pg_stat_activity

-- name: facts_old
-- $1 seconds. Old transactions of this database, the oldest first: they hold back VACUUM and CONCURRENTLY. A
-- transaction of another database counts if it has a snapshot: VACUUM waits for it, CONCURRENTLY does not.
SELECT pid, coalesce(usename, ''), coalesce(application_name, ''), coalesce(state, ''),
       extract(epoch FROM clock_timestamp() - xact_start)::int8, datname = current_database()
FROM pg_stat_activity
WHERE xact_start < clock_timestamp() - make_interval(secs => $1::int4)
  AND pid <> pg_backend_pid() AND backend_type IN ('client backend', 'pg_background')
ORDER BY xact_start
LIMIT 20

-- name: facts_prepared
-- Prepared transactions of this database, the oldest first: they hold their locks and snapshots until they are
-- finished.
SELECT gid, owner, extract(epoch FROM clock_timestamp() - prepared)::int8
FROM pg_prepared_xacts
WHERE database = current_database()
ORDER BY prepared
LIMIT 20

-- name: facts_invalid
-- Indexes that a build or rebuild has left INVALID and that no session is building now.
SELECT n.nspname, c.relname, t.relname
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_class AS t ON t.oid = i.indrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND c.relkind = 'i'
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.relid = i.indrelid)
ORDER BY 1, 2
LIMIT 20

-- name: repin
-- Unqualified names mean objects in pg_catalog again, whatever search_path the step has.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)

-- name: locks_taken
-- The table locks that this transaction has taken so far, except on system tables.
SELECT n.nspname, c.relname, l.mode, c.relkind
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation'
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND n.nspname NOT IN ('pg_catalog', 'pg_toast')

-- name: surroundings
-- With the settings of a step: its role, its search_path, the predefined roles that it is a member of and that a
-- command may need, as JSON, the database, its other privileges, as JSON, and the names and functions of the event
-- triggers that a worker's commands fire, as JSON.
SELECT current_user, pg_catalog.to_json(pg_catalog.current_schemas(true)),
       (SELECT coalesce(pg_catalog.json_agg(r.name), '[]')
        FROM (VALUES ('pg_read_server_files'), ('pg_write_server_files'), ('pg_execute_server_program'),
                     ('pg_checkpoint'), ('pg_maintain')) AS r(name)
        JOIN pg_catalog.pg_roles AS known ON known.rolname OPERATOR(pg_catalog.=) r.name
        WHERE pg_catalog.pg_has_role(known.oid, 'USAGE')),
       pg_catalog.current_database(),
       (SELECT coalesce(pg_catalog.json_agg(a.name), '[]')
        FROM pg_catalog.pg_roles AS r, pg_catalog.pg_database AS d,
             LATERAL (VALUES ('superuser', r.rolsuper), ('creates_databases', r.rolcreatedb),
                             ('creates_roles', r.rolcreaterole), ('bypasses_policies', r.rolbypassrls),
                             ('owns_database', pg_catalog.pg_has_role(d.datdba, 'USAGE')),
                             ('creates_schemas', pg_catalog.has_database_privilege(d.oid, 'CREATE'))) AS a(name, has)
        WHERE r.rolname OPERATOR(pg_catalog.=) current_user AND a.has
          AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()),
       (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(
                 e.evtname, f.proname, e.evtevent, e.evttags) ORDER BY e.evtname), '[]')
        FROM pg_catalog.pg_event_trigger AS e
        JOIN pg_catalog.pg_proc AS f ON f.oid OPERATOR(pg_catalog.=) e.evtfoid
        WHERE e.evtenabled OPERATOR(pg_catalog.=) ANY ('{O,A}'::"char"[])
          AND e.evtevent OPERATOR(pg_catalog.<>) 'login')

-- name: mentioned
-- $1 JSON array of [sort, schema or null, name], $2 JSON array of the schemas that are searched, $3 role. One row for
-- each existing object: its number in $1; for a tablespace whether the role may create objects there, and its location;
-- for a type whether the role may use it.
SELECT w.n - 1, coalesce(s.open, u.open, true), coalesce(s.location, '')
FROM json_array_elements($1::json) WITH ORDINALITY AS w(wanted, n)
LEFT JOIN LATERAL (
  SELECT has_tablespace_privilege($3::name, ts.oid, 'CREATE') AS open, pg_tablespace_location(ts.oid) AS location
  FROM pg_tablespace AS ts WHERE w.wanted->>0 = 'tablespace' AND ts.spcname = w.wanted->>2) AS s ON true
LEFT JOIN LATERAL (
  SELECT bool_or(has_type_privilege($3::name, t.oid, 'USAGE')) AS open
  FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
  WHERE w.wanted->>0 = 'type' AND t.typname = w.wanted->>2
    AND CASE WHEN w.wanted->>1 IS NULL THEN n.nspname IN (SELECT json_array_elements_text($2::json))
             ELSE n.nspname = w.wanted->>1 END) AS u ON true
WHERE CASE w.wanted->>0
  WHEN 'type' THEN u.open IS NOT NULL
  WHEN 'function' THEN EXISTS (
    SELECT FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.proname = w.wanted->>2
      AND CASE WHEN w.wanted->>1 IS NULL THEN n.nspname IN (SELECT json_array_elements_text($2::json))
               ELSE n.nspname = w.wanted->>1 END)
  WHEN 'role' THEN EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = w.wanted->>2)
  WHEN 'tablespace' THEN s.open IS NOT NULL
  WHEN 'available extension' THEN EXISTS (SELECT FROM pg_available_extensions AS e WHERE e.name = w.wanted->>2)
  WHEN 'extension' THEN EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = w.wanted->>2)
  WHEN 'index access method' THEN EXISTS (SELECT FROM pg_am AS a WHERE a.amname = w.wanted->>2 AND a.amtype = 'i')
  WHEN 'table access method' THEN EXISTS (SELECT FROM pg_am AS a WHERE a.amname = w.wanted->>2 AND a.amtype = 't')
  WHEN 'language' THEN EXISTS (SELECT FROM pg_language AS l WHERE l.lanname = w.wanted->>2)
END

-- name: schemas
-- $1 names as JSON array, $2 role. The existing schemas among these, and the role's privileges in them.
SELECT n.nspname, has_schema_privilege($2::name, n.oid, 'CREATE'), pg_has_role($2::name, n.nspowner, 'USAGE')
FROM pg_namespace AS n
WHERE n.nspname IN (SELECT json_array_elements_text($1::json))

-- name: labels
-- $1 names as JSON array. The labels of the enums with these names.
SELECT t.typname, e.enumlabel
FROM pg_enum AS e
JOIN pg_type AS t ON t.oid = e.enumtypid
WHERE t.typname IN (SELECT json_array_elements_text($1::json))

-- name: functions
-- $1 names as JSON array. The functions with these names: schema, name, volatility, language, whether that is trusted,
-- and the extension that they belong to.
SELECT n.nspname, p.proname, p.provolatile, l.lanname, l.lanpltrusted,
       (SELECT e.extname FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' LIMIT 1)
FROM pg_proc AS p
JOIN pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_language AS l ON l.oid = p.prolang
WHERE p.proname IN (SELECT json_array_elements_text($1::json))
  AND n.nspname <> 'information_schema'

-- name: relations
-- $1 JSON array of [schema or null, name], $2 JSON array of the schemas that are searched, $3 role. One row for each
-- existing relation: its number in $1 and its catalog entries, as JSON. Nothing here locks a relation, so a session
-- with ACCESS EXCLUSIVE does not block it: sizes are those of the last VACUUM or ANALYZE.
SELECT w.n - 1, json_build_object(
  'oid', c.oid::int8, 'relation', json_build_object('schema', c.nspname, 'name', c.relname), 'kind', c.relkind,
  'owner', pg_get_userbyid(c.relowner),
  'owned', pg_has_role($3::name, c.relowner, 'USAGE'),
  'of_database', pg_has_role($3::name, (SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE'),
  'drops', pg_has_role($3::name, c.nspowner, 'USAGE'),
  'reached', has_schema_privilege($3::name, c.nspoid, 'USAGE'),
  'privileges', (
    SELECT coalesce(json_agg(p.name), '[]')
    FROM (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE'), ('TRIGGER'), ('REFERENCES'),
                 (CASE WHEN current_setting('server_version_num')::int4 >= 170000 THEN 'MAINTAIN' END)) AS p(name)
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 't') AND p.name IS NOT NULL
      AND has_table_privilege($3::name, c.oid, p.name)),
  'on_columns', (
    SELECT coalesce(json_agg(p.name), '[]') FROM (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('REFERENCES')) AS p(name)
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 't') AND has_any_column_privilege($3::name, c.oid, p.name)),
  'grants', c.relkind IN ('r', 'p', 'v', 'm', 'f') AND has_table_privilege($3::name, c.oid,
    'SELECT WITH GRANT OPTION, INSERT WITH GRANT OPTION, UPDATE WITH GRANT OPTION, DELETE WITH GRANT OPTION,'
    || ' TRUNCATE WITH GRANT OPTION, REFERENCES WITH GRANT OPTION, TRIGGER WITH GRANT OPTION'),
  'location', pg_tablespace_location(c.reltablespace),
  'bytes', c.relpages::int8 * current_setting('block_size')::int8,
  'rows', greatest(c.reltuples, 0)::int8,
  'populated', c.relispopulated,
  'columns', (SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'types', (SELECT coalesce(json_object_agg(a.attname, a.atttypid::regtype ORDER BY a.attnum), '{}') FROM pg_attribute AS a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'row_security', coalesce(c.relrowsecurity
    AND (c.relforcerowsecurity OR NOT pg_has_role($3::name, c.relowner, 'USAGE'))
    AND NOT (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles AS r WHERE r.rolname = $3::name), false),
  'clustered', (SELECT x.relname FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
                WHERE i.indrelid = c.oid AND i.indisclustered LIMIT 1),
  'sequences', (SELECT coalesce(json_agg(json_build_object('schema', n2.nspname, 'name', s.relname)), '[]')
                FROM pg_depend AS d JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
                JOIN pg_namespace AS n2 ON n2.oid = s.relnamespace
                WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
                  AND d.deptype IN ('a', 'i')),
  'oids', (SELECT coalesce(json_agg(a.atttypid::int8 ORDER BY a.attnum), '[]') FROM pg_attribute AS a
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'constraints', (SELECT coalesce(json_agg(k.conname), '[]') FROM pg_constraint AS k WHERE k.conrelid = c.oid),
  'typed', c.reloftype <> 0,
  'inherited', (SELECT coalesce(json_agg(k.conname), '[]') FROM pg_constraint AS k
                WHERE k.conrelid = c.oid AND k.coninhcount > 0 AND NOT k.conislocal),
  'indexes', (SELECT coalesce(json_agg(json_build_object(
                'relation', json_build_object('schema', xn.nspname, 'name', x.relname),
                'valid', i.indisvalid, 'excludes', i.indisexclusion,
                'unique', i.indisunique OR i.indisexclusion, 'plain', i.indpred IS NULL AND i.indexprs IS NULL,
                'columns', (SELECT coalesce(json_agg(a.attname), '[]') FROM pg_attribute AS a
                            WHERE a.attrelid = i.indrelid
                              AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])),
                'whole', i.indisunique AND i.indisvalid AND i.indimmediate
                         AND i.indpred IS NULL AND i.indexprs IS NULL AND 0 <> ALL (i.indkey),
                'bytes', x.relpages::int8 * current_setting('block_size')::int8)), '[]')
              FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
              JOIN pg_namespace AS xn ON xn.oid = x.relnamespace WHERE i.indrelid = c.oid),
  'index_of', (SELECT json_build_object(
                 'relation', json_build_object('schema', tn.nspname, 'name', t.relname),
                 'valid', i.indisvalid, 'method', am.amname,
                 'excludes', i.indisexclusion,
                 'clusterable', am.amname IN ('btree', 'gist') AND i.indpred IS NULL,
                 'part_of', (SELECT pi.relname FROM pg_inherits AS h JOIN pg_class AS pi ON pi.oid = h.inhparent
                             WHERE h.inhrelid = c.oid LIMIT 1),
                 'owned', pg_has_role($3::name, t.relowner, 'USAGE'),
                 'maintained', CASE WHEN current_setting('server_version_num')::int4 >= 170000
                                    THEN has_table_privilege($3::name, t.oid, 'MAINTAIN') ELSE false END,
                 'constraint', (SELECT k.conname FROM pg_constraint AS k
                                WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x') LIMIT 1))
               FROM pg_index AS i JOIN pg_class AS t ON t.oid = i.indrelid
               JOIN pg_am AS am ON am.oid = c.relam
               JOIN pg_namespace AS tn ON tn.oid = t.relnamespace WHERE i.indexrelid = c.oid),
  'detach_pending', EXISTS (SELECT FROM pg_inherits AS h WHERE h.inhrelid = c.oid AND h.inhdetachpending),
  'partition_of', (SELECT json_build_object('schema', pn.nspname, 'name', p.relname)
                   FROM pg_inherits AS h JOIN pg_class AS p ON p.oid = h.inhparent
                   JOIN pg_namespace AS pn ON pn.oid = p.relnamespace
                   WHERE h.inhrelid = c.oid AND p.relkind IN ('p', 'I') LIMIT 1),
  'default_partition', (SELECT d.relname FROM pg_partitioned_table AS pt JOIN pg_class AS d ON d.oid = pt.partdefid
                        WHERE pt.partrelid = c.oid),
  'children', (WITH RECURSIVE below(oid) AS (
                 SELECT h.inhrelid FROM pg_inherits AS h WHERE h.inhparent = c.oid
                 UNION SELECT h.inhrelid FROM pg_inherits AS h JOIN below AS b ON h.inhparent = b.oid)
               SELECT coalesce(json_agg(json_build_object(
                 'schema', bn.nspname, 'name', b.relname,
                 'bytes', b.relpages::int8 * current_setting('block_size')::int8,
                 'maintained', pg_has_role($3::name, b.relowner, 'USAGE') OR b.relkind NOT IN ('r', 'p', 'm')
                   OR CASE WHEN current_setting('server_version_num')::int4 >= 170000
                           THEN has_table_privilege($3::name, b.oid, 'MAINTAIN') ELSE false END)), '[]')
               FROM below JOIN pg_class AS b ON b.oid = below.oid JOIN pg_namespace AS bn ON bn.oid = b.relnamespace),
  'referenced_by', (SELECT coalesce(json_agg(json_build_object(
                      'relation', json_build_object('schema', rn.nspname, 'name', r.relname),
                      'constraint', k.conname, 'on_delete', k.confdeltype, 'on_update', k.confupdtype,
                      'columns', (SELECT coalesce(json_agg(a.attname), '[]') FROM pg_attribute AS a
                                  WHERE a.attrelid = k.confrelid AND a.attnum = ANY (k.confkey)))), '[]')
                    FROM pg_constraint AS k JOIN pg_class AS r ON r.oid = k.conrelid
                    JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
                    WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0),
  'refers_to', (SELECT coalesce(json_agg(json_build_object(
                  'relation', json_build_object('schema', rn.nspname, 'name', r.relname), 'constraint', k.conname,
                  'columns', (SELECT coalesce(json_agg(a.attname), '[]') FROM pg_attribute AS a
                              WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)))), '[]')
                FROM pg_constraint AS k JOIN pg_class AS r ON r.oid = k.confrelid
                JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
                WHERE k.conrelid = c.oid AND k.contype = 'f'),
  'triggers', (SELECT coalesce(json_agg(json_build_object(
                 'name', g.tgname, 'function', f.proname,
                 'fires', (SELECT coalesce(json_agg(e.name), '[]')
                           FROM (VALUES (4, 'INSERT'), (8, 'DELETE'), (16, 'UPDATE'), (32, 'TRUNCATE')) AS e(bit, name)
                           WHERE g.tgtype & e.bit > 0)) ORDER BY g.tgname), '[]')
               FROM pg_trigger AS g JOIN pg_proc AS f ON f.oid = g.tgfoid
               WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D'
                 AND f.pronamespace <> 'pg_catalog'::regnamespace),
  'attached', (SELECT coalesce(json_agg(json_build_array(b.sort, b.name)), '[]') FROM (
                 SELECT 'trigger', g.tgname FROM pg_trigger AS g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal
                 UNION ALL SELECT 'rule', w.rulename FROM pg_rewrite AS w WHERE w.ev_class = c.oid
                 UNION ALL SELECT 'policy', y.polname FROM pg_policy AS y WHERE y.polrelid = c.oid) AS b(sort, name)),
  'views', (SELECT coalesce(json_agg(DISTINCT jsonb_build_object('schema', vn.nspname, 'name', v.relname)), '[]')
            FROM pg_depend AS d JOIN pg_rewrite AS rw ON rw.oid = d.objid JOIN pg_class AS v ON v.oid = rw.ev_class
            JOIN pg_namespace AS vn ON vn.oid = v.relnamespace
            WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
              AND d.refobjid = c.oid AND v.oid <> c.oid),
  'dependents', (SELECT coalesce(json_agg(DISTINCT jsonb_build_object(
                   'what', pg_describe_object(d.classid, d.objid, 0), 'function', f.proname,
                   'relation', CASE WHEN r.oid IS NOT NULL
                                    THEN jsonb_build_object('schema', rn.nspname, 'name', r.relname) END)), '[]')
                 FROM pg_depend AS d
                 LEFT JOIN pg_policy AS y ON d.classid = 'pg_policy'::regclass AND y.oid = d.objid
                 LEFT JOIN pg_proc AS f ON d.classid = 'pg_proc'::regclass AND f.oid = d.objid
                 LEFT JOIN pg_class AS r ON r.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE y.polrelid END
                 LEFT JOIN pg_namespace AS rn ON rn.oid = r.relnamespace
                 WHERE d.deptype = 'n' AND (r.oid IS NOT NULL OR f.oid IS NOT NULL) AND r.oid IS DISTINCT FROM c.oid
                   AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
                     OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (c.reltype, (
                       SELECT t.typarray FROM pg_type AS t WHERE t.oid = c.reltype AND t.typarray <> 0)) AND c.reltype <> 0)
                   AND NOT EXISTS (SELECT FROM pg_depend AS o WHERE o.classid = d.classid AND o.objid = d.objid
                     AND o.refclassid = 'pg_class'::regclass AND o.refobjid = c.oid AND o.deptype IN ('a', 'i'))),
  'reads', (WITH RECURSIVE read(oid, kind) AS (
              SELECT c.oid, c.relkind
              UNION
              SELECT b.oid, b.relkind FROM read AS r JOIN pg_rewrite AS rw ON rw.ev_class = r.oid
              JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = rw.oid
                AND d.refclassid = 'pg_class'::regclass
              JOIN pg_class AS b ON b.oid = d.refobjid
              WHERE r.kind = 'v' OR r.oid = c.oid)
            SELECT coalesce(json_agg(json_build_object('schema', bn.nspname, 'name', b.relname)), '[]')
            FROM read JOIN pg_class AS b ON b.oid = read.oid JOIN pg_namespace AS bn ON bn.oid = b.relnamespace
            WHERE c.relkind IN ('v', 'm') AND read.oid <> c.oid AND b.relkind IN ('r', 'p', 'm', 'f')))
FROM json_array_elements($1::json) WITH ORDINALITY AS w(wanted, n)
CROSS JOIN LATERAL (
  SELECT k.*, s.nspname, s.nspowner, s.oid AS nspoid
  FROM pg_class AS k
  JOIN pg_namespace AS s ON s.oid = k.relnamespace
  LEFT JOIN json_array_elements_text($2::json) WITH ORDINALITY AS p(schema, place) ON p.schema = s.nspname
  WHERE k.relname = w.wanted->>1
    AND CASE WHEN w.wanted->>0 IS NULL THEN p.place IS NOT NULL ELSE s.nspname = w.wanted->>0 END
  ORDER BY p.place
  LIMIT 1) AS c

-- name: sizes
-- $1 OIDs as JSON array. For each relation without an ACCESS EXCLUSIVE lock: the bytes of the relation with indexes,
-- TOAST and partitions, and those of the indexes alone. It locks each relation for a moment.
WITH RECURSIVE part(root, oid) AS (
  SELECT o.oid::oid, o.oid::oid FROM json_array_elements_text($1::json) AS o(oid)
  UNION SELECT p.root, h.inhrelid FROM part AS p JOIN pg_inherits AS h ON h.inhparent = p.oid)
SELECT p.root, sum(pg_total_relation_size(p.oid))::int8, sum(pg_indexes_size(p.oid))::int8
FROM part AS p
WHERE p.root NOT IN (
  SELECT q.root FROM part AS q JOIN pg_locks AS l ON l.relation = q.oid
  WHERE l.mode = 'AccessExclusiveLock' AND l.locktype = 'relation'
    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
GROUP BY p.root

-- name: activity
-- The sessions that hold or await a table lock in this database: table, mode, whether it is held, session, and since
-- when. A prepared transaction has no process, but a name.
SELECT n.nspname, c.relname, l.mode, l.granted, coalesce(l.pid, 0), coalesce(a.usename, x.owner, ''),
       coalesce(a.application_name, x.gid, ''), coalesce(a.state, 'prepared'),
       coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, x.prepared))::int8, 0)
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
LEFT JOIN pg_locks AS t  -- every prepared transaction has a lock on itself
  ON l.pid IS NULL AND t.pid IS NULL AND t.locktype = 'transactionid' AND t.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts AS x ON x.transaction = t.transactionid
WHERE l.locktype = 'relation' AND (l.pid IS NULL OR l.pid <> pg_backend_pid())
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND n.nspname NOT IN ('pg_catalog', 'pg_toast')
ORDER BY 9 DESC
LIMIT 500

-- name: snapshots
-- $1 seconds. Transactions of this database with a snapshot that a build CONCURRENTLY would have to wait for; it does
-- not wait for VACUUM.
SELECT pid, coalesce(usename, ''), coalesce(application_name, ''), coalesce(state, ''),
       extract(epoch FROM clock_timestamp() - xact_start)::int8, true
FROM pg_stat_activity
WHERE datname = current_database() AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
  AND pid NOT IN (SELECT v.pid FROM pg_stat_progress_vacuum AS v)
  AND xact_start < clock_timestamp() - make_interval(secs => $1::float8)
ORDER BY xact_start
LIMIT 20

-- name: group_held
-- $1 group. The holder of a concurrency group, without locking it: application_name and start.
SELECT a.application_name, to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
FROM pg_locks AS l
JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::int8 << 32) | l.objid::int8 = hashtextextended('jobplan:' || $1::text, 0)

-- name: may_be
-- $1 role. Whether this session's user is a member of it; no row if it does not exist.
SELECT pg_has_role(r.oid, 'member') FROM pg_roles AS r WHERE r.rolname = $1::text

-- name: ledger_place
-- The schemas of ledgers in this database that this role may read. Their owners are checked with `ledger_distrust`.
SELECT n.nspname
FROM pg_class AS v
JOIN pg_namespace AS n ON n.oid = v.relnamespace
WHERE v.relname = 'durations' AND v.relkind = 'v'
  AND EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = n.oid AND c.relname = 'commits' AND c.relkind = 'r')
  AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(v.oid, 'SELECT')
ORDER BY 1
LIMIT 20

-- name: ledger_durations
-- $1 plan, $2 runs. The times of its steps in that many of its latest runs, in seconds: step, runs, median and 95th
-- percentile of whole steps that succeeded, with their pauses and retries, and the 95th percentile and the median of
-- their attempts; no runs if only attempts have succeeded, as the iterations of a loop that is not done.
-- The time between two runners of a run does not count.
WITH latest AS MATERIALIZED (
  SELECT r.run, r.writer FROM {ledger}.runs AS r WHERE r.plan = $1::text ORDER BY r.started_at DESC LIMIT $2::int4),
happened AS MATERIALIZED (
  SELECT e.run, e.writer, e.step, e.attempt, e.event, e.at, e.body,
         count(*) FILTER (WHERE e.event = 'run_resumed') OVER (PARTITION BY e.run, e.writer ORDER BY e.seq) AS runner
  FROM {ledger}.events AS e JOIN latest USING (run, writer)
  WHERE e.event IN ('attempt_launching', 'attempt_finished', 'step_finished', 'run_resumed')),
timed AS (
  SELECT run, writer, step, min(runner) AS runner, max(at) FILTER (WHERE event = 'attempt_launching') AS began,
         max(at) FILTER (WHERE event = 'attempt_finished') AS ended
  FROM happened WHERE event IN ('attempt_launching', 'attempt_finished')
  GROUP BY run, writer, step, attempt),
spans AS (
  SELECT run, writer, step, runner, min(began) AS began, max(ended) AS ended
  FROM timed WHERE began IS NOT NULL AND ended IS NOT NULL
  GROUP BY run, writer, step, runner),
took AS (
  SELECT s.step, extract(epoch FROM sum(CASE WHEN s.runner = e.runner THEN e.at ELSE s.ended END - s.began))::float8
         AS seconds
  FROM happened AS e JOIN spans AS s USING (run, writer, step)
  WHERE e.event = 'step_finished' AND e.body ->> 'state' = 'succeeded'
  GROUP BY e.run, e.writer, s.step, e.at),
attempts AS (
  SELECT e.step, count(*) AS n, percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM
           (e.body ->> 'finished_at')::timestamptz - (e.body ->> 'started_at')::timestamptz)::float8) AS p95,
         percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM
           (e.body ->> 'finished_at')::timestamptz - (e.body ->> 'started_at')::timestamptz)::float8) AS p50
  FROM happened AS e
  WHERE e.event = 'attempt_finished' AND e.body ->> 'outcome' = 'succeeded'
  GROUP BY e.step)
SELECT step, count(t.seconds), percentile_cont(0.5) WITHIN GROUP (ORDER BY t.seconds),
       percentile_cont(0.95) WITHIN GROUP (ORDER BY t.seconds), min(a.p95), min(a.p50), min(a.n)
FROM took AS t
FULL JOIN attempts AS a USING (step)
GROUP BY step

-- name: data_directory
-- The server's data directory; no row without the privilege.
SELECT setting FROM pg_settings WHERE name = 'data_directory'

-- name: own_code
-- $1 names in statements, $2 their operators, both as JSON arrays. Functions that planning or reading such a statement
-- could execute and that are neither PostgreSQL's own nor an extension's, with the word that leads to them: their own
-- name, or that of a relation, a type or an operator (views, policies, defaults, constraints, indexes, partition keys,
-- domains, casts of a type); for casts between types of PostgreSQL and of extensions, which no word names, the word is
-- empty. The constructors of a range type, which come with it (deptype i), are PostgreSQL's own. At most three functions
-- for each word. Only the catalogs are read. Triggers are left out: planning executes none.
WITH RECURSIVE words AS (
  SELECT json_array_elements_text($1::json) AS word
), own AS (
  SELECT p.oid, p.proname FROM pg_proc AS p
  WHERE p.oid >= 16384 AND NOT EXISTS (
    SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
), reached (word, classid, objid) AS (
  SELECT c.relname::text, 'pg_class'::regclass::oid, c.oid FROM pg_class AS c
  WHERE c.oid >= 16384 AND c.relname::text IN (SELECT word FROM words)
  UNION
  SELECT t.typname::text, 'pg_type'::regclass::oid, t.oid FROM pg_type AS t
  WHERE t.oid >= 16384 AND t.typtype <> 'c' AND t.typname::text IN (SELECT word FROM words)
  UNION
  SELECT r.word, n.classid, n.objid
  FROM reached AS r
  CROSS JOIN LATERAL (
    SELECT d.refclassid AS classid, d.refobjid AS objid
    FROM pg_depend AS d
    WHERE d.classid = r.classid AND d.objid = r.objid AND d.refobjid >= 16384
      AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_operator'::regclass,
                           'pg_opclass'::regclass, 'pg_opfamily'::regclass)
    UNION ALL SELECT 'pg_rewrite'::regclass, w.oid FROM pg_rewrite AS w
      WHERE r.classid = 'pg_class'::regclass AND w.ev_class = r.objid
    UNION ALL SELECT 'pg_policy'::regclass, p.oid FROM pg_policy AS p
      WHERE r.classid = 'pg_class'::regclass AND p.polrelid = r.objid
    UNION ALL SELECT 'pg_attrdef'::regclass, a.oid FROM pg_attrdef AS a
      WHERE r.classid = 'pg_class'::regclass AND a.adrelid = r.objid
    UNION ALL SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint AS c
      WHERE r.classid = 'pg_class'::regclass AND c.conrelid = r.objid AND c.contype IN ('c', 'x')
    UNION ALL SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint AS c
      WHERE r.classid = 'pg_type'::regclass AND c.contypid = r.objid
    UNION ALL SELECT 'pg_class'::regclass, i.indexrelid FROM pg_index AS i
      WHERE r.classid = 'pg_class'::regclass AND i.indrelid = r.objid
    UNION ALL SELECT 'pg_class'::regclass, i.inhrelid FROM pg_inherits AS i
      WHERE r.classid = 'pg_class'::regclass AND i.inhparent = r.objid
    UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid FROM pg_statistic_ext AS s
      WHERE r.classid = 'pg_class'::regclass AND s.stxrelid = r.objid
  ) AS n
), found AS (
  SELECT proname::text AS word, oid FROM own WHERE proname::text IN (SELECT word FROM words)
  UNION SELECT word, objid FROM reached WHERE classid = 'pg_proc'::regclass AND objid IN (SELECT oid FROM own)
  UNION SELECT o.oprname::text, o.oprcode FROM pg_operator AS o
    WHERE o.oid >= 16384 AND o.oprcode IN (SELECT oid FROM own)
      AND o.oprname::text IN (SELECT json_array_elements_text($2::json))
  UNION SELECT '', c.castfunc FROM pg_cast AS c
    WHERE c.castfunc IN (SELECT oid FROM own) AND NOT EXISTS (
      SELECT FROM pg_type AS t WHERE t.oid IN (c.castsource, c.casttarget) AND t.oid >= 16384 AND NOT EXISTS (
        SELECT FROM pg_depend AS d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'))
  UNION SELECT r.word, c.castfunc FROM reached AS r JOIN pg_cast AS c ON r.objid IN (c.castsource, c.casttarget)
    WHERE r.classid = 'pg_type'::regclass AND c.castfunc IN (SELECT oid FROM own)
)
SELECT f.word, unnest((array_agg(DISTINCT format('%I.%I()', n.nspname, p.proname)))[1:3])
FROM found AS f JOIN pg_proc AS p USING (oid) JOIN pg_namespace AS n ON n.oid = p.pronamespace
GROUP BY f.word
