"""The command that comes next, written out so that it can be pasted where this one was typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from runner.records.folder import DEFAULT_ROOT


def written_out(name: str, run: str, *, journal: Path, dsn: str, more: Iterable[str] = ()) -> str:
    """Return a command on a run, with where its journal and its server are if somebody has said so, without a password.

    Who types it has the password, or is asked where libpq looks. `more` are further arguments.
    """
    from runner.gateway.conninfo import without_password

    words = ["jobplan", name, run]
    if journal != DEFAULT_ROOT:
        words += ["--journal", str(journal)]
    target = without_password(dsn) if dsn else ""
    if target:
        words += ["--dsn", target]
    return shlex.join([*words, *more])
