"""What the plan language has and the engine cannot run yet. A plan that uses it is refused, never half obeyed.

An entry goes when the engine has learned the key; when the table is empty, this module goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from runner.plan.model import NeedOn
from runner.plan.nodes import Mapping
from runner.plan.report import Report
from runner.plan.steps import Draft

_NEEDS_ON = "needs.on"

#: Keys, of a step or of the plan, as people write them; `needs.on` is any `on` but success.
NOT_YET: Final = frozenset()


def refuse_unsupported(root: Mapping, drafts: Sequence[Draft], report: Report, not_yet: frozenset[str]) -> None:
    """Report every key of `not_yet` that the plan uses: at its top, in its defaults, and in its steps."""
    if not not_yet:
        return
    _refuse_keys(root, report, not_yet, None)
    defaults = root.values.get("defaults")
    if isinstance(defaults, Mapping):
        _refuse_keys(defaults, report, not_yet, None)
    for draft in drafts:
        _refuse_keys(draft.node, report, not_yet, draft.step.id)
        for need, node in draft.needs:
            if _NEEDS_ON in not_yet and need.on is not NeedOn.SUCCESS:
                report.add(node, "JP232", _told(f"on: {need.on}"), step=draft.step.id)


def _refuse_keys(mapping: Mapping, report: Report, not_yet: frozenset[str], step: str | None) -> None:
    for key in mapping.values.keys() & not_yet:
        report.add(mapping.keys[key], "JP232", _told(key), step=step)


def _told(key: str) -> str:
    return f"`{key}` is not supported by this version of jobplan yet"
