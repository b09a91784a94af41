"""Records of runs as text and as JSON: the list of runs, and one run."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine.events import Event, GroupWaiting, HoldBegan, HoldEnded, RunResumed, Settled, StepEvent
from runner.engine.fold import apply
from runner.engine.state import FINAL, StepRecord, StepState, initial_state
from runner.engine.window import unfinished_words, window_status
from runner.engine.yielding import blocked_sessions
from runner.errors import UsageError
from runner.exit_codes import end_words
from runner.plan.window import window_words
from runner.records.record import Record
from runner.records.summaries import Standing, Summary
from runner.reports.messages import (
    EVIDENCE,
    SHOWN_WARNINGS,
    Verbosity,
    error_of,
    error_text,
    event_lines,
    failure_words,
    leftovers_data,
    lock_wait_words,
    remains_lines,
    sum_of,
    tag_words,
    warning_texts,
)
from runner.reports.report_builder import run_report
from runner.reports.run_end import (
    failures_as_lines,
    failures_of,
    is_resumable,
    next_line,
    recorded_places,
    words_of_end,
)
from runner.reports.run_report import LockWaitReport, RunReport, StepReport
from runner.reports.step_counts import FanOut, fan_outs, with_instances
from runner.reports.terminal_text import broken, broken_command, columns, visible
from runner.reports.waits import hold_line
from runner.structs import asdict, picked


def run_lines(runs: Sequence[Summary]) -> Iterator[str]:
    """Yield a table of runs, one on each line; nothing without a run."""
    rows = [("RUN", "PLAN", "STARTED", "TOOK", "ENDED", "STEPS"), *map(_run_row, runs)]
    yield from _table(rows) if runs else ()


def _run_row(run: Summary) -> tuple[str, ...]:
    started = "" if run.started_at is None else f"{rfc3339(run.started_at)[:19]}Z"
    took = "" if run.took is None else format_duration(run.took)
    ended = _standing_words(run.standing) if run.exit_code is None else _or_resumed(end_words(run.exit_code))
    counts = run.plan_steps
    steps = ", ".join(f"{counts[state]} {state.replace('_', ' ')}" for state in StepState if counts.get(state))
    return (run.run_id, run.plan, started, took, ended, run.problem or steps)


def runs_json(runs: Iterable[Summary]) -> list[dict[str, Any]]:
    """Return runs as JSON values; what is unknown is null."""
    return [
        {
            "run": run.run_id,
            "folder": str(run.folder),
            "standing": run.standing.value,
            "plan": run.plan or None,
            "host": run.host or None,
            "os_pid": run.os_pid,
            "started_at": _moment(run.started_at),
            "ended_at": _moment(run.ended_at),
            "exit_code": run.exit_code,
            "seconds": run.took,
            "steps": dict(run.steps),
            "problem": run.problem or None,
        }
        for run in runs
    ]


def _standing_of(record: Record, *, locked: bool) -> Standing:
    """Return the standing of a run; `locked`: a runner has its journal open."""
    waits = locked and record.events[-1:] and isinstance(record.events[-1], GroupWaiting)
    if record.state.finished is not None and not waits:
        return Standing.FINISHED
    if locked:
        return Standing.RUNNING
    return Standing.NOT_STARTED if record.started is None else Standing.ENDED_EARLY


def _standing_words(standing: Standing) -> str:
    """Return a standing in words."""
    return _CAN_BE_RESUMED if standing is Standing.ENDED_EARLY else standing.replace("_", " ")


_CAN_BE_RESUMED = "interrupted (can be resumed)"


def _or_resumed(words: str) -> str:
    return _CAN_BE_RESUMED if words == "interrupted" else words


def record_lines(record: Record, *, locked: bool, resume: str, width: int | None) -> Iterator[str]:
    """Yield what is recorded of a run: where it ran and how it ended, what went wrong, each step, and what to do next.

    `resume` is the command that finishes the run. Lines are broken between words if they are wider than `width`. Of a
    step with many instances only those have lines that did not succeed.
    """
    for line in _head_lines(record, locked=locked):
        yield from broken(line, width)
    yield ""
    folded = [found for found in fan_outs(record.state).values() if found.folded]
    kept = {key for found in folded for key in (found.key, *found.unfolded)}
    inside = {one.key for found in folded for one in with_instances(record.state, record.state.records[found.key])}
    yield from step_lines(record, record.state.records.keys() - (inside - kept), width=width, folded=folded)
    if folded:
        yield ""
        names = ", ".join(found.key for found in folded[:_FOLDED])
        hint = (
            f"all instances: jobplan show {record.run_id} --step ID ({names}{', …' if len(folded) > _FOLDED else ''})"
        )
        yield from broken(hint, width)
    standing = _standing_of(record, locked=locked)
    finished = record.state.finished if standing is Standing.FINISHED else None
    if standing is Standing.ENDED_EARLY or (finished is not None and is_resumable(record.state)):
        yield ""
        yield from broken_command(next_line("Resume", resume), width)


#: Folded steps that the hint names.
_FOLDED = 3


def _head_lines(record: Record, *, locked: bool) -> Iterator[str]:
    """Yield what is recorded of the run as a whole."""
    standing = _standing_of(record, locked=locked)
    finished, started = record.state.finished if standing is Standing.FINISHED else None, record.started
    code = None if finished is None else finished.exit_code
    ended = _standing_words(standing) if code is None else _or_resumed(words_of_end(record.state, code))
    exit_code = f" (exit code {code})" if code else ""
    yield f"run {record.run_id} of {record.plan.name} ({record.plan.file or 'no file'}): {ended}{exit_code}"
    if started is not None:
        last = record.events[-1].at
        yield (
            f"started {rfc3339(started.at)[:19]}Z by process {started.os_pid} on {started.host}, jobplan "
            f"{started.jobplan}; last event {rfc3339(last)[:19]}Z, {format_duration(last - started.at)} later"
        )
        yield (
            f"server: {started.connection or 'not recorded'} (PostgreSQL {started.server.partition(' ')[0]}, "
            f"pg_background {started.extension}, database {started.database}, user {started.user})"
        )
    yield f"record: {record.folder} (plan {record.sha256[:12]})"
    if record.torn:
        yield "the last line of its events is incomplete and was ignored"
    yield from _window_lines(record)
    yield from _hold_lines(record)
    yield from failures_as_lines(failures_of(record.state, record.run_id, recorded_places(record.events)))


def step_lines(
    record: Record, chosen: Container[str], *, width: int | None = None, folded: Iterable[FanOut] = ()
) -> Iterator[str]:
    """Yield the table of these steps, and below each step further facts about it.

    The remarks of `folded` steps are their counts. Lines are broken between words if they are wider than `width`.
    """
    marks = marked(record.events)
    reports = _steps(_report(record))
    counts = {found.key: found.words() for found in folded}
    roots = (step for step in record.state.records.values() if step.parent is None)
    in_order = (step for root in roots for step in with_instances(record.state, root))
    steps = {step.key: step for step in in_order if step.key in chosen}
    rows = [_step_row(step, marks.get(key), reports.get(key)) for key, step in steps.items()]
    rows = [(*row[:-1], "; ".join(filter(None, (counts.get(row[0]), row[-1])))) for row in rows]
    titles = ("STEP", "STATE", "ATTEMPTS", "TOOK", "")
    if width is None:
        head, *lines = _table([titles, *rows])
        blocks = [[line] for line in lines]
    else:
        head, blocks = _narrow_table(titles, rows, width)
    yield head
    for block, key in zip(blocks, steps, strict=True):
        yield from block
        for words in _more(reports.get(key)):
            yield from broken(f"    {words}", width)


def _narrow_table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]], width: int) -> tuple[str, list[list[str]]]:
    """Return the head and the rows of a table for a terminal.

    The last cell of a row goes below it if it does not fit, and a name that is wider than its column has its own line.
    """
    rows = [tuple(map(visible, row)) for row in rows]
    widths = [max(map(columns, column)) for column in zip(titles, *rows, strict=True)]
    widths[0] = min(widths[0], max(24, width * 2 // 5))
    blocks: list[list[str]] = []
    for row in rows:
        cells = [*row[:-1]]
        block: list[str] = []
        if columns(cells[0]) > widths[0]:
            block, cells[0] = [cells[0]], ""
        line = _padded(cells, widths)
        if row[-1] and columns(line) + 2 + columns(row[-1]) <= width:
            line, remark = f"{line}  {row[-1]}", ""
        else:
            remark = row[-1]
        block.append(line.rstrip())
        block += broken(f"    {remark}", width) if remark else []
        blocks.append(block)
    return _padded(titles[:-1], widths).rstrip(), blocks


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell + " " * (width - columns(cell)) for cell, width in zip(cells, widths, strict=False))


def chosen_steps(record: Record, step: str) -> frozenset[str]:
    """Return a step and its instances. UsageError if the run has no step with this id."""
    steps = record.state.records
    if step not in steps:
        near = difflib.get_close_matches(step, steps, n=1)
        raise UsageError(
            f"run {record.run_id} has no step {step!r}.", hint=f"Did you mean {near[0]!r}?" if near else None
        )
    return frozenset(one.key for one in with_instances(record.state, steps[step]))


def log_lines(record: Record, chosen: Container[str] | None) -> Iterator[str]:
    """Yield what happened in a run, with times; `chosen` are the steps, None for the whole run."""
    state = initial_state(record.plan)
    for event in record.events:
        if isinstance(event, RunResumed):
            state.plan = record.plan
        with contextlib.suppress(LookupError, ValueError):  # of a step that a changed plan no longer has
            apply(state, event)
        if chosen is None or (isinstance(event, StepEvent) and event.step in chosen):
            lines = event_lines(event, state, Verbosity.VERBOSE, record.run_id)
            yield from (f"{rfc3339(event.at)[:19]}Z {line}" for line in lines)


def _window_lines(record: Record) -> Iterator[str]:
    """Yield when the plan's window is open, and where the run stands in it."""
    window = record.plan.window
    if window is not None:
        status = unfinished_words(record.state) or window_status(record.state, None)
        yield f"window: {window_words(window)}{f'; {status}' if status else ''}"


def _window_json(record: Record) -> Mapping[str, Any]:
    """Return the opening of the run, as far as it is known."""
    known = record.state.window
    if known is None or known.opens is None or known.closes is None:
        return {"state": None, "opens_at": None, "closes_at": None}
    state = "closed" if known.closed else "open" if known.open else "waiting"
    return {"state": state, "opens_at": rfc3339(known.opens), "closes_at": rfc3339(known.closes)}


def _hold_lines(record: Record) -> Iterator[str]:
    """Yield the last spans in which a hold was on."""
    events = [event for event in record.events if isinstance(event, HoldBegan | HoldEnded)]
    yield from (f"{rfc3339(event.at)[:19]}Z {hold_line(event)}" for event in events[-_HOLDS:])


def marked(events: Iterable[Event]) -> Mapping[str, Settled]:
    """Return the outcomes that users have given with `resume --mark`, by step; the last one counts."""
    resumed = (event for event in events if isinstance(event, RunResumed))
    return {mark.step: mark for event in resumed for mark in event.settled if mark.by not in EVIDENCE}


def _report(record: Record) -> RunReport | None:
    """Return the report of the run; None if it never began."""
    return None if record.started is None else run_report(record.plan, record.run_id, record.events)


def _steps(report: RunReport | None) -> Mapping[str, StepReport]:
    return {} if report is None else {step.key: step for step in report.steps}


def _more(step: StepReport | None) -> Iterator[str]:
    """Yield further facts about a step, each on its own line."""
    waits = [wait for attempt in step.attempts for wait in attempt.lock_waits] if step is not None else []
    waits.sort(key=lambda wait: -wait.seconds)
    if step is not None and step.held:
        yield f"held for {format_duration(step.held)}"
    for attempt in step.attempts if step is not None else ():
        if attempt.blocked:
            yield f"attempt {attempt.number} blocked {blocked_sessions(attempt.blocked)}"
    yield from map(lock_wait_words, waits[:_WAITS])
    if len(waits) > _WAITS:
        yield f"and {len(waits) - _WAITS} shorter lock waits"
    if step is not None:
        texts = _warnings(step)
        yield from (f"WARNING: {text}" for text in texts[:SHOWN_WARNINGS])
        if step.warnings > SHOWN_WARNINGS:
            yield f"and {step.warnings - SHOWN_WARNINGS:,} more WARNINGs"
        yield from remains_lines(step)


def _warnings(step: StepReport) -> list[str]:
    return [text for attempt in step.attempts for text in warning_texts(attempt.notices)]


#: How many lock waits of a step are shown, the longest ones; and how many changes of holds, the last ones.
_WAITS = 3
_HOLDS = 6


def _step_row(record: StepRecord, mark: Settled | None, report: StepReport | None) -> tuple[str, ...]:
    took = "" if record.took is None else format_duration(record.took)
    attempts = str(record.attempt) if record.attempt else ""
    marked_by = "" if mark is None else f"marked {mark.outcome} by {mark.by}"
    remark = "; ".join(text for text in (_remark(record, report), marked_by) if text)
    return (record.key, record.state.replace("_", " "), attempts, took, remark)


def _remark(record: StepRecord, report: StepReport | None) -> str:
    if record.skip is not None:
        return f"{record.skip.reason.replace('_', ' ')}{f': {record.skip.because}' if record.skip.because else ''}"
    last = record.last
    if record.state in FINAL and record.state is not StepState.DETACHED:
        error = error_of(record)
        if error is not None and record.state is not StepState.SUCCEEDED:
            place = f" at {report.file}:{report.line}" if report is not None and report.file else ""
            why = f"{failure_words(error_text(error), committed=record.committed)}{place}"
            return "; ".join(part for part in (sum_of(record), why) if part)
        return sum_of(record) or (tag_words(last.command_tag, last.row_count) if last is not None else "")
    if record.worker_ended:
        return "its worker had ended when the run was resumed"
    if record.worker is None:
        return ""
    deadline = last.deadline if last is not None else record.server_end
    return f"pid {record.worker.pid} since {record.worker.backend_start}" + (
        f", ends by {rfc3339(deadline)[:19]}Z" if deadline is not None else ""
    )


def record_json(record: Record, *, locked: bool) -> dict[str, Any]:
    """Return what is recorded of a run as JSON values; what is unknown is null."""
    started, finished = record.started, record.state.finished
    marks = marked(record.events)
    report = _report(record)
    reports = _steps(report)
    return {
        "run": record.run_id,
        "folder": str(record.folder),
        "standing": _standing_of(record, locked=locked).value,
        **picked(finished, "exit_code"),
        "plan": record.plan.name,
        "file": record.plan.file or None,
        "sha256": record.sha256,
        "torn": record.torn,
        "started_at": None if started is None else _moment(started.at),
        "ended_at": None if finished is None else _moment(finished.at),
        **picked(started, "host", "os_pid", "connection", "system_identifier", "database", "user"),
        "warnings": sum(step.warnings for step in record.state.records.values()),
        **({"holds": _holds_json(report)} if record.plan.holds else {}),
        **({"window": _window_json(record)} if record.plan.window is not None else {}),
        "steps": [_step_json(step, marks.get(key), reports.get(key)) for key, step in record.state.records.items()],
    }


def _holds_json(report: RunReport | None) -> list[Mapping[str, Any]]:
    """Return the spans in which holds were on; `until` is null if one was on at the last event."""
    return [
        {"hold": one.name, "since": _moment(one.since), "until": _moment(one.until), **picked(one, "value", "failed")}
        for one in (() if report is None else report.holds)
    ]


def _step_json(record: StepRecord, mark: Settled | None, report: StepReport | None) -> Mapping[str, Any]:
    last = record.last
    error = error_of(record)
    return {
        "step": record.key,
        "state": record.state.value,
        "attempts": record.attempt,
        "started_at": _moment(record.started_at),
        "ended_at": _moment(record.ended_at),
        "seconds": None if record.took is None else round(record.took, 3),
        "rows": last.row_count if last is not None else None,
        "file": (report.file or None) if report is not None else None,
        "line": report.line if report is not None else None,
        "error": None if error is None else error_text(error),
        "committed": record.committed,
        "command_tag": record.tag or None,
        "iterations": record.iterations if record.step.repeat is not None else None,
        "rows_in_all": record.rows if record.step.repeat is not None else None,
        **_batches(record),
        "warnings": record.warnings,
        "warning_texts": _warnings(report) if report is not None else [],
        "leftovers": leftovers_data(last.leftovers) if last else [],
        **({"removed": [one.what for one in report.removed]} if report is not None and report.removed else {}),
        "marked": None if mark is None else mark.outcome.value,
        "marked_by": None if mark is None else mark.by,
        "skipped": None if record.skip_reason is None else record.skip_reason.value,
        **picked(record.worker, "pid", "backend_start"),
        "deadline": None if last is None else _moment(last.deadline),
        "lock_waits": [
            _lock_wait_json(attempt.number, wait)
            for attempt in (report.attempts if report is not None else ())
            for wait in attempt.lock_waits
        ],
        **_holds_and_yields(record, report),
    }


def _holds_and_yields(record: StepRecord, report: StepReport | None) -> Mapping[str, Any]:
    """Return the fields of a step that a hold concerns or that has `yield_after`."""
    found: dict[str, Any] = {}
    if report is not None and record.step.holds:
        found["held_seconds"] = report.held
    if report is not None and record.step.yield_after is not None:
        found["blocked_sessions"] = [
            {"attempt": attempt.number, **asdict(one)} for attempt in report.attempts for one in attempt.blocked
        ]
    if found and report is not None:
        found["reason"] = report.reason
    return found


def _batches(record: StepRecord) -> Mapping[str, Any]:
    """Return the fields of a step that carries values from one iteration to the next, or adapts a parameter."""
    repeat, seconds = record.step.repeat, record.took
    if repeat is None or not (repeat.carry or repeat.adapt):
        return {}
    return {
        "rows_per_second": round(record.rows / seconds, 1) if record.rows and seconds else None,
        "carried": dict(record.carried) or None,
        "adapted": None if record.adapted is None else dict([record.adapted]),
        **({} if record.table_rows is None else {"table": record.table, "table_rows": record.table_rows}),
    }


def _lock_wait_json(attempt: int, wait: LockWaitReport) -> Mapping[str, Any]:
    return {
        "attempt": attempt,
        "since": _moment(wait.since),
        **picked(wait, "seconds", "mode", "lock", "relation"),
        "by": [asdict(one) for one in wait.by],
    }


def _moment(at: float | None) -> str | None:
    return None if at is None else rfc3339(at)


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
