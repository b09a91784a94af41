"""What goes wrong: kinds of faults, and how each is brought about while a run is under way.

A fault strikes at a random moment, or shortly after the run has recorded something, which is where the gaps between
"about to" and "done" are. Each returns whether it has struck: a fault that finds nothing to strike does not count.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import psycopg

from runner.embedded import EmbeddedServer


class Fault(enum.StrEnum):
    """Kinds of faults."""

    TERMINATE_WORKER = "terminate_worker"
    CANCEL_WORKER = "cancel_worker"
    TERMINATE_LAUNCHER = "terminate_launcher"
    TERMINATE_MONITOR = "terminate_monitor"
    TERMINATE_SESSIONS = "terminate_sessions"
    TERMINATE_ALL = "terminate_all"
    CANCEL_SESSIONS = "cancel_sessions"
    SIGKILL = "sigkill"
    SIGINT = "sigint"
    SIGTERM = "sigterm"
    SIGINT_TWICE = "sigint_twice"
    PAUSE = "pause"
    DISK_FULL = "disk_full"
    CLOCK_JUMP = "clock_jump"
    RESTART_FAST = "restart_fast"
    RESTART_IMMEDIATE = "restart_immediate"
    CRASH = "crash"
    NO_CONNECTIONS = "no_connections"
    NO_WORKERS = "no_workers"
    CANCEL_COMMAND = "cancel_command"
    RIVAL = "rival"
    SLOW_START = "slow_start"
    FULL_PIPE = "full_pipe"
    STALL = "stall"
    ASLEEP = "asleep"
    BLOCKED_SESSION = "blocked_session"


#: Faults that strike every session on the server: only on a server that one trial has for itself.
SERVER_WIDE = frozenset(
    {
        Fault.RESTART_FAST,
        Fault.RESTART_IMMEDIATE,
        Fault.CRASH,
        Fault.NO_CONNECTIONS,
        Fault.NO_WORKERS,
        Fault.SLOW_START,
    }
)
#: Faults that reach the runner as a signal, or that it dies of.
SIGNALS = frozenset({Fault.SIGKILL, Fault.SIGINT, Fault.SIGTERM, Fault.SIGINT_TWICE})
#: How often each of those on a shared server is drawn.
_WEIGHTS: Mapping[Fault, int] = {
    Fault.TERMINATE_WORKER: 4,
    Fault.CANCEL_WORKER: 2,
    Fault.TERMINATE_LAUNCHER: 4,
    Fault.TERMINATE_MONITOR: 2,
    Fault.TERMINATE_SESSIONS: 3,
    Fault.TERMINATE_ALL: 2,
    Fault.CANCEL_SESSIONS: 2,
    Fault.SIGKILL: 8,
    Fault.SIGINT: 3,
    Fault.SIGTERM: 3,
    Fault.SIGINT_TWICE: 1,
    Fault.PAUSE: 2,
    Fault.DISK_FULL: 3,
    Fault.CLOCK_JUMP: 2,
    Fault.CANCEL_COMMAND: 2,
    Fault.RIVAL: 2,
    Fault.FULL_PIPE: 3,
    Fault.STALL: 3,
    Fault.ASLEEP: 3,
    Fault.BLOCKED_SESSION: 4,
}
#: What another session may do to the workers that a dead runner has left, before the run is taken over.
_BETWEEN = (Fault.TERMINATE_WORKER, Fault.CANCEL_WORKER, Fault.CANCEL_COMMAND)
_BETWEEN_ALONE = (Fault.RESTART_FAST, Fault.RESTART_IMMEDIATE, Fault.CRASH)

#: Seconds for which a shortage lasts.
_SHORTAGE = (0.3, 2.5)
#: Seconds for which a path delivers nothing: also longer than an answer is waited for, and for good (None).
_STALLS = (0.5, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0, 36.0, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A fault that is to strike `delay` seconds after the run has recorded `events` events."""

    fault: Fault
    events: int
    delay: float


class Target(Protocol):
    """A run under attack."""

    server: EmbeddedServer

    @property
    def run_id(self) -> str:
        """The run; empty while unknown."""
        ...

    def connect(self) -> psycopg.Connection[Any]:
        """Connect to the run's database, as its administrator."""
        ...

    def beside(self, command: str) -> bool:
        """Have another process of jobplan's do something with the run; False if that cannot be done here."""
        ...

    def signal(self, number: signal.Signals) -> bool:
        """Send the runner's process a signal; False if it has ended."""
        ...

    def fill_disk(self) -> bool:
        """Leave no room for the journal; False if that cannot be done here."""
        ...

    def free_disk(self) -> None:
        """Give the room back."""
        ...

    def fill_pipe(self) -> bool:
        """Let standard error have no room, and read nothing of it; False if that cannot be done here."""
        ...

    def read_pipe(self) -> None:
        """Read what is in standard error, and continue reading."""
        ...

    def stall(self) -> bool:
        """Deliver nothing more between the runner and the server; False if that cannot be done here."""
        ...

    def deliver(self) -> None:
        """Deliver what was held back, and what follows."""
        ...

    def jump_clock(self, seconds: float) -> bool:
        """Move the runner's wall clock; False if that cannot be done here."""
        ...


def draw(random: Random, *, server_wide: bool, possible: frozenset[Fault]) -> list[Planned]:
    """Draw the faults of one phase, in the order in which they strike; often one, seldom many."""
    weights = {fault: weight for fault, weight in _WEIGHTS.items() if fault in possible}
    count = random.choice((1, 1, 1, 2, 2, 3))
    faults = random.choices(list(weights), list(weights.values()), k=count)
    if Fault.STALL in possible and random.random() < 0.6:  # few trials have a path that can stall
        faults[-1] = Fault.STALL
    if server_wide:
        faults[0] = random.choice(sorted(SERVER_WIDE & possible))
    planned = [_planned(random, fault) for fault in faults]
    return sorted(planned, key=lambda each: (each.events, each.delay))


def draw_between(random: Random, *, server_wide: bool, possible: frozenset[Fault]) -> Fault | None:
    """Draw what happens between two commands; mostly nothing."""
    drawn = random.choice(_BETWEEN_ALONE if server_wide and random.random() < 0.5 else _BETWEEN)
    return drawn if drawn in possible and random.random() < 0.25 else None


def _planned(random: Random, fault: Fault) -> Planned:
    """Draw a moment: while the command begins, or at an event, or a little after one."""
    events = random.choice((0, 1, 1, random.randint(1, 12), random.randint(1, 12), random.randint(5, 60)))
    delay = random.uniform(0.2, 1.5) if events == 0 else random.choice((0.0, random.random() * 0.4))
    return Planned(fault=fault, events=events, delay=delay)


def strike(fault: Fault, target: Target, random: Random) -> bool:
    """Bring a fault about; return whether there was anything to strike."""
    if fault in _ON_SESSIONS:
        return _on_sessions(fault, target)
    return _OTHERS[fault](target, random)


_MINE = (
    "(application_name LIKE 'jobplan:' || %(run)s || ':%%' OR query LIKE '/* jobplan _\"run\":\"' || %(run)s || '\"%%')"
    " AND pid <> pg_backend_pid()"
)
_WORKERS = f"{_MINE} AND backend_type = 'pg_background'"
_SESSIONS = f"{_MINE} AND backend_type = 'client backend'"
_ON_SESSIONS: Mapping[Fault, str] = {
    Fault.TERMINATE_WORKER: f"SELECT pg_terminate_backend(pid) {{}} {_WORKERS} ORDER BY random() LIMIT 1",
    Fault.CANCEL_WORKER: f"SELECT pg_cancel_backend(pid) {{}} {_WORKERS} ORDER BY random() LIMIT 1",
    Fault.TERMINATE_LAUNCHER: f"SELECT pg_terminate_backend(pid) {{}} {_SESSIONS} ORDER BY backend_start DESC LIMIT 1",
    Fault.TERMINATE_MONITOR: f"SELECT pg_terminate_backend(pid) {{}} {_SESSIONS} ORDER BY backend_start LIMIT 1",
    Fault.TERMINATE_SESSIONS: f"SELECT pg_terminate_backend(pid) {{}} {_SESSIONS}",
    Fault.TERMINATE_ALL: f"SELECT pg_terminate_backend(pid) {{}} {_MINE}",
    Fault.CANCEL_SESSIONS: f"SELECT pg_cancel_backend(pid) {{}} {_SESSIONS}",
}


def _on_sessions(fault: Fault, target: Target) -> bool:
    """Do what a DBA would: as a function of the server's, on what pg_stat_activity shows."""
    query = _ON_SESSIONS[fault].format("FROM pg_stat_activity WHERE")
    with contextlib.suppress(psycopg.OperationalError), target.connect() as connection:
        return bool(connection.execute(query.encode(), {"run": target.run_id}).fetchall())
    return False


def _kill(target: Target, _: Random) -> bool:
    return target.signal(signal.SIGKILL)


def _interrupt(target: Target, _: Random) -> bool:
    return target.signal(signal.SIGINT)


def _end(target: Target, _: Random) -> bool:
    return target.signal(signal.SIGTERM)


def _interrupt_twice(target: Target, random: Random) -> bool:
    struck = target.signal(signal.SIGINT)
    time.sleep(random.uniform(0.0, 0.3))
    target.signal(signal.SIGINT)
    return struck


def _pause(target: Target, random: Random) -> bool:
    """Stop the runner's process for a while, as a suspended laptop does: to it, time makes a leap."""
    struck = target.signal(signal.SIGSTOP)
    time.sleep(random.uniform(0.2, 1.5))
    target.signal(signal.SIGCONT)
    return struck


def _fill_disk(target: Target, random: Random) -> bool:
    struck = target.fill_disk()
    if struck:
        time.sleep(random.uniform(*_SHORTAGE))
        target.free_disk()
    return struck


def _jump_clock(target: Target, random: Random) -> bool:
    return target.jump_clock(random.choice((-7200.0, -60.0, 60.0, 7200.0)))


def _cancel(target: Target, _: Random) -> bool:
    return target.beside("cancel")


def _rival(target: Target, _: Random) -> bool:
    """Have another user resume the run, while it runs or just after."""
    return target.beside("resume")


def _fill_pipe(target: Target, random: Random) -> bool:
    """Read nothing of the runner's standard error, to its end or for a while."""
    struck = target.fill_pipe()
    if random.random() < 0.5:
        time.sleep(random.uniform(*_SHORTAGE))
        target.read_pipe()
    return struck


def _stall(target: Target, random: Random) -> bool:
    """Deliver nothing, to the runner's end or for a while; every packet is acknowledged."""
    struck = target.stall()
    seconds = random.choice(_STALLS)
    if seconds is not None:
        time.sleep(seconds)
        target.deliver()
    return struck


def _sleep(target: Target, random: Random) -> bool:
    """Let the runner's machine sleep and its sessions end, have the run resumed elsewhere or here, and wake it up."""
    if not target.run_id or not target.signal(signal.SIGSTOP):
        return False
    try:
        _on_sessions(Fault.TERMINATE_SESSIONS, target)
        return target.beside(random.choice(("takeover", "takeover", "resume")))
    finally:
        target.signal(signal.SIGCONT)


#: The table of witnesses that a worker of the run has locked by a row of its own.
_WITNESSES = (
    "SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation"
    " JOIN pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_stat_activity USING (pid)"
    f" WHERE {_WORKERS} AND c.relname = 'witness' AND l.mode = 'RowExclusiveLock' LIMIT 1"
)


def _be_blocked(target: Target, random: Random) -> bool:
    """Wait for a lock that a worker holds, as the statement of an application does, and give up after a while."""
    end = time.monotonic() + 1.0
    with contextlib.suppress(psycopg.OperationalError), target.connect() as connection:
        while time.monotonic() < end:
            rows = connection.execute(_WITNESSES.encode(), {"run": target.run_id}).fetchall()
            for (table,) in rows:
                with contextlib.suppress(psycopg.errors.LockNotAvailable), connection.transaction():
                    connection.execute(f"SET LOCAL lock_timeout = '{random.choice((150, 800))}ms'".encode())
                    connection.execute(f"LOCK TABLE {table} IN SHARE MODE".encode())
                return True
            time.sleep(0.02)
    return False


def _restart_fast(target: Target, _: Random) -> bool:
    target.server.restart("fast")
    return True


def _restart_immediate(target: Target, _: Random) -> bool:
    target.server.restart("immediate")
    return True


def _crash(target: Target, random: Random) -> bool:
    """Kill a process of the run's with SIGKILL: the postmaster then restarts everything
    (pg_background.md#sigkill-restarts-the-cluster).
    """
    with contextlib.suppress(psycopg.OperationalError), target.connect() as connection:
        rows = connection.execute(
            f"SELECT pid FROM pg_stat_activity WHERE {_MINE}".encode(), {"run": target.run_id}
        ).fetchall()
        if rows:
            os.kill(random.choice(rows)[0], signal.SIGKILL)
            return True
    return False


def _use_up_connections(target: Target, random: Random) -> bool:
    """Take every connection there is, those kept for superusers too."""
    with contextlib.ExitStack() as taken:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                taken.enter_context(contextlib.closing(target.connect()))
        time.sleep(random.uniform(*_SHORTAGE))
    return True


def _use_up_workers(target: Target, random: Random) -> bool:
    """Take every slot of max_worker_processes there is."""
    seconds = random.uniform(*_SHORTAGE)
    with contextlib.suppress(psycopg.OperationalError, psycopg.errors.InternalError_), _filler(target) as connection:
        while True:
            connection.execute("SELECT pg_background_launch(%s, 0, '')", (f"SELECT pg_sleep({seconds:.2f})",))
    time.sleep(seconds)
    return True


def _start_slowly(target: Target, random: Random) -> bool:
    """Stop the postmaster for longer than a worker that was never seen is waited for: none starts meanwhile."""
    postmaster = target.server.pid
    os.kill(postmaster, signal.SIGSTOP)
    try:
        time.sleep(random.uniform(2.0, 6.0))
    finally:
        os.kill(postmaster, signal.SIGCONT)
    return True


@contextlib.contextmanager
def _filler(target: Target) -> Iterator[psycopg.Connection[Any]]:
    with target.connect() as connection:
        connection.execute("SET application_name = 'chaos:filler'")
        yield connection


_OTHERS: Mapping[Fault, Callable[[Target, Random], bool]] = {
    Fault.SIGKILL: _kill,
    Fault.SIGINT: _interrupt,
    Fault.SIGTERM: _end,
    Fault.SIGINT_TWICE: _interrupt_twice,
    Fault.PAUSE: _pause,
    Fault.DISK_FULL: _fill_disk,
    Fault.CLOCK_JUMP: _jump_clock,
    Fault.RESTART_FAST: _restart_fast,
    Fault.RESTART_IMMEDIATE: _restart_immediate,
    Fault.CRASH: _crash,
    Fault.NO_CONNECTIONS: _use_up_connections,
    Fault.NO_WORKERS: _use_up_workers,
    Fault.CANCEL_COMMAND: _cancel,
    Fault.RIVAL: _rival,
    Fault.SLOW_START: _start_slowly,
    Fault.FULL_PIPE: _fill_pipe,
    Fault.STALL: _stall,
    Fault.ASLEEP: _sleep,
    Fault.BLOCKED_SESSION: _be_blocked,
}
