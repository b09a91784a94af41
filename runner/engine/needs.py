"""What the end of a step means for the steps that need it."""

from __future__ import annotations

from runner.engine import events as ev
from runner.engine.state import BAD, StepState
from runner.plan.model import NeedOn


def need_met(on: NeedOn, state: StepState, skip: ev.StepSkipped | None) -> bool:
    """Say whether a step that ended in `state` lets a dependent start that needs it `on`.

    A step skipped by its own condition counts as a success: there was nothing to do. So does one that was not selected:
    whoever selects says that it is done.
    """
    if on is NeedOn.DONE:
        return True
    if on is NeedOn.FAILURE:
        return state in BAD
    if state is StepState.SKIPPED:
        return skip is not None and skip.reason in (ev.SkipReason.CONDITION, ev.SkipReason.NOT_SELECTED)
    return state in (StepState.SUCCEEDED, StepState.FAILED_ALLOWED)
