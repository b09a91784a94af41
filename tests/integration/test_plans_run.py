"""The plans that the project ships do what they say, through the public surface: load_plan and run_plan."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from runner import load_plan, run_plan
from runner.engine import events as ev
from runner.engine.state import RunState
from runner.errors import OutsideWindowError, PlanError
from runner.plan.model import Plan
from runner.structs import replace

PLANS = Path(__file__).parents[2] / "plans"


class Events:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[ev.Event] = []

    def handle(self, event: ev.Event, state: RunState) -> None:  # noqa: ARG002 - the protocol's parameters
        """Keep the event."""
        self.events.append(event)

    def flush(self) -> None:
        """Do nothing."""

    def tick(self, now: float, state: RunState) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def pgbench_tables(database: str) -> str:
    """A database with pgbench's tables, a little history in it."""
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT setting FROM pg_config WHERE name = 'BINDIR'").fetchone()
    assert row is not None
    command = [f"{row[0]}/pgbench", "--quiet", "-i", "-s", "1", database]
    subprocess.run(command, check=True, capture_output=True, env=dict(os.environ), timeout=120)
    with psycopg.connect(database) as connection:
        connection.execute(
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)"
            " SELECT 1, 1, n, 0, now() - n * interval '1 day' FROM generate_series(0, 99) AS n"
        )
    return database


def test_the_quickstart_twice(database: str) -> None:
    plan = load_plan(PLANS / "quickstart.yaml", params={"orders": "2000"})
    for _ in range(2):
        result = run_plan(plan, dsn=database)
        assert result.exit_code == 0
        assert Counter(map(str, (record.state for record in result.state.records.values()))) == {
            "succeeded": 11,
            "detached": 1,
        }
        with psycopg.connect(database, autocommit=True) as connection:
            assert connection.execute("SELECT count(*) FROM shop.orders").fetchone() == (2000,)
            assert connection.execute(
                "SELECT count(*) FROM pg_index WHERE indrelid = 'shop.orders'::regclass AND indisvalid"
            ).fetchone() == (3,)
        stop_what_lives_on(database)


@pytest.fixture(scope="module")
def shop(new_database: Callable[[], str]) -> str:
    """A database that the quickstart has filled."""
    dsn = new_database()
    assert run_plan(load_plan(PLANS / "quickstart.yaml", params={"orders": "3000"}), dsn=dsn).exit_code == 0
    stop_what_lives_on(dsn)
    return dsn


def stop_what_lives_on(dsn: str) -> None:
    """End the quickstart's detached step, whose snapshot blocks whatever is built CONCURRENTLY after it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE backend_type = 'pg_background' AND datname = current_database()"
        )


AFTER_QUICKSTART = sorted(
    path.stem for path in PLANS.glob("*.yaml") if "Runs after quickstart" in path.read_text(encoding="utf-8")
)


def at_night(plan: Plan, dsn: str) -> Plan:
    """Return the plan with a window that is open now by the server's clock, if it has one."""
    if plan.window is None:
        return plan
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::int8 % 86400").fetchone()
    assert row is not None
    opens, closes = (row[0] - 3600) % 86_400, (row[0] + 3600) % 86_400
    return replace(plan, window=replace(plan.window, timezone="UTC", from_=opens, to=closes))


def test_the_plans_for_the_night_are_among_them() -> None:
    assert {"keyset-backfill", "rebuild-chains", "vacuum-small-tables"} <= set(AFTER_QUICKSTART)
    backfill = load_plan(PLANS / "keyset-backfill.yaml")
    repeat = next(step for step in backfill.steps if step.id == "fill").repeat
    assert repeat is not None
    assert repeat.carry
    assert repeat.adapt is not None
    assert backfill.window is not None
    assert len(backfill.holds) == 3


@pytest.mark.parametrize("name", [*AFTER_QUICKSTART, "nightly-window"])
def test_the_dry_run_of_what_runs_after_the_quickstart_finds_no_error(shop: str, name: str) -> None:
    command = [sys.executable, "-m", "runner", "dry-run", str(PLANS / f"{name}.yaml"), "--dsn", shop]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    if load_plan(PLANS / f"{name}.yaml").window is not None:
        assert "\n\nWindow\n" in ran.stdout  # whether it is open depends on the time of day


@pytest.mark.parametrize("name", AFTER_QUICKSTART)
def test_what_runs_after_the_quickstart_can_run_again(shop: str, name: str) -> None:
    plan = at_night(load_plan(PLANS / f"{name}.yaml"), shop)
    for _ in range(2):
        result = run_plan(plan, dsn=shop)
        states = {key: str(record.state) for key, record in result.state.records.items()}
        assert result.exit_code == 0, states


def test_an_invalid_plan_is_refused_with_its_problems(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("version: 1\nname: Wrong\n", encoding="utf-8")
    with pytest.raises(PlanError) as refused:
        load_plan(tmp_path / "plan.yaml")
    assert len(refused.value.problems) >= 3


def test_history_is_purged_by_age_and_noted(pgbench_tables: str) -> None:
    sink = Events()
    plan = load_plan(PLANS / "purge-history.yaml", params={"retention_days": "30"})
    assert run_plan(plan, dsn=pgbench_tables, sinks=[sink]).exit_code == 0
    with psycopg.connect(pgbench_tables) as connection:
        assert connection.execute("SELECT count(*) FROM pgbench_history").fetchone() == (30,)
        assert connection.execute("SELECT what FROM maintenance_log").fetchone() == (
            "history older than 30 days purged",
        )
    assert isinstance(sink.events[-1], ev.RunFinished)
    assert sink.events[-1].exit_code == 0


BLOAT = """
    CREATE TABLE bloated (id int CONSTRAINT bloated_pkey PRIMARY KEY, word text);
    INSERT INTO bloated SELECT n, 'x' FROM generate_series(1, 20000) AS n;
    CREATE TABLE dense AS TABLE bloated;
    ALTER TABLE dense ADD CONSTRAINT dense_pkey PRIMARY KEY (id);
    DELETE FROM bloated WHERE id % 20 > 0;
    CREATE INDEX bloated_word_ccnew ON bloated (word);
    UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'bloated_word_ccnew'::regclass
"""
FILES = (
    "SELECT relname, pg_relation_filenode(oid) FROM pg_class"
    " WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace"
)


def test_bloated_indexes_are_rebuilt_and_leftovers_dropped(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(BLOAT)
        connection.execute("VACUUM ANALYZE")
        before: dict[str, int] = dict(connection.execute(FILES).fetchall())
        plan = load_plan(PLANS / "rebuild-indexes.yaml", params={"schema": "public", "min_size": "0"})
        assert run_plan(plan, dsn=database).exit_code == 0
        after: dict[str, int] = dict(connection.execute(FILES).fetchall())
    assert sorted(after) == ["bloated_pkey", "dense_pkey"]
    assert after["bloated_pkey"] != before["bloated_pkey"]
    assert after["dense_pkey"] == before["dense_pkey"]


def test_the_nightly_window_plan_leaves_over_what_does_not_fit(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE large AS SELECT n, repeat('x', 100) FROM generate_series(1, 5000) AS n")
        plan = load_plan(PLANS / "nightly-window.yaml", params={"min_size": "100 kB"})
        night = at_night(plan, database).window
        assert night is not None
        result = run_plan(replace(plan, window=night), dsn=database)
        assert result.exit_code == 0
        states = {key: str(record.state) for key, record in result.state.records.items()}
        assert states["vacuum[large]"] == states["oldest"] == states["report"] == "succeeded"
        by_day = replace(night, from_=(night.from_ + 3 * 3600) % 86_400, to=(night.to + 2 * 3600) % 86_400)
        with pytest.raises(OutsideWindowError):
            run_plan(replace(plan, window=by_day), dsn=database)


def test_bloated_indexes_are_rebuilt_by_a_chain_each(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(BLOAT)
        connection.execute("DROP INDEX bloated_word_ccnew")
        connection.execute("VACUUM ANALYZE")
        before: dict[str, int] = dict(connection.execute(FILES).fetchall())
        plan = load_plan(PLANS / "rebuild-chains.yaml", params={"schema": "public", "min_size": "0"})
        result = run_plan(plan, dsn=database)
        assert result.exit_code == 0
        after: dict[str, int] = dict(connection.execute(FILES).fetchall())
        logged = connection.execute(
            "SELECT name, before > after, run FROM rebuilt_indexes WHERE name ~ '^(bloated|dense)'"
        ).fetchall()
    assert after["bloated_pkey"] != before["bloated_pkey"]
    assert after["dense_pkey"] == before["dense_pkey"]
    assert logged == [("bloated_pkey", True, result.run_id)]
    assert result.state.records["per_index[public,bloated_pkey].log"].state == "succeeded"
