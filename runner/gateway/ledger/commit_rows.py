"""The commit row: a worker writes it in the transaction of its step, so that it exists if the step committed.

It gives evidence of an outcome that no session has seen (docs/decisions/0012). A worker that may not, or must not,
write it runs all the same, without it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from runner.engine.events import ErrorDetails, Outcome, Worker
from runner.engine.ports import LaunchRequest, OnUnstoppable, RecordedRun, WorkerEnd, WorkerHandle, keep_waiting
from runner.errors import CapacityError, GatewayError, ServerLostError
from runner.gateway.ledger.reader import Known
from runner.gateway.ledger.storage import InheritedSettings, read
from runner.gateway.ledger.writer import GONE, LAST_TRY, Ledger, digest_of
from runner.gateway.queries import query
from runner.gateway.session import Reply, Session, Statement, first_error
from runner.gateway.transaction_settings import COMMIT_ROW_LOCK_TIMEOUT, lock_timeout
from runner.gateway.worker_output import takes_commit_row
from runner.identity import WorkerLabel
from runner.sql.placeholders import quote_identifier, quote_literal

#: Errors that only say that something is not there or not allowed, not to whom.
_NO_RIGHT = frozenset({"42P01", "3F000", "42501"})
#: The transaction is READ ONLY: our own statement is the first that writes.
_READ_ONLY_TRANSACTION = "25006"
#: Somebody has locked what a statement needs.
_LOCK_NOT_AVAILABLE = "55P03"
#: Where PostgreSQL says that it waited for a row of the same key that is not committed yet; names are not translated.
_KEY = '"commits_pkey"'
#: Seconds after which a worker has given up waiting for the ledger, by its own clock. Nobody gives a step such a
#: lock_timeout, and who does gets another attempt at a step that has done nothing.
_GAVE_UP = (COMMIT_ROW_LOCK_TIMEOUT - 0.01, COMMIT_ROW_LOCK_TIMEOUT + 0.29)
#: Seconds for which a worker that has gone by all appearances may keep its transaction open, and between two looks.
_SETTLE_FOR = 60.0
_LOOK_AGAIN = 1.0

#: States of a step whose last attempt did what was wanted of it.
_GOOD = frozenset({"succeeded", "failed_allowed"})

_PLACES = re.compile(r"\{\w+\}")
_OFF = frozenset({"off", "of", "false", "fals", "fal", "fa", "f", "no", "n", "0"})
#: Settings with which the row could not be bound to its writer.
_UNBINDING = frozenset({"session_authorization", "row_security"})
_READ_ONLY = frozenset({"default_transaction_read_only", "transaction_read_only"})
_READ_COMMITTED = frozenset({"read committed", "read uncommitted"})


class Commits:
    """Says who writes a commit row, and what the rows prove."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._roles: dict[str, bool] = {}
        self._locked = False

    async def row_for(self, request: LaunchRequest) -> str:
        """Return the statements by which the worker writes its row; empty if it may not or cannot."""
        label, around = request.label, self._ledger.surroundings
        if label is None or around is None or not self._ledger.answers:
            return ""
        settings = {name.lower(): value for name, value in request.settings.items()}
        if not takes_commit_row(request.sql, read_committed=_is_read_committed(settings, around)):
            return ""
        if _is_read_only(settings, around) or not around.row_security or _UNBINDING & settings.keys():
            return ""
        if await self._is_locked():
            return ""
        if not await self._may(_role(request, around)) or not await self._ledger.is_the_same():
            return ""
        values = {
            "{ledger}": quote_identifier(self._ledger.schema or ""),
            "{run}": quote_literal(label.run),
            "{step}": quote_literal(self._ledger.text(label.step)),
            "{attempt}": str(label.attempt),
            "{proof}": quote_literal(self._ledger.proof(label.step, label.attempt)),
            "{lock_timeout}": quote_literal(lock_timeout(request, around.lock_timeout)),
        }
        text = query("ledger_row", ledger="{ledger}").decode()
        return _PLACES.sub(lambda place: values.get(place.group(), place.group()), text)

    def is_taken(self, error: ErrorDetails) -> bool:
        """Say whether a unique violation is that of the row: another worker of the attempt has committed."""
        return (error.schema, error.table) == (self._ledger.schema, "commits")

    def is_awaited(self, error: ErrorDetails) -> bool:
        """Say whether the worker gave up waiting for another one of its attempt, whose row may be about to come."""
        return error.sqlstate == _LOCK_NOT_AVAILABLE and _KEY in (error.context or "")

    async def unprove(self, step: str, attempt: int) -> bool:
        """Record that a worker without a row follows: nobody may take its absence for proof. False: not yet."""
        if self._ledger.disclaim(step, attempt):
            return True
        statement = ("ledger_unprove", self._key(step, attempt))
        try:
            async with asyncio.timeout(LAST_TRY):
                replies = await self._ledger.together(*self._ledger.begins, statement, ("commit", ()))
        except (GatewayError, TimeoutError):
            return False
        error = first_error(replies)
        if error is not None:
            return error.sqlstate in GONE
        self._ledger.disclaimed(step, (int(row[0] or 0) for row in replies[-2].rows))
        return self._ledger.disclaim(step, attempt)

    async def made_fail(self, request: LaunchRequest, end: WorkerEnd) -> bool:
        """Say whether a step failed because of the row, and not by what the plan has in it.

        Then nothing of the step has begun, because the row comes first.
        """
        around = self._ledger.surroundings
        if end.error is None or around is None:
            return False
        if end.error.sqlstate in _NO_RIGHT:
            role = _role(request, around)
            self._roles.pop(role, None)
            return not await self._may(role)
        locked = end.error.sqlstate == _LOCK_NOT_AVAILABLE and _gave_up_on_the_ledger(end)
        self._locked = self._locked or locked
        return locked or end.error.sqlstate == _READ_ONLY_TRANSACTION

    async def committed(self, step: str, attempt: int, *, fence: bool) -> bool:
        """Say whether the attempt has committed. The worker has gone, and its text had the commit row in it.

        `fence`: nobody has seen it end, so one that might still begin is kept from committing; then false is for ever.
        ServerLostError if nobody can say.
        """
        return await self._settled(
            (self._ledger.run_id, step, str(attempt)), self._ledger.proof(step, attempt), fence=fence
        )

    def _key(self, step: str, attempt: int) -> tuple[str, str, str]:
        return self._ledger.run_id, self._ledger.text(step), str(attempt)

    async def _settled(self, key: tuple[str, str, str], proof: str, *, fence: bool) -> bool:
        fenced = (("ledger_fence", (*key, proof)),) if fence else ()
        asked = ("ledger_committed", (*key, digest_of(proof)))
        reply = await self._ask_patiently(*self._ledger.begins, *fenced, asked, ("commit", ()))
        return bool(reply.rows) and reply.rows[0][0] == "t"

    async def of_an_orphan(self, step: str, attempt: int) -> bool | None:
        """Say whether an attempt of a previous runner has committed; None if the ledger cannot tell. As `committed`.

        A row counts only with the proof that its launch announced. That there is none counts only if it is kept from
        coming, for which the key of the run is needed: only the login role that ran it, and superusers, can read that.
        """
        if not self._ledger.on:
            return None
        key = self._key(step, attempt)
        expected, error = await self._ask(("begin", ()), ("ledger_expected", key), ("commit", ()))
        if error is not None or not expected.rows or expected.rows[0][0] != "t":
            return await self._as_seen(key)
        digest = expected.rows[0][1]
        if (
            digest is None
        ):  # announced by version 1 of the ledger, in which any role that it was granted to wrote any row
            return None
        written, error = await self._ask(("begin", ()), ("ledger_committed", (*key, digest)), ("commit", ()))
        if error is None and written.rows:
            return written.rows[0][0] == "t"
        proof = self._ledger.proof_of(step, attempt, digest)
        return None if proof is None else await self._settled(key, proof, fence=True)

    async def _as_seen(self, key: Sequence[str]) -> bool | None:
        """Say what a runner has seen of an attempt without a row that this run's journal does not have."""
        ended, error = await self._ask(("begin", ()), ("ledger_ended", key), ("commit", ()))
        if error is not None or not ended.rows:
            return None
        outcome, state = ended.rows[0]
        if outcome in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED):
            return False
        return True if outcome == Outcome.SUCCEEDED and state in _GOOD else None

    async def ledger_record(self) -> RecordedRun | None:
        """Return what the ledger knows of the run, and let it go on from there; None if there is none.

        ServerLostError if nobody can say. When the journal broke off, the takeover itself may be missing in it, and
        nothing was launched after that.
        """
        if not self._ledger.on:
            return None
        asked = ("ledger_chronicle", (self._ledger.run_id,))
        reply = await self._ask_patiently(*self._ledger.begins, ("ledger_patience", ()), asked, ("commit", ()))
        keys = await self._ask_patiently(*self._ledger.begins, ("ledger_keys", (self._ledger.run_id,)), ("commit", ()))
        known: list[Known] = []
        launched: set[tuple[str, int]] = set()
        takeovers: dict[str, str] = {}
        for seq, at, event, stored_step, attempt, host in reply.rows:
            step = None if stored_step is None else read(stored_step)
            key = (at or "", event or "", step, None if attempt is None else int(attempt))
            known.append((int(seq or 0), key))
            match event:
                case "attempt_launching":
                    launched.add((step or "", int(attempt or 0)))
                case "attempt_deferred":
                    launched.discard((step or "", int(attempt or 0)))
                case "run_resumed":
                    takeovers[at or ""] = host or ""
                case "record_lost" if takeovers:
                    takeovers.popitem()
        self._ledger.recall(known, [(key or "", own == "t") for key, own in keys.rows])
        return RecordedRun(launched=frozenset(launched), takeovers=takeovers)

    async def taken_over_by(self, session: Session) -> str | None:
        """Say where and when another runner has taken the run up since; None if none has, or nobody can say."""
        if not self._ledger.on:
            return None
        asked = ("ledger_takeovers", (self._ledger.run_id,))
        replies = await session.run_together(*self._ledger.begins, asked, ("commit", ()))
        if first_error(replies) is None:
            return self._ledger.earlier.taken_up_since(replies[-2].rows)
        await session.run(("rollback", ()))
        return None

    async def _ask_patiently(self, *statements: Statement) -> Reply:
        """Ask as `_ask`, again and again while something is in the way. ServerLostError if nobody can say."""
        until = asyncio.get_running_loop().time() + _SETTLE_FOR
        while True:
            reply, error = await self._ask(*statements)
            if error is None:
                return reply
            if error.sqlstate in GONE or asyncio.get_running_loop().time() > until:
                raise ServerLostError(f"the ledger cannot be asked: {error.message}")
            await asyncio.sleep(_LOOK_AGAIN)

    async def _is_locked(self) -> bool:
        """Say whether somebody still has the table locked that had it before."""
        if self._locked:
            _, error = await self._ask(("begin", ()), ("ledger_free", ()), ("commit", ()))
            self._locked = error is not None
        return self._locked

    async def _may(self, role: str) -> bool:
        """Say whether a role has the right to the row; asked once for each."""
        if role not in self._roles:
            asked = ("ledger_role", (role, self._ledger.schema or ""))
            reply, error = await self._ask(("begin", ()), asked, ("commit", ()))
            if error is not None:
                return False
            self._roles[role] = bool(reply.rows) and reply.rows[0][0] == "t"
        return self._roles[role]

    async def _ask(self, *statements: Statement) -> tuple[Reply, ErrorDetails | None]:
        """Run statements on the monitor session and return the reply of the last but one, or the error."""
        try:
            replies = await self._ledger.together(*statements)
        except GatewayError as lost:
            return Reply(), ErrorDetails(message=lost.message)
        return replies[-2], first_error(replies)


def _gave_up_on_the_ledger(end: WorkerEnd) -> bool:
    if end.started_at is None or end.finished_at is None:
        return True
    least, most = _GAVE_UP
    return least <= end.finished_at - end.started_at <= most


def _role(request: LaunchRequest, around: InheritedSettings) -> str:
    settings = {name.lower(): value for name, value in request.settings.items()}
    return request.role or settings.get("role") or around.role


def _is_read_only(settings: Mapping[str, str], around: InheritedSettings) -> bool:
    given = [value.lower() not in _OFF for name, value in settings.items() if name in _READ_ONLY]
    return any(given) or (around.read_only and not given)


def _is_read_committed(settings: Mapping[str, str], around: InheritedSettings) -> bool:
    level = settings.get("transaction_isolation", settings.get("default_transaction_isolation", around.isolation))
    return level.lower() in _READ_COMMITTED


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
    """See the module's docstring and `ports.WorkerHandle`. `again` launches a worker without the row."""

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
        self, *, seen: Callable[[Worker], None], lost: Callable[[str], None], unstoppable: OnUnstoppable = keep_waiting
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
