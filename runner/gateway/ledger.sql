-- The ledger: the record of runs in the database, and the row that a step's own transaction writes. "{ledger}" is its
-- schema, quoted. `ledger_version_1` and its successors create the tables, `ledger_views` and `ledger_grant` the views
-- and privileges; a run uses the other blocks.

-- name: ledger_version_1
-- The objects of version 1. No foreign keys: a batch of events may be lost, and a commit row must not fail because of
-- that.
CREATE TABLE {ledger}.meta (
  version integer PRIMARY KEY,
  jobplan text NOT NULL,
  installed_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE {ledger}.runs (
  run text PRIMARY KEY,
  plan text NOT NULL,
  file text NOT NULL DEFAULT '',
  sha256 text NOT NULL,
  jobplan text NOT NULL,
  host text NOT NULL,
  os_pid integer NOT NULL,
  role text NOT NULL DEFAULT current_user,
  started_at timestamptz NOT NULL,
  finished_at timestamptz,
  exit_code integer
);
CREATE TABLE {ledger}.plans (
  run text NOT NULL,
  sha256 text NOT NULL,
  resolved json NOT NULL,
  PRIMARY KEY (run, sha256)
);
CREATE TABLE {ledger}.events (
  run text NOT NULL,
  seq integer NOT NULL,
  at timestamptz NOT NULL,
  event text NOT NULL,
  step text,
  attempt integer,
  body jsonb NOT NULL,
  PRIMARY KEY (run, seq)
);
CREATE INDEX events_finished ON {ledger}.events (at) WHERE event = 'attempt_finished';
CREATE TABLE {ledger}.commits (
  run text NOT NULL,
  step text NOT NULL,
  attempt integer NOT NULL,
  committed boolean NOT NULL,
  PRIMARY KEY (run, step, attempt)
);
COMMENT ON TABLE {ledger}.meta IS 'The versions to which this ledger was upgraded; the highest is the present one.';
COMMENT ON TABLE {ledger}.runs IS 'One row for each run of a plan; sha256 is that of the plan of its last runner.';
COMMENT ON TABLE {ledger}.plans IS 'The resolved plans of runs: a run may be resumed with a changed one.';
COMMENT ON TABLE {ledger}.events IS 'The events of each run, in order; body has the format of --report jsonl.';
COMMENT ON TABLE {ledger}.commits IS
  'A row that an attempt wrote in its own transaction: it exists exactly if the attempt committed. With committed = '
  'false, a runner wrote it after the worker had ended: the attempt did not commit, and can no longer do so.';

-- name: ledger_version_2
-- Every row belongs to the login role that writes it, and a commit row to the launch that announced it: only the
-- launcher and its worker know `proof` before the row exists. Rows of version 1 have no writer. A policy restricts
-- roles with a grant on the ledger; its owner and superusers are not restricted.
ALTER TABLE {ledger}.runs ADD COLUMN writer name NOT NULL DEFAULT '';
ALTER TABLE {ledger}.plans ADD COLUMN writer name NOT NULL DEFAULT '';
ALTER TABLE {ledger}.events ADD COLUMN writer name NOT NULL DEFAULT '';
ALTER TABLE {ledger}.commits ADD COLUMN writer name NOT NULL DEFAULT '', ADD COLUMN proof text NOT NULL DEFAULT '';
ALTER TABLE {ledger}.runs ALTER COLUMN writer SET DEFAULT session_user, DROP CONSTRAINT runs_pkey,
  ADD CONSTRAINT runs_pkey PRIMARY KEY (run, writer);
ALTER TABLE {ledger}.plans ALTER COLUMN writer SET DEFAULT session_user, DROP CONSTRAINT plans_pkey,
  ADD CONSTRAINT plans_pkey PRIMARY KEY (run, sha256, writer);
ALTER TABLE {ledger}.events ALTER COLUMN writer SET DEFAULT session_user, DROP CONSTRAINT events_pkey,
  ADD CONSTRAINT events_pkey PRIMARY KEY (run, seq, writer);
ALTER TABLE {ledger}.commits ALTER COLUMN writer SET DEFAULT session_user, DROP CONSTRAINT commits_pkey,
  ADD CONSTRAINT commits_pkey PRIMARY KEY (run, step, attempt, proof);
CREATE TABLE {ledger}.keys (
  run text NOT NULL,
  writer name NOT NULL DEFAULT session_user,
  key text NOT NULL,
  PRIMARY KEY (run, writer)
);
ALTER TABLE {ledger}.runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE {ledger}.plans ENABLE ROW LEVEL SECURITY;
ALTER TABLE {ledger}.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE {ledger}.commits ENABLE ROW LEVEL SECURITY;
ALTER TABLE {ledger}.keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY readable ON {ledger}.runs FOR SELECT USING (true);
CREATE POLICY readable ON {ledger}.plans FOR SELECT USING (true);
CREATE POLICY readable ON {ledger}.events FOR SELECT USING (true);
CREATE POLICY readable ON {ledger}.commits FOR SELECT USING (true);
CREATE POLICY readable ON {ledger}.keys FOR SELECT USING (writer = session_user);
CREATE POLICY inserted ON {ledger}.runs FOR INSERT WITH CHECK (writer = session_user);
CREATE POLICY inserted ON {ledger}.plans FOR INSERT WITH CHECK (writer = session_user);
CREATE POLICY inserted ON {ledger}.events FOR INSERT WITH CHECK (writer = session_user);
CREATE POLICY inserted ON {ledger}.commits FOR INSERT WITH CHECK (writer = session_user);
CREATE POLICY inserted ON {ledger}.keys FOR INSERT WITH CHECK (writer = session_user);
CREATE POLICY changed ON {ledger}.runs FOR UPDATE USING (writer = session_user);
CREATE POLICY changed ON {ledger}.events FOR UPDATE USING (writer = session_user);
COMMENT ON TABLE {ledger}.keys IS
  'One row for each run and login role that has run it: the key for the proofs of its commit rows. '
  'Only that role can read it.';

-- name: ledger_version_3
-- What the transaction of an iteration stores: the values that it carries to the next one, and the number of its rows.
CREATE TABLE {ledger}.carried (
  run text NOT NULL,
  step text NOT NULL,
  attempt integer NOT NULL,
  proof text NOT NULL,
  rows bigint NOT NULL,
  carried jsonb NOT NULL,
  writer name NOT NULL DEFAULT session_user,
  PRIMARY KEY (run, step, attempt, proof)
);
ALTER TABLE {ledger}.carried ENABLE ROW LEVEL SECURITY;
CREATE POLICY readable ON {ledger}.carried FOR SELECT USING (true);
CREATE POLICY inserted ON {ledger}.carried FOR INSERT WITH CHECK (writer = session_user);
COMMENT ON TABLE {ledger}.carried IS
  'The values that an iteration of a repeated step passes to the next one (repeat.carry), written in its own '
  'transaction, like its row in commits.';

-- name: ledger_mark
-- $1 version to which the ledger was upgraded, $2 version of jobplan.
INSERT INTO {ledger}.meta (version, jobplan) VALUES ($1::integer, $2::text)

-- name: ledger_views
-- The views for common questions. An attempt whose end no runner observed has its commit row, if it committed.
CREATE OR REPLACE VIEW {ledger}.attempts AS
SELECT l.run, r.plan, l.step, l.attempt,
       CASE
         WHEN f.body IS NOT NULL AND f.body ->> 'outcome' NOT IN ('detached', 'unknown') THEN f.body ->> 'outcome'
         WHEN c.committed THEN 'succeeded'
         WHEN NOT c.committed THEN 'failed'
         ELSE coalesce(f.body ->> 'outcome', 'running')
       END AS outcome,
       coalesce(c.committed, false) AS committed,
       l.at AS launched_at,
       coalesce((f.body ->> 'started_at')::timestamptz, l.at) AS started_at,
       coalesce((f.body ->> 'finished_at')::timestamptz, f.at) AS finished_at,
       coalesce((f.body ->> 'finished_at')::timestamptz, f.at)
         - coalesce((f.body ->> 'started_at')::timestamptz, l.at) AS duration,
       f.body ->> 'command_tag' AS command_tag,
       (f.body ->> 'row_count')::bigint AS row_count,
       f.body #>> '{error,sqlstate}' AS sqlstate,
       f.body #>> '{error,message}' AS message,
       f.body #>> '{error,detail}' AS detail,
       f.body #>> '{error,hint}' AS hint,
       (f.body #>> '{worker,pid}')::integer AS pid,
       l.body ->> 'application_name' AS application_name,
       l.writer
FROM (
  SELECT DISTINCT ON (run, writer, step, attempt) run, writer, step, attempt, event, at, body
  FROM {ledger}.events
  WHERE event IN ('attempt_launching', 'attempt_deferred')
  ORDER BY run, writer, step, attempt, seq DESC
) AS l
LEFT JOIN (
  SELECT DISTINCT ON (run, writer, step, attempt) run, writer, step, attempt, at, body
  FROM {ledger}.events
  WHERE event = 'attempt_finished'
  ORDER BY run, writer, step, attempt, seq DESC
) AS f USING (run, writer, step, attempt)
LEFT JOIN {ledger}.commits AS c USING (run, writer, step, attempt)
LEFT JOIN {ledger}.runs AS r USING (run, writer)
WHERE l.event = 'attempt_launching';
COMMENT ON VIEW {ledger}.attempts IS 'Every requested worker: its start, duration, outcome and error.';

CREATE OR REPLACE VIEW {ledger}.running AS
WITH here AS MATERIALIZED (
  SELECT pid, backend_start, to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS start,
         backend_type, application_name, usename, coalesce(wait_event_type || ': ' || wait_event, state) AS doing
  FROM pg_catalog.pg_stat_activity
  WHERE datname = current_database()
)
SELECT a.plan, a.run, a.step, a.attempt, a.launched_at, now() - a.launched_at AS age,
       w.pid, w.doing,
       CASE
         WHEN w.pid IS NOT NULL THEN true
         WHEN seen.pid IS NULL OR hidden.pid IS NOT NULL THEN NULL
         ELSE false
       END AS worker_lives,
       EXISTS (
         SELECT FROM here AS s
         WHERE s.application_name = 'jobplan:' || a.run || ':runner'
           AND coalesce(s.backend_type, 'client backend') = 'client backend'
           AND s.usename IN (SELECT r.writer FROM {ledger}.runs AS r WHERE r.run = a.run)
       ) AS runner_lives,
       a.outcome,
       a.writer
FROM (
  SELECT DISTINCT run
  FROM {ledger}.runs
  WHERE finished_at IS NULL
     OR finished_at > (SELECT min(backend_start) - interval '1 day' FROM here WHERE backend_type = 'pg_background')
) AS open
CROSS JOIN LATERAL (SELECT * FROM {ledger}.attempts WHERE run = open.run OFFSET 0) AS a
LEFT JOIN LATERAL (
  SELECT (e.body #>> '{worker,pid}')::integer AS pid, e.body #>> '{worker,backend_start}' AS start
  FROM {ledger}.events AS e
  WHERE e.run = a.run AND e.writer = a.writer AND e.event = 'attempt_running' AND e.step = a.step
    AND e.attempt = a.attempt
  ORDER BY e.seq DESC
  LIMIT 1
) AS seen ON true
LEFT JOIN here AS w ON w.backend_type = 'pg_background' AND w.pid = seen.pid AND w.start = seen.start
LEFT JOIN here AS hidden ON hidden.backend_type IS NULL AND hidden.pid = seen.pid
WHERE a.outcome = 'running' OR (a.outcome = 'detached' AND (w.pid IS NOT NULL OR hidden.pid IS NOT NULL));
COMMENT ON VIEW {ledger}.running IS
  'The attempts without an end in the ledger. A worker is identified by its pid and backend_start, whatever its name; '
  'worker_lives is NULL if it was not observed, or is not visible to this role. If neither worker nor runner lives, '
  'use jobplan resume.';

CREATE OR REPLACE VIEW {ledger}.failures AS
SELECT f.at AS failed_at, r.plan, f.run, f.step, f.attempt, f.body ->> 'outcome' AS outcome,
       f.body #>> '{error,sqlstate}' AS sqlstate,
       f.body #>> '{error,message}' AS message,
       f.body #>> '{error,detail}' AS detail,
       f.body #>> '{error,hint}' AS hint,
       f.body #>> '{error,context}' AS context,
       f.writer
FROM {ledger}.events AS f
LEFT JOIN {ledger}.runs AS r USING (run, writer)
LEFT JOIN {ledger}.commits AS c USING (run, writer, step, attempt)
WHERE f.event = 'attempt_finished'
  AND f.at > now() - interval '7 days'
  AND f.body ->> 'outcome' NOT IN ('succeeded', 'detached')
  AND c.committed IS NOT TRUE;
COMMENT ON VIEW {ledger}.failures IS 'Attempts that did not succeed in the last seven days, and why.';

CREATE OR REPLACE VIEW {ledger}.durations AS
SELECT r.plan, f.step, count(*) AS n,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY f.took) AS p50,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY f.took) AS p95,
       max(f.took) AS longest,
       (array_agg(f.took ORDER BY f.at DESC))[1] AS last,
       max(f.at) AS last_at
FROM (
  SELECT run, writer, step, at, (body ->> 'finished_at')::timestamptz - (body ->> 'started_at')::timestamptz AS took
  FROM {ledger}.events
  WHERE event = 'attempt_finished' AND body ->> 'outcome' = 'succeeded'
) AS f
JOIN {ledger}.runs AS r USING (run, writer)
WHERE f.took IS NOT NULL
GROUP BY r.plan, f.step;
COMMENT ON VIEW {ledger}.durations IS 'The time of each step when it succeeds, over all runs in the ledger.';

-- name: ledger_grant
-- The privileges that a role needs to run plans with the ledger, and to read it. "{role}" is quoted.
GRANT USAGE ON SCHEMA {ledger} TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA {ledger} TO {role};
GRANT INSERT ON {ledger}.runs, {ledger}.plans, {ledger}.events, {ledger}.commits, {ledger}.keys, {ledger}.carried
  TO {role};
GRANT UPDATE ON {ledger}.runs, {ledger}.events TO {role};

-- name: ledger_grantees
-- $1 schema. Roles with a grant on a ledger of version 1; they get the grants on later versions' objects, too.
SELECT DISTINCT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL aclexplode(c.relacl) AS a
WHERE n.nspname = $1::text AND c.relname = 'commits' AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner

-- name: ledger_remove
-- Only the ledger's own objects: other objects in the schema, or that depend on it, are kept and reported.
DROP VIEW IF EXISTS {ledger}.durations, {ledger}.failures, {ledger}.running, {ledger}.attempts;
DROP TABLE IF EXISTS {ledger}.commits, {ledger}.events, {ledger}.plans, {ledger}.runs, {ledger}.meta, {ledger}.keys,
  {ledger}.carried;

-- name: ledger_found
-- $1 schema. Whether it has a ledger in which this role may write, and the settings that its workers would inherit. It
-- reads the catalogs, because a name in a schema without USAGE would be an error.
SELECT n.oid IS NOT NULL,
       m.oid IS NOT NULL,
       pg_is_in_recovery(),
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(m.oid, 'SELECT') AND (
         SELECT count(*) >= 4
                AND bool_and(has_table_privilege(t.oid, 'SELECT') AND has_table_privilege(t.oid, 'INSERT'))
                AND bool_and(t.relname IN ('plans', 'commits', 'keys') OR has_table_privilege(t.oid, 'UPDATE'))
         FROM pg_class AS t
         WHERE t.relnamespace = n.oid AND t.relname IN ('runs', 'plans', 'events', 'commits', 'keys')
       ),
       (SELECT jsonb_agg(t.oid::text)
        FROM pg_class AS t
        WHERE t.relnamespace = n.oid
          AND t.relname IN ('meta', 'runs', 'plans', 'events', 'commits', 'keys', 'carried')),
       current_user,
       current_setting('server_encoding'),
       current_setting('default_transaction_read_only'),
       current_setting('default_transaction_isolation'),
       current_setting('lock_timeout'),
       current_setting('row_security')
FROM (SELECT) AS one
LEFT JOIN pg_namespace AS n ON n.nspname = $1::text
LEFT JOIN pg_class AS m ON m.relnamespace = n.oid AND m.relname = 'meta' AND m.relkind = 'r'

-- name: ledger_readable
-- $1 schema. Whether it has a ledger that this role may read.
SELECT coalesce(count(*) = 5 AND bool_and(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(t.oid, 'SELECT')),
                false)
FROM pg_namespace AS n
JOIN pg_class AS t ON t.relnamespace = n.oid AND t.relkind = 'r'
WHERE n.nspname = $1::text AND t.relname IN ('meta', 'runs', 'plans', 'events', 'commits')

-- name: ledger_version
-- The version of the ledger.
SELECT max(version) FROM {ledger}.meta

-- name: ledger_role
-- $1 role, $2 schema, $3 table. Whether a worker of that role may write a row of the table; no row if there is none.
SELECT has_schema_privilege(r.oid, n.oid, 'USAGE') AND has_table_privilege(r.oid, c.oid, 'INSERT')
FROM pg_roles AS r
JOIN pg_namespace AS n ON n.nspname = $2::text
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = $3::text
WHERE r.rolname = $1::text

-- name: ledger_row
-- The first statement of a worker's text. Its lock_timeout is short at first, so that the ledger delays no step for
-- long.
INSERT INTO {ledger}.commits (run, step, attempt, committed, proof) VALUES ({run}, {step}, {attempt}, true, {proof});
SET LOCAL lock_timeout TO {lock_timeout};

-- name: ledger_carry_lock
-- Precedes `ledger_row` in the text of an iteration that stores its values: it needs the table at its end.
LOCK TABLE {ledger}.carried IN ROW EXCLUSIVE MODE;

-- name: ledger_has_carried
-- $1 schema. Whether it has the table for carried values, and this role may read it.
SELECT coalesce(bool_or(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')), false)
FROM pg_namespace AS n
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'carried'
WHERE n.nspname = $1::text

-- name: ledger_carried
-- $1 run, $2 step, $3 attempt, $4 SHA-256 of the row's proof. What the iteration has stored.
SELECT rows, carried::text FROM {ledger}.carried
WHERE run = $1::text AND step = $2::text AND attempt = $3::integer
  AND encode(sha256(convert_to(proof, 'UTF8')), 'hex') = $4::text AND writer IN {writers}

-- name: ledger_free
-- An error if another session has locked the table, so that the commit row cannot be written now.
LOCK TABLE {ledger}.commits IN ROW EXCLUSIVE MODE NOWAIT

-- name: ledger_begin
-- The transactions of the login role may be READ ONLY or REPEATABLE READ by default.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE

-- name: ledger_limits
-- Writing must not delay the run for long, nor wait for a standby. But a row must be on the server's disk before it
-- counts as written: a runner that outlives a crash of the server would not write it again. In a transaction of its
-- own, so that no worker inherits these settings.
SELECT set_config('synchronous_commit', 'local', true), set_config('lock_timeout', '200ms', true),
       set_config('statement_timeout', '5s', true), set_config('row_security', 'on', true)

-- name: ledger_same
-- $1 schema, $2 JSON array of the OIDs of its tables. An error (42704) if the tables are no longer those whose owners
-- were checked: another role may have created tables with their names.
SELECT CASE
         WHEN (
           SELECT count(*)
           FROM jsonb_array_elements_text($2::jsonb) AS t(oid)
           JOIN pg_class AS c ON c.oid = t.oid::oid
           JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = $1::text
         ) < jsonb_array_length($2::jsonb)
         THEN current_setting('jobplan.the_ledger_was_replaced')
       END

-- name: ledger_run
-- $1 run, $2 plan, $3 run_started or run_resumed as JSON, $4 the resolved plan as JSON, $5 the run's key. A resumed run
-- keeps the start of its first event, even if that is written only now.
WITH e AS (
  SELECT $3::jsonb AS body
), resolved AS (
  INSERT INTO {ledger}.plans (run, sha256, resolved)
  SELECT $1::text, e.body ->> 'sha256', $4::json FROM e
  ON CONFLICT (run, sha256, writer) DO NOTHING
), key AS (
  INSERT INTO {ledger}.keys (run, key) VALUES ($1::text, $5::text) ON CONFLICT (run, writer) DO NOTHING
)
INSERT INTO {ledger}.runs (run, plan, file, sha256, jobplan, host, os_pid, started_at)
SELECT $1::text, $2::text, coalesce(e.body ->> 'file', ''), e.body ->> 'sha256', e.body ->> 'jobplan',
       e.body ->> 'host', (e.body ->> 'os_pid')::integer,
       coalesce(
         (SELECT at FROM {ledger}.events
          WHERE run = $1::text AND event = 'run_started' AND writer IN {writers} ORDER BY seq LIMIT 1),
         (e.body ->> 'at')::timestamptz
       )
FROM e
ON CONFLICT (run, writer) DO UPDATE
SET sha256 = excluded.sha256, jobplan = excluded.jobplan, host = excluded.host, os_pid = excluded.os_pid,
    finished_at = NULL, exit_code = NULL

-- name: ledger_events
-- $1 run, $2 JSON array of [seq, event]. Existing rows are not changed.
INSERT INTO {ledger}.events (run, seq, at, event, step, attempt, body)
SELECT $1::text, (e.item ->> 0)::integer, (e.item -> 1 ->> 'at')::timestamptz, e.item -> 1 ->> 'event',
       e.item -> 1 ->> 'step', (e.item -> 1 ->> 'attempt')::integer, e.item -> 1
FROM jsonb_array_elements($2::jsonb) AS e(item)
ON CONFLICT (run, seq, writer) DO NOTHING

-- name: ledger_end
-- $1 run, $2 run_finished as JSON.
UPDATE {ledger}.runs
SET finished_at = (e.body ->> 'at')::timestamptz, exit_code = (e.body ->> 'exit_code')::integer
FROM (SELECT $2::jsonb) AS e(body)
WHERE run = $1::text AND writer = session_user

-- name: ledger_expected
-- $1 run, $2 step, $3 attempt. Whether the attempt's worker, or the last one of several, had a commit row in its text,
-- and the SHA-256 of that row's proof, which a launch by version 1 of the ledger did not announce.
SELECT coalesce((body ->> 'commit_row')::boolean, false), body ->> 'proof'
FROM {ledger}.events
WHERE run = $1::text AND event = 'attempt_launching' AND step = $2::text AND attempt = $3::integer
  AND writer IN {writers}
ORDER BY seq DESC
LIMIT 1

-- name: ledger_ended
-- $1 run, $2 step, $3 attempt. Its recorded outcome, and the state of the step after it. No row: no runner observed its
-- end.
SELECT f.body ->> 'outcome', (
         SELECT s.body ->> 'state' FROM {ledger}.events AS s
         WHERE s.run = f.run AND s.event = 'step_finished' AND s.step = f.step AND s.seq > f.seq
           AND s.writer IN {writers}
         ORDER BY s.seq
         LIMIT 1
       )
FROM {ledger}.events AS f
WHERE f.run = $1::text AND f.event = 'attempt_finished' AND f.step = $2::text AND f.attempt = $3::integer
  AND f.writer IN {writers}
ORDER BY f.seq DESC
LIMIT 1

-- name: ledger_known_events
-- $1 run. Its events, in order: number, time, event, step, attempt, host.
SELECT DISTINCT ON (seq) seq, body ->> 'at', event, step, attempt, body ->> 'host'
FROM {ledger}.events
WHERE run = $1::text AND writer IN {writers}
ORDER BY seq, writer <> session_user, writer

-- name: ledger_keys
-- $1 run. The run's keys that this role may read, its own first.
SELECT key, writer = session_user FROM {ledger}.keys
WHERE run = $1::text AND writer IN {writers}
ORDER BY writer <> session_user, writer

-- name: ledger_long_limits
-- Longer limits: a run of a million events takes its time to be read, before anything is started.
SELECT set_config('statement_timeout', '60s', true)

-- name: ledger_takeovers
-- $1 run. Its takeovers, with time and host, the latest last.
SELECT body ->> 'at', body ->> 'host'
FROM {ledger}.events
WHERE run = $1::text AND event = 'run_resumed' AND writer IN {writers}
ORDER BY seq

-- name: ledger_withdraw_commit_row
-- $1 run, $2 step, $3 attempt. Its worker failed because of the commit row, and another one without a row follows.
UPDATE {ledger}.events
SET body = body - 'commit_row' - 'proof'
WHERE run = $1::text AND event = 'attempt_launching' AND step = $2::text AND attempt = $3::integer
  AND writer = session_user
RETURNING seq

-- name: ledger_fence
-- $1 run, $2 step, $3 attempt, $4 proof; the worker has ended. Writes a row in its place, so that a worker that was not
-- seen and could still start cannot commit. It waits for an open transaction of the worker.
INSERT INTO {ledger}.commits (run, step, attempt, committed, proof)
VALUES ($1::text, $2::text, $3::integer, false, $4::text)
ON CONFLICT (run, step, attempt, proof) DO NOTHING

-- name: ledger_committed
-- $1 run, $2 step, $3 attempt, $4 SHA-256 of the row's proof, as hexadecimal digits. No row: the worker has not written
-- it. A row of an untrusted role, or with another proof, does not count.
SELECT committed FROM {ledger}.commits
WHERE run = $1::text AND step = $2::text AND attempt = $3::integer
  AND encode(sha256(convert_to(proof, 'UTF8')), 'hex') = $4::text AND writer IN {writers}

-- name: ledger_short_limits
-- Short limits for queries that a run can do without.
SELECT set_config('statement_timeout', '1s', true), set_config('lock_timeout', '200ms', true)

-- name: ledger_previous_runs
-- $1 plan, $2 number of runs. The last finished runs, the oldest first, and for each launched step: the sum over the
-- run's runners of the seconds from its first launch to the end of its last attempt; and its last state.
WITH latest AS MATERIALIZED (
  SELECT run, writer, started_at FROM {ledger}.runs
  WHERE plan = $1::text AND finished_at IS NOT NULL
  ORDER BY started_at DESC LIMIT $2::int4
), happened AS (
  SELECT l.run, l.writer, l.started_at, e.seq, e.step, e.attempt, e.event, e.at, e.body,
         count(*) FILTER (WHERE e.event = 'run_resumed') OVER (PARTITION BY l.run, l.writer ORDER BY e.seq) AS runner
  FROM latest AS l
  JOIN {ledger}.events AS e USING (run, writer)
  WHERE e.event IN ('attempt_launching', 'attempt_finished', 'step_finished', 'run_resumed')
), attempts AS (
  SELECT run, writer, step, attempt, min(runner) AS runner,
         max(at) FILTER (WHERE event = 'attempt_launching') AS began,
         max(at) FILTER (WHERE event = 'attempt_finished') AS ended
  FROM happened WHERE event IN ('attempt_launching', 'attempt_finished')
  GROUP BY run, writer, step, attempt
), spans AS (
  SELECT run, writer, step, runner, max(ended) - min(began) AS took
  FROM attempts WHERE began IS NOT NULL AND ended IS NOT NULL
  GROUP BY run, writer, step, runner
), states AS (
  SELECT run, writer, started_at, step, (array_agg(body ->> 'state' ORDER BY seq DESC))[1] AS state
  FROM happened WHERE event = 'step_finished'
  GROUP BY run, writer, started_at, step
)
SELECT run, extract(epoch FROM started_at), step, round(extract(epoch FROM sum(took)), 3), state
FROM spans JOIN states USING (run, writer, step)
GROUP BY run, writer, started_at, step, state
ORDER BY started_at, run, step

-- name: ledger_session
-- The first statement of an administrator's session, after `pin`: the limit of each wait for a lock is $1.
SELECT set_config('lock_timeout', $1::text, false),
       set_config('default_transaction_read_only', 'off', false)

-- name: ledger_alone
-- Serialises concurrent ledger commands.
SELECT pg_advisory_xact_lock(hashtextextended('jobplan:ledger', 0))

-- name: ledger_status
-- $1 schema. The number of runs, of unfinished ones, of events; bytes on disk with indexes; the first and the last
-- start.
SELECT (SELECT count(*) FROM {ledger}.runs), (SELECT count(*) FROM {ledger}.runs WHERE finished_at IS NULL),
       (SELECT count(*) FROM {ledger}.events),
       (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = $1::text AND c.relkind = 'r'),
       (SELECT to_char(min(started_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM {ledger}.runs),
       (SELECT to_char(max(started_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM {ledger}.runs)

-- name: ledger_purge
-- $1 seconds. The number of deleted runs. A run with a session or worker is kept; a worker is recognised by its pid,
-- whatever its present name.
WITH old AS MATERIALIZED (
  SELECT r.run, r.writer
  FROM {ledger}.runs AS r
  WHERE coalesce(r.finished_at,
                 (SELECT max(e.at) FROM {ledger}.events AS e WHERE e.run = r.run AND e.writer = r.writer),
                 r.started_at)
        < now() - make_interval(secs => $1::float8)
    AND NOT EXISTS (
      SELECT FROM pg_stat_activity AS s WHERE starts_with(s.application_name, 'jobplan:' || r.run || ':')
    )
    AND NOT EXISTS (
      SELECT
      FROM {ledger}.events AS e
      JOIN pg_stat_activity AS s ON s.pid::text = e.body #>> '{worker,pid}'
      WHERE e.run = r.run AND e.writer = r.writer AND e.event = 'attempt_running'
        AND coalesce(s.backend_type, 'pg_background') = 'pg_background'
    )
), events AS (
  DELETE FROM {ledger}.events AS e USING old WHERE e.run = old.run AND e.writer = old.writer
), commits AS (
  DELETE FROM {ledger}.commits AS c USING old WHERE c.run = old.run AND c.writer = old.writer
), carried AS (
  DELETE FROM {ledger}.carried AS c USING old WHERE c.run = old.run AND c.writer = old.writer
), keys AS (
  DELETE FROM {ledger}.keys AS k USING old WHERE k.run = old.run AND k.writer = old.writer
), plans AS (
  DELETE FROM {ledger}.plans AS p USING old WHERE p.run = old.run AND p.writer = old.writer
), runs AS (
  DELETE FROM {ledger}.runs AS r USING old WHERE r.run = old.run AND r.writer = old.writer RETURNING 1
)
SELECT count(*) FROM runs

-- name: ledger_others
-- $1 schema. Whether the schema has objects that are not the ledger's.
SELECT EXISTS (
  SELECT FROM pg_depend AS d JOIN pg_namespace AS n ON n.oid = d.refobjid
  WHERE d.refclassid = 'pg_namespace'::regclass AND d.deptype = 'n' AND n.nspname = $1::text
)

-- name: ledger_recorded_runs
-- $1 number of runs. The latest runs, the last one first: run, plan, host, start and end in seconds, exit code, and the
-- target, database and duration that its events have. Of several writers of a run, a trusted one counts.
SELECT r.run, r.plan, r.host, extract(epoch FROM r.started_at)::float8, extract(epoch FROM r.finished_at)::float8,
       r.exit_code, b.body ->> 'target', b.body ->> 'database', (f.body ->> 'duration')::float8, r.writer::text
FROM (
  SELECT DISTINCT ON (run) * FROM {ledger}.runs ORDER BY run, writer IN {writers} DESC, started_at DESC
) AS r
LEFT JOIN LATERAL (
  SELECT e.body FROM {ledger}.events AS e
  WHERE e.run = r.run AND e.writer = r.writer AND e.event = 'run_started' ORDER BY e.seq LIMIT 1
) AS b ON true
LEFT JOIN LATERAL (
  SELECT e.body FROM {ledger}.events AS e
  WHERE e.run = r.run AND e.writer = r.writer AND e.event = 'run_finished' ORDER BY e.seq DESC LIMIT 1
) AS f ON true
ORDER BY r.started_at DESC LIMIT $1::int4

-- name: ledger_recorded_steps
-- $1 run, $2 its writer. For each step that has ended: its seconds, as the sum over the run's runners from the first
-- launch to the end of the last attempt (NULL if none was launched), its last state, the message of its error, and
-- whether it ended after the last resume.
WITH happened AS (
  SELECT e.seq, e.step, e.attempt, e.event, e.at, e.body,
         count(*) FILTER (WHERE e.event = 'run_resumed') OVER (ORDER BY e.seq) AS runner
  FROM {ledger}.events AS e
  WHERE e.run = $1::text AND e.writer = $2::text
    AND e.event IN ('attempt_launching', 'attempt_finished', 'step_finished', 'run_resumed')
), attempts AS (
  SELECT step, attempt, min(runner) AS runner,
         max(at) FILTER (WHERE event = 'attempt_launching') AS began,
         max(at) FILTER (WHERE event = 'attempt_finished') AS ended
  FROM happened WHERE event IN ('attempt_launching', 'attempt_finished') GROUP BY step, attempt
), spans AS (
  SELECT step, runner, max(ended) - min(began) AS took
  FROM attempts WHERE began IS NOT NULL AND ended IS NOT NULL GROUP BY step, runner
), times AS (
  SELECT step, round(extract(epoch FROM sum(took)), 3)::float8 AS seconds FROM spans GROUP BY step
)
SELECT DISTINCT ON (h.step) h.step, t.seconds, h.body ->> 'state', coalesce(h.body #>> '{error,message}', ''),
       h.runner = (SELECT max(runner) FROM happened)
FROM happened AS h LEFT JOIN times AS t USING (step)
WHERE h.event = 'step_finished'
ORDER BY h.step, h.seq DESC

-- name: ledger_find
-- $1 a run's id, its beginning, or `last`. The matching runs, the latest first, those of trusted writers before others:
-- run, whether a trusted role has written it, and a writer.
SELECT run, bool_or(writer IN {writers}), min(writer)
FROM {ledger}.runs
WHERE $1::text = 'last' OR starts_with(run, $1::text)
GROUP BY run
ORDER BY 2 DESC, run = $1::text DESC, max(started_at) DESC
LIMIT 2

-- name: ledger_known
-- $1 a run's id, or an empty text: then $2 a plan's name and $3 its SHA-256, and only runs of trusted writers. The latest
-- first: run, writer, whether that is trusted, whether the run has ended, its exit code, and the events with which it
-- began and was last resumed. The row of a run is that of the writer whose event is the last of these.
SELECT r.run, r.writer, r.writer IN {writers}, r.finished_at IS NOT NULL, r.exit_code, b.body::text, t.body::text
FROM {ledger}.runs AS r
LEFT JOIN LATERAL (
  SELECT e.body, e.writer FROM {ledger}.events AS e
  WHERE e.run = r.run AND e.event = 'run_started' AND e.writer IN {writers} ORDER BY e.seq LIMIT 1
) AS b ON true
LEFT JOIN LATERAL (
  SELECT e.body, e.writer FROM {ledger}.events AS e
  WHERE e.run = r.run AND e.event = 'run_resumed' AND e.writer IN {writers} ORDER BY e.seq DESC LIMIT 1
) AS t ON true
WHERE r.writer = coalesce(t.writer, b.writer, r.writer)
  AND CASE WHEN $1::text <> '' THEN r.run = $1::text
           ELSE r.plan = $2::text AND r.sha256 = $3::text AND r.writer IN {writers} END
ORDER BY r.writer IN {writers} DESC, r.started_at DESC
LIMIT 50

-- name: ledger_members
-- $1 the id of a fleet run, with a hyphen. The runs of its members in this ledger, as trusted roles have recorded them.
SELECT DISTINCT e.run, e.body ->> 'target' FROM {ledger}.events AS e
WHERE left(e.run, length($1::text)) = $1::text AND e.event = 'run_started' AND e.writer IN {writers}
ORDER BY e.run

-- name: ledger_writers
-- $1 run. The login roles that have written its events, and whether each is trusted.
SELECT writer, writer IN {writers} FROM {ledger}.events WHERE run = $1::text GROUP BY writer ORDER BY writer

-- name: ledger_plans
-- $1 run, $2 writers as JSON array. Its plans: the SHA-256 to which events refer, and JSON.
SELECT sha256, resolved::text FROM {ledger}.plans
WHERE run = $1::text AND writer::text IN (SELECT json_array_elements_text($2::json))

-- name: ledger_commits
-- $1 run, $2 writers as JSON array. Its attempts with a commit row.
SELECT step, attempt FROM {ledger}.commits
WHERE run = $1::text AND committed AND writer::text IN (SELECT json_array_elements_text($2::json))

-- name: ledger_history
-- $1 run, $2 writers as JSON array. Its events as JSON, in order.
SELECT DISTINCT ON (seq) (body - 'commit_row' - 'proof')::text FROM {ledger}.events
WHERE run = $1::text AND writer::text IN (SELECT json_array_elements_text($2::json))
ORDER BY seq, writer <> session_user, writer
