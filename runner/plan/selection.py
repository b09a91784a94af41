"""The selection of single instances: of items of a `for_each`, and of steps of a group's chain.

`vacuum[orders]` is one item, `per_index[orders_pkey].rebuild` one step of one item, and `per_index.rebuild` one step of
all items. `*` and `?` in the item match any text and any character. The items of a query are not known before it has
run, so the run records what is left out as it was selected: a key or pattern that is excluded, or `only ` and one that
is selected.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final

from runner.errors import UsageError
from runner.identity import inner_key, written_key
from runner.plan.model import Step
from runner.plan.problem_collector import did_you_mean
from runner.structs import Struct

_ONLY: Final = "only "
_SELECTOR: Final = re.compile(r"([a-z][a-z0-9_-]*)(\[.*\])?(?:\.([a-z][a-z0-9_-]*))?", re.DOTALL)


class SelectedPart(Struct, frozen=True):
    """A selector of a part of a step: an item, a step of the chain, or both."""

    step: str
    item: str | None
    inner: str | None

    def __str__(self) -> str:
        owner = self.step + (self.item or "")
        return owner if self.inner is None else inner_key(owner, self.inner)


def part_of(selector: str, steps: Mapping[str, Step]) -> SelectedPart | None:
    """Return the part of a step that a selector names, None if it names whole steps.

    UsageError if the step has no such items or steps.
    """
    found = _SELECTOR.fullmatch(selector)
    step = steps.get(found[1]) if found is not None else None
    if found is None or step is None or (found[2] is None and found[3] is None):
        return None
    item, inner = found[2], found[3]
    if item is not None and step.for_each is None:
        return None
    if item is not None and step.for_each is not None and step.for_each.chunk is not None:
        raise UsageError(f"{selector!r}: the items of {step.id} are in chunks, so they cannot be selected one by one.")
    names = [one.id for one in step.steps]
    if inner is not None and inner not in names:
        known = [inner_key(step.id, name) for name in names]
        hint = did_you_mean(inner_key(step.id, inner), known) if known else f"{step.id} is not a group."
        raise UsageError(f"No step matches {selector!r}.", hint=hint)
    return SelectedPart(step.id, item, inner)


def left_out_parts(
    selected: Iterable[SelectedPart],
    excluded: Iterable[SelectedPart],
    whole: Collection[str],
    steps: Mapping[str, Step],
    *,
    assume_done: bool,
) -> Iterator[str]:
    """Yield what the record of the run says of parts that are left out; `whole` are the steps selected as a whole.

    UsageError if a selected step of a chain needs one that is left out, unless `assume_done`.
    """
    only = [part for part in selected if part.step not in whole]
    without = list(excluded)
    if not assume_done:
        for name in dict.fromkeys(part.step for part in (*only, *without)):
            mine = [part for part in only if part.step == name]
            _check_chain(steps[name], mine, [part for part in without if part.step == name])
    yield from (f"{_ONLY}{part}" for part in only)
    yield from (str(part) for part in without)


def _check_chain(group: Step, only: list[SelectedPart], without: list[SelectedPart]) -> None:
    """Check the needs in the chain, for each of the items that selectors name and for all others."""
    items = dict.fromkeys([None, *(part.item for part in (*only, *without))])
    for item in items:
        chosen = {
            step.id
            for step in group.steps
            if (not only or any(_covers(part, item, step.id) for part in only))
            and not any(_covers(part, item, step.id) for part in without)
        }
        for step in group.steps:
            missing = [need.step for need in step.needs if step.id in chosen and need.step not in chosen]
            if missing:
                one, other = (inner_key(group.id + (item or ""), name) for name in (step.id, missing[0]))
                raise UsageError(
                    f"{one} needs {other}, which is not selected.", hint=f"Select {other} too, or add --assume-done."
                )


def _covers(part: SelectedPart, item: str | None, step: str) -> bool:
    return part.item in (None, item) and part.inner in (None, step)


def is_left_out(entries: Collection[str], key: str) -> bool:
    """Return whether the instance with this key, or this step of an item, is left out."""
    if not entries:
        return False
    names = {key, written_key(key)}
    owner, dot, inner = key.rpartition(".")
    if dot and "]" not in inner:
        names.add(owner)
    step = re.split(r"[\[.]", key, maxsplit=1)[0]
    only = [entry.removeprefix(_ONLY) for entry in entries if entry.startswith(_ONLY)]
    mine = [entry for entry in only if re.split(r"[\[.]", entry, maxsplit=1)[0] == step]
    if mine and not any(_matches(entry, names) for entry in mine):
        return True
    return any(_matches(entry, names) for entry in entries if not entry.startswith(_ONLY))


def _matches(entry: str, names: Iterable[str]) -> bool:
    pattern = _pattern(entry)
    return any(pattern.fullmatch(name) for name in names)


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    """Return a pattern in which only `*` and `?` are special."""
    return re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
