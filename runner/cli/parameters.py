"""The options that give a plan its parameters, shared by every command that needs their values."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from runner.errors import UsageError

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSources:
    """Where values come from, the strongest first."""

    given: Mapping[str, str]
    file: Path | None
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


def parameter_sources(params: tuple[str, ...], params_file: Path | None) -> ParameterSources:
    """Read the options. UsageError if a --param has no name or no `=`, or names a parameter twice."""
    given: dict[str, str] = {}
    for text in params:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"--param {text!r} is not NAME=VALUE.")
        if name in given:
            raise UsageError(f"--param {name} is given twice.")
        given[name] = value
    return ParameterSources(given=given, file=params_file, environment=dict(os.environ))
