"""A dry run: everything that can be said of a plan and a server without running any of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runner.errors import Problem, Severity
from runner.gateway.inspection import Inspector
from runner.lint.sources import Sources
from runner.plan.model import Plan
from runner.preflight.activity import SNAPSHOT_AGE, activity_problems, lock_reports
from runner.preflight.disk import disk_problems, free_bytes
from runner.preflight.durations import Duration, Durations, FirstOf, KnownDurations
from runner.preflight.locking import conflict_problems, read_locks
from runner.preflight.requires import demand_of, requirement_problems, server_problems
from runner.preflight.result import DryRun
from runner.preflight.schedule import forecast, schedule_problems
from runner.preflight.server import examine
from runner.preflight.statements import StatementLook

#: Findings about the server with which a run would start nothing.
_REFUSING = frozenset({"JP501", "JP503", "JP504", "JP505", "JP507", "JP508", "JP510", "JP520"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is to be looked at: with EXPLAIN or without, and which steps are left out."""

    explain: bool = True
    left_out: frozenset[str] = frozenset()
    durations: Durations = field(default_factory=lambda: KnownDurations({}))
    #: Budgets to compare, in slots.
    what_if: tuple[int, ...] = ()


async def dry_run(plan: Plan, inspector: Inspector, wishes: Wishes) -> DryRun:
    """Look at a plan on a server. PreflightError if the server does not even let itself be looked at."""
    facts = await inspector.facts()
    examined = examine(facts, demand_of(plan))
    problems = list(server_problems(plan, examined))
    problems += [one async for one in requirement_problems(plan, facts, inspector)]
    refused = any(one.severity is Severity.ERROR and one.code in _REFUSING for one in problems)
    looked = await StatementLook(plan, inspector, explain=wishes.explain).look(left_out=wishes.left_out)
    locks = read_locks([(unit, sight) for unit, sight, _ in looked.units])
    problems += conflict_problems(plan, locks, Sources())
    held, snapshots = await inspector.activity(), await inspector.snapshots(SNAPSHOT_AGE)
    problems += activity_problems(plan, locks, held, snapshots)
    (directory,) = await inspector.rows("data_directory") or ((None,),)
    free = free_bytes(directory[0], inspector.host)
    problems += disk_problems([(unit, sight) for unit, sight, _ in looked.units], free)
    durations = FirstOf([wishes.durations, _of_ledger(await inspector.recorded(plan.name))])
    schedule = forecast(plan, durations, rows=looked.rows, left_out=wishes.left_out, slots=wishes.what_if)
    problems += schedule_problems(plan, schedule, durations)
    return DryRun(
        plan=plan.name,
        file=plan.file,
        facts=facts,
        server=examined,
        problems=worst_first([*problems, *looked.problems]),
        statements=tuple(looked.reports),
        locks=lock_reports(plan, locks, durations),
        schedule=schedule,
        refused=refused,
    )


def _of_ledger(found: Mapping[str, tuple[int, float, float]]) -> KnownDurations:
    return KnownDurations({step: Duration(p50=p50, p95=p95, runs=runs) for step, (runs, p50, p95) in found.items()})


def worst_first(problems: list[Problem]) -> tuple[Problem, ...]:
    """Return each problem once: errors first, and the server's before the plan's."""

    def place(problem: Problem) -> tuple[bool, bool, str, int, int]:
        position = problem.position
        of_server = problem.code.startswith("JP5")
        return (problem.severity is not Severity.ERROR, not of_server, position.file, position.line, position.column)

    return tuple(sorted(dict.fromkeys(problems), key=place))
