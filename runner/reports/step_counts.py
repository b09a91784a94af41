"""Folded steps: a step with items, or a group, as one line with counts, `15/60 done, 3 running, 42 queued`.

Every form of a report folds such a step, and lists only the instances that did not succeed. A step of the plan is one
step from the start of a run to its end; its items are counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from runner.engine.state import FINAL, RunState, StepRecord, StepState, leaves
from runner.phrases import counted
from runner.structs import Struct, field

#: The most parts of a step that are listed one by one where there is room for lines; a step with more is folded.
LISTED = 5
#: States that count as done; other final states are named.
_DONE = frozenset({StepState.SUCCEEDED})
#: Unfinished states in which nothing of the step has begun, or nothing of it runs at present.
_QUEUED = frozenset({StepState.PENDING, StepState.READY, StepState.QUEUED})


class FanOut(Struct, frozen=True, kw_only=True):
    """A step with instances, counted: `ended` are its final states, in which a chunk counts with all of its items.

    The parts are the items of a `for_each`; of a group without one, the steps of its chain (`of_items` is False).
    `unfolded` are the instances, or steps of a chain, that ended in another state than succeeded or skipped. With few
    instances it is not `folded`: a list of lines, such as a log or a table, has all of them.
    """

    key: str
    of_items: bool
    total: int
    ended: Mapping[StepState, int]
    retrying: int
    running: int
    queued: int
    folded: bool
    unfolded: tuple[str, ...]

    @property
    def done(self) -> int:
        """The number of parts that succeeded."""
        return sum(self.ended.get(state, 0) for state in _DONE)

    @property
    def finished(self) -> int:
        """The number of parts that have ended in any way."""
        return sum(self.ended.values())

    def words(self) -> str:
        """Return the counts: `15/60 done, 1 failed, 3 running, 41 queued`; a count of 0 is left out."""
        named = [
            f"{self.ended[one]:,} {one.replace('_', ' ')}"
            for one in StepState
            if one not in _DONE and self.ended.get(one)
        ]
        under_way = ((self.retrying, "retrying"), (self.running, "running"), (self.queued, "queued"))
        named += [f"{number:,} {word}" for number, word in under_way if number]
        return ", ".join((f"{self.done:,}/{self.total:,}{'' if self.of_items else ' steps'} done", *named))


class RunCounts(Struct, frozen=True, kw_only=True):
    """The steps of the plan by state, a step with instances as one; and the items of such steps by state, apart."""

    steps: Mapping[StepState, int] = field(default_factory=dict)
    items: Mapping[StepState, int] = field(default_factory=dict)

    @property
    def all_steps(self) -> int:
        """The number of steps of the plan, those of `finally` included."""
        return sum(self.steps.values())

    @property
    def all_items(self) -> int:
        """The number of known items."""
        return sum(self.items.values())

    @property
    def steps_ended(self) -> int:
        """The number of steps that have ended in any way."""
        return sum(number for state, number in self.steps.items() if state in FINAL)


def fan_outs(state: RunState) -> dict[str, FanOut]:
    """Return the steps of the plan that have instances, by id, in the plan's order."""
    return {
        record.key: fan_out(state, record)
        for record in state.records.values()
        if record.parent is None and record.instances
    }


def run_counts(state: RunState) -> RunCounts:
    """Count the steps of the plan and the items by state."""
    records = [record for record in state.records.values() if record.parent is None]
    items: Counter[StepState] = Counter()
    for record in records:
        if record.instances and record.step.for_each is not None:
            for part, weight in _parts(state, record):
                items[part.state] += weight
    return RunCounts(steps=Counter(record.state for record in records), items=items)


def counts_words(counts: RunCounts, *, took: str = "") -> str:
    """Return the counts of a run in words: `24 succeeded, 1 failed in 3m05s; 60 items: 57 succeeded, 3 failed`."""
    items = f"; {counted(counts.all_items, 'item')}: {_tally(counts.items)}" if counts.all_items else ""
    return f"{_tally(counts.steps)}{f' in {took}' if took else ''}{items}"


#: The order of counts: steps that have ended, then those that run, then those that wait.
_ORDER = (*(one for one in StepState if one in FINAL), *reversed([one for one in StepState if one not in FINAL]))


def _tally(counts: Mapping[StepState, int]) -> str:
    return ", ".join(f"{counts[one]:,} {one.replace('_', ' ')}" for one in _ORDER if counts.get(one))


def _parts(state: RunState, record: StepRecord) -> Iterator[tuple[StepRecord, int]]:
    """Yield the items of a step, or the steps of a chain, each with the number of items that it is; a chunk that was
    split is its items."""
    for key in record.instances or ():
        part = state.records[key]
        if part.chunk and part.instances:
            yield from _parts(state, part)
        else:
            yield part, len(part.chunk) or 1


def with_instances(state: RunState, record: StepRecord) -> Iterator[StepRecord]:
    """Yield a step, then its instances, each one before its own."""
    yield record
    for key in record.instances or ():
        yield from with_instances(state, state.records[key])


def step_of_plan(state: RunState, record: StepRecord) -> StepRecord:
    """Return the step of the plan that an instance, or a step of a chain, belongs to; of a step, the step itself."""
    while record.parent is not None:
        record = state.records[record.parent]
    return record


def is_folded(step: StepRecord) -> bool:
    """Return whether a step has so many instances, or steps of chains, that lists of lines leave them out."""
    of_each = len(step.step.steps) if step.step.for_each is not None and step.step.steps else 1
    return len(step.instances or ()) * of_each > LISTED


def fan_out(state: RunState, record: StepRecord) -> FanOut:
    """Return a step of the plan that has instances, counted."""
    ended: Counter[StepState] = Counter()
    others: Counter[str] = Counter()
    unfolded: list[str] = []
    for part, weight in _parts(state, record):
        if part.final:
            ended[part.state] += weight
        else:
            others[_doing(state, part)] += weight
        unfolded += (one.key for one in leaves(state, part) if one.final and one.state not in _FOLDED)
    return FanOut(
        key=record.key,
        of_items=record.step.for_each is not None,
        total=ended.total() + others.total(),
        ended=ended,
        retrying=others["retrying"],
        running=others["running"],
        queued=others["queued"],
        folded=is_folded(record),
        unfolded=tuple(unfolded),
    )


#: States of parts that are only counted.
_FOLDED = frozenset({StepState.SUCCEEDED, StepState.SKIPPED})


def _doing(state: RunState, part: StepRecord) -> str:
    """Return how an unfinished part is counted; an item of a group runs from its first launch on."""
    if part.state is StepState.EXPANDED:
        begun = part.holds or any(one.launched_at is not None or one.final for one in leaves(state, part))
        return "running" if begun else "queued"
    if part.state is StepState.RETRYING:
        return (
            "retrying" if part.tried or part.refused else "running"
        )  # an iteration of a repeat that pauses has not failed
    return "queued" if part.state in _QUEUED else "running"
