"""A launch that the server refused: it has an end from the start."""

from __future__ import annotations

from runner.engine.events import ErrorDetails, Worker
from runner.gateway.base import WorkerEnd


class RefusedWorker:
    """The handle of a worker that never was; see `base.WorkerHandle`."""

    worker: Worker | None = None
    age: float | None = None

    def __init__(self, error: ErrorDetails) -> None:
        self._error = error

    def cancel(self) -> None:
        """Do nothing: there is nothing to stop."""

    def detach(self) -> None:
        """Do nothing: there is nothing to let go of."""

    async def ended(self, **_: object) -> WorkerEnd:
        """Return the refusal."""
        return WorkerEnd(error=self._error)
