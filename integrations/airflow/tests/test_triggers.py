"""The trigger of deferrable tasks: what ends jobplan, and what does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_jobplan.operators import JobplanOperator
from airflow_provider_jobplan.triggers import JobplanTrigger
from support import Database, Task, context, effect, wait_until, waits


@pytest.fixture
def trigger(tmp_path: Path) -> Callable[..., JobplanTrigger]:
    """Make a trigger as Airflow does: what the operator defers, stored and made again."""

    def make(plan: str) -> JobplanTrigger:
        operator = JobplanOperator(
            task_id="nightly",
            plan=plan,
            postgres_conn_id="app_db",
            state_folder=str(tmp_path / "state"),
            deferrable=True,
            poll_seconds=0.05,
        )
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(context(Task()))
        _, values = deferred.value.trigger.serialize()
        return JobplanTrigger(**values)

    return make


async def fired(trigger: JobplanTrigger) -> dict[str, Any]:
    """Return the payload of the one event."""
    events = [event async for event in trigger.run()]
    (event,) = events
    payload: dict[str, Any] = event.payload
    return payload


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true, while the event loop runs."""
    await asyncio.to_thread(wait_until, condition)


def test_the_event_has_the_result(
    database: Database, plan: Callable[..., str], trigger: Callable[..., JobplanTrigger]
) -> None:
    found = asyncio.run(fired(trigger(plan(effect("a")))))
    assert found == {"run": database.runs()[0], "exit_code": 0, "steps": {"a": "succeeded"}}


def test_a_restart_of_the_triggerer_does_not_end_the_run(
    database: Database, plan: Callable[..., str], trigger: Callable[..., JobplanTrigger], tmp_path: Path
) -> None:
    path = plan(waits("a"), effect("b", needs="a"))

    async def restarted() -> dict[str, Any]:
        first = asyncio.create_task(fired(trigger(path)))
        await until(database.workers)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        assert database.workers() == 1
        second = trigger(path)
        again = asyncio.create_task(fired(second))
        await until(lambda: second._child is not None)
        database.run("INSERT INTO gate VALUES (true)")
        return await again

    found = asyncio.run(restarted())
    assert found["exit_code"] == 0
    assert found["steps"] == {"a": "succeeded", "b": "succeeded"}
    assert database.steps() == {"a": 1, "b": 1}
    assert database.runs() == [found["run"]]


def test_a_user_who_ends_the_task_stops_the_workers_of_the_server(
    database: Database, plan: Callable[..., str], trigger: Callable[..., JobplanTrigger]
) -> None:
    async def killed() -> None:
        one = trigger(plan(waits("a")))
        running = asyncio.create_task(fired(one))
        await until(database.workers)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await one.on_kill()
        await until(lambda: database.workers() == 0)

    asyncio.run(killed())
    assert database.steps() == {}


def test_a_trigger_that_never_began_can_be_ended(
    plan: Callable[..., str], trigger: Callable[..., JobplanTrigger]
) -> None:
    asyncio.run(trigger(plan(effect("a"))).on_kill())
