"""Keeps looking at a run's workers while somebody watches, once a second, and keeps what was seen last."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from runner.engine.loop import Run
from runner.errors import JobplanError
from runner.reports.sights import Sight, forwards, sights

#: Seconds between two looks.
LOOK_EVERY = 1.0


class Looker:
    """What was seen last, by step."""

    def __init__(self) -> None:
        self._seen: Mapping[str, Sight] = {}

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
