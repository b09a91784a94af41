"""Problems of plans as text, as JSON, as rows of a Markdown table, and as SARIF.

Text has one line for each problem, and in a terminal the line of the file. Code scanning services read SARIF (the
OASIS standard "Static Analysis Results Interchange Format (SARIF) Version 2.1.0").
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from runner.codes import slug_of, with_slug
from runner.engine.events import ErrorDetails
from runner.errors import Position, Problem, Severity
from runner.phrases import counts
from runner.plan.groups import written_steps
from runner.reports.terminal_text import columns, visible, visible_json
from runner.structs import Struct, picked

if TYPE_CHECKING:
    from runner.plan.model import Plan
    from runner.reference.rule_pages import Explanation

#: Returns the lines of a file by its name in problems; empty if it cannot be read.
Lines = Callable[[str], Sequence[str]]

_SPACES: Final = re.compile("[\t-\r\x85\u2028\u2029]")
_BOLD, _RED, _YELLOW, _CYAN, _DIM = "1", "1;31", "1;33", "36", "2"


class PlanVerdict(Struct, frozen=True, kw_only=True):
    """The result of checking one plan: `file` as it was given, its number of steps (None if it cannot be read).

    `plan` is the plan as far as it could be read.
    """

    file: str
    steps: int | None
    problems: tuple[Problem, ...]
    plan: Plan | None = None

    @property
    def errors(self) -> int:
        """Return how many of the problems make the plan invalid."""
        return sum(problem.severity is Severity.ERROR for problem in self.problems)

    @property
    def warnings(self) -> int:
        """Return how many of the problems do not make the plan invalid."""
        return len(self.problems) - self.errors


class Style(Struct, frozen=True, kw_only=True):
    """How to print a problem: `excerpt` with its line and a caret under it, `color` with ANSI colours.

    `width` limits the characters of the line: a line of a generated file can have millions. No line of the files in
    `secret` is printed.
    """

    excerpt: bool = False
    secret: frozenset[str] = frozenset()
    color: bool = False
    width: int = 120

    def paint(self, text: str, code: str) -> str:
        """Return the text in a colour, if there are colours."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    def bold(self, text: str) -> str:
        """Return the text in bold, if there are colours."""
        return self.paint(text, _BOLD)


def problem_lines(problem: Problem, lines: Lines, style: Style) -> Iterator[str]:
    """Yield the text of one problem: a line, and with `excerpt` the line of the file and the hint below it."""
    if not style.excerpt:
        yield _printable(str(problem))
        return
    tint = _RED if problem.severity is Severity.ERROR else _YELLOW
    place = style.bold(f"{_printable(str(problem.position))}:")
    head = style.paint(f"{problem.severity} {with_slug(problem.code)}", tint)
    yield f"{place} {head}: {_printable(problem.message)}"
    if problem.position.file not in style.secret:
        yield from _excerpt(problem, lines, style, tint)
    if problem.hint:
        yield f"  {style.paint('help:', _CYAN)} {_printable(problem.hint)}"


def summary(verdict: PlanVerdict) -> str:
    """Return the verdict on a plan in one line."""
    found = counts({"error": verdict.errors, "warning": verdict.warnings})
    if verdict.errors:
        return f"{_printable(verdict.file)}: invalid, {found}"
    steps = counts({"step": verdict.steps or 0}) or "no steps"
    return f"{_printable(verdict.file)}: {', '.join(filter(None, ('valid', steps, found)))}"


def legend(codes: Iterable[str]) -> str | None:
    """Return one line with the slugs of the codes that were reported and how to read more; None without codes."""
    named = sorted(set(codes))
    if not named:
        return None
    return f"jobplan validate --explain CODE explains {', '.join(map(with_slug, named))}"


#: `role:` is no security boundary (docs/security.md#role-is-no-boundary).
ROLE_NOTE = (
    "note: `role:` is SET ROLE, which prevents mistakes and is no security boundary: SQL of a step can RESET ROLE. "
    "To confine a step, connect as its role: user= in --dsn, or a service."
)


def role_note(plans: Iterable[Plan | None]) -> str | None:
    """Return one line about what `role:` is not; None if no step of these plans has a role."""
    steps = (step for plan in plans if plan is not None for step in written_steps(plan))
    return ROLE_NOTE if any(step.role is not None for step in steps) else None


def distinct(verdicts: Iterable[PlanVerdict]) -> list[Problem]:
    """Return the problems of several plans; a problem in a shared file comes once."""
    return list(dict.fromkeys(problem for verdict in verdicts for problem in verdict.problems))


def _excerpt(problem: Problem, lines: Lines, style: Style, tint: str) -> Iterator[str]:
    place = problem.position
    written = lines(place.file)
    if place.line > len(written) or place.column > len(written[place.line - 1]) + 1:
        return
    line, column = window(written[place.line - 1], place.column - 1, style.width)
    number = f"  {place.line}"
    yield f"{style.paint(f'{number} |', _DIM)} {_printable(line)}".rstrip()
    caret = " " * columns(_printable(line[:column])) + style.paint("^", tint)
    yield f"{style.paint(' ' * len(number) + ' |', _DIM)} {caret}"


def window(line: str, column: int, width: int = 120) -> tuple[str, int]:
    """Return the part of a long line that is around `column` (from 0), and where the column is in it."""
    start = max(0, column - width // 2) if len(line) > width else 0
    part = line[start : start + width]
    if start + width < len(line):
        part += "…"
    return (f"…{part}", column - start + 1) if start else (part, column)


def _printable(text: str) -> str:
    """Return the text on one line, with characters escaped that move the cursor or change the writing direction."""
    return text if text.isprintable() and "##[" not in text else visible(_SPACES.sub(" ", text))


def json_text(problems: Iterable[Problem]) -> str:
    """Return a JSON list with one object for each problem; every key is always there, `hint` and `step` may be null."""
    text = json.dumps([problem_object(problem) for problem in problems], indent=2, ensure_ascii=False)
    return visible_json(text)


def plain_markdown(text: str) -> str:
    """Escape a text of the plan or the server, so that it is no markup, no mention and no new column."""
    escaped = (
        visible(" ".join(text.split()))
        .replace("&", "&amp;")
        .replace("\\", "&#92;")
        .replace("[", "&#91;")
        .replace("~", "&#126;")
        .replace("<", "&lt;")
        .replace("|", "&#124;")
        .replace("`", "&#96;")
    )
    return escaped.replace("@", "&#64;").replace("*", "&#42;").replace("_", "&#95;")


def markdown_rows(problems: Iterable[Problem]) -> Iterator[str]:
    """Yield a row of a Markdown table for each problem: code, place, message and step."""
    for problem in problems:
        mark = "❌" if problem.severity is Severity.ERROR else "⚠️"
        place = f"<code>{plain_markdown(str(problem.position))}</code>" if problem.position.file else ""
        hint = f"<br>{plain_markdown(problem.hint)}" if problem.hint else ""
        message = f"{plain_markdown(problem.message)}{hint}"
        yield f"| {mark} {problem.code} | {place} | {message} | {plain_markdown(problem.step or '')} |"


#: The head of the table whose rows `markdown_rows` yields.
MARKDOWN_HEAD: Final = ("| | where | what | step |", "|---|---|---|---|")


def fitting(parts: Iterable[str], room: int, gap: int = 1) -> list[str]:
    """Return as many of the first parts as fit into so many characters, each with a gap after it."""
    shown: list[str] = []
    for part in parts:
        room -= len(part) + gap
        if room < 0:
            break
        shown.append(part)
    return shown


def repository_path(file: str, workspace: str) -> str:
    """Return a file as GitHub names it: relative to the workspace, else to the root of its git repository.

    `file` is relative to the working directory. A file outside of both is returned unchanged.
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
        **picked(problem.position, "file", "line", "column"),
        "severity": problem.severity.value,
        "code": problem.code,
        "slug": slug_of(problem.code),
        **picked(problem, "message", "hint", "step"),
        "also": [{**picked(place, "file", "line", "column"), "step": step} for place, step in problem.also],
    }


_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif_text(problems: Iterable[Problem], explanations: Mapping[str, Explanation], version: str) -> str:
    """Return a log with one run: every code as a rule, every problem as a result. `version` is jobplan's."""
    indexes = {code: index for index, code in enumerate(explanations)}
    run = {
        "tool": {
            "driver": {
                "name": "jobplan",
                "semanticVersion": version,
                "rules": [_rule(page) for page in explanations.values()],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(problem, indexes) for problem in problems],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _rule(page: Explanation) -> dict[str, Any]:
    why, wrong, right, remedy = page.why, page.wrong, page.right, page.remedy
    return {
        "id": page.code.code,
        "name": page.code.slug,
        "shortDescription": {"text": page.code.title},
        "fullDescription": {"text": why},
        "help": {
            "text": f"{why}\n\nWrong:\n{wrong}\n\nRight:\n{right}\n\nWhat to do: {remedy}",
            "markdown": f"{why}\n\nWrong:\n```yaml\n{wrong}\n```\nRight:\n```yaml\n{right}\n```\n{remedy}\n",
        },
        "defaultConfiguration": {"level": page.code.severity.value},
    }


def _result(problem: Problem, indexes: Mapping[str, int]) -> dict[str, Any]:
    text = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
    result: dict[str, Any] = {
        "ruleId": problem.code,
        "level": problem.severity.value,
        "message": {"text": text},
        "locations": [_location(problem.position, problem.step)],
    }
    if problem.code in indexes:
        result["ruleIndex"] = indexes[problem.code]
    return result


def _location(position: Position, step: str | None) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(position.file)},
            "region": {"startLine": position.line, "startColumn": position.column},
        }
    }
    if step is not None:
        location["logicalLocations"] = [{"name": step, "kind": "member"}]
    return location


def _uri(file: str) -> str:
    path = Path(file)
    return path.as_uri() if path.is_absolute() else quote(os.fsencode(path))


def excerpt(error: ErrorDetails, sql: str) -> Iterator[str]:
    """Yield the line of the SQL in which the error is, and a caret under its position, as psql does."""
    if error.position is None or not sql:
        return
    offset = min(error.position - 1, len(sql))
    start = sql.rfind("\n", 0, offset) + 1
    end = sql.find("\n", offset)
    number = sql.count("\n", 0, offset) + 1
    line, column = window(sql[start : end if end >= 0 else len(sql)], offset - start)
    head = f"LINE {number}: "
    yield head + line
    yield " " * (len(head) + columns(line[:column])) + "^"
