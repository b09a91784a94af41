"""What is left of a run's state when another runner takes the run up.

The new state is the fold of events on a plan at its beginning, made from what the old state keeps. So nothing can hold
after a resumption that could not have come about in a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.engine import events as ev
from runner.engine.state import HOLDING, RunState, StepRecord, StepState
from runner.plan.graph import topological_order


def is_kept(record: StepRecord, settled: Mapping[str, ev.Outcome]) -> bool:
    """Say whether the step is over for good: it succeeded, was allowed to fail, had nothing to do, or was let go of.

    A step that the run should have waited for is not over because an interrupted runner let go of it.
    """
    if record.key in settled:
        return settled[record.key] is ev.Outcome.SUCCEEDED
    if record.state is StepState.SKIPPED:
        return record.skip is not None and record.skip.reason in (ev.SkipReason.CONDITION, ev.SkipReason.NOT_SELECTED)
    if record.state is StepState.DETACHED:
        return not record.step.waits
    return record.state in (StepState.SUCCEEDED, StepState.FAILED_ALLOWED)


def staying(state: RunState, settled: Mapping[str, ev.Outcome]) -> frozenset[str]:
    """Return the steps and instances that stay as they are.

    Beside those that are kept, that is who was skipped because of others, if of all those nothing new is known.
    """
    found: set[str] = set()
    nothing_new: set[str] = set()
    needs = {
        key: (*(need.step for need in record.step.needs), *(record.instances or ()))
        for key, record in state.records.items()
    }
    for key in topological_order(needs):
        record = state.records[key]
        because_of_others = record.skip is not None and record.skip.reason is ev.SkipReason.UPSTREAM
        if record.state is StepState.SKIPPED and because_of_others:
            stays = nothing_new.issuperset(needs[key])
        elif record.instances is not None:
            stays = found.issuperset(record.instances)
        else:
            stays = is_kept(record, settled)
        if stays:
            found.add(key)
        if stays and key not in settled and nothing_new.issuperset(record.instances or ()):
            nothing_new.add(key)
    return frozenset(found)


def has_succeeded(record: StepRecord) -> bool:
    """Say whether the last worker succeeded, and only what that is worth was still to be found out.

    So it is, too, when its conditions could not be evaluated: the step failed, but not what it did.
    """
    last = record.last
    succeeded = last is not None and last.attempt == record.attempt and last.outcome is ev.Outcome.SUCCEEDED
    unjudged = record.state is StepState.FAILED and record.verdict is ev.Verdict.ERROR
    return succeeded and (unjudged or record.state in (StepState.SETTLING, StepState.CHECKING))


def finally_starts_again(state: RunState, settled: Mapping[str, ev.Outcome]) -> bool:
    """Say whether something outside `finally` has to run again: then all of `finally` comes after it once more."""
    outside = {record.key for record in state.records.values() if not record.in_finally}
    return not outside <= staying(state, settled)


def carried_over(old: RunState, resumed: ev.RunResumed, known: Mapping[str, StepRecord]) -> Iterator[ev.StepEvent]:
    """Yield the events that bring a state at its beginning to where the run goes on.

    `known` are the records of the new state, to which each event has been applied before the next one is asked for: a
    step that is not in the plan any more is left out.
    """
    settled = {found.step: found.outcome for found in resumed.settled}
    adopted = {found.step: found for found in resumed.adopted}
    stays = staying(old, settled)
    again = finally_starts_again(old, settled)
    for record in old.records.values():
        if record.key not in known or (record.in_finally and again):
            continue
        if record.instances is not None:
            if known[record.key].step.for_each is not None:
                items = tuple(_item(old.records[key]) for key in record.instances)
                yield ev.StepExpanded(at=resumed.at, step=record.key, items=items)
        elif record.key in adopted:
            yield from _under_way(adopted[record.key], record, resumed.at)
        elif record.key in stays:
            yield _ended(record)
        elif record.key not in settled and has_succeeded(record):
            yield from _to_be_judged(record)


def keep_facts(old: StepRecord, new: StepRecord) -> None:
    """Let attempts go on counting, and keep what is known of the last one of a step that is over."""
    if new.final:
        new.iteration, new.since = old.iteration, old.since
        new.last, new.worker = old.last, old.worker
        new.launched_at, new.started_at, new.ended_at = old.launched_at, old.started_at, old.ended_at
    if new.state in HOLDING or new.state is StepState.SETTLING:
        new.attempts_before, new.iteration = old.attempts_before, old.iteration
    else:
        new.attempt = new.attempts_before = old.attempt


def _item(record: StepRecord) -> ev.Item:
    return ev.Item(key=record.key, values=record.values)


def _under_way(adopted: ev.Adopted, record: StepRecord, now: float) -> Iterator[ev.StepEvent]:
    step, attempt, worker = adopted.step, adopted.attempt, adopted.worker
    at = now if record.launched_at is None else record.launched_at
    yield ev.AttemptLaunching(
        at=at, step=step, attempt=attempt, application_name=worker.application_name, timeout=record.timeout
    )
    yield ev.AttemptRunning(at=at, step=step, attempt=attempt, worker=worker)


def _to_be_judged(record: StepRecord) -> Iterator[ev.StepEvent]:
    if record.last is not None:
        launched = record.launched_at if record.launched_at is not None else record.last.at
        yield ev.AttemptLaunching(
            at=launched, step=record.key, attempt=record.attempt, application_name="", timeout=record.timeout
        )
        yield record.last


def _ended(record: StepRecord) -> ev.StepEvent:
    if record.skip is not None and record.state is StepState.SKIPPED:
        return record.skip
    state = record.state if record.state in _OVER else StepState.SUCCEEDED
    return ev.StepFinished(at=record.since, step=record.key, state=state)


_OVER = (StepState.SUCCEEDED, StepState.FAILED_ALLOWED, StepState.DETACHED)
