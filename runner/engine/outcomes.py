"""Decides what the end of a worker means: its outcome, its `expect`, and the next state of its step.

Pure, like the scheduler that calls it. An outcome is never guessed. Conditions in SQL are evaluated elsewhere; only
their verdict is used here. A step whose attempt has ended gets another attempt, another iteration, or its final state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.batches import carries, has_more
from runner.engine.events import WARNING, AttemptFinished, CancelReason, ErrorDetails, Notice, Outcome
from runner.engine.for_each_items import names
from runner.engine.ports import WorkerEnd
from runner.engine.state import BAD, RunState, StepRecord, StepState
from runner.engine.window import closed_words, skip_left_over
from runner.phrases import counted, few
from runner.plan.model import Expect, Step, Value
from runner.plan.sqlstates import QUERY_CANCELED, STOPPED
from runner.sql.text_traits import TextTraits, nature_of
from runner.structs import replace

#: Seconds by which the server's timer may fire early by its own clock.
_TIMER_SLACK = 0.005
#: The server's functions that warn when VACUUM, ANALYZE, REINDEX or CLUSTER skips an object: the role may not process
#: it, the lock is not available, it was dropped, or its kind is not supported. Their names are the same in every
#: language. From PostgreSQL 14 to 18, commands/vacuum.c, analyze.c, cluster.c, indexcmds.c and catalog/index.c.
_SKIPS = frozenset(
    {
        *("vacuum_is_permitted_for_relation", "vacuum_is_relation_owner", "vacuum_open_relation"),
        *("expand_vacuum_rel", "get_all_vacuum_rels", "vacuum_rel", "analyze_rel"),
        *("cluster_is_permitted_for_relation", "get_tables_to_cluster", "cluster_multiple_rels", "cluster_rel"),
        *("ReindexMultipleTables", "ReindexMultipleInternal", "ReindexPartitions", "ReindexRelationConcurrently"),
        *("reindex_relation", "reindex_index"),
    }
)
#: The hint: what to write into the plan if skipped objects are acceptable.
_MAY_SKIP = "If the step may skip objects, write `expect: {warnings: {max: N}}` or `allow_failure`."
_SYSTEM_CATALOGS = "ReindexMultipleTables"
#: An index that a previous attempt left INVALID: REINDEX skips it, and it is reported as left behind.
_UNFINISHED_COPY = re.compile(r"_cc(?:new|old)\d*\b")


def skipped(notices: Iterable[Notice], nature: TextTraits) -> ErrorDetails | None:
    """Return the WARNING by which a maintenance command reports that it skipped an object; None without one.

    Before PostgreSQL 16, REINDEX DATABASE CONCURRENTLY always skips the system catalogs: that is no failure.
    """
    for notice in notices:
        if notice.severity != WARNING or notice.routine not in _SKIPS:
            continue
        if nature.whole_database and notice.routine == _SYSTEM_CATALOGS:
            continue
        if not _UNFINISHED_COPY.search(notice.message):
            return ErrorDetails(
                message=notice.message, sqlstate=notice.sqlstate, detail=notice.detail, hint=notice.hint or _MAY_SKIP
            )
    return None


def classify(
    end: WorkerEnd, *, timeout: float | None, cancelled: CancelReason | None
) -> tuple[Outcome, ErrorDetails | None]:
    """Return the outcome of an attempt, and its error.

    `timeout` is the limit that the server enforced, in seconds; `cancelled` is why jobplan requested the worker to
    stop, if it did. SQLSTATE 57014 means a timeout or a cancel, and only jobplan's own record distinguishes them
    (docs/pg_background.md#timeouts-are-armed-at-launch).
    """
    if end.detached:
        return Outcome.DETACHED, None
    if end.confirmed:
        return Outcome.SUCCEEDED, None
    if end.rolled_back:
        why = f": {end.reason}" if end.reason else ""
        error = ErrorDetails(message=f"the worker ended without a commit, so its transaction was rolled back{why}")
        return _did_nothing(end, cancelled), error
    if end.lost:
        why = f": {end.reason}" if end.reason else ""
        what = "may still be running" if end.unobserved else "has ended, and its outcome is unknown"
        return Outcome.UNKNOWN, ErrorDetails(message=f"the worker {what}{why}")
    if end.error is not None:
        return _of_error(end, end.error, timeout=timeout, cancelled=cancelled), end.error
    return _without_evidence(end, cancelled=cancelled)


def _of_error(end: WorkerEnd, error: ErrorDetails, *, timeout: float | None, cancelled: CancelReason | None) -> Outcome:
    if error.sqlstate not in STOPPED:
        return Outcome.FAILED
    if cancelled is not None:
        return _stopped_by_us(cancelled)
    ran_out = error.sqlstate == QUERY_CANCELED and _ran_out(end, timeout)
    return Outcome.TIMED_OUT if ran_out else Outcome.CANCELLED


def _did_nothing(end: WorkerEnd, cancelled: CancelReason | None) -> Outcome:
    """Return the outcome of a worker that certainly did not do its work and reported no error."""
    if cancelled is not None:
        return _stopped_by_us(cancelled)
    return Outcome.FAILED if end.cancelled_by is None else Outcome.CANCELLED


def has_yielded(end: WorkerEnd, cancelled: CancelReason | None) -> bool:
    """Return whether the worker did nothing because it was cancelled for blocking other sessions.

    That is not so if its commit was faster, if it failed by itself, or if its outcome is unknown.
    """
    if cancelled is not CancelReason.YIELDED or end.detached or end.confirmed or end.lost:
        return False
    if end.error is not None:
        return end.error.sqlstate in STOPPED
    return end.rolled_back or end.started_at is None


def _stopped_by_us(cancelled: CancelReason) -> Outcome:
    if cancelled is CancelReason.YIELDED:
        return Outcome.FAILED
    by_clock = cancelled in (CancelReason.TIMEOUT, CancelReason.RUN_TIMEOUT)
    return Outcome.TIMED_OUT if by_clock else Outcome.CANCELLED


def _ran_out(end: WorkerEnd, timeout: float | None) -> bool:
    if timeout is None or end.started_at is None or end.finished_at is None:
        return False
    return end.finished_at - end.started_at >= timeout - _TIMER_SLACK


def _without_evidence(end: WorkerEnd, *, cancelled: CancelReason | None) -> tuple[Outcome, ErrorDetails]:
    """Return the outcome of a worker that ended although the extension reports no error: that is no success.

    See docs/pg_background.md#completed-is-not-success.
    """
    if end.started_at is None:
        error = ErrorDetails(message="the worker ended before it executed its SQL")
        return _did_nothing(end, cancelled), error
    return Outcome.UNKNOWN, ErrorDetails(
        message="the worker ended without an error message; a setting such as transaction_timeout may have stopped it"
    )


def rows_wanted(step: Step) -> int:
    """Return the number of result rows that the plan needs to read; the row count is known without reading any."""
    wants_value = step.expect is not None and step.expect.has_value
    return max(step.capture_rows, 2 if wants_value else 0, 1 if carries(step) else 0)


def unmet_expectation(step: Step, last: AttemptFinished) -> str | None:
    """Return how the result differs from `expect`; None if it does not.

    Captured rows that cannot be read are no failure: the work is done, and the record says why they are missing.
    """
    expect = step.expect
    if expect is None:
        return None
    if not last.command_tag and last.row_count is None and last.result is None:
        wants_rows = expect.has_value or expect.rows_min is not None or expect.rows_max is not None
        lost = "it has committed, but its result was lost with its session"
        return lost if wants_rows or expect.judges_warnings else None
    return (
        _outside(expect.warnings_min, expect.warnings_max, last.warnings or 0, "warning")
        or _outside(expect.rows_min, expect.rows_max, last.row_count or 0, "row")
        or (_wrong_value(expect, last) if expect.has_value else None)
    )


def _outside(least: int | None, most: int | None, got: int, thing: str) -> str | None:
    if (least is None or got >= least) and (most is None or got <= most):
        return None
    if least is None or most is None:
        wanted = f"at most {counted(most or 0, thing)}" if least is None else f"at least {counted(least, thing)}"
    else:
        wanted = counted(most, thing) if least == most else f"{least:,} to {counted(most, thing)}"
    return f"expected {wanted}, got {got:,}"


def _wrong_value(expect: Expect, last: AttemptFinished) -> str | None:
    result = last.result
    if result is not None and result.problem is not None:
        return f"its rows cannot be read: {result.problem}"
    rows = result.rows if result is not None else ()
    columns = len(result.columns) if result is not None else 0
    if len(rows) != 1 or columns != 1:
        return f"expected one value, got {counted(last.row_count or 0, 'row')} of {counted(columns, 'column')}"
    (got,) = rows[0]
    if same_value(expect.value, got):
        return None
    wanted, found = _shown(expect.value), "NULL" if got is None else got
    return f"expected {wanted}, got {'the text ' if found == wanted else ''}{found}"


def same_value(wanted: Value | None, got: str | None) -> bool:
    """Compare a YAML value with PostgreSQL's text of a value: numbers by value, booleans as t and f, else as text."""
    if wanted is None or got is None:
        return wanted is None and got is None
    if isinstance(wanted, bool):
        return got == ("t" if wanted else "f")
    if isinstance(wanted, str):
        return wanted == got
    try:
        number, other = Decimal(str(wanted)), Decimal(got)
        # PostgreSQL's NaN equals itself.
        return number == other or (number.is_nan() and other.is_nan())
    except InvalidOperation:
        return False


def _shown(value: Value | None) -> str:
    if value is None:
        return "NULL"
    return str(value).lower() if isinstance(value, bool) else str(value)


#: Seconds before a step of unknown outcome runs again, and the limit of its attempts without a `retry` of its own.
UNKNOWN_DELAY = 1.0
UNKNOWN_ATTEMPTS = 3


def settle(state: RunState, record: StepRecord, now: float) -> ev.StepEvent | None:
    """Return the event that follows from the end of an attempt or of all instances; None if conditions come first."""
    if record.instances is not None:
        return _of_instances(state, record, now)
    if record.queue_timed_out or record.held_out is not None:
        return _waited_too_long(state, record, now)
    last = record.last
    if record.gate is not None or last is None:
        return _not_launched(state, record, now)
    outcome = _outcome(record, last)
    if outcome is ev.Outcome.UNKNOWN and record.step.verify is not None:
        return _settle_unknown(state, record, last, now)
    if outcome is not ev.Outcome.SUCCEEDED:
        return _retry_or_end(state, record, last, now)
    return _after_success(state, record, last, now)


def _waited_too_long(state: RunState, record: StepRecord, now: float) -> ev.StepFinished:
    """Return the failure of a step that found no slot, or that a hold has kept from starting, for too long."""
    hold = record.held_out
    if hold is None:
        return _failed(record, f"no slot within its queue_timeout of {record.step.queue_timeout:g} s", now)
    began = state.holds.get(hold)
    limit = next((one.at_most for one in state.plan.holds if one.name == hold), None)
    message = f"held by `{hold}`"
    if began is None or not began.server_lost:
        message += f" for its at_most{'' if limit is None else f' of {format_duration(limit)}'}"
    message += "" if began is None else f": {began.value}"
    return _finished(record, StepState.FAILED, ErrorDetails(message=message), now, reason=ev.FailureReason.HELD)


def final_event(record: StepRecord, last: ev.AttemptFinished, now: float, *, detail: str = "") -> ev.StepFinished:
    """Return the final event of a step without a further attempt; `detail` adds why, if its error does not say it."""
    if last.outcome is ev.Outcome.UNKNOWN and record.verdict is ev.Verdict.FAIL and not _may_still_run(record):
        return _check_failed(record, now)
    final = StepState(_outcome(record, last).value)
    if final is StepState.SUCCEEDED:
        done = record.iteration if record.tries else record.iteration - 1
        limit = "" if carries(record.step) else f" of at most {_iterations(record)}"
        message = f"stopped after {done}{limit} iterations"
        return ev.StepFinished(
            at=now, step=record.key, state=StepState.CANCELLED, error=ev.ErrorDetails(message=message)
        )
    error = _error(record, last)
    if detail:
        error = replace(error or ev.ErrorDetails(message=f"the attempt is {final}"), detail=detail)
    return _finished(record, final, error, now, reason=last.reason)


def cancelled_before_start(record: StepRecord, now: float) -> ev.StepFinished:
    """Return the final event of a step that a user cancelled while it had no worker."""
    before = "it started" if record.last is None else f"attempt {record.attempt + 1}"
    failure = record.last.error if record.last is not None else None
    after = f" (attempt {record.attempt}: {failure.message})" if failure is not None else ""
    error = ev.ErrorDetails(message=f"{record.cancelled_by} cancelled the step before {before}{after}")
    return _finished(record, StepState.CANCELLED, error, now)


def _error(record: StepRecord, last: ev.AttemptFinished) -> ev.ErrorDetails | None:
    """Return the attempt's error; that `verify` could not decide its outcome is added as detail."""
    if last.outcome is not ev.Outcome.UNKNOWN or record.check_error is None:
        return last.error
    error = last.error or ev.ErrorDetails(message="there is no evidence of what the worker did")
    return replace(error, detail=error.detail or record.check_error.message)


def _after_success(state: RunState, record: StepRecord, last: ev.AttemptFinished, now: float) -> ev.StepEvent | None:
    """Compare the committed work with the plan's expectations. If they are not met, no attempt follows."""
    problem = last.skipped or last.uncarried or unmet_expectation(record.step, last)
    if problem is not None:
        error = ev.ErrorDetails(message=problem) if isinstance(problem, str) else problem
        return _finished(record, StepState.FAILED, error, now, committed=_has_committed(record))
    repeat = record.step.repeat
    if repeat is not None and repeat.until_sql is None and has_more(record.step, last):
        return _repeat(state, record, last, now)
    if record.verdict is None and _has_conditions_after(record):
        return None
    if record.verdict is ev.Verdict.AGAIN:
        return _repeat(state, record, last, now)
    if record.verdict in (ev.Verdict.FAIL, ev.Verdict.ERROR):
        return _check_failed(record, now, committed=_has_committed(record))
    return _finished(record, StepState.SUCCEEDED, None, now)


def _has_committed(record: StepRecord) -> bool:
    """Return whether the worker, which succeeded, committed changes: read-only SQL has none."""
    return not nature_of(record.step.sql.text).only_reads


def _not_launched(state: RunState, record: StepRecord, now: float) -> ev.StepEvent:
    """Return the event of a step that its conditions kept from a launch, or whose items could not be queried.

    A false `if` skips the step. Before a later iteration it ends the loop, whose work so far is a success; before a
    retry the step keeps the failure of its last attempt. An unmet precondition is a failure of the step, and is retried
    as `retry` says.
    """
    if record.gate is None:
        return _check_failed(record, now)
    if record.gate is not ev.Verdict.SKIP:
        return _retry_gate(state, record, now)
    if record.tries and record.last is not None:
        return final_event(record, record.last, now, detail="not retried: if is false")
    if record.iteration > 1 or record.iterations:
        because = f"if is false: stopped after {record.iterations or record.iteration - 1} iterations"
        return _finished(record, StepState.SUCCEEDED, None, now, because=because)
    return ev.StepSkipped(at=now, step=record.key, reason=ev.SkipReason.CONDITION, because="if is false")


def _retry_gate(state: RunState, record: StepRecord, now: float) -> ev.StepEvent:
    retry = record.step.retry
    sqlstate = record.gate_error.sqlstate if record.gate_error is not None else None
    wanted = not retry.on or sqlstate in retry.on
    if not wanted or state.stopping or record.cancelled_by is not None or _used_up(record):
        return _finished(record, StepState.FAILED, record.gate_error, now)
    if state.is_left_over(record):
        return skip_left_over(state, record, now)
    until = now + retry.delay_before(record.tries + record.refused + 1)
    return ev.StepRetrying(
        at=now, step=record.key, next_attempt=record.attempt + 1, until=until, error=record.gate_error
    )


def _used_up(record: StepRecord) -> bool:
    """Return whether the iteration has no attempt left; a launch that a precondition prevented counts as one."""
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
        return final_event(record, last, now)
    if state.is_left_over(record):
        return skip_left_over(state, record, now)
    return ev.StepRepeating(at=now, step=record.key, next_iteration=record.iteration + 1, until=now + repeat.pause)


def _iterations(record: StepRecord) -> int:
    return record.step.repeat.max_iterations if record.step.repeat is not None else 1


def _settle_unknown(state: RunState, record: StepRecord, last: ev.AttemptFinished, now: float) -> ev.StepEvent | None:
    """Settle an unknown outcome by `verify`. If it cannot, the outcome stays unknown; an idempotent step runs again."""
    if record.verdict is None:
        return None
    if record.verdict is ev.Verdict.PROCEED:
        return _finished(record, StepState.SUCCEEDED, None, now)
    # A false `verify` is about the whole step: it does not say whether one batch has committed.
    if (_may_still_run(record) or carries(record.step)) and not record.step.idempotent:
        return _finished(record, StepState.UNKNOWN, _error(record, last), now)
    return _retry_or_end(state, record, last, now)


def _may_still_run(record: StepRecord) -> bool:
    """Return whether the worker was never seen, or its end was not observed.

    Then a false `verify` does not mean that the worker did nothing.
    """
    unobserved = record.last is not None and record.last.unobserved
    return unobserved or (record.worker is None and record.lost)


def _retry_or_end(state: RunState, record: StepRecord, last: ev.AttemptFinished, now: float) -> ev.StepEvent:
    by_us = record.cancel_reason not in (None, ev.CancelReason.TIMEOUT, ev.CancelReason.YIELDED)
    asked_to_stop = by_us or record.cancelled_by is not None or last.cancelled_by is not None
    ending = state.stopping or asked_to_stop
    if not ending and _is_to_be_split(record, last):
        return ev.StepSplit(at=now, step=record.key, items=record.chunk, until=now + _delay(record, last))
    delay = None if ending else _retry_delay(record, last)
    if delay is None:
        closed = record.cancel_reason is ev.CancelReason.WINDOW and last.outcome is Outcome.CANCELLED
        return final_event(record, last, now, detail=closed_words(state) if closed else "")
    if state.is_left_over(record):
        return skip_left_over(state, record, now)
    return ev.StepRetrying(at=now, step=record.key, next_attempt=record.attempt + 1, until=now + delay)


def _is_to_be_split(record: StepRecord, last: ev.AttemptFinished) -> bool:
    """Return whether the items of a failed chunk follow one by one: whatever `retry.on` says, one may be the cause."""
    if len(record.chunk) < 2:
        return False
    outcome = _outcome(record, last)
    if outcome is ev.Outcome.UNKNOWN:
        return record.may_run_again and not _may_still_run(record)
    failed = outcome in (ev.Outcome.FAILED, ev.Outcome.TIMED_OUT)
    return failed and (record.step.retry.max_attempts > 1 or record.may_run_again)


def _delay(record: StepRecord, last: ev.AttemptFinished) -> float:
    """Return the seconds before the attempt after this one."""
    least = UNKNOWN_DELAY if last.outcome is ev.Outcome.UNKNOWN else 0.0
    return max(least, record.step.retry.delay_before(record.tries + record.refused + 1))


def _retry_delay(record: StepRecord, last: ev.AttemptFinished) -> float | None:
    """Return the seconds before the next attempt; None if there is none."""
    retry = record.step.retry
    if last.outcome is ev.Outcome.UNKNOWN:
        if last.unobserved:  # another attempt could only run beside it
            return None
        most = max(retry.max_attempts, UNKNOWN_ATTEMPTS)
        again = record.step.idempotent and record.tries + record.refused < most
        return _delay(record, last) if again else None
    if _used_up(record):
        return None
    outcome = _outcome(record, last)
    if last.reason is ev.FailureReason.YIELDED:
        wanted = last.reason in retry.on
    elif outcome is ev.Outcome.TIMED_OUT:
        wanted = not retry.on or "timeout" in retry.on
    else:
        sqlstate = last.error.sqlstate if last.error else None
        wanted = outcome is ev.Outcome.FAILED and (not retry.on or sqlstate in retry.on)
    return _delay(record, last) if wanted else None


def _outcome(record: StepRecord, last: ev.AttemptFinished) -> ev.Outcome:
    """Return the outcome of the attempt; a cancel by the runner's own timeout (`GRACE`) counts as a timeout."""
    overdue = record.cancel_reason is ev.CancelReason.TIMEOUT and last.outcome is ev.Outcome.CANCELLED
    return ev.Outcome.TIMED_OUT if overdue else last.outcome


def _of_instances(state: RunState, record: StepRecord, now: float) -> ev.StepEvent:
    """Settle a step by the worst outcome of its instances; without instances it had nothing to do."""
    instances = [state.records[key] for key in record.instances or ()]
    states = {one.state for one in instances}
    if states == {StepState.SKIPPED} and all(one.skip_reason is ev.SkipReason.NOT_SELECTED for one in instances):
        return ev.StepSkipped(at=now, step=record.key, reason=ev.SkipReason.NOT_SELECTED)
    if not states & BAD and (reason := _left_out(instances)) is not None:
        return ev.StepSkipped(at=now, step=record.key, reason=reason, because="not all of its instances were run")
    final = next((bad for bad in _WORST_FIRST if bad in states), StepState.SUCCEEDED)
    return ev.StepFinished(at=now, step=record.key, state=final, error=_bad_items(state, record))


def _bad_items(state: RunState, record: StepRecord) -> ev.ErrorDetails | None:
    """Name the items of a chunk that did not succeed."""
    if not record.chunk:
        return None
    bad = [item for item in record.chunk if item.key in state.records and state.records[item.key].state in BAD]
    if not bad:
        return None
    shown = few(list(names(bad)), _NAMED)
    return ev.ErrorDetails(message=f"{len(bad)} of its {len(record.chunk)} items did not succeed: {shown}")


#: How many items of a chunk a message names.
_NAMED = 10
_WORST_FIRST = (
    StepState.UNKNOWN,
    StepState.FAILED,
    StepState.TIMED_OUT,
    StepState.CANCELLED,
    StepState.FAILED_ALLOWED,
    StepState.DETACHED,
)


def _left_out(instances: Iterable[StepRecord]) -> ev.SkipReason | None:
    """Return why some of these instances were not run; None if all of them were."""
    reasons = {record.skip_reason for record in instances}
    return next((reason for reason in (ev.SkipReason.DRAINED, ev.SkipReason.WINDOW) if reason in reasons), None)


def _check_failed(record: StepRecord, now: float, *, committed: bool = False) -> ev.StepFinished:
    return _finished(record, StepState.FAILED, record.check_error, now, committed=committed)


def _failed(record: StepRecord, message: str, now: float) -> ev.StepFinished:
    return _finished(record, StepState.FAILED, ev.ErrorDetails(message=message), now)


#: States that say that a step's workers have ended without an effect.
_WITHOUT_EFFECT = frozenset({StepState.FAILED, StepState.TIMED_OUT, StepState.CANCELLED})


def _with_unseen(attempt: int, error: ErrorDetails | None) -> ErrorDetails:
    """Return the error of a later attempt; it says that the worker of `attempt` may still begin."""
    message = f"the worker of attempt {attempt} was never seen and may still begin"
    return ErrorDetails(message=message) if error is None else replace(error, message=f"{error.message}; {message}")


def _finished(
    record: StepRecord,
    final: StepState,
    error: ev.ErrorDetails | None,
    now: float,
    *,
    because: str | None = None,
    committed: bool = False,
    reason: ev.FailureReason | None = None,
) -> ev.StepFinished:
    if record.unseen is not None and not committed and final in _WITHOUT_EFFECT:
        final, error = StepState.UNKNOWN, _with_unseen(record.unseen, error)
    allow = record.step.allow_failure
    allowed = allow is not None and allow.allows(error.sqlstate if error else None)
    if allowed and final in (StepState.FAILED, StepState.TIMED_OUT):
        final = StepState.FAILED_ALLOWED
    return ev.StepFinished(
        at=now,
        step=record.key,
        state=final,
        error=error,
        because=because,
        reason=reason,
        committed=committed or None,
    )
