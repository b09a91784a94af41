-- All statements of a run, in named blocks. "{ext}" is the schema of pg_background, quoted. `path` and `pin` are the
-- first statements of a session; in all others an unqualified name means an object in pg_catalog
-- (docs/pg_background.md#helper-functions-use-search-path). The role of a step is set within the statement, because
-- only a role with its privileges may query its worker; the privilege for the extension's functions is checked before,
-- for the login role.

-- name: path
-- The search_path and the role of the login role or the database: workers get them, `pin` replaces the path. And the
-- pid of the backend, which behind a pooler is not the one that the connection received.
SELECT pg_catalog.current_setting('search_path'), pg_catalog.current_setting('role'), pg_catalog.pg_backend_pid()

-- name: pin
-- Names and quoting must be independent of the schemas and settings of the login role.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false),
       pg_catalog.set_config('standard_conforming_strings', 'on', false)

-- name: unlimit
-- A timeout of the role or the database must not end a wait, a drain, or an idle launcher session. It does not apply to
-- a worker, whose limit is its step's. Older servers lack the second setting. (pg_settings would format every setting,
-- which would be most of the cost of preparing a session.)
SELECT count(set_config(name, '0', false))
FROM unnest(ARRAY['statement_timeout', 'transaction_timeout', 'idle_session_timeout']) AS name
WHERE current_setting(name, true) IS NOT NULL

-- name: server
-- The server, the extension and whether this role may use it; one row. Without the extension its columns are NULL.
SELECT current_setting('server_version'),
       current_setting('server_version_num')::int4,
       e.extversion,
       n.nspname,
       current_database(),
       current_user,
       current_setting('max_worker_processes')::int4,
       has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(f.oid, 'EXECUTE'),
       EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_background')
FROM (SELECT) one
LEFT JOIN pg_extension e ON e.extname = 'pg_background'
LEFT JOIN pg_namespace n ON n.oid = e.extnamespace
LEFT JOIN pg_proc f ON f.pronamespace = n.oid AND f.proname = 'pg_background_launch' AND f.pronargs = 3

-- name: place
-- The session's location: its database, the start of the server process, the time, whether it is a standby; on a
-- primary also its timeline in hexadecimal digits and the flushed WAL position. Every role may read these.
SELECT d.datname, d.oid, to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
       to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), pg_is_in_recovery(),
       CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() - '0/0'::pg_lsn END
FROM pg_database AS d
WHERE d.datname = current_database()

-- name: system
-- The identity of the cluster. A role without the privilege gets an error, and the run does without it.
SELECT system_identifier FROM pg_control_system()

-- name: standby
-- Whether the server is a standby: no worker can start there, because its settings cannot be set ("failed to initialize
-- transaction_read_only", pg_background 2.0 on PostgreSQL 18).
SELECT pg_is_in_recovery()

-- name: load
-- The number of handles of the session, and of workers that it has launched. It also loads the extension's library,
-- without which its settings do not exist (docs/pg_background.md#timeouts-are-armed-at-launch).
SELECT workers_active, workers_launched FROM {ext}.pg_background_stats()

-- name: settings
-- $1 settings as JSON object of text, in the order in which they are set, local to the transaction.
SELECT count(set_config(s.key, s.value, true)) FROM json_each_text($1::json) AS s

-- name: begin
-- Encloses `launch` with `commit`: its settings end there, although other statements follow in the round trip.
BEGIN

-- name: commit
-- See `begin`.
COMMIT

-- name: chain
-- Ends a transaction with its snapshots, and begins the next one.
COMMIT AND CHAIN

-- name: rollback
-- Ends the block of `begin` when `launch` has failed.
ROLLBACK

-- name: launch
-- $1 SQL, $2 queue size in bytes, $3 settings as in `settings`. One statement is one transaction: the settings are
-- local to it, and the worker inherits them (docs/pg_background.md#timeouts-are-armed-at-launch). The last column is
-- the time before the launch: the worker's backend_start is not earlier.
WITH settings AS MATERIALIZED (
  SELECT count(set_config(s.key, s.value, true)) AS n FROM json_each_text($3::json) AS s
)
SELECT h.pid, h.cookie, to_char(statement_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
FROM settings,
     LATERAL {ext}.pg_background_launch(CASE WHEN settings.n >= 0 THEN $1::text END, $2::int4, '') AS h

-- name: trusted
-- Part of other queries, with $1 roles that have executed the run, as JSON array: whether the role r, if it exists, can
-- be the run's. It can if it is this session's, one of $1, a superuser, or a member of this session's. The roles that
-- this session's is a member of do not count: a superuser is a member of every role.
coalesce(r.rolname = session_user OR r.rolsuper OR pg_has_role(r.oid, session_user, 'MEMBER')
         OR r.rolname IN (SELECT json_array_elements_text($1::json)), false)

-- name: nothing
-- Empty statement before `launch_at_once`: a reply to it shows that the session had not ended before.

-- name: launch_at_once
-- $1 SQL, $2 queue size in bytes, $3 application_name, $4 pg_background.worker_timeout, $5 lock_timeout, empty for that
-- of the session, $6 search_path, $7 milliseconds as for `wait`. Combines `launch`, `wait` and `drain_ended` in one
-- statement: each alone costs as much as all of them here, and that is most of the overhead of a short step. The
-- session has its own name again before it waits. The last column but one is as in `launch`. If the worker has
-- succeeded (`confirmed`, possibly right after the wait), there is one row for each command tag; else one row as in
-- `wait`.
SELECT h.pid, h.cookie, w.done OR p.confirmed, i.row_count, i.command_tag, i.has_error,
       extract(epoch FROM i.started_at), extract(epoch FROM i.finished_at), p.confirmed,
       to_char(statement_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), r.t
FROM (
       SELECT current_setting('application_name') AS own,
              set_config('application_name', $3::text, true) AS name,
              set_config('pg_background.worker_timeout', $4::text, true) AS timeout,
              set_config('lock_timeout', coalesce(nullif($5::text, ''), current_setting('lock_timeout')), true) AS locks,
              set_config('search_path', $6::text, true) AS path
       OFFSET 0
     ) AS s,
     LATERAL {ext}.pg_background_launch(
       CASE WHEN num_nulls(s.own, s.name, s.timeout, s.locks, s.path) = 0 THEN $1::text END, $2::int4, '') AS h,
     LATERAL set_config('application_name', CASE WHEN h.pid IS NOT NULL THEN s.own END, true) AS again,
     LATERAL {ext}.pg_background_wait(CASE WHEN again IS NOT NULL THEN h.pid END, h.cookie, $7::int4) AS w(done),
     LATERAL {ext}.pg_background_result_info(CASE WHEN w.done IS NOT NULL THEN h.pid END, h.cookie) AS i,
     LATERAL (
       SELECT i.completed AND NOT i.has_error AND i.command_tag <> '' AND i.finished_at IS NOT NULL AS confirmed
     ) AS p
     LEFT JOIN LATERAL {ext}.pg_background_result(CASE WHEN p.confirmed THEN h.pid END, h.cookie) AS r(t text) ON true

-- name: wait_at_once
-- $1 milliseconds as for `wait`. The row of `launch_at_once` for the worker that it has launched; no row if its output
-- was read already. It may follow such a launch in the same round trip, after `chain`, with a new snapshot.
SELECT h.pid, h.cookie, w.done OR p.confirmed, i.row_count, i.command_tag, i.has_error,
       extract(epoch FROM i.started_at), extract(epoch FROM i.finished_at), p.confirmed, r.t
FROM (SELECT pid, cookie FROM {ext}.pg_background_list LIMIT 1) AS h,
     LATERAL {ext}.pg_background_wait(h.pid, h.cookie, $1::int4) AS w(done),
     LATERAL {ext}.pg_background_result_info(CASE WHEN w.done IS NOT NULL THEN h.pid END, h.cookie) AS i,
     LATERAL (
       SELECT i.completed AND NOT i.has_error AND i.command_tag <> '' AND i.finished_at IS NOT NULL AS confirmed
     ) AS p
     LEFT JOIN LATERAL {ext}.pg_background_result(CASE WHEN p.confirmed THEN h.pid END, h.cookie) AS r(t text) ON true

-- name: claim
-- $1 number of the launch. Announces a launch to every other run on the server: advisory locks are visible in pg_locks
-- from all databases and to all roles, although they exclude nothing in another database. 1785684592 stands for
-- jobplan.
SELECT pg_advisory_lock(1785684592, $1::int4)

-- name: claims
-- The launches that other sessions have announced. Read before `free_workers`: a claim is removed only when its worker
-- is in pg_stat_activity, so a launch is counted at least once.
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND classid = 1785684592 AND objsubid = 2 AND granted AND pid <> pg_backend_pid()

-- name: unclaim
-- $1 number of the launch, $2 pid of its worker. One row if the worker is visible and the claim was removed.
SELECT pg_advisory_unlock(1785684592, $1::int4) FROM pg_stat_activity WHERE pid = $2::int4

-- name: unclaim_now
-- $1 number of the launch.
SELECT pg_advisory_unlock(1785684592, $1::int4)

-- name: free_workers
-- The number of free max_worker_processes, as far as visible to this role, and the pids of all workers of the extension
-- as JSON. Autovacuum and the server's own processes do not count, logical replication and parallel query do
-- (docs/pg_background.md#capacity-errors).
SELECT current_setting('max_worker_processes')::int4 - count(*),
       coalesce(json_agg(pid) FILTER (WHERE backend_type = 'pg_background'), '[]')
FROM pg_stat_activity
WHERE backend_type NOT IN (
  'client backend', 'autovacuum launcher', 'autovacuum worker', 'background writer', 'checkpointer', 'archiver',
  'startup', 'walreceiver', 'walsender', 'walwriter', 'walsummarizer', 'slotsync worker', 'io worker',
  'standalone backend', 'logger')

-- name: wait
-- $1 milliseconds, at most polling.SLICE: the statement holds a snapshot during that time
-- (docs/pg_background.md#waiting-holds-a-snapshot); $2 role. The session tracks one worker at a time
-- (docs/pg_background.md#one-worker-per-session), so the list has one row. No row: the session has no handle.
WITH me AS MATERIALIZED (SELECT set_config('role', $2::text, true) AS role)
SELECT h.pid, h.cookie, w.done, i.row_count, i.command_tag, i.has_error,
       extract(epoch FROM i.started_at), extract(epoch FROM i.finished_at)
FROM me,
     LATERAL (SELECT pid, cookie FROM {ext}.pg_background_list WHERE me.role IS NOT NULL LIMIT 1) AS h,
     LATERAL {ext}.pg_background_wait(h.pid, h.cookie, $1::int4) AS w(done),
     LATERAL {ext}.pg_background_result_info(CASE WHEN w.done IS NOT NULL THEN h.pid END, h.cookie) AS i

-- name: follow
-- $1 role. The row of `wait` without the wait, and the worker's last progress report: a percentage and a message. The
-- statement holds its snapshot for less than a millisecond. pg_background_wait, which says whether the worker has
-- ended, is called only when it returns at once; the outcome is read afterwards.
WITH me AS MATERIALIZED (SELECT set_config('role', $1::text, true) AS role)
SELECT h.pid, h.cookie, w.done, i.row_count, i.command_tag, i.has_error,
       extract(epoch FROM i.started_at), extract(epoch FROM i.finished_at),
       (p.report).progress_pct, (p.report).progress_msg
FROM me,
     LATERAL (SELECT pid, cookie FROM {ext}.pg_background_list WHERE me.role IS NOT NULL LIMIT 1) AS h,
     LATERAL {ext}.pg_background_result_info(h.pid, h.cookie) AS n,
     LATERAL (
       SELECT CASE WHEN n.completed THEN {ext}.pg_background_wait(h.pid, h.cookie, 1) ELSE false END AS done OFFSET 0
     ) AS w,
     LATERAL {ext}.pg_background_result_info(CASE WHEN w.done IS NOT NULL THEN h.pid END, h.cookie) AS i,
     LATERAL (
       SELECT CASE WHEN NOT w.done THEN {ext}.pg_background_get_progress(h.pid, h.cookie) END AS report OFFSET 0
     ) AS p

-- name: drain_ended
-- $1 role. As `drain`, for the worker of this session if it has succeeded; sent with `wait`, to save a round trip. It
-- is a separate statement, so that the result of `wait` is kept if the output cannot be read. The worker may end
-- between the two, so each tag comes with the row that `wait` would return.
WITH me AS MATERIALIZED (SELECT set_config('role', $1::text, true) AS role)
SELECT h.pid, h.cookie, true, i.row_count, i.command_tag, i.has_error,
       extract(epoch FROM i.started_at), extract(epoch FROM i.finished_at), r.t
FROM me,
     LATERAL (SELECT pid, cookie FROM {ext}.pg_background_list WHERE me.role IS NOT NULL LIMIT 1) AS h,
     LATERAL {ext}.pg_background_result_info(h.pid, h.cookie) AS i,
     LATERAL {ext}.pg_background_result(
       CASE WHEN i.completed AND NOT i.has_error AND i.command_tag <> '' AND i.finished_at IS NOT NULL THEN h.pid END,
       h.cookie) AS r(t text)

-- name: detach_worker
-- $1 role. The row of `wait`; the worker is detached unless it has ended: it continues and commits
-- (docs/pg_background.md#workers-outlive-their-launcher). A wait of 0 would have no limit.
WITH me AS MATERIALIZED (SELECT set_config('role', $1::text, true) AS role)
SELECT h.pid, h.cookie, w.done, i.row_count, i.command_tag, i.has_error,
       extract(epoch FROM i.started_at), extract(epoch FROM i.finished_at),
       CASE WHEN NOT w.done THEN {ext}.pg_background_detach(h.pid, h.cookie) END
FROM me,
     LATERAL (SELECT pid, cookie FROM {ext}.pg_background_list WHERE me.role IS NOT NULL LIMIT 1) AS h,
     LATERAL {ext}.pg_background_wait(h.pid, h.cookie, 1) AS w(done),
     LATERAL {ext}.pg_background_result_info(CASE WHEN w.done IS NOT NULL THEN h.pid END, h.cookie) AS i

-- name: error
-- $1 pid, $2 cookie, $3 role. The error of a worker that has ended; reading does not consume it.
WITH me AS MATERIALIZED (SELECT set_config('role', $3::text, true) AS role)
SELECT e.sqlstate, e.message, e.detail, e.hint, e.context,
       e.schema_name, e.table_name, e.column_name, e.constraint_name
FROM me,
     LATERAL {ext}.pg_background_error_info(CASE WHEN me.role IS NOT NULL THEN $1::int4 END, $2::int8) AS e

-- name: drain
-- $1 pid, $2 cookie, $3 role. Notices, command tags, and the end of the handle
-- (docs/pg_background.md#notices-arrive-with-the-result). Blocks until the worker has ended. For statements without
-- rows.
WITH me AS MATERIALIZED (SELECT set_config('role', $3::text, true) AS role)
SELECT r.t
FROM me,
     LATERAL {ext}.pg_background_result(CASE WHEN me.role IS NOT NULL THEN $1::int4 END, $2::int8) AS r(t text)

-- name: columns
-- $1 type OIDs as JSON array. The column definition list for rows of these types; types without a binary format are
-- read as text. NULL if one is a pseudo-type, and then the number of that column and its type. A modifier of -1 means
-- none: bit and character without one would have the length 1.
SELECT CASE WHEN count(*) = json_array_length($1::json) AND bool_and(t.typtype <> 'p') THEN
         string_agg(
           format('c%s %s', o.n, CASE WHEN t.typreceive = 0 THEN 'text' ELSE format_type(t.oid, -1) END),
           ', ' ORDER BY o.n)
       END,
       min(o.n) FILTER (WHERE t.typtype = 'p'),
       (array_agg(format_type(t.oid, NULL) ORDER BY o.n) FILTER (WHERE t.typtype = 'p'))[1]
FROM json_array_elements_text($1::json) WITH ORDINALITY AS o(oid, n)
JOIN pg_type AS t ON t.oid = o.oid::oid

-- name: drain_rows
-- As `drain`, for a statement that sends rows: they are counted, not read. "{columns}" is the result of `columns`.
WITH me AS MATERIALIZED (SELECT set_config('role', $3::text, true) AS role)
SELECT count(*)
FROM me,
     LATERAL {ext}.pg_background_result(CASE WHEN me.role IS NOT NULL THEN $1::int4 END, $2::int8) AS r({columns})

-- name: read_rows
-- As `drain_rows`; $4 is the number of wanted rows; the last column counts all rows. "{outputs}" are the columns as
-- text, each cut to the number of characters that is kept: so no row is too large for the runner.
WITH me AS MATERIALIZED (SELECT set_config('role', $3::text, true) AS role)
SELECT {outputs}, count(*) OVER ()
FROM me,
     LATERAL {ext}.pg_background_result(CASE WHEN me.role IS NOT NULL THEN $1::int4 END, $2::int8) AS r({columns})
LIMIT $4::int4

-- name: now
-- The server's clock, in seconds since the epoch.
SELECT extract(epoch FROM clock_timestamp())

-- name: identify
-- $1 application_name, $2 pid that the launch returned, $3 time of the launch as in `launch`, $4 label; 0 and empty if
-- unknown. The pid may be invalid (docs/pg_background.md#one-worker-per-session), so it counts only for a worker that
-- began after the launch. Name and label are claims: they count only for this role's workers in this database, a name
-- only if the text has no other label. Of a text that was cut (track_activity_query_size), the beginning is compared.
-- The format of the start is independent of DateStyle and TimeZone. The last column is the worker's age in seconds.
SELECT pid, start, application_name, extract(epoch FROM clock_timestamp() - backend_start)
FROM (
  SELECT pid, backend_start, application_name, usename, coalesce(query, '') AS query,
         to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS start
  FROM pg_stat_activity
  WHERE backend_type = 'pg_background' AND datname = current_database()
) AS a
WHERE (pid = $2::int4 AND $3::text <> '' AND start >= $3::text)
   OR (usename = session_user AND (
         ($4::text <> '' AND query <> '' AND (starts_with(query, $4::text)
           OR (application_name = $1::text AND starts_with($4::text, query))))
         OR (application_name = $1::text AND (query = '' OR $4::text = ''))))
ORDER BY (pid = $2::int4 AND $3::text <> '' AND start >= $3::text) DESC, (query <> '') DESC, backend_start DESC
LIMIT 1

-- name: is_running
-- $1 application_name, $2 pid, $3 backend_start, empty if the worker was not seen yet, $4 label, $5 time of the launch,
-- as for `identify`. One row if the worker is running. A worker that was seen is identified by pid and backend_start,
-- whatever its present name. Another one is searched as in `identify`; a worker that is starting has no name, database
-- and text yet: it may be this one if it has the pid, or if the pid is unknown and it is slow.
SELECT a.pid
FROM (
  SELECT pid, backend_start, backend_type, application_name, datid, datname, usename, coalesce(query, '') AS query,
         to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS start
  FROM pg_stat_activity
  WHERE coalesce(backend_type, 'pg_background') = 'pg_background'
) AS a
WHERE CASE WHEN $3::text <> '' THEN a.pid = $2::int4 AND a.start = $3::text AND a.backend_type IS NOT NULL
           ELSE (a.pid = $2::int4 AND coalesce(a.start >= $5::text, true))
             OR ($2::int4 = 0 AND a.datid IS NULL AND a.backend_start < clock_timestamp() - interval '1 second'
                 AND a.backend_type IS NOT NULL)
             OR (a.datname = current_database() AND a.usename = session_user AND (
                   ($4::text <> '' AND a.query <> '' AND (starts_with(a.query, $4::text)
                     OR (a.application_name = $1::text AND starts_with($4::text, a.query))))
                   OR (a.application_name = $1::text AND (a.query = '' OR $4::text = ''))))
      END

-- name: workers
-- All workers of this database, whatever their names, whether one is blocked by its full queue
-- (docs/pg_background.md#full-output-queue), and the lock that it waits for, as JSON. pg_locks and pg_blocking_pids are
-- queried only for workers that wait. A session that waits for a row waits for the transaction that changed it, and
-- holds a lock on the tuple, which names the table.
SELECT a.pid, to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), a.application_name,
       a.wait_event = 'MessageQueuePutMessage', w.lock
FROM pg_stat_activity AS a
LEFT JOIN LATERAL (
  SELECT json_build_object(
      'mode', l.mode,
      'lock', l.locktype,
      'seconds', extract(epoch FROM clock_timestamp() - l.waitstart),
      'relation', (
        SELECT t.relation::regclass::text
        FROM pg_locks AS t
        WHERE t.pid = a.pid AND t.relation IS NOT NULL AND (t.locktype = 'tuple' OR NOT t.granted)
          AND t.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        ORDER BY t.granted
        LIMIT 1),
      'by', (
        SELECT json_agg(json_build_array(b.pid, o.application_name, o.usename, o.state,
                                         extract(epoch FROM clock_timestamp() - o.xact_start)) ORDER BY b.pid)
        FROM (SELECT DISTINCT unnest(pg_blocking_pids(a.pid)) AS pid) AS b
        LEFT JOIN pg_stat_activity AS o ON o.pid = b.pid)) AS lock
  FROM pg_locks AS l
  WHERE a.wait_event_type = 'Lock' AND l.pid = a.pid AND NOT l.granted
  LIMIT 1
) AS w ON true
WHERE a.backend_type = 'pg_background' AND a.datname = current_database()

-- name: blocked_by
-- $1 pids of workers as JSON array, $2 pids of all workers of the run, $3 the name of its workers without the step. The
-- sessions outside the run that wait for a lock which one of the workers $1 holds, or awaits before them: the worker's
-- pid, then the session's pid, application_name, role, lock mode, kind of lock, table, first word of its statement, and
-- the seconds of its wait. Autovacuum does not count: it can wait.
SELECT b.pid, w.pid, a.application_name, a.usename, w.mode, w.locktype, (
         SELECT t.relation::regclass::text
         FROM pg_locks AS t
         WHERE t.pid = w.pid AND t.relation IS NOT NULL AND (t.locktype = 'tuple' OR NOT t.granted)
           AND t.database = (SELECT oid FROM pg_database WHERE datname = current_database())
         ORDER BY t.granted
         LIMIT 1),
       upper(substring(regexp_replace(a.query, '^(\s*(/\*.*?\*/|--[^\n]*\n))*', '') FROM '[A-Za-z]+')),
       extract(epoch FROM clock_timestamp() - w.waitstart)
FROM pg_locks AS w
JOIN pg_stat_activity AS a ON a.pid = w.pid
CROSS JOIN LATERAL (SELECT DISTINCT unnest(pg_blocking_pids(w.pid)) AS pid) AS b
WHERE NOT w.granted
  AND b.pid IN (SELECT value::int4 FROM json_array_elements_text($1::json))
  AND coalesce(a.leader_pid, a.pid) NOT IN (SELECT value::int4 FROM json_array_elements_text($2::json))
  AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
  AND a.application_name IS DISTINCT FROM current_setting('application_name')
  AND NOT coalesce(starts_with(a.application_name, $3::text), false)
ORDER BY b.pid, w.waitstart, w.pid

-- name: left_workers
-- $1 roles that have executed the run, as JSON array. All workers of this database, and those that are starting, which
-- have no database, name or text yet: pid, start, name, text, role, whether that role can be the run's (`trusted`), age
-- in seconds, and whether it is visible to this role.
SELECT a.pid, to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), a.application_name, left(a.query, 2000), a.usename,
       {trusted}, extract(epoch FROM clock_timestamp() - a.backend_start), a.backend_type IS NOT NULL, a.datid IS NULL
FROM pg_stat_activity AS a
LEFT JOIN pg_roles AS r ON r.oid = a.usesysid
WHERE (a.backend_type = 'pg_background' AND (a.datid IS NULL OR a.datname = current_database()))
   OR (a.backend_type IS NULL AND a.datname = current_database())

-- name: sessions
-- $1 roles as for `left_workers`, $2 application_name of a run's own sessions. The sessions of another runner: as long
-- as one exists, it may still launch a worker. pid, role, whether that role can be the run's.
SELECT a.pid, a.usename, {trusted}
FROM pg_stat_activity AS a
LEFT JOIN pg_roles AS r ON r.oid = a.usesysid
WHERE coalesce(a.backend_type, 'client backend') = 'client backend' AND a.datname = current_database()
  AND a.application_name = $2::text AND a.pid <> pg_backend_pid()

-- name: waits_for
-- $1 pid of a worker, $2 pid of a launcher session. One row if the worker waits for that session's snapshot
-- (docs/pg_background.md#waiting-holds-a-snapshot).
SELECT pid
FROM pg_stat_activity
WHERE pid = $1::int4 AND wait_event_type = 'Lock'
  AND CASE WHEN wait_event = 'virtualxid' THEN $2::int4 = ANY (pg_blocking_pids(pid)) END

-- name: cancel
-- $1 pid, $2 backend_start: signalled only if both match a worker in this database
-- (docs/pg_background.md#one-worker-per-session), whatever its present name. It is the same SIGTERM as the extension's
-- own cancel, but works from any session. No row: the worker has ended.
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE backend_type = 'pg_background' AND datname = current_database() AND pid = $1::int4
  AND to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') = $2::text

-- name: listen
-- Receives requests to the run; for this session's database.
LISTEN jobplan

-- name: may_stop
-- $1 pids of senders, as JSON. The pid and role of each whose role may stop the backends of this session's role, by the
-- rules of pg_terminate_backend. No row for a sender that has disconnected.
SELECT a.pid, s.rolname
FROM pg_stat_activity AS a
JOIN pg_roles AS s ON s.oid = a.usesysid
JOIN pg_roles AS me ON me.rolname = session_user
WHERE a.pid IN (SELECT value::int4 FROM json_array_elements_text($1::json))
  AND (s.rolsuper OR (NOT me.rolsuper AND (pg_has_role(s.oid, me.oid, 'USAGE')
                                           OR pg_has_role(s.oid, 'pg_signal_backend', 'USAGE'))))

-- name: hold_group
-- $1 group. The lock belongs to the session and ends with it, so a dead runner holds none.
SELECT pg_try_advisory_lock(hashtextextended('jobplan:' || $1::text, 0))

-- name: group_holder
-- $1 roles as for `left_workers`, $2 group. The holder: application_name, client address, start, pid, role, and whether
-- that role can be the run's.
SELECT a.application_name, coalesce(host(a.client_addr), 'the same host as the server'),
       to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), a.pid, a.usename, {trusted}
FROM pg_locks AS l
JOIN pg_stat_activity AS a USING (pid)
LEFT JOIN pg_roles AS r ON r.oid = a.usesysid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::int8 << 32) | l.objid::int8 = hashtextextended('jobplan:' || $2::text, 0)
