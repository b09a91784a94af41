"""Collect the problems of a plan, so that all are reported at once, and each of them once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from runner.codes import new_problem
from runner.errors import Cause, Position, Problem, Severity

#: How many words are compared for hints in all: with ten thousand misspelt names it would take minutes.
MAX_COMPARED: Final = 50_000
#: How many problems are reported. Services that display them accept no more.
MAX_PROBLEMS: Final = 1_000
_MAX_WORD: Final = 100
#: Codes of values that cannot be read because of a character or a tag.
_UNREADABLE: Final = frozenset({"JP004", "JP014"})


class Placed(Protocol):
    """Anything with a position in a file."""

    @property
    def position(self) -> Position:
        """Return the position."""
        ...


class Guesses:
    """Find the known word that was probably meant; the number of comparisons for all words together is limited."""

    def __init__(self) -> None:
        self._left = MAX_COMPARED

    @property
    def spent(self) -> bool:
        """Return whether the limit is used up, so that there are no more hints."""
        return self._left < 0

    def did_you_mean(self, word: str, known: Collection[str]) -> str | None:
        """Return a hint that names the known word nearest to `word`, or None if none is near."""
        self._left -= len(known)
        if self._left < 0:
            return None
        near = difflib.get_close_matches(word[:_MAX_WORD].lower(), known, n=1, cutoff=0.6)
        return f"did you mean `{near[0]}`?" if near else None


class Report:
    """The problems found so far."""

    def __init__(self) -> None:
        self.guesses = Guesses()
        self._problems: dict[tuple[Position, str, str], Problem] = {}
        self._files: dict[str, int] = {}
        self._truncated = False
        self._causes: set[tuple[str, str]] = set()
        self._alike: list[Problem] = []
        #: Positions of values that cannot be read: other problems of such a value only follow from that.
        self._unreadable: set[Position] = set()
        #: Names that are declared in a way that cannot be read, and whether such a declaration has no readable name:
        #: that is reported there, and not again where the name is used.
        self.unread: set[str] = set()
        self.unread_any = False
        self.unread_id = False
        #: Keys that are probably meant by an unknown key, by the identity of the mapping, and by the key that holds the
        #: mapping: they are not missing besides.
        self.meant: dict[int, set[str]] = {}
        self.meant_in: dict[str, set[str]] = {}

    def add(
        self,
        where: Placed | Position,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        step: str | None = None,
        cause: Cause | None = None,
    ) -> None:
        """Add a problem; the same one at the same place (a default that many steps use) is added once.

        Of problems with one `cause` only the first counts; the others are listed with it.
        """
        position = where if isinstance(where, Position) else where.position
        if code in _UNREADABLE:
            self._unreadable.add(position)
        elif position in self._unreadable:
            return
        found = new_problem(code, message, position, hint=hint, step=step, cause=cause)
        if cause is not None and (code, cause.key) in self._causes:
            self._alike.append(found)
        elif len(self._problems) < MAX_PROBLEMS:
            self._problems.setdefault((position, code, message), found)
            if cause is not None:
                self._causes.add((code, cause.key))
        elif (position, code, message) not in self._problems:
            self._truncated = True

    def names_file(self, name: str) -> None:
        """Record that a file is read, so that problems come in the order of the files."""
        self._files.setdefault(name, len(self._files))

    def has_at(self, position: Position) -> bool:
        """Return whether a problem at this position is known: one mistake is one problem."""
        return any(known == position for known, _, _ in self._problems)

    @property
    def count(self) -> int:
        """Return how many problems there are."""
        return len(self._problems)

    @property
    def has_errors(self) -> bool:
        """Return whether there is a problem that makes the plan invalid."""
        return any(problem.severity is Severity.ERROR for problem in self._problems.values())

    def problems(self) -> tuple[Problem, ...]:
        """Return every problem, by file in the order of reading, then by line and column."""
        last = len(self._files)

        def place(problem: Problem) -> tuple[int, Position, str, str]:
            return (self._files.get(problem.position.file, last), problem.position, problem.code, problem.message)

        reported = list(grouped(sorted((*self._problems.values(), *self._alike), key=place)))
        if self._truncated:
            message = f"there are more than {MAX_PROBLEMS:,} problems; the rest is not reported"
            reported.append(new_problem("JP016", message, reported[-1].position))
        return tuple(reported)


#: How many members of a group are named.
_NAMED: Final = 5


def grouped(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the problems with one in place of all those that have the same code and cause.

    It has the position of the first and lists the others in its message and in `also`. Without a cause, problems are
    grouped if they have the same message and position, as in a file that several steps run.
    """
    groups: dict[object, list[Problem]] = {}
    for problem in problems:
        cause = problem.cause
        key = (problem.code, problem.position, problem.message) if cause is None else (problem.code, cause.key)
        groups.setdefault(key, []).append(problem)
    return tuple(_merged(group) if len(group) > 1 else group[0] for group in groups.values())


def _merged(group: Sequence[Problem]) -> Problem:
    first, others = group[0], group[1:]
    also = tuple((other.position, other.step) for other in others)
    if first.cause is None:
        return replace(first, also=also)
    names = dict.fromkeys(other.cause.part for other in others if other.cause is not None)
    names.pop(first.cause.part, None)
    if not names:
        return replace(first, also=also)
    parts = sorted(names, key=lambda part: part[:1].isdigit())  # parts that are only a number come last
    named = ", ".join(parts[:_NAMED])
    if len(parts) > _NAMED:
        named += f" and {len(parts) - _NAMED:,} more"
    elif len(parts) > 1:
        named = f"{', '.join(parts[:-1])} and {parts[-1]}"
    message = f"{first.message}; the same holds for {named}"
    return replace(first, message=message, hint=first.cause.hint or first.hint, also=also)


def did_you_mean(word: str, known: Collection[str]) -> str | None:
    """Return a hint for a single word, as `Guesses.did_you_mean` does."""
    return Guesses().did_you_mean(word, known)
