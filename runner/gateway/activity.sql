-- The activity of runs that this process did not start. Nothing here needs the extension.

-- name: whereabouts
-- The server's clock, its version, the database and role of this session, whether it may see the query texts of other
-- roles, and whether the server is a standby.
SELECT extract(epoch FROM clock_timestamp()), current_setting('server_version'), current_database(), session_user,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), pg_is_in_recovery()

-- name: live_sessions
-- Every worker of the extension, whatever its name, and every session with a name of jobplan. Without the privilege,
-- backend_type is NULL and the text is "<insufficient privilege>". A worker's parallel workers have its name, too, and
-- are excluded. The last column is the time of the client's last request; while the server executes one, the time now.
SELECT pid, to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), application_name,
       backend_type, datname, usename, state, wait_event_type, wait_event, query,
       extract(epoch FROM backend_start), host(client_addr),
       extract(epoch FROM CASE WHEN state = 'active' AND wait_event_type IS DISTINCT FROM 'Client' THEN clock_timestamp()
                               ELSE greatest(query_start, state_change) END)
FROM pg_stat_activity
WHERE backend_type = 'pg_background'
   OR (starts_with(application_name, 'jobplan:') AND (backend_type IS NULL OR backend_type = 'client backend'))
ORDER BY backend_start, pid

-- name: blocking
-- Which session waits for which, if one of them is a worker or has a name of jobplan: the waiting one, the lock, the
-- other one. pg_blocking_pids takes the lock manager's locks for a moment, so it is called only for waiting sessions.
WITH waiting AS (
  SELECT l.pid, min(l.mode || CASE
      WHEN l.relation IS NULL THEN ' on ' || l.locktype
      WHEN d.oid IS NULL THEN ' on relation ' || l.relation
      ELSE ' on ' || l.relation::regclass::text END) AS lock
  FROM pg_locks AS l
  LEFT JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database()
  WHERE NOT l.granted
  GROUP BY l.pid
)
SELECT w.pid, a.application_name, a.usename, a.state, a.query, extract(epoch FROM clock_timestamp() - a.xact_start),
       w.lock,
       b.pid, o.application_name, o.usename, o.state, o.query, extract(epoch FROM clock_timestamp() - o.xact_start)
FROM waiting AS w
JOIN pg_stat_activity AS a ON a.pid = w.pid
CROSS JOIN LATERAL (SELECT DISTINCT unnest(pg_blocking_pids(w.pid)) AS pid) AS b
LEFT JOIN pg_stat_activity AS o ON o.pid = b.pid
WHERE starts_with(a.application_name, 'jobplan:') OR starts_with(o.application_name, 'jobplan:')
   OR 'pg_background' IN (a.backend_type, o.backend_type)
ORDER BY w.pid, b.pid

-- name: progress
-- The server's progress reports of maintenance commands: pid, command, phase, relation, done, total, unit. Each phase
-- has its own counters, and some have none: then the total is 0, but `done` may be useful. The number of indexes that a
-- VACUUM has processed is reported from version 17 on.
WITH reports AS (
  SELECT pid, datname, relid, 'VACUUM' AS command, phase,
         CASE WHEN phase = 'scanning heap' THEN heap_blks_scanned WHEN phase = 'vacuuming heap' THEN heap_blks_vacuumed
              WHEN phase LIKE '% indexes' THEN (to_jsonb(v) ->> 'indexes_processed')::int8 END AS done,
         CASE WHEN phase IN ('scanning heap', 'vacuuming heap') THEN heap_blks_total
              WHEN phase LIKE '% indexes' THEN (to_jsonb(v) ->> 'indexes_total')::int8 END AS total,
         CASE WHEN phase LIKE '% indexes' THEN 'indexes' ELSE 'blocks' END AS unit
  FROM pg_stat_progress_vacuum AS v
  UNION ALL
  SELECT pid, datname, relid, 'ANALYZE', phase, sample_blks_scanned,
         CASE WHEN phase LIKE 'acquiring %' THEN sample_blks_total END, 'blocks'
  FROM pg_stat_progress_analyze
  UNION ALL
  SELECT pid, datname, relid, command, phase,
         -- PostgreSQL reports all blocks of the table as done while it scans the first one.
         CASE WHEN phase LIKE 'waiting %' THEN lockers_done
              WHEN phase = 'building index: scanning table' AND blocks_total > 0 THEN nullif(blocks_done, blocks_total)
              WHEN blocks_total > 0 THEN blocks_done ELSE tuples_done END,
         CASE WHEN phase LIKE 'waiting %' THEN lockers_total WHEN blocks_total > 0 THEN blocks_total
              ELSE tuples_total END,
         CASE WHEN phase LIKE 'waiting %' THEN 'transactions' WHEN blocks_total > 0 THEN 'blocks' ELSE 'rows' END
  FROM pg_stat_progress_create_index
  UNION ALL
  SELECT pid, datname, relid, command, phase,
         CASE phase WHEN 'seq scanning heap' THEN heap_blks_scanned WHEN 'index scanning heap' THEN heap_tuples_scanned
                    WHEN 'writing new heap' THEN heap_tuples_written WHEN 'rebuilding index' THEN index_rebuild_count
         END,
         CASE phase WHEN 'seq scanning heap' THEN heap_blks_total WHEN 'writing new heap' THEN heap_tuples_scanned END,
         CASE phase WHEN 'seq scanning heap' THEN 'blocks' WHEN 'rebuilding index' THEN 'indexes' ELSE 'rows' END
  FROM pg_stat_progress_cluster
  UNION ALL
  SELECT pid, datname, relid, command, lower(type), CASE WHEN bytes_total > 0 THEN bytes_processed ELSE tuples_processed
         END, bytes_total, CASE WHEN bytes_total > 0 THEN 'bytes' ELSE 'rows' END
  FROM pg_stat_progress_copy
)
SELECT pid, command, phase, CASE WHEN datname = current_database() AND relid <> 0 THEN relid::regclass::text END,
       coalesce(done, 0), coalesce(total, 0), unit
FROM reports
WHERE phase IS NOT NULL

-- name: notify
-- $1 a request as JSON: the runner of its run receives it at its next poll, even if no worker is running.
SELECT pg_notify('jobplan', $1::text)

-- name: ignores_requests
-- $1 pid of a runner's session. One row if the runner ignores requests of this session's role: see may_stop, with which
-- the runner checks the sender.
SELECT 1
FROM pg_stat_activity AS a
JOIN pg_roles AS r ON r.oid = a.usesysid
JOIN pg_roles AS me ON me.rolname = session_user
WHERE a.pid = $1::int4
  AND NOT (me.rolsuper OR (NOT r.rolsuper AND (pg_has_role(me.oid, r.oid, 'USAGE')
                                               OR pg_has_role(me.oid, 'pg_signal_backend', 'USAGE'))))

-- name: locked
-- $1 pids as JSON array. The tables and indexes of this database that these sessions hold locks on, except the
-- catalogs.
SELECT DISTINCT l.relation
FROM pg_locks AS l
WHERE l.pid IN (SELECT value::int4 FROM json_array_elements_text($1::json)) AND l.relation >= 16384
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())

-- name: leftovers
-- $1 relation OIDs as JSON array, $2 whether a partition was being detached, $3 true for the whole database, in spite
-- of $1 and $2. The objects that an interrupted statement has left behind
-- (docs/pg_background.md#what-concurrently-leaves-behind) and that no session is working on; $4 true for those as well:
-- kind, name, and table; then the OID, the unquoted names, and those of the table, which for an index of a TOAST table is
-- its owning table. A partitioned index is invalid until all of its parts are attached. DETACH CONCURRENTLY waits without
-- a lock on any relation, so $1 does not find it.
WITH touched AS (SELECT value::oid AS oid FROM json_array_elements_text($1::json))
SELECT 'index', i.indexrelid::regclass::text, i.indrelid::regclass::text,
       c.oid, n.nspname, c.relname, tn.nspname, t.relname
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_class AS m ON m.reltoastrelid = i.indrelid
JOIN pg_class AS t ON t.oid = coalesce(m.oid, i.indrelid)
JOIN pg_namespace AS tn ON tn.oid = t.relnamespace
WHERE NOT i.indisvalid AND c.relkind = 'i'
  AND ($3::bool
       OR i.indrelid IN (SELECT oid FROM touched)
       OR i.indexrelid IN (SELECT oid FROM touched)
       OR m.oid IN (SELECT oid FROM touched))
  AND ($4::bool OR NOT EXISTS (
    -- CREATE INDEX names its index as soon as others see it; REINDEX makes all copies of a table's indexes before it
    -- names the first. The table of another role's session is not visible to every role; its lock on the table is.
    SELECT FROM pg_stat_progress_create_index AS p
    WHERE p.datname = current_database()
      AND (p.relid = i.indrelid AND (p.command NOT LIKE 'CREATE%' OR coalesce(p.index_relid, 0) IN (0, i.indexrelid))
           OR p.relid IS NULL AND EXISTS (SELECT FROM pg_locks AS l
                                          WHERE l.pid = p.pid AND l.relation = i.indrelid AND l.granted))))
UNION ALL
SELECT 'partition', h.inhrelid::regclass::text, h.inhparent::regclass::text,
       c.oid, n.nspname, c.relname, tn.nspname, t.relname
FROM pg_inherits AS h
JOIN pg_class AS c ON c.oid = h.inhrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_class AS t ON t.oid = h.inhparent
JOIN pg_namespace AS tn ON tn.oid = t.relnamespace
WHERE h.inhdetachpending
  AND ($3::bool OR $2::bool OR h.inhparent IN (SELECT oid FROM touched) OR h.inhrelid IN (SELECT oid FROM touched))
  AND ($4::bool OR NOT EXISTS (
    SELECT FROM pg_stat_activity AS a
    WHERE a.state = 'active' AND a.pid <> pg_backend_pid() AND a.query ~* '\mdetach\s+partition\M'))
ORDER BY 1, 2
