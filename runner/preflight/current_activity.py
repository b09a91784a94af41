"""Activity in the database that would block the plan's steps now, and how large the relations are that they lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runner.codes import new_problem
from runner.durations import format_duration
from runner.errors import Problem
from runner.gateway.catalog import HeldLock
from runner.gateway.server_facts import OldTransaction
from runner.locks.conflicts import LockTiming
from runner.phrases import few
from runner.plan.model import Plan, Step
from runner.preflight.lock_checks import LocksOfSteps, RealLock
from runner.preflight.step_durations import Durations
from runner.sql.lock_modes import LockMode, conflict
from runner.sql.placeholders import quote_literal
from runner.sql.relations import Relation
from runner.structs import Struct

#: A snapshot of this age, in seconds, can block a CONCURRENTLY build for a noticeable time.
SNAPSHOT_AGE = 1.0
#: How many other relations a finding names.
_NAMED = 3
_MODES = {mode.pg_name: mode for mode in LockMode}


class LockReport(Struct, frozen=True, kw_only=True):
    """A lock that blocks other sessions: what it blocks, the size of its relation, and for how long it may be held.

    `seconds` is the step's usual duration, None if it is unknown; `limit` its timeout, None if there is none.
    """

    step: str
    relation: str
    mode: str
    command: str
    stops: str
    bytes: int | None
    partitions: int
    seconds: float | None
    limit: float | None


def lock_reports(plan: Plan, locks: LocksOfSteps, durations: Durations) -> tuple[LockReport, ...]:
    """Return the locks of the plan's steps that can block other sessions, the largest relations first."""
    steps = {step.id: step for step in plan.all_steps}
    found: dict[tuple[str, str], LockReport] = {}
    for name, instances in locks.items():
        for instance, taken in instances.items():
            for lock in taken:
                report = _report(steps[name], instance, lock, durations)
                key = (instance, f"{report.relation} {report.mode}") if report is not None else ("", "")
                if report is not None:
                    found.setdefault(key, report)
    return tuple(sorted(found.values(), key=lambda one: -(one.bytes or 0)))


def _report(step: Step, instance: str, lock: RealLock, durations: Durations) -> LockReport | None:
    held = lock.held
    stops = _stops(held.mode)
    if stops is None or lock.facts is None or held.on.indexes:
        return None
    duration = durations.of(instance)
    return LockReport(
        step=instance,
        relation=str(lock.relation),
        mode=str(held.mode),
        command=held.what,
        stops=stops,
        bytes=lock.facts.all_bytes if lock.facts.size is not None or lock.facts.all_bytes else None,
        partitions=len(lock.facts.children),
        seconds=duration.p50 if duration is not None else None,
        limit=step.timeout,
    )


def _stops(mode: LockMode) -> str | None:
    if mode is LockMode.ACCESS_EXCLUSIVE:
        return "reads and writes"
    return "writes" if conflict(mode, LockMode.ROW_EXCLUSIVE) else None


def activity_problems(
    plan: Plan, locks: LocksOfSteps, held: Sequence[HeldLock], snapshots: Sequence[OldTransaction]
) -> Iterator[Problem]:
    """Yield sessions that hold a lock or snapshot for which a step would wait now: each step and holder once."""
    steps = {step.id: step for step in plan.all_steps}
    by_relation: dict[Relation, list[HeldLock]] = {}
    for one in held:
        if one.granted and one.mode in _MODES:
            by_relation.setdefault(one.relation, []).append(one)
    for name, instances in locks.items():
        met: dict[tuple[int, str], list[tuple[RealLock, HeldLock]]] = {}
        for lock in (lock for taken in instances.values() for lock in taken):
            for one in by_relation.get(lock.relation, ()):
                if conflict(_waits_for(lock), _MODES[one.mode]):
                    met.setdefault((one.pid, one.application_name), []).append((lock, one))
        yield from (_blocked(steps[name], found) for found in met.values())
        yield from _held_up(steps[name], [lock for taken in instances.values() for lock in taken], snapshots)


def _waits_for(lock: RealLock) -> LockMode:
    """Return the mode whose conflicting locks block the command; with CONCURRENTLY it is not the mode that it acquires.

    A CONCURRENTLY command waits for transactions that may write without the new index, or may use the dropped one: see
    "Building Indexes Concurrently" and "Rebuilding Indexes Concurrently" in the PostgreSQL documentation.
    """
    match lock.held.nature:
        case LockTiming.BUILD if not lock.held.what.startswith("REINDEX"):
            return LockMode.SHARE
        case LockTiming.BUILD | LockTiming.DROP | LockTiming.DETACH:
            return LockMode.ACCESS_EXCLUSIVE
    return lock.held.mode


def _blocked(step: Step, met: Sequence[tuple[RealLock, HeldLock]]) -> Problem:
    lock, one = next((pair for pair in met if pair[0].direct), met[0])
    others = dict.fromkeys(str(other.relation) for other, _ in met if other.relation != lock.relation)
    more = f", and more on {few(list(others), _NAMED)}" if others else ""
    who = _who(one.pid, one.user, one.application_name, one.state, one.seconds)
    limit = f" (lock_timeout {format_duration(step.lock_timeout)})" if step.lock_timeout is not None else ""
    mode = _waits_for(lock)
    wants = f"{lock.held.mode} on {lock.relation}" if mode is lock.held.mode else f"on {lock.relation}"
    message = f"`{step.id}`: {lock.held.what} ({wants}) would wait now{limit}: {who} holds {_MODES[one.mode]}{more}"
    hint = f"SELECT pg_terminate_backend({one.pid});"
    if not one.pid:
        hint = f"ROLLBACK PREPARED {quote_literal(one.application_name)}; (or COMMIT PREPARED)"
    return new_problem("JP701", message, step.sql.position(lock.held.offset), hint=hint, step=step.id)


def _held_up(step: Step, locks: Sequence[RealLock], snapshots: Sequence[OldTransaction]) -> Iterator[Problem]:
    lock = next((lock for lock in locks if lock.held.nature is LockTiming.BUILD), None)
    if lock is None or not snapshots:
        return
    one = snapshots[0]
    who = _who(one.pid, one.user, one.application_name, one.state, one.seconds)
    more = f", and {len(snapshots) - 1:,} more" if len(snapshots) > 1 else ""
    message = f"`{step.id}`: {lock.held.what} would wait now for an older snapshot: {who}{more}"
    hint = f"SELECT pg_terminate_backend({one.pid});"
    yield new_problem("JP702", message, step.sql.position(lock.held.offset), hint=hint, step=step.id)


def _who(pid: int, user: str, name: str, state: str, seconds: int) -> str:
    since = f"for {format_duration(float(seconds))}"
    if not pid:
        return f"the prepared transaction {name!r} of {user}, {since},"
    called = f", {name}" if name else ""
    return f"pid {pid} ({user}{called}, {state or 'active'} {since})"
