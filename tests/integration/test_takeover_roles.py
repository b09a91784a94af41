"""A run is only taken up by a role that can see what was left of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runner.clock import MonotonicClock
from runner.engine.state import initial_state
from runner.errors import PreflightError
from runner.gateway.postgres import PgGateway
from runner.run.takeover import Takeover
from tests.builders import new_run, plan, step
from tests.integration.gateway_setups import Follower, RealSetup, ask

RUN = "260101-unseen"


async def test_workers_that_a_role_may_not_see_do_not_count_as_ended(
    database: str, new_role: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.run.takeover.LAUNCH_SEEN_WITHIN", 0.0)
    p = plan(step("a", "SELECT pg_sleep(60)", idempotent=True))
    weak = new_role()
    async with RealSetup(database, RUN) as setup:
        await Follower(setup, "a", "SELECT pg_sleep(60)").running()
        await setup.gateway.close()
        run, recorder = new_run(
            p,
            PgGateway(weak, RUN),
            run_id=RUN,
            clock=MonotonicClock(),
            previous_state=initial_state(p),
            takeover=Takeover(),
        )
        with pytest.raises(PreflightError, match="1 of its workers belong to a role"):
            await run.execute()
        assert not recorder.events
        role = ask(weak, "SELECT current_user")[0][0]
        ask(database, f"GRANT pg_read_all_stats, pg_signal_backend TO {role}")
        gateway = PgGateway(weak, RUN)
        await gateway.open()
        left = await gateway.remaining_backends()
        await gateway.close()
        assert (len(left.workers), left.unseen) == (1, 0)
