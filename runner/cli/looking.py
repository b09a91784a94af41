"""Keeps looking at a run's workers while somebody watches, once a second, and keeps what was seen last."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from statistics import median

from runner.engine.loop import Run
from runner.engine.state import RunState, StepState
from runner.errors import JobplanError
from runner.records.past import PastRun
from runner.reports.estimating import estimate
from runner.reports.sights import Sight, forwards, sights

#: Seconds between two looks.
LOOK_EVERY = 1.0


class Looker:
    """What was seen last, by step, and how long steps took in past runs."""

    def __init__(self, past: Sequence[PastRun] = ()) -> None:
        self._seen: Mapping[str, Sight] = {}
        samples: dict[str, list[float]] = defaultdict(list)
        for run in past:
            for step, (seconds, state) in run.steps.items():
                if state == StepState.SUCCEEDED:
                    samples[step].append(seconds)
        self._usual = {step: median(found) for step, found in samples.items()}

    def estimate(self, state: RunState, now: float) -> float | None:
        """Return the seconds that are left, if past runs tell."""
        return estimate(state, now, self._usual.get) if self._usual else None

    def seen(self) -> Mapping[str, Sight]:
        """Return what was seen last; nothing if nobody could look."""
        return self._seen

    @contextlib.asynccontextmanager
    async def looking(self, run: Run, run_id: str, *, wanted: bool) -> AsyncIterator[None]:
        """Look at the run's workers for as long as it goes on, if that is wanted."""
        if not wanted:
            yield
            return
        task = asyncio.create_task(self._keep_looking(run, run_id))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep_looking(self, run: Run, run_id: str) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            active = tuple(run.state.active)
            try:
                seen = sights(run_id, await run.look(), active) if active else {}
                self._seen = forwards(self._seen, seen)
            except JobplanError:
                self._seen = {}  # the connection is lost: what was seen then is not so any more
