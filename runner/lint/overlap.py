"""Which steps of a plan can run at the same time.

Two steps cannot if one needs the other, directly or not; if one runs only after a third has succeeded, the other only
after it has failed; or if what both take together is more than there is: of the budget's slots, of a pool, or of an
`exclusive` name, of which there is one. Finally steps come after all others, but a detached worker goes on beside them,
and it has given back its slots and pools by then.

Steps are bits of an integer, so that one operation compares a step with all others: with 10,000 steps in one chain that
is 10,000 short operations on 1,250 bytes each. A step's ancestors are forgotten when its last dependent has been seen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from runner.plan.graph import topological_order
from runner.plan.model import NeedOn, Plan, Step

_SLOTS = "slots"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A step, as its number in the plan (`finally` last), and which of those seen before it can run beside it.

    `with_itself` says so of two instances of the step, if it has several. `others` are bits: see `numbers`.
    """

    step: int
    bit: int
    others: int
    with_itself: bool


class Overlaps:
    """The steps of a plan that matter to a question, and which of them can run at the same time."""

    def __init__(self, plan: Plan, wanted: Collection[int] | None = None) -> None:
        """Prepare for the steps with the numbers `wanted`, for all of them by default."""
        self._plan = plan
        self._steps = (*plan.steps, *plan.finally_)
        needs = {step.id: tuple(need.step for need in step.needs) for step in self._steps}
        place = {step.id: number for number, step in enumerate(self._steps)}
        order = [place[name] for name in topological_order(needs)]
        main = len(plan.steps)
        #: `finally` last, whatever the needs leave open.
        self._order = sorted(order, key=lambda number: number >= main)
        self._needs = [[place[need] for need in needs[step.id] if need in place] for step in self._steps]
        kept = [number for number in self._order if wanted is None or number in wanted]
        self._bits = {number: bit for bit, number in enumerate(kept)}
        self._by_bit = kept
        self._main = self._mask(number for number in kept if number < main)
        self._detached = self._mask(n for n in kept if n < main and not self._steps[n].waits)
        self._shared = _Shared(plan, [self._steps[number] for number in kept])
        self._branches = _Branches(self._steps, self._order, self._bits)

    def number(self, bit: int) -> int:
        """Return the number of the step that a bit stands for."""
        return self._by_bit[bit]

    def numbers(self, bits: int) -> Iterator[int]:
        """Yield the numbers of the steps whose bits are set, in the order in which they can run."""
        return map(self.number, self.bits(bits))

    def bits(self, bits: int) -> Iterator[int]:
        """Yield the bits that are set, one by one, the lowest first."""
        return _bits(bits)

    def steps(self) -> Iterator[Overlap]:
        """Yield each wanted step once, in an order in which they can run, with those before it that it can overlap."""
        for number, before in self._ancestors():
            bit = self._bits.get(number)
            if bit is None:
                continue
            step = self._steps[number]
            seen = (1 << bit) - 1
            too_much = self._shared.apart(step)
            others = seen & ~(before | too_much | self._branches.apart(number))
            if number >= len(self._plan.steps):
                others = (others & ~self._main) | self._detached
            itself = _is_parallel(step) and not too_much >> bit & 1
            yield Overlap(step=number, bit=bit, others=others, with_itself=itself)

    def _ancestors(self) -> Iterator[tuple[int, int]]:
        """Yield each step with the bits of the wanted ones that it waits for."""
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
    """What steps take of things of which there is only so much."""

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
        """Return the bits of the steps with which this one takes too much; its own too if two of it would."""
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


def _is_parallel(step: Step) -> bool:
    return step.for_each is not None and step.for_each.max_parallel != 1


#: Steps whose two ends are followed. A person's plan has a handful; beyond, steps count as if they could overlap.
_MAX_FORKS = 256


class _Branches:
    """Steps that never both run, because they need opposite ends of the same step: of a fork."""

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
            for fork in _bits(ends[number]):
                found[fork].append(bit)
        return [_mask(iter(after)) for after in found]

    def apart(self, number: int) -> int:
        """Return the bits of the steps that do not run if this one does."""
        found = 0
        for ends, others in ((self._good[number], self._after_bad), (self._bad[number], self._after_good)):
            for fork in _bits(ends):
                found |= others[fork]
        return found

    def _follow(self, step: Step, number: int, place: Mapping[str, int], fork_bit: Mapping[int, int]) -> None:
        """Note how forks must have ended for a step to run: a step that had to succeed or fail has run itself."""
        for need in step.needs:
            needed = place.get(need.step)
            if needed is None or need.on is NeedOn.DONE:
                continue
            mine = self._bad if need.on is NeedOn.FAILURE else self._good
            if needed in fork_bit:
                mine[number] |= 1 << fork_bit[needed]
            self._good[number] |= self._good[needed]
            self._bad[number] |= self._bad[needed]


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _mask(bits: Iterator[int]) -> int:
    """Return an integer with these bits set; in one piece, because setting them one by one would copy it each time."""
    found = list(bits)
    if not found:
        return 0
    field = bytearray(max(found) // 8 + 1)
    for bit in found:
        field[bit >> 3] |= 1 << (bit & 7)
    return int.from_bytes(field, "little")
