"""The facts about a server that an inspection reads: plain data, so that checks of them need no server."""

from __future__ import annotations

from runner.structs import Struct


class OldTransaction(Struct, frozen=True, kw_only=True):
    """A transaction that has been open for `seconds`; `here`: it is in this database."""

    pid: int
    user: str
    application_name: str
    state: str
    seconds: int
    here: bool


class PreparedTransaction(Struct, frozen=True, kw_only=True):
    """A transaction of this database that was prepared `seconds` ago and is not finished."""

    gid: str
    owner: str
    seconds: int


class RecordedDuration(Struct, frozen=True, kw_only=True):
    """The time of a step in previous runs, in seconds: of the whole step, and of its attempts if recorded.

    0 runs: only attempts have succeeded.
    """

    runs: int
    p50: float
    p95: float
    attempt_p95: float | None
    attempt_p50: float | None = None
    attempts: int = 0


class InvalidIndex(Struct, frozen=True, kw_only=True):
    """An index that a build has left INVALID."""

    schema: str
    name: str
    table: str


class LedgerFacts(Struct, frozen=True, kw_only=True):
    """A ledger, or a schema for one; `ignored` is why it is not used, and `remedy` what to do, empty if it is used."""

    schema: str
    ignored: str = ""
    remedy: str = ""


class Capacity(Struct, frozen=True, kw_only=True):
    """Workers and connections. `unseen` are processes whose kind is not visible to this role; a limit of -1 is none.

    `max_workers` is pg_background.max_workers, None while the library is not loaded.
    """

    max_worker_processes: int
    workers: int
    of_pg_background: int
    unseen: int
    max_parallel_workers: int
    max_connections: int
    reserved_connections: int
    connections: int
    superuser: bool
    role_limit: int
    role_connections: int
    database_limit: int
    database_connections: int
    max_workers: int | None

    @property
    def free_workers(self) -> int:
        """The number of free max_worker_processes, as far as visible to this role."""
        return self.max_worker_processes - self.workers

    @property
    def free_connections(self) -> int:
        """The number of connections that are free for this role."""
        reserved = 0 if self.superuser else self.reserved_connections
        free = [self.max_connections - reserved - self.connections]
        if not self.superuser:  # limits do not apply to superusers
            free += [self.role_limit - self.role_connections] if self.role_limit >= 0 else []
            free += [self.database_limit - self.database_connections] if self.database_limit >= 0 else []
        return min(free)


class ServerFacts(Struct, frozen=True, kw_only=True):
    """A server as seen by one session.

    `backend_pid` is the pid that the server reports for this session, `announced_pid` the one that the connection
    received at its start: behind a pooler they differ. `load_error` is the server's error when the extension's library
    was loaded.
    """

    version: str
    version_number: int
    database: str
    user: str
    standby: bool
    backend_pid: int
    announced_pid: int
    extension_version: str | None
    extension_schema: str | None
    available_version: str | None
    schema_usage: bool
    may_launch: bool
    sees_all: bool
    read_only: bool
    read_only_source: str
    #: Whether sessions show their query text in pg_stat_activity, and the limit of its bytes.
    shows_text: bool = True
    text_size: int = 1024
    #: Whether the role may list the WAL files that wait to be archived.
    may_monitor: bool = True
    capacity: Capacity
    load_error: str | None = None
    old_transactions: tuple[OldTransaction, ...] = ()
    prepared: tuple[PreparedTransaction, ...] = ()
    invalid_indexes: tuple[InvalidIndex, ...] = ()
    #: The ledgers of this database; empty if they were not examined.
    ledgers: tuple[LedgerFacts, ...] = ()
