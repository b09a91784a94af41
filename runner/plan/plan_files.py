"""The files of a plan: SQL files and includes that it names, and the plans in a folder.

A plan is reviewed together with its folder, so every file that it names must be in it. Symbolic links are resolved
before the check. Included files are checked like the plan itself, and listed with it, each with its prefix for ids.

A plan in a folder is recognized by its keys at the left margin, without parsing the YAML: a plan with a syntax error
must be found too, so that its problems are reported. A folder of plans also holds included files, and a repository
holds the YAML of other programs, some of which have `steps` (Azure Pipelines) or `version` (Docker Compose).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from collections.abc import Mapping as MappingABC
from pathlib import Path
from typing import Final

from runner.errors import Position, UsageError
from runner.plan.model import Plan, Sql
from runner.plan.problem_collector import Placed, Report
from runner.plan.schema_check import check_shape
from runner.plan.yaml_nodes import Fields, Mapping, Node, Scalar, sql_of_file
from runner.plan.yaml_reader import MAX_NODES, directional_character, read, read_text, special_file
from runner.sql.tokens import name_of
from runner.structs import Struct

#: The largest SQL file (bytes).
MAX_SQL_BYTES: Final = 10_000_000


class FoundFile(Struct, frozen=True, kw_only=True):
    """A file in the plan's folder: its path without symbolic links, and its name in problems."""

    path: Path
    name: str


class PlanFiles:
    """Find files relative to the file that names them, and read each SQL file once."""

    def __init__(self, plan: Path, report: Report) -> None:
        self._root = Path(os.path.realpath(plan.parent))
        self._report = report
        self._sql: dict[Path, Sql | None] = {}

    def find(
        self, relative: str, named_in: str, place: Placed, key: str, *, step: str | None = None
    ) -> FoundFile | None:
        """Return the file, or None and a problem; `named_in` is the name of the file that contains `relative`."""
        name = os.path.normpath(Path(named_in).parent / relative)
        try:
            path = Path(os.path.realpath(name))
            inside = not Path(relative).is_absolute() and path.is_relative_to(self._root)
            exists = inside and path.is_file()
        except (OSError, ValueError) as error:
            self._report.add(place, "JP218", f"`{key}`: {error}", step=step)
            return None
        if not inside:
            hint = "move the file into the plan's folder, or the plan to a folder above it"
            self._report.add(place, "JP217", f"`{key}` is outside the plan's folder", hint=hint, step=step)
            return None
        if not exists:
            self._report.add(place, "JP218", f"`{key}`: {_why_no_file(path, name)}", step=step)
            return None
        return FoundFile(path=path, name=name)

    def sql(self, file: FoundFile) -> Sql | None:
        """Return the text of a SQL file, None and a problem if it cannot be read."""
        if file.path not in self._sql:
            self._report.names_file(file.name)
            text = read_text(file.path, file.name, self._report, limit=MAX_SQL_BYTES)
            sql = None if text is None else sql_of_file(file.name, text)
            if sql is not None and (directional := directional_character(sql.text)) is not None:
                message = f"the character {name_of(sql.text[directional])} is not allowed in SQL of a plan"
                self._report.add(sql.position(directional), "JP004", message, hint="remove it")
            if sql is not None and "\0" in sql.text:
                place = sql.position(sql.text.index("\0"))
                self._report.add(
                    place, "JP004", "there is a NUL character here, which PostgreSQL cannot store", hint="remove it"
                )
            self._sql[file.path] = sql
        return self._sql[file.path]


def _why_no_file(path: Path, name: str) -> str:
    """Return why there is no file that can be read under this name."""
    try:
        what = "a folder" if path.is_dir() else special_file(path)
    except OSError:  # a link to itself
        what = None
    return f"{name} is {what}, not a file" if what is not None else f"there is no file {name}"


#: How many includes a plan may have in all. A file that is included twice counts twice, with its own includes.
MAX_INCLUDES: Final = 1_000


class PlanFile(Struct, frozen=True, kw_only=True):
    """The plan's file or an included one: its fields, its name, and the prefix of its steps' ids."""

    fields: Fields
    name: str
    prefix: str = ""


class Includes:
    """Follow `include`, beginning with the plan's file."""

    def __init__(self, files: PlanFiles, report: Report) -> None:
        self._files = files
        self._report = report
        self._read: dict[Path, Fields | None] = {}
        self._count = 0
        self._size = 0

    def collect(self, plan: PlanFile, path: Path) -> tuple[PlanFile, ...]:
        """Return all files in the order in which their steps come: what a file includes comes before itself."""
        return (*self._included(plan, (path,)), plan)

    def of_step(self, relative: Scalar, named_in: str, step: str) -> tuple[PlanFile, ...]:
        """Return the file that a step includes instead of its own steps, after the files that it includes itself."""
        return tuple(self._with_its_own(relative, named_in, "", (), step=step or None))

    def _included(self, parent: PlanFile, chain: tuple[Path, ...]) -> list[PlanFile]:
        found: list[PlanFile] = []
        for node in parent.fields.items("include"):
            relative, prefix = _entry(parent.fields, node)
            if relative is not None:
                found += self._with_its_own(relative, parent.name, parent.prefix + prefix, chain)
        return found

    def _with_its_own(
        self, relative: Scalar, named_in: str, prefix: str, chain: tuple[Path, ...], *, step: str | None = None
    ) -> Iterator[PlanFile]:
        file = self._files.find(relative.text, named_in, relative, "include", step=step)
        if file is None:
            return
        if file.path in chain:
            message = f"`{relative.text}` includes itself" + (", through other files" if file.path != chain[-1] else "")
            self._report.add(relative, "JP223", message)
            return
        self._count += 1
        if self._count > MAX_INCLUDES:
            if self._count == MAX_INCLUDES + 1:
                self._report.add(relative, "JP223", f"the plan includes more than {MAX_INCLUDES:,} files")
            return
        if file.path not in self._read:
            self._read[file.path] = self._fragment(file.path, file.name)
        fields = self._read[file.path]
        if fields is not None and self._has_room(fields, relative):
            child = PlanFile(fields=fields, name=file.name, prefix=prefix)
            yield from self._included(child, (*chain, file.path))
            yield child

    def _has_room(self, fields: Fields, place: Scalar) -> bool:
        """Return whether all files together are within the limit for one file; report a problem if not."""
        self._size += fields.place.size if isinstance(fields.place, Mapping) else 0
        if self._size > MAX_NODES:
            self._report.add(place, "JP013", f"the included files have more than {MAX_NODES:,} values")
            return False
        return True

    def _fragment(self, path: Path, name: str) -> Fields | None:
        root = read(path, name, self._report, hint="an included file has `steps`")
        if root is None:
            return None
        return Fields(root.values, root, self._report, check_shape(root, self._report, definition="fragment"))


def _entry(fields: Fields, node: Node) -> tuple[Scalar | None, str]:
    if isinstance(node, Scalar):
        return node, ""
    if not isinstance(node, Mapping):
        return None, ""
    entry = fields.within(node)
    prefix = entry.text("as")
    return entry.scalar("file"), f"{prefix}_" if prefix else ""


_SUFFIXES = (".yaml", ".yml")
_KEY = re.compile(r"""^["']?([A-Za-z_][\w-]*)["']?[ \t]*:""", re.MULTILINE)
#: The same in a mapping that is written on one line, as JSON is.
_FLOW_KEY = re.compile(r"""[{,]\s*["']?([A-Za-z_][\w-]*)["']?\s*:""")
#: Keys of a plan that an included file does not have, and that other programs do not use together with `steps`.
_OF_A_PLAN = frozenset({"version", "budget", "defaults", "params", "requires", "finally", "concurrency", "run_timeout"})
#: How many bytes of a file are read.
_LOOKED_AT = 10_000_000


class FoundPlans(Struct, frozen=True, kw_only=True):
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


def files_of(plan: Plan) -> frozenset[Path]:
    """Return every file of a plan: the plan itself, its includes and its SQL files."""
    return frozenset(Path(file) for file in {plan.file, *_files(plan)} if file)


def _files(value: object) -> Iterator[str]:
    if isinstance(value, Position):
        yield value.file
    elif isinstance(value, Sql):
        yield value.start.file
    elif isinstance(value, Struct):
        for name in value.__struct_fields__:
            yield from _files(getattr(value, name))
    elif isinstance(value, MappingABC):
        for item in value.values():
            yield from _files(item)
    elif isinstance(value, tuple | frozenset):
        for item in value:
            yield from _files(item)
