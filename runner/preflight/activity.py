"""What goes on in the database now that would keep the plan's steps waiting, and how much their locks weigh."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runner.durations import format_duration
from runner.errors import Problem
from runner.gateway.catalog import HeldLock
from runner.gateway.facts import OldTransaction
from runner.lint.locking.held import Nature
from runner.plan.model import Plan, Step
from runner.preflight.durations import Durations
from runner.preflight.finding import problem
from runner.preflight.locking import LocksOfSteps, RealLock
from runner.sql.lockmodes import LockMode, conflict
from runner.sql.relations import Relation

#: Seconds after which a snapshot is old enough to hold up a build CONCURRENTLY for longer than a moment.
SNAPSHOT_AGE = 1.0
_MODES = {mode.pg_name: mode for mode in LockMode}
_WAITS_FOR_SNAPSHOTS = frozenset({Nature.BUILD, Nature.DROP, Nature.DETACH})


@dataclass(frozen=True, slots=True, kw_only=True)
class LockReport:
    """A lock that keeps others out: what it stops, the size of what it is on, and for how long it may be held.

    `seconds` is the step's usual duration, None if it is not known; `limit` its timeout, None if there is none.
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
    triggers: tuple[str, ...] = ()


def lock_reports(plan: Plan, locks: LocksOfSteps, durations: Durations) -> tuple[LockReport, ...]:
    """Return the locks of the plan's steps that stop somebody, the largest relations first."""
    steps = {step.id: step for step in (*plan.steps, *plan.finally_)}
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
        bytes=lock.facts.all_bytes,
        partitions=len(lock.facts.children),
        seconds=duration.p50 if duration is not None else None,
        limit=step.timeout,
        triggers=tuple(f"{name} ({function})" for name, function in lock.facts.triggers.items()),
    )


def _stops(mode: LockMode) -> str | None:
    if mode is LockMode.ACCESS_EXCLUSIVE:
        return "reads and writes"
    return "writes" if conflict(mode, LockMode.ROW_EXCLUSIVE) else None


def activity_problems(
    plan: Plan, locks: LocksOfSteps, held: Sequence[HeldLock], snapshots: Sequence[OldTransaction]
) -> Iterator[Problem]:
    """Yield who holds something now for which a step would have to wait."""
    steps = {step.id: step for step in (*plan.steps, *plan.finally_)}
    by_relation: dict[Relation, list[HeldLock]] = {}
    for one in held:
        if one.granted and one.mode in _MODES:
            by_relation.setdefault(one.relation, []).append(one)
    for name, instances in locks.items():
        told: set[tuple[str, int, str]] = set()
        for lock in (lock for taken in instances.values() for lock in taken):
            for one in by_relation.get(lock.relation, ()):
                key = (str(lock.relation), one.pid, one.state)
                if key not in told and conflict(lock.held.mode, _MODES[one.mode]):
                    told.add(key)
                    yield _blocked(steps[name], lock, one)
        yield from _held_up(steps[name], [lock for taken in instances.values() for lock in taken], snapshots)


def _blocked(step: Step, lock: RealLock, one: HeldLock) -> Problem:
    who = _who(one.pid, one.user, one.application_name, one.state, one.seconds)
    limit = (
        ""
        if step.lock_timeout is None
        else f", and fail after its lock_timeout of {format_duration(step.lock_timeout)}"
    )
    message = (
        f"`{step.id}` ({lock.held.what}: {lock.held.mode} on {lock.relation}) would wait now{limit}: "
        f"{who} holds {_MODES[one.mode]}"
    )
    hint = f"SELECT pg_terminate_backend({one.pid});" if one.pid else "end the prepared transaction: ROLLBACK PREPARED"
    return problem("JP701", message, step.sql.position(lock.held.offset), hint=hint, step=step.id)


def _held_up(step: Step, locks: Sequence[RealLock], snapshots: Sequence[OldTransaction]) -> Iterator[Problem]:
    lock = next((lock for lock in locks if lock.held.nature in _WAITS_FOR_SNAPSHOTS), None)
    if lock is None or not snapshots:
        return
    one = snapshots[0]
    who = _who(one.pid, one.user, one.application_name, one.state, one.seconds)
    more = f", and {len(snapshots) - 1} more" if len(snapshots) > 1 else ""
    message = f"`{step.id}` ({lock.held.what}) would wait now for an older snapshot: {who}{more}"
    hint = f"SELECT pg_terminate_backend({one.pid});"
    yield problem("JP702", message, step.sql.position(lock.held.offset), hint=hint, step=step.id)


def _who(pid: int, user: str, application_name: str, state: str, seconds: int) -> str:
    since = f"for {format_duration(float(seconds))}"
    if not pid:
        return f"a prepared transaction, {since},"
    name = f", {application_name}" if application_name else ""
    return f"pid {pid} ({user}{name}, {state or 'active'} {since})"
