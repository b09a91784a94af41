"""The columns and constraints that must exist for a statement, or must not exist yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from runner.sql.kinds import StatementKind
from runner.sql.nodes import Tree, label, strings, unwrap
from runner.sql.objects import Part, Sort
from runner.sql.parse import Statement
from runner.sql.relations import Relation, relation_named, relation_of

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
    """Return the columns and constraints that must exist, or must not exist yet."""
    reader = _READERS.get(statement.node.DESCRIPTOR.name)
    return tuple(reader(statement)) if reader is not None else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A trigger, rule or policy of a table that must be there (`exists`), or must not be there yet."""

    relation: Relation
    sort: str
    name: str
    exists: bool


_DROPPED_ATTACHED = {"OBJECT_TRIGGER": "trigger", "OBJECT_RULE": "rule", "OBJECT_POLICY": "policy"}


def attached(statement: Statement) -> Iterator[Attached]:
    """Yield the triggers, rules and policies that a statement drops, switches, changes or creates."""
    node = statement.node
    match node.DESCRIPTOR.name:
        case "DropStmt" if not node.missing_ok and label(node, "remove_type") in _DROPPED_ATTACHED:
            sort = _DROPPED_ATTACHED[label(node, "remove_type")]
            for dropped in map(unwrap, node.objects):
                names = strings(dropped.items)
                yield Attached(relation=relation_named(names[:-1]), sort=sort, name=names[-1], exists=True)
        case "AlterTableStmt":
            for command in map(unwrap, node.cmds):
                subtype = label(command, "subtype")
                if (
                    command.name
                    and subtype.endswith(("Trig", "Rule"))
                    and subtype.startswith(("AT_Enable", "AT_Disable"))
                ):
                    sort = "rule" if subtype.endswith("Rule") else "trigger"
                    yield Attached(relation=relation_of(node.relation), sort=sort, name=command.name, exists=True)
        case "CreateTrigStmt" if not node.replace:
            yield Attached(relation=relation_of(node.relation), sort="trigger", name=node.trigname, exists=False)
        case "RuleStmt" if not node.replace:
            yield Attached(relation=relation_of(node.relation), sort="rule", name=node.rulename, exists=False)
        case "CreatePolicyStmt":
            yield Attached(relation=relation_of(node.table), sort="policy", name=node.policy_name, exists=False)
        case "AlterPolicyStmt":
            yield Attached(relation=relation_of(node.table), sort="policy", name=node.policy_name, exists=True)


def _indexed(statement: Statement) -> Iterator[Part]:
    node = statement.node
    for element in map(unwrap, (*node.index_params, *node.index_including_params)):
        if element.name:
            yield _column(statement, relation_of(node.relation), element.name)


def _copied(statement: Statement) -> Iterator[Part]:
    for name in strings(statement.node.attlist):
        yield _column(statement, relation_of(statement.node.relation), name)


def _vacuumed(statement: Statement) -> Iterator[Part]:
    for rel in map(unwrap, statement.node.rels):
        for name in strings(rel.va_cols):
            yield _column(statement, relation_of(rel.relation), name)


def _commented(statement: Statement) -> Iterator[Part]:
    if label(statement.node, "objtype") == "OBJECT_COLUMN":
        names = strings(unwrap(statement.node.object).items)
        if len(names) > 1:
            yield _column(statement, relation_named(names[:-1]), names[-1])


def _owner_of_sequence(statement: Statement) -> Iterator[Part]:
    for option in map(unwrap, statement.node.options):
        if option.defname == "owned_by":
            names = strings(unwrap(option.arg).items)
            if len(names) > 1:
                yield _column(statement, relation_named(names[:-1]), names[-1])


def _renamed_column(statement: Statement) -> Iterator[Part]:
    node = statement.node
    if label(node, "rename_type") != "OBJECT_COLUMN" or not node.HasField("relation") or node.missing_ok:
        return
    relation = relation_of(node.relation)
    yield _column(statement, relation, node.subname)
    yield Part(relation=relation, sort=Sort.COLUMN, name=node.newname, exists=False, offset=statement.start)


def _column(statement: Statement, relation: Relation, name: str) -> Part:
    return Part(relation=relation, sort=Sort.COLUMN, name=name, exists=True, offset=statement.start)


#: Subcommands that the server does before it adds columns, whatever their order in the text.
_FIRST = frozenset({"AT_DropColumn", "AT_DropConstraint", "AT_AlterColumnType"})


def _altered_parts(statement: Statement) -> Iterator[Part]:
    """The server drops first, then changes types, adds columns and constraints, and does the rest at last."""
    relation, offset = relation_of(statement.node.relation), statement.start
    commands = [(label(command, "subtype"), command) for command in map(unwrap, statement.node.cmds)]
    dropped = {command.name for subtype, command in commands if subtype in {"AT_DropColumn", "AT_DropConstraint"}}
    added = {_definition(command).colname for subtype, command in commands if subtype == "AT_AddColumn"}
    constraints = {_definition(command).conname for subtype, command in commands if subtype == "AT_AddConstraint"}
    for subtype, command in commands:
        if command.missing_ok:
            continue
        if subtype == "AT_AddColumn":
            name = _definition(command).colname
            if name not in dropped:
                yield Part(relation=relation, sort=Sort.COLUMN, name=name, exists=False, offset=offset)
        elif subtype in _OLD_COLUMN and command.name and (subtype in _FIRST or command.name not in added):
            yield Part(relation=relation, sort=Sort.COLUMN, name=command.name, exists=True, offset=offset)
        elif subtype in _OLD_CONSTRAINT:
            name = command.name or getattr(_definition(command), "conname", "")
            if name and (subtype in _FIRST or name not in constraints):
                yield Part(relation=relation, sort=Sort.CONSTRAINT, name=name, exists=True, offset=offset)
        elif subtype == "AT_AddConstraint":
            parts_of = _constraint_parts(_definition(command), relation, offset, added)
            yield from (part for part in parts_of if part.exists or part.name not in dropped)


def _definition(command: Tree) -> Tree:
    return unwrap(getattr(command, "def"))  # a keyword of Python


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


_READERS: Mapping[str, Callable[[Statement], Iterator[Part]]] = {
    "AlterTableStmt": _altered_parts,
    "IndexStmt": _indexed,
    "CopyStmt": _copied,
    "VacuumStmt": _vacuumed,
    "CommentStmt": _commented,
    "RenameStmt": _renamed_column,
    "CreateSeqStmt": _owner_of_sequence,
    "AlterSeqStmt": _owner_of_sequence,
}
