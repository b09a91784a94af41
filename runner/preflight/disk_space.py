"""Whether new copies of relations fit on the disk. Free space is known only on the server's own machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.codes import new_problem
from runner.errors import Problem
from runner.gateway.catalog import RelationFacts
from runner.preflight.catalog_state import CatalogView
from runner.preflight.sql_units import Unit
from runner.sql.alter_table import AlterKind, Rewrite, alter_actions
from runner.sql.catalog_needs import ObjectSort, mentions, needed
from runner.sql.command_objects import main_relation
from runner.sql.command_options import enabled
from runner.sql.statements import StatementKind
from runner.structs import Struct

_K = StatementKind
_GIGABYTE = 1024.0**3
#: New copies smaller than this are not reported.
_WORTH_TELLING = 100 * 1024**2


class Rewritten(Struct, frozen=True, kw_only=True):
    """The bytes that a statement writes in addition to the existing data until it ends, and the tablespace's folder.

    An empty folder is the data directory; with `maybe` only the server knows whether the statement writes a new copy.
    """

    bytes: int
    location: str
    maybe: bool = False


class Disks:
    """The server's data directory and tablespaces, and their free space, which is known only on this machine."""

    def __init__(self, data_directory: str | None, host: str) -> None:
        local = host.startswith("/") or host in {"", "localhost", "127.0.0.1", "::1"}
        self._directory = data_directory if local else None

    def free(self, location: str) -> int | None:
        """Return the free bytes, None on another machine or without permission."""
        if self._directory is None:
            return None
        try:
            if not (Path(self._directory) / "PG_VERSION").exists():
                return None
            disk = os.statvfs(location or self._directory)
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize


def disk_problems(units: Sequence[tuple[Unit, CatalogView]], disks: Disks) -> Iterator[Problem]:
    """Yield the statements that write more than the free space."""
    for unit, catalog in units:
        written = rewritten(unit, catalog)
        free = disks.free(written.location) if written is not None else None
        if written is not None and free is not None and written.bytes > free:
            verb = "may write" if written.maybe else "writes"
            where = f" in {written.location}" if written.location else ""
            message = (
                f"{unit.statement.kind} {verb} about {_shown(written.bytes)} in addition to the existing data, and "
                f"{_shown(free)} of the disk are free{where}"
            )
            step = unit.step.id if unit.step is not None else None
            yield new_problem("JP616", message, unit.position(), step=step)


def disk_note(unit: Unit, catalog: CatalogView, disks: Disks) -> str | None:
    """Return how much a statement writes and how much is free; None if it is little or nothing."""
    written = rewritten(unit, catalog)
    if written is None or written.bytes < _WORTH_TELLING:
        return None
    free = disks.free(written.location)
    room = "the free space is unknown on this machine" if free is None else f"{_shown(free)} are free"
    verb = "may write" if written.maybe else "writes"
    return f"{verb} about {_shown(written.bytes)} in addition to the existing data; {room}"


def rewritten(unit: Unit, catalog: CatalogView) -> Rewritten | None:
    """Return which copies of existing relations a statement writes; None if it writes none."""
    statement = unit.statement
    match statement.kind:
        case _K.VACUUM if enabled(statement, "full"):
            found = _facts(unit, catalog)
        case _K.CLUSTER | _K.REINDEX | _K.REFRESH_MATERIALIZED_VIEW:
            found = _facts(unit, catalog)
        case _K.ALTER_TABLE | _K.ALTER_MATERIALIZED_VIEW:
            return _altered(unit, catalog)
        case _:
            return None
    of_indexes = statement.kind is _K.REINDEX
    sizes = (facts.index_bytes if of_indexes and facts.index_of is None else facts.all_bytes for facts in found)
    return _sum(unit, catalog, list(zip(found, sizes, strict=True)))


def _altered(unit: Unit, catalog: CatalogView) -> Rewritten | None:
    """Return what an ALTER TABLE moves to another tablespace: the rows, without the indexes."""
    facts = catalog.facts(main_relation(unit.statement))
    actions = alter_actions(unit.statement)
    if facts is None:
        return None
    # A type that is not built in may be a domain with a constraint, for which every row is written again.
    foreign = {Rewrite.MAYBE for action in actions if action.type is not None}
    rewrites = (foreign | {action.rewrite for action in actions}) - {Rewrite.NO}
    moves = any(action.kind is AlterKind.SET_TABLESPACE for action in actions)
    if not rewrites and not moves:
        return None
    size = facts.all_bytes if rewrites else facts.all_bytes - facts.index_bytes
    return _sum(unit, catalog, [(facts, size)], maybe=Rewrite.YES not in rewrites and not moves)


def _sum(
    unit: Unit, catalog: CatalogView, sizes: Sequence[tuple[RelationFacts, int]], *, maybe: bool = False
) -> Rewritten | None:
    if not sizes:
        return None
    named = (catalog.named(one.sort, one.name) for one in mentions(unit.statement) if one.sort is ObjectSort.TABLESPACE)
    location = next((facts.location for facts in named if facts is not None), sizes[0][0].location)
    return Rewritten(bytes=sum(size for _, size in sizes), location=location, maybe=maybe)


def _facts(unit: Unit, catalog: CatalogView) -> tuple[RelationFacts, ...]:
    seen = (catalog.facts(one.relation) for one in needed(unit.statement))
    return tuple(facts for facts in seen if facts is not None)


def _shown(size: int) -> str:
    return f"{size / _GIGABYTE:.1f} GB" if size >= _GIGABYTE / 10 else f"{size / 1024**2:.1f} MB"
