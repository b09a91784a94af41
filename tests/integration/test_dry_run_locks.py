"""Locks on real relations: what the text of a plan does not tell, and who is in the way now."""

from __future__ import annotations

import asyncio
import json
import textwrap
import time
from pathlib import Path

import psycopg
import pytest

from runner import load_plan
from runner.cli.dry_run import look
from runner.errors import Problem, Severity
from runner.preflight.dry_run import DryRunOptions
from runner.preflight.dry_run_result import DryRun
from runner.preflight.step_durations import Duration, KnownDurations
from tests.integration.gateway_setups import ask

HEAD = """
version: 1
name: locks
budget: {slots: 4}
defaults: {timeout: 10m, lock_timeout: 2m, on_finish: wait}
steps:
"""
SCHEMA = """
    CREATE SCHEMA app;
    CREATE TABLE app.parents (id int PRIMARY KEY, word text);
    CREATE TABLE app.children (id int PRIMARY KEY, parent int REFERENCES app.parents ON DELETE CASCADE);
    CREATE TABLE app.days (at date) PARTITION BY RANGE (at);
    CREATE TABLE app.day_1 PARTITION OF app.days FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
    CREATE VIEW app.words AS SELECT word FROM app.parents;
    CREATE INDEX parents_word ON app.parents (word);
    CREATE FUNCTION app.noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER note AFTER UPDATE ON app.parents FOR EACH ROW EXECUTE FUNCTION app.noted()
"""


@pytest.fixture
def app(database: str) -> str:
    """A database with what locks spread over."""
    ask(database, SCHEMA)
    return database


def looked(dsn: str, folder: Path, steps: str) -> DryRun:
    """Look at a plan of these steps."""
    path = folder / "plan.yaml"
    path.write_text(HEAD + textwrap.dedent(steps), encoding="utf-8")
    options = DryRunOptions(durations=KnownDurations({"a": Duration(p50=90.0, p95=120.0, runs=3)}))
    return asyncio.run(look(load_plan(path), dsn, options))


def found(result: DryRun, *codes: str) -> list[Problem]:
    """Return the problems of these codes."""
    return [problem for problem in result.problems if problem.code in codes]


@pytest.mark.parametrize(
    ("one", "other", "on"),
    [
        ("SELECT * FROM app.words", "ALTER TABLE app.parents ADD COLUMN note text", "app.parents"),
        ("INSERT INTO app.days VALUES ('2026-01-01')", "VACUUM FULL app.day_1", "app.day_1"),
        ("DELETE FROM app.parents WHERE id = 1", "LOCK TABLE app.children IN SHARE MODE; SELECT 1", "app.children"),
        (
            "INSERT INTO app.children VALUES (1, 1)",
            "ALTER TABLE app.parents ADD COLUMN note text",
            "app.parents",
        ),
        ("UPDATE app.children SET parent = 2 WHERE id = 1", "VACUUM FULL app.parents", "app.parents"),
        ("REINDEX INDEX app.parents_word", "UPDATE app.parents SET word = 'x' WHERE id = 1", "app.parents"),
        ("DROP TABLE app.day_1", "SELECT count(*) FROM app.days", "app.days"),
    ],
)
def test_steps_that_exclude_each_other_on_what_the_text_does_not_name(
    app: str, tmp_path: Path, one: str, other: str, on: str
) -> None:
    steps = (
        f"- {{id: a, sql: {json.dumps(one)}}}  # jobplan: ignore=JP353 a test\n- {{id: b, sql: {json.dumps(other)}}}\n"
    )
    result = looked(app, tmp_path, steps)
    problems = found(result, "JP402", "JP403")
    assert any(on in problem.message for problem in problems), [str(problem) for problem in result.problems]
    apart = looked(app, tmp_path, steps.replace("{id: b,", "{id: b, needs: [a],"))
    assert found(apart, "JP402", "JP403") == []


def test_a_build_beside_an_analyze_through_another_name_is_found_as_a_risk(app: str, tmp_path: Path) -> None:
    steps = """
    - {id: a, sql: "CREATE INDEX CONCURRENTLY more ON app.parents (id, word)", verify: SELECT true}
    - {id: b, sql: ANALYZE parents, search_path: "other, app"}
    """
    (problem,) = found(looked(app, tmp_path, steps), "JP401")
    assert problem.severity is Severity.WARNING


def test_a_key_that_is_not_changed_locks_nothing(app: str, tmp_path: Path) -> None:
    steps = """
    - {id: a, sql: UPDATE app.children SET id = 3 WHERE id = 2}
    - {id: b, sql: VACUUM FULL app.parents}
    """
    assert found(looked(app, tmp_path, steps), "JP402", "JP403") == []


def test_a_comment_silences_it(app: str, tmp_path: Path) -> None:
    steps = """
    - {id: a, sql: SELECT * FROM app.words}  # jobplan: ignore=JP402 the view is ours
    - {id: b, sql: ALTER TABLE app.parents ADD COLUMN note text}  # jobplan: ignore=JP402 the view is ours
    """
    assert found(looked(app, tmp_path, steps), "JP402") == []


def test_sessions_that_hold_a_conflicting_lock_now_are_named(app: str, tmp_path: Path) -> None:
    steps = "- {id: a, sql: ALTER TABLE app.parents ADD COLUMN note text}\n- {id: b, sql: SELECT 1 FROM app.parents}\n"
    with psycopg.connect(app, application_name="the report") as other:
        other.execute("SELECT count(*) FROM app.parents")
        (problem,) = found(looked(app, tmp_path, steps), "JP701")
        assert f"pid {other.info.backend_pid} (" in problem.message
        assert "the report, idle in transaction" in problem.message
        assert problem.step == "a"
        assert problem.hint == f"SELECT pg_terminate_backend({other.info.backend_pid});"
    assert found(looked(app, tmp_path, steps), "JP701") == []


def test_an_old_snapshot_holds_up_a_build(app: str, tmp_path: Path) -> None:
    steps = "- {id: a, sql: REINDEX INDEX CONCURRENTLY app.parents_word, verify: SELECT true}\n"
    with psycopg.connect(app) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        time.sleep(1.2)
        (problem,) = found(looked(app, tmp_path, steps), "JP702")
        assert f"pid {other.info.backend_pid}" in problem.message
    assert found(looked(app, tmp_path, steps), "JP702") == []


def test_the_weight_of_a_lock_is_reported(app: str, tmp_path: Path) -> None:
    steps = """
    - {id: a, sql: ALTER TABLE app.parents ADD COLUMN note text}
    - {id: b, sql: TRUNCATE app.days, needs: [a]}  # jobplan: ignore=JP353 a test
    - {id: c, sql: SELECT 1 FROM app.parents, needs: [b]}
    """
    one, other = sorted(looked(app, tmp_path, steps).locks, key=lambda lock: lock.step)
    assert (one.relation, one.mode, one.stops) == ("app.parents", "ACCESS EXCLUSIVE", "reads and writes")
    assert (one.seconds, one.limit) == (90.0, 600.0)
    assert (other.relation, other.partitions) == ("app.days", 1)


_PARTS = """
    CREATE TABLE app.day_other PARTITION OF app.days DEFAULT;
    CREATE TABLE app.day_2 (at date NOT NULL);
    CREATE VIEW app.seen AS SELECT id FROM app.children
"""
_BOUNDS = "FOR VALUES FROM ('2026-01-02') TO ('2026-01-03')"


@pytest.mark.parametrize(
    ("sql", "others"),
    [
        (f"CREATE TABLE app.day_3 PARTITION OF app.days {_BOUNDS}", {"app.days", "app.day_other"}),
        (f"ALTER TABLE app.days ATTACH PARTITION app.day_2 {_BOUNDS}", {"app.day_2", "app.day_other"}),
        ("ALTER TABLE app.days DETACH PARTITION app.day_1", {"app.days", "app.day_1", "app.day_other"}),
        ("ALTER TABLE app.days DETACH PARTITION app.day_other", {"app.days", "app.day_other"}),
        ("DROP TABLE app.day_1", {"app.days", "app.day_1", "app.day_other"}),
        ("ALTER TABLE app.children DROP CONSTRAINT children_parent_fkey", {"app.children", "app.parents"}),
        ("ALTER TABLE app.parents DROP CONSTRAINT parents_pkey CASCADE", {"app.children", "app.parents"}),
        ("LOCK TABLE app.seen; SELECT 1", {"app.seen", "app.children"}),
    ],
)
def test_the_strong_locks_of_a_statement_are_those_that_it_takes(
    app: str, tmp_path: Path, sql: str, others: set[str]
) -> None:
    ask(app, _PARTS)
    result = looked(app, tmp_path, f"- id: a\n  sql: |\n    {sql}\n")
    assert {lock.relation for lock in result.locks if lock.mode == "ACCESS EXCLUSIVE"} == others
    with psycopg.connect(app) as session:
        session.execute(sql.encode())
        rows = session.execute(
            "SELECT l.relation::regclass::text FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation"
            " WHERE l.pid = pg_backend_pid() AND l.mode = 'AccessExclusiveLock' AND c.relkind IN ('r', 'p', 'v')"
        ).fetchall()
        session.rollback()
    assert {str(name) for (name,) in rows} - {"app.day_3"} | (others & {"app.day_1"}) == others
