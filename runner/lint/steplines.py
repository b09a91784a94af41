"""Which lines of a file belong to which step: a parsed plan knows where its steps begin, not where they end."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from runner.plan.model import Step

_DASH = re.compile(r" *- +")
#: What may stand between a comment and the step that it is above: comments, and a dash with a line to itself.
_ABOVE = re.compile(r"\s*(?:#.*|-\s*)")
_NOTHING: frozenset[str] = frozenset()


class StepLines:
    """The lines of one file. Everything is looked at once, so that many comments cost no more than the file is long."""

    def __init__(self, lines: Sequence[str], steps: Iterable[Step]) -> None:
        ids: defaultdict[int, set[str]] = defaultdict(set)
        columns: dict[int, int] = {}
        for step in steps:
            line = step.position.line
            ids[line].add(step.id)
            columns[line] = min(step.position.column, columns.get(line, step.position.column))
        self._ids = {line: frozenset(found) for line, found in ids.items()}
        self._starts = sorted(ids)
        self._ends: dict[int, int] = {}
        self._above: dict[int, int] = {}
        for start, after in pairwise((*self._starts, len(lines) + 1)):
            self._ends[start] = _end(lines, start, after, columns[start])
            above = start - 1
            while above > 0 and above not in self._ids and _ABOVE.fullmatch(lines[above - 1]):
                self._above[above] = start
                above -= 1

    def at(self, line: int, *, alone: bool) -> frozenset[str]:
        """Return the ids of the steps that a comment in a line belongs to; `alone` says that nothing else is in it."""
        if alone and line in self._above:
            return self._ids[self._above[line]]
        index = bisect_right(self._starts, line) - 1
        if index < 0 or line > self._ends[self._starts[index]]:
            return _NOTHING
        return self._ids[self._starts[index]]


def _end(lines: Sequence[str], start: int, after: int, column: int) -> int:
    """Return the last line of the step that begins in line `start`; another one begins in `after`, or the file ends.

    Lines of a block are indented more than the dash before it.
    """
    before = lines[start - 1][: column - 1] if start <= len(lines) else ""
    indent = before.index("-") if _DASH.fullmatch(before) else column - 2
    for number in range(start + 1, after):
        line = lines[number - 1]
        words = line.lstrip(" ")
        if words and not words.startswith("#") and len(line) - len(words) <= indent:
            return number - 1
    return after - 1
