-- What `jobplan doctor` and `jobplan dry-run` ask of a server. Every block runs inside `look` … `rollback`, with a
-- statement_timeout and a lock_timeout, and with the search_path pinned as in all of jobplan's sessions.

-- name: look
-- The first statement of every transaction in which something is looked at: nothing can be written in it.
BEGIN TRANSACTION READ ONLY

-- name: facts_server
-- The server, the extension, and what this role may do; one row. No extension: its columns are NULL.
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
       (SELECT setting FROM pg_settings WHERE name = 'default_transaction_read_only'),
       (SELECT source FROM pg_settings WHERE name = 'default_transaction_read_only')
FROM (SELECT) AS one
LEFT JOIN pg_extension AS e ON e.extname = 'pg_background'
LEFT JOIN pg_namespace AS n ON n.oid = e.extnamespace
LEFT JOIN pg_proc AS f ON f.pronamespace = n.oid AND f.proname = 'pg_background_launch' AND f.pronargs = 3

-- name: facts_capacity
-- Workers and connections, taken and allowed; one row. Processes whose kind this role may not see are counted apart.
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
       current_setting('pg_background.max_workers', true)
FROM pg_stat_activity

-- name: facts_old
-- $1 seconds. What holds back VACUUM and CONCURRENTLY in this database: transactions that are older, the oldest first.
-- A transaction of another database counts where it has a snapshot that CONCURRENTLY would not wait for but VACUUM does.
SELECT pid, coalesce(usename, ''), coalesce(application_name, ''), coalesce(state, ''),
       extract(epoch FROM clock_timestamp() - xact_start)::int8, datname = current_database()
FROM pg_stat_activity
WHERE xact_start < clock_timestamp() - make_interval(secs => $1::int4)
  AND pid <> pg_backend_pid() AND backend_type IN ('client backend', 'pg_background')
ORDER BY xact_start
LIMIT 20

-- name: facts_prepared
-- Prepared transactions of this database, the oldest first: they hold their locks and snapshots until somebody ends them.
SELECT gid, owner, extract(epoch FROM clock_timestamp() - prepared)::int8
FROM pg_prepared_xacts
WHERE database = current_database()
ORDER BY prepared
LIMIT 20

-- name: facts_invalid
-- Indexes that a build or a rebuild has left INVALID and that nobody builds at this moment.
SELECT n.nspname, c.relname, t.relname
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_class AS t ON t.oid = i.indrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND c.relkind = 'i'
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.relid = i.indrelid)
ORDER BY 1, 2
LIMIT 20
