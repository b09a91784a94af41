"""What a statement destroys: data that cannot be restored from a definition.

A view, an index or a function can be created again from its definition, so dropping one is no loss; CASCADE is one,
because the statement does not name what it drops.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.sql.alter import AlterKind, alter_actions
from runner.sql.details import main_relation
from runner.sql.facts import dropped_relations, is_cascading
from runner.sql.kinds import StatementKind
from runner.sql.nodes import find, unwrap
from runner.sql.parse import Statement
from runner.sql.relations import Relation, relation_of

_K = StatementKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What is lost: `what` as a clause (`DROP TABLE removes audit`); the relation or schema, where it is one."""

    what: str
    relation: Relation | None = None
    schema: str | None = None


def losses(statement: Statement) -> tuple[Loss, ...]:
    """Return what the statement destroys, in the order of the text."""
    return tuple(_losses(statement))


def _losses(statement: Statement) -> Iterator[Loss]:
    kind = statement.kind
    cascading = is_cascading(statement)
    if kind is _K.TRUNCATE:
        for node in find(statement.node, "RangeVar"):
            yield _of_relation("TRUNCATE empties", relation_of(node), cascading=cascading)
    elif kind is _K.DROP_TABLE:
        for relation in dropped_relations(statement):
            yield _of_relation("DROP TABLE removes", relation, cascading=cascading)
    elif kind is _K.ALTER_TABLE:
        yield from _dropped_columns(statement)
    elif kind is _K.DROP_SCHEMA:
        yield from _schemas(statement) if cascading else ()
    elif kind in {_K.DROP_DATABASE, _K.DROP_OWNED}:
        yield Loss(what=f"{kind} removes tables with their data")
    elif kind.startswith("DROP") and cascading:
        yield from _cascades(statement)


def _of_relation(what: str, relation: Relation, *, cascading: bool) -> Loss:
    more = ", and CASCADE reaches whatever depends on it" if cascading else ""
    return Loss(what=f"{what} `{relation}`{more}", relation=relation)


def _dropped_columns(statement: Statement) -> Iterator[Loss]:
    relation = main_relation(statement)
    for action in alter_actions(statement):
        if action.kind is AlterKind.DROP_COLUMN:
            yield Loss(what=f"DROP COLUMN removes `{action.name}` of `{relation}`", relation=relation)


def _schemas(statement: Statement) -> Iterator[Loss]:
    for node in statement.node.objects:
        schema = unwrap(node).sval
        yield Loss(what=f"DROP SCHEMA … CASCADE removes everything in `{Relation(None, schema)}`", schema=schema)


def _cascades(statement: Statement) -> Iterator[Loss]:
    relations = dropped_relations(statement)
    for relation in relations:
        yield Loss(what=f"CASCADE drops whatever depends on `{relation}`", relation=relation)
    if not relations:
        yield Loss(what="CASCADE drops whatever depends on what is dropped")
