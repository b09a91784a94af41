"""Which version of PostgreSQL has what a statement asks for."""

from __future__ import annotations

import pytest

from runner.sql.statements import parse_statements
from runner.sql.version_needs import unmet_needs, version_needs


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
        ("CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p WITH (streaming = parallel)", 16),
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
        ("VACUUM ONLY t", 18),
        ("VACUUM (ANALYZE) a, ONLY t", 18),
        ("ANALYZE ONLY t (a)", 18),
        ("ALTER TABLE t ALTER a SET STATISTICS DEFAULT", 17),
        ("ALTER TABLE t ALTER a SET STORAGE DEFAULT", 16),
        ("ALTER TABLE t SET ACCESS METHOD DEFAULT", 17),
        ("ALTER TABLE t ALTER CONSTRAINT c NOT ENFORCED", 18),
        ("ALTER TABLE t ALTER CONSTRAINT c NO INHERIT", 18),
        ("ALTER TABLE t ADD CONSTRAINT c NOT NULL a", 18),
        ("ALTER TABLE t ADD CONSTRAINT c NOT NULL a NOT VALID", 18),
        ("ALTER TABLE t ADD CHECK (a > 0) NOT ENFORCED", 18),
        ("CREATE TABLE t (a int CHECK (a > 0) NOT ENFORCED)", 18),
        ("CREATE TABLE t (a int REFERENCES u NOT ENFORCED)", 18),
        ("CREATE TABLE t (a int STORAGE external)", 16),
        ("ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u ON DELETE SET NULL (a)", 15),
        ("CREATE UNLOGGED SEQUENCE s", 15),
        ("CREATE STATISTICS ON a, b FROM t", 16),
        ("CREATE PUBLICATION p FOR TABLES IN SCHEMA s", 15),
        ("CREATE PUBLICATION p FOR TABLE t (a)", 15),
        ("ALTER PUBLICATION p ADD TABLE t WHERE (a > 0)", 15),
        ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON LARGE OBJECTS TO r", 18),
        ("SELECT 1 FROM (SELECT 1)", 16),
        ("GRANT SET ON PARAMETER work_mem TO r", 15),
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
        "ALTER TABLE t ALTER a SET STATISTICS 100, ALTER a SET STORAGE external, ALTER a SET STATISTICS -1",
        "ALTER TABLE t ALTER CONSTRAINT c DEFERRABLE INITIALLY DEFERRED, ADD CHECK (a > 0), ALTER a SET NOT NULL",
        "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID, ADD FOREIGN KEY (a) REFERENCES u NOT VALID",
        "CREATE TABLE t (a int NOT NULL CHECK (a > 0) REFERENCES u, UNIQUE (a), EXCLUDE USING gist (a WITH =))",
        "CREATE PUBLICATION p FOR TABLE t",
        "CREATE STATISTICS s ON a, b FROM t",
        "CREATE DOMAIN d AS int CHECK (VALUE > 0)",
        "SELECT 1 FROM (SELECT 1) AS q",
        "INSERT INTO t SELECT a FROM (VALUES (1)) AS q (a)",
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
    (need,) = version_needs(statement)
    assert need.since is None
    assert "no version of PostgreSQL has this option" in need.reason
    assert need.offset > 0
