"""A run that measures holds and watches its workers, on a gateway without a server."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from runner.engine import events as ev
from runner.engine.ports import QueryResult
from runner.errors import GatewayError, ServerGivenUpError, ServerLostError
from runner.plan.model import ForEach, Hold, RetryPolicy
from runner.structs import replace
from tests.builders import execute, new_run, plan, sql, step
from tests.fake_gateway import FakeGateway, Script

ON, OFF = (QueryResult(columns=("x",), rows=((value,),), boolean=True) for value in ("t", "f"))
QUICK = Hold(name="load", while_=sql("SELECT 1"), every=0.05, release_after=0.0)


async def test_nothing_is_launched_before_the_first_measurement_and_while_it_is_on() -> None:
    gateway = FakeGateway()
    gateway.measurements["load"] = [ON, ON, OFF]
    result, recorder = await execute(plan(step("a", "SELECT 1", holds=("load",)), holds=(QUICK,)), gateway)
    assert result.exit_code == 0
    names = [event.name for event in recorder.events]
    assert names.index("hold_began") < names.index("hold_ended") < names.index("attempt_launching")
    assert gateway.measured["load"] >= 3


@pytest.mark.parametrize("error", [GatewayError("no answer"), ServerLostError("no connection")])
async def test_a_server_that_cannot_be_queried_counts_as_held(error: GatewayError) -> None:
    gateway = FakeGateway()
    gateway.measurements["load"] = [error, OFF]
    result, recorder = await execute(plan(step("a", "SELECT 1", holds=("load",)), holds=(QUICK,)), gateway)
    assert result.exit_code == 0
    (began,) = [event for event in recorder.events if isinstance(event, ev.HoldBegan)]
    assert began.error is not None
    assert began.value == f"it cannot be measured: {error.message}"


async def test_a_run_does_not_wait_for_a_hold_of_a_server_that_is_given_up() -> None:
    gateway = FakeGateway(scripts={"SELECT 1": Script(seconds=0.5)})
    gateway.measurements["load"] = [OFF, ServerGivenUpError("the server cannot be reached: refused")]
    gateway.measurements["other"] = [OFF]
    first, other = step("a", "SELECT 1", holds=("other",)), replace(QUICK, name="other")
    held = step("b", "SELECT 1", needs=("a",), holds=("load",))
    async with asyncio.timeout(30):
        result, recorder = await execute(plan(first, held, holds=(QUICK, other)), gateway)
    assert result.exit_code == 1
    (began,) = recorder.of(ev.HoldBegan)
    assert began.server_lost
    assert [event.step for event in recorder.of(ev.AttemptLaunching)] == ["a"]
    end = recorder.of(ev.StepFinished, "b")[0]
    assert end.reason is ev.FailureReason.HELD
    assert end.error is not None
    assert end.error.message == "held by `load`: it cannot be measured: the server cannot be reached: refused"


async def test_a_hold_is_measured_once_for_all_steps_and_only_if_it_concerns_one() -> None:
    gateway = FakeGateway()
    slow = Hold(name="slow", while_=sql("SELECT 1"), every=60.0)
    unused = Hold(name="unused", while_=sql("SELECT 1"), every=0.05)
    gateway.measurements = {"slow": [OFF], "unused": [ON]}
    steps = [step(f"s{number}", "SELECT 1", holds=("slow",)) for number in range(50)]
    result, _ = await execute(plan(*steps, holds=(slow, unused), slots=8), gateway)
    assert result.exit_code == 0
    assert gateway.measured == {"slow": 1}


async def test_a_parameter_of_while_has_its_value_and_a_missing_one_counts_as_held() -> None:
    gateway = FakeGateway(answers={"SELECT 'it''s'": OFF})
    hold = Hold(name="load", while_=sql("SELECT :'word'"), every=0.05, release_after=0.0)
    given = plan(step("a", "SELECT 1", holds=("load",)), holds=(hold,), values={"word": "it's"})
    assert (await execute(given, gateway))[0].exit_code == 0
    limited = Hold(name="load", while_=sql("SELECT :'word'"), every=0.05, at_most=0.2)
    result, recorder = await execute(plan(step("a", "SELECT 1", holds=("load",)), holds=(limited,)), gateway)
    assert result.exit_code == 1
    (end,) = [event for event in recorder.events if isinstance(event, ev.StepFinished)]
    assert end.reason is ev.FailureReason.HELD


async def test_finally_runs_and_no_more_is_measured_when_an_interrupt_ends_a_held_run() -> None:
    gateway = FakeGateway()
    gateway.measurements["load"] = [ON]
    held = plan(step("a", "SELECT 1", holds=("load",)), holds=(QUICK,), finally_=(step("last", "SELECT 1"),))
    run, recorder = new_run(held, gateway)
    running = asyncio.create_task(run.execute())
    while not any(isinstance(event, ev.HoldBegan) for event in recorder.events):  # noqa: ASYNC110 - no event is set
        await asyncio.sleep(0.01)
    run.interrupt(2)
    result = await running
    assert result.exit_code == 130
    assert [event.step for event in recorder.events if isinstance(event, ev.AttemptLaunching)] == ["last"]
    count = gateway.measured["load"]
    await asyncio.sleep(0.2)
    assert gateway.measured["load"] == count


async def test_a_worker_that_blocks_others_is_cancelled_and_tried_again() -> None:
    gateway = FakeGateway(scripts={"LOCK": Script(seconds=None)})
    retry = RetryPolicy(max_attempts=2, on=frozenset({"yielded"}))
    run, recorder = new_run(plan(step("a", "LOCK", yield_after=0.2, retry=retry)), gateway)
    running = asyncio.create_task(run.execute())
    for _ in itertools.count():
        workers = list(gateway.alive.values())
        if len(gateway.launched) == 2:
            break
        for worker in workers:
            identity = (worker.identity.pid, worker.identity.backend_start)
            gateway.see_blocked({identity: [ev.Blocked(pid=9, name="shop", mode="RowExclusiveLock", seconds=0.3)]})
        await asyncio.sleep(0.02)
    gateway.see_blocked({})
    for worker in list(gateway.alive.values()):
        worker.end()
    result = await running
    assert result.exit_code == 0
    ends = [(event.outcome, event.reason) for event in recorder.events if isinstance(event, ev.AttemptFinished)]
    assert ends == [(ev.Outcome.FAILED, ev.FailureReason.YIELDED), (ev.Outcome.SUCCEEDED, None)]


async def test_a_plan_without_yield_after_watches_nothing() -> None:
    gateway = FakeGateway()
    await execute(plan(step("a", "SELECT 1")), gateway)
    assert not gateway.watches_blocking
    assert gateway.measured == {}


async def test_a_hold_that_only_steps_of_a_chain_name_is_measured_and_they_may_yield() -> None:
    gateway = FakeGateway()
    gateway.measurements["load"] = [ON, OFF]
    chain = (step("x", "SELECT 1", holds=("load",), yield_after=1.0),)
    items = ForEach(as_="t", items=("a", "b"))
    group = replace(step("g", "", timeout=None), for_each=items, steps=chain)
    result, recorder = await execute(plan(group, holds=(QUICK,)), gateway)
    assert result.exit_code == 0
    names = [event.name for event in recorder.events]
    assert names.index("hold_ended") < names.index("attempt_launching")
    assert gateway.watches_blocking
