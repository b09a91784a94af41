"""The items of a for_each: from literal items or a query's rows to instances with keys of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from runner.engine.events import Item
from runner.plan.model import Step, Value

#: Characters of an item that its instance's key shows.
_KEY_LENGTH = 60


def literal_items(step: Step) -> tuple[Item, ...]:
    """Return the items that the plan itself lists."""
    for_each = step.for_each
    if for_each is None:
        return ()
    rows = [item if isinstance(item, Mapping) else {"": item} for item in for_each.items]
    return _items(step.id, for_each.as_, rows)


def queried_items(step: Step, columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> tuple[Item, ...]:
    """Return the items that a query gave; a single column is also the item itself."""
    if step.for_each is None:
        return ()
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    if len(columns) == 1:
        named = [{"": row[columns[0]], **row} for row in named]
    return _items(step.id, step.for_each.as_, named)


def _items(step_id: str, as_: str, rows: Sequence[Mapping[str, Value | None]]) -> tuple[Item, ...]:
    seen: Counter[str] = Counter()
    items = []
    for row in rows:
        label = _label(row)
        seen[label] += 1
        number = f"#{seen[label]}" if seen[label] > 1 else ""
        values = {f"{as_}.{name}" if name else as_: value for name, value in row.items()}
        items.append(Item(key=f"{step_id}[{label}{number}]", values=values))
    return tuple(items)


def _label(row: Mapping[str, Value | None]) -> str:
    """Write an item as a person would name it: its value, or its values with commas."""
    parts = [row[""]] if "" in row else row.values()
    text = ",".join("" if part is None else str(part) for part in parts)
    flat = " ".join(text.split())
    return flat if len(flat) <= _KEY_LENGTH else flat[: _KEY_LENGTH - 1] + "…"
