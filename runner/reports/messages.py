"""The words for events, results and errors: every form of a report takes them from here.

`event_lines` turns an event into the lines that text, JSON logs, the live terminal and reports print. `waits` has the
words for waits, `run_end` those for the end of a run.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator
from typing import Any

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.batches import batch_values
from runner.engine.events import WARNING, ErrorDetails, Leftover, Notice
from runner.engine.for_each_items import parts_of
from runner.engine.state import RunState, StepRecord, StepState, leaves
from runner.engine.step_sql import place_in_plan
from runner.engine.window import closed_words
from runner.phrases import counted, some
from runner.plan.model import AtEnd
from runner.plan.window import local_words
from runner.reports.plan_problems import excerpt
from runner.reports.run_report import AttemptReport, LockWaitReport, StepReport
from runner.reports.step_counts import fan_out
from runner.reports.waits import blocked_line, blocking_line, hold_line, holder_words, lock_words, unblocked_line
from runner.reports.worker_activity import rest_of_loop
from runner.sql.text_traits import nature_of


class Verbosity(enum.IntEnum):
    """What is printed: only failures and the end of the run; changes of state; or notices and queueing too."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


COMMITTED = "committed, but its check failed"
#: WARNINGs of one attempt that are shown.
SHOWN_WARNINGS = 10
#: Seconds below which no rate is shown.
_SHORTEST_RATE = 1.0
#: Commands whose number of rows is shown.
_COUNTING = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "FETCH", "MOVE"})


def tag_words(tag: str, row_count: int | None) -> str:
    """Format a command tag as psql does: `DELETE 3`, but `VACUUM`."""
    return f"{tag} {row_count}" if row_count is not None and tag in _COUNTING else tag


def sum_words(tag: str, rows: int, iterations: int) -> str:
    """Sum up the iterations of a repeat: `7 iterations, DELETE 57,840 in total`; empty without an iteration."""
    if not iterations:
        return ""
    number = counted(iterations, "iteration")
    if tag not in _COUNTING:
        return f"{number}, {tag}" if tag else number
    return f"{number}, {tag} {rows:,} in total"


def _rate_words(rows: int, seconds: float | None) -> str:
    """Return the rows per second: `41,822 rows/s`; empty without rows, and for less than a tenth of a second."""
    if not rows or seconds is None or seconds < _SHORTEST_RATE:
        return ""
    rate = rows / seconds
    return f"{rate:,.0f} rows/s" if rate >= 10 else f"{rate:.2g} rows/s"


def sum_of(record: StepRecord, now: float | None = None) -> str:
    """Sum up the iterations of a step so far, with the rows per second; empty for a step that does not repeat.

    `now` is the time of a step that still runs.
    """
    words = sum_words(record.tag, record.rows, record.iterations)
    rate = _rate_words(record.rows, _seconds_of(record, now))
    return f"{words}, {rate}" if words and rate else words


def _seconds_of(record: StepRecord, now: float | None) -> float | None:
    """Return the seconds of a step, over all runners; until `now` if it still runs."""
    if now is None or record.final or record.started_at is None:
        return record.took
    return record.took_before + max(0.0, now - record.started_at)


def iteration_words(record: StepRecord, now: float) -> str:
    """Return which iteration of a step runs, what the previous ones did, and the values of this one."""
    repeat = record.step.repeat
    if repeat is None:
        return ""
    limit = "" if repeat.carry else f" of at most {repeat.max_iterations}"
    done = f"{record.tag} {record.rows:,}" if record.iterations and record.tag in _COUNTING else ""
    rest = rest_of_loop(record, now) if done else None
    left = ""
    if rest is not None and record.table_rows is not None and record.rows < record.table_rows:
        done, left = f"{done} of about {record.table_rows:,}", f"at most {format_duration(rest)} left"
    values = ", ".join(f"{name} = {value}" for name, value in batch_values(record).items())
    rate = _rate_words(record.rows, _seconds_of(record, now)) if done else ""
    return ", ".join(part for part in (f"iteration {record.iteration}{limit}", left, done, rate, values) if part)


def loop_lines(state: RunState, now: float) -> Iterator[str]:
    """Yield what each step that repeats, and has begun, has done so far."""
    for record in state.records.values():
        if record.iterations and not record.final:
            yield f"{record.key}: {iteration_words(record, now)}"


def failure_words(text: str, *, committed: bool) -> str:
    """Return why a step failed; first, whether its work is committed nevertheless."""
    return f"{COMMITTED}: {text}" if committed else text


def warning_texts(notices: Iterable[Notice]) -> Iterator[str]:
    """Yield the server's WARNINGs among the messages of a worker, each on one line, with detail and hint."""
    for notice in notices:
        if notice.severity == WARNING:
            parts = (notice.message, notice.detail, notice.hint)
            yield " ".join(" ".join(part for part in parts if part).split())


def _removed_lines(removed: Iterable[Leftover]) -> Iterator[str]:
    """Yield what was left behind and was removed."""
    yield from (f"removed: {one.what}" for one in removed)


def leftover_lines(leftovers: Iterable[Leftover]) -> Iterator[str]:
    """Yield what is left behind, and each way to repair it on its own line."""
    for one in leftovers:
        yield f"left behind: {one.what}"
        yield from (f"  {'or ' if number else ''}{repair}" for number, repair in enumerate(one.repair))


def leftovers_data(leftovers: Iterable[Leftover]) -> list[dict[str, Any]]:
    """Return what is left behind as JSON values: `repair` has SQL statements of which one repairs it."""
    return [{"what": one.what, "repair": list(one.repair)} for one in leftovers]


def remains_lines(step: StepReport) -> Iterator[str]:
    """Yield what a step's attempts left behind: what was removed, and what is still there, with its repair."""
    yield from _removed_lines(step.removed)
    yield from leftover_lines(step.leftovers)


def leftover_words(leftovers: Iterable[Leftover], *, repair: bool = True) -> str:
    """Return on one line what is left behind, and the first way to repair each."""
    return "; ".join(f"{one.what} ({one.repair[0]})" if repair and one.repair else one.what for one in leftovers)


#: Characters that XML 1.0 does not allow, not even escaped. Source: https://www.w3.org/TR/xml/#charsets
_NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def xml_text(text: str) -> str:
    """Replace the characters that XML cannot contain."""
    return _NOT_IN_XML.sub("\ufffd", text)


def state_words(step: StepReport) -> str:
    """Return the step's state in words, with the reason if it was skipped."""
    words = step.state.replace("_", " ")
    if step.committed:
        return f"{words} ({COMMITTED})"
    return f"{words} ({skip_words(step)})" if step.state is StepState.SKIPPED else words


def skip_words(step: StepReport) -> str:
    """Return why the step was skipped."""
    reason = step.skip_reason.replace("_", " ") if step.skip_reason else ""
    return f"{reason}: {step.because}" if step.because else reason


def lock_wait_words(wait: LockWaitReport) -> str:
    """Return for which lock a worker waited, how long, and which sessions held it."""
    holder = holder_words(wait.by)
    lock = lock_words(wait.mode, wait.lock, wait.relation)
    return f"waited {format_duration(wait.seconds)} for {lock}{f', held by {holder}' if holder else ''}"


def result_words(attempt: AttemptReport) -> str:
    """Return what the attempt did."""
    return tag_words(attempt.command_tag, attempt.row_count)


def step_result_words(step: StepReport) -> str:
    """Return what the step did: its last attempt, or all of its iterations."""
    if step.iterations:
        words = sum_words(step.tag, step.rows, step.iterations)
        rate = _rate_words(step.rows, step.seconds)
        return f"{words}, {rate}" if rate else words
    return result_words(step.attempts[-1]) if step.attempts else ""


def error_fields(error: ErrorDetails) -> tuple[tuple[str, str], ...]:
    """Return the parts of an error under the names that psql gives them, without those that are empty."""
    parts = (
        ("SQLSTATE", error.sqlstate),
        ("DETAIL", error.detail),
        ("HINT", error.hint),
        ("CONTEXT", error.context),
        ("SCHEMA NAME", error.schema),
        ("TABLE NAME", error.table),
        ("COLUMN NAME", error.column),
        ("CONSTRAINT NAME", error.constraint),
    )
    return tuple((name, text) for name, text in parts if text)


def error_block(error: ErrorDetails, sql: str) -> str:
    """Format an error on several lines: the message, the line of the SQL that it refers to, and the other fields."""
    fields = (f"{name}: {text}" for name, text in error_fields(error))
    return "\n".join([error.message, *excerpt(error, sql), *fields])


def event_lines(event: ev.Event, state: RunState, verbosity: Verbosity, run_id: str) -> Iterator[str]:
    """Yield the lines for an event, without the time; `state` is the state after it."""
    if verbosity >= Verbosity.NORMAL:
        yield from _progress(event, state, run_id)
    elif isinstance(event, ev.StepFinished) and event.state in _ALARMING:
        yield from _finished_lines(event, state, run_id)
    if verbosity >= Verbosity.VERBOSE:
        yield from _detail(event, state)


_ALARMING = frozenset({StepState.FAILED, StepState.TIMED_OUT, StepState.CANCELLED, StepState.UNKNOWN})
#: What happens to running steps when a run ends early without a cancel.
_BY_ON_RUNNER_EXIT = "no further steps start; running steps end as on_runner_exit specifies"
_CANCELLED = "no further steps start; running steps are cancelled"


def _progress(event: ev.Event, state: RunState, run_id: str) -> Iterator[str]:
    if isinstance(event, ev.AttemptBlocking):
        yield blocking_line(event)
        return
    if isinstance(event, ev.StepEvent):
        yield from _step_progress(event, state, run_id)
        return
    match event:
        case ev.RunStarted():
            yield (
                f"run {run_id} of {event.plan}: {counted(event.steps, 'step')}, {counted(event.slots, 'slot')}, on "
                f"{event.database} (PostgreSQL {event.server.partition(' ')[0]}, pg_background {event.extension})"
            )
        case ev.RunResumed():
            yield f"run {run_id} resumed: {_resumed(event, state)}"
            yield from (f"{found.step}: {_settled(found, state.records.get(found.step))}" for found in event.settled)
            yield from (f"ignored: {one}" for one in event.foreign)
        case ev.GroupWaiting():
            yield f"waiting: {event.message}"
        case ev.LedgerLost():
            yield f"{event.message}; the run continues"
        case ev.WindowWaiting() | ev.WindowOpened() | ev.WindowClosed():
            yield from _window(event, state)
        case ev.CapacityShort():
            yield f"fewer workers than planned: {event.message}"
        case ev.CapacityRestored():
            yield "the server starts all workers of the budget again"
        case ev.HoldBegan() | ev.HoldEnded():
            yield hold_line(event)
        case _:
            yield from _stopping(event, state)


def _window(event: ev.WindowWaiting | ev.WindowOpened | ev.WindowClosed, state: RunState) -> Iterator[str]:
    """Yield that the plan's window has opened or closed, unless a changed plan has none any more."""
    window = state.plan.window
    if window is None or state.window is None:
        return
    if isinstance(event, ev.WindowClosed):
        running = "running steps are cancelled" if window.at_end is AtEnd.CANCEL else "running steps may end"
        yield f"{closed_words(state)}: no further steps start; {running}"
    elif isinstance(event, ev.WindowOpened):
        yield f"the window is open until {local_words(window, event.closes_at)}"
    else:
        rest = format_duration(max(0.0, event.opens_at - event.at - state.window.ahead))
        yield f"waiting for the window: it opens at {local_words(window, event.opens_at)}, in {rest}"


def _stopping(event: ev.Event, state: RunState) -> Iterator[str]:
    """Yield why no further steps start."""
    match event:
        case ev.RunInterrupted():
            yield f"interrupted: {_BY_ON_RUNNER_EXIT} (interrupt again to stop waiting)"
        case ev.RunCancelled():
            yield f"cancelled by {event.by}: {_CANCELLED}"
        case ev.RunTimedOut():
            yield f"run_timeout reached: {_CANCELLED}"
        case ev.RecordLost():
            yield f"{event.message}: {_BY_ON_RUNNER_EXIT}"
        case ev.RunDraining():
            yield f"{event.step} did not succeed: no further steps start (on_failure: {state.plan.on_failure})"
        case ev.GroupLost():
            yield "the connection was lost and another run took the concurrency group: no further steps start"
        case _:
            pass


def _resumed(event: ev.RunResumed, state: RunState) -> str:
    done = sum(1 for record in state.records.values() if record.final and record.instances is None)
    rest = len(state.records) - sum(1 for record in state.records.values() if record.instances is not None) - done
    text = f"{counted(done, 'step')} done, {rest - len(event.adopted)} to run"
    return f"{text}; still running: {some([found.step for found in event.adopted])}" if event.adopted else text


def _settled(found: ev.Settled, record: StepRecord | None) -> str:
    """Return the outcome of a worker whose end was not observed, the evidence, and whether the step runs again."""
    if found.by == "repeat" and found.rows is not None and record is not None:
        return f"its last worker committed an iteration (evidence: ledger); the step continues with {_next_of(record)}"
    if found.by == "repeat":
        return (
            "its last worker committed an iteration (evidence: ledger); the step continues with a new first iteration"
        )
    if found.outcome is ev.Outcome.UNKNOWN:
        return "the outcome of its last worker is unknown; the step is idempotent and runs again"
    source = f"evidence: {found.by}" if found.by in EVIDENCE else f"marked by {found.by}"
    if found.outcome is not ev.Outcome.SUCCEEDED:
        return f"its last worker did not complete its work ({source}); the step runs again"
    moot = record is not None and not record.final
    again = "; it runs again nevertheless, because `finally` steps run after the steps that run again" if moot else ""
    return f"its last worker completed its work ({source}){again}"


def _between_attempts(event: ev.StepAdapted | ev.StepRetrying, state: RunState) -> Iterator[str]:
    if isinstance(event, ev.StepRetrying):
        yield _retrying(event, state)
    elif state.records[event.step].announced or event.because is not ev.AdaptReason.DURATION:
        yield f"{event.step}: {_adapted(event)}"


def _adapted(event: ev.StepAdapted) -> str:
    """Return the change of an adapted parameter, and why it is changed."""
    why = {
        ev.AdaptReason.DURATION: f"the last one took {format_duration(event.seconds or 0.0)}",
        ev.AdaptReason.LOCK_TIMEOUT: "after a lock timeout",
        ev.AdaptReason.DEADLOCK: "after a deadlock",
        ev.AdaptReason.TIMEOUT: "after a timeout",
        ev.AdaptReason.HOLD: "after a hold",
    }[event.because]
    return f"{event.param} is {event.value} in the next iteration, was {event.before} ({why})"


def _next_of(record: StepRecord) -> str:
    """Return which iteration follows, and with which carried values."""
    values = ", ".join(f"{name} = {value}" for name, value in batch_values(record).items())
    return f"iteration {record.iteration}" + (f" ({values})" if values else "")


#: What settles an outcome without a user.
EVIDENCE = frozenset({"ledger", "verify", "idempotent", "repeat"})


def _step_progress(event: ev.StepEvent, state: RunState, run_id: str) -> Iterator[str]:
    match event:
        case ev.AttemptRunning():
            record = state.records[event.step]
            so_far = f"; {sum_of(record, event.at)} so far" if record.iteration > 1 else ""
            yield from _started(record, so_far)
        case ev.AttemptFinished() if _unobserved(state.records[event.step]) and _had_worker(event):
            yield from _started(state.records[event.step])  # it ended before it was observed on the server
        case ev.AttemptNotice() if event.notice.severity == ev.WARNING:
            yield from _warning(event, state.records[event.step])
        case ev.AttemptCancelRequested():
            catches = nature_of(state.records[event.step].step.sql.text).catches_cancel
            may_fail = "; its SQL catches query_canceled in a loop, so the cancel may have no effect" if catches else ""
            yield f"{event.step}: cancel requested ({event.reason.replace('_', ' ')}){may_fail}"
        case ev.StepCancelRequested():
            yield f"{event.step}: cancel requested by {event.by}; the step does not start again"
        case ev.AttemptLost() | ev.AttemptUnstoppable() | ev.AttemptRemoving():
            yield _worker_line(event)
        case ev.StepAdapted() | ev.StepRetrying():
            yield from _between_attempts(event, state)
        case ev.StepSkipped() if event.reason is not ev.SkipReason.NOT_SELECTED:
            why = f": {event.because}" if event.because else ""
            yield f"{event.step}: skipped ({event.reason.replace('_', ' ')}{why})"
        case ev.StepExpanded() | ev.StepSplit():
            yield _items_line(event, state)
        case ev.StepFinished() if not _is_item_of_group(state.records[event.step]):  # its steps have lines
            yield from _finished_lines(event, state, run_id)
        case _:
            pass


def _worker_line(event: ev.AttemptLost | ev.AttemptUnstoppable | ev.AttemptRemoving) -> str:
    if isinstance(event, ev.AttemptLost):
        return f"{event.step}: its launcher session was lost ({event.message}); tracking the worker by its pid"
    if isinstance(event, ev.AttemptRemoving):
        return f"{event.step}: removing what it left behind: {leftover_words(event.leftovers, repair=False)}"
    return (
        f"{event.step}: cannot be stopped: its worker (pid {event.worker.pid}) still runs "
        f"{format_duration(event.seconds)} after the first cancel; the run no longer waits for it"
    )


def _items_line(event: ev.StepExpanded | ev.StepSplit, state: RunState) -> str:
    """Return how many items a step has, and in how many chunks; of a chunk that failed, that they follow one by one."""
    items = counted(sum(len(parts_of(item)) for item in event.items), "item")
    if isinstance(event, ev.StepSplit):
        last = state.records[event.step].last
        return f"{event.step}: its {items} run one by one now, after: {error_text(last.error if last else None)}"
    chunks = f" in {counted(len(event.items), 'chunk')}" if any(item.items for item in event.items) else ""
    group = state.records[event.step].step
    if group.steps:
        steps = counted(len(group.steps), "step")
        return f"{event.step}: {steps if group.for_each is None else f'{items} of {steps}'}"
    return f"{event.step}: {items}{chunks}"


def _is_item_of_group(record: StepRecord) -> bool:
    """Return whether this is an item whose steps have records of their own."""
    return bool(record.step.steps) and record.parent is not None


def _started(record: StepRecord, so_far: str = "") -> Iterator[str]:
    """Yield that a worker exists: it was observed, or it has ended. The server may refuse a requested launch."""
    limit = "no timeout" if record.timeout is None else f"timeout {format_duration(record.timeout)}"
    if record.announced:
        what = "preparing" if record.preparing else "started"
        yield f"{record.key}: {what}{_again(record)} ({limit}{so_far})"


def _unobserved(record: StepRecord) -> bool:
    """Return whether nothing shows yet that the worker exists: neither pg_stat_activity nor a WARNING."""
    return record.worker is None and not record.warned


def _had_worker(event: ev.AttemptFinished) -> bool:
    return event.started_at is not None or event.outcome is ev.Outcome.SUCCEEDED


def _warning(event: ev.AttemptNotice, record: StepRecord) -> Iterator[str]:
    if record.worker is None and record.warned == 1:  # it ended before it was observed on the server
        yield from _started(record)
    if record.warned <= SHOWN_WARNINGS:
        yield from (f"{event.step}: WARNING: {text}" for text in warning_texts([event.notice]))
    elif record.warned == SHOWN_WARNINGS + 1:
        yield f"{event.step}: WARNING: … more warnings follow; the run's record has them"


def _detail(event: ev.Event, state: RunState) -> Iterator[str]:
    if isinstance(event, ev.AttemptRunning) and not state.records[event.step].announced:
        return
    match event:
        case ev.StepQueued():
            yield f"{event.step}: queued ({event.reason})"
        case ev.StepRepeating() if state.records[event.step].announced:
            yield f"{event.step}: iteration {event.next_iteration} is next"
        case ev.AttemptRunning():
            yield f"{event.step}: running (pid {event.worker.pid})"
        case ev.AttemptBlocked():
            yield blocked_line(event, event.at)
        case ev.AttemptUnblocked():
            yield unblocked_line(event)
        case ev.AttemptNotice() if event.notice.severity != ev.WARNING:
            yield from (f"{event.step}: {event.notice.severity}: {line}" for line in event.notice.message.splitlines())
        case ev.AttemptFinished() if event.notices_dropped:
            yield f"{event.step}: {event.notices_dropped:,} more notices were dropped"
        case _:
            yield from _detail_of_run(event)


def _detail_of_run(event: ev.Event) -> Iterator[str]:
    match event:
        case ev.RunStarted() if event.ledger_problem is not None:
            yield f"no ledger: {event.ledger_problem}"
        case ev.RunStarted() if event.ledger is not None:
            yield f"ledger: schema {event.ledger}"
        case ev.HoldMeasured():
            yield f"hold {event.hold}: not on ({event.value})"
        case ev.ServerClock():
            yield f"the server's clock is {event.ahead:+.3f} s ahead of this one"
        case _:
            pass


def _again(record: StepRecord) -> str:
    """Return which iteration this is, and which attempt in it, unless it is the first and only one."""
    iteration = f", iteration {record.iteration}" if record.iteration > 1 else ""
    return iteration + (f", attempt {record.tries}" if record.tries > 1 else "")


def _retrying(event: ev.StepRetrying, state: RunState) -> str:
    delay = format_duration(max(0.0, event.until - event.at))
    if event.error is not None:
        return f"{event.step}: not launched ({error_text(event.error)}); its conditions are evaluated again in {delay}"
    last = state.records[event.step].last
    words = f"{event.step}: next attempt in {delay}, after: {error_text(last.error if last else None)}"
    removed = leftover_words(last.removed, repair=False) if last is not None else ""
    words += f"; removed: {removed}" if removed else ""
    left = leftover_words(last.leftovers) if last is not None else ""
    return f"{words}; left behind so far: {left}" if left else words


def _requested_by(record: StepRecord, state: RunState) -> str | None:
    """Return who requested the cancel on the server; for a step with instances, the users of all of them."""
    if record.instances is None:
        return record.last.cancelled_by if record.last is not None else None
    names = dict.fromkeys(
        one.cancelled_by or _requested_by(one, state)
        for one in (state.records[key] for key in record.instances)
        if one.state is StepState.CANCELLED
    )
    return ", ".join(name for name in names if name is not None) or None


def _cancelled_from_outside(record: StepRecord, state: RunState) -> bool:
    """Return whether a session that is not this run's cancelled the worker, such as by pg_cancel_backend."""
    if record.instances is None:
        return record.cancel_reason is None
    ended = leaves(state, record)
    return any(one.state is StepState.CANCELLED and one.cancel_reason is None for one in ended)


def _finished_lines(event: ev.StepFinished, state: RunState, run_id: str) -> Iterator[str]:
    yield _finished(event, state, run_id)
    last = state.records[event.step].last
    if last is not None:
        yield from (
            f"{event.step}: {line}" for line in (*_removed_lines(last.removed), *leftover_lines(last.leftovers))
        )


def _finished(event: ev.StepFinished, state: RunState, run_id: str) -> str:
    record = state.records[event.step]
    summed = sum_of(record)
    words = f"{event.step}: {event.state.replace('_', ' ')}"
    if record.took is not None:
        word = "after" if event.state == StepState.DETACHED else "in"
        again = "" if summed else _again(record)
        words += f" {word} {format_duration(record.took)}{again}"
        words += f" ({summed})" if summed else ""
    last_stopped = record.last is not None and record.last.outcome in (ev.Outcome.CANCELLED, ev.Outcome.UNKNOWN)
    if event.state == StepState.CANCELLED and record.cancelled_by is not None and not last_stopped:
        return f"{words}: {error_text(event.error)}"
    by = _requested_by(record, state)
    if by is not None:
        words += f" by {by}" if event.state == StepState.CANCELLED else f", after a cancel request of {by}"
    elif event.state == StepState.CANCELLED and _cancelled_from_outside(record, state):
        words += " by another session on the server"
    words += f" ({fan_out(state, record).words()})" if record.instances and record.parent is None else ""
    if event.error is not None:
        place = place_in_plan(event.error, record, state, run_id)
        why = failure_words(error_text(event.error), committed=record.committed)
        return f"{words}: {why}{f' at {place}' if place is not None and place.file else ''}"
    last = record.last
    if last is not None and last.outcome is ev.Outcome.SUCCEEDED and last.command_tag and not summed:
        words += f" ({tag_words(last.command_tag, last.row_count)})"
    if last is not None and last.result is not None and last.result.problem is not None:
        words += f"; its rows cannot be read: {last.result.problem}"
    if last is not None and last.result is not None and last.result.cut:
        words += f"; {last.result.cut:,} bytes of its rows were left out"
    if last is not None and last.outcome is ev.Outcome.DETACHED and last.worker is not None:
        since = f"{last.worker.backend_start.partition('.')[0].rstrip('Z')}Z"  # microseconds are in the events
        limit = f", ends by {rfc3339(last.deadline)[:19]}Z" if last.deadline is not None else ""
        words += f" (pid {last.worker.pid} since {since}{limit})"
    return f"{words}: {event.because}" if event.because else words


def error_of(record: StepRecord) -> ErrorDetails | None:
    """Return the error that decided a step's state, or the last one of its attempts."""
    return record.error or record.check_error or (record.last.error if record.last is not None else None)


def error_text(error: ErrorDetails | None) -> str:
    """Return an error on one line: message, SQLSTATE, detail and hint."""
    if error is None:
        return "no error was recorded"
    parts = [error.message if error.sqlstate is None else f"{error.message} (SQLSTATE {error.sqlstate})"]
    parts += [part for part in (error.detail, error.hint) if part]
    return " ".join(" ".join(parts).split())
