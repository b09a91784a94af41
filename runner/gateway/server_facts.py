"""What a server says of itself when it is only looked at: plain data, so that whoever judges it needs no server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OldTransaction:
    """A transaction that has been open for `seconds`; `here` says that it is in this database."""

    pid: int
    user: str
    application_name: str
    state: str
    seconds: int
    here: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTransaction:
    """A transaction of this database that was prepared `seconds` ago and that nobody has ended."""

    gid: str
    owner: str
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDuration:
    """How long a step took in so many runs, in seconds: the whole step, and its attempts, if any was recorded."""

    runs: int
    p50: float
    p95: float
    attempt_p95: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidIndex:
    """An index that a build has left behind INVALID."""

    schema: str
    name: str
    table: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Workers and connections. `unseen` are processes whose kind this role may not see; limits of -1 are none.

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
        """How many of max_worker_processes are free, as far as this role can see."""
        return self.max_worker_processes - self.workers

    @property
    def free_connections(self) -> int:
        """How many more connections this role gets."""
        reserved = 0 if self.superuser else self.reserved_connections
        free = [self.max_connections - reserved - self.connections]
        if not self.superuser:  # limits do not apply to superusers
            free += [self.role_limit - self.role_connections] if self.role_limit >= 0 else []
            free += [self.database_limit - self.database_connections] if self.database_limit >= 0 else []
        return min(free)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """A server as one session sees it.

    `backend_pid` is what the server calls this session's process, `announced_pid` what the connection was told: behind
    a pooler they differ. `load_error` is what the server said when the extension's library was to be loaded.
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
    capacity: Capacity
    load_error: str | None = None
    old_transactions: tuple[OldTransaction, ...] = ()
    prepared: tuple[PreparedTransaction, ...] = ()
    invalid_indexes: tuple[InvalidIndex, ...] = ()
    #: Whether sessions show their text in pg_stat_activity, and how many bytes of it.
    shows_text: bool = True
    text_size: int = 1024
