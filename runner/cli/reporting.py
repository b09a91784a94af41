"""`--report KIND=PATH`, for the commands that write reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from runner.errors import UsageError
from runner.reports.kinds import KINDS


def report_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option --report, as `reports: tuple[str, ...]`, which `wanted_reports` reads."""
    known = ", ".join(KINDS)
    return click.option(
        "--report", "reports", multiple=True, metavar="KIND=PATH", help=f"Write a report ({known}); repeatable."
    )(command)


def wanted_reports(texts: tuple[str, ...], *inputs: Path) -> tuple[tuple[str, Path], ...]:
    """Return the kinds and paths. UsageError if one is not known, or would overwrite one of the `inputs` or another."""
    reports = tuple(_report(text) for text in texts)
    taken = {path.resolve() for path in inputs}
    for _, path in reports:
        if path.resolve() in taken:
            raise UsageError(f"--report would overwrite {path}, which is the plan or another report.")
        taken.add(path.resolve())
    return reports


def _report(text: str) -> tuple[str, Path]:
    kind, equals, path = text.partition("=")
    if not equals or not path:
        raise UsageError(f"--report {text!r} is not KIND=PATH.")
    if kind not in KINDS:
        raise UsageError(f"--report knows no kind {kind!r}; it knows {', '.join(KINDS)}.")
    return kind, Path(path)
