"""Look for a run in the ledger before one begins: by its id, or the latest runs of a plan.

A ledger whose owners are not trusted is ignored, as by a run (`storage`). A ledger of another version cannot be read,
but it may contain the run: this case is distinguished from a ledger that does not contain it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from runner.engine import events as ev
from runner.engine.event_json import from_json
from runner.errors import ConnectionFailedError, PreflightError, RecordError, ServerLostError
from runner.gateway.connecting import with_keepalives
from runner.gateway.ledger.admin import untrusted_record
from runner.gateway.ledger.reader import Access, access
from runner.gateway.ledger.storage import read_event
from runner.gateway.observer import open_session
from runner.gateway.replies import Reply, Row
from runner.gateway.server_refusals import WHERE, read_place
from runner.gateway.session import Session, Statement
from runner.structs import Struct

_Answer = TypeVar("_Answer")
#: The column of `ledger_known` with the event that begins the run, which a damaged ledger may lack.
_BEGAN = 5


class LedgerEntry(Struct, frozen=True, kw_only=True):
    """What the ledger has of a run in short. `exit_code` is None if the ledger does not have its end."""

    run_id: str
    started: ev.RunStarted
    resumed: ev.RunResumed | None
    exit_code: int | None


class RunSearch:
    """A session that looks for runs. `place` is where it is; `problem` says why a ledger that is there is not read."""

    def __init__(self, session: Session, place: ev.Place, *, readable: bool, problem: str | None) -> None:
        self.place = place
        self.problem = problem
        self._session = session
        self._readable = readable

    async def of_id(self, run_id: str) -> LedgerEntry | None:
        """Return the run with this id. RecordError if a role that is not trusted has recorded it."""
        rows = await self._known(run_id, "", "")
        for run, writer, trusted, *_ in rows[:1]:
            if trusted != "t":
                raise untrusted_record(run or "", writer or "")
        return next(map(_entry, rows), None)

    async def of_plan(self, plan: str, sha256: str) -> tuple[LedgerEntry, ...]:
        """Return the latest runs of a plan, the last one first; `sha256` is that of the plan as they last ran it."""
        return tuple(_entry(row) for row in await self._known("", plan, sha256) if row[_BEGAN] is not None)

    async def of_fleet(self, fleet: str) -> tuple[tuple[str, str], ...]:
        """Return the runs of a fleet run that this ledger has, each with the name of its target."""
        if not self._readable:
            return ()
        replies = await self._run(("ledger_members", (f"{fleet}-",)))
        return tuple((run or "", target or "") for run, target in replies[0].rows)

    async def runner_of(self, run_id: str) -> str | None:
        """Return from where the runner of a run is connected; None if it has none."""
        (reply,) = await self._run(("group_holder", ("[]", f"run:{run_id}")))
        return next((f"{host}, since {since}" for _, host, since, *_ in reply.rows), None)

    async def _known(self, run_id: str, plan: str, sha256: str) -> Sequence[Row]:
        if not self._readable:
            return ()
        asked = ("ledger_known", (run_id, plan, sha256))
        together = self._session.run_together(("begin", ()), ("ledger_limits", ()), asked, ("commit", ()))
        return _without_errors(await _reached(together))[2].rows

    async def _run(self, *statements: Statement) -> list[Reply]:
        return _without_errors(await _reached(self._session.run(*statements)))


@contextlib.asynccontextmanager
async def searching(conninfo: str, schema: str | None, trusted_roles: Sequence[str]) -> AsyncIterator[RunSearch]:
    """Open the session that looks, and close it at the end; `schema` is that of the ledger, None for no ledger.

    ConnectionFailedError if the server cannot be reached.
    """
    session = await open_session(with_keepalives(conninfo), schema or "", trusted_roles)
    try:
        place = read_place(*await _reached(session.run(*WHERE)))
        looked = Access() if schema is None else await _reached(access(session, schema, trusted_roles))
        yield RunSearch(session, place, readable=looked.readable, problem=looked.problem)
    finally:
        session.discard()


def _without_errors(replies: list[Reply]) -> list[Reply]:
    """Return the replies. PreflightError if the server has refused to answer, such as for a lock on the ledger."""
    for reply in replies:
        if reply.error is not None:
            raise PreflightError(f"the server does not say whether the run exists: {reply.error.message}")
    return replies


async def _reached(answer: Coroutine[Any, Any, _Answer]) -> _Answer:
    try:
        return await answer
    except ServerLostError as error:
        raise ConnectionFailedError(error.message) from error


def _entry(row: Row) -> LedgerEntry:
    run, _, _, finished, exit_code, began, resumed = row
    if began is None:
        raise RecordError(
            f"the ledger does not have the beginning of run {run}.", hint="Resume it where its journal is."
        )
    started = _event(began)
    later = None if resumed is None else _event(resumed)
    if not isinstance(started, ev.RunStarted) or not isinstance(later, ev.RunResumed | None):
        raise RecordError(f"the ledger's record of run {run} is damaged.", hint="Resume it where its journal is.")
    return LedgerEntry(
        run_id=run or "",
        started=started,
        resumed=later,
        exit_code=int(exit_code) if finished == "t" and exit_code is not None else None,
    )


def _event(text: str) -> ev.Event:
    return from_json(read_event(json.loads(text)))
