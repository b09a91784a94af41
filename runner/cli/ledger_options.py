"""Which ledger a command means, for every command that writes or reads one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from runner.errors import UsageError

_F = TypeVar("_F", bound=Callable[..., Any])

#: The schema of the ledger unless somebody chose another one.
DEFAULT_SCHEMA = "jobplan"
_VARIABLE = "JOBPLAN_LEDGER_SCHEMA"
#: Bytes of a name, of which PostgreSQL would cut off the rest without saying so.
_MAX_BYTES = 63


def schema_option(function: _F) -> _F:
    """Add --schema."""
    return click.option(
        "--schema", metavar="NAME", help=f"The schema of the ledger; else {_VARIABLE}, else {DEFAULT_SCHEMA}."
    )(function)


def no_ledger_option(function: _F) -> _F:
    """Add --no-ledger."""
    return click.option(
        "--no-ledger", is_flag=True, help=f"Leave the ledger in the database alone ({_VARIABLE} names its schema)."
    )(function)


def ledger_schema(given: str | None = None) -> str:
    """Return the schema: the option's, else the environment's, else the default. UsageError if it cannot be one."""
    schema = given if given is not None else os.environ.get(_VARIABLE) or DEFAULT_SCHEMA
    source = "--schema" if given is not None else _VARIABLE
    if not schema or len(schema.encode(errors="replace")) > _MAX_BYTES or not schema.isprintable():
        raise UsageError(f"{source} {schema!r} is not the name of a schema.")
    return schema
