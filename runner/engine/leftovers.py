"""What a failed CONCURRENTLY command left behind, and the SQL that repairs it.

The server lists the unfinished objects of the whole database. An object that existed before the run began, or that the
step's SQL does not concern, is not attributed to the step (docs/pg_background.md#what-concurrently-leaves-behind).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from runner.engine.events import ErrorDetails, Leftover
from runner.sql.placeholders import quote_identifier
from runner.sql.qualified_names import MAX_NAME_BYTES
from runner.sql.relations import Relation
from runner.sql.text_traits import Build
from runner.structs import Struct, replace

#: The suffix that REINDEX CONCURRENTLY adds to an index's name, with a number if the name is in use.
_OF_REINDEX = re.compile(r"(?P<stem>.*)(?P<suffix>_ccnew|_ccold)\d*", re.DOTALL)


class UnfinishedObject(Struct, frozen=True, kw_only=True):
    """An INVALID index or a half detached partition: its kind, names that are quoted and qualified, and its OID.

    `name` and `schema` are unquoted; `table` and `table_schema` are those of the index's or partition's table. An index
    of a TOAST table is attributed to the table that owns the TOAST table.
    """

    kind: str
    shown: str
    parent: str
    oid: int
    schema: str = ""
    name: str = ""
    table_schema: str = ""
    table: str = ""

    @property
    def mark(self) -> str:
        """What the object was when it was noted; the old index of a REINDEX has an OID that existed before."""
        return f"{self.oid} {quote_identifier(self.schema)}.{quote_identifier(self.name)}"


class Removal(Struct, frozen=True, kw_only=True):
    """SQL that removes a leftover. `completes`: it finishes the statement's own work, which cannot be undone."""

    left: Leftover
    mark: str
    sql: str
    completes: bool = False


def removals(
    builds: Sequence[Build],
    now: Iterable[UnfinishedObject],
    before: Collection[str],
    *,
    known: Sequence[Leftover] = (),
) -> tuple[Removal, ...]:
    """Return how to remove what these statements have certainly left behind themselves.

    `before` are the marks of what was unfinished before the attempt, `known` what previous attempts left behind. An
    index is that of a REINDEX only if it has the name of an unfinished copy.
    """
    found = []
    for one in now:
        left = read_leftover(one.kind, one.shown, one.parent)
        if any(_is_certainly_of(one, build) for build in builds) and (one.mark not in before or left in known):
            found.append(_removal(one, left))
    return tuple(found)


#: The object existed before the attempt: an index of this name, or a partition that is being detached.
_EXISTED = frozenset({"42P07", "55000"})


def has_left_nothing(error: ErrorDetails | None) -> bool:
    """Return whether the attempt failed before it made anything, because another session had made it."""
    return error is not None and error.sqlstate in _EXISTED


def _is_certainly_of(found: UnfinishedObject, build: Build) -> bool:
    if not build.removable or not _may_be_of(found, build):
        return False
    return not build.rebuilds or _OF_REINDEX.fullmatch(found.name) is not None


def _removal(found: UnfinishedObject, left: Leftover) -> Removal:
    name = f"{quote_identifier(found.schema)}.{quote_identifier(found.name)}"
    if found.kind == "partition":
        table = f"{quote_identifier(found.table_schema)}.{quote_identifier(found.table)}"
        sql = f"ALTER TABLE {table} DETACH PARTITION {name} FINALIZE"
        return Removal(left=left, mark=found.mark, sql=sql, completes=True)
    return Removal(left=left, mark=found.mark, sql=f"DROP INDEX CONCURRENTLY {name}")


def left_by(
    builds: Sequence[Build], now: Iterable[UnfinishedObject], before: frozenset[int], *, known: Sequence[Leftover] = ()
) -> tuple[Leftover, ...]:
    """Return what these statements left behind: objects that are unfinished `now` and were not `before`.

    `known` is what previous attempts of the step left behind: it is included even if it existed before this runner
    began.
    """
    matching = (one for one in now if any(_may_be_of(one, build) for build in builds))
    dropped = [build.dropped for build in builds if build.dropped is not None]
    found = [(one, _leftover(one, dropped)) for one in matching]
    return tuple(left for one, left in found if one.oid not in before or left in known)


def _leftover(found: UnfinishedObject, dropped: Sequence[Relation]) -> Leftover:
    left = read_leftover(found.kind, found.shown, found.parent)
    if not any(_is(one, found.schema, found.name) for one in dropped):
        return left
    return replace(left, repair=left.repair[-1:])  # a step that drops an index needs no REINDEX


def _may_be_of(found: UnfinishedObject, build: Build) -> bool:
    if build.detaches or found.kind == "partition":
        of_table = found.kind == "partition" and _is(build.table, found.table_schema, found.table)
        return build.detaches and of_table and _is(build.part, found.schema, found.name)
    if build.dropped is not None:
        return _is(build.dropped, found.schema, found.name)
    of_reindex = _OF_REINDEX.fullmatch(found.name)
    if build.rebuilt is not None:
        stem = of_reindex["stem"] if of_reindex is not None else None
        return stem is not None and _is_cut(build.rebuilt.name, stem) and build.rebuilt.schema in (None, found.schema)
    if build.index is not None and found.name != build.index:
        return False
    if build.stem is not None and not _is_named(found.name, build.stem):
        return False
    return build.schema in (None, found.table_schema) and _is(build.table, found.table_schema, found.table)


def _is(wanted: Relation | None, schema: str, name: str) -> bool:
    return wanted is None or wanted.may_be(Relation(schema, name))


def _is_named(name: str, stem: str) -> bool:
    """Return whether PostgreSQL may have generated this name for an index. Without a `stem`, only its end is known."""
    begins = re.escape(stem) if stem else ".+"
    return re.fullmatch(rf"{begins}_idx\d*", name, re.DOTALL) is not None


def _is_cut(name: str, stem: str) -> bool:
    """Return whether `stem` is the name before a suffix; PostgreSQL cuts a long name to make room for the suffix."""
    long = len(name.encode()) > MAX_NAME_BYTES - len("_ccnew") - 2
    return name == stem or (long and bool(stem) and name.startswith(stem))


def read_leftover(kind: str, name: str, parent: str) -> Leftover:
    """Describe an unfinished object; the names are quoted and qualified for SQL."""
    if kind == "partition":
        return Leftover(
            what=f"{name} is only half detached from {parent}",
            repair=(f"ALTER TABLE {parent} DETACH PARTITION {name} FINALIZE;",),
        )
    drop = f"DROP INDEX CONCURRENTLY {name};"
    of_reindex = _OF_REINDEX.fullmatch(name.strip('"'))
    suffix = of_reindex["suffix"] if of_reindex is not None else None
    if suffix == "_ccnew":
        return Leftover(what=f"index {name} of {parent} is an unfinished copy", repair=(drop,))
    if suffix == "_ccold":
        return Leftover(
            what=f"index {name} of {parent} is the old one, and the new one is in its place", repair=(drop,)
        )
    return Leftover(what=f"index {name} of {parent} is INVALID", repair=(f"REINDEX INDEX CONCURRENTLY {name};", drop))
