"""Names in a command other than relations: types, functions, roles, tablespaces, extensions, languages.

EXPLAIN checks these in the statements that it accepts; for all others only the catalog shows before they run whether
the names exist.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runner.sql.facts import function_call
from runner.sql.nodes import Tree, find, label, strings, unwrap, walk
from runner.sql.parse import Statement
from runner.sql.relations import Relation, relation_named


class Named(enum.Enum):
    """What sort of object a name stands for."""

    TYPE = "type"
    FUNCTION = "function"
    ROLE = "role"
    TABLESPACE = "tablespace"
    #: An extension that can be installed, and one that is installed.
    AVAILABLE_EXTENSION = "available extension"
    EXTENSION = "extension"
    LANGUAGE = "language"
    ACCESS_METHOD = "access method"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A name in a statement; only types and functions have a schema. `offset` counts characters."""

    sort: Named
    name: Relation
    offset: int


#: Statements whose types and functions must exist when they run. Others, such as DROP, may name missing ones.
_DEFINITIONS = frozenset(
    {
        *("CreateStmt", "CreateForeignTableStmt", "AlterTableStmt", "IndexStmt", "CreateStatsStmt"),
        *("CreateDomainStmt", "CompositeTypeStmt", "CreatePolicyStmt", "AlterPolicyStmt", "CreateTrigStmt"),
        *("CreateFunctionStmt", "CommentStmt", "GrantStmt"),
    }
)
#: Names that the grammar turns into an integer and a sequence; they are not types.
_SERIAL = frozenset({"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"})
_TABLESPACE_FIELDS = ("tablespacename", "table_space")


def defines(statement: Statement) -> bool:
    """Return whether the types and functions that the statement names are among its mentions."""
    return statement.node.DESCRIPTOR.name in _DEFINITIONS


def mentions(statement: Statement) -> tuple[Mention, ...]:
    """Return what the statement names beside relations, each once, in the order of the tree."""
    node = statement.node
    found = [*_roles(statement), *_tablespaces(statement), *_extensions(statement), *_access_methods(statement)]
    if defines(statement):
        found += [*_types(statement), *_functions(statement), *_languages(statement)]
    elif node.DESCRIPTOR.name == "DropStmt" and not node.missing_ok:
        found += _dropped(statement)
    return tuple(dict.fromkeys(found))


def type_names(statement: Statement) -> Iterator[tuple[Relation, int]]:
    """Yield the types that a statement names, but for those that the grammar makes of other words."""
    words = {unwrap(option.arg).location for option in _options(statement.node)}  # `off` reads as the name of a type
    for node in find(statement.node, "TypeName"):
        parts = strings(node.names)
        if node.location in words:
            continue
        if parts and not node.pct_type and not (len(parts) == 1 and parts[0] in _SERIAL):
            yield relation_named(parts), statement.offset(node)


def _types(statement: Statement) -> Iterator[Mention]:
    for name, offset in type_names(statement):
        yield Mention(sort=Named.TYPE, name=name, offset=offset)


def _options(node: Tree) -> Iterator[Tree]:
    """Yield the options whose value the parser reads as the name of a type."""
    for option in find(node, "DefElem"):
        if option.HasField("arg") and unwrap(option.arg).DESCRIPTOR.name == "TypeName":
            yield option


def _functions(statement: Statement) -> Iterator[Mention]:
    for node in find(statement.node, "FuncCall"):
        call = function_call(statement, node)
        yield Mention(sort=Named.FUNCTION, name=Relation(call.schema, call.name), offset=call.offset)
    if statement.node.DESCRIPTOR.name == "CreateTrigStmt":
        name = relation_named(strings(statement.node.funcname))
        yield Mention(sort=Named.FUNCTION, name=name, offset=statement.start)


def _roles(statement: Statement) -> Iterator[Mention]:
    node = statement.node
    if node.DESCRIPTOR.name == "DropRoleStmt" and node.missing_ok:
        return
    for spec in find(node, "RoleSpec"):
        if label(spec, "roletype") == "ROLESPEC_CSTRING":
            yield _plain(statement, Named.ROLE, spec.rolename, spec)
    if node.DESCRIPTOR.name == "GrantRoleStmt":
        for granted in map(unwrap, node.granted_roles):
            yield _plain(statement, Named.ROLE, granted.priv_name)


def _tablespaces(statement: Statement) -> Iterator[Mention]:
    node = statement.node
    if node.DESCRIPTOR.name in {"CreateTableSpaceStmt", "DropTableSpaceStmt", "AlterTableSpaceOptionsStmt"}:
        return
    for inner in walk(node):
        fields = inner.DESCRIPTOR.fields_by_name
        names = [getattr(inner, field) for field in _TABLESPACE_FIELDS if field in fields]
        if inner.DESCRIPTOR.name == "IntoClause":
            names.append(inner.table_space_name)
        elif inner.DESCRIPTOR.name == "AlterTableCmd" and label(inner, "subtype") == "AT_SetTableSpace":
            names.append(inner.name)
        elif inner.DESCRIPTOR.name == "DefElem" and inner.defname == "tablespace":
            names += _text(inner)
        for name in filter(None, names):
            yield _plain(statement, Named.TABLESPACE, name)


#: What the parser writes into CREATE INDEX without USING; it is always there.
_DEFAULT_INDEX_METHOD = "btree"


def _access_methods(statement: Statement) -> Iterator[Mention]:
    for inner in walk(statement.node):
        name = ""
        if "access_method" in inner.DESCRIPTOR.fields_by_name and inner.DESCRIPTOR.name != "DefElem":
            name = inner.access_method
        elif inner.DESCRIPTOR.name == "AlterTableCmd" and label(inner, "subtype") == "AT_SetAccessMethod":
            name = inner.name
        if name and name != _DEFAULT_INDEX_METHOD:
            yield _plain(statement, Named.ACCESS_METHOD, name)


def _extensions(statement: Statement) -> Iterator[Mention]:
    match statement.node.DESCRIPTOR.name:
        case "CreateExtensionStmt":
            yield _plain(statement, Named.AVAILABLE_EXTENSION, statement.node.extname)
        case "AlterExtensionStmt" | "AlterExtensionContentsStmt":
            yield _plain(statement, Named.EXTENSION, statement.node.extname)
        case "DropStmt" if label(statement.node, "remove_type") == "OBJECT_EXTENSION" and not statement.node.missing_ok:
            for name in statement.node.objects:
                yield _plain(statement, Named.EXTENSION, unwrap(name).sval)


def _languages(statement: Statement) -> Iterator[Mention]:
    for option in map(unwrap, getattr(statement.node, "options", ())):
        if option.DESCRIPTOR.name == "DefElem" and option.defname == "language":
            for name in _text(option):
                yield _plain(statement, Named.LANGUAGE, name)


def _dropped(statement: Statement) -> Iterator[Mention]:
    kind = label(statement.node, "remove_type")
    for dropped in map(unwrap, statement.node.objects):
        if kind in {"OBJECT_FUNCTION", "OBJECT_PROCEDURE", "OBJECT_ROUTINE", "OBJECT_AGGREGATE"}:
            name = relation_named(strings(dropped.objname))
            yield Mention(sort=Named.FUNCTION, name=name, offset=statement.start)
        elif kind in {"OBJECT_TYPE", "OBJECT_DOMAIN"}:
            name = relation_named(strings(dropped.names))
            yield Mention(sort=Named.TYPE, name=name, offset=statement.offset(dropped))


def _plain(statement: Statement, sort: Named, name: str, node: Tree | None = None) -> Mention:
    offset = statement.start if node is None else statement.offset(node)
    return Mention(sort=sort, name=Relation(None, name), offset=offset)


def _text(option: Tree) -> Iterable[str]:
    value = unwrap(option.arg)
    return (value.sval,) if value.DESCRIPTOR.name == "String" else ()
