"""Properties of a step's whole text: whether it may run again, and what it may leave half done.

The text is known when the plan is built, with its parameters as placeholders. It is analyzed on first use and cached,
because most runs never need the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from runner.errors import JobplanError
from runner.sql.alter_table import alter_actions
from runner.sql.command_objects import (
    CreatedIndex,
    ReindexTarget,
    created_index,
    dropped_relations,
    main_relation,
    reindex_target,
)
from runner.sql.command_options import is_concurrent
from runner.sql.plpgsql_bodies import catching_loop
from runner.sql.relations import Relation
from runner.sql.statement_effects import Effect, effect
from runner.sql.statements import Statement, StatementKind, parse_template
from runner.sql.syntax_tree import unwrap
from runner.structs import Struct

_K = StatementKind

#: A second run of these does the same work again and leaves the same state.
_IDEMPOTENT = frozenset({_K.VACUUM, _K.ANALYZE, _K.REFRESH_MATERIALIZED_VIEW, _K.REINDEX, _K.CLUSTER, _K.CHECKPOINT})
#: Words of statements that may leave something half done; searching for them is faster than parsing.
_CONCURRENTLY = re.compile("concurrently", re.IGNORECASE)


class Build(Struct, frozen=True, kw_only=True):
    """A statement that, if it fails, leaves something behind that a rollback does not take back.

    `table` is None where it may be any table, of `schema` if that is given. `index` is the index that it builds, None
    if the server names it, or if the name is not known; `stem` is then what the server's name has before `_idx` and a
    number, empty if that is not known, and None if the server does not name it. `rebuilt` is the index that REINDEX
    INDEX builds again; `dropped` the one that DROP INDEX drops. `detaches`: it detaches a partition, which is `part`,
    if that is known. `rebuilds`: it is a REINDEX.
    """

    table: Relation | None = None
    index: str | None = None
    stem: str | None = None
    rebuilt: Relation | None = None
    dropped: Relation | None = None
    schema: str | None = None
    detaches: bool = False
    part: Relation | None = None
    rebuilds: bool = False

    @property
    def removable(self) -> bool:
        """Whether what it leaves behind is its own: DROP INDEX leaves an index that others made."""
        return self.dropped is None


class TextTraits(Struct, frozen=True, kw_only=True):
    """What is known of a text.

    `only_reads`: every statement only reads, so that it is a check which may run again. `idempotent`: every statement
    only reads, or is one of those that may run again because they do the same work again. `builds` are statements that
    leave something half done when they fail. `whole_database`: it rebuilds the indexes of the whole database.
    `catches_cancel`: a loop of it catches a cancel and continues, so it cannot be stopped.
    """

    only_reads: bool = False
    idempotent: bool = False
    builds: tuple[Build, ...] = ()
    whole_database: bool = False
    catches_cancel: bool = False


@lru_cache(maxsize=4096)
def nature_of(text: str) -> TextTraits:
    """Return the nature of a step's text; of one that PostgreSQL's grammar refuses, nothing is known."""
    try:
        statements = parse_template(text).statements
    except JobplanError:
        return TextTraits()
    reads = [effect(statement) is Effect.READS for statement in statements]
    return TextTraits(
        only_reads=bool(reads) and all(reads),
        idempotent=bool(reads)
        and all(only or one.kind in _IDEMPOTENT for one, only in zip(statements, reads, strict=True)),
        builds=tuple(build for one in statements for build in _builds(one)) if _CONCURRENTLY.search(text) else (),
        whole_database=any(reindex_target(one) is ReindexTarget.DATABASE for one in statements),
        catches_cancel=any(one.kind is _K.DO and catching_loop(one, text) is not None for one in statements),
    )


def builds_of(text: str) -> tuple[Build, ...]:
    """Return the statements of a text that leave something half done when they fail; cheap for most texts."""
    return nature_of(text).builds if _CONCURRENTLY.search(text) else ()


def _builds(statement: Statement) -> Iterator[Build]:
    if not is_concurrent(statement):
        return
    created = created_index(statement)
    if created is not None:
        index = created.index
        yield Build(
            table=_known(created.table),
            index=index.name if index is not None and index.known else None,
            stem=_stem(created, statement) if index is None else None,
        )
    elif statement.kind is _K.ALTER_TABLE:
        relation = main_relation(statement)
        parts = [action.other for action in alter_actions(statement) if action.other is not None]
        yield Build(
            table=None if relation is None else _known(relation),
            detaches=True,
            part=_known(parts[0]) if parts else None,
        )
    elif statement.kind is _K.REINDEX:
        yield _rebuild(statement)
    elif statement.kind is _K.DROP_INDEX:
        yield from (Build(dropped=relation) for relation in dropped_relations(statement) if relation.known)


#: The bytes of `{table}_{columns}` that PostgreSQL certainly does not cut before it adds `_idx` and a number.
_NOT_CUT = 50


def _stem(created: CreatedIndex, statement: Statement) -> str:
    """Return the beginning of the name that PostgreSQL generates for an index (ChooseIndexName of indexcmds.c)."""
    elements = [*statement.node.index_params, *statement.node.index_including_params]
    columns = [element.name for element in map(unwrap, elements)]
    stem = "_".join((created.table.name, *columns))
    plain = all(columns) and len(set(columns)) == len(columns) and created.table.known
    return (
        stem if plain and len(stem.encode()) <= _NOT_CUT and all(Relation(None, one).known for one in columns) else ""
    )


def _rebuild(statement: Statement) -> Build:
    target, relation = reindex_target(statement), main_relation(statement)
    if target is ReindexTarget.TABLE and relation is not None:
        return Build(table=_known(relation), rebuilds=True)
    if target is ReindexTarget.INDEX and relation is not None:
        return Build(rebuilt=_known(relation), rebuilds=True)
    if target is ReindexTarget.SCHEMA:
        name = statement.node.name
        return Build(schema=name if Relation(None, name).known else None, rebuilds=True)
    return Build(rebuilds=True)


def _known(relation: Relation) -> Relation | None:
    return relation if relation.known else None
