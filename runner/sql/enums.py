"""Enum types: values that a statement adds, and whether another statement uses one of them.

PostgreSQL lets a value be used only after the transaction that added it has committed, unless that transaction created
the type as well (enum.c, EnumUncommitted).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.sql.kinds import StatementKind
from runner.sql.nodes import Tree, find, strings, unwrap
from runner.sql.parse import Statement
from runner.sql.relations import Relation, relation_named


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedValue:
    """A value that ALTER TYPE … ADD VALUE adds; `guarded` with IF NOT EXISTS, so that it may be there already."""

    type: Relation
    label: str
    guarded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueUse:
    """A constant like an added value; `certain` if it is cast to the type."""

    offset: int
    certain: bool


def added_value(statement: Statement) -> AddedValue | None:
    """Return the value that the statement adds to an enum, None if it adds none."""
    node = statement.node
    if statement.kind is not StatementKind.ALTER_TYPE or node.DESCRIPTOR.name != "AlterEnumStmt" or node.old_val:
        return None
    return AddedValue(
        type=relation_named(strings(node.type_name)), label=node.new_val, guarded=bool(node.skip_if_new_val_exists)
    )


def created_types(statement: Statement) -> tuple[Relation, ...]:
    """Return the type that the statement creates: an enum, a composite, a range, or a domain."""
    node = statement.node
    match node.DESCRIPTOR.name:
        case "CreateEnumStmt" | "CreateRangeStmt":
            return (relation_named(strings(node.type_name)),)
        case "CreateDomainStmt":
            return (relation_named(strings(node.domainname)),)
        case "CompositeTypeStmt":
            var = node.typevar
            return (Relation(var.schemaname or None, var.relname),)
    return ()


def value_used(value: AddedValue, statement: Statement) -> ValueUse | None:
    """Return the first use of an added value in another statement, one that is certain before others."""
    if statement.kind in {StatementKind.ALTER_TYPE, StatementKind.COMMENT, StatementKind.DO}:
        return None
    uses = sorted(_uses(value, statement), key=lambda use: not use.certain)
    return uses[0] if uses else None


def _uses(value: AddedValue, statement: Statement) -> Iterator[ValueUse]:
    for cast in find(statement.node, "TypeCast"):
        constant = unwrap(cast.arg)
        if _is_label(constant, value) and relation_named(strings(cast.type_name.names)).may_be(value.type):
            yield ValueUse(offset=statement.offset(constant), certain=True)
    for constant in find(statement.node, "A_Const"):
        if _is_label(constant, value):
            yield ValueUse(offset=statement.offset(constant), certain=False)


def _is_label(node: Tree, value: AddedValue) -> bool:
    return node.DESCRIPTOR.name == "A_Const" and bool(node.HasField("sval")) and str(node.sval.sval) == value.label
