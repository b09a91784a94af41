"""The items of a for_each: from literal items or query rows to instances with unique keys, and to chunks of items.

An instance is identified by its whole item, a chunk by its list of items. Its key is a short, unique display form. So
an item of a resumed run keeps its key, even if the items were reordered or others were added.

A chunk is several items for one worker. It is an instance like any other; the list of its items is recorded when the
step is expanded, and appears in SQL as a list. If its attempt fails, and a second run is allowed, the chunk is split:
it then waits for an instance for each of its items, which continues the attempt numbers. So the report names the item
that fails, and the other items succeed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import cast

from runner.engine.events import Item
from runner.identity import inner_key
from runner.phrases import cut
from runner.plan.groups import bound_values
from runner.plan.model import ForEach, ItemValues, ParamType, Step, Value
from runner.sql.placeholders import Listed
from runner.sql.qualified_names import QualifiedName, qualified_name
from runner.structs import replace

#: The largest number of items of a for_each: a report on more items would be unreadable.
MAX_ITEMS = 10_000
#: The name that PostgreSQL gives to a column without one.
_UNNAMED = "?column?"
#: The number of characters of an item that the key of its instance shows.
_KEY_LENGTH = 60


def literal_items(step: Step, before: Sequence[Item] = (), kept: Sequence[Item] = ()) -> tuple[Item, ...]:
    """Return the items that the plan lists, in chunks if it says so; an item that is in `before` keeps its key.

    `kept` are the chunks of the resumed run that stay as they are. ValueError as `queried_items`, only for a group
    whose parameters are bound to values of items.
    """
    return in_chunks(step, single_items(step, before), kept)


def single_items(step: Step, before: Sequence[Item]) -> tuple[Item, ...]:
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


def refused_rows(columns: Sequence[str], number: int) -> str | None:
    """Return why the result of a query cannot be items, from its columns and the number of its rows; None if it can."""
    if not columns:
        return "the query returns no columns, so it has no items"
    if number > MAX_ITEMS:
        return f"the query returns {number:,} items; the limit is {MAX_ITEMS:,}"
    if _UNNAMED in columns:
        return "its columns need unique names, and one has no name"
    repeated = [name for name in columns if columns.count(name) > 1]
    return f"its columns need unique names, and {repeated[0]} is the name of several" if repeated else None


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
    return cut(safe, _KEY_LENGTH)


def _shown(value: Value | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, QualifiedName):
        return value.label
    return str(value).lower() if isinstance(value, bool) else str(value)


def in_chunks(step: Step, items: Sequence[Item], kept: Sequence[Item] = ()) -> tuple[Item, ...]:
    """Divide the items of a step into chunks, in order; without `chunk`, return the items themselves.

    `kept` are chunks of a run that is resumed: they stay as they are, and the other items are divided again.
    """
    size = step.for_each.chunk if step.for_each is not None else None
    if size is None:
        return tuple(items)
    place = {item.key: number for number, item in enumerate(items)}
    known = {one.key for chunk in kept for one in parts_of(chunk)}
    free = [item for item in items if item.key not in known]
    taken = {item.key for item in items} | {chunk.key for chunk in kept}
    chunks = [*kept, *(_chunk(free[first : first + size], taken) for first in range(0, len(free), size))]
    return tuple(sorted(chunks, key=lambda chunk: min(place.get(one.key, len(place)) for one in parts_of(chunk))))


def _chunk(items: Sequence[Item], taken: set[str]) -> Item:
    """Return a chunk. Its key has its first item and the number of its other items. A single item is not a chunk."""
    first = items[0]
    if len(items) == 1:
        return first
    label = f"{first.key[:-1]}+{len(items) - 1}"
    key, number = f"{label}]", 1
    while key in taken:
        number += 1
        key = f"{label}#{number}]"
    taken.add(key)
    return Item(key=key, values={}, items=tuple(items))


def parts_of(item: Item) -> tuple[Item, ...]:
    """Return the items of a chunk; of a single item, the item itself."""
    return item.items or (item,)


def listed(parts: Sequence[Mapping[str, Value | None]]) -> ItemValues:
    """Return the values of a chunk: each name is the list of its items' values."""
    return {name: Listed(tuple(part[name] for part in parts)) for name in parts[0]}


def of_place(values: ItemValues, place: int) -> ItemValues:
    """Return the values of one item of a chunk."""
    return {
        name: cast("Value | None", value.values[place]) if isinstance(value, Listed) else value
        for name, value in values.items()
    }


def remaining(chunk: Item, wanted: Collection[str], done: Collection[str]) -> Item:
    """Return a chunk that was split, without the items that the plan no longer lists and that were not done."""
    return replace(chunk, items=tuple(one for one in chunk.items if one.key in wanted or one.key in done))


def names(items: Sequence[Item]) -> Iterator[str]:
    """Yield the part of each key that distinguishes the items of a chunk: `orders` of `vacuum[orders]`."""
    for item in items:
        yield item.key.partition("[")[2].removesuffix("]") or item.key
