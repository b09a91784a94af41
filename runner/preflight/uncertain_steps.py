"""Whether a step certainly runs and must succeed. What is wrong with another step is a risk, and not an error.

A step may be left out because it waits for a failure, because its `if` may have another answer when it starts, or
because its list may have other items then; and the plan may allow the failure of a step.
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.plan.graph import topological_order
from runner.plan.model import NeedOn, Plan, Step
from runner.preflight.sql_units import StatementFinding
from runner.sql.alter_table import AlterKind, alter_actions
from runner.sql.catalog_changes import CREATES, EXTENSION, Action, Sort, changes
from runner.sql.function_calls import functions_called
from runner.sql.relations import query_relations
from runner.sql.statements import Statement, StatementKind

_K = StatementKind
#: Code of a finding → the SQLSTATEs with which the statement would fail; a code that is not here may be any.
_STATES: Mapping[str, frozenset[str]] = {
    "JP522": frozenset({"22023", "42501", "42704"}),
    "JP601": frozenset({"42P01", "3F000", "42704"}),
    "JP602": frozenset({"42703", "42704"}),
    "JP603": frozenset({"42883", "42704"}),
    "JP604": frozenset({"42P01", "3F000", "42703", "42704", "42883", "42P10"}),
    "JP607": frozenset({"42809"}),
    "JP608": frozenset({"42P06", "42P07", "42701", "42710", "42723"}),
    "JP609": frozenset({"2BP01", "0A000"}),
    "JP610": frozenset({"42501"}),
    "JP614": frozenset({"42P07"}),
    "JP615": frozenset({"55000"}),
    "JP621": frozenset({"42704"}),
    "JP622": frozenset({"42704"}),
}


def after_a_failure(plan: Plan) -> frozenset[str]:
    """Return the steps that run only if another step fails, and those that need one of them to succeed."""
    steps = {step.id: step for step in plan.all_steps}
    found: set[str] = set()
    for name in topological_order({name: [need.step for need in step.needs] for name, step in steps.items()}):
        for need in steps[name].needs:
            if need.on is NeedOn.FAILURE or (need.on is NeedOn.SUCCESS and need.step in found):
                found.add(name)
    return frozenset(found)


def may_not_happen(step: Step) -> bool:
    """Return whether the plan continues without what the step does."""
    listed = step.for_each is not None and step.for_each.sql is not None
    return step.if_ is not None or bool(step.allow_failure) or listed


def may_change(query: Statement) -> bool:
    """Return whether other statements may change what a query gives: it reads a relation, or calls a function."""
    return bool(query_relations(query)) or next(iter(functions_called(query)), None) is not None


def may_remove(statement: Statement) -> bool:
    """Return whether a statement may make the list of a query shorter: it drops, moves, detaches or changes rows."""
    found = changes(statement)
    opaque = any(one.sort is Sort.ANYTHING and one.kind not in {CREATES, EXTENSION} for one in found)
    detaches = any(action.kind in _DETACHES for action in alter_actions(statement))
    return statement.kind in _CHANGE_ROWS or opaque or detaches or any(one.action is Action.DROP for one in found)


_CHANGE_ROWS = frozenset({_K.UPDATE, _K.DELETE, _K.MERGE, _K.TRUNCATE})
_DETACHES = frozenset({AlterKind.DETACH_PARTITION, AlterKind.DETACH_PARTITION_CONCURRENTLY, AlterKind.NO_INHERIT})


def is_allowed(step: Step | None, finding: StatementFinding) -> bool:
    """Return whether the plan allows, or may allow, the step to fail with this finding."""
    if step is None or step.allow_failure is None:
        return False
    allowed = step.allow_failure.sqlstates
    states = _STATES.get(finding.code) if finding.sqlstate is None else {finding.sqlstate}
    return allowed is None or states is None or not allowed.isdisjoint(states)
