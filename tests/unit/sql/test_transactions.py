"""What must have a worker's transaction to itself, what needs company, and what a worker refuses."""

from __future__ import annotations

import pytest

from runner.sql.statements import Statement, parse_statements
from runner.sql.transactions import (
    cannot_stand_alone,
    is_session_only,
    may_have_to_stand_alone,
    must_stand_alone,
    refused_by_worker,
    without_effect,
)


def _parse(sql: str) -> Statement:
    (statement,) = parse_statements(sql)
    return statement


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("VACUUM t", "VACUUM"),
        ("CREATE INDEX CONCURRENTLY i ON t (a)", "CREATE INDEX CONCURRENTLY"),
        ("DROP INDEX CONCURRENTLY i", "DROP INDEX CONCURRENTLY"),
        ("REINDEX INDEX CONCURRENTLY i", "REINDEX CONCURRENTLY"),
        ("REINDEX (CONCURRENTLY) TABLE t", "REINDEX CONCURRENTLY"),
        ("REINDEX SCHEMA s", "REINDEX of a schema"),
        ("REINDEX DATABASE", "REINDEX of a schema or database"),
        ("CLUSTER", "CLUSTER without a table"),
        ("ALTER TABLE p DETACH PARTITION c CONCURRENTLY", "DETACH PARTITION"),
        ("ALTER DATABASE d SET TABLESPACE s", "ALTER DATABASE"),
        ("ALTER SYSTEM SET work_mem = 1", "ALTER SYSTEM"),
        ("DISCARD ALL", "DISCARD ALL"),
        ("CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p", "CREATE SUBSCRIPTION"),
        ("ALTER SUBSCRIPTION s REFRESH PUBLICATION", "ALTER SUBSCRIPTION"),
        ("ALTER SUBSCRIPTION s SET PUBLICATION p", "ALTER SUBSCRIPTION"),
        ("DO $$ BEGIN COMMIT; END $$", "DO with COMMIT"),
        ("DO $$ DECLARE r s.t%rowtype; BEGIN IF true THEN ROLLBACK AND CHAIN; END IF; END $$", "DO with COMMIT"),
        ("DO $$ BEGIN FOR i IN 1..2 LOOP -- c\n /* c */ commit; END LOOP; END $$ LANGUAGE plpgsql", "DO with COMMIT"),
    ],
)
def test_what_must_stand_alone_says_why(sql: str, reason: str) -> None:
    assert (must_stand_alone(_parse(sql)) or "").startswith(reason)
    assert may_have_to_stand_alone(_parse(sql)) is None


@pytest.mark.parametrize(
    "sql",
    [
        "ANALYZE t",
        "CREATE INDEX i ON t (a)",
        "REINDEX (CONCURRENTLY false) TABLE t",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
        "ALTER TABLE p DETACH PARTITION c",
        "ALTER DATABASE d CONNECTION LIMIT 5",
        "DISCARD PLANS",
        "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p WITH (connect = false)",
        "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p WITH (create_slot = off)",
        "ALTER SUBSCRIPTION s SET PUBLICATION p WITH (refresh = false)",
        "ALTER SUBSCRIPTION s DISABLE",
        "DO $$ BEGIN PERFORM 'COMMIT;'; -- COMMIT;\n INSERT INTO t(commit) SELECT commit; END $$",
        "DO $$ it's $$",
        "SELECT 1",
    ],
)
def test_what_may_share_a_transaction(sql: str) -> None:
    assert must_stand_alone(_parse(sql)) is None


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("REINDEX TABLE t", True),
        ("CLUSTER t", True),
        ("CALL p()", True),
        ("DO $$ BEGIN CALL p(); END $$", True),
        ("DO LANGUAGE plpython3u 'plpy.commit()'", True),
        ("DROP SUBSCRIPTION s", True),
        ("DO $$ BEGIN NULL; END $$", False),
        ("ANALYZE t", False),
    ],
)
def test_what_only_the_server_can_report(sql: str, expected: bool) -> None:
    assert (may_have_to_stand_alone(_parse(sql)) is not None) is expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("LOCK TABLE t", True),
        ("DECLARE c CURSOR FOR SELECT 1", True),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", False),
        ("SET LOCAL work_mem = '1MB'", True),
        ("SET work_mem = '1MB'", False),
        ("SET CONSTRAINTS ALL DEFERRED", True),
        ("SELECT 1", False),
    ],
)
def test_what_needs_company(sql: str, expected: bool) -> None:
    assert (cannot_stand_alone(_parse(sql)) is not None) is expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("BEGIN", True),
        ("COMMIT", True),
        ("SAVEPOINT s", True),
        ("PREPARE TRANSACTION 'x'", True),
        ("LISTEN c", True),
        ("COPY t FROM STDIN", True),
        ("COPY t FROM '/tmp/x'", False),
        ("COPY t FROM PROGRAM 'x'", False),
        ("NOTIFY c", False),
        ("SELECT 1", False),
    ],
)
def test_what_a_worker_refuses(sql: str, expected: bool) -> None:
    assert (refused_by_worker(_parse(sql)) is not None) is expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("COPY t TO STDOUT", True),
        ("COPY (SELECT 1) TO STDOUT", True),
        ("COPY t TO '/tmp/x'", False),
        ("UNLISTEN c", True),
        ("CLOSE ALL", True),
        ("SELECT 1", False),
    ],
)
def test_what_has_no_effect_in_a_worker(sql: str, expected: bool) -> None:
    assert (without_effect(_parse(sql)) is not None) is expected


@pytest.mark.parametrize(
    ("sql", "expected"), [("SET a.b = 1", True), ("PREPARE q AS SELECT 1", True), ("VACUUM", False)]
)
def test_what_ends_with_its_session(sql: str, expected: bool) -> None:
    assert is_session_only(_parse(sql)) is expected
