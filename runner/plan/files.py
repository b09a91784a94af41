"""The files that a plan names: SQL files and includes. None of them may be outside the plan's folder.

A plan is reviewed together with its folder, so everything that runs must be in it. Symbolic links are resolved before
the check.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runner.plan.document import directional_character, read_text
from runner.plan.model import Sql
from runner.plan.nodes import sql_of_file
from runner.plan.report import Placed, Report
from runner.sql.tokens import name_of

#: The largest SQL file (bytes).
MAX_SQL_BYTES: Final = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
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
            self._report.add(place, "JP218", f"`{key}`: there is no file {name}", step=step)
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
