"""Workers that a step needs besides its own: `on_retry` before an attempt, and those that remove what one left behind.

They run in the step's slot, with its role, settings and timeout. The journal has the beginning of each phase before its
first worker is requested, so that a runner that takes the run over does not take such a worker for the step's own.
Objects are looked up again immediately before each removal: only what the attempt itself left behind is removed, and
nothing that a session is working on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from runner.engine import events as ev
from runner.engine.leftovers import Removal, UnfinishedObject, has_left_nothing, removals
from runner.engine.outcomes import classify
from runner.engine.ports import WorkerEnd
from runner.engine.state import StepRecord
from runner.errors import CapacityError, GatewayError
from runner.plan.model import OnLeftovers
from runner.sql.text_traits import Build, builds_of
from runner.structs import Struct, replace

#: The purposes of workers, in their labels.
ON_RETRY = "on_retry"
LEFTOVERS = "leftovers"

#: Executes one SQL text in a worker of this purpose, and returns its end. CapacityError, GatewayError.
Execute = Callable[[str, str], Awaitable[WorkerEnd]]
#: Lists the unfinished objects of the database. GatewayError.
ListUnfinished = Callable[[], Awaitable[Sequence[UnfinishedObject]]]

#: How often, and after how many seconds, a worker is requested again for which the server has no slot.
_TRIES = 10
_AGAIN = 1.0
#: Outcomes of attempts that did not do their work: what they left behind may be removed.
_FAILED = frozenset({ev.Outcome.FAILED, ev.Outcome.TIMED_OUT, ev.Outcome.CANCELLED})


class Removed(Struct, frozen=True, kw_only=True):
    """The result of a removal. `completed`: it has finished the work of the step's own statement."""

    removed: tuple[ev.Leftover, ...] = ()
    completed: bool = False


def drops(record: StepRecord, sql: str) -> tuple[Build, ...]:
    """Return the statements of a step whose leftovers are to be removed; none without `leftovers: drop`."""
    if record.step.leftovers is not OnLeftovers.DROP:
        return ()
    return tuple(build for build in builds_of(sql) if build.removable)


def left_before(record: StepRecord, builds: Sequence[Build], now: Sequence[UnfinishedObject]) -> tuple[Removal, ...]:
    """Return what previous attempts left behind, to be removed before the next one."""
    before = [one.mark for one in now] if record.unfinished is None else record.unfinished
    return removals(builds, now, before, known=record.leftovers) if builds else ()


def to_remove(
    record: StepRecord,
    builds: Sequence[Build],
    now: Sequence[UnfinishedObject],
    outcome: ev.Outcome,
    error: ev.ErrorDetails | None,
    *,
    ended: bool,
) -> tuple[Removal, ...]:
    """Return what is to be removed after an attempt with this outcome.

    `ended`: its worker was seen, and has ended. Else an attempt of unknown outcome may still be at work: then the next
    attempt, or a resume, removes what it left behind. Such an object is evidence that the work was not done. A
    cancelled DETACH is not completed.
    """
    if not builds or not (outcome in _FAILED or (outcome is ev.Outcome.UNKNOWN and ended)):
        return ()
    before = record.unfinished
    if before is None or has_left_nothing(error):
        before = tuple(one.mark for one in now)  # then only what previous attempts left behind
    found = removals(builds, now, before, known=record.leftovers)
    return tuple(one for one in found if not one.completes or outcome is not ev.Outcome.CANCELLED)


async def remove(wanted: Sequence[Removal], listing: ListUnfinished, execute: Execute) -> Removed:
    """Remove these objects one by one, as far as they still are as they were, and return what was removed."""
    removed: list[ev.Leftover] = []
    completed = False
    for one in wanted:
        with contextlib.suppress(GatewayError):
            if one.mark not in {found.mark for found in await listing()}:
                continue
            end = await _patiently(one.sql, execute)
            if end is not None and end.confirmed:
                removed.append(one.left)
                completed = completed or one.completes
    return Removed(removed=tuple(removed), completed=completed)


async def _patiently(sql: str, execute: Execute) -> WorkerEnd | None:
    """Execute a text; wait for a short time if the server has no worker free."""
    for number in range(_TRIES):
        if number:
            await asyncio.sleep(_AGAIN)
        with contextlib.suppress(CapacityError):
            return await execute(sql, LEFTOVERS)
    return None


def failed_preparation(
    end: WorkerEnd, *, timeout: float | None, cancelled: ev.CancelReason | None
) -> tuple[ev.Outcome, ev.ErrorDetails] | None:
    """Return the outcome and the error of an attempt whose `on_retry` did not succeed; None if it did.

    The step's own SQL was not executed, so the outcome is never unknown. The error's position is in the other text.
    """
    outcome, error = classify(end, timeout=timeout, cancelled=cancelled)
    if outcome is ev.Outcome.SUCCEEDED:
        return None
    if outcome not in _FAILED:
        outcome = ev.Outcome.FAILED
    error = error or ev.ErrorDetails(message="it did not end")
    return outcome, replace(error, message=f"on_retry: {error.message}", position=None)
