"""Rules about the carried values and the adapted parameter of a repeated step."""

from __future__ import annotations

from collections.abc import Iterator

from runner.lint.rule import Finding, Rule, StatementPlace
from runner.plan.parsed_sql import Subject
from runner.sql.carried_rows import can_be_extended, can_store, has_order
from runner.sql.returned_rows import column_names, no_rows_to_read, rows_out_of_reach
from runner.sql.statements import StatementKind
from runner.sql.transactions import row_may_come_first

_WRAP = "write `WITH batch AS (… RETURNING id) SELECT max(id) AS {} FROM batch`"


def _carrying(subject: Subject) -> Iterator[tuple[StatementPlace, tuple[str, ...]]]:
    """Yield the last statement of each step with carried values, and the names of those."""
    for step in subject.steps:
        if step.step.repeat is not None and step.step.repeat.carry and step.statements:
            yield StatementPlace(step, step.statements[-1]), tuple(step.step.repeat.carry)


def _why_unreadable(place: StatementPlace) -> str | None:
    """Return why no carried value can be read from the last statement; None if one can."""
    last = place.statement
    reason = no_rows_to_read(last) or rows_out_of_reach(last)
    if reason is not None:
        return reason
    if last.kind is StatementKind.CALL or can_be_extended(place.step.statements, place.text):
        return None
    return f"{last.kind} cannot be part of another query"


def _not_returned(subject: Subject) -> Iterator[Finding]:
    for place, names in _carrying(subject):
        hint = _WRAP.format(names[0])
        reason = _why_unreadable(place)
        if reason is not None:
            yield place.finding(f"`carry` needs a last statement that returns `{names[0]}`, and {reason}", hint=hint)
            continue
        columns = column_names(place.statement)
        for name in names if columns is not None else ():
            found = (columns or ()).count(name)
            if found == 0:
                shown = ", ".join(f"`{column}`" for column in (columns or ())[:5])
                message = f"the last statement returns no column `{name}`, which `carry` needs; it returns {shown}"
                yield place.finding(message, hint=f"write `… AS {name}`")
            elif found > 1:
                message = f"the last statement returns {found} columns `{name}`; `carry` needs one"
                yield place.finding(message, hint="rename the others")


def _without_order(subject: Subject) -> Iterator[Finding]:
    for place, names in _carrying(subject):
        if _why_unreadable(place) is not None or has_order(place.statement):
            continue
        listed = ", ".join(names)
        if place.statement.kind is StatementKind.SELECT:
            message = f"`carry` takes `{listed}` from the last row, and these rows have no order"
            hint = f"add a top-level ORDER BY, or return one row: `SELECT max(id) AS {names[0]} …`"
        else:
            message = f"`carry` takes `{listed}` from the last row, and the rows of RETURNING have no order"
            hint = _WRAP.format(names[0])
        yield place.finding(message, hint=hint)


def _may_be_lost(subject: Subject) -> Iterator[Finding]:
    for place, _ in _carrying(subject):
        step = place.step
        if step.step.idempotent or step.step.verify is not None or _why_unreadable(place) is not None:
            continue
        if can_store(step.statements, place.text) and row_may_come_first(step.statements):
            continue
        message = (
            "the values that this step carries cannot be stored in its own transaction: an iteration whose end is not "
            "observed is `unknown`"
        )
        hint = "add `idempotent: true` if a second run of a batch does no harm, or end the step with a query"
        yield place.finding(message, hint=hint)


def _unused(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        repeat = step.step.repeat
        if repeat is None or step.template is None or not step.statements:
            continue
        used = {reference.name for reference in step.template.references}
        place = StatementPlace(step, step.statements[0])
        for name in repeat.carry:
            if name not in used:
                message = f"`{name}` is carried from one iteration to the next, and the SQL does not use it"
                yield place.finding(message, hint=f"write :{name} where the batch begins, or remove it")
        if repeat.adapt is not None and repeat.adapt.param not in used:
            message = f"`adapt` changes `{repeat.adapt.param}`, and the SQL does not use it"
            yield place.finding(message, hint=f"write `LIMIT :{repeat.adapt.param}`, or remove `adapt`")


RULES = (
    Rule(code="JP390", check=_not_returned),
    Rule(code="JP391", check=_without_order),
    Rule(code="JP392", check=_may_be_lost),
    Rule(code="JP393", check=_unused),
)
