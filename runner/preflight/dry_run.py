"""A dry run: everything that can be reported about a plan and a server without running the plan.

It also evaluates the plan's requirements, and whether another run holds its concurrency group. It acquires no locks
that block other sessions, and writes nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial

from runner.codes import new_problem
from runner.engine.batches import outlook
from runner.engine.requirements import not_a_member, unmet_by_server
from runner.errors import Position, Problem, Severity
from runner.gateway.catalog import RelationFacts
from runner.gateway.inspection import Inspector
from runner.gateway.server_facts import ServerFacts
from runner.identity import run_of
from runner.lint.suppressions import Sources
from runner.plan.graph import find_cycles
from runner.plan.groups import written_out, written_steps
from runner.plan.model import OnConflict, Otherwise, Plan, Step
from runner.preflight.current_activity import SNAPSHOT_AGE, activity_problems, lock_reports
from runner.preflight.data_losses import loss_problems
from runner.preflight.disk_space import Disks, disk_problems
from runner.preflight.doctor import Demand, Examined, Level, examine
from runner.preflight.dry_run_result import DryRun
from runner.preflight.earlier_steps import NEW_LABEL
from runner.preflight.lock_checks import conflict_problems, read_locks
from runner.preflight.plan_statements import StatementChecker, StatementResults
from runner.preflight.schedule_forecast import forecast, schedule_problems, window_forecast, window_problems
from runner.preflight.step_durations import (
    MAX_RUNS,
    Durations,
    FirstOf,
    KnownDurations,
    MostRuns,
    from_ledger,
    usual_durations,
)
from runner.sql.relations import query_relations
from runner.structs import Struct, field, replace

#: Failed checks of the server that are errors only for some statements; they are reported as errors there.
_OF_STATEMENTS = frozenset({"JP507"})


def _server_problems(plan: Plan, examined: tuple[Examined, ...]) -> Iterator[Problem]:
    """Yield a problem for each failed check of the server, for the plan's needs."""
    capacity = {"workers", "parallel queries", "connections"}
    top = Position(file=plan.file, line=1, column=1)
    for one in examined:
        outcome, check = one.outcome, one.check
        if outcome.level not in {Level.WARNING, Level.ERROR}:
            continue
        certain = outcome.level is Level.ERROR and check.code not in _OF_STATEMENTS
        severity = Severity.ERROR if certain else Severity.WARNING
        position = plan.budget.position if check.name in capacity else top
        message = f"{check.name}: {outcome.found}; needed: {outcome.needed}"
        yield new_problem(check.code, message, position, hint=outcome.mend or None, severity=severity)


def _ledger_problems(plan: Plan, ignored: Iterable[str]) -> Iterator[Problem]:
    """Yield a problem for each ledger that is not trusted because of its owner."""
    for why in ignored:
        yield new_problem("JP515", why, Position(file=plan.file, line=1, column=1))


def _demand_of(plan: Plan) -> Demand:
    """Return the plan's needs."""
    return Demand(slots=plan.budget.slots, reserve=plan.budget.reserve, holds=bool(plan.holds))


async def _requirement_problems(plan: Plan, facts: ServerFacts, inspector: Inspector) -> AsyncIterator[Problem]:
    """Yield every requirement that is not met, except the plan's preconditions, which are statements."""
    top = Position(file=plan.file, line=1, column=1)
    for sentence in unmet_by_server(plan.requires, facts):
        yield new_problem("JP520", sentence, top)
    role = plan.requires.role
    if role is not None:
        rows = await inspector.rows("may_be", role)
        if not rows or rows[0][0] != "t":
            yield new_problem("JP520", not_a_member(facts.user, role), top)
    if plan.concurrency is not None:
        holders = await inspector.rows("group_held", plan.concurrency.group)
        for name, since in holders:
            waits = plan.concurrency.on_conflict is OnConflict.WAIT
            then = "a run would wait for it" if waits else "a run would fail at once"
            message = f"run {run_of(name or '')} holds the group {plan.concurrency.group} since {since}: {then}"
            yield new_problem("JP521", message, top)


#: The finding for a requirement that is not met.
_UNMET = "JP520"
#: Findings about the server with which a run would not start.
_REFUSING = frozenset({"JP501", "JP503", "JP504", "JP505", "JP506", "JP508", "JP510", _UNMET})


class DryRunOptions(Struct, frozen=True, kw_only=True):
    """The options of a dry run: with EXPLAIN or without, and which steps are left out.

    `assumed` durations take precedence; `durations` are those of this machine's journals.
    """

    explain: bool = True
    left_out: frozenset[str] = frozenset()
    assumed: Durations = field(default_factory=lambda: KnownDurations({}))
    durations: KnownDurations = field(default_factory=lambda: KnownDurations({}))
    #: Budgets to compare, in slots.
    what_if: tuple[int, ...] = ()
    #: Roles whose ledger is trusted, besides the session's own role and superusers.
    trusted_roles: tuple[str, ...] = ()
    #: The offline findings, which are part of the report.
    found: tuple[Problem, ...] = ()
    #: False if the plan is a draft: it has no schedule and no search for conflicting steps.
    well_formed: bool = True


#: Offline findings about locks, which are computed again on real relations.
_OF_LOCKS = frozenset({"JP401", "JP402", "JP403"})


def readable_draft(draft: Plan) -> Plan:
    """Return a malformed plan so that its SQL can be checked: each id once, and only possible needs."""
    final = {step.id for step in draft.finally_}
    ordered = _with_possible_needs(draft.all_steps)
    return replace(
        draft,
        steps=tuple(step for step in ordered if step.id not in final),
        finally_=tuple(step for step in ordered if step.id in final),
    )


def _with_possible_needs(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Return each id once, without needs of unknown steps and in cycles; in the chain of a group, too."""
    first = {step.id: step for step in reversed(steps)}
    needs = {
        name: tuple(need for need in step.needs if need.step in first and need.step != name)
        for name, step in first.items()
    }
    while cycles := find_cycles({name: [need.step for need in found] for name, found in needs.items()}):
        needs.update((name, ()) for cycle in cycles for name in cycle)
    kept = (step for step in steps if step is first[step.id])
    return tuple(replace(step, needs=needs[step.id], steps=_with_possible_needs(step.steps)) for step in kept)


def _together(found: Sequence[Problem], problems: Sequence[Problem]) -> list[Problem]:
    """Return offline findings and those of the server, without offline findings that the server's replace."""
    errors = [one for one in found if one.severity is Severity.ERROR]
    places = {one.position for one in errors}
    unreadable = {one.step for one in errors if one.code.startswith(("JP2", "JP30")) and one.step is not None}
    codes = {one.code for one in problems}
    certain = {one.step for one in problems if one.code == NEW_LABEL}
    kept = [
        one
        for one in found
        if not (one.code in _OF_LOCKS and one.code in codes) and not (one.code == NEW_LABEL and one.step in certain)
    ]
    said = [one for one in problems if one.code != "JP606" or not (one.step in unreadable or one.position in places)]
    return [*kept, *said]


async def dry_run(plan: Plan, inspector: Inspector, options: DryRunOptions) -> DryRun:
    """Check a plan on a server. PreflightError if the server cannot be checked at all."""
    facts = await inspector.facts()
    examined = examine(facts, _demand_of(plan))
    problems = list(_server_problems(plan, examined))
    problems += [one async for one in _requirement_problems(plan, facts, inspector)]
    (directory,) = await inspector.rows("data_directory") or ((None,),)
    disks = Disks(directory[0], inspector.host)
    written = written_out(plan)
    left_out = options.left_out | {step.id for step in written_steps(plan) if step.group in options.left_out}
    checker = StatementChecker(written, inspector, disks, explain=options.explain, read_only=facts.read_only)
    results = await checker.check(left_out=left_out)
    locks = read_locks(results.units)
    problems += conflict_problems(plan, locks, Sources()) if options.well_formed else ()
    held, snapshots = await inspector.activity(), await inspector.snapshots(SNAPSHOT_AGE)
    problems += activity_problems(written, locks, held, snapshots)
    problems += disk_problems(results.units, disks)
    problems += loss_problems(plan, results.units, options.found, Sources())
    ledger = from_ledger(await inspector.recorded(plan.name, MAX_RUNS, options.trusted_roles))
    problems += _ledger_problems(plan, inspector.ignored_ledgers)
    durations = FirstOf([options.assumed, MostRuns([ledger, options.durations])])
    schedule = None
    if options.well_formed:
        schedule = forecast(plan, durations, rows=results.rows, left_out=options.left_out, slots=options.what_if)
        problems += schedule_problems(plan, schedule, durations)
    window = None
    if options.well_formed and plan.window is not None:
        (server_time,) = await inspector.rows("now")
        usual = usual_durations(plan, [ledger, options.durations])
        window = window_forecast(
            plan,
            plan.window,
            durations,
            usual,
            rows=results.rows,
            left_out=options.left_out,
            server_time=float(server_time[0] or 0.0),
        )
        problems += window_problems(plan, window, usual)
    problems = _together(options.found, [*problems, *results.problems])
    unmet = any(one.code == _UNMET for one in problems)
    skipped = unmet and plan.requires.otherwise is Otherwise.SKIP and not results.unevaluated
    if skipped:
        lighter = partial(dataclasses.replace, severity=Severity.WARNING)
        problems = [lighter(one) if one.code == _UNMET else one for one in problems]
    return DryRun(
        plan=plan.name,
        file=plan.file,
        facts=facts,
        server=examined,
        problems=worst_first(problems),
        statements=tuple(results.reports),
        locks=lock_reports(written, locks, durations),
        schedule=schedule,
        holds=tuple(results.holds),
        iterations=tuple(filter(None, (outlook(step, plan.values) for step in plan.all_steps))),
        window=window,
        refused=unmet or any(one.severity is Severity.ERROR and one.code in _REFUSING for one in problems),
        unmet=unmet,
        skipped=skipped,
        relations=tuple(_named(results).values()),
    )


def _named(results: StatementResults) -> dict[str, RelationFacts]:
    """Return the existing relations that statements name, by their full names."""
    found = (
        view.context.relations.get(use.relation)
        for unit, view in results.units
        for use in query_relations(unit.statement)
    )
    return {str(facts.relation): facts for facts in found if facts is not None}


def worst_first(problems: list[Problem]) -> tuple[Problem, ...]:
    """Return each problem once: errors first, and the server's before the plan's."""

    def place(problem: Problem) -> tuple[bool, bool, Position]:
        return problem.severity is not Severity.ERROR, not problem.code.startswith("JP5"), problem.position

    return tuple(sorted(dict.fromkeys(problems), key=place))
