"""Chunks: several items of a for_each for one worker, and one worker each for the items of a chunk that failed.

A chunk is an instance like any other; its identity is the ordered list of its items, which is recorded when the step
is expanded. Its items stand in SQL as a list. If its attempt fails, and a second run is allowed, the chunk is split: it
then waits for an instance for each of its items, which continues the attempt numbers. So one bad item is named, and the
others are done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

from runner.engine.events import Item
from runner.plan.model import ItemValues, Step, Value
from runner.sql.placeholders import Listed
from runner.sql.text_traits import nature_of
from runner.structs import replace


def in_chunks(step: Step, items: Sequence[Item], kept: Sequence[Item] = ()) -> tuple[Item, ...]:
    """Return the items of a step as its chunks, in order; without `chunk` the items themselves.

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
    """Return a chunk, whose key names its first item and how many others it has. A single item is not a chunk."""
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


def may_split(step: Step, items: Sequence[Item]) -> bool:
    """Return whether a failed attempt with these items is repeated item by item."""
    again = step.retry.max_attempts > 1 or step.idempotent or nature_of(step.sql.text).idempotent
    return len(items) > 1 and again


def remaining(chunk: Item, wanted: Collection[str], done: Collection[str]) -> Item:
    """Return a chunk that was split, without the items that the plan no longer lists and that were not done."""
    return replace(chunk, items=tuple(one for one in chunk.items if one.key in wanted or one.key in done))


def names(items: Sequence[Item]) -> Iterator[str]:
    """Yield what distinguishes the items of a chunk, as their keys show it: `orders` of `vacuum[orders]`."""
    for item in items:
        yield item.key.partition("[")[2].removesuffix("]") or item.key
