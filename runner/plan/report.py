"""Where problems are collected: everything that is wrong with a plan is told at once, each thing once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Final, Protocol

from runner.errors import Position, Problem, Severity

#: How many words are compared for hints, in all: ten thousand misspelt names are not worth minutes.
MAX_COMPARED: Final = 50_000
#: How many problems are told. Nobody reads more, and the services that show them take no more.
MAX_PROBLEMS: Final = 1_000
_MAX_WORD: Final = 100


class Placed(Protocol):
    """Anything that knows its place in a file."""

    @property
    def position(self) -> Position:
        """Return the place."""
        ...


class Guesses:
    """Finds the known word that was probably meant, as long as that does not take too long for all words together."""

    def __init__(self) -> None:
        self._left = MAX_COMPARED

    @property
    def spent(self) -> bool:
        """Say whether there will be no more hints."""
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
        self._untold = False

    def add(
        self, where: Placed | Position, code: str, message: str, *, hint: str | None = None, step: str | None = None
    ) -> None:
        """Note an error; the same one at the same place (a default that many steps use) is noted once."""
        position = where if isinstance(where, Position) else where.position
        if len(self._problems) < MAX_PROBLEMS:
            problem = Problem(position=position, code=code, message=message, hint=hint, step=step)
            self._problems.setdefault((position, code, message), problem)
        elif (position, code, message) not in self._problems:
            self._untold = True

    def names_file(self, name: str) -> None:
        """Take note of a file that is read, so that problems come in the order of the files."""
        self._files.setdefault(name, len(self._files))

    @property
    def count(self) -> int:
        """Return how many problems there are."""
        return len(self._problems)

    @property
    def has_errors(self) -> bool:
        """Say whether anything that makes the plan invalid was found."""
        return any(problem.severity is Severity.ERROR for problem in self._problems.values())

    def problems(self) -> tuple[Problem, ...]:
        """Return every problem, by file in the order of reading, then by line and column."""
        last = len(self._files)

        def place(problem: Problem) -> tuple[int, Position, str, str]:
            return (self._files.get(problem.position.file, last), problem.position, problem.code, problem.message)

        told = sorted(self._problems.values(), key=place)
        if self._untold:
            message = f"there are more than {MAX_PROBLEMS:,} problems; the rest is not told"
            told.append(Problem(position=told[-1].position, code="JP016", message=message))
        return tuple(told)


def did_you_mean(word: str, known: Collection[str]) -> str | None:
    """Return a hint for one word alone, as `Guesses.did_you_mean` does."""
    return Guesses().did_you_mean(word, known)


def listed(words: Iterable[str], *, last: str = "or") -> str:
    """Return words in backquotes as a sentence lists them: `a`, `b` or `c`."""
    quoted = [f"`{word}`" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"
