"""What the end of an attempt means for its step: another attempt, another iteration, or its last state.

Pure, like the scheduler that asks it. Conditions in SQL are evaluated elsewhere; here only their verdict counts.
"""

from __future__ import annotations

from dataclasses import replace

from runner.engine import events as ev
from runner.engine.expectations import unmet_expectation
from runner.engine.state import BAD, RunState, StepRecord, StepState
from runner.sql.nature import nature_of

#: Seconds before a step of unknown outcome runs again, and how often that may happen without a `retry` of its own.
UNKNOWN_DELAY = 1.0
UNKNOWN_ATTEMPTS = 3


def settle(state: RunState, record: StepRecord, now: float) -> ev.StepEvent | None:
    """Return what follows from the end of an attempt, or of all instances; None if conditions come first."""
    if record.instances is not None:
        return _of_instances(state, record, now)
    if record.queue_timed_out:
        return _failed(record, f"no slot within its queue_timeout of {record.step.queue_timeout:g} s", now)
    last = record.last
    if record.gate is not None or last is None:
        return _not_launched(state, record, now)
    outcome = _outcome(record, last)
    if outcome is ev.Outcome.UNKNOWN and record.step.verify is not None:
        return _settle_unknown(state, record, last, now)
    if outcome is not ev.Outcome.SUCCEEDED:
        return _retry_or_end(state, record, last, now)
    return _after_success(state, record, last, now)


def last_word(record: StepRecord, last: ev.AttemptFinished, now: float, *, detail: str = "") -> ev.StepFinished:
    """Return the last state of a step that has no further attempt; `detail` says why, if its error does not."""
    if last.outcome is ev.Outcome.UNKNOWN and record.verdict is ev.Verdict.FAIL and not may_still_begin(record):
        return _check_failed(record, now)
    final = StepState(_outcome(record, last).value)
    if final is StepState.SUCCEEDED:
        done = record.iteration if record.tries else record.iteration - 1
        message = f"stopped after {done} of at most {_iterations(record)} iterations"
        return ev.StepFinished(
            at=now, step=record.key, state=StepState.CANCELLED, error=ev.ErrorDetails(message=message)
        )
    error = _error(record, last)
    if detail:
        error = replace(error or ev.ErrorDetails(message=f"the attempt is {final}"), detail=detail)
    return _finished(record, final, error, now)


def not_begun(record: StepRecord, now: float) -> ev.StepFinished:
    """Return the last state of a step that somebody has asked to stop while it had no worker."""
    before = "it was begun" if record.last is None else f"attempt {record.attempt + 1}"
    failure = record.last.error if record.last is not None else None
    after = f", which was to come after: {failure.message}" if failure is not None else ""
    error = ev.ErrorDetails(message=f"{record.cancelled_by} asked for its end before {before}{after}")
    return ev.StepFinished(at=now, step=record.key, state=StepState.CANCELLED, error=error)


def _error(record: StepRecord, last: ev.AttemptFinished) -> ev.ErrorDetails | None:
    """Return the attempt's error; that `verify` could not settle it is a detail of it."""
    if last.outcome is not ev.Outcome.UNKNOWN or record.check_error is None:
        return last.error
    error = last.error or ev.ErrorDetails(message="nothing proves what the worker did")
    return replace(error, detail=error.detail or record.check_error.message)


def _after_success(state: RunState, record: StepRecord, last: ev.AttemptFinished, now: float) -> ev.StepEvent | None:
    """The work is committed; see whether it is what the plan wants. No attempt follows if it is not."""
    problem = last.skipped or unmet_expectation(record.step, last)
    if problem is not None:
        error = ev.ErrorDetails(message=problem) if isinstance(problem, str) else problem
        return _finished(record, StepState.FAILED, error, now, committed=_has_committed(record))
    repeat = record.step.repeat
    if repeat is not None and repeat.until_sql is None and last.row_count != 0:
        return _repeat(state, record, last, now)
    if record.verdict is None and _has_conditions_after(record):
        return None
    if record.verdict is ev.Verdict.AGAIN:
        return _repeat(state, record, last, now)
    if record.verdict in (ev.Verdict.FAIL, ev.Verdict.ERROR):
        return _check_failed(record, now, committed=_has_committed(record))
    return _finished(record, StepState.SUCCEEDED, None, now)


def _has_committed(record: StepRecord) -> bool:
    """Say whether the worker, which succeeded, has committed anything: a text that only reads has not."""
    return not nature_of(record.step.sql.text).only_reads


def _not_launched(state: RunState, record: StepRecord, now: float) -> ev.StepEvent:
    """Conditions stood in the way of a launch, whose slots are free again, or there are no items to be had.

    A false `if` skips the step. Before a later iteration it ends the loop, whose work so far is a success; before a
    further attempt the failure that asked for it stays the step's last word. An unmet precondition is a failure of the
    step, and is tried again as `retry` says.
    """
    if record.gate is None:
        return _check_failed(record, now)
    if record.gate is not ev.Verdict.SKIP:
        return _retry_gate(state, record, now)
    if record.tries and record.last is not None:
        return last_word(record, record.last, now, detail="not tried again: if is false")
    if record.iteration > 1:
        because = f"if is false: stopped after {record.iteration - 1} iterations"
        return _finished(record, StepState.SUCCEEDED, None, now, because=because)
    return ev.StepSkipped(at=now, step=record.key, reason=ev.SkipReason.CONDITION, because="if is false")


def _retry_gate(state: RunState, record: StepRecord, now: float) -> ev.StepEvent:
    retry = record.step.retry
    sqlstate = record.gate_error.sqlstate if record.gate_error is not None else None
    wanted = not retry.on or sqlstate in retry.on
    if not wanted or state.stopping or record.cancelled_by is not None or _used_up(record):
        return _finished(record, StepState.FAILED, record.gate_error, now)
    until = now + retry.delay_before(record.tries + record.refused + 1)
    return ev.StepRetrying(
        at=now, step=record.key, next_attempt=record.attempt + 1, until=until, error=record.gate_error
    )


def _used_up(record: StepRecord) -> bool:
    """Say whether the iteration has no further attempt; a launch that a precondition prevented counts as one."""
    return record.tries + record.refused >= record.step.retry.max_attempts


def _has_conditions_after(record: StepRecord) -> bool:
    step = record.step
    until = step.repeat is not None and step.repeat.until_sql is not None
    return until or step.verify is not None or (step.expect is not None and step.expect.sql is not None)


def _repeat(state: RunState, record: StepRecord, last: ev.AttemptFinished, now: float) -> ev.StepEvent:
    repeat = record.step.repeat
    if repeat is None or record.iteration >= repeat.max_iterations:
        return _failed(record, f"not done after max_iterations ({_iterations(record)})", now)
    if state.stopping or record.cancelled_by is not None:
        return last_word(record, last, now)
    return ev.StepRepeating(at=now, step=record.key, next_iteration=record.iteration + 1, until=now + repeat.pause)


def _iterations(record: StepRecord) -> int:
    return record.step.repeat.max_iterations if record.step.repeat is not None else 1


def _settle_unknown(state: RunState, record: StepRecord, last: ev.AttemptFinished, now: float) -> ev.StepEvent | None:
    """`verify` says what the worker did. If it cannot, the outcome stays unknown; an idempotent step runs again."""
    if record.verdict is None:
        return None
    if record.verdict is ev.Verdict.PROCEED:
        return _finished(record, StepState.SUCCEEDED, None, now)
    if may_still_begin(record) and not record.step.idempotent:
        return _finished(record, StepState.UNKNOWN, _error(record, last), now)
    return _retry_or_end(state, record, last, now)


def may_still_begin(record: StepRecord) -> bool:
    """Say whether the worker was never seen: then a `verify` that is false does not mean that it has done nothing."""
    return record.worker is None and record.lost


def _retry_or_end(state: RunState, record: StepRecord, last: ev.AttemptFinished, now: float) -> ev.StepEvent:
    by_us = record.cancel_reason not in (None, ev.CancelReason.TIMEOUT)
    asked_to_stop = by_us or record.cancelled_by is not None or last.cancelled_by is not None
    delay = None if state.stopping or asked_to_stop else _retry_delay(record, last)
    if delay is None:
        return last_word(record, last, now)
    return ev.StepRetrying(at=now, step=record.key, next_attempt=record.attempt + 1, until=now + delay)


def _retry_delay(record: StepRecord, last: ev.AttemptFinished) -> float | None:
    """Return the seconds before the next attempt, or None if there is none."""
    retry = record.step.retry
    if last.outcome is ev.Outcome.UNKNOWN:
        again = record.step.idempotent and record.tries < max(retry.max_attempts, UNKNOWN_ATTEMPTS)
        return max(UNKNOWN_DELAY, retry.delay_before(record.tries + 1)) if again else None
    if _used_up(record):
        return None
    outcome = _outcome(record, last)
    if outcome is ev.Outcome.TIMED_OUT:
        wanted = not retry.on or "timeout" in retry.on
    else:
        sqlstate = last.error.sqlstate if last.error else None
        wanted = outcome is ev.Outcome.FAILED and (not retry.on or sqlstate in retry.on)
    return retry.delay_before(record.tries + record.refused + 1) if wanted else None


def _outcome(record: StepRecord, last: ev.AttemptFinished) -> ev.Outcome:
    """Return how the attempt ended; a cancel by the second line is a timeout, and nothing else."""
    overdue = record.cancel_reason is ev.CancelReason.TIMEOUT and last.outcome is ev.Outcome.CANCELLED
    return ev.Outcome.TIMED_OUT if overdue else last.outcome


def _of_instances(state: RunState, record: StepRecord, now: float) -> ev.StepEvent:
    """A step with instances is as good as the worst of them; without any it had nothing to do."""
    states = {state.records[key].state for key in record.instances or ()}
    if not states & BAD and any(_was_drained(state.records[key]) for key in record.instances or ()):
        return ev.StepSkipped(
            at=now, step=record.key, reason=ev.SkipReason.DRAINED, because="not all of its instances were run"
        )
    final = next((bad for bad in _WORST_FIRST if bad in states), StepState.SUCCEEDED)
    return ev.StepFinished(at=now, step=record.key, state=final)


_WORST_FIRST = (
    StepState.UNKNOWN,
    StepState.FAILED,
    StepState.TIMED_OUT,
    StepState.CANCELLED,
    StepState.FAILED_ALLOWED,
    StepState.DETACHED,
)


def _was_drained(record: StepRecord) -> bool:
    return record.skip is not None and record.skip.reason is ev.SkipReason.DRAINED


def _check_failed(record: StepRecord, now: float, *, committed: bool = False) -> ev.StepFinished:
    return _finished(record, StepState.FAILED, record.check_error, now, committed=committed)


def _failed(record: StepRecord, message: str, now: float) -> ev.StepFinished:
    return _finished(record, StepState.FAILED, ev.ErrorDetails(message=message), now)


def _finished(
    record: StepRecord,
    final: StepState,
    error: ev.ErrorDetails | None,
    now: float,
    *,
    because: str | None = None,
    committed: bool = False,
) -> ev.StepFinished:
    allow = record.step.allow_failure
    allowed = allow is not None and allow.allows(error.sqlstate if error else None)
    if allowed and final in (StepState.FAILED, StepState.TIMED_OUT):
        final = StepState.FAILED_ALLOWED
    return ev.StepFinished(
        at=now, step=record.key, state=final, error=error, because=because, committed=committed or None
    )
