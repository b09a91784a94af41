"""What a CONCURRENTLY command that did not succeed has left half done, and the SQL that repairs it.

The server is asked what is half done in the whole database; what was there before the run began, and what the step's
text is not about, is not this step's doing (pg_background.md#what-concurrently-leaves-behind).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from runner.engine.events import Leftover
from runner.sql.relations import Relation
from runner.sql.text_traits import Build

#: What REINDEX CONCURRENTLY adds to an index's name, with a number if the name is taken.
_OF_REINDEX = re.compile(r"(?P<stem>.*)(?P<suffix>_ccnew|_ccold)\d*", re.DOTALL)
#: Bytes of a name in PostgreSQL; a longer one is cut where the suffix is added.
_NAME_BYTES = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfDone:
    """An INVALID index or a half detached partition: its OID, its kind, and names that are quoted and qualified.

    `name` and `schema` are the plain ones, `table` and `table_schema` those of the index's or partition's table; an
    index of a TOAST table counts as one of the table that this belongs to.
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
    builds: Sequence[Build], now: Iterable[HalfDone], before: frozenset[int], *, known: Sequence[Leftover] = ()
) -> tuple[Leftover, ...]:
    """Return what these statements can have left half done, among what is half done `now` and was not `before`.

    `known` is what earlier attempts of the step have left: it is theirs also if it was there before this runner began.
    """
    matching = (one for one in now if any(_may_be_of(one, build) for build in builds))
    dropped = [build.dropped for build in builds if build.dropped is not None]
    found = [(one, _leftover(one, dropped)) for one in matching]
    return tuple(left for one, left in found if one.oid not in before or left in known)


def _leftover(found: HalfDone, dropped: Sequence[Relation]) -> Leftover:
    left = read_leftover(found.kind, found.shown, found.parent)
    if not any(_is(one, found.schema, found.name) for one in dropped):
        return left
    return replace(left, repair=left.repair[-1:])  # a step that drops an index does not want it built anew


def _may_be_of(found: HalfDone, build: Build) -> bool:
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
    """Say whether `stem` is what is left of the name beside a suffix; PostgreSQL cuts a long name to make room."""
    long = len(name.encode()) > _NAME_BYTES - len("_ccnew") - 2
    return name == stem or (long and bool(stem) and name.startswith(stem))


def read_leftover(kind: str, name: str, parent: str) -> Leftover:
    """Put what is half done into words; the names are quoted and qualified as SQL needs it."""
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
