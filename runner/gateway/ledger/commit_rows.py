"""The commit row: a worker writes it in the transaction of its step, so that it exists exactly if the step committed.

It is evidence of an outcome that no session has observed (docs/decisions/0012, docs/pg_background.md#commit-row). A
worker that may not write it, or must not, runs without it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

from runner.engine.events import ErrorDetails, Outcome, Worker
from runner.engine.ports import (
    LaunchRequest,
    OnUnstoppable,
    RecordedRun,
    StoredBatch,
    WorkerEnd,
    WorkerHandle,
)
from runner.engine.worker_text import takes_commit_row
from runner.errors import CapacityError, GatewayError, ServerLostError
from runner.gateway.ledger.reader import Known
from runner.gateway.ledger.storage import InheritedSettings, read
from runner.gateway.ledger.writer import LAST_TRY, PERMANENT_ERRORS, Ledger, digest_of
from runner.gateway.queries import query
from runner.gateway.replies import Reply, Row, first_error
from runner.gateway.session import Session, Statement
from runner.gateway.transaction_settings import COMMIT_ROW_LOCK_TIMEOUT, lock_timeout
from runner.identity import WorkerLabel
from runner.plan.sqlstates import INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE, STOPPED
from runner.sql.carried_rows import store_values
from runner.sql.placeholders import quote_identifier, quote_literal
from runner.structs import replace

#: Errors that an object is missing or not permitted, without saying for which role.
_NO_RIGHT = frozenset({"42P01", "3F000", INSUFFICIENT_PRIVILEGE})
#: The transaction is READ ONLY: our statement is the first that writes.
_READ_ONLY_TRANSACTION = "25006"
#: The index in the error context of a wait for an uncommitted row with the same key; names are not translated.
_KEY = '"commits_pkey"'
#: The range of seconds, by its own clock, in which a worker's wait for the ledger times out. A step whose own
#: lock_timeout is in this range gets another attempt although the ledger was not locked; its transaction was rolled
#: back.
_LOCK_WAIT_RANGE = (COMMIT_ROW_LOCK_TIMEOUT - 0.01, COMMIT_ROW_LOCK_TIMEOUT + 0.29)
#: Seconds for which the transaction of an ended worker may still be open, and the poll interval.
_SETTLE_FOR = 60.0
_LOOK_AGAIN = 1.0

#: States of a step whose last attempt did its work.
_GOOD = frozenset({"succeeded", "failed_allowed"})

#: Begins a transaction that reads nothing which the owner of the ledger's tables could have replaced.
_BEGINS: Sequence[Statement] = (("begin", ()),)

_PLACES = re.compile(r"\{\w+\}")
_OFF = frozenset({"off", "of", "false", "fals", "fal", "fa", "f", "no", "n", "0"})
#: Settings with which the row could not be attributed to its writer.
_UNBINDING = frozenset({"session_authorization", "row_security"})
_READ_ONLY = frozenset({"default_transaction_read_only", "transaction_read_only"})
_READ_COMMITTED = frozenset({"read committed", "read uncommitted"})


class Commits:
    """Decides which workers write a commit row, and what the rows are evidence of."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._roles: dict[tuple[str, str], bool] = {}
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

    async def storing(self, request: LaunchRequest, row: str) -> tuple[LaunchRequest, str]:
        """Return a request whose worker stores the values that it carries, and its first statements.

        `row` are those that write its commit row. The lock on the table comes first, so that no iteration fails at its
        end because of it. Unchanged if the worker may not write the table, or if the ledger has none.
        """
        label, around, carry = request.label, self._ledger.surroundings, request.carry
        if not row or label is None or around is None or carry is None or not carry.storable:
            return request, row
        if not await self._may(_role(request, around), "carried"):
            return request, row
        schema = quote_identifier(self._ledger.schema or "")
        columns = {
            "run": quote_literal(label.run),
            "step": quote_literal(self._ledger.text(label.step)),
            "attempt": str(label.attempt),
            "proof": quote_literal(self._ledger.proof(label.step, label.attempt)),
        }
        store = store_values(f"{schema}.carried", columns, carry.columns[1:])
        first = query("ledger_carry_lock", ledger="{ledger}").decode().replace("{ledger}", schema)
        return replace(request, carry=replace(carry, store=store)), f"{first}\n{row}"

    async def stored_batch(self, step: str, attempt: int) -> StoredBatch | None:
        """Return what the transaction of a committed iteration has stored; None if it stored nothing, or if unknown.

        ServerLostError if the ledger cannot be read.
        """
        if not self._ledger.on or not await self._has_carried():
            return None
        key = self._key(step, attempt)
        expected = await self._ask_patiently(("ledger_expected", key))
        own = digest_of(self._ledger.proof(step, attempt))
        for digest in dict.fromkeys((own, expected.rows[0][1] if expected.rows else None)):
            if digest is not None:
                reply = await self._ask_patiently(("ledger_carried", (*key, digest)), begins=self._ledger.begins)
                if reply.rows:
                    return _stored(reply.rows[0])
        return None

    async def _has_carried(self) -> bool:
        """Return whether the ledger has the table, which version 2 lacks, and this role may read it."""
        reply = await self._ask_patiently(("ledger_has_carried", (self._ledger.schema or "",)))
        return bool(reply.rows) and reply.rows[0][0] == "t"

    def is_taken(self, error: ErrorDetails) -> bool:
        """Return whether a unique violation is that of the row: another worker of the attempt has committed."""
        return (error.schema, error.table) == (self._ledger.schema, "commits")

    def waits_for_other_row(self, error: ErrorDetails) -> bool:
        """Return whether the wait for another worker of the attempt timed out, whose row may follow."""
        return error.sqlstate == LOCK_NOT_AVAILABLE and _KEY in (error.context or "")

    async def withdraw_commit_row(self, step: str, attempt: int) -> bool:
        """Record that a worker without a row follows, so that its absence is no evidence. False: not possible now."""
        if self._ledger.withdraw(step, attempt):
            return True
        statement = ("ledger_withdraw_commit_row", self._key(step, attempt))
        try:
            async with asyncio.timeout(LAST_TRY):
                replies = await self._ledger.together(*self._ledger.begins, statement, ("commit", ()))
        except (GatewayError, TimeoutError):
            return False
        error = first_error(replies)
        if error is not None:
            return error.sqlstate in PERMANENT_ERRORS
        self._ledger.withdrawn_in_ledger(step, (int(row[0] or 0) for row in replies[-2].rows))
        return self._ledger.withdraw(step, attempt)

    async def failed_because_of_row(self, request: LaunchRequest, end: WorkerEnd) -> bool:
        """Return whether a step failed because of the row, and not because of the plan's SQL.

        Then nothing of the step was executed, because the row comes first.
        """
        around = self._ledger.surroundings
        if end.error is None or around is None:
            return False
        if end.error.sqlstate in _NO_RIGHT:
            role = _role(request, around)
            self._roles = {key: may for key, may in self._roles.items() if key[0] != role}
            return not await self._may(role) or (request.carry is not None and not await self._may(role, "carried"))
        locked = end.error.sqlstate == LOCK_NOT_AVAILABLE and _timed_out_on_ledger(end)
        self._locked = self._locked or locked
        return locked or end.error.sqlstate == _READ_ONLY_TRANSACTION

    async def committed(self, step: str, attempt: int, *, fence: bool) -> bool:
        """Return whether an attempt with a commit row committed. Its worker has ended.

        `fence`: its end was not observed, so a worker that could still start is kept from committing; then False is
        final. ServerLostError if it cannot be determined.
        """
        return await self._settled(
            (self._ledger.run_id, step, str(attempt)), self._ledger.proof(step, attempt), fence=fence
        )

    def _key(self, step: str, attempt: int) -> tuple[str, str, str]:
        return self._ledger.run_id, self._ledger.text(step), str(attempt)

    async def _settled(self, key: tuple[str, str, str], proof: str, *, fence: bool) -> bool:
        fenced = (("ledger_fence", (*key, proof)),) if fence else ()
        asked = ("ledger_committed", (*key, digest_of(proof)))
        reply = await self._ask_patiently(*fenced, asked, begins=self._ledger.begins)
        return bool(reply.rows) and reply.rows[0][0] == "t"

    async def orphan_committed(self, step: str, attempt: int) -> bool | None:
        """Return whether an attempt of a previous runner committed; None if the ledger cannot say. See `committed`.

        A row counts only with the proof that its launch announced. The absence of a row counts only if a later row is
        prevented, which needs the key of the run: only the login role that ran it, and superusers, can read the key.
        """
        if not self._ledger.on:
            return None
        key = self._key(step, attempt)
        expected, error = await self._ask(("ledger_expected", key))
        if error is not None or not expected.rows or expected.rows[0][0] != "t":
            return await self._recorded_outcome(key)
        digest = expected.rows[0][1]
        if digest is None:  # announced by version 1 of the ledger, in which any role with the grant could write any row
            return None
        written, error = await self._ask(("ledger_committed", (*key, digest)))
        if error is None and written.rows:
            return written.rows[0][0] == "t"
        proof = self._ledger.proof_of(step, attempt, digest)
        return None if proof is None else await self._settled(key, proof, fence=True)

    async def _recorded_outcome(self, key: Sequence[str]) -> bool | None:
        """Return the recorded outcome of an attempt without a row, which the run's journal lacks."""
        ended, error = await self._ask(("ledger_ended", key))
        if error is not None or not ended.rows:
            return None
        outcome, state = ended.rows[0]
        if outcome in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED):
            return False
        return True if outcome == Outcome.SUCCEEDED and state in _GOOD else None

    async def ledger_record(self) -> RecordedRun | None:
        """Return the ledger's record of the run, and continue that record; None without a ledger.

        ServerLostError if it cannot be read. If the journal was lost, the takeover itself may be missing in it, and
        nothing was launched after that.
        """
        if not self._ledger.on:
            return None
        run, begins = (self._ledger.run_id,), self._ledger.begins
        reply = await self._ask_patiently(("ledger_long_limits", ()), ("ledger_known_events", run), begins=begins)
        keys = await self._ask_patiently(("ledger_keys", run), begins=begins)
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
        begun = any(event == "run_started" for _, (_, event, _, _) in known)
        return RecordedRun(launched=frozenset(launched), takeovers=takeovers, begun=begun)

    async def taken_over_by(self, session: Session) -> str | None:
        """Return where and when another runner has taken the run over since; None if none has or if unknown."""
        if not self._ledger.on:
            return None
        asked = ("ledger_takeovers", (self._ledger.run_id,))
        replies = await session.transact(*self._ledger.begins, asked, ("commit", ()))
        return None if first_error(replies) else self._ledger.previous.taken_over_since(replies[-2].rows)

    async def _ask_patiently(self, *statements: Statement, begins: Sequence[Statement] = _BEGINS) -> Reply:
        """Query as `_ask`, with retries. ServerLostError if that does not succeed."""
        until = asyncio.get_running_loop().time() + _SETTLE_FOR
        while True:
            reply, error = await self._ask(*statements, begins=begins)
            if error is None:
                return reply
            if error.sqlstate in PERMANENT_ERRORS or asyncio.get_running_loop().time() > until:
                raise ServerLostError(f"the ledger cannot be read: {error.message}")
            await asyncio.sleep(_LOOK_AGAIN)

    async def _is_locked(self) -> bool:
        """Return whether the table, which was locked before, is still locked."""
        if self._locked:
            _, error = await self._ask(("ledger_free", ()))
            self._locked = error is not None
        return self._locked

    async def _may(self, role: str, table: str = "commits") -> bool:
        """Return whether a role may write to the table; queried once for each role."""
        key = (role, table)
        if key not in self._roles:
            reply, error = await self._ask(("ledger_role", (role, self._ledger.schema or "", table)))
            if error is not None:
                return False
            self._roles[key] = bool(reply.rows) and reply.rows[0][0] == "t"
        return self._roles[key]

    async def _ask(
        self, *statements: Statement, begins: Sequence[Statement] = _BEGINS
    ) -> tuple[Reply, ErrorDetails | None]:
        """Execute statements on the monitor session in one transaction, and return the last reply, or the error."""
        try:
            replies = await self._ledger.together(*begins, *statements, ("commit", ()))
        except GatewayError as lost:
            return Reply(), ErrorDetails(message=lost.message)
        return replies[-2], first_error(replies)


def _stored(row: Row) -> StoredBatch:
    """Parse the row of `ledger_carried`."""
    rows, carried = row
    values = json.loads(carried or "{}")
    return StoredBatch(rows=int(rows or 0), values={str(name): value for name, value in values.items()})


def _timed_out_on_ledger(end: WorkerEnd) -> bool:
    if end.started_at is None or end.finished_at is None:
        return True
    least, most = _LOCK_WAIT_RANGE
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


#: The commit row exists: another worker of the same attempt has committed.
_UNIQUE_VIOLATION = "23505"
#: A statement that refuses to follow others in its transaction, which the parser could not know.
_NOT_FIRST = "25001"
#: Seconds between two attempts to launch a worker again for which the server has no slot.
_CAPACITY_EVERY = 1.0
#: Seconds between two attempts to record that in the ledger, which another session has locked.
_RECORD_EVERY = 0.5


class WorkerWithCommitRow:
    """A worker with a commit row; see `ports.WorkerHandle`. `again` launches a worker without the row."""

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
        """The worker's identity, as soon as it was seen on the server."""
        return self._inner.worker

    @property
    def age(self) -> float | None:
        """The worker's age in seconds, by the server's clock, when it was first seen."""
        return self._inner.age

    def cancel(self) -> None:
        """Request the worker to stop."""
        self._cancelled = True
        self._inner.cancel()

    def detach(self) -> None:
        """Detach the worker as soon as it was seen."""
        self._detached = True
        self._inner.detach()

    async def wait_until_ended(
        self,
        *,
        on_seen: Callable[[Worker], None],
        on_lost: Callable[[str], None],
        on_unstoppable: OnUnstoppable,
    ) -> WorkerEnd:
        """Follow the worker to its end, and determine its outcome."""
        end = await self._inner.wait_until_ended(on_seen=on_seen, on_lost=on_lost, on_unstoppable=on_unstoppable)
        error = end.error
        if end.confirmed or end.detached:
            return end
        if error is None or error.sqlstate in STOPPED:  # possibly just after its commit
            return await self._settle(end, fence=end.lost)
        if error.sqlstate == _UNIQUE_VIOLATION and self._commits.is_taken(error):
            return await self._settle(end, fence=end.lost)
        if self._commits.waits_for_other_row(error):
            return await self._settle(end, fence=True)
        because_of_us = error.sqlstate == _NOT_FIRST or await self._commits.failed_because_of_row(self._request, end)
        if because_of_us and await self._launch_again():
            return await self._inner.wait_until_ended(on_seen=on_seen, on_lost=on_lost, on_unstoppable=on_unstoppable)
        return end

    async def _settle(self, end: WorkerEnd, *, fence: bool) -> WorkerEnd:
        try:
            committed = await self._commits.committed(self._label.step, self._label.attempt, fence=fence)
        except ServerLostError as error:
            return replace(end, reason=f"{end.reason}; {error.message}" if end.reason else error.message)
        if committed:
            return replace(end, lost=False, error=None, confirmed=True)
        return end if end.error is not None else replace(end, lost=False, rolled_back=True)

    async def _launch_again(self) -> bool:
        """Launch the step without the row; return False if it was cancelled or detached before that.

        The ledger must record it first: a runner that takes the run over would use the missing row as evidence.
        """
        while not await self._commits.withdraw_commit_row(self._label.step, self._label.attempt):
            if self._cancelled or self._detached:
                return False
            await asyncio.sleep(_RECORD_EVERY)
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
        """Pass the requests to the previous worker on to the new one."""
        if self._cancelled:
            self._inner.cancel()
        if self._detached:
            self._inner.detach()
