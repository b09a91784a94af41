"""The items of a for_each: from literal items or query rows to instances with unique keys.

An instance is identified by its whole item, a chunk by its list of items. Its key is a short, unique display form. So
an item of a resumed run keeps its key, even if the items were reordered or others were added.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

from runner.engine.chunks import in_chunks, listed, parts_of
from runner.engine.events import Item
from runner.identity import inner_key
from runner.plan.groups import bound_values
from runner.plan.model import ForEach, ItemValues, ParamType, Step, Value
from runner.sql.qualified_names import QualifiedName, qualified_name
from runner.structs import replace

#: The number of characters of an item that the key of its instance shows.
_KEY_LENGTH = 60


def literal_items(step: Step, before: Sequence[Item] = (), kept: Sequence[Item] = ()) -> tuple[Item, ...]:
    """Return the items that the plan lists, in chunks if it says so; an item that is in `before` keeps its key.

    `kept` are the chunks of the resumed run that stay as they are. ValueError as `queried_items`, only for a group
    whose parameters are bound to values of items.
    """
    return in_chunks(step, single_items(step, before), kept)


def single_items(step: Step, before: Sequence[Item] = ()) -> tuple[Item, ...]:
    """Return the items that the plan lists, each for itself."""
    for_each = step.for_each
    if for_each is None:
        return ()
    rows = [item if isinstance(item, Mapping) else {"": item} for item in for_each.items]
    return _items(step, for_each, _with_only_column(rows), before)


def identity_of(item: Item) -> str:
    """Return the identity of an item: the values of all its columns, as JSON. Its key is only a display form.

    The name that the plan gives to items (`as`) is not part of it.
    """
    columns = {name.partition(".")[2]: value for name, value in item.values.items()}
    return json.dumps(columns, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def queried_items(step: Step, columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> tuple[Item, ...]:
    """Return the items that a query returned, in chunks if the plan says so; a single column is also the item itself.

    ValueError, with a sentence that continues "the value", for an item that must be a relation and is none, for one of
    several columns that is to be part of a chunk, and for one whose value is not of the type of the group's parameter
    that is bound to it.
    """
    if step.for_each is None:
        return ()
    if step.for_each.chunk is not None and len(columns) > 1:
        raise ValueError("has several columns; an item of a chunk has one")
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    return in_chunks(step, _items(step, step.for_each, _with_only_column(named)))


def values_of(for_each: ForEach | None, item: Item) -> ItemValues:
    """Return the values of an instance: those of its item, or the lists of its chunk. ValueError as above."""
    parts = [typed(for_each, part.values) for part in parts_of(item)]
    return listed(parts) if item.items else parts[0]


def values_in_sql(step: Step, item: Item) -> ItemValues:
    """Return the values of an instance, also of a step of a chain in a plan as written out."""
    values = values_of(step.for_each, item)
    return {**values, **bound_values(step.bound, item.values)} if step.bound else values


def _with_only_column(rows: Sequence[Mapping[str, Value | None]]) -> Sequence[Mapping[str, Value | None]]:
    """Let the only column of all rows be the item itself as well."""
    names = {name for row in rows for name in row}
    if len(names) != 1 or "" in names:
        return rows
    return [{"": value, name: value} for row in rows for name, value in row.items()]


def typed(for_each: ForEach | None, values: Mapping[str, Value | None]) -> Mapping[str, Value | None]:
    """Return an item's values converted to the items' type: a record has plain texts. ValueError as above."""
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
        key = known.popleft() if known else _new_key(step.group or step.id, label, seen, keys)
        bound_values(step.bound, values)  # the ValueError
        if step.group is not None:  # a step of a chain, in a plan as written out
            key = inner_key(key, step.id.rpartition(".")[2])
        items.append(replace(item, key=key))
    return tuple(items)


def _new_key(step_id: str, label: str, seen: Counter[str], keys: set[str]) -> str:
    """Number a label that was used before; `a#2` may itself be an item: then the next number is used."""
    while True:
        seen[label] += 1
        number = f"#{seen[label]}" if seen[label] > 1 else ""
        key = f"{step_id}[{label}{number}]"
        if key not in keys:
            keys.add(key)
            return key


def _label(row: Mapping[str, Value | None]) -> str:
    """Format an item for display, on one line without control characters."""
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
