"""Keeps looking at a run's workers while somebody watches, and keeps what was seen last."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from runner.cli.history import History
from runner.engine.loop import Run
from runner.engine.state import RunState
from runner.errors import JobplanError
from runner.reports.estimating import estimate
from runner.reports.sights import Sight, forwards, sights

#: Seconds between two looks for a terminal that is drawn on, and for the heartbeat of who only writes lines.
LOOK_EVERY = 1.0
LOOK_SELDOM = 15.0


class Looker:
    """What was seen last, by step, and what that means beside how long steps took in past runs."""

    def __init__(self, history: History) -> None:
        self._seen: Mapping[str, Sight] = {}
        self._history = history

    def estimate(self, state: RunState, now: float) -> float | None:
        """Return the seconds that are left, if past runs tell."""
        usual = self._history.usual
        return estimate(state, now, usual.get) if usual else None

    def seen(self) -> Mapping[str, Sight]:
        """Return what was seen last; nothing if nobody could look."""
        return self._seen

    @contextlib.asynccontextmanager
    async def looking(self, run: Run, run_id: str, *, every: float) -> AsyncIterator[None]:
        """Look at the run's workers for as long as it goes on, once in so many seconds."""
        task = asyncio.create_task(self._keep_looking(run, run_id, every))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep_looking(self, run: Run, run_id: str, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            active = tuple(run.state.active)
            try:
                seen = sights(run_id, await run.look(), active) if active else {}
                self._seen = forwards(self._seen, seen)
            except JobplanError:
                self._seen = {}  # the connection is lost: what was seen then is not so any more
