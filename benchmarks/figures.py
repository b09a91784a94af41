"""What a benchmark gives, and how it is taken and shown: figures, targets, rounds that take turns. Pure but for time.

Machines are noisy, and what disturbs one side of a comparison must disturb the other: so both take turns within one
run, and what is compared is the two of one round.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the design asks for; `at_least` says which side of `value` is the good one."""

    value: float
    at_least: bool

    def met(self, value: float) -> bool:
        """Say whether `value` is on the good side."""
        return value >= self.value if self.at_least else value < self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '<'} {self.value:g}"


def at_least(value: float) -> Target:
    """Return the target of a figure that is better when it is higher."""
    return Target(value=value, at_least=True)


def below(value: float) -> Target:
    """Return the target of a figure that is better when it is lower."""
    return Target(value=value, at_least=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number. `samples` are the rounds that it is the median of, or all there is to see behind it."""

    benchmark: str
    what: str
    value: float
    unit: str
    target: Target | None = None
    samples: tuple[float, ...] = ()

    @classmethod
    def median(
        cls, benchmark: str, what: str, samples: Sequence[float], unit: str, target: Target | None = None
    ) -> Figure:
        """Make the figure of the middle one of several rounds."""
        return cls(
            benchmark=benchmark,
            what=what,
            value=statistics.median(samples),
            unit=unit,
            target=target,
            samples=tuple(samples),
        )

    @property
    def verdict(self) -> str:
        """Say how the figure stands to its target; empty if there is none."""
        if self.target is None:
            return ""
        return "met" if self.target.met(self.value) else "MISSED"

    def as_json(self) -> dict[str, Any]:
        """Return the figure as JSON values."""
        data = dataclasses.asdict(self)
        data["target"] = None if self.target is None else str(self.target)
        data["met"] = None if self.target is None else self.target.met(self.value)
        return data


def take_turns(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run each side once a round, in turns (A B, B A, …), and return what they gave, by side, one for each round."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for _ in range(rounds):
        for name in names:
            taken[name].append(sides[name]())
        names.reverse()
    return taken


def ratios(above: Iterable[float], below_: Iterable[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(above, below_, strict=True)]


def table(figures: Iterable[Figure]) -> str:
    """Lay the figures out for a terminal."""
    head = ("benchmark", "what", "value", "spread", "target", "")
    rows = [head, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _row(figure: Figure) -> tuple[str, ...]:
    spread = f"{_number(min(figure.samples))} … {_number(max(figure.samples))}" if len(figure.samples) > 1 else ""
    value = f"{_number(figure.value)} {figure.unit}".rstrip()
    return (figure.benchmark, figure.what, value, spread, str(figure.target or ""), figure.verdict)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
