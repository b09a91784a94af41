"""Whether a server is ready for plans: one function for each check, in a table. A check needs facts, not a server.

`doctor` shows all checks; a dry run turns failed checks into findings.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable

from runner.durations import format_duration
from runner.gateway.server_facts import ServerFacts
from runner.sql.placeholders import quote_identifier, quote_literal
from runner.sql.relations import Relation
from runner.structs import Struct

_OLDEST_SERVER = 140_000
#: How many objects a check names.
_NAMED = 3


class Level(enum.StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    #: Another check failed, or the facts are not visible to this role.
    UNKNOWN = "unknown"


class Demand(Struct, frozen=True, kw_only=True):
    """The needs of a run: its workers at the same time, and how many of the server's must stay free."""

    slots: int = 1
    reserve: int = 0
    #: Whether it measures holds.
    holds: bool = False

    @property
    def connections(self) -> int:
        """One for each worker, one to monitor them, one for conditions, and one for holds."""
        return self.slots + 2 + self.holds


class CheckOutcome(Struct, frozen=True, kw_only=True):
    """What a check found, what is needed, and the statement that fixes it (or what to do, if there is none)."""

    level: Level
    found: str
    needed: str = ""
    mend: str = ""


class ServerCheck(Struct, frozen=True, kw_only=True):
    """A row of the table; `code` is that of a dry run's finding."""

    name: str
    code: str
    check: Callable[[ServerFacts, Demand], CheckOutcome]


class Examined(Struct, frozen=True, kw_only=True):
    """A check with its outcome."""

    check: ServerCheck
    outcome: CheckOutcome


#: The longest label (`identity.WorkerLabel`) in bytes, which is PostgreSQL's default of track_activity_query_size.
_LABEL_SIZE = 1024


def examine(facts: ServerFacts, demand: Demand) -> tuple[Examined, ...]:
    """Return the outcome of every check, in the order of the table."""
    return tuple(Examined(check=check, outcome=check.check(facts, demand)) for check in CHECKS)


def _ok(found: str, needed: str) -> CheckOutcome:
    return CheckOutcome(level=Level.OK, found=found, needed=needed)


def _warning(found: str, needed: str, mend: str) -> CheckOutcome:
    return CheckOutcome(level=Level.WARNING, found=found, needed=needed, mend=mend)


def _error(found: str, needed: str, mend: str) -> CheckOutcome:
    return CheckOutcome(level=Level.ERROR, found=found, needed=needed, mend=mend)


def _unknown(found: str, needed: str) -> CheckOutcome:
    return CheckOutcome(level=Level.UNKNOWN, found=found, needed=needed)


def _version(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = "14 or later"
    if facts.version_number < _OLDEST_SERVER:
        return _error(facts.version, needed, "Upgrade the server.")
    return _ok(facts.version, needed)


def _pooler(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = "a separate session for each connection"
    if facts.backend_pid == facts.announced_pid:
        return _ok("a direct connection", needed)
    found = f"a pooler: process {facts.backend_pid} serves a connection that was announced as {facts.announced_pid}"
    return _warning(found, needed, "Connect to the server itself (host and port in --dsn), or pool sessions only.")


def _extension(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = "pg_background 2.0 or later"
    installed, available = facts.extension_version, facts.available_version
    if installed is None:
        if available is None:
            return _error("not installed on the machine", needed, _installation(facts.version_number // 10_000))
        found = f'not in database "{facts.database}"'
        return _error(found, needed, "CREATE EXTENSION pg_background;")
    if int(installed.partition(".")[0]) < 2:
        return _error(installed, needed, "ALTER EXTENSION pg_background UPDATE;")
    found = f"{installed} in schema {Relation(None, facts.extension_schema or '')}"
    if available is not None and available != installed:
        return _warning(f"{found}; {available} is installed", needed, "ALTER EXTENSION pg_background UPDATE;")
    return _ok(found, needed)


#: Major versions of PostgreSQL for which Debian has a package of pg_background 2.
_PACKAGED = frozenset({18})


def _installation(major: int) -> str:
    """Return how to install pg_background on the server's machine."""
    if major in _PACKAGED:
        return f"apt-get install postgresql-{major}-pg-background"
    newest = max(_PACKAGED)
    return (
        f"Build pg_background 2 from source with the pg_config of PostgreSQL {major} (make install): "
        f"there are packages for PostgreSQL {newest} only."
    )


def _privileges(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = "USAGE on the extension's schema and EXECUTE on its functions"
    if facts.extension_version is None:
        return _unknown("there is no extension", needed)
    user = quote_identifier(facts.user)
    if not facts.may_launch:
        found = f'role "{facts.user}" may not use pg_background'
        return _error(found, needed, f"GRANT pgbackground_role TO {user};")
    if not facts.schema_usage:
        schema = quote_identifier(facts.extension_schema or "")
        found = f'role "{facts.user}" may not use the schema {facts.extension_schema}'
        return _error(found, needed, f"GRANT USAGE ON SCHEMA {schema} TO {user};")
    return _ok(f'role "{facts.user}" may use pg_background', needed)


def _library(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = "the extension's library loads, and allows at least one worker for each session"
    if facts.load_error is not None:
        return _error(facts.load_error, needed, "Install the package for this server's version again.")
    allowed = facts.capacity.max_workers
    if allowed is None:
        return _unknown("it could not be tested", needed)
    if allowed < 1:
        return _error(f"pg_background.max_workers is {allowed}", needed, _alter_system("pg_background.max_workers", 16))
    return _ok(f"pg_background.max_workers is {allowed}", needed)


def _standby(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = "a primary: pg_background can start no worker on a standby"
    if facts.standby:
        return _error("a standby", needed, "Connect to the primary (target_session_attrs=primary in --dsn).")
    return _ok("a primary", needed)


def _read_only(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = "transactions that may write"
    if not facts.read_only:
        return _ok("transactions may write", needed)
    found = f"default_transaction_read_only is on (by {facts.read_only_source})"
    where = {
        "user": f"ALTER ROLE {quote_identifier(facts.user)} RESET default_transaction_read_only;",
        "database": f"ALTER DATABASE {quote_identifier(facts.database)} RESET default_transaction_read_only;",
    }
    mend = where.get(facts.read_only_source, "ALTER SYSTEM RESET default_transaction_read_only;")
    return _error(found, needed, mend)


def _workers(facts: ServerFacts, demand: Demand) -> CheckOutcome:
    capacity = facts.capacity
    kept = f" and a reserve of {demand.reserve}" if demand.reserve else ""
    needed = f"{demand.slots} free{kept}"
    own = f", {capacity.of_pg_background} of them of pg_background" if capacity.of_pg_background else ""
    found = (
        f"{capacity.free_workers} of max_worker_processes ({capacity.max_worker_processes}) are free: "
        f"{capacity.workers} taken{own}"
    )
    wanted = demand.slots + demand.reserve
    mend = f"{_alter_system('max_worker_processes', capacity.workers + wanted)} (then restart the server)"
    if capacity.free_workers <= demand.reserve:
        return _error(f"{found}; no step could start now", needed, mend)
    if capacity.free_workers < wanted:
        return _warning(f"{found}; steps would wait for each other", needed, mend)
    return _ok(found, needed)


def _parallel(facts: ServerFacts, demand: Demand) -> CheckOutcome:
    capacity = facts.capacity
    needed = "parallel queries leave workers for steps"
    left = capacity.max_worker_processes - min(capacity.max_parallel_workers, capacity.max_worker_processes)
    found = f"max_parallel_workers is {capacity.max_parallel_workers} of {capacity.max_worker_processes} workers"
    if left < demand.slots + demand.reserve:
        wanted = max(capacity.max_worker_processes - demand.slots - demand.reserve, 0)
        mend = f"{_alter_system('max_parallel_workers', wanted)} SELECT pg_reload_conf();"
        return _warning(f"{found}; while they are all busy, steps wait", needed, mend)
    return _ok(found, needed)


def _connections(facts: ServerFacts, demand: Demand) -> CheckOutcome:
    capacity = facts.capacity
    needed = f"{demand.connections} connections"
    free = capacity.free_connections
    found = f"{free} more for this role (max_connections {capacity.max_connections}, {capacity.connections} open)"
    wanted = demand.connections - free
    if wanted <= 0:
        return _ok(found, needed)
    if 0 <= capacity.role_limit - capacity.role_connections == free:
        limit = capacity.role_limit + wanted
        mend = f"ALTER ROLE {quote_identifier(facts.user)} CONNECTION LIMIT {limit};"
    elif 0 <= capacity.database_limit - capacity.database_connections == free:
        limit = capacity.database_limit + wanted
        mend = f"ALTER DATABASE {quote_identifier(facts.database)} CONNECTION LIMIT {limit};"
    else:
        limit = capacity.max_connections + wanted
        mend = f"{_alter_system('max_connections', limit)} (then restart the server)"
    return (_error if free < 1 else _warning)(found, needed, mend)  # one worker at a time needs one


def _sight(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = "this role sees the processes of other roles"
    if facts.sees_all or facts.capacity.superuser:
        if facts.may_monitor or facts.capacity.superuser:
            return _ok("other processes are visible", needed)
        return _ok("other processes are visible; a hold with wal_to_archive also needs pg_monitor", needed)
    unseen = facts.capacity.unseen
    found = f"other processes are not visible ({unseen} are hidden now): the number of free workers is an upper bound"
    return _warning(found, needed, f"GRANT pg_read_all_stats TO {quote_identifier(facts.user)};")


def _text(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = f"a worker shows the label in front of its text: track_activities on, {_LABEL_SIZE} bytes or more"
    size = f"track_activity_query_size = {facts.text_size}"
    if not facts.shows_text:
        return _warning("track_activities = off", needed, "ALTER SYSTEM SET track_activities = on; (and reload)")
    if facts.text_size < _LABEL_SIZE:
        mend = f"ALTER SYSTEM SET track_activity_query_size = {_LABEL_SIZE}; (and restart)"
        return _warning(size, needed, mend)
    return _ok(size, needed)


def _old_transactions(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = "no old transaction: VACUUM cannot remove rows that it may see, and CONCURRENTLY waits for it"
    old = facts.old_transactions
    if not old:
        return _ok("none", needed)
    names = [
        f"pid {one.pid} ({one.state or one.application_name}, "
        f"{one.user}{'' if one.here else ', another database'}) for {format_duration(one.seconds)}"
        for one in old
    ]
    return _warning(_listed(names), needed, f"SELECT pg_terminate_backend({old[0].pid});")


def _prepared(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = "no forgotten prepared transaction: it keeps its locks"
    if not facts.prepared:
        return _ok("none", needed)
    names = [f"{one.gid!r} of {one.owner} for {format_duration(one.seconds)}" for one in facts.prepared]
    return _warning(_listed(names), needed, f"ROLLBACK PREPARED {quote_literal(facts.prepared[0].gid)};")


def _invalid_indexes(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = "no INVALID index: it is written to and never read"
    if not facts.invalid_indexes:
        return _ok("none", needed)
    names = [f"{Relation(one.schema, one.name)} of {one.table}" for one in facts.invalid_indexes]
    first = facts.invalid_indexes[0]
    mend = f"DROP INDEX CONCURRENTLY {quote_identifier(first.schema)}.{quote_identifier(first.name)};"
    return _warning(_listed(names), needed, mend)


def _ledger(facts: ServerFacts, _: Demand) -> CheckOutcome:
    needed = (
        "a ledger, if there is one, whose owners are this role, superusers, or roles that --trust-ledger-role names"
    )
    ignored = [one for one in facts.ledgers if one.ignored]
    if ignored:
        mend = ignored[0].remedy or "Ask a superuser to examine it."
        return _warning("; ".join(one.ignored for one in ignored[:_NAMED]), needed, mend)
    return _ok(_listed(f"schema {one.schema}" for one in facts.ledgers) or "none", needed)


def _listed(names: Iterable[str]) -> str:
    all_names = list(names)
    more = len(all_names) - _NAMED
    return ", ".join(all_names[:_NAMED]) + (f", and {more:,} more" if more > 0 else "")


def _alter_system(name: str, value: int) -> str:
    return f"ALTER SYSTEM SET {name} = {value};"


#: Every check of the server, in the order in which problems should be fixed.
CHECKS: tuple[ServerCheck, ...] = (
    ServerCheck(name="server version", code="JP501", check=_version),
    ServerCheck(name="connection", code="JP502", check=_pooler),
    ServerCheck(name="extension", code="JP503", check=_extension),
    ServerCheck(name="privileges", code="JP504", check=_privileges),
    ServerCheck(name="library", code="JP505", check=_library),
    ServerCheck(name="primary or standby", code="JP506", check=_standby),
    ServerCheck(name="writing", code="JP507", check=_read_only),
    ServerCheck(name="workers", code="JP508", check=_workers),
    ServerCheck(name="parallel queries", code="JP509", check=_parallel),
    ServerCheck(name="connections", code="JP510", check=_connections),
    ServerCheck(name="sight", code="JP511", check=_sight),
    ServerCheck(name="labels", code="JP516", check=_text),
    ServerCheck(name="old transactions", code="JP512", check=_old_transactions),
    ServerCheck(name="prepared transactions", code="JP513", check=_prepared),
    ServerCheck(name="invalid indexes", code="JP514", check=_invalid_indexes),
    ServerCheck(name="ledger", code="JP515", check=_ledger),
)
