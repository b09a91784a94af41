"""Included files: read them, check them like the plan itself, and list them with it, each with its prefix for ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runner.plan.composer import MAX_NODES
from runner.plan.document import read
from runner.plan.fields import Fields
from runner.plan.files import PlanFiles
from runner.plan.nodes import Mapping, Node, Scalar
from runner.plan.report import Report
from runner.plan.schema import check_shape

#: How many includes a plan may have in all. A file that is included twice counts twice, with its own includes.
MAX_INCLUDES: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
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

    def _included(self, parent: PlanFile, chain: tuple[Path, ...]) -> list[PlanFile]:
        found: list[PlanFile] = []
        for node in parent.fields.items("include"):
            relative, prefix = _entry(parent.fields, node)
            if relative is None:
                continue
            file = self._files.find(relative.text, parent.name, relative, "include")
            if file is None:
                continue
            if file.path in chain:
                message = f"`{relative.text}` includes itself" + (
                    ", through other files" if file.path != chain[-1] else ""
                )
                self._report.add(relative, "JP223", message)
                continue
            self._count += 1
            if self._count > MAX_INCLUDES:
                if self._count == MAX_INCLUDES + 1:
                    self._report.add(relative, "JP223", f"the plan includes more than {MAX_INCLUDES:,} files")
                continue
            if file.path not in self._read:
                self._read[file.path] = self._fragment(file.path, file.name)
            fields = self._read[file.path]
            if fields is not None and self._has_room(fields, relative):
                child = PlanFile(fields=fields, name=file.name, prefix=parent.prefix + prefix)
                found += (*self._included(child, (*chain, file.path)), child)
        return found

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
