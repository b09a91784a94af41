"""The option --dsn: where the server is, for every command that needs one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from runner.errors import RecordError, UsageError

_F = TypeVar("_F", bound=Callable[..., Any])


def dsn_option(function: _F) -> _F:
    """Add --dsn."""
    return click.option(
        "--dsn", metavar="CONNINFO", help="libpq connection; else JOBPLAN_DSN, else PGHOST, PGSERVICE and so on."
    )(function)


def chosen_dsn(given: str | None) -> str:
    """Return the connection string: the option's, else JOBPLAN_DSN; empty: libpq's own environment says it all.

    UsageError if it is not UTF-8.
    """
    dsn = given if given is not None else os.environ.get("JOBPLAN_DSN", "")
    try:
        dsn.encode()
    except UnicodeEncodeError as error:
        source = "--dsn" if given is not None else "JOBPLAN_DSN"
        raise UsageError(f"{source} is not UTF-8: libpq takes no other connection string.") from error
    return dsn


def dsn_argument(given: str | None) -> str:
    """Return what a command that is told needs behind it to reach the same server, with a space in front.

    Nothing if no --dsn was typed: the environment is still there. No password: who types it has it, or is asked where
    libpq looks.
    """
    if not given:
        return ""
    from runner.gateway.conninfo import without_password

    target = without_password(given)
    return f" --dsn {shlex.quote(target)}" if target else ""


def dsn_of_run(given: str | None, journal: Path, run: str | None) -> str:
    """Return the connection string for a run: as `chosen_dsn`, else the one that its record names, if there is one."""
    dsn = chosen_dsn(given)
    if dsn or given is not None or run is None:
        return dsn
    from runner.records.record import find_run, read_record

    try:
        started = read_record(journal, find_run(journal, run), own=True).started
    except RecordError:
        return dsn
    return started.connection if started is not None else dsn
