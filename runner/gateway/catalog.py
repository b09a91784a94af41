"""The catalog's facts about relations and other objects, as data: read once, used by many checks."""

from __future__ import annotations

import json
from collections.abc import Mapping

from runner.sql.relations import Relation
from runner.structs import Struct, field, from_values


class IndexFacts(Struct, frozen=True, kw_only=True):
    """An index of a table. `whole`: unique, valid and only on columns, as REFRESH CONCURRENTLY requires.

    `columns` are the key columns; `plain`: it has neither expressions nor a predicate; `excludes`: it belongs to an
    exclusion constraint.
    """

    relation: Relation
    valid: bool
    whole: bool
    bytes: int
    unique: bool = False
    plain: bool = True
    columns: frozenset[str] = frozenset()
    excludes: bool = False


class IndexedFacts(Struct, frozen=True, kw_only=True):
    """The table of an index, the role's privileges on it, and the constraint that the index belongs to.

    `part_of` is the index of the partitioned table that this index is a part of; `clusterable` says that CLUSTER can
    use it, `excludes` that it belongs to an exclusion constraint.
    """

    relation: Relation
    valid: bool
    owned: bool
    maintained: bool
    constraint: str | None
    method: str = "btree"
    clusterable: bool = True
    part_of: str | None = None
    excludes: bool = False


class KeyFacts(Struct, frozen=True, kw_only=True):
    """The referenced or referencing table of a foreign key, and the columns on this side.

    The actions are letters of pg_constraint, empty where they do not apply.
    """

    relation: Relation
    constraint: str
    columns: frozenset[str] = frozenset()
    on_delete: str = ""
    on_update: str = ""


class TriggerFacts(Struct, frozen=True, kw_only=True):
    """A trigger, its function, and the commands that fire it: INSERT, UPDATE, DELETE, TRUNCATE."""

    name: str
    function: str
    fires: frozenset[str]


class DependentFacts(Struct, frozen=True, kw_only=True):
    """An object that prevents the drop of a relation, other than views and foreign keys, as the server describes it.

    It is a relation (a child, a column of the row's type), a policy of `relation`, or `function`.
    """

    what: str
    relation: Relation | None = None
    function: str | None = None


class Size(Struct, frozen=True, kw_only=True):
    """The present size of a relation in bytes: with indexes, TOAST and partitions, and of its indexes alone."""

    total: int
    indexes: int


class RelationFacts(Struct, frozen=True, kw_only=True):
    """A relation. `bytes` and `rows` are those of the last VACUUM or ANALYZE, partitions not included.

    `owned`, `of_database` and `drops` (the database, the schema is the role's), `reached`, `privileges`, `on_columns`
    (those that it has on some column at least), `grants` (it may hand on some) and `unmaintained` (partitions that it
    may not maintain) are about the role that asks. `location` is the folder of its tablespace, empty if it is in the
    data directory. `size` is None if it was not measured.
    """

    oid: int
    relation: Relation
    kind: str
    owner: str
    owned: bool
    of_database: bool
    drops: bool
    reached: bool
    privileges: frozenset[str]
    on_columns: frozenset[str]
    grants: bool
    location: str
    bytes: int
    rows: int
    populated: bool
    columns: frozenset[str]
    constraints: frozenset[str]
    indexes: tuple[IndexFacts, ...]
    index_of: IndexedFacts | None
    partition_of: Relation | None
    detach_pending: bool
    default_partition: str | None
    children: tuple[Relation, ...]
    children_bytes: int
    unmaintained: tuple[Relation, ...]
    referenced_by: tuple[KeyFacts, ...]
    refers_to: tuple[KeyFacts, ...]
    triggers: tuple[TriggerFacts, ...]
    views: tuple[Relation, ...]
    reads: tuple[Relation, ...]
    dependents: tuple[DependentFacts, ...] = ()
    size: Size | None = None
    #: Column → its type, in order, and the types' OIDs; constraints that a partition has only from its parent; whether
    #: policies hide rows from the role; the index on which the table was clustered.
    types: Mapping[str, str] = field(default_factory=dict)
    oids: tuple[int, ...] = ()
    inherited: frozenset[str] = frozenset()
    #: Whether it is a table OF a composite type, which defines its columns.
    typed: bool = False
    row_security: bool = False
    #: Triggers, rules and policies, by sort and name.
    attached: frozenset[tuple[str, str]] = frozenset()
    clustered: str | None = None
    #: Sequences of its columns, which are moved and dropped with it.
    sequences: tuple[Relation, ...] = ()

    @property
    def all_bytes(self) -> int:
        """The size with partitions and indexes: measured now, else from the last VACUUM or ANALYZE."""
        if self.size is not None:
            return self.size.total
        return self.bytes + self.children_bytes + self.index_bytes

    @property
    def index_bytes(self) -> int:
        """The size of its indexes; those of partitions only if they were measured."""
        return self.size.indexes if self.size is not None else sum(index.bytes for index in self.indexes)


class FunctionFacts(Struct, frozen=True, kw_only=True):
    """A function. `volatility` is a letter of pg_proc: i, s or v."""

    schema: str
    name: str
    volatility: str
    language: str
    trusted: bool
    extension: str | None


class SchemaFacts(Struct, frozen=True, kw_only=True):
    """A schema and the role's privileges in it."""

    name: str
    create: bool
    owned: bool


class NamedFacts(Struct, frozen=True, kw_only=True):
    """An existing object that is no relation; whether the role may use a tablespace or type; a tablespace's folder."""

    open: bool = True
    location: str = ""


class HeldLock(Struct, frozen=True, kw_only=True):
    """A table lock that a session holds or waits for; `seconds` is the age of its transaction.

    The pid of a prepared transaction is 0, and its application_name is its gid.
    """

    relation: Relation
    mode: str
    granted: bool
    pid: int
    user: str
    application_name: str
    state: str
    seconds: int


def read_relation(text: str) -> RelationFacts:
    """Read what the block `relations` gives for one relation."""
    found = json.loads(text)
    children = found["children"]
    below = sum(child["bytes"] for child in children)
    unmaintained = [child for child in children if not child["maintained"]]
    return from_values({**found, "children_bytes": below, "unmaintained": unmaintained}, RelationFacts)
