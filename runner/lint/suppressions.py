"""Comments that silence a rule: `# jobplan: ignore=JP341` beside a step, for users who accept the risk.

A comment belongs to the step in whose lines it stands, or directly above which it stands. Anywhere else it belongs to
the plan, and silences findings that are about no step. It also silences findings in its own line, or in the line below
if it is alone in its line. A parsed plan has neither comments nor the ends of its steps, so both are read from the
plan's files.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Final

from runner.codes import CODES_BY_SLUG, nearest_code, new_problem
from runner.errors import Position, Problem
from runner.lint.rule import Finding, Rule
from runner.plan.groups import written_steps
from runner.plan.model import Plan, Step
from runner.plan.parsed_sql import Subject
from runner.plan.yaml_reader import MAX_BYTES
from runner.structs import Struct, field, replace


class Sources:
    """The lines of files, each file read on first use. A file that cannot be read has no lines.

    Lines are counted as problems count them; bytes that are not UTF-8 become replacement characters.
    """

    def __init__(self) -> None:
        self._lines: dict[str, Sequence[str]] = {}

    def lines(self, file: str) -> Sequence[str]:
        """Return the lines of a file, without their ends."""
        if file not in self._lines:
            self._lines[file] = _read(Path(file))
        return self._lines[file]


def _read(path: Path) -> Sequence[str]:
    try:
        # A pipe has already been read, and reading it again could block forever.
        if not path.is_file():
            return ()
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
    except (OSError, ValueError):
        return ()
    return data.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")


_DASH = re.compile(r" *- +")
#: What may stand between a comment and the step that it is above: comments, and a dash with a line to itself.
_ABOVE = re.compile(r"\s*(?:#.*|-\s*)")
_NOTHING: frozenset[str] = frozenset()


class StepLines:
    """The lines of one file, read in one pass, so that the cost depends on the length of the file only."""

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


#: How many comments are read: each may be a problem, and a stranger's file may be full of them.
MAX_COMMENTS: Final = 10_000
_MAX_HINTS = 100  # each takes a comparison with every code

#: After a comma only what looks like a code or a slug is one: a reason may follow in words.
_COMMENT = re.compile(
    r"(?:^|(?<=\s))#\s*jobplan:\s*ignore\b"
    r"(?:\s*=\s*([\w-]+(?:\s*,\s*(?:[A-Za-z]+[0-9]+|[A-Za-z0-9]+(?:-[A-Za-z0-9]+)+)(?![\w-]))*))?"
)
_ENABLE = re.compile(r"(?:^|(?<=\s))#\s*jobplan:\s*enable\s*=\s*([\w-]+(?:\s*,\s*[\w-]+)*)")
_CODE = re.compile(r"[\w-]+")

#: What a comment silences, of one code: a step by its id, a line by its file and number, or the plan (None).
_Target = tuple[str, str | tuple[str, int] | None]


class _Ignores(Struct):
    """What the comments of a plan say: each one's codes by what they silence, and what is wrong with the comments.

    `codes` and `words` have the code of each place and how it is written, which may be as a slug.
    """

    places: dict[_Target, list[Position]] = field(default_factory=lambda: defaultdict(list))
    codes: dict[Position, str] = field(default_factory=dict)
    words: dict[Position, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def without_ignored(
    problems: Iterable[Problem], plan: Plan, sources: Sources, known: Collection[str]
) -> Iterator[Problem]:
    """Yield the problems that no comment of the plan silences, then those with the comments themselves.

    `known` are the rules' codes; a comment that names another one, or silences nothing, is a problem.
    """
    ignores = _read_ignores(plan, sources, frozenset(known) - {_UNUSED.code, _UNKNOWN.code})
    used: set[Position] = set()
    for problem in problems:
        line = (problem.position.file, problem.position.line)
        hits = [*ignores.places.get((problem.code, line), ()), *ignores.places.get((problem.code, problem.step), ())]
        used.update(hits)
        if not hits:
            yield problem
    yield from ignores.problems
    for position in ignores.codes:
        if position not in used:
            word = ignores.words[position]
            message = f"`ignore={word}` has no effect: the rule has no finding here"
            yield new_problem(_UNUSED.code, message, position, hint="remove the code from the comment")


def enabled(plan: Plan, sources: Sources, optional: Collection[str]) -> frozenset[str]:
    """Return the optional rules that comments of the plan's files ask for, by their codes."""
    files = dict.fromkeys((plan.file, *(step.position.file for step in written_steps(plan))))
    words = (
        word
        for file in files
        for line in sources.lines(file)
        if "jobplan:" in line
        for found in _ENABLE.finditer(line)
        for word in _CODE.findall(found[1])
    )
    return frozenset(CODES_BY_SLUG.get(word, word) for word in words) & frozenset(optional)


def _read_ignores(plan: Plan, sources: Sources, known: Collection[str]) -> _Ignores:
    ignores = _Ignores()
    steps_by_file: dict[str, list[Step]] = {plan.file: []}
    for step in _commented(plan):
        steps_by_file.setdefault(step.position.file, []).append(step)
    left = MAX_COMMENTS
    for file, steps in steps_by_file.items():
        lines = sources.lines(file)
        comments = list(islice(_comments(lines), left + 1))
        step_lines = StepLines(lines, steps if comments else ())
        for number, comment in comments:
            place = Position(file=file, line=number, column=comment.start() + 1)
            if left == 0:
                message = f"more than {MAX_COMMENTS:,} comments ignore rules; this one and those after it do not count"
                ignores.problems.append(new_problem(_UNKNOWN.code, message, place, hint=None))
                break
            left -= 1
            _read_comment(place, comment, step_lines, ignores)
    _refuse_unknown(ignores, known)
    return ignores


def _commented(plan: Plan) -> Iterator[Step]:
    """Yield the steps of the plan as written out, each also at the place of its group: a comment there is about it."""
    places = {step.id: step.position for step in plan.all_steps}
    for step in written_steps(plan):
        if step.group is not None:
            yield replace(step, position=places[step.group])
        yield step


def _comments(lines: Sequence[str]) -> Iterator[tuple[int, re.Match[str]]]:
    for number, line in enumerate(lines, 1):
        if "jobplan:" in line and (found := _COMMENT.search(line)):
            yield number, found


def _read_comment(place: Position, comment: re.Match[str], steps: StepLines, ignores: _Ignores) -> None:
    if comment[1] is None:
        hint = "write `# jobplan: ignore=JP341`, with commas between several codes"
        ignores.problems.append(new_problem(_UNKNOWN.code, "the comment names no code to ignore", place, hint=hint))
        return
    alone = not comment.string[: comment.start()].strip()
    targets: list[str | tuple[str, int] | None] = [*(steps.at(place.line, alone=alone) or (None,))]
    targets += [(place.file, line) for line in range(place.line, place.line + 1 + alone)]
    for word in _CODE.finditer(comment.string, *comment.span(1)):
        code = CODES_BY_SLUG.get(word.group(), word.group())
        position = Position(file=place.file, line=place.line, column=word.start() + 1)
        ignores.codes[position] = code
        ignores.words[position] = word.group()
        for target in targets:
            ignores.places[code, target].append(position)


def _refuse_unknown(ignores: _Ignores, known: Collection[str]) -> None:
    unknown = [(position, code) for position, code in ignores.codes.items() if code not in known]
    for index, (position, code) in enumerate(unknown):
        del ignores.codes[position]
        hint = nearest_code(code, known) if index < _MAX_HINTS else None
        ignores.problems.append(
            new_problem(_UNKNOWN.code, f"`{code}` is not a rule that can be ignored", position, hint=hint)
        )


def _found_by_comments(_: Subject) -> Iterable[Finding]:
    """Find nothing: whether a comment silences something is known when all other rules are done."""
    return ()


_UNUSED = Rule(code="JP901", check=_found_by_comments)
_UNKNOWN = Rule(code="JP902", check=_found_by_comments)
RULES = (_UNUSED, _UNKNOWN)
