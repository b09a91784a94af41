"""The option --dsn: where the server is, for every command that needs one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


def dsn_option(function: _F) -> _F:
    """Add --dsn."""
    return click.option(
        "--dsn", metavar="CONNINFO", help="libpq connection; else JOBPLAN_DSN, else PGHOST, PGSERVICE and so on."
    )(function)


def chosen_dsn(given: str | None) -> str:
    """Return the connection string: the option's, else JOBPLAN_DSN; empty: libpq's own environment says it all."""
    return given if given is not None else os.environ.get("JOBPLAN_DSN", "")
