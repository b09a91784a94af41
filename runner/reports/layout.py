"""Where the steps of a plan stand in a drawing of its graph: columns by what comes first, rows by who needs whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.plan.graph import topological_order

#: A column with more steps than this is broken into several, side by side.
TALLEST = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """For each name its column and row; rows may be halves, because short columns stand in the middle."""

    places: Mapping[str, tuple[int, float]]
    columns: int
    rows: int


def lay_out(needs: Mapping[str, Sequence[str]], last: Sequence[str] = ()) -> Layout:
    """Return the places of all names; those in `last` come in columns of their own after all others.

    A name stands right of everything that it needs, and near the middle of it.
    """
    layers = _layers({name: needed for name, needed in needs.items() if name not in last})
    tail = _layers({name: [need for need in needs[name] if need in last] for name in last})
    columns: list[list[str]] = []
    row_of: dict[str, float] = {}
    for layer in (*layers, *tail):
        ordered = sorted(layer, key=lambda name: _middle(needs[name], row_of))
        parts = [ordered[start : start + TALLEST] for start in range(0, len(ordered), TALLEST)]
        row_of.update((name, row - len(part) / 2) for part in parts for row, name in enumerate(part))
        columns += parts
    rows = max(map(len, columns), default=0)
    places = {
        name: (number, row + (rows - len(column)) / 2)
        for number, column in enumerate(columns)
        for row, name in enumerate(column)
    }
    return Layout(places=places, columns=len(columns), rows=rows)


def _layers(needs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    depth: dict[str, int] = {}
    for name in topological_order(needs):
        depth[name] = 1 + max((depth[need] for need in needs[name] if need in depth), default=-1)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name, at in depth.items():
        layers[at].append(name)
    return layers


def _middle(needed: Sequence[str], row_of: Mapping[str, float]) -> float:
    rows = [row_of[name] for name in needed if name in row_of]
    return sum(rows) / len(rows) if rows else 0.0
