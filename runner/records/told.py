"""The state of a run as the ledger tells it, without a journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner.engine import events as ev
from runner.engine.decoding import from_json
from runner.engine.fold import apply
from runner.engine.state import RunState, initial_state
from runner.errors import RecordError
from runner.plan.resolved import plan_from_json


def state_told(plans: Mapping[str, str], told: Sequence[Mapping[str, Any]]) -> tuple[RunState, float]:
    """Return the state that follows from these events, and the moment of the last one. Plans are JSON, by SHA-256.

    RecordError if something is missing, or not to be read by this version.
    """
    events = [from_json(event) for event in told]
    started = next((event for event in events if isinstance(event, ev.RunStarted)), None)
    if started is None:
        raise RecordError("it does not have the run's beginning.")
    known = {sha256: plan_from_json(text) for sha256, text in plans.items()}
    try:
        state = initial_state(known[started.sha256])
        for event in events:
            if isinstance(event, ev.RunResumed):
                state.plan = known[event.sha256]
            apply(state, event)
    except (LookupError, ValueError) as error:
        raise RecordError("it lacks events from which others follow.") from error
    return state, events[-1].at
