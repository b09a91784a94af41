"""Algorithms on the graph of needs, and the selection of steps by ids, globs, tags and their needs.

A graph is a mapping from each name to the names it needs. Names that are needed but are no keys are ignored. Nothing
here recurses: a chain may be as long as a plan.
"""

from __future__ import annotations

import fnmatch
import heapq
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

from runner.errors import UsageError
from runner.plan.model import Plan, Step
from runner.plan.problem_collector import did_you_mean
from runner.plan.selection import SelectedPart, left_out_parts, part_of

#: Name → the names that it needs.
Needs = Mapping[str, Collection[str]]


def topological_order(needs: Needs) -> tuple[str, ...]:
    """Return the names so that each comes after those that it needs, otherwise in the mapping's order.

    ValueError if there is a cycle.
    """
    if _is_in_order(needs):
        return tuple(needs)
    place = {name: index for index, name in enumerate(needs)}
    names = list(needs)
    missing = {name: len({need for need in needed if need in place}) for name, needed in needs.items()}
    dependents = _dependents(needs)
    ready = [place[name] for name, count in missing.items() if not count]
    order = []
    while ready:
        name = names[heapq.heappop(ready)]
        order.append(name)
        for dependent in dependents[name]:
            missing[dependent] -= 1
            if not missing[dependent]:
                heapq.heappush(ready, place[dependent])
    if len(order) < len(names):
        raise ValueError("the graph has a cycle")
    return tuple(order)


def find_cycles(needs: Needs) -> tuple[tuple[str, ...], ...]:
    """Return one shortest cycle for each set of names that need each other: `(a, b, a)` if a needs b needs a.

    Each begins with the name of the knot that comes first in the mapping.
    """
    if _is_in_order(needs):
        return ()
    place = {name: index for index, name in enumerate(needs)}
    cycles = []
    for knot in _components(needs):
        members = set(knot)
        first = min(members, key=place.__getitem__)
        if len(members) > 1 or first in needs[first]:
            cycles.append(_shortest_cycle(needs, members, first))
    return tuple(sorted(cycles, key=lambda cycle: place[cycle[0]]))


def longest_path(needs: Needs, weights: Mapping[str, float]) -> tuple[float, tuple[str, ...]]:
    """Return the heaviest chain of needs and its weight: the critical path. ValueError if there is a cycle."""
    total: dict[str, float] = {}
    before: dict[str, str | None] = {}
    for name in topological_order(needs):
        heaviest = max((need for need in needs[name] if need in total), key=total.__getitem__, default=None)
        before[name] = heaviest
        total[name] = weights[name] + (total[heaviest] if heaviest is not None else 0.0)
    last = max(total, key=total.__getitem__, default=None)
    path = []
    name_or_none = last
    while name_or_none is not None:
        path.append(name_or_none)
        name_or_none = before[name_or_none]
    return (total[last] if last is not None else 0.0), tuple(reversed(path))


def ancestors(needs: Needs, names: Iterable[str]) -> frozenset[str]:
    """Return all names that these need, directly or not; one of them itself only if another one needs it."""
    found: set[str] = set()
    waiting = [name for name in names if name in needs]
    while waiting:
        for other in needs[waiting.pop()]:
            if other in needs and other not in found:
                found.add(other)
                waiting.append(other)
    return frozenset(found)


def descendants(needs: Needs, names: Iterable[str]) -> frozenset[str]:
    """Return all names that need one of these, directly or not."""
    return ancestors(_dependents(needs), names)


def _is_in_order(needs: Needs) -> bool:
    """Return whether the mapping already has each name after those that it needs, as is usual in plans."""
    before: set[str] = set()
    for name, needed in needs.items():
        for need in needed:
            if need not in before and need in needs:
                return False
        before.add(name)
    return True


def _dependents(needs: Needs) -> dict[str, list[str]]:
    dependents: dict[str, list[str]] = {name: [] for name in needs}
    for name, needed in needs.items():
        for need in dict.fromkeys(needed):
            if need in dependents:
                dependents[need].append(name)
    return dependents


def _components(needs: Needs) -> list[list[str]]:
    """Return the strongly connected components (Kosaraju's algorithm).

    Of two components, the names of the one that needs the other are finished last; backwards from a name that was
    finished last, all that can be reached and has no component yet is its component.
    """
    finished: list[str] = []
    seen: set[str] = set()
    waiting = [(name, False) for name in needs]
    while waiting:
        name, is_done = waiting.pop()
        if is_done:
            finished.append(name)
        elif name not in seen:
            seen.add(name)
            waiting.append((name, True))
            waiting += [(need, False) for need in needs[name] if need in needs]
    dependents = _dependents(needs)
    components = []
    for name in reversed(finished):
        if name in seen:
            component = [name]
            seen.remove(name)
            for member in component:
                found = [other for other in dependents[member] if other in seen]
                seen.difference_update(found)
                component += found
            components.append(component)
    return components


def _shortest_cycle(needs: Needs, members: set[str], first: str) -> tuple[str, ...]:
    came_from: dict[str, str] = {}
    waiting = deque([first])
    while waiting:
        name = waiting.popleft()
        for need in needs[name]:
            if need == first:
                path = [first, name]
                while name != first:
                    name = came_from[name]
                    path.append(name)
                return tuple(reversed(path)) if len(path) > 2 or path[1] != first else (first, first)
            if need in members and need not in came_from:
                came_from[need] = name
                waiting.append(need)
    raise AssertionError("every member of a component is on a cycle")


_TAG = "tag:"
_NO_PARTS: Mapping[str, SelectedPart] = {}


def not_selected(
    plan: Plan, select: Sequence[str], exclude: Sequence[str], *, assume_done: bool = False
) -> frozenset[str]:
    """Return the ids of the steps that are left out, and the parts of steps that are; those of `finally` always run.

    UsageError if a selector matches nothing, if no step is left, or if a selected step needs one that is left out,
    unless `assume_done` declares those to be done.
    """
    needs = {step.id: tuple(need.step for need in step.needs) for step in plan.steps}
    steps = {step.id: step for step in plan.steps}
    parts = {selector: part for selector in (*select, *exclude) if (part := part_of(_bare(selector), steps))}
    whole = _matching(plan, needs, [selector for selector in select if selector not in parts])
    chosen = whole | _matching(plan, needs, select, parts) if select else set(needs)
    chosen -= _matching(plan, needs, [selector for selector in exclude if selector not in parts])
    if not chosen:
        raise UsageError("The selection leaves no step to run.")
    if not assume_done:
        _check_needs(plan.steps, chosen)
    selected = [each for selector in select if selector in parts for each in _widened(selector, parts[selector], steps)]
    excluded = [
        each for selector in exclude if selector in parts for each in _widened(selector, parts[selector], steps)
    ]
    left_out = left_out_parts(selected, excluded, whole, steps, assume_done=assume_done)
    return frozenset((needs.keys() - chosen) | set(left_out))


def _widened(selector: str, part: SelectedPart, steps: Mapping[str, Step]) -> tuple[SelectedPart, ...]:
    """Return the parts that a selector with `+` names: what a step of a chain needs in it, and what needs that step."""
    if part.inner is None:
        return (part,)
    needs = {step.id: tuple(need.step for need in step.needs) for step in steps[part.step].steps}
    names = {part.inner}
    names |= ancestors(needs, [part.inner]) if selector.startswith("+") else set()
    names |= descendants(needs, [part.inner]) if selector.endswith("+") else set()
    return tuple(SelectedPart(part.step, part.item, name) for name in needs if name in names)


def _bare(selector: str) -> str:
    return selector.removeprefix("+").removesuffix("+")


def _matching(
    plan: Plan,
    needs: Mapping[str, tuple[str, ...]],
    selectors: Iterable[str],
    parts: Mapping[str, SelectedPart] = _NO_PARTS,
) -> set[str]:
    found: set[str] = set()
    for selector in selectors:
        names = {parts[selector].step} if selector in parts else _named(plan, _bare(selector))
        if selector.startswith("+"):
            found |= ancestors(needs, names)
        if selector.endswith("+"):
            found |= descendants(needs, names)
        found |= names
    return found


def _named(plan: Plan, pattern: str) -> set[str]:
    if pattern.startswith(_TAG):
        names = {step.id for step in plan.steps if pattern.removeprefix(_TAG) in step.tags}
        known = {f"{_TAG}{tag}" for step in plan.steps for tag in step.tags}
    else:
        names = {step.id for step in plan.steps if fnmatch.fnmatchcase(step.id, pattern)}
        known = {step.id for step in plan.steps}
    if not names:
        raise UsageError(f"No step matches {pattern!r}.", hint=did_you_mean(pattern, known))
    return names


def _check_needs(steps: Iterable[Step], chosen: set[str]) -> None:
    for step in steps:
        missing = [need.step for need in step.needs if step.id in chosen and need.step not in chosen]
        if missing:
            raise UsageError(
                f"{step.id} needs {missing[0]}, which is not selected.",
                hint=f"Select +{step.id}, or add --assume-done.",
            )
