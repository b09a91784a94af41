"""The command that comes next, written out so that it can be pasted where this one was typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from runner.cli.connection import dsn_argument
from runner.records.folder import DEFAULT_ROOT


def written_out(name: str, run: str, *, journal: Path, dsn: str, more: Iterable[str] = ()) -> str:
    """Return a command on a run, with where its journal and its server are if somebody has said so, without a password.

    `more` are further arguments.
    """
    words = ["jobplan", name, run]
    if journal != DEFAULT_ROOT:
        words += ["--journal", str(journal)]
    return " ".join([shlex.join(words) + dsn_argument(dsn), *map(shlex.quote, more)])
