"""The options that select steps, shared by every command that has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from runner.plan.model import Plan
from runner.plan.selection import not_selected

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What the options said."""

    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    assume_done: bool = False

    def left_out(self, plan: Plan) -> frozenset[str]:
        """Return the ids of the steps that are not to run. UsageError if the selection makes no sense."""
        return not_selected(plan, self.select, self.exclude, assume_done=self.assume_done)


def selection_options(function: _F) -> _F:
    """Add --select, --exclude and --assume-done."""
    function = click.option(
        "--assume-done", is_flag=True, help="Take what selected steps need and is not selected as done."
    )(function)
    function = click.option(
        "--exclude", multiple=True, metavar="SELECTOR", help="Leave these steps out; the same selectors; repeatable."
    )(function)
    return click.option(
        "-s",
        "--select",
        multiple=True,
        metavar="SELECTOR",
        help="Run only these steps: an id, a glob, tag:x, +id (with all it needs), id+ (with all that needs it).",
    )(function)
