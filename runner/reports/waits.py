"""The words for waits: of a worker for a lock or by its wait event, of steps for a hold, and of others for a worker.

The live terminal shows a lock wait at once. A log is read later, so it has a line only for a wait of `LONG` seconds,
and a second line when that wait ends (`LongWaits`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.state import RunState
from runner.engine.yielding import blocked_sessions
from runner.identity import step_of
from runner.phrases import some

#: Seconds after which a log has a line for a wait.
LONG = 10.0
#: The wait event of a worker whose output the runner does not read.
QUEUE_FULL = "IPC: MessageQueuePutMessage"
#: Sessions that are named.
_NAMED = 3
#: What is locked, for lock types for which pg_locks has no relation.
_OBJECTS = {
    "transactionid": "a row that another transaction has changed",
    "virtualxid": "an older transaction",
    "advisory": "an advisory lock",
}


def lock_words(mode: str, lock: str, relation: str | None) -> str:
    """Return what a worker waits for: `AccessExclusiveLock on public.orders`."""
    if relation is None:
        return f"{mode} on {_OBJECTS.get(lock, lock)}"
    return f"{mode} on {'' if lock == 'relation' else 'a row of ' if lock in _ROWS else f'{lock} of '}{relation}"


#: Lock types with which a worker waits for a row.
_ROWS = frozenset({"transactionid", "tuple"})


def holder_words(by: Sequence[ev.Blocker]) -> str:
    """Return the names of the sessions that block a worker; empty if none was observed."""
    return some(list(map(_holder, by)), _NAMED) if by else ""


def _holder(one: ev.Blocker) -> str:
    if one.pid == 0:
        return "a prepared transaction"
    step = step_of(one.name)
    name = f" step {step}" if step else f" app '{one.name}'" if one.name else ""
    user = f" user {one.user}" if one.user and not step else ""
    since = f" in a transaction of {format_duration(one.seconds)}" if one.seconds is not None else ""
    return f"pid {one.pid}{name}{user}{since}"


def blocked_line(event: ev.AttemptBlocked, now: float) -> str:
    """Return the line for a worker that waits for a lock, with how long it has waited."""
    holder = holder_words(event.by)
    waited = format_duration(max(0.0, now - event.waiting_since))
    lock = lock_words(event.mode, event.lock, event.relation)
    return f"{event.step}: has waited {waited} for {lock}{f', held by {holder}' if holder else ''}"


def unblocked_line(event: ev.AttemptUnblocked) -> str:
    """Return the line for the end of a lock wait, with how long it was."""
    lock = lock_words(event.mode, event.lock, event.relation)
    return f"{event.step}: no longer waiting for {lock}, after {format_duration(event.seconds)}"


def hold_line(event: ev.HoldBegan | ev.HoldEnded) -> str:
    """Return the line for a hold that begins, is still on with another value, or is released."""
    if isinstance(event, ev.HoldEnded):
        return f"hold {event.hold}: released after {format_duration(event.seconds)} ({event.value})"
    if event.at > event.since:
        return f"hold {event.hold}: on for {format_duration(event.at - event.since)} ({event.value})"
    return f"hold {event.hold}: on ({event.value}); no step that it concerns starts"


def hold_words(state: RunState, now: float) -> Iterator[str]:
    """Yield each hold that is on: since when, and the measured value."""
    for began in state.holds.values():
        yield f"{began.hold} for {format_duration(max(0.0, now - began.since))} ({began.value})"


def blocking_line(event: ev.AttemptBlocking) -> str:
    """Return the line for a worker that must yield, with the sessions that it blocks."""
    return f"{event.step}: has blocked for {format_duration(event.seconds)}: {blocked_sessions(event.others)}"


class LongWaits:
    """The open lock waits of a run; each is due once, when it has lasted `LONG` seconds."""

    def __init__(self) -> None:
        self._open: dict[str, ev.AttemptBlocked] = {}
        self._reported: set[str] = set()

    def take(self, event: ev.Event) -> bool:
        """Record the event; True if it ends a wait that was reported."""
        if isinstance(event, ev.AttemptBlocked):
            self._open[event.step] = event
            return False
        if isinstance(event, ev.AttemptUnblocked | ev.AttemptFinished | ev.AttemptLaunching):
            self._open.pop(event.step, None)
            reported = event.step in self._reported
            self._reported.discard(event.step)
            return reported and isinstance(event, ev.AttemptUnblocked)
        return False

    def due(self, now: float) -> Iterator[ev.AttemptBlocked]:
        """Yield the waits that have become long since the last call."""
        for step, event in self._open.items():
            if step not in self._reported and now - event.waiting_since >= LONG:
                self._reported.add(step)
                yield event


#: Wait events of PostgreSQL. The name is shown too, because PostgreSQL's documentation and other tools use it.
#: Source: https://www.postgresql.org/docs/current/monitoring-stats.html#WAIT-EVENT-TABLE
_EVENTS: Mapping[str, str] = {
    "IO: BufFileRead": "reading a temporary file",
    "IO: BufFileWrite": "writing a temporary file",
    "IO: CopyFileRead": "reading a file",
    "IO: CopyFileWrite": "writing a file",
    "IO: CopyFromRead": "reading the input of COPY",
    "IO: CopyToWrite": "writing the output of COPY",
    "IO: DataFileExtend": "extending a data file",
    "IO: DataFileFlush": "flushing a data file to disk",
    "IO: DataFileImmediateSync": "flushing a data file to disk",
    "IO: DataFilePrefetch": "reading a data file ahead",
    "IO: DataFileRead": "reading a data file",
    "IO: DataFileSync": "flushing a data file to disk",
    "IO: DataFileTruncate": "truncating a data file",
    "IO: DataFileWrite": "writing a data file",
    "IO: WalInitSync": "creating a WAL file",
    "IO: WalInitWrite": "creating a WAL file",
    "IO: WalSync": "flushing WAL to disk",
    "IO: WalWrite": "writing WAL",
    "IPC: BgworkerShutdown": "waiting for the end of a parallel worker",
    "IPC: BgworkerStartup": "waiting for the start of a parallel worker",
    "IPC: BtreePage": "waiting for a parallel scan of an index",
    "IPC: CheckpointDone": "waiting for the end of a checkpoint",
    "IPC: CheckpointStart": "waiting for the start of a checkpoint",
    "IPC: ExecuteGather": "waiting for its parallel workers",
    "IPC: HashBuildElect": "waiting for the other workers of a parallel hash join",
    QUEUE_FULL: "stalled, because its output queue is full",
    "IPC: ParallelCreateIndexScan": "waiting for its parallel workers",
    "IPC: ParallelFinish": "waiting for its parallel workers",
    "IPC: ProcarrayGroupUpdate": "waiting for the end of other transactions",
    "IPC: SyncRep": "waiting for a synchronous standby",
    "Lock: advisory": "waiting for an advisory lock",
    "Lock: extend": "waiting to extend a table",
    "Lock: frozenid": "waiting to update the oldest transaction of the database",
    "Lock: object": "waiting for a lock on an object",
    "Lock: relation": "waiting for a lock on a table or an index",
    "Lock: spectoken": "waiting for another session's insert",
    "Lock: transactionid": "waiting for the end of another transaction",
    "Lock: tuple": "waiting for a row",
    "Lock: virtualxid": "waiting for the end of an older transaction",
    "LWLock: BufferContent": "waiting for a page that another session changes",
    "LWLock: BufferMapping": "waiting for the table of shared buffers",
    "LWLock: LockManager": "waiting for the table of locks",
    "LWLock: WALInsert": "waiting to insert WAL",
    "LWLock: WALWrite": "waiting for another session that writes WAL",
    "Timeout: CheckpointWriteDelay": "pausing between the writes of a checkpoint",
    "Timeout: PgSleep": "sleeping in pg_sleep",
    "Timeout: VacuumDelay": "pausing, as vacuum_cost_delay says",
    "Timeout: VacuumTruncate": "waiting for a lock to truncate the table",
}
#: Words for an event of a type that is not in the table.
_TYPES: Mapping[str, str] = {
    "Activity": "idle",
    "BufferPin": "waiting for a page that another session uses",
    "Client": "waiting for its client",
    "Extension": "waiting in an extension",
    "IO": "reading or writing files",
    "IPC": "waiting for another process",
    "InjectionPoint": "waiting at an injection point",
    "Lock": "waiting for a lock",
    "LWLock": "waiting for a lock in shared memory",
    "Timeout": "sleeping",
}
#: The same by their names in lower case: the spelling differs between versions of PostgreSQL (WALSync, WalSync).
_KNOWN = {name.lower(): words for name, words in _EVENTS.items()}


def wait_words(wait: str) -> str:
    """Return a wait event in words: `IO: DataFileRead` is `reading a data file (DataFileRead)`; empty for none."""
    kind, _, name = wait.partition(": ")
    words = _KNOWN.get(wait.lower()) or _TYPES.get(kind)
    if words is None:
        return f"waiting ({wait})" if wait else ""
    return f"{words} ({name})" if name else words
