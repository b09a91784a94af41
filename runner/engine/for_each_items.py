"""The items of a for_each: from literal items or a query's rows to instances with keys of their own.

An instance is its whole item. Its key only shows it: it is short, and different from that of any other item. So an item
that was there before keeps its key when a run is resumed with other items, or in another order, whatever it looks like.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from runner.engine.events import Item
from runner.plan.model import ForEach, ParamType, Step, Value
from runner.sql.qualified_names import QualifiedName, qualified_name

#: Characters of an item that its instance's key shows.
_KEY_LENGTH = 60


def literal_items(step: Step, before: Sequence[Item] = ()) -> tuple[Item, ...]:
    """Return the items that the plan itself lists; one that is among those of `before` keeps its key."""
    for_each = step.for_each
    if for_each is None:
        return ()
    rows = [item if isinstance(item, Mapping) else {"": item} for item in for_each.items]
    return _items(step, for_each, _with_only_column(rows), before)


def identity_of(item: Item) -> str:
    """Return what an item is: the values of all its columns, as JSON. Its key is only how it is shown.

    The name that the plan gives to items (`as`) is no part of it.
    """
    columns = {name.partition(".")[2]: value for name, value in item.values.items()}
    return json.dumps(columns, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def queried_items(step: Step, columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> tuple[Item, ...]:
    """Return the items that a query gave; a single column is also the item itself.

    ValueError, with a sentence that begins after "the value", for one that is no relation where the items are.
    """
    if step.for_each is None:
        return ()
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    return _items(step, step.for_each, _with_only_column(named))


def _with_only_column(rows: Sequence[Mapping[str, Value | None]]) -> Sequence[Mapping[str, Value | None]]:
    """Let the only column of all rows be the item itself as well."""
    names = {name for row in rows for name in row}
    if len(names) != 1 or "" in names:
        return rows
    return [{"": value, name: value} for row in rows for name, value in row.items()]


def typed(for_each: ForEach | None, values: Mapping[str, Value | None]) -> Mapping[str, Value | None]:
    """Return an item's values as the type of the items has them: a record keeps plain texts. ValueError as above."""
    if for_each is None or for_each.type is not ParamType.RELATION:
        return values
    if for_each.as_ not in values:
        raise ValueError("has several columns; an item of type relation is one name")
    if None in values.values():
        raise ValueError("is NULL, which is no relation's name")
    return {name: qualified_name(str(value)) for name, value in values.items()}


def _items(
    step: Step, for_each: ForEach, rows: Sequence[Mapping[str, Value | None]], before: Sequence[Item] = ()
) -> tuple[Item, ...]:
    kept: defaultdict[str, deque[str]] = defaultdict(deque)
    for item in before:
        kept[identity_of(item)].append(item.key)
    seen: Counter[str] = Counter()
    keys = {item.key for item in before}
    items = []
    for row in rows:
        as_ = for_each.as_
        values = typed(for_each, {f"{as_}.{name}" if name else as_: value for name, value in row.items()})
        label = _label(row if for_each.type is None else {"": values[as_]})
        item = Item(key="", values=values)
        known = kept[identity_of(item)]
        items.append(replace(item, key=known.popleft() if known else _new_key(step.id, label, seen, keys)))
    return tuple(items)


def _new_key(step_id: str, label: str, seen: Counter[str], keys: set[str]) -> str:
    """Number a label that was there before; `a#2` may itself be an item, and then the next number is taken."""
    while True:
        seen[label] += 1
        number = f"#{seen[label]}" if seen[label] > 1 else ""
        key = f"{step_id}[{label}{number}]"
        if key not in keys:
            keys.add(key)
            return key


def _label(row: Mapping[str, Value | None]) -> str:
    """Write an item as a person would name it, on one line that no terminal takes for orders."""
    parts = [row[""]] if "" in row else row.values()
    flat = " ".join(",".join(map(_shown, parts)).split())
    safe = "".join(character if character.isprintable() else "?" for character in flat)
    return safe if len(safe) <= _KEY_LENGTH else safe[: _KEY_LENGTH - 1] + "…"


def _shown(value: Value | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, QualifiedName):
        return value.label
    return str(value).lower() if isinstance(value, bool) else str(value)
