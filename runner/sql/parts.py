"""The columns and constraints that must be there for a statement, or must not be there yet."""

from __future__ import annotations

from collections.abc import Iterator

from runner.sql.kinds import StatementKind
from runner.sql.nodes import Tree, label, strings, unwrap
from runner.sql.objects import Part, Sort
from runner.sql.parse import Statement
from runner.sql.relations import Relation, relation_of

_K = StatementKind

#: Subcommands of ALTER TABLE about a column or constraint that must be there.
_OLD_COLUMN = frozenset(
    {
        *("AT_DropColumn", "AT_AlterColumnType", "AT_SetNotNull", "AT_DropNotNull", "AT_ColumnDefault"),
        *("AT_SetStatistics", "AT_SetStorage", "AT_SetExpression", "AT_DropExpression", "AT_AddIdentity"),
        *("AT_SetIdentity", "AT_DropIdentity", "AT_SetCompression", "AT_SetOptions", "AT_ResetOptions"),
    }
)
_OLD_CONSTRAINT = frozenset({"AT_ValidateConstraint", "AT_DropConstraint", "AT_AlterConstraint"})


def parts(statement: Statement) -> tuple[Part, ...]:
    """Return the columns and constraints that must be there, or must not be there yet."""
    if statement.node.DESCRIPTOR.name == "AlterTableStmt":
        return tuple(_altered_parts(statement))
    if statement.kind is _K.CREATE_INDEX:
        node = statement.node
        elements = map(unwrap, (*node.index_params, *node.index_including_params))
        names = [element.name for element in elements if element.name]
        return tuple(_column(statement, relation_of(node.relation), name) for name in names)
    if statement.kind in {_K.COPY_FROM, _K.COPY_TO}:
        names = list(strings(statement.node.attlist))
        return tuple(_column(statement, relation_of(statement.node.relation), name) for name in names)
    if statement.kind in {_K.ANALYZE, _K.VACUUM}:
        return tuple(
            _column(statement, relation_of(rel.relation), name)
            for rel in map(unwrap, statement.node.rels)
            for name in strings(rel.va_cols)
        )
    return ()


def _column(statement: Statement, relation: Relation, name: str) -> Part:
    return Part(relation=relation, sort=Sort.COLUMN, name=name, exists=True, offset=statement.start)


def _altered_parts(statement: Statement) -> Iterator[Part]:
    relation, offset = relation_of(statement.node.relation), statement.start
    added: set[str] = set()
    for command in map(unwrap, statement.node.cmds):
        subtype = label(command, "subtype")
        if command.missing_ok:
            if subtype == "AT_AddColumn":
                added.add(unwrap(getattr(command, "def")).colname)
            continue
        if subtype == "AT_AddColumn":
            name = unwrap(getattr(command, "def")).colname
            added.add(name)
            yield Part(relation=relation, sort=Sort.COLUMN, name=name, exists=False, offset=offset)
        elif subtype in _OLD_COLUMN and command.name and command.name not in added:
            yield Part(relation=relation, sort=Sort.COLUMN, name=command.name, exists=True, offset=offset)
        elif subtype in _OLD_CONSTRAINT:
            yield Part(relation=relation, sort=Sort.CONSTRAINT, name=command.name, exists=True, offset=offset)
        elif subtype == "AT_AddConstraint":
            yield from _constraint_parts(unwrap(getattr(command, "def")), relation, offset, added)


def _constraint_parts(constraint: Tree, relation: Relation, offset: int, added: set[str]) -> Iterator[Part]:
    if constraint.conname:
        yield Part(relation=relation, sort=Sort.CONSTRAINT, name=constraint.conname, exists=False, offset=offset)
    for name in (*strings(constraint.keys), *strings(constraint.fk_attrs)):
        if name not in added:
            yield Part(relation=relation, sort=Sort.COLUMN, name=name, exists=True, offset=offset)


def added_columns(statement: Statement) -> frozenset[str]:
    """Return the columns that ALTER TABLE adds, also those that may be there already (IF NOT EXISTS)."""
    if statement.node.DESCRIPTOR.name != "AlterTableStmt":
        return frozenset()
    commands = (command for command in map(unwrap, statement.node.cmds) if label(command, "subtype") == "AT_AddColumn")
    return frozenset(unwrap(getattr(command, "def")).colname for command in commands)
