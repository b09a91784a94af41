"""The usual durations of a plan's steps, which `fit` compares with the rest of the window.

They come from journals and the ledger, and a dry run shows the same. The ledger is read on a connection of its own,
before the run begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.errors import GatewayError, JobplanError
from runner.gateway.inspection import Inspector
from runner.plan.model import Fit, Plan
from runner.preflight import step_durations
from runner.preflight.step_durations import MAX_RUNS, KnownDurations, from_ledger


async def usual_durations(
    plan: Plan, conninfo: str, *, journals: Path | None, ledger: bool, trusted_roles: Sequence[str] = ()
) -> Mapping[str, float]:
    """Return the durations in seconds, by step or instance; empty if the plan does not need them.

    `journals` is the folder of all journals. Without a ledger, or if it cannot be read, the journals alone count.
    """
    if plan.window is None or plan.window.fit is Fit.OFF:
        return {}
    sources = [] if journals is None else [step_durations.recorded(journals, plan.name)]
    if ledger:
        with contextlib.suppress(JobplanError):
            sources.insert(0, await _of_ledger(plan.name, conninfo, trusted_roles))
    return step_durations.usual_durations(plan, sources)


async def _of_ledger(plan: str, conninfo: str, trusted_roles: Sequence[str]) -> KnownDurations:
    async with await Inspector.connect(conninfo, "jobplan run") as inspector:
        try:
            return from_ledger(await inspector.recorded(plan, MAX_RUNS, trusted_roles))
        except GatewayError:
            return KnownDurations({})
