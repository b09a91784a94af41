"""A worker whose text has a commit row in it: its outcome is known even if nobody saw its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from runner.engine.events import Worker
from runner.errors import CapacityError, ServerLostError
from runner.gateway.base import LaunchRequest, Unstoppable, WorkerEnd, WorkerHandle, ignored
from runner.gateway.commits import Commits
from runner.identity import WorkerLabel

#: Somebody stopped the worker, which may have been when its transaction had just been committed.
_STOPPED = frozenset({"57014", "57P01", "57P02", "57P03"})
#: The commit row is there already: another worker of the same attempt has committed.
_UNIQUE_VIOLATION = "23505"
#: A statement that refuses to come after others in its transaction, which the parser could not see.
_NOT_FIRST = "25001"
#: Seconds between two tries to launch a worker again for which the server has no slot.
_CAPACITY_EVERY = 1.0
#: Seconds between two tries to tell the ledger of it, which somebody has locked.
_TELL_EVERY = 0.5


class ProvingWorker:
    """See the module's docstring and `base.WorkerHandle`. `again` launches a worker without the row."""

    def __init__(
        self,
        worker: WorkerHandle,
        request: LaunchRequest,
        label: WorkerLabel,
        commits: Commits,
        again: Callable[[], Awaitable[WorkerHandle]],
    ) -> None:
        self._inner = worker
        self._request = request
        self._label = label
        self._commits = commits
        self._again = again
        self._cancelled = False
        self._detached = False

    @property
    def worker(self) -> Worker | None:
        """Who it is, once it has been seen on the server."""
        return self._inner.worker

    @property
    def age(self) -> float | None:
        """For how many seconds it had lived, by the server's clock, when it was first seen."""
        return self._inner.age

    def cancel(self) -> None:
        """Have the worker asked to stop."""
        self._cancelled = True
        self._inner.cancel()

    def detach(self) -> None:
        """Let go of the worker as soon as it has been seen."""
        self._detached = True
        self._inner.detach()

    async def ended(
        self, *, seen: Callable[[Worker], None], lost: Callable[[str], None], unstoppable: Unstoppable = ignored
    ) -> WorkerEnd:
        """Follow the worker to its end, and settle what it did."""
        end = await self._inner.ended(seen=seen, lost=lost, unstoppable=unstoppable)
        error = end.error
        if end.proven or end.detached:
            return end
        if error is None or error.sqlstate in _STOPPED:
            return await self._settle(end, fence=end.lost)
        if error.sqlstate == _UNIQUE_VIOLATION and self._commits.is_taken(error):
            return await self._settle(end, fence=end.lost)
        if self._commits.is_awaited(error):
            return await self._settle(end, fence=True)
        because_of_us = error.sqlstate == _NOT_FIRST or await self._commits.made_fail(self._request, end)
        if because_of_us and await self._launch_again():
            return await self._inner.ended(seen=seen, lost=lost, unstoppable=unstoppable)
        return end

    async def _settle(self, end: WorkerEnd, *, fence: bool) -> WorkerEnd:
        try:
            committed = await self._commits.committed(self._label.step, self._label.attempt, fence=fence)
        except ServerLostError as error:
            return replace(end, reason=f"{end.reason}; {error.message}" if end.reason else error.message)
        if committed:
            return replace(end, lost=False, error=None, proven=True)
        return end if end.error is not None else replace(end, lost=False, rolled_back=True)

    async def _launch_again(self) -> bool:
        """Launch the step without the row; false if it is to be stopped or let go of before that is possible.

        Not before the ledger knows of it: who takes the run up would take the missing row for proof.
        """
        while not await self._commits.unprove(self._label.step, self._label.attempt):
            if self._cancelled or self._detached:
                return False
            await asyncio.sleep(_TELL_EVERY)
        while not self._cancelled:
            try:
                self._inner = await self._again()
            except CapacityError:
                await asyncio.sleep(_CAPACITY_EVERY)
            else:
                self._pass_on()
                return True
        return False

    def _pass_on(self) -> None:
        """Ask of the new worker what was asked of the one before, or meanwhile."""
        if self._cancelled:
            self._inner.cancel()
        if self._detached:
            self._inner.detach()
