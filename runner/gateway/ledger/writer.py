"""The ledger during a run: a queue of events, batches, and whether it can be written.

Events wait until a session writes them: a launch writes them in its round trip, before the worker is requested;
otherwise the monitor session writes batches in one transaction each. A failed batch is retried; if the ledger cannot be
written at all, that is reported once: it neither delays a run nor ends it. Events that are only in a previous runner's
journal are written first.

A runner that takes over a run uses the absence of an announced commit row as evidence that the attempt has not
committed. So a worker that was announced with a row must not run without one before the announcement is withdrawn
(`Claims`). The worker writes the row itself: see `commit_rows`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from runner.engine.events import ErrorDetails
from runner.errors import GatewayError
from runner.gateway.ledger.reader import EventKey, Known, PreviousRecord
from runner.gateway.ledger.storage import (
    InheritedSettings,
    distrust_statement,
    stored,
    stored_event,
    stored_json,
    surroundings,
    unfit,
    why_ignored,
    why_not,
)
from runner.gateway.replies import Reply, first_error
from runner.gateway.session import Statement
from runner.plan.sqlstates import INSUFFICIENT_PRIVILEGE, QUERY_CANCELED

#: The part of an event that announces a worker with a commit row; the SHA-256 of its proof follows.
COMMIT_ROW = '"commit_row":true'
_ANNOUNCED = re.compile(rf',{COMMIT_ROW},"proof":"[0-9a-f]+"')

#: An event as JSON, and its number.
Row = tuple[int, str]


class Claims:
    """The announced commit rows. Only the last attempt of each step is kept: no other can be launched again."""

    def __init__(self) -> None:
        self._claims: dict[str, tuple[int, set[int]]] = {}

    def announce(self, step: str, attempt: int, row: Row, digest: str) -> Row:
        """Return the event with the announcement of a commit row; `digest` is the SHA-256 of the row's proof."""
        seq, event = row
        claimed, seqs = self._claims.get(step, (attempt, set()))
        self._claims[step] = (attempt, {*seqs, seq} if claimed == attempt else {seq})
        return seq, f'{event[:-1]},{COMMIT_ROW},"proof":"{digest}"}}'

    def withdraw(self, step: str, attempt: int, rows: list[Row]) -> bool:
        """Withdraw an announcement from unwritten `rows`; return False if it may have been written."""
        claimed, seqs = self._claims.get(step, (attempt, set()))
        if claimed != attempt or not seqs:
            return True
        for number, (seq, event) in enumerate(rows):
            if seq in seqs:
                rows[number] = (seq, _ANNOUNCED.sub("", event))
                seqs.discard(seq)
        return not seqs

    def withdrawn(self, step: str, seqs: Iterable[int]) -> None:
        """Record that these events were changed in the ledger itself."""
        _, claimed = self._claims.get(step, (0, set()))
        claimed.difference_update(seqs)

    def forget(self, rows: Iterable[Row]) -> None:
        """Record that these events were discarded."""
        gone = {seq for seq, event in rows if COMMIT_ROW in event}
        for _, seqs in self._claims.values() if gone else ():
            seqs.difference_update(gone)


#: The number of events in one statement.
BATCH_SIZE = 2_000

#: Errors that retries cannot repair: the ledger or the privilege was removed, or the server became read-only.
PERMANENT_ERRORS = frozenset({"42P01", "42703", "42883", "3F000", INSUFFICIENT_PRIVILEGE, "25006", "0A000", "42704"})
#: The SQLSTATE of `ledger_same` if the tables were replaced, and the message for it.
REPLACED = "42704"
WAS_REPLACED = "its tables are no longer those that were found when the run began"
#: The server's encoding lacks a character, or JSON has one that PostgreSQL's text cannot store; see `storage`.
UNSUITABLE = frozenset({"22P05", "22P02", "22021"})


def begin(schema: str, tables: str) -> tuple[Statement, ...]:
    """Return the first statements of a transaction on the ledger, which must not be READ ONLY or wait for long.

    `tables` are the OIDs of the ledger's tables as JSON; the transaction fails if other tables have their names now.
    """
    return ("ledger_begin", ()), ("ledger_limits", ()), ("ledger_same", (schema, tables))


class EventBatch:
    """Events that are sent, and the statements that write them. Call `written` or `failed` afterwards."""

    def __init__(
        self, run_id: str, rows: list[Row], *also: Statement, first: Sequence[Statement], taker: Ledger
    ) -> None:
        self._rows = rows
        self._taker = taker
        parts = (rows[first : first + BATCH_SIZE] for first in range(0, len(rows), BATCH_SIZE))
        events = (("ledger_events", (run_id, _json_array(part))) for part in parts)
        #: One transaction: the events, and the statements that belong to them.
        self.statements: tuple[Statement, ...] = (*first, *events, *also, ("commit", ()))

    def has(self, seq: int) -> bool:
        """Return whether the event with this number is in it."""
        return any(seq == number for number, _ in self._rows)

    def written(self) -> None:
        """Report that the server has committed it."""
        self._taker.drop_written(self._rows)

    def failed(self, error: ErrorDetails | None) -> None:
        """Keep the events for another attempt; `error` is the server's error, None if unknown."""
        self._taker.keep(self._rows, error)


def _json_array(rows: Sequence[Row]) -> str:
    return "[" + ",".join(f"[{seq},{event}]" for seq, event in rows) + "]"


#: Seconds between two batches, after a failed batch, and for the last one of a run.
BATCH_EVERY = 0.25
TRY_AGAIN = 3.0
LAST_TRY = 5.0
#: Seconds for which the check of the tables' identity stays valid.
SEEN_FOR = 0.25
#: The limit of events that wait while none can be written; then the ledger is given up.
MOST_KEPT = 500_000

#: The number of attempts to find the ledger if the statement is cancelled.
_LOOKS = 20

#: Why a worker cannot be requested: its missing row would count as evidence, because a row was announced before.
NOT_IN_LEDGER = "the ledger cannot be written now, and no worker of this run is requested before its launch is in it"
LOCKED_LEDGER = "another session has locked the ledger, which must first record that the step runs without a commit row"


class LedgerSession(Protocol):
    """The session that searches for the ledger. ServerLostError if it breaks."""

    async def run(self, *statements: Statement) -> list[Reply]:
        """Execute named statements, one reply for each."""
        ...


class Link(Protocol):
    """The functions of the run's monitor session for the ledger. GatewayError if the server cannot be queried now."""

    async def together(self, *statements: Statement) -> list[Reply]:
        """Execute named statements as one transaction; after an error it is rolled back."""
        ...


class Ledger:
    """See the module's docstring. Without a schema it is off and its methods have no effect."""

    def __init__(self, run_id: str, schema: str | None, trusted_roles: Sequence[str] = ()) -> None:
        self.run_id = run_id
        self.schema = schema
        self._trusted_roles = tuple(trusted_roles)
        #: Whether a ledger exists that is not written because of its owner.
        self.ignored = False
        #: Why it is not written although it was requested.
        self.problem: str | None = None
        self.surroundings: InheritedSettings | None = None
        #: The key for the proofs of commit rows; see `proof`.
        self._key = secrets.token_hex(32)
        self._other_keys: tuple[str, ...] = ()
        #: Whether the database can store every character.
        self._unicode = True
        self._rows: list[Row] = []
        #: The number of the last event; a resumed run has some already.
        self._last = 0
        self.previous = PreviousRecord()
        #: Events that announce a worker which was not requested yet, by step and attempt.
        self._launching: dict[tuple[str, int], Row] = {}
        #: The numbers of the launches that are not known to be written.
        self._unwritten_launches: dict[tuple[str, int], int] = {}
        #: Whether no worker may be requested before its launch is written, so that a launch that is not here never was.
        self.comes_first = False
        self._claims = Claims()
        self._begin: tuple[str, str, str] | None = None
        self._begins: tuple[Statement, ...] = begin("", "[]")
        #: When the identity of its tables was last checked, by the event loop's clock.
        self._seen_at = 0.0
        #: Numbers of events that must be written before others, until they are known to be written.
        self._urgent: set[int] = set()
        self._landed = asyncio.Event()
        self._end: str | None = None
        self._stuck: ErrorDetails | None = None
        self._news = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._link: Link | None = None

    @property
    def on(self) -> bool:
        """Whether it is written, now or later."""
        return self.surroundings is not None and self.problem is None

    @property
    def answers(self) -> bool:
        """Whether it can be written now, as far as known."""
        return self.on and self._stuck is None

    @property
    def begins(self) -> tuple[Statement, ...]:
        """The first statements of each transaction on it."""
        return self._begins

    async def is_the_same(self) -> bool:
        """Return whether its tables are still the same; if not, the ledger is given up.

        A worker that writes its commit row executes the triggers and defaults of the table's owner. A recent check is
        used again.
        """
        loop = asyncio.get_running_loop()
        if loop.time() - self._seen_at < SEEN_FOR:
            return True
        try:
            error = first_error(await self.together(*self.begins, ("commit", ())))
        except GatewayError:
            return True
        if error is None:
            self._seen_at = loop.time()
        elif error.sqlstate == REPLACED:
            self.give_up(WAS_REPLACED)
        return self.on

    async def open(self, session: LedgerSession, link: Link) -> None:
        """Find a ledger that may be written; `problem` says why there is none. `link` is used afterwards.

        Nothing in it is read before its owners are known to be trusted.
        """
        if self.schema is None:
            return
        # The tables are found first: tables that take their names later are either checked, or recognised as others.
        looks = ("ledger_found", (self.schema,)), distrust_statement(self.schema, self._trusted_roles)
        found, distrust = await session.run(*looks)
        for _ in range(_LOOKS):
            if any(reply.error is not None and reply.error.sqlstate == QUERY_CANCELED for reply in (distrust, found)):
                found, distrust = await session.run(*looks)
        self.problem = why_ignored(distrust, self.schema)
        self.ignored = self.problem is not None and distrust.error is None
        self.problem = self.problem or why_not(found, self.schema)
        if self.problem is not None:
            return
        (version,) = await session.run(("ledger_version", ()))
        self.problem = unfit(version, self.schema)
        if self.problem is not None:
            return
        self.surroundings = surroundings(found)
        self._unicode = self.surroundings.unicode
        self._begins = begin(self.schema, self.surroundings.tables)
        self._seen_at = asyncio.get_running_loop().time()
        self._link = link
        self._task = asyncio.create_task(self._write_continuously())

    async def close(self) -> None:
        """Write the remaining events, within a short time."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._release(*list(self._launching))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_TRY):
                while not await self.write():  # noqa: ASYNC110 - only the server can change this
                    await asyncio.sleep(BATCH_EVERY)
        if self._has_unwritten and self.on:
            why = f": {self._stuck.message}" if self._stuck is not None else ""
            self.problem = f"the last events could not be written to the ledger{why}"

    # --- events of the run --------------------------------------------------------------------------------------------

    def proof(self, step: str, attempt: int) -> str:
        """Return the secret in the commit row of an attempt of this runner, which no other row can have."""
        return _proof(self._key, step, attempt)

    def proof_of(self, step: str, attempt: int, digest: str) -> str | None:
        """Return the proof of an attempt with this SHA-256, of any runner with a known key; None if no key matches."""
        proofs = (_proof(key, step, attempt) for key in (self._key, *self._other_keys))
        return next((proof for proof in proofs if digest_of(proof) == digest), None)

    def recall(self, known: Sequence[Known], keys: Sequence[tuple[str, bool]] = ()) -> None:
        """Use the run's events in the ledger, in order, as its previous record; no other runner writes it any more.

        `keys` are the keys of the run that this role can read, and whether each is its own.
        """
        self._key = next((key for key, own in keys if own), self._key)
        self._other_keys = tuple(key for key, own in keys if not own)
        self.previous = PreviousRecord(known)
        self._last = known[-1][0] if known else 0

    def complete(self, journal: Sequence[EventKey], text: Callable[[int], str]) -> None:
        """Add the events of a previous runner's journal that the ledger lacks; `text` returns one by index, as JSON."""
        if self.on:
            self._rows += [(seq, self._event(text(place))) for place, seq in self.previous.missing(journal)]
            self._last = max(self._last, self._rows[-1][0] if self._rows else 0)

    def begin(self, plan: str, event: str, resolved: str) -> None:
        """Add the run's own row: the plan's name, the first event, and the resolved plan, both as JSON."""
        if self.on:
            self._begin = (plan, self._event(event), stored_json(resolved, unicode=self._unicode))
            self._end = None

    def take(self, event: str, of: tuple[str, int] | None = None) -> None:
        """Add one event as JSON; an event `of` an attempt follows the one that announces the attempt."""
        if self.on:
            if of is not None:
                self._release(of)
            self._rows.append((self._next(), self._event(event)))
            self._news.set()

    def take_first(self, event: str) -> None:
        """Add an event that must be written before any further launch, because later events depend on it."""
        self.take(event)
        if self.on:
            self._urgent.add(self._last)
            self.previous.add_own(event)

    def take_launching(self, event: str, step: str, attempt: int) -> None:
        """Add the event that announces a worker; it is written with the worker's request, or else at the end."""
        if self.on:
            self._release((step, attempt))
            self._launching[step, attempt] = (self._next(), self._event(event))
            self._unwritten_launches[step, attempt] = self._last

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _release(self, *keys: tuple[str, int]) -> None:
        """Release these announcements: they are written like other events."""
        self._rows += [self._launching.pop(key) for key in keys if key in self._launching]

    def end(self, event: str) -> None:
        """Add the event that ends the run, as JSON."""
        if self.on:
            self._end = self._event(event)

    def text(self, text: str) -> str:
        """Return a text, such as the name of a step, in this ledger's storage format."""
        return stored(text, unicode=self._unicode)

    def _event(self, event: str) -> str:
        return stored_event(event, unicode=self._unicode)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def before_launch(self) -> None:
        """Write all that must precede a launch, and large backlogs; return when that is done or not possible now.

        Nothing else may happen between this and `ahead`, which takes the remaining events.
        """
        if self.answers and (self._urgent or len(self._rows) > BATCH_SIZE):
            await self.write()

    def ahead(self, step: str, attempt: int, *, commit_row: bool) -> EventBatch | None:
        """Return a batch with all unwritten events: they must be recorded before the launch.

        `commit_row`: the text of the worker that is about to be requested writes one.
        """
        key = (step, attempt)
        if commit_row and key in self._launching:
            self._launching[key] = self._claims.announce(
                step, attempt, self._launching[key], digest_of(self.proof(step, attempt))
            )
        self._release(key)
        if not self.answers or not self._rows:
            return None
        rows, self._rows = self._rows, []
        return EventBatch(self.run_id, rows, *self._run_row(), first=self.begins, taker=self)

    def may_launch(self, step: str, attempt: int, batch: EventBatch | None) -> bool:
        """Return whether the worker may be requested after this batch: see `comes_first`."""
        if not self.comes_first:
            return True
        seq = self._unwritten_launches.get((step, attempt))
        return self.on and (seq is None or (batch is not None and batch.has(seq)))

    def drop_written(self, rows: list[Row]) -> None:
        """Drop these events: they are written."""
        self._seen_at = asyncio.get_running_loop().time()
        written = {seq for seq, _ in rows}
        self._urgent -= written
        self._unwritten_launches = {key: seq for key, seq in self._unwritten_launches.items() if seq not in written}
        self._landed.set()

    def keep(self, rows: list[Row], error: ErrorDetails | None) -> None:
        """Take these events back, and process the server's error."""
        self._rows = rows + self._rows
        if not self.on:
            self._discard()
        elif len(self._rows) > MOST_KEPT:
            self.give_up(f"more than {MOST_KEPT:,} events wait for it")
        elif error is not None:
            self._refused(error)
        self._news.set()
        self._landed.set()

    def give_up(self, why: str) -> None:
        """Stop writing."""
        self.problem = f"the ledger in schema {self.schema} is not written any longer: {why}"
        self._discard()

    def _discard(self) -> None:
        self._claims.forget(self._rows)
        self._rows = []

    def _refused(self, error: ErrorDetails) -> None:
        """Process the server's error for a batch."""
        if error.sqlstate in PERMANENT_ERRORS or (error.sqlstate in UNSUITABLE and not self._unicode):
            self.give_up(WAS_REPLACED if error.sqlstate == REPLACED else error.message)
        elif error.sqlstate in UNSUITABLE:
            self._unicode = False
            self._rows = [(seq, self._event(event)) for seq, event in self._rows]
            if self._begin is not None:
                plan, event, resolved = self._begin
                self._begin = (plan, self._event(event), stored_json(resolved, unicode=False))
            self._end = None if self._end is None else self._event(self._end)
        else:
            self._stuck = error

    def withdraw(self, step: str, attempt: int) -> bool:
        """Withdraw the announcement of a commit row if it is not written yet; return False if it may be."""
        return self._claims.withdraw(step, attempt, self._rows)

    def withdrawn_in_ledger(self, step: str, seqs: Iterable[int]) -> None:
        """Record that these announcements were changed in the ledger itself."""
        self._claims.withdrawn(step, seqs)

    async def write(self) -> bool:
        """Write all waiting events; return False if that failed."""
        async with self._writing:
            await self._wait_for_urgent()
            while self._has_unwritten:
                if not await self._write_batch():
                    return False
                await self._wait_for_urgent()
        return True

    async def _wait_for_urgent(self) -> None:
        """Wait while a launch is writing urgent events: if that fails, no other may have been written before them."""
        while self.on and self._urgent and not self._urgent <= {seq for seq, _ in self._rows}:
            self._landed.clear()
            await self._landed.wait()

    @property
    def _has_unwritten(self) -> bool:
        return self.on and (bool(self._rows) or self._begin is not None or self._end is not None)

    async def _write_batch(self) -> bool:
        rows, self._rows = self._rows[:BATCH_SIZE], self._rows[BATCH_SIZE:]
        begin, last = self._begin, None if self._rows else self._end
        ended = () if last is None else (("ledger_end", (self.run_id, last)),)
        batch = EventBatch(self.run_id, rows, *self._run_row(), *ended, first=self.begins, taker=self)
        error = await self._transact(batch)
        if error is not None:
            return error.sqlstate in UNSUITABLE
        self._stuck = None
        self._begin = None if self._begin is begin else self._begin
        self._end = None if self._end is last else self._end
        return True

    async def together(self, *statements: Statement) -> list[Reply]:
        """Execute statements as one transaction on the monitor session. GatewayError if that is not possible now."""
        if self._link is None:
            raise GatewayError("there is no ledger")
        return await self._link.together(*statements)

    def _run_row(self) -> tuple[Statement, ...]:
        """Return the statement that writes the run's own row, until that is known to be written."""
        return () if self._begin is None else (("ledger_run", (self.run_id, *self._begin, self._key)),)

    async def _transact(self, batch: EventBatch) -> ErrorDetails | None:
        error: ErrorDetails | None = ErrorDetails(message="the wait for the server was cancelled")
        answered = None
        try:
            error = answered = first_error(await self.together(*batch.statements))
        except GatewayError as lost:
            error = ErrorDetails(message=lost.message)
        finally:
            if error is None:
                batch.written()
            else:
                batch.failed(answered)
        return error

    async def _write_continuously(self) -> None:
        while True:
            await self._news.wait()
            await asyncio.sleep(BATCH_EVERY)
            self._news.clear()
            if not await self.write():
                await asyncio.sleep(TRY_AGAIN)
                self._news.set()


def _proof(key: str, step: str, attempt: int) -> str:
    return hmac.new(key.encode(), f"{attempt} {step}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def digest_of(proof: str) -> str:
    """Return the part of a proof that a launch announces: its SHA-256."""
    return hashlib.sha256(proof.encode()).hexdigest()
