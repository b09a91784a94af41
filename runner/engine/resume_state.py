"""The state of a run that another runner resumes: what it keeps, and which questions its record leaves open.

The new state is the fold of events on a plan at its beginning, made from what the old state keeps. So nothing can hold
after a resumption that could not have come about in a run. An attempt whose outcome has no evidence becomes a question
to the user.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from runner.clock import rfc3339
from runner.engine import events as ev
from runner.engine.for_each_items import literal_items
from runner.engine.state import HOLDING, RunState, StepRecord, StepState, need_met
from runner.errors import UsageError
from runner.plan.model import ForEach, NeedOn, Plan, Step
from runner.sql.text_traits import nature_of


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


def has_succeeded(record: StepRecord) -> bool:
    """Say whether the last worker succeeded, and only what that is worth was still to be found out.

    So it is, too, when its conditions could not be evaluated: the step failed, but not what it did.
    """
    last = record.last
    succeeded = last is not None and last.attempt == record.attempt and last.outcome is ev.Outcome.SUCCEEDED
    unjudged = record.state is StepState.FAILED and record.verdict is ev.Verdict.ERROR
    checked_after = record.state is StepState.CHECKING and record.phase is not ev.CheckPhase.BEFORE
    settling = record.state is StepState.SETTLING and record.gate is None
    return succeeded and (unjudged or checked_after or settling)


def steps_over(state: RunState, settled: Mapping[str, ev.Outcome], plan: Plan) -> frozenset[str]:
    """Return the steps that are kept, and those that were skipped for the end of one of them.

    `plan` is the one to go on with: in it, what a step needs may have changed.
    """
    over = {key for key, record in state.records.items() if is_kept(record, settled)}
    dependents: dict[str, list[tuple[str, NeedOn]]] = {}
    for step in (*plan.steps, *plan.finally_):
        for need in step.needs:
            dependents.setdefault(need.step, []).append((step.id, need.on))
    found = list(over)
    while found:
        needed = state.records[found.pop()]
        ended = StepState.SUCCEEDED if needed.key in settled else needed.state
        for key, on in dependents.get(needed.key, ()):
            skipped = key in state.records and key not in settled and _is_skipped_for_another(state.records[key])
            if skipped and key not in over and not need_met(on, ended, needed.skip):
                over.add(key)
                found.append(key)
    return frozenset(over)


def _is_skipped_for_another(record: StepRecord) -> bool:
    return (
        record.state is StepState.SKIPPED and record.skip is not None and record.skip.reason is ev.SkipReason.UPSTREAM
    )


def finally_starts_again(state: RunState, settled: Mapping[str, ev.Outcome], plan: Plan) -> bool:
    """Say whether something outside `finally` has to run: then all of `finally` comes after it once more.

    `plan` is the one to go on with, which may have steps that have not been there before.
    """
    if not steps_known(state, plan.steps) <= state.records.keys():
        return True
    outside = {key for key, record in state.records.items() if not record.in_finally and record.instances is None}
    return not outside <= steps_over(state, settled, plan)


def steps_known(state: RunState, steps: Iterable[Step]) -> set[str]:
    """Return what there is of these steps when the run goes on: they, and the instances of what has been expanded."""
    known = {step.id for step in steps}
    for step in steps:
        record = state.records.get(step.id)
        if record is not None and record.instances is not None and step.for_each is not None:
            known.update(item.key for item in _items(state, record, step))
    return known


def expansions(state: RunState, plan: Plan) -> tuple[ev.Expansion, ...]:
    """Return the items with which each step goes on that has instances already, and whose items the plan lists."""
    found = []
    for step in (*plan.steps, *plan.finally_):
        record = state.records.get(step.id)
        if record is not None and record.instances and step.for_each is not None and step.for_each.sql is None:
            found.append(ev.Expansion(step=step.id, items=_items(state, record, step)))
    return tuple(found)


def items_that_stay(state: RunState, plan: Plan) -> Iterator[str]:
    """Yield a line for each step of a changed plan whose items the run has fixed, and that would now be others.

    UsageError if the SQL of the step would not find them any more.
    """
    for step in (*plan.steps, *plan.finally_):
        record = state.records.get(step.id)
        if record is None or record.instances is None or step.for_each is None or step.for_each.sql is None:
            continue
        before = record.step.for_each
        if before is None or _query(before) == _query(step.for_each):
            continue
        if record.instances and before.as_ != step.for_each.as_:
            raise UsageError(
                f"step {step.id}: its items were fixed when the run began, as {before.as_!r}, and the plan now calls "
                f"them {step.for_each.as_!r}.",
                hint=f"Say `as: {before.as_}` again, or begin a new run.",
            )
        yield (
            f"step {step.id}: its items stay the {len(record.instances)} that were fixed when the run began; "
            "the query as it is now is not asked"
        )


def _query(for_each: ForEach) -> tuple[str, str | None]:
    return for_each.as_, None if for_each.sql is None else for_each.sql.text


def carried_over(old: RunState, resumed: ev.RunResumed, known: Mapping[str, StepRecord]) -> Iterator[ev.StepEvent]:
    """Yield the events that bring a state at its beginning to where the run goes on.

    `known` are the records of the new state, to which each event has been applied before the next one is asked for: a
    step that is not in the plan any more is left out.
    """
    settled = {found.step: found.outcome for found in resumed.settled}
    adopted = {found.step: found for found in resumed.adopted}
    again = finally_starts_again(old, settled, old.plan)
    over = steps_over(old, settled, old.plan)
    for record in old.records.values():
        if record.key not in known or (record.in_finally and again):
            continue
        if record.instances is not None:
            if known[record.key].step.for_each is not None:
                items = _items(old, record, known[record.key].step)
                yield ev.StepExpanded(at=resumed.at, step=record.key, items=items)
        elif record.key in adopted:
            yield from _under_way(adopted[record.key], record, resumed.at)
        elif record.key in over:
            yield _ended(record, settled)
        elif record.key not in settled and has_succeeded(record):
            yield from _to_be_judged(record)


def keep_facts(old: StepRecord, new: StepRecord) -> None:
    """Go on counting attempts, warnings and rows, and keep what is known of the last attempt of a step that is over."""
    new.warnings, new.iterations, new.rows, new.tag = old.warnings, old.iterations, old.rows, old.tag
    new.leftovers = old.leftovers
    if new.final:
        new.iteration, new.since = old.iteration, old.since
        new.last, new.worker = old.last, old.worker
        new.gone = new.state is StepState.DETACHED  # one that lives is followed again, and is not at its end here
        new.launched_at, new.started_at, new.ended_at = old.launched_at, old.started_at, old.ended_at
        new.took_before = old.took_before
    elif new.started_at is None:
        new.took_before = old.took or 0.0
    else:  # its worker lives, or is to be judged: that attempt began when it was launched
        new.took_before = old.took_before + max(0.0, new.started_at - (old.started_at or new.started_at))
    if new.state in HOLDING or new.state is StepState.SETTLING:
        new.attempts_before, new.iteration = old.attempts_before, old.iteration
    else:
        new.attempt = new.attempts_before = old.attempt


def _items(state: RunState, record: StepRecord, step: Step) -> tuple[ev.Item, ...]:
    """Return the items to go on with: those that the plan lists now, or those that its query gave.

    An item that the run has had before is that instance, wherever it stands now.
    """
    before = tuple(ev.Item(key=key, values=state.records[key].values) for key in record.instances or ())
    if step.for_each is None or step.for_each.sql is not None:
        return before
    if state.expansions is None:
        return literal_items(step, before)
    return state.expansions.get(step.id) or literal_items(step)  # records of earlier versions do not have them


def _under_way(adopted: ev.Adopted, record: StepRecord, now: float) -> Iterator[ev.StepEvent]:
    step, attempt, worker = adopted.step, adopted.attempt, adopted.worker
    # the recorded moment of the launch is of another runner's clock: the age that the server gives the worker counts
    launched = now if record.launched_at is None else record.launched_at
    at = launched if adopted.age is None else now - adopted.age
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


def _ended(record: StepRecord, settled: Mapping[str, ev.Outcome]) -> ev.StepEvent:
    """Return the end of a step that is over. What was found out about its last worker counts more than its record."""
    if record.key in settled:
        return ev.StepFinished(at=record.since, step=record.key, state=StepState.SUCCEEDED)
    if record.skip is not None and record.state is StepState.SKIPPED:
        return record.skip
    state = record.state if record.state in _OVER else StepState.SUCCEEDED
    return ev.StepFinished(at=record.since, step=record.key, state=state, committed=record.committed or None)


_OVER = (StepState.SUCCEEDED, StepState.FAILED_ALLOWED, StepState.DETACHED)


def is_open(record: StepRecord) -> bool:
    """Say whether a worker was asked for of which nothing proves what it did."""
    if record.instances is not None or is_kept(record, {}) or has_succeeded(record):
        return False
    if record.state in HOLDING or record.unproven:
        return True
    last = record.last
    if last is None or last.attempt != record.attempt:
        return record.launched_at is not None and record.state not in _GOES_ON
    if last.outcome is ev.Outcome.DETACHED:
        return True
    # `verify` has said that it did not do its work if an unknown outcome was the reason for a failure
    return last.outcome is ev.Outcome.UNKNOWN and record.state is not StepState.FAILED


#: States that follow on a worker's end when there is another one to come, or none is wanted any more: a record with
#: holes may lack that end.
_GOES_ON = frozenset({StepState.RETRYING, StepState.PENDING, StepState.READY, StepState.QUEUED, StepState.SKIPPED})


def is_unbegun(record: StepRecord) -> bool:
    """Say whether there is nothing to say of the step's work: no worker was ever asked for, and it has not failed."""
    return record.attempt == 0 and not is_open(record) and record.state not in _JUDGED


#: States that say something of a step although no worker was asked for: a condition stood in its way, or nobody knows.
_JUDGED = frozenset({StepState.FAILED, StepState.TIMED_OUT, StepState.CANCELLED, StepState.UNKNOWN})


def left_unproven(state: RunState, resumed: ev.RunResumed) -> Iterator[str]:
    """Yield the steps about whose last worker the record says nothing, although the run was taken up: it has holes."""
    settled = {found.step: found.outcome for found in resumed.settled}
    told = settled.keys() | {found.step for found in resumed.adopted}
    again = finally_starts_again(state, settled, state.plan)
    for key, record in state.records.items():
        if key not in told and not (record.in_finally and again) and is_open(record):
            yield key


def committed_in_vain(record: StepRecord) -> bool:
    """Say whether the step's work is committed although it failed, so that it must not simply run again.

    A text that only reads commits nothing: it is a check, which may run again.
    """
    return record.committed and record.state is StepState.FAILED and not has_succeeded(record)


def may_run_again(record: StepRecord) -> bool:
    """Say whether the step may run again whatever its last worker did: the plan says so, or every statement of it.

    A text that the plan calls idempotent; or one that only reads, rebuilds or gathers, such as VACUUM and REINDEX.
    """
    return record.step.idempotent or nature_of(record.step.sql.text).idempotent


def question(record: StepRecord) -> str:
    """Ask what a worker did that has gone."""
    when = f" of {rfc3339(record.launched_at)[:19]}Z" if record.launched_at is not None else ""
    who = f" (pid {record.worker.pid})" if record.worker is not None else ""
    return (
        f"{record.key}: the worker{who}{when} has gone, and nothing proves what it did. Look, and say "
        f"{_mark(record, 'succeeded')} if its work is done, {_mark(record, 'failed')} to run it again."
        f"{_half_done(record)}"
    )


def question_of_work_in_vain(record: StepRecord) -> str:
    """Ask what the work of a step is worth that is committed and whose check failed."""
    return (
        f"{record.key}: its worker has committed, but its check failed, so it is not run again by itself. Say "
        f"{_mark(record, 'succeeded')} if its work is as it should be, {_mark(record, 'failed')} to run it again."
    )


#: What leaves an INVALID index behind when it is broken off (pg_background.md#what-concurrently-leaves-behind). Which
#: one it would be, only who has
#: seen the worker's locks can tell, so the question names where to look.
_BUILDS = re.compile(r"\bINDEX\b.*\bCONCURRENTLY\b", re.IGNORECASE | re.DOTALL)


def _half_done(record: StepRecord) -> str:
    if not _BUILDS.search(record.step.sql.text):
        return ""
    return " It may have left an INVALID index behind: jobplan doctor shows those, and how to repair them."


def mark_option(text: str) -> str:
    """Write --mark for a shell; quoted whatever is in it, because the keys of instances have brackets."""
    quoted = shlex.quote(text)
    return f"--mark {quoted}" if quoted != text else f"--mark '{text}'"


def _mark(record: StepRecord, outcome: str) -> str:
    return mark_option(f"{record.key}={outcome}")
