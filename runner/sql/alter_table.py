"""The effect of each subcommand of ALTER TABLE: its lock, and whether it reads or rewrites the whole table.

Sources: the ALTER TABLE page of the PostgreSQL documentation, and the locks observed on a server of version 18.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator

from runner.sql.builtin_functions import READERS, SERIAL_TYPES, STABLE, TYPES, VOLATILE
from runner.sql.lock_modes import LockMode
from runner.sql.relations import Relation, relation_named, relation_of
from runner.sql.statements import Statement
from runner.sql.syntax_tree import Tree, find, label, strings, subcommands, unwrap
from runner.structs import Struct, replace


class AlterKind(enum.StrEnum):
    """The subcommands that are distinguished; every other one is OTHER."""

    ADD_COLUMN = "ADD COLUMN"
    DROP_COLUMN = "DROP COLUMN"
    SET_TYPE = "ALTER COLUMN TYPE"
    SET_EXPRESSION = "ALTER COLUMN SET EXPRESSION"
    SET_NOT_NULL = "ALTER COLUMN SET NOT NULL"
    SET_STATISTICS = "ALTER COLUMN SET STATISTICS"
    ADD_CONSTRAINT = "ADD CONSTRAINT"
    VALIDATE_CONSTRAINT = "VALIDATE CONSTRAINT"
    DROP_CONSTRAINT = "DROP CONSTRAINT"
    TRIGGER = "ENABLE or DISABLE TRIGGER"
    CLUSTER_ON = "CLUSTER ON"
    SET_OPTIONS = "SET or RESET storage parameters"
    SET_LOGGED = "SET LOGGED"
    SET_UNLOGGED = "SET UNLOGGED"
    SET_ACCESS_METHOD = "SET ACCESS METHOD"
    SET_TABLESPACE = "SET TABLESPACE"
    INHERIT = "INHERIT"
    NO_INHERIT = "NO INHERIT"
    ATTACH_PARTITION = "ATTACH PARTITION"
    DETACH_PARTITION = "DETACH PARTITION"
    DETACH_PARTITION_CONCURRENTLY = "DETACH PARTITION CONCURRENTLY"
    DETACH_PARTITION_FINALIZE = "DETACH PARTITION FINALIZE"
    OTHER = "other"


class Constraint(enum.StrEnum):
    """The kinds of table constraint."""

    CHECK = "CHECK"
    NOT_NULL = "NOT NULL"
    UNIQUE = "UNIQUE"
    PRIMARY_KEY = "PRIMARY KEY"
    EXCLUDE = "EXCLUDE"
    FOREIGN_KEY = "FOREIGN KEY"


class Rewrite(enum.Enum):
    """Whether a subcommand rewrites the table; MAYBE depends on facts that only the server has."""

    NO = "no"
    MAYBE = "maybe"
    YES = "yes"


class AlterAction(Struct, frozen=True, kw_only=True):
    """One subcommand. `scans`: it may read the whole table while it holds its lock.

    `name` is the column, constraint, trigger or tablespace; `other` is the referenced table, the parent or the
    partition, and `other_lock` the lock on that one. `has_default` is for a new column. `type` is its type, if it is
    not built into PostgreSQL, and `calls` are unknown functions in its default. `filled` are the
    columns that a constraint keeps from being NULL, `index` is the one that it uses, and `inline`: it is part of the
    definition of a new column.
    """

    kind: AlterKind
    lock: LockMode
    offset: int
    name: str | None = None
    rewrite: Rewrite = Rewrite.NO
    scans: bool = False
    constraint: Constraint | None = None
    not_valid: bool = False
    has_default: bool = False
    type: Relation | None = None
    calls: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    index: str | None = None
    inline: bool = False
    other: Relation | None = None
    other_lock: LockMode | None = None


def alter_actions(statement: Statement) -> tuple[AlterAction, ...]:
    """Return the subcommands of ALTER TABLE (or INDEX, VIEW, …), none for any other statement.

    A constraint in the definition of an added column is a separate action.
    """
    return tuple(action for parts in subcommands(statement.node) for action in _actions(*parts, statement))


_SUE, _SRE, _AE = LockMode.SHARE_UPDATE_EXCLUSIVE, LockMode.SHARE_ROW_EXCLUSIVE, LockMode.ACCESS_EXCLUSIVE

# Other subcommands are OTHER and take ACCESS EXCLUSIVE.
_PLAIN: dict[str, tuple[AlterKind, LockMode]] = {
    "AT_DropColumn": (AlterKind.DROP_COLUMN, _AE),
    "AT_SetNotNull": (AlterKind.SET_NOT_NULL, _AE),
    "AT_AlterColumnType": (AlterKind.SET_TYPE, _AE),
    "AT_SetExpression": (AlterKind.SET_EXPRESSION, _AE),
    "AT_SetStatistics": (AlterKind.SET_STATISTICS, _SUE),
    "AT_SetOptions": (AlterKind.SET_OPTIONS, _SUE),
    "AT_ResetOptions": (AlterKind.SET_OPTIONS, _SUE),
    "AT_ValidateConstraint": (AlterKind.VALIDATE_CONSTRAINT, _SUE),
    "AT_DropConstraint": (AlterKind.DROP_CONSTRAINT, _AE),
    "AT_ClusterOn": (AlterKind.CLUSTER_ON, _SUE),
    "AT_DropCluster": (AlterKind.CLUSTER_ON, _SUE),
    "AT_SetLogged": (AlterKind.SET_LOGGED, _AE),
    "AT_SetUnLogged": (AlterKind.SET_UNLOGGED, _AE),
    "AT_SetAccessMethod": (AlterKind.SET_ACCESS_METHOD, _AE),
    "AT_SetTableSpace": (AlterKind.SET_TABLESPACE, _AE),
    **dict.fromkeys(("AT_EnableTrig", "AT_EnableTrigAll", "AT_EnableTrigUser"), (AlterKind.TRIGGER, _SRE)),
    **dict.fromkeys(("AT_DisableTrig", "AT_DisableTrigAll", "AT_DisableTrigUser"), (AlterKind.TRIGGER, _SRE)),
    **dict.fromkeys(("AT_EnableAlwaysTrig", "AT_EnableReplicaTrig"), (AlterKind.TRIGGER, _SRE)),
}

_REWRITES: dict[AlterKind, Rewrite] = {
    AlterKind.SET_TYPE: Rewrite.MAYBE,  # not if the types are binary coercible, such as varchar to text
    AlterKind.SET_EXPRESSION: Rewrite.MAYBE,  # not if the column is virtual
    AlterKind.SET_LOGGED: Rewrite.YES,
    AlterKind.SET_UNLOGGED: Rewrite.YES,
    AlterKind.SET_ACCESS_METHOD: Rewrite.YES,
    AlterKind.SET_TABLESPACE: Rewrite.YES,  # copied file by file, which takes as long
}

_SCANS = frozenset({AlterKind.SET_NOT_NULL, AlterKind.VALIDATE_CONSTRAINT})


def _actions(subtype: str, command: Tree, definition: Tree, statement: Statement) -> Iterator[AlterAction]:
    special = _SPECIAL.get(subtype)
    if special is not None:
        yield from special(definition, subtype, statement)
        return
    kind, lock = _PLAIN.get(subtype, (AlterKind.OTHER, _AE))
    yield AlterAction(
        kind=kind,
        lock=lock,
        offset=statement.start,
        name=command.name or None,
        rewrite=_REWRITES.get(kind, Rewrite.NO),
        scans=kind in _SCANS,
    )


def _add_column(column: Tree, _: str, statement: Statement) -> Iterator[AlterAction]:
    offset = statement.offset(column)
    rewrite = _column_rewrite(column)
    given = (constraint for constraint in map(unwrap, column.constraints) if not _is_null(unwrap(constraint.raw_expr)))
    defaults = {label(constraint, "contype") for constraint in given} & _DEFAULTS
    yield AlterAction(
        kind=AlterKind.ADD_COLUMN,
        lock=_AE,
        offset=offset,
        name=column.colname,
        rewrite=rewrite,
        has_default=bool(defaults) or rewrite is Rewrite.YES,
        type=_foreign_type(strings(column.type_name.names)),
        calls=tuple(_unknown_calls(column)),
    )
    for constraint in map(unwrap, column.constraints):
        for action in _add_constraint(constraint, "", statement):
            # The server does not scan: a column of NULLs refers to nothing, and one with a default has no NULLs.
            unseen = {Constraint.FOREIGN_KEY: not defaults, Constraint.NOT_NULL: "CONSTR_GENERATED" not in defaults}
            scans = not unseen.get(action.constraint or Constraint.CHECK, False)
            yield replace(action, lock=_AE, inline=True, scans=scans)


def _is_null(expression: Tree) -> bool:
    """Return whether an expression is NULL: a default that is none."""
    while expression.DESCRIPTOR.name == "TypeCast":
        expression = unwrap(expression.arg)
    return expression.DESCRIPTOR.name == "A_Const" and bool(expression.isnull)


_CONSTRAINTS = {
    "CONSTR_CHECK": Constraint.CHECK,
    "CONSTR_NOTNULL": Constraint.NOT_NULL,
    "CONSTR_UNIQUE": Constraint.UNIQUE,
    "CONSTR_PRIMARY": Constraint.PRIMARY_KEY,
    "CONSTR_EXCLUSION": Constraint.EXCLUDE,
    "CONSTR_FOREIGN": Constraint.FOREIGN_KEY,
}


def _add_constraint(node: Tree, _: str, statement: Statement) -> Iterator[AlterAction]:
    constraint = _CONSTRAINTS.get(label(node, "contype"))
    if constraint is None:
        return
    foreign = constraint is Constraint.FOREIGN_KEY
    yield AlterAction(
        kind=AlterKind.ADD_CONSTRAINT,
        lock=_SRE if foreign else _AE,
        offset=statement.offset(node),
        name=node.conname or None,
        scans=not node.skip_validation and not node.indexname,
        constraint=constraint,
        not_valid=node.skip_validation,
        filled=tuple(_filled(node)),
        index=node.indexname or None,
        other=relation_of(node.pktable) if foreign else None,
        other_lock=_SRE if foreign else None,
    )


# Everything that only later reads or writes see can be set beside reads and writes; what changes a plan or a query's
# meaning cannot (reloptions.c). Other options, and those of views and of other index types, take ACCESS EXCLUSIVE.
_GENTLE_OPTIONS = frozenset(
    {
        *("fillfactor", "toast_tuple_target", "parallel_workers", "vacuum_index_cleanup", "vacuum_truncate"),
        *("vacuum_max_eager_freeze_failure_rate", "log_autovacuum_min_duration", "deduplicate_items"),
    }
)


def _options(given: Tree, _: str, statement: Statement) -> Iterator[AlterAction]:
    names = [unwrap(option).defname for option in given.items]
    gentle = all(name in _GENTLE_OPTIONS or name.startswith("autovacuum_") for name in names)
    lock = _SUE if gentle else _AE
    yield AlterAction(kind=AlterKind.SET_OPTIONS, lock=lock, offset=statement.start, name=", ".join(names) or None)


def _inherit(parent: Tree, subtype: str, statement: Statement) -> Iterator[AlterAction]:
    add = subtype == "AT_AddInherit"
    yield AlterAction(
        kind=AlterKind.INHERIT if add else AlterKind.NO_INHERIT,
        lock=_AE,
        offset=statement.start,
        other=relation_of(parent),
        other_lock=_SUE if add else LockMode.ACCESS_SHARE,
    )


def _partition(partition: Tree, subtype: str, statement: Statement) -> Iterator[AlterAction]:
    kind, lock = {
        "AT_AttachPartition": (AlterKind.ATTACH_PARTITION, _SUE),
        "AT_DetachPartitionFinalize": (AlterKind.DETACH_PARTITION_FINALIZE, _SUE),
    }.get(subtype, (AlterKind.DETACH_PARTITION, _AE))
    if partition.concurrent:
        kind, lock = AlterKind.DETACH_PARTITION_CONCURRENTLY, _SUE
    yield AlterAction(
        kind=kind,
        lock=lock,
        offset=statement.offset(partition.name),
        scans=kind is AlterKind.ATTACH_PARTITION,
        other=relation_of(partition.name),
        other_lock=_AE,
    )


#: What reads the definition of a subcommand; it gets the subtype too.
_SPECIAL: dict[str, Callable[[Tree, str, Statement], Iterator[AlterAction]]] = {
    "AT_AddColumn": _add_column,
    "AT_AddConstraint": _add_constraint,
    "AT_SetRelOptions": _options,
    "AT_ResetRelOptions": _options,
    "AT_AddInherit": _inherit,
    "AT_DropInherit": _inherit,
    "AT_AttachPartition": _partition,
    "AT_DetachPartition": _partition,
    "AT_DetachPartitionFinalize": _partition,
}

_DEFAULTS = frozenset({"CONSTR_DEFAULT", "CONSTR_GENERATED", "CONSTR_IDENTITY"})


def _column_rewrite(column: Tree) -> Rewrite:
    """A stable default is computed once and kept beside the table; a volatile one is different in every row.

    A type that is not built in causes no rewrite, unless it is a domain with a constraint.
    """
    if strings(column.type_name.names)[-1] in SERIAL_TYPES:
        return Rewrite.YES
    for constraint in map(unwrap, column.constraints):
        kind = label(constraint, "contype")
        if kind == "CONSTR_IDENTITY" or (kind == "CONSTR_GENERATED" and constraint.generated_kind == "s"):
            return Rewrite.YES
    if any(name in VOLATILE for name in _default_calls(column)):
        return Rewrite.YES
    return Rewrite.MAYBE if any(True for _ in _unknown_calls(column)) else Rewrite.NO


def _foreign_type(names: tuple[str, ...]) -> Relation | None:
    """Return the type if it is not built in: it may be a domain."""
    if names[0] == "pg_catalog" or (len(names) == 1 and names[0] in TYPES | SERIAL_TYPES):
        return None
    return relation_named(names)


def _default_calls(column: Tree) -> Iterator[str]:
    for constraint in map(unwrap, column.constraints):
        if label(constraint, "contype") == "CONSTR_DEFAULT":
            yield from (strings(call.funcname)[-1] for call in find(constraint.raw_expr, "FuncCall"))


def _unknown_calls(column: Tree) -> Iterator[str]:
    """Yield the functions in a default that are neither known to be volatile nor known not to be."""
    return (name for name in _default_calls(column) if name not in VOLATILE | STABLE | READERS)


def _filled(constraint: Tree) -> Iterator[str]:
    """Yield the columns that a constraint forbids to be NULL: NOT NULL, or CHECK (… IS NOT NULL AND …)."""
    kind = label(constraint, "contype")
    if kind == "CONSTR_NOTNULL":
        yield from strings(constraint.keys)
    elif kind == "CONSTR_CHECK":
        yield from _not_null(unwrap(constraint.raw_expr))


def _not_null(expression: Tree) -> Iterator[str]:
    if expression.DESCRIPTOR.name == "NullTest" and label(expression, "nulltesttype") == "IS_NOT_NULL":
        column = unwrap(expression.arg)
        if column.DESCRIPTOR.name == "ColumnRef" and all(field.HasField("string") for field in column.fields):
            yield strings(column.fields)[-1]
    elif expression.DESCRIPTOR.name == "BoolExpr" and label(expression, "boolop") == "AND_EXPR":
        for part in map(unwrap, expression.args):
            yield from _not_null(part)
