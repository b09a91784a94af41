"""The options that give a plan its parameters, shared by every command that needs their values."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import click

from runner.errors import UsageError

_F = TypeVar("_F", bound=Callable[..., Any])


class ParameterValues(TypedDict):
    """Where values come from, the strongest first; the keyword arguments of `read_plan`."""

    given: Mapping[str, str]
    params_file: Path | None
    environment: Mapping[str, str]


def parameter_options(function: _F) -> _F:
    """Add --param and --params-file."""
    function = click.option(
        "--params-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="YAML or JSON file with values of parameters.",
    )(function)
    return click.option(
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="Value of a parameter (repeatable). Also: JOBPLAN_PARAM_<NAME>.",
    )(function)


def parameter_values(params: tuple[str, ...], params_file: Path | None) -> ParameterValues:
    """Read the options. UsageError if a --param is not NAME=VALUE or comes twice."""
    given: dict[str, str] = {}
    for text in params:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"--param {text!r} is not NAME=VALUE.")
        if name in given:
            raise UsageError(f"--param {name} is given twice.")
        given[name] = value
    return ParameterValues(given=given, params_file=params_file, environment=dict(os.environ))
