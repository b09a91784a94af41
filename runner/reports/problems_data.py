"""What is wrong with plans, for programs: JSON, and the commands that make annotations in GitHub Actions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from runner.errors import Problem
from runner.reports.visible import visible_json, visible_lines


def json_text(problems: Iterable[Problem]) -> str:
    """Return a JSON list with one object for each problem; every key is always there, `hint` and `step` may be null."""
    text = json.dumps([problem_object(problem) for problem in problems], indent=2, ensure_ascii=False)
    return visible_json(text)


def github_lines(problems: Iterable[Problem], workspace: str = "") -> Iterator[str]:
    """Yield a workflow command for each problem; `workspace` is GITHUB_WORKSPACE."""
    for problem in problems:
        place = problem.position
        properties = {
            "file": repository_path(place.file, workspace),
            "line": str(place.line),
            "col": str(place.column),
            "title": problem.code,
        }
        message = f"{problem.message}\n{problem.hint}" if problem.hint else problem.message
        yield workflow_command(problem.severity, properties, message)


def workflow_command(name: str, properties: Mapping[str, str], message: str) -> str:
    """Write a command as GitHub Actions reads it from the output.

    Source: GitHub's documentation, "Workflow commands for GitHub Actions".
    """
    told = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name}{' ' if told else ''}{told}::{_data(message)}"


def repository_path(file: str, workspace: str) -> str:
    """Return a file as GitHub names it: relative to the workspace, else to the root of its git repository.

    `file` is relative to the present folder, which may be any. Outside of both it stays as it is.
    """
    if not file:
        return file
    given, real = os.path.abspath(file), os.path.realpath(file)  # noqa: PTH100 - without following links
    if workspace:
        root = os.path.abspath(workspace)  # noqa: PTH100
        for path, top in ((given, root), (real, os.path.realpath(root))):
            if path.startswith(f"{top.rstrip('/')}/"):
                return os.path.relpath(path, top)
    found = next((folder for folder in Path(given).parents if (folder / ".git").exists()), None)
    return file if found is None else os.path.relpath(given, found)


def problem_object(problem: Problem) -> dict[str, object]:
    """Return a problem as a JSON object; `also` lists the other places that have the same cause."""
    return {
        "file": problem.position.file,
        "line": problem.position.line,
        "column": problem.position.column,
        "severity": problem.severity.value,
        "code": problem.code,
        "slug": problem.slug,
        "message": problem.message,
        "hint": problem.hint,
        "step": problem.step,
        "also": [
            {"file": place.file, "line": place.line, "column": place.column, "step": step}
            for place, step in problem.also
        ],
    }


def _data(text: str) -> str:
    return visible_lines(text.replace("\r\n", "\n")).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
