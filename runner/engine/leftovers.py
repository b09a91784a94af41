"""What a failed CONCURRENTLY command left behind, and the SQL that repairs it.

The server lists the unfinished objects of the whole database. An object that existed before the run began, or that the
step's SQL does not concern, is not attributed to the step (docs/pg_background.md#what-concurrently-leaves-behind).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from runner.engine.events import Leftover
from runner.sql.relations import Relation
from runner.sql.text_traits import Build
from runner.structs import Struct, replace

#: The suffix that REINDEX CONCURRENTLY adds to an index's name, with a number if the name is in use.
_OF_REINDEX = re.compile(r"(?P<stem>.*)(?P<suffix>_ccnew|_ccold)\d*", re.DOTALL)
#: The limit of a name in PostgreSQL, in bytes; a longer name is cut before the suffix is added.
_NAME_BYTES = 63


class UnfinishedObject(Struct, frozen=True, kw_only=True):
    """An INVALID index or a half detached partition: its OID, its kind, and names that are quoted and qualified.

    `name` and `schema` are unquoted; `table` and `table_schema` are those of the index's or partition's table. An index
    of a TOAST table is attributed to the table that owns the TOAST table.
    """

    oid: int
    kind: str
    shown: str
    parent: str
    schema: str = ""
    name: str = ""
    table_schema: str = ""
    table: str = ""


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
        return build.detaches and found.kind == "partition" and _is(build.table, found.table_schema, found.table)
    if build.dropped is not None:
        return _is(build.dropped, found.schema, found.name)
    of_reindex = _OF_REINDEX.fullmatch(found.name)
    if build.rebuilt is not None:
        stem = of_reindex["stem"] if of_reindex is not None else None
        return stem is not None and _is_cut(build.rebuilt.name, stem) and build.rebuilt.schema in (None, found.schema)
    if build.index is not None and found.name != build.index:
        return False
    return build.schema in (None, found.table_schema) and _is(build.table, found.table_schema, found.table)


def _is(wanted: Relation | None, schema: str, name: str) -> bool:
    return wanted is None or wanted.may_be(Relation(schema, name))


def _is_cut(name: str, stem: str) -> bool:
    """Return whether `stem` is the name before a suffix; PostgreSQL cuts a long name to make room for the suffix."""
    long = len(name.encode()) > _NAME_BYTES - len("_ccnew") - 2
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
