-- The measurements of holds (runner/engine/holds.py), each one row: a number, a name, and whether the role cannot see
-- what it would need to. They run READ ONLY, in a transaction of their own that ends with the statement. Only
-- `hold_autovacuum_on` runs with the search_path of the session, so every name and operator in it has its schema.

-- name: hold_replication_lag
-- The longest replay lag of a standby in seconds, and the standby's application_name; NULL if none lags behind. The
-- walsenders of logical replication and of base backups are no standbys.
SELECT extract(epoch FROM r.replay_lag), r.application_name,
       EXISTS (SELECT FROM pg_stat_replication AS h WHERE h.state IS NULL)
FROM (SELECT) AS one
LEFT JOIN LATERAL (
  SELECT s.replay_lag, s.application_name
  FROM pg_stat_replication AS s
  WHERE s.state IN ('streaming', 'catchup') AND s.replay_lag IS NOT NULL
    AND NOT EXISTS (SELECT FROM pg_replication_slots AS l WHERE l.active_pid = s.pid AND l.slot_type = 'logical')
  ORDER BY s.replay_lag DESC
  LIMIT 1) AS r ON true

-- name: hold_wal_to_archive
-- The bytes of the WAL files that wait for archive_command. Only members of pg_monitor may list them.
SELECT count(*) * pg_size_bytes(current_setting('wal_segment_size')), NULL, false
FROM pg_ls_archive_statusdir() AS f
WHERE f.name LIKE '%.ready'

-- name: hold_active_sessions
-- The client sessions of the server that execute a statement, without those of this run, which have the application_name
-- of this session. The state of a session of another role is NULL without the privilege to see it.
SELECT count(*) FILTER (WHERE a.state = 'active'), NULL,
       coalesce(bool_or(a.backend_type IS NULL AND a.usesysid IS NOT NULL), false)
FROM pg_stat_activity AS a
WHERE (a.backend_type = 'client backend' OR a.backend_type IS NULL)
  AND a.pid <> pg_backend_pid() AND a.application_name IS DISTINCT FROM current_setting('application_name')

-- name: hold_missing_tables
-- "{tables}" is a JSON array of names: those that name no relation.
SELECT w.name
FROM pg_catalog.json_array_elements_text({tables}) AS w(name)
WHERE pg_catalog.num_nulls(pg_catalog.to_regclass(w.name)) OPERATOR(pg_catalog.=) 1

-- name: hold_autovacuum_on
-- "{tables}" is a JSON array of names. A table of these, or a partition or TOAST table of one, on which autovacuum works
-- now: its worker holds SHARE UPDATE EXCLUSIVE on it. Without pg_read_all_stats no autovacuum worker is visible.
WITH RECURSIVE wanted(oid, root) AS (
  SELECT pg_catalog.to_regclass(w.name)::pg_catalog.oid, pg_catalog.to_regclass(w.name)
  FROM pg_catalog.json_array_elements_text({tables}) AS w(name)
  UNION
  SELECT h.inhrelid, t.root
  FROM wanted AS t JOIN pg_catalog.pg_inherits AS h ON h.inhparent OPERATOR(pg_catalog.=) t.oid
)
SELECT NULL, (
    SELECT t.root::pg_catalog.text
    FROM wanted AS t
    JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) t.oid
    JOIN pg_catalog.pg_locks AS l ON l.relation OPERATOR(pg_catalog.=) ANY (ARRAY[c.oid, c.reltoastrelid])
    JOIN pg_catalog.pg_stat_activity AS a ON a.pid OPERATOR(pg_catalog.=) l.pid
    WHERE a.backend_type OPERATOR(pg_catalog.=) 'autovacuum worker' AND l.granted
      AND l.mode OPERATOR(pg_catalog.=) ANY (ARRAY['ShareUpdateExclusiveLock', 'AccessExclusiveLock'])
      AND l.database OPERATOR(pg_catalog.=) (
        SELECT d.oid FROM pg_catalog.pg_database AS d
        WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
    ORDER BY 1
    LIMIT 1),
  NOT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
