"""Data that a plan destroys on this database although its text reads as if the plan had created the table.

The offline rule leaves out what the plan creates, by name. The catalog shows what a name means: a table of another
schema, or one that exists and that the plan does not replace before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from runner.codes import new_problem
from runner.errors import Problem
from runner.lint import RULES
from runner.lint.suppressions import Sources, without_ignored
from runner.plan.model import Plan
from runner.preflight.catalog_state import CatalogView, State
from runner.preflight.sql_units import Unit
from runner.sql.catalog_changes import Action, changes
from runner.sql.relations import Relation
from runner.sql.statement_effects import losses
from runner.sql.statements import StatementKind
from runner.sql.unfiltered_writes import unfiltered_writes

#: The rule about lost tables and columns, and the rule about changes of every row.
_LOST, _EVERY_ROW = "JP353", "JP352"
_TABLES = frozenset("rpmf")
_WRITES = frozenset({StatementKind.UPDATE, StatementKind.DELETE, StatementKind.MERGE})


def loss_problems(
    plan: Plan, units: Sequence[tuple[Unit, CatalogView]], found: Collection[Problem], sources: Sources
) -> tuple[Problem, ...]:
    """Return losses of tables that exist, except those that the offline rules report and that comments ignore."""
    known = {(one.code, one.step) for one in found}
    created = {
        change.relation.name
        for unit, _ in units
        for change in changes(unit.statement)
        if change.action is Action.CREATE and change.relation is not None
    }
    problems = [
        one for unit, catalog in units for one in _of_unit(unit, catalog, created) if (one.code, one.step) not in known
    ]
    kept = without_ignored(dict.fromkeys(problems), plan, sources, [rule.code for rule in RULES])
    return tuple(one for one in kept if one.code in {_LOST, _EVERY_ROW})


def _of_unit(unit: Unit, catalog: CatalogView, created: Collection[str]) -> Iterator[Problem]:
    if unit.step is None or unit.key != "sql":
        return
    if unit.statement.kind in _WRITES:
        for use in unfiltered_writes(unit.statement):
            table = _there(use.relation, catalog) if use.relation.name in created else None
            if table is not None:
                message = f"the statement changes every row of {table}, which exists: {use.why}"
                yield new_problem(_EVERY_ROW, message, unit.position(use.offset), hint=use.hint, step=unit.step.id)
        return
    for loss in losses(unit.statement):
        own = loss.relation is not None and loss.relation.name in created
        table = _there(loss.relation, catalog) if own and loss.relation is not None else None
        if table is not None:
            message = f"{loss.what}; the table {table} exists"
            hint = "if that is intended, add a comment to the step: `# jobplan: ignore=JP353`"
            yield new_problem(_LOST, message, unit.position(), hint=hint, step=unit.step.id)


def _there(relation: Relation, catalog: CatalogView) -> Relation | None:
    """Return the table of others that the statement finds under a name, None if there is none."""
    seen = catalog.relation(relation)
    if seen.state is not State.THERE or seen.facts is None or seen.facts.kind not in _TABLES:
        return None
    return seen.facts.relation
