"""Which version of PostgreSQL has what a statement asks for."""

from __future__ import annotations

import pytest

from runner.sql.statements import parse_statements
from runner.sql.version_needs import impossible_needs, unmet_needs, version_needs


@pytest.mark.parametrize(
    ("sql", "since"),
    [
        ("VACUUM (BUFFER_USAGE_LIMIT '1MB') t", 16),
        ("VACUUM (SKIP_DATABASE_STATS) t", 16),
        ("VACUUM (ONLY_DATABASE_STATS)", 16),
        ("VACUUM (PROCESS_MAIN false) t", 16),
        ("VACUUM (process_toast false) t", 14),
        ("ANALYZE (BUFFER_USAGE_LIMIT '1MB') t", 16),
        ("EXPLAIN (GENERIC_PLAN) SELECT 1", 16),
        ("EXPLAIN (ANALYZE, MEMORY) SELECT 1", 17),
        ("EXPLAIN (ANALYZE, SERIALIZE) SELECT 1", 17),
        ("CREATE VIEW v WITH (security_invoker) AS SELECT 1", 15),
        ("ALTER VIEW v SET (security_invoker = true)", 15),
        ("COPY t FROM '/x' (on_error ignore)", 17),
        ("COPY t FROM '/x' (on_error ignore, reject_limit 3)", 18),
        ("COPY t FROM '/x' (default 'd')", 16),
        ("COPY t TO '/x' (header)", 15),
        ("COPY t FROM '/x' (format csv, header match)", 15),
        ("COPY t FROM '/x' (format csv, force_null *)", 17),
        ("CREATE DATABASE d STRATEGY wal_log", 15),
        ("GRANT MAINTAIN ON t TO r", 17),
        ("REVOKE MAINTAIN ON t FROM r", 17),
        ("ALTER DEFAULT PRIVILEGES GRANT MAINTAIN ON TABLES TO r", 17),
        ("GRANT a TO b WITH INHERIT TRUE", 16),
        ("SET transaction_timeout = '1s'", 17),
        ("ALTER SYSTEM SET transaction_timeout = '1s'", 17),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", 15),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE RETURNING t.a", 17),
        ("REINDEX DATABASE CONCURRENTLY", 16),
        ("ALTER TABLE t SET ACCESS METHOD heap", 15),
        ("CREATE UNIQUE INDEX ON t (a) NULLS NOT DISTINCT", 15),
        ("SELECT '{}' IS JSON", 16),
        ("ALTER TABLE t SET (autovacuum_vacuum_max_threshold = 5)", 18),
    ],
)
def test_the_newest_need_of_a_statement_is_its_version(sql: str, since: int) -> None:
    (statement,) = parse_statements(sql)
    assert max(need.since or 99 for need in version_needs(statement)) == since
    assert unmet_needs(statement, since - 1)
    assert not unmet_needs(statement, since)


@pytest.mark.parametrize(
    "sql",
    [
        "VACUUM (FULL, FREEZE, VERBOSE, ANALYZE, PARALLEL 2, SKIP_LOCKED, INDEX_CLEANUP auto, TRUNCATE off) t",
        "VACUUM FULL VERBOSE t",
        "ANALYZE VERBOSE t",
        "COPY t TO '/x' csv header",
        "COPY t FROM '/x' WITH DELIMITER ',' NULL ''",
        "REINDEX (VERBOSE) TABLE CONCURRENTLY t",
        "CLUSTER (VERBOSE) t",
        "EXPLAIN (ANALYZE, BUFFERS, WAL, SETTINGS, FORMAT json) SELECT 1",
        "EXPLAIN (debug) SELECT 1",
        "SET statement_timeout = 1",
        "DROP DATABASE d WITH (FORCE)",
        "GRANT SELECT ON t TO r",
    ],
)
def test_what_every_version_has_needs_none(sql: str) -> None:
    (statement,) = parse_statements(sql)
    assert not unmet_needs(statement, 14)


@pytest.mark.parametrize(
    "sql",
    [
        "VACUUM (nonsense) t",
        "ANALYZE (full) t",
        "COPY t TO '/x' (nonsense 3)",
        "REINDEX (full) TABLE t",
        "CLUSTER (concurrently) t",
        "CREATE DATABASE d NONSENSE = 1",
    ],
)
def test_an_option_that_no_version_has_is_named(sql: str) -> None:
    (statement,) = parse_statements(sql)
    (need,) = impossible_needs(statement)
    assert need.since is None
    assert "no version of PostgreSQL has this option" in need.reason
    assert need.offset > 0
