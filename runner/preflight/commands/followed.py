"""What is right now, and surely fails after what earlier steps do: a column, key or function that is gone by then."""

from __future__ import annotations

from collections.abc import Iterator

from runner.errors import Severity
from runner.gateway.catalog import RelationFacts
from runner.preflight.finding import Finding
from runner.preflight.made import When
from runner.preflight.seen import Sight, State
from runner.preflight.texts import Unit
from runner.sql.alterations import Aspect
from runner.sql.columns import column_uses, conflict_columns, default_constants, regclass_constants
from runner.sql.facts import functions_called
from runner.sql.kinds import StatementKind
from runner.sql.mentions import defines, type_names
from runner.sql.objects import Action, Sort
from runner.sql.relations import Relation, query_relations

#: The rule about new enum values; here it is certain that the constant is of the type.
NEW_LABEL = "JP322"


def check_gone(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield what a query names and an earlier step surely drops or renames."""
    if not sight.step or sight.computed:
        return
    yield from _columns(unit, sight)
    yield from _arbiters(unit, sight)
    yield from _types(unit, sight)
    yield from _functions(unit, sight)
    for relation, offset in regclass_constants(unit.statement):
        seen = sight.relation(relation)
        if seen.state is State.GONE and seen.made is not None:
            yield Finding(code="JP604", message=f"{relation} is {seen.made.told}", offset=offset)


_READS_ROWS = frozenset(
    {
        *(StatementKind.SELECT, StatementKind.SELECT_INTO, StatementKind.INSERT, StatementKind.UPDATE),
        *(StatementKind.DELETE, StatementKind.MERGE),
    }
)


def check_filled(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """A materialized view that was never filled cannot be read; EXPLAIN does not say so."""
    for use in query_relations(unit.statement) if unit.statement.kind in _READS_ROWS else ():
        facts = sight.relation(use.relation).facts
        if facts is not None and facts.kind == "m" and not facts.populated:
            message = f"{use.relation} has never been filled, and cannot be read"
            hint = f"REFRESH MATERIALIZED VIEW {use.relation};"
            yield Finding(code="JP615", message=message, offset=use.offset, hint=hint)


def _columns(unit: Unit, sight: Sight) -> Iterator[Finding]:
    facts = {use.relation: sight.relation(use.relation).facts for use in query_relations(unit.statement)}
    for use in column_uses(unit.statement):
        table = facts.get(use.relation)
        if table is None or use.name not in table.columns:
            continue
        made = sight.part(Sort.COLUMN, use.name, table.relation)
        if made is None or made.change.action is not Action.DROP or made.when is not When.BEFORE:
            continue
        if use.alone and not _is_alone(use.relation, use.name, facts):
            continue
        message = f"the column {Relation(None, use.name)} of {use.relation} is {made.told}"
        yield Finding(code="JP604", message=message, offset=use.offset)


def _is_alone(relation: Relation, name: str, facts: dict[Relation, RelationFacts | None]) -> bool:
    """Return whether no other relation of the query has a column of this name, now or later."""
    others = [table for other, table in facts.items() if other != relation]
    return all(table is not None and name not in table.columns for table in others)


def _arbiters(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """ON CONFLICT needs a unique index on its columns, or its constraint."""
    found = conflict_columns(unit.statement)
    writes = [use for use in query_relations(unit.statement) if use.use.name == "WRITE"]
    table = sight.relation(writes[0].relation).facts if found is not None and writes else None
    if found is None or table is None:
        return
    columns, constraint = found
    added = any(
        one.alteration.aspect is Aspect.KEY and not one.alteration.removes
        for one in sight.altered(frozenset({table.relation}))
    )
    if constraint:
        gone = sight.part(Sort.CONSTRAINT, constraint, table.relation)
        if gone is not None and gone.change.action is Action.DROP and gone.when is When.BEFORE:
            message = f"the constraint {Relation(None, constraint)} of {table.relation} is {gone.told}"
            yield Finding(code="JP604", message=message, offset=unit.statement.start)
        return
    fitting = [index for index in table.indexes if index.unique and index.plain and index.columns == columns]
    drops = [_dropped(index.relation, table.relation, sight) for index in fitting]
    if fitting and all(drops) and not added:
        message = f"the unique index that ON CONFLICT ({', '.join(sorted(columns))}) needs is {drops[0]}"
        yield Finding(code="JP604", message=message, offset=unit.statement.start)


def _dropped(index: Relation, table: Relation, sight: Sight) -> str | None:
    """Return how an earlier step surely drops an index, or the constraint of its name."""
    for made in (sight.dropped(index), sight.part(Sort.CONSTRAINT, index.name, table)):
        gone = made is not None and made.change.action is Action.DROP and made.change.kind != "renamed"
        if gone and made is not None and made.when is When.BEFORE:
            return made.told
    return None


def _types(unit: Unit, sight: Sight) -> Iterator[Finding]:
    if defines(unit.statement):  # its types are looked up in the catalog
        return
    for name, offset in type_names(unit.statement):
        made = sight.part(Sort.TYPE, name.name)
        gone = made is not None and made.change.action is Action.DROP and made.when is When.BEFORE
        if gone and made is not None and made.change.relation == name:
            yield Finding(code="JP604", message=f"the type {name} is {made.told}", offset=offset)


def _functions(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """A function that is dropped is missing only if no other one has its name."""
    for call in functions_called(unit.statement):
        own = sight.around.functions.get(call.name, ())
        if call.schema is not None or len(own) != 1 or sight.around.builtin.get(call.name):
            continue
        gone = [
            one
            for one in sight.altered(())
            if one.alteration.aspect is Aspect.FUNCTION and call.name in {one.alteration.old, one.alteration.name}
        ]
        if len(gone) == 1 and gone[0].alteration.old == call.name and sight.surely(gone[0]):
            message = f"the function {call.name}() is dropped, renamed or moved by step `{gone[0].step}`"
            yield Finding(code="JP604", message=message, offset=call.offset)


def new_label(unit: Unit, sight: Sight, value: str) -> Finding | None:
    """Return the finding if a label was added to an enum in this transaction and cannot be used yet (55P04)."""
    for one in sight.altered(()):
        enum = one.alteration.name
        if one.alteration.value != value or one.step != sight.step or not sight.surely(one):
            continue
        created = sight.part(Sort.TYPE, enum)
        if created is not None and created.step == sight.step and created.change.action is Action.CREATE:
            continue
        message = f"'{value}' is added to the type {enum} in the same transaction, and cannot be used in it"
        hint = "add the value in a step of its own"
        return Finding(code=NEW_LABEL, message=message, offset=unit.statement.start, hint=hint, severity=Severity.ERROR)
    return None


def check_new_labels(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """A label that is added to an enum cannot become a default before its transaction has ended."""
    for constant in default_constants(unit.statement):
        for one in sight.altered(()):
            enum, value = one.alteration.name, one.alteration.value
            if value != constant.value or one.step != sight.step or (enum, value) in sight.around.labels:
                continue
            of_type = constant.type == enum or _is_of(constant.relation, constant.column, enum, sight)
            finding = new_label(unit, sight, value) if of_type else None
            if finding is not None:
                yield finding


def _is_of(relation: Relation | None, column: str, enum: str, sight: Sight) -> bool:
    facts = sight.relation(relation).facts if relation is not None else None
    return facts is not None and facts.types.get(column, "").rpartition(".")[2].strip('"') == enum
