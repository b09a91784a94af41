"""The relations that must exist for a statement, their kinds, and the privileges needed on them.

Sources: each command's page in the PostgreSQL documentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.sql.changes import made
from runner.sql.kinds import StatementKind
from runner.sql.lockmodes import Target
from runner.sql.locks import locks_taken
from runner.sql.nodes import find, label, unwrap
from runner.sql.objects import Needed, Right, Sort
from runner.sql.parse import Statement
from runner.sql.relations import Relation, relation_of

_K = StatementKind

_RIGHTS: Mapping[StatementKind, tuple[Right, str]] = {
    _K.VACUUM: (Right.MAINTAIN, "rpmt"),
    _K.ANALYZE: (Right.MAINTAIN, "rpmf"),
    _K.CLUSTER: (Right.MAINTAIN, "rpm"),
    _K.REFRESH_MATERIALIZED_VIEW: (Right.MAINTAIN, "m"),
    _K.TRUNCATE: (Right.TRUNCATE, "rpf"),
    _K.CREATE_INDEX: (Right.OWN, "rpm"),
    _K.CREATE_STATISTICS: (Right.OWN, "rpmf"),
    _K.CREATE_TRIGGER: (Right.TRIGGER, "rpvf"),
    _K.CREATE_RULE: (Right.OWN, "rpv"),
    _K.CREATE_POLICY: (Right.OWN, "rp"),
    _K.ALTER_POLICY: (Right.OWN, "rp"),
    _K.DROP_TRIGGER: (Right.OWN, ""),
    _K.DROP_RULE: (Right.OWN, ""),
    _K.DROP_POLICY: (Right.OWN, ""),
    _K.ALTER_TABLE: (Right.OWN, ""),
    _K.ALTER_INDEX: (Right.OWN, ""),
    _K.ALTER_VIEW: (Right.OWN, "v"),
    _K.ALTER_MATERIALIZED_VIEW: (Right.OWN, "m"),
    _K.ALTER_SEQUENCE: (Right.OWN, "S"),
    _K.ALTER_FOREIGN_TABLE: (Right.OWN, "f"),
    _K.RENAME: (Right.OWN, ""),
    _K.SET_SCHEMA: (Right.OWN, ""),
    _K.COMMENT: (Right.OWN, ""),
    _K.DROP_TABLE: (Right.OWN, "rp"),
    _K.DROP_INDEX: (Right.OWN, "iI"),
    _K.DROP_VIEW: (Right.OWN, "v"),
    _K.DROP_MATERIALIZED_VIEW: (Right.OWN, "m"),
    _K.DROP_SEQUENCE: (Right.OWN, "S"),
    _K.DROP_FOREIGN_TABLE: (Right.OWN, "f"),
    _K.COPY_FROM: (Right.INSERT, "rpvf"),
    _K.COPY_TO: (Right.SELECT, "rmf"),
    _K.GRANT: (Right.GRANT, ""),
    _K.LOCK: (Right.NONE, "rpv"),
}


def needed(statement: Statement) -> tuple[Needed, ...]:
    """Return the relations that must exist for the statement, each once, in the order of the text."""
    right, kinds = _RIGHTS.get(statement.kind, (Right.NONE, ""))
    if statement.kind is _K.REINDEX:
        index = label(statement.node, "kind") == "REINDEX_OBJECT_INDEX"
        right, kinds = Right.MAINTAIN, "iI" if index else "rpmt"
    new = {change.relation for change in made(statement) if change.sort is Sort.RELATION}
    found: dict[Relation, Needed] = {}
    for lock in locks_taken(statement):
        if lock.target is Target.RELATION and lock.relation not in new and lock.relation not in found:
            found[lock.relation] = Needed(
                relation=lock.relation,
                offset=lock.offset,
                right=right,
                kinds=kinds,
                missing_ok=bool(getattr(statement.node, "missing_ok", False)),
            )
    if statement.kind is _K.CREATE_TABLE:
        found.update(_of_new_table(statement))
    if statement.kind is _K.CREATE_SCHEMA:
        found = _outside_of_schema(statement, found)
    if statement.kind in {_K.ALTER_SEQUENCE, _K.CREATE_SEQUENCE}:
        main = relation_of(statement.node.sequence)
        found = {key: one if key == main else _plain(one) for key, one in found.items()}
    if statement.kind is _K.ALTER_TABLE:
        # What else it names may be of any kind, and is owned or referred to: the server says more when it runs.
        main = relation_of(statement.node.relation)
        found = {key: one if key == main else _plain(one) for key, one in found.items()}
    return tuple(found.values())


def _outside_of_schema(statement: Statement, found: dict[Relation, Needed]) -> dict[Relation, Needed]:
    """Leave out what CREATE SCHEMA makes itself, which its views name without the schema."""
    new = {change.relation.name for change in made(statement) if change.relation is not None}
    own = {None, statement.node.schemaname}
    return {key: one for key, one in found.items() if not (key.name in new and key.schema in own)}


def _plain(one: Needed) -> Needed:
    return Needed(relation=one.relation, offset=one.offset)


def _of_new_table(statement: Statement) -> Iterator[tuple[Relation, Needed]]:
    """A partition's parent must be partitioned, a parent owned, a referenced table usable as one."""
    node = statement.node
    kinds = "p" if node.HasField("partbound") else "rf"
    for parent in map(unwrap, node.inh_relations):
        relation = relation_of(parent)
        yield relation, Needed(relation=relation, offset=statement.offset(parent), right=Right.OWN, kinds=kinds)
    own = relation_of(node.relation)
    for constraint in find(node, "Constraint"):
        if constraint.HasField("pktable") and relation_of(constraint.pktable) != own:
            relation = relation_of(constraint.pktable)
            offset = statement.offset(constraint.pktable)
            yield relation, Needed(relation=relation, offset=offset, right=Right.REFERENCES, kinds="rp")
