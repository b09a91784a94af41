"""Find the plans in a folder, and the YAML files that are not plans.

A plan is recognized by its keys at the left margin, without parsing the YAML: a plan with a syntax error must be found
too, so that its problems are reported. A folder of plans also holds included files, and a repository holds the YAML of
other programs, some of which have `steps` (Azure Pipelines) or `version` (Docker Compose).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.errors import UsageError

_SUFFIXES = (".yaml", ".yml")
_KEY = re.compile(r"""^["']?([A-Za-z_][\w-]*)["']?[ \t]*:""", re.MULTILINE)
#: The same in a mapping that is written on one line, as JSON is.
_FLOW_KEY = re.compile(r"""[{,]\s*["']?([A-Za-z_][\w-]*)["']?\s*:""")
#: Keys of a plan that an included file does not have, and that other programs do not use together with `steps`.
_OF_A_PLAN = frozenset({"version", "budget", "defaults", "params", "requires", "finally", "concurrency", "run_timeout"})
#: How many bytes of a file are read.
_LOOKED_AT = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPlans:
    """The plans of a folder, and the other YAML files with the reason why they are not plans."""

    plans: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...]


def find_plans(folder: Path) -> FoundPlans:
    """Search a folder and the folders below it, in the order of their names.

    Hidden files and folders are left out, and links to folders are not followed. UsageError if a folder cannot be read.
    """
    plans: list[Path] = []
    left_out: list[tuple[Path, str]] = []
    for path in _yaml_files(folder):
        why = _no_plan(path)
        if why is None:
            plans.append(path)
        else:
            left_out.append((path, why))
    return FoundPlans(plans=tuple(plans), left_out=tuple(left_out))


def _yaml_files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UsageError(f"the folder {error.filename} cannot be read: {error.strerror}.") from error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent) / name
            if not name.startswith(".") and name.lower().endswith(_SUFFIXES) and path.is_file():
                yield path


def _no_plan(path: Path) -> str | None:
    """Return why a file is not a plan; None if it is one, or if it cannot be read, which validation reports."""
    try:
        with path.open("rb") as file:
            text = file.read(_LOOKED_AT).decode("utf-8", "replace")
    except OSError:
        return None
    keys = set(_KEY.findall(text))
    if text.lstrip().startswith("{"):
        keys |= set(_FLOW_KEY.findall(text))
    if "steps" not in keys:
        return "it is not a plan: it has no steps"
    if not keys & _OF_A_PLAN:
        return "it is not a plan; included files are checked with the plan that includes them"
    return None
