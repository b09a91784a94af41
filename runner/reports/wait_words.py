"""Wait events of PostgreSQL in words: `IO: DataFileRead` is `reading a data file (DataFileRead)`.

The name is shown too, because PostgreSQL's documentation and other tools use it. An event that is not in the table gets
the words of its type. Source: https://www.postgresql.org/docs/current/monitoring-stats.html#WAIT-EVENT-TABLE
"""

from __future__ import annotations

from collections.abc import Mapping

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
    "IPC: MessageQueuePutMessage": "stalled, because its output queue is full",
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
#: Words for the other events of a type.
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
    """Return a wait event, `type: name`, in words, with its name; empty for none."""
    kind, _, name = wait.partition(": ")
    words = _KNOWN.get(wait.lower()) or _TYPES.get(kind)
    if words is None:
        return f"waiting ({wait})" if wait else ""
    return f"{words} ({name})" if name else words
