"""What is wrong with plans, for people: one line for each problem, and in a terminal the line that it is in."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from runner.errors import Problem, Severity
from runner.reports.visible import visible
from runner.slugs import with_slug

#: Returns the lines of a file by its name, as problems tell it; none for one that cannot be read.
Lines = Callable[[str], Sequence[str]]

_SPACES: Final = re.compile("[\t-\r\x85\u2028\u2029]")
_BOLD, _RED, _YELLOW, _CYAN, _DIM = "1", "1;31", "1;33", "36", "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one plan: `file` as it was named, how many steps it has (None if it could not be read)."""

    file: str
    steps: int | None
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> int:
        """Return how many of the problems make the plan invalid."""
        return sum(problem.severity is Severity.ERROR for problem in self.problems)

    @property
    def warnings(self) -> int:
        """Return how many of the problems do not."""
        return len(self.problems) - self.errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How much to show: `excerpt` the line with a caret under it, `color` with ANSI colours.

    `width` is how many characters of a line an excerpt shows: a line of a generated file may have millions.
    """

    excerpt: bool = False
    color: bool = False
    width: int = 120

    def paint(self, text: str, code: str) -> str:
        """Return the text in a colour, if there are colours."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    def bold(self, text: str) -> str:
        """Return the text in bold, if there are colours."""
        return self.paint(text, _BOLD)


def problem_lines(problem: Problem, lines: Lines, style: Style) -> Iterator[str]:
    """Yield what is shown of one problem: a line, and with `excerpt` the place in the file and the hint below it."""
    if not style.excerpt:
        yield _printable(str(problem))
        return
    tint = _RED if problem.severity is Severity.ERROR else _YELLOW
    place = style.bold(f"{_printable(str(problem.position))}:")
    head = style.paint(f"{problem.severity} {with_slug(problem.code)}", tint)
    yield f"{place} {head}: {_printable(problem.message)}"
    yield from _excerpt(problem, lines, style, tint)
    if problem.hint:
        yield f"  {style.paint('help:', _CYAN)} {_printable(problem.hint)}"


def summary(verdict: Verdict) -> str:
    """Say in a line what is to be thought of a plan."""
    counts = [_count(verdict.errors, "error"), _count(verdict.warnings, "warning")]
    if verdict.errors:
        return f"{_printable(verdict.file)}: invalid, {', '.join(filter(None, counts))}"
    steps = _count(verdict.steps or 0, "step") or "no steps"
    return f"{_printable(verdict.file)}: {', '.join(filter(None, ('valid', steps, *counts)))}"


def legend(codes: Iterable[str]) -> str | None:
    """Return one line with the slugs of the codes that were reported and how to read more; None without codes."""
    named = sorted(set(codes))
    if not named:
        return None
    return f"jobplan validate --explain CODE explains {', '.join(map(with_slug, named))}"


def distinct(verdicts: Iterable[Verdict]) -> list[Problem]:
    """Return the problems of several plans; one in a file that they share is there once."""
    return list(dict.fromkeys(problem for verdict in verdicts for problem in verdict.problems))


def _excerpt(problem: Problem, lines: Lines, style: Style, tint: str) -> Iterator[str]:
    place = problem.position
    written = lines(place.file)
    if place.line > len(written) or place.column > len(written[place.line - 1]) + 1:
        return
    line, column = window(written[place.line - 1], place.column - 1, style.width)
    number = f"  {place.line}"
    yield f"{style.paint(f'{number} |', _DIM)} {_printable(line)}".rstrip()
    caret = " " * text_width(_printable(line[:column])) + style.paint("^", tint)
    yield f"{style.paint(' ' * len(number) + ' |', _DIM)} {caret}"


def window(line: str, column: int, width: int = 120) -> tuple[str, int]:
    """Return the part of a long line that is around `column` (from 0), and where the column is in it."""
    start = max(0, column - width // 2) if len(line) > width else 0
    part = line[start : start + width]
    if start + width < len(line):
        part += "…"
    return (f"…{part}", column - start + 1) if start else (part, column)


def text_width(text: str) -> int:
    """Return how many columns of a terminal a text takes: East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _printable(text: str) -> str:
    """Return the text on one line; what could move a terminal's cursor or turn its writing around is written out."""
    return text if text.isprintable() else visible(_SPACES.sub(" ", text))


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' if number != 1 else ''}" if number else ""
