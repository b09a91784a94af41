"""The pairs of steps that can run at the same time and have conflicting locks.

Two steps cannot run at the same time if one needs the other, directly or not, unless they are steps of a group and work
for different items; if one runs only after a third has succeeded, the other only after it has failed; or if both
together exceed the budget's slots, a pool, or an `exclusive` name. Finally steps come after all others, but a detached
worker continues at the same time, and has released its slots and pools by then.

Steps are bits of an integer, so that one operation compares a step with all others: a plan of 10,000 steps has 50
million pairs. The set of a step's ancestors is dropped after its last dependent, and only some of the conflicting pairs
are reported.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from runner.locks.conflicts import ConflictResult, Deadlock, Held, Kind, Lockable, find_deadlock, kind_of, verdict
from runner.locks.step_locks import Grip, Heading, Locking, can_meet, contended, kept_under, looked_up, read_locking
from runner.plan.graph import topological_order
from runner.plan.groups import has_parallel_items, steps_of_groups
from runner.plan.model import NeedOn, Plan, Step
from runner.plan.parsed_sql import Subject
from runner.structs import Struct, field, replace

_SLOTS = "slots"


class Overlap(Struct, frozen=True, kw_only=True):
    """A step, by its number in the plan (`finally` last), and the previous steps that can run at the same time.

    `with_itself`: two instances of the step can run at the same time. `of_other_items`: those of the others that can
    run at the same time only for different items. `others` are bits: see `bits_of` and `number`.
    """

    step: int
    bit: int
    others: int
    with_itself: bool
    of_other_items: int = 0


class Overlaps:
    """The wanted steps of a plan, and which of them can run at the same time."""

    def __init__(self, plan: Plan, wanted: Collection[int] | None = None) -> None:
        """Prepare for the steps with the numbers `wanted`, for all of them by default."""
        self._plan = plan
        self._steps = plan.all_steps
        needs = {step.id: tuple(need.step for need in step.needs) for step in self._steps}
        place = {step.id: number for number, step in enumerate(self._steps)}
        order = [place[name] for name in topological_order(needs)]
        main = len(plan.steps)
        #: `finally` last, even if the needs allow another order.
        self._order = sorted(order, key=lambda number: number >= main)
        self._needs = [[place[need] for need in needs[step.id] if need in place] for step in self._steps]
        kept = [number for number in self._order if wanted is None or number in wanted]
        self._bits = {number: bit for bit, number in enumerate(kept)}
        self._by_bit = kept
        self._main = self._mask(number for number in kept if number < main)
        self._detached = self._mask(n for n in kept if n < main and not self._steps[n].waits)
        self._shared = _Shared(plan, [self._steps[number] for number in kept])
        self._branches = _Branches(self._steps, self._order, self._bits)
        ids = steps_of_groups(plan)
        self._bits_of_groups = {
            group: self._mask(place[one] for one in found if place[one] in self._bits) for group, found in ids.items()
        }

    def number(self, bit: int) -> int:
        """Return the number of a bit's step."""
        return self._by_bit[bit]

    def steps(self) -> Iterator[Overlap]:
        """Yield each wanted step once, in a possible order of execution, with the previous ones that can overlap."""
        for number, before in self._ancestors():
            bit = self._bits.get(number)
            if bit is None:
                continue
            step = self._steps[number]
            seen = (1 << bit) - 1
            too_much = self._shared.apart(step)
            ordered = before | self._branches.apart(number)
            of_items = ordered & self._bits_of_groups.get(step.group or "", 0) if has_parallel_items(step) else 0
            others = seen & ~((ordered & ~of_items) | too_much)
            if number >= len(self._plan.steps):
                others = (others & ~self._main) | self._detached
            itself = has_parallel_items(step) and not too_much >> bit & 1
            yield Overlap(step=number, bit=bit, others=others, with_itself=itself, of_other_items=of_items & others)

    def _ancestors(self) -> Iterator[tuple[int, int]]:
        """Yield each step with the bits of the wanted steps that it waits for."""
        open_dependents = Counter(need for needs in self._needs for need in needs)
        reach: dict[int, int] = {}
        for number in self._order:
            before = 0
            for need in self._needs[number]:
                before |= reach[need]
                open_dependents[need] -= 1
                if not open_dependents[need]:
                    del reach[need]
            yield number, before
            if open_dependents[number]:
                bit = self._bits.get(number)
                reach[number] = before if bit is None else before | 1 << bit

    def _mask(self, numbers: Iterator[int]) -> int:
        return _mask(self._bits[number] for number in numbers)


class _Shared:
    """The limited resources that steps take."""

    def __init__(self, plan: Plan, kept: list[Step]) -> None:
        self._limits: dict[str, int] = {_SLOTS: plan.budget.slots}
        self._limits.update({f"pool:{name}": limit for name, limit in plan.budget.pools.items()})
        by_amount: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for bit, step in enumerate(kept):
            for name, amount in _taken(step).items():
                by_amount[name][amount].append(bit)
        self._takers = {
            name: {amount: _mask(iter(bits)) for amount, bits in amounts.items()} for name, amounts in by_amount.items()
        }
        self._known: dict[tuple[str, int], int] = {}

    def apart(self, step: Step) -> int:
        """Return the bits of the steps that exceed a limit together with this one; its own bit if two of it would."""
        bits = 0
        for name, amount in _taken(step).items():
            bits |= self._too_much(name, amount)
        return bits

    def _too_much(self, name: str, amount: int) -> int:
        known = self._known.get((name, amount))
        if known is None:
            rest = self._limits.get(name, 1) - amount
            known = 0
            for other, takers in self._takers.get(name, {}).items():
                if other > rest:
                    known |= takers
            self._known[name, amount] = known
        return known


def _taken(step: Step) -> Mapping[str, int]:
    pools = {f"pool:{name}": weight for name, weight in step.pools.items()}
    return {_SLOTS: step.slots, **pools, **{f"exclusive:{name}": 1 for name in step.exclusive}}


#: The limit of forks that are followed. Real plans have a few; beyond it, steps count as if they could overlap.
_MAX_FORKS = 256


class _Branches:
    """Steps that never both run, because they need opposite outcomes of the same step (a fork)."""

    def __init__(self, steps: tuple[Step, ...], order: list[int], bits: Mapping[int, int]) -> None:
        place = {step.id: number for number, step in enumerate(steps)}
        ends = {(place[need.step], need.on) for step in steps for need in step.needs if need.step in place}
        forks = sorted(fork for fork, on in ends if on is NeedOn.FAILURE and (fork, NeedOn.SUCCESS) in ends)
        fork_bit = {number: bit for bit, number in enumerate(forks[:_MAX_FORKS])}
        self._good = [0] * len(steps)
        self._bad = [0] * len(steps)
        self._after_good = [0] * len(fork_bit)
        self._after_bad = [0] * len(fork_bit)
        if fork_bit:
            for number in order:
                self._follow(steps[number], number, place, fork_bit)
            self._after_good = self._after(self._good, bits, len(fork_bit))
            self._after_bad = self._after(self._bad, bits, len(fork_bit))

    @staticmethod
    def _after(ends: list[int], bits: Mapping[int, int], forks: int) -> list[int]:
        found: list[list[int]] = [[] for _ in range(forks)]
        for number, bit in bits.items():
            for fork in bits_of(ends[number]):
                found[fork].append(bit)
        return [_mask(iter(after)) for after in found]

    def apart(self, number: int) -> int:
        """Return the bits of the steps that do not run if this one does."""
        found = 0
        for ends, others in ((self._good[number], self._after_bad), (self._bad[number], self._after_good)):
            for fork in bits_of(ends):
                found |= others[fork]
        return found

    def _follow(self, step: Step, number: int, place: Mapping[str, int], fork_bit: Mapping[int, int]) -> None:
        """Record which outcomes of forks a step needs; a needed step with a known outcome has run itself."""
        for need in step.needs:
            needed = place.get(need.step)
            if needed is None or need.on is NeedOn.DONE:
                continue
            mine = self._bad if need.on is NeedOn.FAILURE else self._good
            if needed in fork_bit:
                mine[number] |= 1 << fork_bit[needed]
            self._good[number] |= self._good[needed]
            self._bad[number] |= self._bad[needed]


def bits_of(mask: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set, the lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _mask(bits: Iterator[int]) -> int:
    """Return an integer with these bits set; built at once, because setting single bits would copy it each time."""
    found = list(bits)
    if not found:
        return 0
    field = bytearray(max(found) // 8 + 1)
    for bit in found:
        field[bit >> 3] |= 1 << (bit & 7)
    return int.from_bytes(field, "little")


#: The number of reported pairs for each relation and result; the others are counted.
MAX_REPORTED = 5
#: The number of pairs of one relation, and of a plan, that are searched for a deadlock.
_SEARCHED = 20
_SEARCHED_IN_ALL = 2000


class ContentionResult(enum.Enum):
    """The result of two steps with conflicting locks, the worst first."""

    FAILURE = "one of them fails"
    DEADLOCK = "each waits for the other"
    WAIT = "one waits for the other"


class Meeting(Struct, frozen=True, kw_only=True):
    """Two steps, or two instances of one, and their conflicting locks. `one` comes first in the plan.

    `of_items`: they are steps of a group, and meet for different items only. `more` is the number of other pairs with
    the same result on the same relation that are not reported.
    """

    outcome: ContentionResult
    one: Locking
    other: Locking
    held: Held
    other_held: Held
    deadlock: Deadlock | None = None
    of_items: bool = False
    more: int = 0

    @property
    def with_itself(self) -> bool:
        """Whether these are instances of one step."""
        return self.one is self.other


class _Group(Struct):
    """The result for one relation: reported pairs, counted pairs, and pairs searched for deadlocks."""

    reported: dict[ContentionResult, list[Meeting]] = field(default_factory=lambda: defaultdict(list))
    more: Counter[ContentionResult] = field(default_factory=Counter)
    searched: int = 0


def find_contention(subject: Subject, known: Sequence[Locking] | None = None) -> tuple[Meeting, ...]:
    """Return the pairs of steps with conflicting locks, each pair once, with its worst possible result.

    `known` are the locks of every step, if more is known than the plan says.
    """
    steps = read_locking(subject) if known is None else tuple(known)
    grips = contended(steps)
    if not grips:
        return ()
    finder = _Finder(steps, grips, Overlaps(subject.plan, grips))
    return tuple(finder.find())


class _Met(Struct):
    """The steps, as bits, that conflict with one step on one relation."""

    fail: int = 0
    wait: int = 0


class _Finder:
    """Compares each step, in a possible order of execution, with the previous ones."""

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
        """Yield the conflicts, relation by relation."""
        for overlap in self._overlaps.steps():
            self._compare(overlap)
            self._keep(overlap)
        for group in self._groups.values():
            for outcome in ContentionResult:
                reported = group.reported[outcome]
                yield from reported[:-1]
                yield from (replace(last, more=group.more[outcome]) for last in reported[-1:])

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
        """Report each pair once, with its worst result on any relation."""
        met = self._meets(overlap)
        open_ = overlap.others
        for group, found in met.items():
            self._report(ContentionResult.FAILURE, group, overlap, found.fail & open_)
            open_ &= ~found.fail
        if _takes_several(self._grips[overlap.step]):
            open_ &= ~self._search(overlap, met, open_ & self._several)
        for group, found in met.items():
            self._report(ContentionResult.WAIT, group, overlap, found.wait & open_)
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
                        if outcome is ConflictResult.WAIT:
                            found.wait |= bits
                        elif outcome is ConflictResult.FAIL:
                            found.fail |= bits
        return met

    def _search(self, overlap: Overlap, met: Mapping[Lockable, _Met], open_: int) -> int:
        """Report the deadlocks with the steps of `open_`, and return the steps that have one. Each is searched once."""
        deadlocked = 0
        for on, found in met.items():
            group = self._groups[on] if found.wait & open_ else _Group()
            for bit in bits_of(found.wait & open_):
                if (
                    min(
                        _SEARCHED - group.searched,
                        self._searches,
                        MAX_REPORTED - len(group.reported[ContentionResult.DEADLOCK]),
                    )
                    <= 0
                ):
                    break
                group.searched += 1
                self._searches -= 1
                open_ ^= 1 << bit
                one, other = self._in_order(overlap.step, self._overlaps.number(bit))
                instances = bool(overlap.of_other_items >> bit & 1)
                deadlock = find_deadlock(self._locks(one), self._locks(other), instances=instances)
                if deadlock is not None:
                    deadlocked |= 1 << bit
                    found_one = replace(self._deadlocked(one, other, deadlock), of_items=instances)
                    group.reported[ContentionResult.DEADLOCK].append(found_one)
        return deadlocked

    def _deadlocked(self, one: int, other: int, deadlock: Deadlock) -> Meeting:
        return Meeting(
            outcome=ContentionResult.DEADLOCK,
            one=self._steps[one],
            other=self._steps[other],
            held=deadlock.wants,
            other_held=deadlock.other_wants,
            deadlock=deadlock,
        )

    def _report(self, outcome: ContentionResult, on: Lockable, overlap: Overlap, bits: int) -> None:
        group = self._groups[on] if bits else _Group()
        for bit in bits_of(bits):
            if len(group.reported[outcome]) >= MAX_REPORTED:
                break
            bits ^= 1 << bit
            one, other = self._in_order(overlap.step, self._overlaps.number(bit))
            instances = bool(overlap.of_other_items >> bit & 1)
            locks = _first_meeting(self._grips[one], self._grips[other], on, outcome, instances=instances)
            if locks is not None:
                meeting = replace(self._meeting(outcome, one, other, *locks), of_items=instances)
                group.reported[outcome].append(meeting)
        group.more[outcome] += bits.bit_count()

    def _compare_instances(self, overlap: Overlap) -> None:
        step = overlap.step
        if not self._steps[step].several:
            return
        grip = self._grips[step]
        deadlock = find_deadlock(self._locks(step), self._locks(step), instances=True)
        for outcome in (ContentionResult.FAILURE, ContentionResult.WAIT):
            found = ((on, _first_meeting(grip, grip, on, outcome, instances=True)) for on in grip)
            on, locks = next(((on, locks) for on, locks in found if locks is not None), (None, None))
            if on is None or locks is None:
                continue
            meeting = self._meeting(outcome, step, step, *locks)
            if outcome is ContentionResult.WAIT and deadlock is not None:
                meeting = self._deadlocked(step, step, deadlock)
            group = self._groups[on]
            if len(group.reported[meeting.outcome]) < MAX_REPORTED:
                group.reported[meeting.outcome].append(meeting)
            else:
                group.more[meeting.outcome] += 1
            return

    def _meeting(self, outcome: ContentionResult, one: int, other: int, held: Held, other_held: Held) -> Meeting:
        mine, its = self._steps[one], self._steps[other]
        return Meeting(outcome=outcome, one=mine, other=its, held=held, other_held=other_held)

    def _locks(self, step: int) -> list[Held]:
        locks = [held for held_on in self._grips[step].values() for held in held_on]
        return sorted(locks, key=lambda held: held.order)

    @staticmethod
    def _in_order(one: int, other: int) -> tuple[int, int]:
        return (one, other) if one < other else (other, one)


def _takes_several(grip: Grip) -> bool:
    """Return whether a step takes locks one after the other, so that it can wait while it holds some."""
    return len({held.order for locks in grip.values() for held in locks}) > 1


_VERDICTS = {ContentionResult.FAILURE: ConflictResult.FAIL, ContentionResult.WAIT: ConflictResult.WAIT}


def _first_meeting(
    mine: Grip, its: Grip, on: Lockable, outcome: ContentionResult, *, instances: bool
) -> tuple[Held, Held] | None:
    """Return the first locks of two steps with this result in a conflict that is reported for `on`."""
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
