"""Every change of a definition that a later statement may depend on, besides the names that are created and dropped.

`catalog_changes` has the names, which a dry run tracks individually. The changes here cannot be tracked: the type of a
column, a privilege, an operator. A later statement that depends on one is judged with caution. Everything that can
make a later statement possible or impossible must be here; an unknown command may alter anything.

A value added to an enum type can be used only after its transaction has committed, unless that transaction created the
type as well (enum.c, EnumUncommitted). Sources: each command's page in the PostgreSQL documentation.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping

from runner.sql.relations import Relation, relation_named, relation_of
from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import Tree, find, label, strings, unwrap
from runner.structs import Struct

_K = StatementKind


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


class Alteration(Struct, frozen=True, kw_only=True):
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
    def what(self) -> str:
        """Return a description of what is altered: `the column t.b`."""
        named = f" {Relation(None, self.name)}" if self.name else ""
        of = f" of {self.relation}" if self.relation is not None else ""
        return f"the {self.aspect.value}{named}{of}"


def alterations(statement: Statement) -> tuple[Alteration, ...]:
    """Return what the statement alters, as far as its text shows; none for a query."""
    if statement.kind in _NOTHING:
        return ()
    reader = _READERS.get(statement.node.DESCRIPTOR.name)
    return () if reader is None else tuple(reader(statement.node))


def fires_event_triggers(statement: Statement) -> bool:
    """Return whether the statement is of a kind that fires event triggers: what defines objects of the database.

    Those of the whole server, and event triggers themselves, fire none.
    """
    of_events = statement.node.DESCRIPTOR.name in {"CreateEventTrigStmt", "AlterEventTrigStmt"}
    return not of_events and statement.kind not in _WITHOUT_EVENTS


_WITHOUT_EVENTS = frozenset(
    {
        *(_K.SELECT, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.COPY_FROM, _K.COPY_TO, _K.CALL, _K.DO, _K.EXPLAIN),
        *(_K.PREPARE, _K.EXECUTE, _K.DEALLOCATE, _K.DECLARE_CURSOR, _K.FETCH, _K.MOVE, _K.CLOSE, _K.TRUNCATE, _K.LOCK),
        *(_K.VACUUM, _K.ANALYZE, _K.CLUSTER, _K.CREATE_ROLE, _K.ALTER_ROLE, _K.DROP_ROLE, _K.GRANT_ROLE),
        *(_K.CREATE_DATABASE, _K.ALTER_DATABASE, _K.DROP_DATABASE, _K.ALTER_SYSTEM, _K.CHECKPOINT, _K.LOAD),
        *(_K.CREATE_TABLESPACE, _K.ALTER_TABLESPACE, _K.DROP_TABLESPACE, _K.DISCARD, _K.SET, _K.RESET, _K.SHOW),
        *(_K.SET_TRANSACTION, _K.SET_CONSTRAINTS, _K.TRANSACTION, _K.LISTEN, _K.UNLISTEN, _K.NOTIFY),
    }
)


_NOTHING = frozenset(
    {
        *(_K.SELECT, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.VACUUM, _K.ANALYZE, _K.TRUNCATE, _K.LOCK, _K.SET),
        *(_K.RESET, _K.SHOW, _K.COPY_FROM, _K.COPY_TO, _K.EXPLAIN, _K.CHECKPOINT, _K.NOTIFY),
    }
)
_A = Aspect


# --- relations --------------------------------------------------------------------------------------------------------


def _table(node: Tree) -> Iterator[Alteration]:
    relation = relation_of(node.relation)
    for command in map(unwrap, node.cmds):
        yield from _subcommand(command, relation)
    if label(node, "objtype") == "OBJECT_TYPE":
        yield Alteration(aspect=_A.TYPE, name=relation.name, removes=True)
    if label(node, "objtype") == "OBJECT_VIEW":  # security_invoker, security_barrier, check_option
        yield Alteration(aspect=_A.PRIVILEGE, relation=relation, removes=True)


def _subcommand(command: Tree, relation: Relation) -> Iterator[Alteration]:
    subtype = label(command, "subtype")
    definition = unwrap(getattr(command, "def"))
    if subtype == "AT_AddColumn":
        yield Alteration(aspect=_A.COLUMN, relation=relation, name=definition.colname, guarded=command.missing_ok)
        for constraint in map(unwrap, definition.constraints):
            yield from _constraint(constraint, relation)
    elif subtype == "AT_DropColumn":
        yield Alteration(aspect=_A.COLUMN, relation=relation, name=command.name, removes=True, old=command.name)
        yield Alteration(aspect=_A.KEY, relation=relation, removes=True)
        yield Alteration(aspect=_A.SEQUENCES, removes=True)
        yield from _cascaded(command, relation)
    elif subtype in _OF_COLUMN:
        yield Alteration(aspect=_A.COLUMN, relation=relation, name=command.name, removes=True)
    elif subtype == "AT_AddConstraint":
        yield from _constraint(definition, relation)
    elif subtype in {"AT_DropConstraint", "AT_AlterConstraint", "AT_ValidateConstraint"}:
        removes = subtype != "AT_ValidateConstraint"
        name = command.name or getattr(definition, "conname", "")
        yield Alteration(aspect=_A.CONSTRAINT, relation=relation, name=name, removes=removes)
        yield Alteration(aspect=_A.KEY, relation=relation, name=name, removes=removes)
        yield from _cascaded(command, relation)
    elif subtype in _PLAIN:
        yield Alteration(aspect=_PLAIN[subtype], relation=relation, removes=True)
    elif subtype.startswith(("AT_AttachPartition", "AT_DetachPartition")):
        part = relation_of(definition.name)
        yield Alteration(aspect=_A.PARTITION, relation=relation, name=part.name, removes=True)
        yield Alteration(aspect=_A.PARTITION, relation=part, removes=True)
        yield Alteration(aspect=_A.COLUMN, relation=part)
        yield Alteration(aspect=_A.KEY, relation=part, removes=True)
    elif subtype in {"AT_ClusterOn", "AT_DropCluster"}:
        yield Alteration(aspect=_A.CLUSTERING, relation=relation, removes=subtype == "AT_DropCluster")
    elif subtype not in _HARMLESS:
        yield Alteration(aspect=_A.RELATION, relation=relation)


def _cascaded(node: Tree, relation: Relation | None = None) -> Iterator[Alteration]:
    """What CASCADE drops besides: views, foreign keys, defaults, triggers, policies, whatever depends on the object."""
    if label(node, "behavior") == "DROP_CASCADE":
        yield Alteration(aspect=_A.DEPENDENTS, relation=relation, removes=True)


_ROW_SECURITY = ("AT_EnableRowSecurity", "AT_DisableRowSecurity", "AT_ForceRowSecurity", "AT_NoForceRowSecurity")
#: Subcommands that change one aspect of the table, and that can make a later statement fail.
_PLAIN: Mapping[str, Aspect] = {
    **dict.fromkeys(("AT_ChangeOwner", *_ROW_SECURITY), _A.PRIVILEGE),
    **dict.fromkeys(("AT_AddInherit", "AT_DropInherit", "AT_AddOf", "AT_DropOf"), _A.INHERITANCE),
    "AT_ReplicaIdentity": _A.PUBLISHED,
    "AT_SetUnLogged": _A.RELATION,
}
_OF_COLUMN = frozenset(
    {
        *("AT_AlterColumnType", "AT_ColumnDefault", "AT_CookedColumnDefault", "AT_SetNotNull", "AT_DropNotNull"),
        *("AT_SetExpression", "AT_DropExpression", "AT_AddIdentity", "AT_SetIdentity", "AT_DropIdentity"),
    }
)
#: Subcommands that change nothing that a later statement can depend on.
_HARMLESS = frozenset(
    {
        *("AT_SetStatistics", "AT_SetStorage", "AT_SetCompression", "AT_SetOptions", "AT_ResetOptions"),
        *(
            "AT_SetRelOptions",
            "AT_ResetRelOptions",
            "AT_SetLogged",
            "AT_SetTableSpace",
            "AT_SetAccessMethod",
        ),
    }
)
_KEYS = frozenset({"CONSTR_UNIQUE", "CONSTR_PRIMARY", "CONSTR_EXCLUSION"})
_OF_TABLE = frozenset({*_KEYS, "CONSTR_CHECK", "CONSTR_FOREIGN", "CONSTR_NOTNULL"})


def _constraint(node: Tree, relation: Relation) -> Iterator[Alteration]:
    kind = label(node, "contype")
    if kind in _OF_TABLE:
        yield Alteration(aspect=_A.CONSTRAINT, relation=relation, name=node.conname)
    if kind in _KEYS:
        yield Alteration(aspect=_A.KEY, relation=relation, name=node.conname)
    if kind == "CONSTR_FOREIGN":
        yield Alteration(aspect=_A.CONSTRAINT, relation=relation_of(node.pktable), removes=True)


def _index(node: Tree) -> Iterator[Alteration]:
    if node.unique:
        relation, guarded = relation_of(node.relation), node.if_not_exists
        yield Alteration(aspect=_A.KEY, relation=relation, name=node.idxname, guarded=guarded)


def _refreshed(node: Tree) -> Iterator[Alteration]:
    yield Alteration(aspect=_A.FILLING, relation=relation_of(node.relation), removes=node.skip_data)


def _rebuilt(node: Tree) -> Iterator[Alteration]:
    """CLUSTER remembers its index; REINDEX makes an index valid that an interrupted build has left INVALID."""
    aspect = _A.CLUSTERING if node.DESCRIPTOR.name == "ClusterStmt" else _A.VALIDITY
    relation = relation_of(node.relation) if node.HasField("relation") else None
    yield Alteration(aspect=aspect, relation=relation)


def _view(node: Tree) -> Iterator[Alteration]:
    if node.replace:
        view = relation_of(node.view)
        yield Alteration(aspect=_A.COLUMN, relation=view)
        yield Alteration(aspect=_A.RELATION, relation=view, removes=True)
        yield Alteration(aspect=_A.PRIVILEGE, relation=view, removes=True)


def _created_table(node: Tree) -> Iterator[Alteration]:
    """A partition or child changes its parent, a foreign key the table that it refers to."""
    for parent in map(unwrap, node.inh_relations):
        yield Alteration(aspect=_A.PARTITION, relation=relation_of(parent), name=node.relation.relname, removes=True)
    for constraint in find(node, "Constraint"):
        if constraint.HasField("pktable"):
            yield Alteration(aspect=_A.CONSTRAINT, relation=relation_of(constraint.pktable), removes=True)


def _created_schema(node: Tree) -> Iterator[Alteration]:
    for element in map(unwrap, node.schema_elts):
        reader = _READERS.get(element.DESCRIPTOR.name)
        if reader is not None:
            yield from reader(element)


def _sequence(node: Tree) -> Iterator[Alteration]:
    yield Alteration(aspect=_A.RELATION, relation=relation_of(node.sequence))


def _attached(relation: str, name: str) -> Callable[[Tree], Iterator[Alteration]]:
    """CREATE TRIGGER, RULE and POLICY: the fields of the table and of the name."""

    def read(node: Tree) -> Iterator[Alteration]:
        table = relation_of(getattr(node, relation))
        yield Alteration(aspect=_A.ATTACHED, relation=table, name=getattr(node, name))
        yield Alteration(aspect=_A.PRIVILEGE, relation=table, removes=True)
        # What a trigger's function does is not known, and MERGE refuses a table with rules.
        yield Alteration(aspect=_A.RELATION, relation=table, removes=relation == "relation")

    return read


# --- types, functions, operators and other objects --------------------------------------------------------------------


def _enum(node: Tree) -> Iterator[Alteration]:
    name = strings(node.type_name)[-1]
    added = "" if node.old_val else node.new_val
    yield Alteration(aspect=_A.TYPE, name=name, removes=bool(node.old_val), old=node.old_val, value=added)


def _domain(node: Tree) -> Iterator[Alteration]:
    yield Alteration(aspect=_A.TYPE, name=strings(node.type_name)[-1], removes=True)


def _fixed(aspect: Aspect, field: str = "", *, removes: bool = False) -> Callable[[Tree], Iterator[Alteration]]:
    """What is named by one field: a string, or the parts of a name."""

    def read(node: Tree) -> Iterator[Alteration]:
        held = getattr(node, field) if field else ""
        name = held if isinstance(held, str) else (strings(held) or ("",))[-1]
        yield Alteration(aspect=aspect, name=name, removes=removes)

    return read


def _defined(node: Tree) -> Iterator[Alteration]:
    """CREATE AGGREGATE, OPERATOR, TYPE, COLLATION and TEXT SEARCH …."""
    kind = label(node, "kind")
    aspect = {"OBJECT_AGGREGATE": _A.FUNCTION, "OBJECT_OPERATOR": _A.OPERATOR, "OBJECT_TYPE": _A.TYPE}.get(
        kind, _A.OBJECT
    )
    yield Alteration(aspect=aspect, name=strings(node.defnames)[-1])


def _function_altered(node: Tree) -> Iterator[Alteration]:
    yield Alteration(aspect=_A.FUNCTION, name=strings(node.func.objname)[-1], removes=True)


#: What an object of each type is, where it is dropped, renamed or moved.
_ASPECTS: Mapping[str, Aspect] = {
    **dict.fromkeys(("OBJECT_TYPE", "OBJECT_DOMAIN", "OBJECT_ATTRIBUTE", "OBJECT_DOMCONSTRAINT"), _A.TYPE),
    **dict.fromkeys(
        ("OBJECT_FUNCTION", "OBJECT_PROCEDURE", "OBJECT_ROUTINE", "OBJECT_AGGREGATE"),
        _A.FUNCTION,
    ),
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
            yield Alteration(aspect=_A.KEY, name=name, removes=True)
        elif kind == "OBJECT_TABLE":
            yield Alteration(aspect=_A.SEQUENCES, removes=True)
        elif kind in {"OBJECT_TRIGGER", "OBJECT_RULE", "OBJECT_POLICY"}:
            table = relation_named(strings(dropped.items)[:-1])
            yield Alteration(aspect=_A.ATTACHED, relation=table, name=name, removes=True)
            yield Alteration(aspect=_A.PRIVILEGE, relation=table, removes=True)
            yield Alteration(aspect=_A.RELATION, relation=table)
        elif kind not in _RELATIONS:
            yield Alteration(aspect=_ASPECTS.get(kind, _A.OBJECT), name=name, removes=True, old=name)
    if kind == "OBJECT_PUBLICATION":
        yield Alteration(aspect=_A.PUBLISHED)
    if kind == "OBJECT_EVENT_TRIGGER":
        yield Alteration(aspect=_A.EVENTS)
    if label(node, "behavior") == "DROP_CASCADE" and kind != "OBJECT_INDEX":
        yield Alteration(aspect=_A.CONSTRAINT, removes=True)
        yield Alteration(aspect=_A.FUNCTION, removes=True)
        yield Alteration(aspect=_A.ATTACHED, removes=True)
        if kind not in _RELATIONS - {"OBJECT_SCHEMA", "OBJECT_SEQUENCE"}:  # of relations the catalog has the views
            yield from _cascaded(node)
        if kind in {"OBJECT_TYPE", "OBJECT_DOMAIN", "OBJECT_EXTENSION"}:
            yield Alteration(aspect=_A.COLUMN, removes=True)


def object_name(node: Tree) -> str:
    """Return the last part of the name of an object in DROP, ALTER … RENAME and the like, empty for a cast."""
    match node.DESCRIPTOR.name:
        case "String":
            text: str = node.sval
            return text
        case "List":
            parts = [unwrap(item) for item in node.items]
            return parts[-1].sval if parts and parts[-1].DESCRIPTOR.name == "String" else ""
        case "ObjectWithArgs":
            return (strings(node.objname) or ("",))[-1]
        case "TypeName":
            return (strings(node.names) or ("",))[-1]
    return ""


def _renamed(node: Tree) -> Iterator[Alteration]:
    kind = label(node, "rename_type")
    relation = relation_of(node.relation) if node.HasField("relation") else None
    if kind == "OBJECT_COLUMN":
        yield Alteration(aspect=_A.COLUMN, relation=relation, name=node.newname, removes=True, old=node.subname)
    elif kind == "OBJECT_TABCONSTRAINT":
        for aspect in (_A.CONSTRAINT, _A.KEY):
            yield Alteration(aspect=aspect, relation=relation, name=node.newname, removes=True, old=node.subname)
    elif kind in {"OBJECT_TRIGGER", "OBJECT_RULE", "OBJECT_POLICY"}:
        yield Alteration(aspect=_A.ATTACHED, relation=relation, name=node.newname, removes=True, old=node.subname)
    elif kind == "OBJECT_ATTRIBUTE" and relation is not None:
        yield Alteration(aspect=_A.TYPE, name=relation.name, removes=True, old=node.subname)
    elif kind == "OBJECT_INDEX" and relation is not None:
        yield Alteration(aspect=_A.KEY, name=node.newname, removes=True, old=relation.name)
    elif kind not in _RELATIONS:
        old = object_name(unwrap(node.object)) if node.HasField("object") else node.subname
        yield Alteration(aspect=_ASPECTS.get(kind, _A.OBJECT), name=node.newname, removes=True, old=old)


def _moved(node: Tree) -> Iterator[Alteration]:
    kind = label(node, "object_type")
    if kind not in _RELATIONS and node.HasField("object"):
        name = object_name(unwrap(node.object))
        yield Alteration(aspect=_ASPECTS.get(kind, _A.OBJECT), name=name, removes=True, old=name)


# --- roles, privileges and settings -----------------------------------------------------------------------------------


def _granted(node: Tree) -> Iterator[Alteration]:
    removes = not node.is_grant
    tables = label(node, "targtype") == "ACL_TARGET_OBJECT" and label(node, "objtype") in {
        "OBJECT_TABLE",
        "OBJECT_SEQUENCE",
    }
    if not tables:
        yield Alteration(aspect=_A.PRIVILEGE, removes=removes)
        return
    for named in map(unwrap, node.objects):
        yield Alteration(aspect=_A.PRIVILEGE, relation=relation_of(named), removes=removes)


def _role_granted(node: Tree) -> Iterator[Alteration]:
    yield Alteration(aspect=_A.PRIVILEGE, removes=not node.is_grant)
    for role in map(unwrap, node.grantee_roles):
        yield Alteration(aspect=_A.ROLE, name=role.rolename, removes=not node.is_grant)


def _role(node: Tree) -> Iterator[Alteration]:
    name = node.role if isinstance(node.role, str) else node.role.rolename
    created = node.DESCRIPTOR.name == "CreateRoleStmt"
    yield Alteration(aspect=_A.ROLE, name=name, removes=not created)
    yield Alteration(aspect=_A.PRIVILEGE, removes=not created)


def _roles_dropped(node: Tree) -> Iterator[Alteration]:
    for role in map(unwrap, node.roles):
        yield Alteration(aspect=_A.ROLE, name=role.rolename, removes=True, old=role.rolename)


def _any_privilege(_: Tree) -> Iterator[Alteration]:
    yield Alteration(aspect=_A.PRIVILEGE, removes=True)


def _owned(_: Tree) -> Iterator[Alteration]:
    """DROP OWNED and REASSIGN OWNED."""
    yield Alteration(aspect=_A.PRIVILEGE, removes=True)
    yield Alteration(aspect=_A.RELATION, removes=True)


def _setting(_: Tree) -> Iterator[Alteration]:
    yield Alteration(aspect=_A.SETTING, removes=True)


def _event_trigger(node: Tree) -> Iterator[Alteration]:
    yield Alteration(aspect=_A.OBJECT, name=node.trigname)
    yield Alteration(aspect=_A.EVENTS, name=node.trigname, removes=True)


def _published(node: Tree) -> Iterator[Alteration]:
    """A publication of named tables, or of all tables of schemas or of the database."""
    yield Alteration(aspect=_A.OBJECT, name=node.pubname)
    tables = [one.pubtable.relation for one in map(unwrap, node.pubobjects) if one.HasField("pubtable")]
    for table in tables:
        yield Alteration(aspect=_A.PUBLISHED, relation=relation_of(table), removes=True)
    if len(tables) < len(node.pubobjects) or not tables:
        yield Alteration(aspect=_A.PUBLISHED, removes=True)


def _cast(node: Tree) -> Iterator[Alteration]:
    """An implicit cast can make calls and operators ambiguous that are not without it."""
    yield Alteration(aspect=_A.OPERATOR, removes=label(node, "context") == "COERCION_IMPLICIT")


def _cursor(node: Tree) -> Iterator[Alteration]:
    for named in find(node, "RangeVar"):
        yield Alteration(aspect=_A.CURSOR, relation=relation_of(named), removes=True)


_READERS: Mapping[str, Callable[[Tree], Iterator[Alteration]]] = {
    "AlterTableStmt": _table,
    "IndexStmt": _index,
    "RefreshMatViewStmt": _refreshed,
    "ClusterStmt": _rebuilt,
    "ReindexStmt": _rebuilt,
    "ViewStmt": _view,
    "CreateStmt": _created_table,
    "CreateForeignTableStmt": lambda node: _created_table(node.base_stmt),
    "CreateSchemaStmt": _created_schema,
    "AlterSeqStmt": _sequence,
    "CreateTrigStmt": _attached("relation", "trigname"),
    "RuleStmt": _attached("relation", "rulename"),
    "CreatePolicyStmt": _attached("table", "policy_name"),
    "AlterPolicyStmt": _attached("table", "policy_name"),
    "AlterEnumStmt": _enum,
    "AlterDomainStmt": _domain,
    "AlterTypeStmt": _domain,
    "CreateEnumStmt": _fixed(_A.TYPE, "type_name"),
    "CreateRangeStmt": _fixed(_A.TYPE, "type_name"),
    "CreateDomainStmt": _fixed(_A.TYPE, "domainname"),
    "CompositeTypeStmt": lambda node: iter((Alteration(aspect=_A.TYPE, name=node.typevar.relname),)),
    "DefineStmt": _defined,
    "CreateFunctionStmt": _fixed(_A.FUNCTION, "funcname", removes=True),
    "AlterFunctionStmt": _function_altered,
    "DeclareCursorStmt": _cursor,
    "CreateCastStmt": _cast,
    "CreateOpClassStmt": _fixed(_A.OPERATOR, "opclassname"),
    "CreateOpFamilyStmt": _fixed(_A.OPERATOR, "opfamilyname"),
    "AlterOpFamilyStmt": _fixed(_A.OPERATOR, "opfamilyname", removes=True),
    "AlterOperatorStmt": _fixed(_A.OPERATOR, removes=True),
    "CreateTransformStmt": _fixed(_A.OBJECT),
    "CreateConversionStmt": _fixed(_A.OBJECT, "conversion_name"),
    "CreatePLangStmt": _fixed(_A.OBJECT, "plname"),
    "CreateFdwStmt": _fixed(_A.OBJECT, "fdwname"),
    "AlterFdwStmt": _fixed(_A.OBJECT, "fdwname", removes=True),
    "CreateForeignServerStmt": _fixed(_A.OBJECT, "servername"),
    "AlterForeignServerStmt": _fixed(_A.OBJECT, "servername", removes=True),
    "CreateUserMappingStmt": _fixed(_A.OBJECT, "servername"),
    "DropUserMappingStmt": _fixed(_A.OBJECT, "servername", removes=True),
    "ImportForeignSchemaStmt": _fixed(_A.EXTENSION),
    "CreateAmStmt": _fixed(_A.OBJECT, "amname"),
    "CreateEventTrigStmt": _event_trigger,
    "AlterEventTrigStmt": _event_trigger,
    "CreatePublicationStmt": _published,
    "AlterPublicationStmt": _published,
    "CreateSubscriptionStmt": _fixed(_A.OBJECT, "subname"),
    "AlterSubscriptionStmt": _fixed(_A.OBJECT, "subname"),
    "DropSubscriptionStmt": _fixed(_A.OBJECT, "subname", removes=True),
    "CreateStatsStmt": _fixed(_A.OBJECT, "defnames"),
    "CreateTableSpaceStmt": _fixed(_A.OBJECT, "tablespacename"),
    "DropTableSpaceStmt": _fixed(_A.OBJECT, "tablespacename", removes=True),
    "CreatedbStmt": _fixed(_A.OBJECT, "dbname"),
    "DropdbStmt": _fixed(_A.OBJECT, "dbname", removes=True),
    "AlterTSConfigurationStmt": _fixed(_A.OBJECT, "cfgname", removes=True),
    "AlterTSDictionaryStmt": _fixed(_A.OBJECT, "dictname", removes=True),
    "CreateExtensionStmt": _fixed(_A.EXTENSION, "extname"),
    "AlterExtensionStmt": _fixed(_A.EXTENSION, "extname"),
    "AlterExtensionContentsStmt": _fixed(_A.EXTENSION, "extname", removes=True),
    "DropStmt": _dropped,
    "RenameStmt": _renamed,
    "AlterObjectSchemaStmt": _moved,
    "AlterOwnerStmt": _any_privilege,
    "GrantStmt": _granted,
    "AlterDefaultPrivilegesStmt": lambda _: iter((Alteration(aspect=_A.PRIVILEGE),)),
    "GrantRoleStmt": _role_granted,
    "CreateRoleStmt": _role,
    "AlterRoleStmt": _role,
    "DropRoleStmt": _roles_dropped,
    "DropOwnedStmt": _owned,
    "ReassignOwnedStmt": _owned,
    "AlterRoleSetStmt": _setting,
    "AlterDatabaseSetStmt": _setting,
    "AlterSystemStmt": _setting,
}


class AddedValue(Struct, frozen=True, kw_only=True):
    """A value that ALTER TYPE … ADD VALUE adds; `guarded` with IF NOT EXISTS, so that it may be there already."""

    type: Relation
    label: str
    guarded: bool


class ValueUse(Struct, frozen=True, kw_only=True):
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
    if statement.kind in {StatementKind.ALTER_TYPE, StatementKind.COMMENT}:
        return None
    if statement.kind is StatementKind.DO:
        bodies = (unwrap(option.arg).sval for option in map(unwrap, statement.node.args) if option.defname == "as")
        used = any(f"'{value.label}'" in body for body in bodies)
        return ValueUse(offset=statement.start, certain=False) if used else None
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
