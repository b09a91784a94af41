-- Everything that jobplan asks of a server, in named blocks. "{ext}" is the schema of pg_background, quoted.
-- Functions are qualified because a step may change the search_path (extension note 15).

-- name: server
-- The server, the extension and whether this role may use it; one row. No extension: its columns are NULL.
SELECT current_setting('server_version'),
       current_setting('server_version_num')::int4,
       e.extversion,
       n.nspname,
       current_database(),
       current_user,
       current_setting('max_worker_processes')::int4,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE')
         AND pg_catalog.has_function_privilege(f.oid, 'EXECUTE'),
       EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'pg_background')
FROM (SELECT) one
LEFT JOIN pg_catalog.pg_extension e ON e.extname = 'pg_background'
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
LEFT JOIN pg_catalog.pg_proc f
       ON f.pronamespace = n.oid AND f.proname = 'pg_background_launch' AND f.pronargs = 3

-- name: load
-- Loads the extension's library, without which its settings do not exist yet (note 6), and pins the session's own
-- settings: a role's statement_timeout must not end a wait, and quoting must mean what jobplan's parser takes it for.
SELECT pg_catalog.count(*),
       pg_catalog.set_config('statement_timeout', '0', false),
       pg_catalog.set_config('standard_conforming_strings', 'on', false)
FROM {ext}.pg_background_stats()

-- name: launch
-- $1 SQL, $2 queue size in bytes, $3 settings as JSON object of text, in the order in which they are to be set.
-- One statement is one transaction: the settings are local to it, and the worker inherits them (notes, "The API").
WITH settings AS MATERIALIZED (
  SELECT pg_catalog.count(pg_catalog.set_config(s.key, s.value, true)) AS n
  FROM pg_catalog.json_each_text($3::pg_catalog.json) AS s
)
SELECT h.pid, h.cookie
FROM settings, LATERAL {ext}.pg_background_launch(
  CASE WHEN settings.n >= 0 THEN $1::pg_catalog.text END, $2::pg_catalog.int4, '') AS h

-- name: free_workers
-- How many of max_worker_processes are free, as far as this role can see; autovacuum and the server's own processes do
-- not count against it, logical replication and parallel query do (note 9).
SELECT current_setting('max_worker_processes')::int4 - pg_catalog.count(*)::int4
FROM pg_catalog.pg_stat_activity
WHERE backend_type NOT IN (
  'client backend', 'autovacuum launcher', 'autovacuum worker', 'background writer', 'checkpointer', 'archiver',
  'startup', 'walreceiver', 'walsender', 'walwriter', 'walsummarizer', 'slotsync worker', 'io worker',
  'standalone backend', 'logger')

-- name: wait
-- $1 milliseconds, never more than 250: the statement holds a snapshot for so long (note 3). The session tracks one
-- worker at a time (note 2), so it is the only row of the list. No row: this session has no handle.
SELECT h.pid, h.cookie, w.done, i.row_count, i.command_tag, i.has_error,
       pg_catalog.date_part('epoch', i.started_at), pg_catalog.date_part('epoch', i.finished_at)
FROM (SELECT pid, cookie FROM {ext}.pg_background_list LIMIT 1) AS h,
     LATERAL {ext}.pg_background_wait(h.pid, h.cookie, $1::pg_catalog.int4) AS w(done),
     LATERAL {ext}.pg_background_result_info(CASE WHEN w.done IS NOT NULL THEN h.pid END, h.cookie) AS i

-- name: error
-- $1 pid, $2 cookie. The error of a worker that has gone; reading it does not consume it.
SELECT sqlstate, message, detail, hint, context, schema_name, table_name, column_name, constraint_name
FROM {ext}.pg_background_error_info($1::pg_catalog.int4, $2::pg_catalog.int8)

-- name: drain
-- $1 pid, $2 cookie. Notices, command tags, and the end of the handle (note 11). Blocks until the worker has gone.
SELECT t FROM {ext}.pg_background_result($1::pg_catalog.int4, $2::pg_catalog.int8) AS (t pg_catalog.text)

-- name: detach
-- $1 pid, $2 cookie. The worker goes on and commits (note 8).
SELECT {ext}.pg_background_detach($1::pg_catalog.int4, $2::pg_catalog.int8)

-- name: identify
-- $1 application_name, $2 pid. A pid that a launch returned may be garbage (note 2), so it only breaks ties.
SELECT pid, backend_start, application_name
FROM pg_catalog.pg_stat_activity
WHERE backend_type = 'pg_background' AND application_name = $1::pg_catalog.text
ORDER BY (pid = $2::pg_catalog.int4) DESC, backend_start DESC
LIMIT 1

-- name: workers
-- $1 LIKE pattern of application names. All workers of a run, and whether one is stopped by its full queue (note 4).
SELECT pid, backend_start, application_name, wait_event = 'MessageQueuePutMessage'
FROM pg_catalog.pg_stat_activity
WHERE backend_type = 'pg_background' AND application_name LIKE $1::pg_catalog.text

-- name: cancel
-- $1 pid, $2 backend_start, $3 application_name: signalled only if all three are seen together (note 2). It is the same
-- SIGTERM as the extension's own cancel, but works from any session. No row: the worker has gone.
SELECT pg_catalog.pg_terminate_backend(pid)
FROM pg_catalog.pg_stat_activity
WHERE backend_type = 'pg_background' AND pid = $1::pg_catalog.int4
  AND backend_start = $2::pg_catalog.timestamptz AND application_name = $3::pg_catalog.text
