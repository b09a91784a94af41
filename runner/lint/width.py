"""How many slots a plan can use at once, at most.

The true number is that of the widest set of steps of which none needs another, which is costly to find with weights. An
upper bound is enough to say that a budget is too large, and is never a false alarm: the steps are laid into chains in
which each needs the one before, so that of a chain only one step runs at a time; steps that share a pool or an
exclusive name are held to what that lets through, where it is less.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from runner.plan.graph import topological_order
from runner.plan.model import Step


def widest(steps: Sequence[Step], pools: Mapping[str, int]) -> int | None:
    """Return a number of slots that the steps never exceed, None if only the server knows how many items they have."""
    weights = {step.id: step.slots * _instances(step) for step in steps}
    chains = _chains(steps)
    groups = _groups(steps, pools)
    free = {step.id for step in groups.pop(None, ())}
    by_chains = sum(max(weights[name] for name in chain) for chain in chains)
    of_the_free = sum(max((weights[name] for name in chain if name in free), default=0.0) for chain in chains)
    bound = min(by_chains, of_the_free + _let_through(groups, weights, pools))
    return None if math.isinf(bound) else int(bound)


def _instances(step: Step) -> float:
    for_each = step.for_each
    if for_each is None:
        return 1.0
    items = math.inf if for_each.sql is not None else float(len(for_each.items))
    return min(items, math.inf if for_each.max_parallel is None else for_each.max_parallel)


def _chains(steps: Sequence[Step]) -> list[list[str]]:
    """Return the steps in chains: each step goes behind one that it needs, if that is still the last of its chain."""
    needs = {step.id: [need.step for need in step.needs] for step in steps}
    last: dict[str, list[str]] = {}
    chains: list[list[str]] = []
    for name in topological_order(needs):
        before = next((need for need in needs[name] if need in last), None)
        chain = [] if before is None else last.pop(before)
        if not chain:
            chains.append(chain)
        chain.append(name)
        last[name] = chain
    return chains


def _group(step: Step, pools: Mapping[str, int]) -> str | None:
    """Return what holds the step back: an exclusive name, or the scarcest of its pools."""
    if step.exclusive:
        return f"exclusive {min(step.exclusive)}"
    known = [pool for pool in step.pools if pool in pools]
    return min(known, key=lambda pool: (pools[pool], pool)) if known else None


def _groups(steps: Sequence[Step], pools: Mapping[str, int]) -> dict[str | None, list[Step]]:
    """Return the steps by what holds them back, None for those that nothing does."""
    groups: defaultdict[str | None, list[Step]] = defaultdict(list)
    for step in steps:
        groups[_group(step, pools)].append(step)
    return groups


def _let_through(
    groups: Mapping[str | None, Sequence[Step]], weights: Mapping[str, float], pools: Mapping[str, int]
) -> float:
    """Return how many slots those steps can use at once that pools and exclusive names hold back."""
    total = 0.0
    for group, members in groups.items():
        if group is not None and group in pools:
            most = math.floor(pools[group] * max(step.slots / step.pools[group] for step in members))
            total += min(float(most), sum(weights[step.id] for step in members))
        else:
            total += max(weights[step.id] for step in members)
    return total
