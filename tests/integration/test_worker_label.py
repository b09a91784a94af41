"""What a real server shows of a worker's label, whatever the step is called, and to which roles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from runner.identity import WorkerLabel, worker_name
from runner.plan.model import ForEach, RetryPolicy
from tests.builders import plan, step
from tests.integration.gateway_setups import (
    GATE,
    HERE,
    Follower,
    RealSetup,
    ask,
    open_transaction,
    run_one,
    run_plan,
    until,
    value,
)

QUERY = "SELECT query FROM pg_stat_activity WHERE backend_type = 'pg_background' AND application_name = %s"
HOSTILE = [
    "s[*/ DROP TABLE witness; /*]",
    "s[\"quotes\" and 'quotes' and $$ \\ %s]",
    "s[größe 日本 🙂]",
    "s[line\nbreak]",
    "s[" + "*/🙂" * 3_000 + "]",
]


def label(setup: RealSetup, key: str, **keys: int) -> WorkerLabel:
    """Return a label for a step of this setup's run."""
    return WorkerLabel(
        run=setup.run_id, plan="p", step=key, attempt=keys.get("attempt", 1), on_finish="wait", timeout=60.0
    )


async def seen_label(dsn: str, setup: RealSetup, key: str, sql: str) -> WorkerLabel | None:
    """Run a worker that takes long, and return what the server shows of its label."""
    follower = await Follower(setup, key, sql, label=label(setup, key)).running()
    await until(lambda: "jobplan" in str(ask(dsn, QUERY, follower.name)))
    text = value(dsn, QUERY, follower.name)
    follower.handle.cancel()
    await follower.wait_until_ended()
    return WorkerLabel.from_query(text)


@pytest.mark.parametrize("key", HOSTILE)
async def test_the_server_shows_the_label_whatever_the_step_is_called(dsn: str, key: str) -> None:
    async with RealSetup(dsn, "label-hostile") as setup:
        found = await seen_label(dsn, setup, key, "SELECT pg_sleep(60)")
        assert found is not None
        assert found.step == key or found.step[-7:] == worker_name(setup.run_id, key)[-7:]
        assert (found.run, found.attempt, found.timeout) == ("label-hostile", 1, 60.0)


async def test_the_label_stands_first_also_at_a_later_statement(dsn: str) -> None:
    async with RealSetup(dsn, "label-later") as setup:
        found = await seen_label(dsn, setup, "s", "CREATE TEMP TABLE x (); SELECT 1; SELECT pg_sleep(60)")
        assert found == label(setup, "s")


@pytest.mark.parametrize(
    "sql",
    ["VACUUM witness", "CREATE INDEX CONCURRENTLY ON witness (n)", "CALL commits()", "DO $$ BEGIN COMMIT; END $$"],
)
async def test_what_must_stand_alone_does_so_under_a_label(database: str, sql: str) -> None:
    ask(database, "CREATE TABLE witness (n int)")
    ask(database, "CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$")
    async with RealSetup(database, "label-alone") as setup:
        for key in ("s", *HOSTILE):
            end = await run_one(setup, sql, key, label=label(setup, key))
            assert end.confirmed, end


async def test_an_error_is_reported_as_without_a_label(dsn: str) -> None:
    async with RealSetup(dsn, "label-error") as setup:
        bare = await run_one(setup, "SELECT nonsense")
        labelled = await run_one(setup, "SELECT nonsense", label=label(setup, "step"))
        assert bare.error is not None
        assert labelled.error is not None
        assert (labelled.error.message, labelled.error.sqlstate) == (bare.error.message, bare.error.sqlstate)


async def test_a_run_labels_every_attempt_of_every_instance(database: str) -> None:
    items = ForEach(items=("*/ x",), as_="i")
    of = plan(
        step(
            "s",
            f"SELECT 1 / (SELECT 0 FROM ({GATE}) AS gate)",
            for_each=items,
            retry=RetryPolicy(max_attempts=2, delay=0.0),
        )
    )
    seen: set[tuple[str, int]] = set()

    def attempts() -> int:
        """Look at the worker, and return how many attempts were seen."""
        query = "SELECT query FROM pg_stat_activity WHERE application_name LIKE 'jobplan:label-run:s%'"
        labels = [WorkerLabel.from_query(text) for (text,) in ask(database, query)]
        seen.update((found.step, found.attempt) for found in labels if found is not None)
        return len(seen)

    waits = f"SELECT count(*) FROM {HERE} AND query = '{GATE}' AND wait_event_type = 'Lock'"
    with open_transaction(database, GATE) as first, psycopg.connect(database) as second:
        running = asyncio.create_task(run_plan(database, of, run_id="label-run"))
        await until(lambda: attempts() == 1)
        behind = asyncio.create_task(asyncio.to_thread(second.execute, GATE))  # behind the first attempt
        await until(lambda: value(database, waits))
        first.rollback()
        await behind
        await until(lambda: attempts() == 2)
    await running
    assert seen == {("s[*/ x]", 1), ("s[*/ x]", 2)}


async def test_a_role_that_may_not_see_texts_sees_the_name_only(new_role: Callable[..., str], database: str) -> None:
    other = new_role()
    async with RealSetup(database, "label-role") as setup:
        follower = await Follower(setup, "s", "SELECT pg_sleep(60)", label=label(setup, "s")).running()
        await until(lambda: "jobplan" in str(ask(database, QUERY, follower.name)))
        rows = ask(other, "SELECT query, backend_type FROM pg_stat_activity WHERE application_name = %s", follower.name)
        assert rows == [("<insufficient privilege>", None)]
        assert WorkerLabel.from_query(rows[0][0]) is None
        follower.handle.cancel()
        await follower.wait_until_ended()
