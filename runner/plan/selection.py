"""Which steps of a plan are to run: ids, globs, `tag:x`, `+id` (with what it needs), `id+` (with what needs it)."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

from runner.errors import UsageError
from runner.plan.graph import ancestors, descendants
from runner.plan.model import Plan, Step
from runner.plan.report import Guesses

_TAG = "tag:"


def not_selected(
    plan: Plan, select: Sequence[str], exclude: Sequence[str], *, assume_done: bool = False
) -> frozenset[str]:
    """Return the ids of the steps that are left out; those of `finally` always run.

    UsageError if a selector matches nothing, if no step is left, or if a selected step needs one that is left out,
    unless `assume_done` declares those to be done.
    """
    needs = {step.id: tuple(need.step for need in step.needs) for step in plan.steps}
    chosen = _matching(plan, needs, select) if select else set(needs)
    chosen -= _matching(plan, needs, exclude)
    if not chosen:
        raise UsageError("The selection leaves no step to run.")
    if not assume_done:
        _check_needs(plan.steps, chosen)
    return frozenset(needs.keys() - chosen)


def _matching(plan: Plan, needs: Mapping[str, tuple[str, ...]], selectors: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for selector in selectors:
        names = _named(plan, selector.removeprefix("+").removesuffix("+"))
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
        raise UsageError(f"No step matches {pattern!r}.", hint=Guesses().did_you_mean(pattern, known))
    return names


def _check_needs(steps: Iterable[Step], chosen: set[str]) -> None:
    for step in steps:
        missing = [need.step for need in step.needs if step.id in chosen and need.step not in chosen]
        if missing:
            raise UsageError(
                f"{step.id} needs {missing[0]}, which is not selected.",
                hint=f"Select +{step.id}, or add --assume-done.",
            )
