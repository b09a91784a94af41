"""The pairs of steps that can run at the same time and whose locks exclude each other.

A plan of 10,000 steps has 50 million pairs, so pairs are not looked at one by one: for each relation, and each way in
which it is locked, an integer has a bit for each step that locks it so. Of the pairs that meet only some are told.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from runner.lint.locking.deadlock import Deadlock, find_deadlock
from runner.lint.locking.grips import Grip, Heading, can_meet, contended, kept_under, looked_up
from runner.lint.locking.held import Held, Kind, Lockable, Verdict, kind_of, verdict
from runner.lint.locking.reading import Locking, read_locking
from runner.lint.overlap import Overlap, Overlaps
from runner.lint.rule import Subject

#: How many pairs are told of one relation and outcome; the rest is counted.
TOLD = 5
#: How many pairs of one relation, and of a plan, are searched for a deadlock.
_SEARCHED = 20
_SEARCHED_IN_ALL = 2000


class Outcome(enum.Enum):
    """What two steps can come to, the worst first."""

    FAILURE = "one of them fails"
    DEADLOCK = "each waits for the other"
    WAIT = "one waits for the other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Two steps, or two instances of one, and the locks with which they meet. `one` comes first in the plan.

    `more` is how many other pairs of steps come to the same on the same relation without being told.
    """

    outcome: Outcome
    one: Locking
    other: Locking
    held: Held
    other_held: Held
    deadlock: Deadlock | None = None
    more: int = 0

    @property
    def with_itself(self) -> bool:
        """Whether these are instances of one step."""
        return self.one is self.other


@dataclass(slots=True)
class _Group:
    """What is found about one relation: meetings, pairs that are only counted, and pairs searched for deadlocks."""

    told: dict[Outcome, list[Meeting]] = field(default_factory=lambda: defaultdict(list))
    more: Counter[Outcome] = field(default_factory=Counter)
    searched: int = 0


def find_contention(subject: Subject, known: Sequence[Locking] | None = None) -> tuple[Meeting, ...]:
    """Return the pairs of steps whose locks exclude each other, each pair once, with the worst that it can come to.

    `known` are the locks of every step, where more is known of them than the plan tells.
    """
    steps = read_locking(subject) if known is None else tuple(known)
    grips = contended(steps)
    if not grips:
        return ()
    finder = _Finder(steps, grips, Overlaps(subject.plan, grips))
    return tuple(finder.find())


@dataclass(slots=True)
class _Met:
    """The steps, as bits, that one step meets on one relation."""

    fail: int = 0
    wait: int = 0


class _Finder:
    """Goes through the steps in an order in which they can run, and compares each with those before it."""

    def __init__(self, steps: Sequence[Locking], grips: Mapping[int, Grip], overlaps: Overlaps) -> None:
        self._steps = steps
        self._grips = grips
        self._overlaps = overlaps
        self._seen: dict[Heading, dict[Kind, int]] = defaultdict(dict)
        self._groups: dict[Lockable, _Group] = defaultdict(_Group)
        self._several = 0
        self._searches = _SEARCHED_IN_ALL
        self._swept = any(on.sweeping for grip in grips.values() for on in grip)

    def find(self) -> Iterator[Meeting]:
        """Yield what is found, relation by relation."""
        for overlap in self._overlaps.steps():
            self._compare(overlap)
            self._keep(overlap)
        for group in self._groups.values():
            for outcome in Outcome:
                told = group.told[outcome]
                yield from told[:-1]
                yield from (replace(last, more=group.more[outcome]) for last in told[-1:])

    def _keep(self, overlap: Overlap) -> None:
        bit = 1 << overlap.bit
        grip = self._grips[overlap.step]
        for on, locks in grip.items():
            for heading in kept_under(on, swept=self._swept):
                seen = self._seen[heading]
                for kind in set(map(kind_of, locks)):
                    seen[kind] = seen.get(kind, 0) | bit
        if _takes_several(grip):
            self._several |= bit

    def _compare(self, overlap: Overlap) -> None:
        """Tell of each pair once, with the worst that it comes to on any relation."""
        met = self._meets(overlap)
        open_ = overlap.others
        for group, found in met.items():
            self._tell(Outcome.FAILURE, group, overlap, found.fail & open_)
            open_ &= ~found.fail
        if _takes_several(self._grips[overlap.step]):
            open_ &= ~self._search(overlap, met, open_ & self._several)
        for group, found in met.items():
            self._tell(Outcome.WAIT, group, overlap, found.wait & open_)
            open_ &= ~found.wait
        if overlap.with_itself:
            self._compare_instances(overlap)

    def _meets(self, overlap: Overlap) -> dict[Lockable, _Met]:
        met: dict[Lockable, _Met] = {}
        for on, locks in self._grips[overlap.step].items():
            kinds = set(map(kind_of, locks))
            for group, heading in looked_up(on, swept=self._swept):
                for other, bits in self._seen.get(heading, {}).items():
                    found = met.setdefault(group, _Met())
                    for kind in kinds:
                        outcome = verdict(kind, other)
                        if outcome is Verdict.WAIT:
                            found.wait |= bits
                        elif outcome is Verdict.FAIL:
                            found.fail |= bits
        return met

    def _search(self, overlap: Overlap, met: Mapping[Lockable, _Met], open_: int) -> int:
        """Tell of the deadlocks with the steps of `open_`, and return those that have one. Each is searched once."""
        deadlocked = 0
        for on, found in met.items():
            group = self._groups[on] if found.wait & open_ else _Group()
            for bit in self._overlaps.bits(found.wait & open_):
                if min(_SEARCHED - group.searched, self._searches, TOLD - len(group.told[Outcome.DEADLOCK])) <= 0:
                    break
                group.searched += 1
                self._searches -= 1
                open_ ^= 1 << bit
                one, other = self._in_order(overlap.step, self._overlaps.number(bit))
                deadlock = find_deadlock(self._locks(one), self._locks(other))
                if deadlock is not None:
                    deadlocked |= 1 << bit
                    group.told[Outcome.DEADLOCK].append(self._deadlocked(one, other, deadlock))
        return deadlocked

    def _deadlocked(self, one: int, other: int, deadlock: Deadlock) -> Meeting:
        return Meeting(
            outcome=Outcome.DEADLOCK,
            one=self._steps[one],
            other=self._steps[other],
            held=deadlock.wants,
            other_held=deadlock.other_wants,
            deadlock=deadlock,
        )

    def _tell(self, outcome: Outcome, on: Lockable, overlap: Overlap, bits: int) -> None:
        group = self._groups[on] if bits else _Group()
        for bit in self._overlaps.bits(bits):
            if len(group.told[outcome]) >= TOLD:
                break
            bits ^= 1 << bit
            one, other = self._in_order(overlap.step, self._overlaps.number(bit))
            locks = _first_meeting(self._grips[one], self._grips[other], on, outcome, instances=False)
            if locks is not None:
                group.told[outcome].append(self._meeting(outcome, one, other, *locks))
        group.more[outcome] += bits.bit_count()

    def _compare_instances(self, overlap: Overlap) -> None:
        step = overlap.step
        if not self._steps[step].several:
            return
        grip = self._grips[step]
        deadlock = find_deadlock(self._locks(step), self._locks(step), instances=True)
        for outcome in (Outcome.FAILURE, Outcome.WAIT):
            found = ((on, _first_meeting(grip, grip, on, outcome, instances=True)) for on in grip)
            on, locks = next(((on, locks) for on, locks in found if locks is not None), (None, None))
            if on is None or locks is None:
                continue
            meeting = self._meeting(outcome, step, step, *locks)
            if outcome is Outcome.WAIT and deadlock is not None:
                meeting = self._deadlocked(step, step, deadlock)
            group = self._groups[on]
            if len(group.told[meeting.outcome]) < TOLD:
                group.told[meeting.outcome].append(meeting)
            else:
                group.more[meeting.outcome] += 1
            return

    def _meeting(self, outcome: Outcome, one: int, other: int, held: Held, other_held: Held) -> Meeting:
        mine, its = self._steps[one], self._steps[other]
        return Meeting(outcome=outcome, one=mine, other=its, held=held, other_held=other_held)

    def _locks(self, step: int) -> list[Held]:
        locks = [held for held_on in self._grips[step].values() for held in held_on]
        return sorted(locks, key=lambda held: held.order)

    @staticmethod
    def _in_order(one: int, other: int) -> tuple[int, int]:
        return (one, other) if one < other else (other, one)


def _takes_several(grip: Grip) -> bool:
    """Say whether a step takes locks one after the other, so that it can wait while it holds some."""
    return len({held.order for locks in grip.values() for held in locks}) > 1


_VERDICTS = {Outcome.FAILURE: Verdict.FAIL, Outcome.WAIT: Verdict.WAIT}


def _first_meeting(
    mine: Grip, its: Grip, on: Lockable, outcome: Outcome, *, instances: bool
) -> tuple[Held, Held] | None:
    """Return the first locks of two steps that have this outcome where a clash is ascribed to `on`."""
    for held_on, other_on in _meeting_points(mine, its, on):
        for held in mine[held_on]:
            for other in its[other_on]:
                same = instances and held.item is not None and held.item == other.item
                if not same and verdict(kind_of(held), kind_of(other)) is _VERDICTS[outcome]:
                    return held, other
    return None


def _meeting_points(mine: Grip, its: Grip, on: Lockable) -> Iterator[tuple[Lockable, Lockable]]:
    if not on.sweeping:
        yield from [(on, on)] if on in mine and on in its else []
        return
    if on in mine:
        yield from ((on, other) for other in its if can_meet(on, other))
    if on in its:
        yield from ((held, on) for held in mine if can_meet(held, on))
