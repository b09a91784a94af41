"""The records of a group: one for each item, and one for each step of its chain.

The record of an item is like that of a step with instances: it is expanded from the beginning, and ends when the steps
of its chain have ended. A step of a chain is a step like any other, with needs among the steps of its item. Of the
items, at most `max_parallel` are under way: the first launch of an item takes one of `for_each:<group>`, and the item
holds it until the end of its last step. Until then each of its steps needs it too, so that the scheduler sees it as one
more resource.
"""

from __future__ import annotations

from collections.abc import Mapping

from runner.engine import events as ev
from runner.engine.for_each_items import typed
from runner.engine.state import (
    RunState,
    StepRecord,
    StepState,
    become_item,
    gate,
    new_record,
    obeys_window,
    remaining_path,
)
from runner.identity import inner_key
from runner.plan.groups import values_or_texts
from runner.plan.model import Need, Step, Value
from runner.plan.selection import is_left_out
from runner.structs import replace

_NO_ITEM: Mapping[str, Value | None] = {}


def add_items(state: RunState, group: StepRecord, items: tuple[ev.Item, ...], at: float) -> None:
    """Add the records of the items of a group with `for_each`, and of their steps."""
    for number, item in enumerate(items):
        step = replace(group.step, id=item.key, needs=(), for_each=None)
        record = new_record(step, group.rank)
        values = typed(group.step.for_each, item.values)
        record.values = values
        record.parent, record.in_finally, record.cancelled_by = group.key, group.in_finally, group.cancelled_by
        record.state, record.since = StepState.EXPANDED, at
        add_record(state, record)
        state.expanded += 1
        add_chain(state, record, group.step, values, number=number)


def add_chain(
    state: RunState, owner: StepRecord, group: Step, item: Mapping[str, Value | None] = _NO_ITEM, *, number: int = 0
) -> None:
    """Add the records of a chain to those of its item; `owner` is the group itself if it has no items."""
    values = {**item, **values_or_texts(group, item)}
    steps = _chain(owner.key, group)
    _, path, order, _ = owner.rank
    places = _places(group)
    owner.instances = tuple(step.id for step in steps)
    owner.open_instances = len(steps)
    for step in steps:
        rank = (-step.priority, path, order, number * len(steps) + places[step.id.rpartition(".")[2]])
        in_window = not owner.in_finally and obeys_window(state.plan, step)
        record = new_record(step, rank, unmet=len(step.needs), in_window=in_window)
        record.values, record.parent, record.in_finally = values, owner.key, owner.in_finally
        record.cancelled_by = owner.cancelled_by
        record.attempt = record.attempts_before = state.attempts_made.get(step.id, 0)
        if group.for_each is not None:
            limited = group.for_each.max_parallel is not None
            become_item(record, group.id, {**record.needs, **({gate(group.id): 1} if limited else {})})
        add_record(state, record)
        if owner.cancelled_by is not None:
            state.to_cancel[step.id] = None
        if not step.needs or owner.cancelled_by is not None or is_left_out(state.left_out, step.id):
            state.released[step.id] = None
    for step in steps:
        for need in step.needs:
            state.dependents[need.step].append((step.id, need.on))


def add_record(state: RunState, record: StepRecord) -> None:
    """Add the record of an instance, whose `in_finally` is known."""
    state.records[record.key] = record
    state.dependents[record.key] = []
    state.unfinished += 1
    state.main_unfinished += not record.in_finally


def _chain(owner: str, group: Step) -> tuple[Step, ...]:
    """Return the steps of a chain with their keys, and with needs among them."""
    return tuple(
        replace(
            step,
            id=inner_key(owner, step.id),
            needs=tuple(Need(step=inner_key(owner, need.step), on=need.on) for need in step.needs),
        )
        for step in group.steps
    )


def _places(group: Step) -> Mapping[str, int]:
    """Number the steps of a chain from 1, those with the longest rest of the chain first."""
    length = remaining_path(group.steps)
    order = sorted(group.steps, key=lambda step: -length[step.id])
    return {step.id: place for place, step in enumerate(order, start=1)}
