"""Values that a statement adds to an enum type, and the statements that use them too early.

Such a value can be used only after its transaction has committed, unless that transaction created the type as well
(enum.c, EnumUncommitted).
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.sql.relations import Relation, relation_named
from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import find, string_constant, strings, unwrap
from runner.structs import Struct

_K = StatementKind


class AddedValue(Struct, frozen=True, kw_only=True):
    """A value that ALTER TYPE … ADD VALUE adds; `guarded` with IF NOT EXISTS, so that it may be there already."""

    type: Relation
    label: str
    guarded: bool


class ValueUse(Struct, frozen=True):
    """A constant like an added value; `certain` if it is cast to the type."""

    offset: int
    certain: bool


def added_value(statement: Statement) -> AddedValue | None:
    """Return the value that the statement adds to an enum, None if it adds none."""
    node = statement.node
    if node.DESCRIPTOR.name != "AlterEnumStmt" or node.old_val:
        return None
    type_ = relation_named(strings(node.type_name))
    return AddedValue(type=type_, label=node.new_val, guarded=bool(node.skip_if_new_val_exists))


def value_used(value: AddedValue, statement: Statement) -> ValueUse | None:
    """Return the first use of an added value in another statement, one that is certain before others."""
    if statement.kind in {_K.ALTER_TYPE, _K.COMMENT}:
        return None
    if statement.kind is _K.DO:
        bodies = (unwrap(option.arg).sval for option in map(unwrap, statement.node.args) if option.defname == "as")
        return ValueUse(statement.start, certain=False) if any(f"'{value.label}'" in one for one in bodies) else None
    return next(_uses(value, statement), None)


def _uses(value: AddedValue, statement: Statement) -> Iterator[ValueUse]:
    for cast in find(statement.node, "TypeCast"):
        of_type = relation_named(strings(cast.type_name.names)).may_be(value.type)
        if of_type and string_constant(cast.arg) == value.label:
            yield ValueUse(statement.offset(unwrap(cast.arg)), certain=True)
    for constant in find(statement.node, "A_Const"):
        if string_constant(constant) == value.label:
            yield ValueUse(statement.offset(constant), certain=False)
