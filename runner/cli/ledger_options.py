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
_TRUSTED_VARIABLE = "JOBPLAN_TRUST_LEDGER_ROLES"
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


def trust_option(function: _F) -> _F:
    """Add --trust-ledger-role, as `trusted_roles`: roles whose ledger, and whose rows in one, are believed."""
    return click.option(
        "--trust-ledger-role",
        "trusted_roles",
        multiple=True,
        metavar="ROLE",
        callback=_with_environment,
        help=f"Believe a ledger, and rows in it, that belong to ROLE; repeatable. Also {_TRUSTED_VARIABLE}=ROLE,…",
    )(function)


def _with_environment(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ARG001 - click's protocol
    named = (role.strip() for role in os.environ.get(_TRUSTED_VARIABLE, "").split(","))
    return tuple(dict.fromkeys([*given, *filter(None, named)]))


def ledger_schema(given: str | None = None) -> str:
    """Return the schema: the option's, else the environment's, else the default. UsageError if it cannot be one."""
    schema = given if given is not None else os.environ.get(_VARIABLE) or DEFAULT_SCHEMA
    source = "--schema" if given is not None else _VARIABLE
    if not schema or len(schema.encode(errors="replace")) > _MAX_BYTES or not schema.isprintable():
        raise UsageError(f"{source} {schema!r} is not the name of a schema.")
    return schema
