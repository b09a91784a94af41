"""Whether what a plan writes anew fits on the disk, as far as that can be known: on the server's own machine only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.errors import Problem
from runner.preflight.finding import problem
from runner.preflight.seen import Sight
from runner.preflight.texts import Unit
from runner.sql.alter import Rewrite, alter_actions
from runner.sql.kinds import StatementKind
from runner.sql.objects import needed
from runner.sql.options import enabled

_K = StatementKind
_GIGABYTE = 1024.0**3


def free_bytes(data_directory: str | None, host: str) -> int | None:
    """Return how much is free where the server keeps its data, None if that is another machine or may not be seen."""
    if data_directory is None or not (host.startswith("/") or host in {"", "localhost", "127.0.0.1", "::1"}):
        return None
    try:
        if not (Path(data_directory) / "PG_VERSION").exists():
            return None
        disk = os.statvfs(data_directory)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def disk_problems(units: Sequence[tuple[Unit, Sight]], free: int | None) -> Iterator[Problem]:
    """Yield the statements that write more than is free; `free` is None if nobody knows."""
    if free is None:
        return
    for unit, sight in units:
        size = _rewritten(unit, sight)
        if size > free:
            message = (
                f"{unit.statement.kind} writes some {size / _GIGABYTE:.1f} GB beside what is there, and "
                f"{free / _GIGABYTE:.1f} GB of the disk are free"
            )
            step = unit.step.id if unit.step is not None else None
            yield problem("JP616", message, unit.at(0), step=step)


def _rewritten(unit: Unit, sight: Sight) -> int:
    """Return the bytes of what is there twice until the statement is over."""
    statement = unit.statement
    match statement.kind:
        case _K.VACUUM:
            writes = enabled(statement, "full")
        case _K.CLUSTER | _K.REINDEX | _K.REFRESH_MATERIALIZED_VIEW:
            writes = True
        case _K.ALTER_TABLE:
            writes = any(action.rewrite is Rewrite.YES for action in alter_actions(statement))
        case _:
            writes = False
    if not writes:
        return 0
    facts = (sight.relation(one.relation).facts for one in needed(statement))
    if statement.kind is _K.REINDEX:
        return sum(one.all_bytes - one.bytes if one.index_of is None else one.bytes for one in facts if one is not None)
    return sum(one.all_bytes for one in facts if one is not None)
