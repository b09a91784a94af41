"""How previous steps of the plan change the result of a check: what they may fix, and what they may break.

The server answers for the catalog as it is now. If a previous step alters something that the answer depends on, the
answer is not valid for the run: the statement is not checkable, and not an error. Conversely, a statement that is valid
now is only partly checked if a previous step may break it, and an error if a column, key or function is certainly
dropped before it runs.
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.errors import Severity
from runner.gateway.catalog import RelationFacts
from runner.preflight.catalog_state import Altered, CatalogView, State
from runner.preflight.sql_units import MADE_UP, StatementFinding, Unit
from runner.sql.alter_table import alter_actions
from runner.sql.catalog_changes import Action, Sort, changes
from runner.sql.catalog_needs import defines, needed, type_names
from runner.sql.command_objects import created_relations
from runner.sql.definition_changes import Alteration, Aspect, fires_event_triggers
from runner.sql.function_calls import functions_called
from runner.sql.relations import (
    Relation,
    column_uses,
    conflict_columns,
    default_constants,
    has_star,
    inserts_by_position,
    query_relations,
    regclass_constants,
    selects_fields,
    words,
)
from runner.sql.statements import StatementKind

_A = Aspect
_K = StatementKind

#: SQLSTATE or code of a finding → what it depends on; other findings depend on anything.
_DEPENDS: dict[str, frozenset[Aspect]] = {
    "42501": frozenset({_A.PRIVILEGE, _A.ROLE, _A.SETTING}),
    "JP610": frozenset({_A.PRIVILEGE, _A.ROLE, _A.SETTING}),
    "42P10": frozenset({_A.KEY, _A.CONSTRAINT, _A.COLUMN, _A.PARTITION, _A.INHERITANCE}),
    "42703": frozenset({_A.COLUMN, _A.TYPE, _A.FUNCTION, _A.INHERITANCE, _A.EXTENSION, _A.PARTITION}),
    "JP602": frozenset({_A.COLUMN, _A.CONSTRAINT, _A.KEY, _A.ATTACHED, _A.INHERITANCE, _A.PARTITION}),
    "42883": frozenset({_A.FUNCTION, _A.OPERATOR, _A.TYPE, _A.COLUMN, _A.EXTENSION, _A.OBJECT}),
    "42P01": frozenset({_A.EXTENSION}),
    "JP601": frozenset({_A.EXTENSION}),
    "3F000": frozenset({_A.EXTENSION}),
    "JP604": frozenset(),
    "JP605": frozenset({_A.COLUMN, _A.FUNCTION, _A.TYPE}),
    "JP608": frozenset({_A.CONSTRAINT, _A.KEY, _A.COLUMN, _A.ATTACHED, _A.OBJECT, _A.DEPENDENTS}),
    "JP609": frozenset(
        {_A.DEPENDENTS, _A.CONSTRAINT, _A.KEY, _A.RELATION, _A.COLUMN, _A.PARTITION, _A.ATTACHED, _A.INHERITANCE}
    ),
    "JP522": frozenset({_A.PRIVILEGE, _A.ROLE}),
    "JP523": frozenset({_A.EXTENSION}),
    "JP614": frozenset({_A.VALIDITY, _A.KEY}),
    "JP615": frozenset({_A.FILLING, _A.KEY}),
    "JP618": frozenset({_A.PARTITION}),
    "JP621": frozenset({_A.ROLE}),
}
#: How the messages of the scanner and the grammar begin.
_UNREAD = ("syntax error", "trailing junk", "invalid binary integer", "invalid octal integer", "invalid hexadecimal")
#: Aspects that matter only where the statement has the name in it.
_NAMED = frozenset({_A.FUNCTION, _A.OBJECT, _A.ATTACHED})
_EVERYTHING = frozenset(_A) - {_A.PRIVILEGE, _A.CURSOR}
#: What runs while a cursor of the same step is open on its tables.
_BESIDE_CURSORS = frozenset({_K.SELECT, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.DECLARE_CURSOR, _K.LOCK})


#: What may be refused because of what is published of a table.
_NEED_IDENTITY = frozenset({_K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.ALTER_TABLE, _K.DROP_INDEX})


def is_syntax_error(sqlstate: str, message: str) -> bool:
    """Return whether the server could not read the text; in class 42601 are other errors too."""
    return sqlstate == "42601" and message.startswith(_UNREAD)


def doubt(unit: Unit, catalog: CatalogView, reason: str, message: str) -> str | None:
    """Return why an error that the server or the catalog reports now is not certain, None if it is.

    `reason` is its SQLSTATE or the code of the finding.
    """
    if MADE_UP in message:
        return "it depends on the item of for_each, which is not known before the step runs"
    if reason == "JP607" or is_syntax_error(reason, message):
        return None
    computed = catalog.computed & {"search_path", "role"}
    if computed:
        return f"the step gives {min(computed)} a value that is known only when it runs"
    found = _relevant(unit, catalog, _DEPENDS.get(reason, _EVERYTHING), message)
    return found.words if found is not None else None


def breakable(unit: Unit, catalog: CatalogView) -> Iterator[str]:
    """Yield what previous steps alter so that a statement that is valid now may fail when it runs."""
    relations = _relations_of(unit, catalog)
    if "role" in catalog.computed:
        yield "the role of the step is known only when it runs"
    if dict(unit.settings).get("transaction_read_only", "off").lower() in {"on", "true", "yes", "1"}:
        yield "the step has made its transaction READ ONLY, in which only running it shows whether it writes"
    yield from _rights_on_new(unit, catalog)
    for one in catalog.altered(relations):
        alteration = one.alteration
        removes = alteration.removes or alteration.aspect is _A.COLUMN
        if removes and (_may_break(alteration, one, unit, catalog) or _loses_identity(alteration, unit, catalog)):
            yield f"{one.words}: only running it shows the result"
    if selects_fields(unit.statement):  # of rows whose type the text does not show
        named = words(unit.sql)
        for one in catalog.altered_columns():
            if one.alteration.removes and (one.alteration.old or one.alteration.name) in named:
                yield f"{one.words}: only running it shows the result"
    for relation in relations:
        made = catalog.dropped_perhaps(relation)
        if made is not None and catalog.relation(relation).state is State.THERE:
            yield f"{relation} is {made.words}, if that step runs before it"


def _rights_on_new(unit: Unit, catalog: CatalogView) -> Iterator[str]:
    """Yield new schemas and types of other steps in which, or with which, the statement creates something."""
    if catalog.context.superuser or not catalog.step:
        return
    schemas = {
        catalog.new_place(change.relation).schema or ""
        for change in changes(unit.statement)
        if change.action is Action.CREATE and change.sort is Sort.RELATION and change.relation is not None
    }
    new = [(f"the schema {Relation(None, name)}", catalog.schema(name)[1]) for name in sorted(schemas)]
    if defines(unit.statement):
        new += [(f"the type {name}", catalog.part(Sort.TYPE, name.name)) for name, _ in type_names(unit.statement)]
    for what, made in new:
        if made is not None and made.creates:
            yield f"{what} is {made.words}: its privileges are known only when it runs"


def _relevant(unit: Unit, catalog: CatalogView, aspects: frozenset[Aspect], message: str) -> Altered | None:
    if not aspects:
        return None
    for one in catalog.altered(_relations_of(unit, catalog)):
        alteration = one.alteration
        if alteration.aspect not in aspects and alteration.aspect is not _A.SETTING:
            continue
        if alteration.aspect in _NAMED and alteration.name and not _names(unit, alteration):
            continue
        if alteration.aspect is _A.COLUMN and not _could_mend(alteration, message):
            continue
        if alteration.aspect is _A.SETTING and one.step == catalog.step:
            continue
        if alteration.aspect is _A.KEY and "never been filled" in message:
            continue
        if alteration.aspect is _A.FILLING and "unique index" in message:
            continue
        if aspects == {_A.PARTITION} and not any(name in message for name in {alteration.name, alteration.old} - {""}):
            continue
        return one
    return None


def _could_mend(alteration: Alteration, message: str) -> bool:
    """Return whether the alteration matters: a change of another column does not matter to a missing name."""
    missing = "does not exist" in message or " has no column " in message
    return not (missing and alteration.name and alteration.name not in message and "column" in message)


def _may_break(alteration: Alteration, one: Altered, unit: Unit, catalog: CatalogView) -> bool:
    aspect, named = alteration.aspect, _names(unit, alteration)
    if aspect is _A.COLUMN:
        return _column_may_break(alteration, unit, named=named)
    if aspect in {_A.KEY, _A.CONSTRAINT}:
        # A foreign key of another table, which has no name here, keeps the table from being emptied or dropped.
        referred = not alteration.name and unit.statement.kind in {_K.TRUNCATE, _K.DROP_TABLE}
        return named or referred or bool(words(unit.sql) & {"conflict", "references", "group"})
    if aspect is _A.SEQUENCES:
        return _uses_sequence(unit, catalog)
    if aspect is _A.ATTACHED and not alteration.name:
        return bool(words(unit.sql) & {"trigger", "rule", "policy"})
    if aspect in {_A.PARTITION, _A.INHERITANCE}:
        return unit.statement.kind not in {_K.SELECT, _K.UPDATE, _K.DELETE, _K.VACUUM, _K.ANALYZE}
    always = {
        _A.CURSOR: one.step == catalog.step and unit.statement.kind not in _BESIDE_CURSORS,
        _A.ROLE: named or alteration.name == catalog.context.role,
        _A.PRIVILEGE: not catalog.context.superuser,
        _A.SETTING: one.step != catalog.step,
        _A.EVENTS: fires_event_triggers(unit.statement),
        _A.PUBLISHED: unit.statement.kind in _NEED_IDENTITY,
        **dict.fromkeys((_A.FILLING, _A.CLUSTERING, _A.RELATION, _A.OPERATOR, _A.DEPENDENTS), True),
    }
    return always.get(aspect, named)


def _loses_identity(alteration: Alteration, unit: Unit, catalog: CatalogView) -> bool:
    """Return whether the table loses a unique index: a published table needs one for UPDATE and DELETE."""
    if unit.statement.kind not in {_K.UPDATE, _K.DELETE, _K.MERGE} or alteration.aspect not in {_A.KEY, _A.COLUMN}:
        return False
    facts = catalog.context.relations.get(alteration.relation) if alteration.relation is not None else None
    renamed = alteration.name and alteration.old and alteration.name != alteration.old
    if facts is None or not alteration.removes or renamed:
        return False
    gone = {alteration.name, alteration.old} - {""}
    unique = [index for index in facts.indexes if index.unique]
    if alteration.aspect is _A.KEY:
        return any(index.relation.name in gone for index in unique)
    return any(alteration.old and alteration.old in index.columns for index in unique)


def _column_may_break(alteration: Alteration, unit: Unit, *, named: bool) -> bool:
    """Return whether a changed column matters: a new one to `*`, others also to statements that name them."""
    if alteration.relation is None:  # whatever columns CASCADE drops
        return alteration.removes
    positional = inserts_by_position(unit.statement)
    star = has_star(unit.statement) and unit.statement.kind is not _K.SELECT
    return positional or star or (alteration.removes and named)


def _uses_sequence(unit: Unit, catalog: CatalogView) -> bool:
    """Return whether a statement names a sequence, also in a string constant such as that of nextval()."""
    named = {use.relation for use in query_relations(unit.statement)} | {one.relation for one in needed(unit.statement)}
    named |= {relation for relation, _ in regclass_constants(unit.statement)}
    facts = (catalog.context.relations.get(relation) for relation in named)
    return any(one is not None and one.kind == "S" for one in facts)


def _names(unit: Unit, alteration: Alteration) -> bool:
    """Return whether the statement has a name of the alteration in it."""
    return bool(({alteration.name, alteration.old, alteration.value} - {""}) & words(unit.sql))


def _relations_of(unit: Unit, catalog: CatalogView) -> frozenset[Relation]:
    """Return the relations that a statement depends on: those that it names, and those behind views."""
    statement = unit.statement
    named = {use.relation for use in query_relations(statement)}
    named |= {one.relation for one in needed(statement)}
    named |= {action.other for action in alter_actions(statement) if action.other is not None}
    named |= {catalog.new_place(relation) for relation in created_relations(statement)}
    found = set(named)
    for relation in named:
        facts = catalog.context.relations.get(relation)
        if facts is None:
            continue
        found |= {facts.relation, *facts.reads, *facts.views, *facts.children}
        found |= {key.relation for key in (*facts.referenced_by, *facts.refers_to)}
        found |= {facts.partition_of} if facts.partition_of is not None else set()
        found |= {facts.index_of.relation} if facts.index_of is not None else set()
        found |= {index.relation for index in facts.indexes}
        found |= {one.relation for one in facts.dependents if one.relation is not None}
    return frozenset(found)


#: The rule about new enum values; here it is certain that the constant is of the type.
NEW_LABEL = "JP322"


def check_gone(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield objects in a query that a previous step certainly drops or renames."""
    if not catalog.step or catalog.computed:
        return
    yield from _columns(unit, catalog)
    yield from _arbiters(unit, catalog)
    yield from _types(unit, catalog)
    yield from _functions(unit, catalog)
    for relation, offset in regclass_constants(unit.statement):
        seen = catalog.relation(relation)
        if seen.state is State.GONE and seen.made is not None:
            yield unit.finding("JP604", f"{relation} is {seen.made.words}", offset)


_READS_ROWS = frozenset(
    {
        *(StatementKind.SELECT, StatementKind.SELECT_INTO, StatementKind.INSERT, StatementKind.UPDATE),
        *(StatementKind.DELETE, StatementKind.MERGE),
    }
)


def check_filled(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield materialized views that were never populated and so cannot be read; EXPLAIN does not report it."""
    for use in query_relations(unit.statement) if unit.statement.kind in _READS_ROWS else ():
        facts = catalog.facts(use.relation)
        if facts is not None and facts.kind == "m" and not facts.populated:
            message = f"{use.relation} has never been populated and cannot be read"
            yield unit.finding("JP615", message, use.offset, hint=f"REFRESH MATERIALIZED VIEW {use.relation};")


def _columns(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    facts = {use.relation: catalog.facts(use.relation) for use in query_relations(unit.statement)}
    for use in column_uses(unit.statement):
        table = facts.get(use.relation)
        if table is None or use.name not in table.columns:
            continue
        made = catalog.part(Sort.COLUMN, use.name, table.relation)
        if made is None or not made.removes or (use.alone and not _is_alone(use.relation, use.name, facts)):
            continue
        message = f"the column {Relation(None, use.name)} of {use.relation} is {made.words}"
        yield unit.finding("JP604", message, use.offset)


def _is_alone(relation: Relation, name: str, facts: dict[Relation, RelationFacts | None]) -> bool:
    """Return whether no other relation of the query has a column of this name, now or later."""
    others = [table for other, table in facts.items() if other != relation]
    return all(table is not None and name not in table.columns for table in others)


def _arbiters(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield an ON CONFLICT whose unique index, or constraint, is dropped before."""
    found = conflict_columns(unit.statement)
    writes = [use for use in query_relations(unit.statement) if use.use.name == "WRITE"]
    table = catalog.relation(writes[0].relation).facts if found is not None and writes else None
    if found is None or table is None:
        return
    columns, constraint = found
    added = any(
        one.alteration.aspect is Aspect.KEY and not one.alteration.removes
        for one in catalog.altered(frozenset({table.relation}))
    )
    if constraint:
        gone = None if added else catalog.part(Sort.CONSTRAINT, constraint, table.relation)
        if gone is not None and gone.removes:
            message = f"the constraint {Relation(None, constraint)} of {table.relation} is {gone.words}"
            yield unit.finding("JP604", message)
        return
    fitting = [index for index in table.indexes if index.unique and index.plain and index.columns == columns]
    drops = [_dropped(index.relation, table.relation, catalog) for index in fitting]
    if fitting and all(drops) and not added:
        message = f"the unique index that ON CONFLICT ({', '.join(sorted(columns))}) needs is {drops[0]}"
        yield unit.finding("JP604", message)


def _dropped(index: Relation, table: Relation, catalog: CatalogView) -> str | None:
    """Return how a previous step certainly drops an index, or the constraint of its name."""
    for made in (catalog.dropped(index), catalog.part(Sort.CONSTRAINT, index.name, table)):
        if made is not None and made.removes and made.change.kind != "renamed":
            return made.words
    return None


def _types(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    if defines(unit.statement):  # its types are looked up in the catalog
        return
    for name, offset in type_names(unit.statement):
        made = catalog.part(Sort.TYPE, name.name)
        if made is not None and made.removes and made.change.relation == name:
            yield unit.finding("JP604", f"the type {name} is {made.words}", offset)


def _functions(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield dropped functions, if no other function has the same name."""
    for call in functions_called(unit.statement):
        own = catalog.context.functions.get(call.name, ())
        if call.schema is not None or len(own) != 1 or catalog.context.builtin.get(call.name):
            continue
        if own[0].schema not in catalog.context.schemas:  # it is not found now, and may be once it is moved
            continue
        gone = [
            one
            for one in catalog.altered(())
            if one.alteration.aspect is Aspect.FUNCTION and call.name in {one.alteration.old, one.alteration.name}
        ]
        if len(gone) == 1 and gone[0].alteration.old == call.name and catalog.surely(gone[0]):
            message = f"the function {call.name}() is dropped, renamed or moved by step `{gone[0].step}`"
            yield unit.finding("JP604", message, call.offset)


def new_label(unit: Unit, catalog: CatalogView, value: str) -> StatementFinding | None:
    """Return the finding if a label was added to an enum in this transaction and cannot be used yet (55P04)."""
    for one in catalog.altered(()):
        enum = one.alteration.name
        if one.alteration.value != value or one.step != catalog.step or not catalog.surely(one):
            continue
        created = catalog.part(Sort.TYPE, enum)
        if created is not None and created.step == catalog.step and created.creates:
            continue
        message = f"'{value}' is added to the type {enum} in the same transaction, and cannot be used in it"
        return unit.finding(NEW_LABEL, message, hint="add the value in a step of its own", severity=Severity.ERROR)
    return None


def check_new_labels(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding]:
    """Yield a default that is an enum label which the same transaction adds."""
    for constant in default_constants(unit.statement):
        for one in catalog.altered(()):
            enum, value = one.alteration.name, one.alteration.value
            if value != constant.value or one.step != catalog.step or (enum, value) in catalog.context.labels:
                continue
            of_type = constant.type == enum or _is_of(constant.relation, constant.column, enum, catalog)
            finding = new_label(unit, catalog, value) if of_type else None
            if finding is not None:
                yield finding


def _is_of(relation: Relation | None, column: str, enum: str, catalog: CatalogView) -> bool:
    facts = catalog.facts(relation)
    return facts is not None and facts.types.get(column, "").rpartition(".")[2].strip('"') == enum
