"""`--report KIND=PATH`, for the commands that write reports."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from runner.errors import JobplanError, Position, UsageError
from runner.lint import read_plan
from runner.plan.model import Plan
from runner.records.folder import PLAN, has_journal
from runner.reports.destinations import STDOUT, identity_of, is_device
from runner.reports.kinds import KINDS
from runner.sql.params import plain_text


def report_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option --report, as `reports: tuple[str, ...]`, which `wanted_reports` reads."""
    known = ", ".join(KINDS)
    return click.option(
        "--report",
        "reports",
        multiple=True,
        metavar="KIND=PATH",
        help=f"Write a report ({known}); PATH - is standard output; repeatable.",
    )(command)


Reports = tuple[tuple[str, Path], ...]


def wanted_reports(texts: tuple[str, ...], *inputs: Path | None) -> Reports:
    """Return the kinds and paths; `-` is standard output.

    UsageError if a kind is not known, two reports go to one place, or one would overwrite one of the `inputs`.
    """
    reports = tuple(_report(text) for text in texts)
    taken: set[tuple[object, ...]] = set()
    for _, path in reports:
        place = _identity(path)
        if place in taken and not is_device(path):
            raise UsageError(f"--report would overwrite {path}, which is another report.")
        taken.add(place)
    protect(reports, [path for path in inputs if path is not None])
    return reports


def protect(reports: Reports, files: Iterable[Path]) -> None:
    """UsageError if a report would overwrite one of these files, under whatever name, or a run's journal."""
    inputs = {_identity(file) for file in files} if reports else set()
    for _, path in reports:
        if _identity(path) in inputs:
            raise UsageError(f"--report would overwrite {path}, which the plan or the command reads.")
        if path != STDOUT and any(map(_is_journal, Path(os.path.realpath(path)).parents)):
            raise UsageError(f"--report would write {path} into the journal of a run.", hint="Name another folder.")


def _is_journal(folder: Path) -> bool:
    """Say whether a folder is that of a run's journal, and not one in which a report is called events.jsonl."""
    return has_journal(folder) and (not os.access(folder, os.X_OK) or (folder / PLAN).exists())


def files_of(plan: Plan) -> frozenset[Path]:
    """Return every file that a plan was read from: its own, its includes and its SQL files."""
    return frozenset(Path(file) for file in {plan.file, *_files(plan)} if file)


def files_of_recorded(plan: Plan) -> frozenset[Path]:
    """As `files_of`, for a plan from a record, which does not know its files: as its file is now."""
    if not plan.file:
        return frozenset()
    given = {name: plain_text(value) for name, value in plan.values.items()}
    try:
        return files_of(read_plan(Path(plan.file), given=given)) | {Path(plan.file)}
    except JobplanError:
        return frozenset({Path(plan.file)})


def _files(value: object) -> Iterator[str]:
    if isinstance(value, Position):
        yield value.file
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _files(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _files(item)
    elif isinstance(value, tuple | frozenset):
        for item in value:
            yield from _files(item)


def _identity(path: Path) -> tuple[object, ...]:
    try:
        return identity_of(path)
    except ValueError as error:
        raise UsageError(f"--report {path}: {error}.") from None


def _report(text: str) -> tuple[str, Path]:
    kind, equals, path = text.partition("=")
    if not equals or not path:
        raise UsageError(f"--report {text!r} is not KIND=PATH.")
    if kind not in KINDS:
        raise UsageError(f"--report knows no kind {kind!r}; it knows {', '.join(KINDS)}.")
    if path == str(STDOUT):
        return kind, STDOUT
    return kind, Path(path) if Path(path) != STDOUT else Path.cwd() / path  # ./- is a file of that name
