"""Names whose hashes collide, really: two live workers with one application_name are two, and none is run again."""

from __future__ import annotations

import asyncio
import hashlib
import itertools

import psycopg
import pytest

from runner.clock import MonotonicClock
from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.state import initial_state
from runner.gateway.postgres import PgGateway
from runner.identity import runner_name, worker_name
from runner.run.takeover import Takeover
from tests.builders import new_run, plan, step
from tests.integration.gateway_setups import HERE, SESSIONS, Follower, RealSetup, ask, until, value

RUN = "260101-collide"
#: Digits of the hash in this test, so that a collision is found in a moment; what follows is the same for any number.
SHORT = 2
WAITS = "LOCK TABLE gate; INSERT INTO done VALUES ('{}')"


def colliding() -> tuple[str, str]:
    """Return two long ids of steps with one name."""
    found: dict[str, str] = {}
    for number in itertools.count():
        step_id = "x" * 80 + str(number)
        digest = hashlib.sha256(step_id.encode()).hexdigest()[:SHORT]
        if digest in found:
            return found[digest], step_id
        found[digest] = step_id
    raise AssertionError


@pytest.mark.parametrize("known", ["observed", "pid of the launch", "nothing but the label"])
async def test_two_workers_of_one_name_are_adopted_as_two_by_a_resume(
    database: str, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    monkeypatch.setattr("runner.identity._HASH_LENGTH", SHORT)
    ask(database, "CREATE TABLE gate (); CREATE TABLE done (step text)")
    one, other = colliding()
    assert worker_name(RUN, one) == worker_name(RUN, other)
    texts = {name: WAITS.format(number) for number, name in enumerate((one, other))}
    p = plan(*(step(name, text) for name, text in texts.items()))
    clock = MonotonicClock()
    async with RealSetup(database, RUN) as setup:
        with psycopg.connect(database) as keeper:
            keeper.execute("LOCK TABLE gate")
            followers = {name: await Follower(setup, name, text).running() for name, text in texts.items()}
            seen = {name: follower.seen[0] for name, follower in followers.items()}
            assert len(set(seen.values())) == 2
            for follower in followers.values():
                follower.task.cancel()
            await asyncio.gather(*(follower.task for follower in followers.values()), return_exceptions=True)
            await setup.gateway.close()
            await until(lambda: not ask(database, SESSIONS, runner_name(RUN)))
            state, then = initial_state(p), clock.now()
            for name in texts:
                apply(state, ev.StepReady(at=then, step=name))
                launching = ev.AttemptLaunching(
                    at=then, step=name, attempt=1, application_name=worker_name(RUN, name), timeout=None
                )
                apply(state, launching)
                if known == "observed":
                    apply(state, ev.AttemptRunning(at=then, step=name, attempt=1, worker=seen[name]))
            run, record = new_run(
                p, PgGateway(database, RUN), run_id=RUN, clock=clock, previous_state=state, takeover=Takeover()
            )
            task = asyncio.create_task(run.execute())
            await until(lambda: record.of(ev.RunResumed) or task.done())
            if task.done():
                await task
            (resumed,) = record.of(ev.RunResumed)
            assert {found.step: found.worker for found in resumed.adopted} == seen
        await task
    assert value(database, "SELECT count(*) FROM done") == 2
    assert sorted(step for (step,) in ask(database, "SELECT step FROM done")) == ["0", "1"]
    assert not record.of(ev.AttemptLaunching), "one was launched again"
    assert not ask(database, f"SELECT FROM {HERE} AND backend_type = 'pg_background'")


async def test_two_workers_of_one_name_are_each_seen_as_their_own_by_the_run_that_launched_them(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.identity._HASH_LENGTH", SHORT)
    one, other = colliding()
    async with RealSetup(database, RUN) as setup:
        first, second = [
            await Follower(setup, name, f"SELECT pg_sleep({n})").running() for n, name in ((60, one), (60, other))
        ]
        assert first.seen[0] != second.seen[0]
        first.handle.cancel()
        end = await first.wait_until_ended()
        assert end.error is not None or end.lost
        alive = ask(database, f"SELECT pid FROM {HERE} AND backend_type = 'pg_background'")
        assert alive == [(second.seen[0].pid,)]
