"""What a plan requires of the server, and whether another run is in its way; nothing is taken, nothing is written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from runner.errors import Position, Problem, Severity
from runner.gateway.facts import ServerFacts
from runner.gateway.inspection import Inspector
from runner.identity import run_of
from runner.plan.model import OnConflict, Plan
from runner.preflight.finding import problem
from runner.preflight.requirements import not_a_member, unmet_by_server
from runner.preflight.server import Demand, Examined, Level


def server_problems(plan: Plan, examined: tuple[Examined, ...]) -> Iterator[Problem]:
    """Yield a problem for each check of the server that is not well, for as much as the plan wants of it."""
    capacity = {"workers", "parallel queries", "connections"}
    top = Position(file=plan.file, line=1, column=1)
    for one in examined:
        outcome, check = one.outcome, one.check
        if outcome.level not in {Level.WARNING, Level.ERROR}:
            continue
        severity = Severity.ERROR if outcome.level is Level.ERROR else Severity.WARNING
        position = plan.budget.position if check.name in capacity else top
        message = f"{check.name}: {outcome.found}; needed: {outcome.needed}"
        yield problem(check.code, message, position, hint=outcome.mend or None, severity=severity)


def ledger_problems(plan: Plan, ignored: Iterable[str]) -> Iterator[Problem]:
    """Yield a problem for each ledger that is not read because of its owner."""
    for why in ignored:
        yield problem("JP515", why, Position(file=plan.file, line=1, column=1))


def demand_of(plan: Plan) -> Demand:
    """Return what the plan wants of the server."""
    return Demand(slots=plan.budget.slots, reserve=plan.budget.reserve)


async def requirement_problems(plan: Plan, facts: ServerFacts, inspector: Inspector) -> AsyncIterator[Problem]:
    """Yield every requirement that does not hold, but for the plan's own preconditions, which are statements."""
    top = Position(file=plan.file, line=1, column=1)
    for sentence in unmet_by_server(plan.requires, facts):
        yield problem("JP520", sentence, top)
    role = plan.requires.role
    if role is not None:
        rows = await inspector.rows("may_be", role)
        if not rows or rows[0][0] != "t":
            yield problem("JP520", not_a_member(facts.user, role), top)
    if plan.concurrency is not None:
        holders = await inspector.rows("group_held", plan.concurrency.group)
        for name, since in holders:
            waits = plan.concurrency.on_conflict is OnConflict.WAIT
            then = "a run would wait for it" if waits else "a run would fail at once"
            message = f"run {run_of(name or '')} holds the group {plan.concurrency.group} since {since}: {then}"
            yield problem("JP521", message, top)
