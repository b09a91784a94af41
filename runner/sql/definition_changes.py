"""Every change of a definition that a later statement may depend on, besides the names that are created and dropped.

`catalog_changes` has the names, which a dry run tracks individually. The changes here cannot be tracked: the type of a
column, a privilege, an operator. A later statement that depends on one is judged with caution. Everything that can
make a later statement possible or impossible must be here; an unknown command may alter anything.

Sources: each command's page in the PostgreSQL documentation.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter

from runner.sql.function_calls import SERVER_WIDE_COMMANDS
from runner.sql.relations import Relation, relation_named, relation_of
from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import Tree, find, label, strings, subcommands, unwrap
from runner.structs import Struct


class Aspect(enum.Enum):
    """What is altered."""

    COLUMN = "column"
    #: A unique or exclusion constraint, or a unique index.
    KEY = "unique key"
    CONSTRAINT = "constraint"
    #: A trigger, rule or policy, by name.
    ATTACHED = "trigger, rule or policy"
    PARTITION = "partition"
    INHERITANCE = "parents"
    #: Whether a materialized view is filled, by which index a table was clustered, whether an index is valid.
    FILLING = "content"
    CLUSTERING = "clustering"
    VALIDITY = "validity"
    #: Something else about a relation.
    RELATION = "definition"
    TYPE = "type"
    FUNCTION = "function"
    #: A cursor on the relation, which is open until the step ends.
    CURSOR = "open cursor"
    #: Operators, operator classes and casts.
    OPERATOR = "operator or cast"
    #: A collation, server, publication, text search configuration and the like, by name.
    OBJECT = "object"
    PRIVILEGE = "privileges"
    ROLE = "role"
    #: What new sessions begin with.
    SETTING = "settings of new sessions"
    #: An extension: types, functions and operators of unknown names.
    EXTENSION = "extension"
    #: What is published of a table, and how its rows are identified for that: UPDATE and DELETE can need an identity.
    PUBLISHED = "publication"
    #: The sequences that belong to columns, which are dropped with them.
    SEQUENCES = "sequences"
    #: Event triggers, which almost every command that changes a definition fires.
    EVENTS = "event triggers"
    DEPENDENTS = "dependents"


class Alteration(Struct, frozen=True):
    """Something that is altered. Without `relation` it concerns no relation, or any; without `name` any object.

    `removes`: it can make a later statement fail that would succeed without it; `old` is a name or an enum value that
    does not exist afterwards, `value` a label that is added to an enum. `guarded`: with IF NOT EXISTS.
    """

    aspect: Aspect
    relation: Relation | None = None
    name: str = ""
    removes: bool = False
    old: str = ""
    value: str = ""
    guarded: bool = False

    @property
    def words(self) -> str:
        """Return what the statement does, as a predicate: `changes the column b of t`."""
        named = f" {Relation(None, self.name)}" if self.name else ""
        of = f" of {self.relation}" if self.relation is not None else ""
        if self.aspect is Aspect.DEPENDENTS:
            return f"drops the dependent objects{of} (CASCADE)"
        return f"changes the {self.aspect.value}{named}{of}"


def alterations(statement: Statement) -> tuple[Alteration, ...]:
    """Return what the statement alters, as far as its text shows; none for a query."""
    reader = _READERS.get(statement.node.DESCRIPTOR.name)
    return () if reader is None else tuple(reader(statement.node))


def fires_event_triggers(statement: Statement) -> bool:
    """Return whether the statement is of a kind that fires event triggers: what defines objects of the database.

    Those of the whole server, and event triggers themselves, fire none.
    """
    of_events = statement.node.DESCRIPTOR.name in {"CreateEventTrigStmt", "AlterEventTrigStmt"}
    return not of_events and statement.kind not in SERVER_WIDE_COMMANDS and statement.kind.startswith(_DEFINING)


#: How the names of commands begin that define objects.
_DEFINING = (
    *("CREATE", "ALTER", "DROP", "SELECT INTO", "COMMENT", "SECURITY LABEL", "GRANT", "REVOKE", "REFRESH", "REINDEX"),
    *("REASSIGN", StatementKind.OTHER),
)
_A = Aspect


# --- relations --------------------------------------------------------------------------------------------------------


def _table(node: Tree) -> Iterator[Alteration]:
    relation = relation_of(node.relation)
    for parts in subcommands(node):
        yield from _subcommand(*parts, relation)
    if label(node, "objtype") == "OBJECT_TYPE":
        yield Alteration(_A.TYPE, name=relation.name, removes=True)
    if label(node, "objtype") == "OBJECT_VIEW":  # security_invoker, security_barrier, check_option
        yield Alteration(_A.PRIVILEGE, relation, removes=True)


def _subcommand(subtype: str, command: Tree, definition: Tree, relation: Relation) -> Iterator[Alteration]:
    if subtype == "AT_AddColumn":
        yield Alteration(_A.COLUMN, relation, definition.colname, guarded=command.missing_ok)
        for constraint in map(unwrap, definition.constraints):
            yield from _constraint(constraint, relation)
    elif subtype == "AT_DropColumn":
        yield Alteration(_A.COLUMN, relation, command.name, removes=True, old=command.name)
        yield Alteration(_A.KEY, relation, removes=True)
        yield Alteration(_A.SEQUENCES, removes=True)
        yield from _cascaded(command, relation)
    elif subtype == "AT_AddConstraint":
        yield from _constraint(definition, relation)
    elif subtype in {"AT_DropConstraint", "AT_AlterConstraint", "AT_ValidateConstraint"}:
        removes = subtype != "AT_ValidateConstraint"
        name = command.name or getattr(definition, "conname", "")
        yield Alteration(_A.CONSTRAINT, relation, name, removes=removes)
        yield Alteration(_A.KEY, relation, name, removes=removes)
        yield from _cascaded(command, relation)
    elif subtype in _PLAIN:
        yield Alteration(_PLAIN[subtype], relation, command.name, removes=True)
    elif subtype.startswith(("AT_AttachPartition", "AT_DetachPartition")):
        part = relation_of(definition.name)
        yield Alteration(_A.PARTITION, relation, part.name, removes=True)
        yield Alteration(_A.PARTITION, part, removes=True)
        yield Alteration(_A.COLUMN, part)
        yield Alteration(_A.KEY, part, removes=True)
    elif subtype in {"AT_ClusterOn", "AT_DropCluster"}:
        yield Alteration(_A.CLUSTERING, relation, removes=subtype == "AT_DropCluster")
    elif subtype not in _HARMLESS:
        yield Alteration(_A.RELATION, relation)


def _cascaded(node: Tree, relation: Relation | None = None) -> Iterator[Alteration]:
    """What CASCADE drops besides: views, foreign keys, defaults, triggers, policies and all other dependent objects."""
    if label(node, "behavior") == "DROP_CASCADE":
        yield Alteration(_A.DEPENDENTS, relation, removes=True)


_ROW_SECURITY = ("AT_EnableRowSecurity", "AT_DisableRowSecurity", "AT_ForceRowSecurity", "AT_NoForceRowSecurity")
#: Subcommands that change one aspect of the table, and that can make a later statement fail.
_PLAIN: Mapping[str, Aspect] = {
    **dict.fromkeys(("AT_AlterColumnType", "AT_ColumnDefault", "AT_CookedColumnDefault"), _A.COLUMN),
    **dict.fromkeys(("AT_SetNotNull", "AT_DropNotNull", "AT_SetExpression", "AT_DropExpression"), _A.COLUMN),
    **dict.fromkeys(("AT_AddIdentity", "AT_SetIdentity", "AT_DropIdentity"), _A.COLUMN),
    **dict.fromkeys(("AT_ChangeOwner", *_ROW_SECURITY), _A.PRIVILEGE),
    **dict.fromkeys(("AT_AddInherit", "AT_DropInherit", "AT_AddOf", "AT_DropOf"), _A.INHERITANCE),
    "AT_ReplicaIdentity": _A.PUBLISHED,
    "AT_SetUnLogged": _A.RELATION,
}
#: Subcommands that change nothing that a later statement can depend on.
_HARMLESS = frozenset(
    {
        *("AT_SetStatistics", "AT_SetStorage", "AT_SetCompression", "AT_SetOptions", "AT_ResetOptions"),
        *("AT_SetRelOptions", "AT_ResetRelOptions", "AT_SetLogged", "AT_SetTableSpace", "AT_SetAccessMethod"),
    }
)
_KEYS = frozenset({"CONSTR_UNIQUE", "CONSTR_PRIMARY", "CONSTR_EXCLUSION"})
_OF_TABLE = frozenset({*_KEYS, "CONSTR_CHECK", "CONSTR_FOREIGN", "CONSTR_NOTNULL"})


def _constraint(node: Tree, relation: Relation) -> Iterator[Alteration]:
    kind = label(node, "contype")
    if kind in _OF_TABLE:
        yield Alteration(_A.CONSTRAINT, relation, node.conname)
    if kind in _KEYS:
        yield Alteration(_A.KEY, relation, node.conname)
    if kind == "CONSTR_FOREIGN":
        yield Alteration(_A.CONSTRAINT, relation_of(node.pktable), removes=True)


def _index(node: Tree) -> Iterator[Alteration]:
    if node.unique:
        relation, guarded = relation_of(node.relation), node.if_not_exists
        yield Alteration(_A.KEY, relation, node.idxname, guarded=guarded)


def _rebuilt(aspect: Aspect) -> Callable[[Tree], Iterator[Alteration]]:
    """CLUSTER remembers its index; REINDEX makes an index valid that an interrupted build has left INVALID."""

    def read(node: Tree) -> Iterator[Alteration]:
        relation = relation_of(node.relation) if node.HasField("relation") else None
        yield Alteration(aspect, relation, removes=getattr(node, "skip_data", False))

    return read


def _view(node: Tree) -> Iterator[Alteration]:
    if node.replace:
        view = relation_of(node.view)
        yield Alteration(_A.COLUMN, view)
        yield Alteration(_A.RELATION, view, removes=True)
        yield Alteration(_A.PRIVILEGE, view, removes=True)


def _created_table(node: Tree) -> Iterator[Alteration]:
    """A partition or child changes its parent, a foreign key the table that it refers to."""
    for parent in map(unwrap, node.inh_relations):
        yield Alteration(_A.PARTITION, relation_of(parent), node.relation.relname, removes=True)
    for constraint in find(node, "Constraint"):
        if constraint.HasField("pktable"):
            yield Alteration(_A.CONSTRAINT, relation_of(constraint.pktable), removes=True)


def _created_schema(node: Tree) -> Iterator[Alteration]:
    for element in map(unwrap, node.schema_elts):
        reader = _READERS.get(element.DESCRIPTOR.name)
        if reader is not None:
            yield from reader(element)


def _attached(relation: str, name: str) -> Callable[[Tree], Iterator[Alteration]]:
    """CREATE TRIGGER, RULE and POLICY: the fields of the table and of the name."""

    def read(node: Tree) -> Iterator[Alteration]:
        table = relation_of(getattr(node, relation))
        yield Alteration(_A.ATTACHED, table, getattr(node, name))
        yield Alteration(_A.PRIVILEGE, table, removes=True)
        # What a trigger's function does is not known, and MERGE refuses a table with rules.
        yield Alteration(_A.RELATION, table, removes=relation == "relation")

    return read


# --- types, functions, operators and other objects --------------------------------------------------------------------


def _enum(node: Tree) -> Iterator[Alteration]:
    name = strings(node.type_name)[-1]
    added = "" if node.old_val else node.new_val
    yield Alteration(_A.TYPE, name=name, removes=bool(node.old_val), old=node.old_val, value=added)


def _fixed(aspect: Aspect, field: str = "", *, removes: bool = False) -> Callable[[Tree], Iterator[Alteration]]:
    """What is named by one field, which may be one of a field's: a string, or the parts of a name."""

    def read(node: Tree) -> Iterator[Alteration]:
        held = attrgetter(field)(node) if field else ""
        name = held if isinstance(held, str) else (strings(held) or ("",))[-1]
        yield Alteration(aspect, name=name, removes=removes)

    return read


#: What an object of each type is, where it is dropped, renamed or moved.
_ASPECTS: Mapping[str, Aspect] = {
    **dict.fromkeys(("OBJECT_TYPE", "OBJECT_DOMAIN", "OBJECT_ATTRIBUTE", "OBJECT_DOMCONSTRAINT"), _A.TYPE),
    **dict.fromkeys(("OBJECT_FUNCTION", "OBJECT_PROCEDURE", "OBJECT_ROUTINE", "OBJECT_AGGREGATE"), _A.FUNCTION),
    **dict.fromkeys(("OBJECT_OPERATOR", "OBJECT_OPCLASS", "OBJECT_OPFAMILY", "OBJECT_CAST"), _A.OPERATOR),
    **dict.fromkeys(("OBJECT_TRIGGER", "OBJECT_RULE", "OBJECT_POLICY"), _A.ATTACHED),
    "OBJECT_ROLE": _A.ROLE,
    "OBJECT_EXTENSION": _A.EXTENSION,
}
_RELATIONS = frozenset(
    {
        *("OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_SEQUENCE", "OBJECT_FOREIGN_TABLE"),
        *("OBJECT_INDEX", "OBJECT_SCHEMA"),
    }
)


def _dropped(node: Tree) -> Iterator[Alteration]:
    """DROP of what is no relation or schema; of those `changes` has the names."""
    kind = label(node, "remove_type")
    for dropped in map(unwrap, node.objects):
        name = object_name(dropped)
        if kind == "OBJECT_INDEX":
            yield Alteration(_A.KEY, name=name, removes=True)
        elif kind == "OBJECT_TABLE":
            yield Alteration(_A.SEQUENCES, removes=True)
        elif kind in {"OBJECT_TRIGGER", "OBJECT_RULE", "OBJECT_POLICY"}:
            table = relation_named(strings(dropped.items)[:-1])
            yield Alteration(_A.ATTACHED, table, name, removes=True)
            yield Alteration(_A.PRIVILEGE, table, removes=True)
            yield Alteration(_A.RELATION, table)
        elif kind not in _RELATIONS:
            yield Alteration(_ASPECTS.get(kind, _A.OBJECT), name=name, removes=True, old=name)
    if kind == "OBJECT_PUBLICATION":
        yield Alteration(_A.PUBLISHED)
    if kind == "OBJECT_EVENT_TRIGGER":
        yield Alteration(_A.EVENTS)
    if label(node, "behavior") == "DROP_CASCADE" and kind != "OBJECT_INDEX":
        yield Alteration(_A.CONSTRAINT, removes=True)
        yield Alteration(_A.FUNCTION, removes=True)
        yield Alteration(_A.ATTACHED, removes=True)
        if kind not in _RELATIONS - {"OBJECT_SCHEMA", "OBJECT_SEQUENCE"}:  # of relations the catalog has the views
            yield from _cascaded(node)
        if kind in {"OBJECT_TYPE", "OBJECT_DOMAIN", "OBJECT_EXTENSION"}:
            yield Alteration(_A.COLUMN, removes=True)


def object_name(node: Tree) -> str:
    """Return the last part of the name of an object in DROP, ALTER … RENAME and the like, empty for a cast."""
    if node.DESCRIPTOR.name == "String":
        return str(node.sval)
    fields = {"List": "items", "ObjectWithArgs": "objname", "TypeName": "names"}
    parts = [unwrap(item) for item in getattr(node, fields.get(node.DESCRIPTOR.name, ""), ())]
    return str(parts[-1].sval) if parts and parts[-1].DESCRIPTOR.name == "String" else ""


def _renamed(node: Tree) -> Iterator[Alteration]:
    kind = label(node, "rename_type")
    relation = relation_of(node.relation) if node.HasField("relation") else None
    if kind == "OBJECT_COLUMN":
        yield Alteration(_A.COLUMN, relation, node.newname, removes=True, old=node.subname)
    elif kind == "OBJECT_TABCONSTRAINT":
        for aspect in (_A.CONSTRAINT, _A.KEY):
            yield Alteration(aspect, relation, name=node.newname, removes=True, old=node.subname)
    elif kind in {"OBJECT_TRIGGER", "OBJECT_RULE", "OBJECT_POLICY"}:
        yield Alteration(_A.ATTACHED, relation, node.newname, removes=True, old=node.subname)
    elif kind == "OBJECT_ATTRIBUTE" and relation is not None:
        yield Alteration(_A.TYPE, name=relation.name, removes=True, old=node.subname)
    elif kind == "OBJECT_INDEX" and relation is not None:
        yield Alteration(_A.KEY, name=node.newname, removes=True, old=relation.name)
    elif kind not in _RELATIONS:
        old = object_name(unwrap(node.object)) if node.HasField("object") else node.subname
        yield Alteration(_ASPECTS.get(kind, _A.OBJECT), name=node.newname, removes=True, old=old)


def _moved(node: Tree) -> Iterator[Alteration]:
    kind = label(node, "object_type")
    if kind not in _RELATIONS and node.HasField("object"):
        name = object_name(unwrap(node.object))
        yield Alteration(_ASPECTS.get(kind, _A.OBJECT), name=name, removes=True, old=name)


# --- roles, privileges and settings -----------------------------------------------------------------------------------


def _granted(node: Tree) -> Iterator[Alteration]:
    of_tables = label(node, "objtype") in {"OBJECT_TABLE", "OBJECT_SEQUENCE"}
    if label(node, "targtype") == "ACL_TARGET_OBJECT" and of_tables:
        for named in map(unwrap, node.objects):
            yield Alteration(_A.PRIVILEGE, relation_of(named), removes=not node.is_grant)
    else:
        yield Alteration(_A.PRIVILEGE, removes=not node.is_grant)


def _role_granted(node: Tree) -> Iterator[Alteration]:
    yield Alteration(_A.PRIVILEGE, removes=not node.is_grant)
    for role in map(unwrap, node.grantee_roles):
        yield Alteration(_A.ROLE, name=role.rolename, removes=not node.is_grant)


def _role(node: Tree) -> Iterator[Alteration]:
    name = node.role if isinstance(node.role, str) else node.role.rolename
    created = node.DESCRIPTOR.name == "CreateRoleStmt"
    yield Alteration(_A.ROLE, name=name, removes=not created)
    yield Alteration(_A.PRIVILEGE, removes=not created)


def _owned(_: Tree) -> Iterator[Alteration]:
    """DROP OWNED and REASSIGN OWNED."""
    yield Alteration(_A.PRIVILEGE, removes=True)
    yield Alteration(_A.RELATION, removes=True)


def _event_trigger(node: Tree) -> Iterator[Alteration]:
    yield Alteration(_A.OBJECT, name=node.trigname)
    yield Alteration(_A.EVENTS, name=node.trigname, removes=True)


def _published(node: Tree) -> Iterator[Alteration]:
    """A publication of named tables, or of all tables of schemas or of the database."""
    yield Alteration(_A.OBJECT, name=node.pubname)
    tables = [one.pubtable.relation for one in map(unwrap, node.pubobjects) if one.HasField("pubtable")]
    for table in tables:
        yield Alteration(_A.PUBLISHED, relation_of(table), removes=True)
    if len(tables) < len(node.pubobjects) or not tables:
        yield Alteration(_A.PUBLISHED, removes=True)


_READERS: Mapping[str, Callable[[Tree], Iterable[Alteration]]] = {
    "AlterTableStmt": _table,
    "IndexStmt": _index,
    "RefreshMatViewStmt": _rebuilt(_A.FILLING),
    "ClusterStmt": _rebuilt(_A.CLUSTERING),
    "ReindexStmt": _rebuilt(_A.VALIDITY),
    "ViewStmt": _view,
    "CreateStmt": _created_table,
    "CreateForeignTableStmt": lambda node: _created_table(node.base_stmt),
    "CreateSchemaStmt": _created_schema,
    "AlterSeqStmt": lambda node: [Alteration(_A.RELATION, relation_of(node.sequence))],
    "CreateTrigStmt": _attached("relation", "trigname"),
    "RuleStmt": _attached("relation", "rulename"),
    "CreatePolicyStmt": _attached("table", "policy_name"),
    "AlterPolicyStmt": _attached("table", "policy_name"),
    "AlterEnumStmt": _enum,
    **dict.fromkeys(("AlterDomainStmt", "AlterTypeStmt"), _fixed(_A.TYPE, "type_name", removes=True)),
    **dict.fromkeys(("CreateEnumStmt", "CreateRangeStmt"), _fixed(_A.TYPE, "type_name")),
    "CreateDomainStmt": _fixed(_A.TYPE, "domainname"),
    "CompositeTypeStmt": _fixed(_A.TYPE, "typevar.relname"),
    # CREATE AGGREGATE, OPERATOR, TYPE, COLLATION and TEXT SEARCH ….
    "DefineStmt": lambda node: [
        Alteration(_ASPECTS.get(label(node, "kind"), _A.OBJECT), name=strings(node.defnames)[-1])
    ],
    "CreateFunctionStmt": _fixed(_A.FUNCTION, "funcname", removes=True),
    "AlterFunctionStmt": _fixed(_A.FUNCTION, "func.objname", removes=True),
    "DeclareCursorStmt": lambda node: [
        Alteration(_A.CURSOR, relation_of(named), removes=True) for named in find(node, "RangeVar")
    ],
    # An implicit cast can make calls and operators ambiguous that are not without it.
    "CreateCastStmt": lambda node: [Alteration(_A.OPERATOR, removes=label(node, "context") == "COERCION_IMPLICIT")],
    "CreateOpClassStmt": _fixed(_A.OPERATOR, "opclassname"),
    "CreateOpFamilyStmt": _fixed(_A.OPERATOR, "opfamilyname"),
    "AlterOpFamilyStmt": _fixed(_A.OPERATOR, "opfamilyname", removes=True),
    "AlterOperatorStmt": _fixed(_A.OPERATOR, removes=True),
    "CreateTransformStmt": _fixed(_A.OBJECT),
    "CreateConversionStmt": _fixed(_A.OBJECT, "conversion_name"),
    "CreatePLangStmt": _fixed(_A.OBJECT, "plname"),
    "CreateFdwStmt": _fixed(_A.OBJECT, "fdwname"),
    "AlterFdwStmt": _fixed(_A.OBJECT, "fdwname", removes=True),
    **dict.fromkeys(("CreateForeignServerStmt", "CreateUserMappingStmt"), _fixed(_A.OBJECT, "servername")),
    **dict.fromkeys(("AlterForeignServerStmt", "DropUserMappingStmt"), _fixed(_A.OBJECT, "servername", removes=True)),
    "ImportForeignSchemaStmt": _fixed(_A.EXTENSION),
    "CreateAmStmt": _fixed(_A.OBJECT, "amname"),
    "CreateEventTrigStmt": _event_trigger,
    "AlterEventTrigStmt": _event_trigger,
    "CreatePublicationStmt": _published,
    "AlterPublicationStmt": _published,
    **dict.fromkeys(("CreateSubscriptionStmt", "AlterSubscriptionStmt"), _fixed(_A.OBJECT, "subname")),
    "DropSubscriptionStmt": _fixed(_A.OBJECT, "subname", removes=True),
    "CreateStatsStmt": _fixed(_A.OBJECT, "defnames"),
    "CreateTableSpaceStmt": _fixed(_A.OBJECT, "tablespacename"),
    "DropTableSpaceStmt": _fixed(_A.OBJECT, "tablespacename", removes=True),
    "CreatedbStmt": _fixed(_A.OBJECT, "dbname"),
    "DropdbStmt": _fixed(_A.OBJECT, "dbname", removes=True),
    "AlterTSConfigurationStmt": _fixed(_A.OBJECT, "cfgname", removes=True),
    "AlterTSDictionaryStmt": _fixed(_A.OBJECT, "dictname", removes=True),
    **dict.fromkeys(("CreateExtensionStmt", "AlterExtensionStmt"), _fixed(_A.EXTENSION, "extname")),
    "AlterExtensionContentsStmt": _fixed(_A.EXTENSION, "extname", removes=True),
    "DropStmt": _dropped,
    "RenameStmt": _renamed,
    "AlterObjectSchemaStmt": _moved,
    "AlterOwnerStmt": _fixed(_A.PRIVILEGE, removes=True),
    "GrantStmt": _granted,
    "AlterDefaultPrivilegesStmt": _fixed(_A.PRIVILEGE),
    "GrantRoleStmt": _role_granted,
    "CreateRoleStmt": _role,
    "AlterRoleStmt": _role,
    "DropRoleStmt": lambda node: [
        Alteration(_A.ROLE, name=role.rolename, removes=True, old=role.rolename) for role in map(unwrap, node.roles)
    ],
    "DropOwnedStmt": _owned,
    "ReassignOwnedStmt": _owned,
    **dict.fromkeys(("AlterRoleSetStmt", "AlterDatabaseSetStmt", "AlterSystemStmt"), _fixed(_A.SETTING, removes=True)),
}
