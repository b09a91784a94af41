"""The words for results, outcomes, lock waits and errors of steps, the same in every form of a report.

The live terminal shows a lock wait at once. A log is read later, so it gets a line only for a wait of `LONG` seconds,
and another one when that wait is over. The last line of a run reports how it ended, where its record is, and which
workers still run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.events import WARNING, ErrorDetails, Leftover, Notice
from runner.engine.state import HOLDING, RunState, StepRecord, StepState
from runner.identity import step_of
from runner.reports.plan_problems import excerpt
from runner.reports.run_report import AttemptReport, LockWaitReport, StepReport

#: Seconds after which a log has a line for a wait.
LONG = 10.0
#: Sessions that are named.
_NAMED = 3
#: What is locked, for lock types that pg_locks gives no relation for.
_OBJECTS = {
    "transactionid": "a row that another transaction has changed",
    "virtualxid": "an older transaction",
    "advisory": "an advisory lock",
}


def lock_words(mode: str, lock: str, relation: str | None) -> str:
    """Say what a worker waits for: `AccessExclusiveLock on public.orders`."""
    if relation is None:
        return f"{mode} on {_OBJECTS.get(lock, lock)}"
    return f"{mode} on {'' if lock == 'relation' else 'a row of ' if lock in _ROWS else f'{lock} of '}{relation}"


#: Lock types with which a worker waits for a row.
_ROWS = frozenset({"transactionid", "tuple"})


def holder_words(by: Sequence[ev.Blocker]) -> str:
    """Name the sessions that a worker waits for; empty if none was seen."""
    more = f" and {len(by) - _NAMED} more" if len(by) > _NAMED else ""
    return ", ".join(_holder(one) for one in by[:_NAMED]) + more


def _holder(one: ev.Blocker) -> str:
    if one.pid == 0:
        return "a prepared transaction"
    step = step_of(one.name)
    name = f" step {step}" if step else f" app '{one.name}'" if one.name else ""
    user = f" user {one.user}" if one.user and not step else ""
    since = f" in a transaction of {format_duration(one.seconds)}" if one.seconds is not None else ""
    return f"pid {one.pid}{name}{user}{since}"


def blocked_line(event: ev.AttemptBlocked, now: float) -> str:
    """Say that a worker waits, and since when."""
    holder = holder_words(event.by)
    waited = format_duration(max(0.0, now - event.waiting_since))
    lock = lock_words(event.mode, event.lock, event.relation)
    return f"{event.step}: has waited {waited} for {lock}{f', held by {holder}' if holder else ''}"


def unblocked_line(event: ev.AttemptUnblocked) -> str:
    """Say that a wait is over, and how long it was."""
    lock = lock_words(event.mode, event.lock, event.relation)
    return f"{event.step}: no longer waits for {lock}, after {format_duration(event.seconds)}"


class LongWaits:
    """The waits of a run that are not over; each is due once, when it has lasted `LONG` seconds."""

    def __init__(self) -> None:
        self._open: dict[str, ev.AttemptBlocked] = {}
        self._told: set[str] = set()

    def take(self, event: ev.Event) -> bool:
        """Note what the event says; True if it ends a wait that was due."""
        if isinstance(event, ev.AttemptBlocked):
            self._open[event.step] = event
            return False
        if isinstance(event, ev.AttemptUnblocked | ev.AttemptFinished | ev.AttemptLaunching):
            self._open.pop(event.step, None)
            told = event.step in self._told
            self._told.discard(event.step)
            return told and isinstance(event, ev.AttemptUnblocked)
        return False

    def due(self, now: float) -> Iterator[ev.AttemptBlocked]:
        """Yield the waits that have become long since the last call."""
        for step, event in self._open.items():
            if step not in self._told and now - event.waiting_since >= LONG:
                self._told.add(step)
                yield event


COMMITTED = "committed, but its check failed"
#: WARNINGs of one attempt that progress shows.
SHOWN_WARNINGS = 10
#: Commands whose number of rows says something.
_COUNTING = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "FETCH", "MOVE"})


def tag_words(tag: str, row_count: int | None) -> str:
    """Write a command tag as psql does: `DELETE 3`, but `VACUUM`."""
    return f"{tag} {row_count}" if row_count is not None and tag in _COUNTING else tag


def sum_words(tag: str, rows: int, iterations: int) -> str:
    """Sum up the iterations of a repeat: `DELETE 57,840 in 7 iterations`; nothing for none."""
    if not iterations:
        return ""
    done = f"{tag} {rows:,}" if tag in _COUNTING else tag
    return f"{done} in {counted(iterations, 'iteration')}".strip()


def sum_of(record: StepRecord) -> str:
    """Sum up the iterations of a step so far; nothing for a step that does not repeat."""
    return sum_words(record.tag, record.rows, record.iterations)


def failure_words(text: str, *, committed: bool) -> str:
    """Say why a step failed, and first of all if its work is committed all the same."""
    return f"{COMMITTED}: {text}" if committed else text


def counted(number: int, thing: str) -> str:
    """Write a number and what it counts: `1 step`, `2 steps`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def warning_texts(notices: Iterable[Notice]) -> Iterator[str]:
    """Yield the server's WARNINGs among the messages of a worker, each on one line, with detail and hint."""
    for notice in notices:
        if notice.severity == WARNING:
            parts = (notice.message, notice.detail, notice.hint)
            yield " ".join(" ".join(part for part in parts if part).split())


def leftover_lines(leftovers: Iterable[Leftover]) -> Iterator[str]:
    """Yield what is left behind, and each way to repair it on a line of its own."""
    for one in leftovers:
        yield f"left behind: {one.what}"
        yield from (f"  {'or ' if number else ''}{repair}" for number, repair in enumerate(one.repair))


def leftover_words(leftovers: Iterable[Leftover]) -> str:
    """Say on one line what is left behind, and the first way to repair each."""
    return "; ".join(f"{one.what} ({one.repair[0]})" if one.repair else one.what for one in leftovers)


#: What XML 1.0 does not allow, in whatever form. Source: https://www.w3.org/TR/xml/#charsets
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """Put the replacement character for what XML cannot hold."""
    return _NOT_IN_XML.sub("\ufffd", text)


def state_words(step: StepReport) -> str:
    """Say the step's state in words: with the reason if it was skipped."""
    words = step.state.replace("_", " ")
    if step.committed:
        return f"{words} ({COMMITTED})"
    return f"{words} ({skip_words(step)})" if step.state is StepState.SKIPPED else words


def skip_words(step: StepReport) -> str:
    """Say why the step was skipped."""
    reason = step.skip_reason.replace("_", " ") if step.skip_reason else ""
    return f"{reason}: {step.because}" if step.because else reason


def lock_wait_words(wait: LockWaitReport) -> str:
    """Say for which lock a worker waited, how long, and who held it."""
    holder = holder_words(wait.by)
    lock = lock_words(wait.mode, wait.lock, wait.relation)
    return f"waited {format_duration(wait.seconds)} for {lock}{f', held by {holder}' if holder else ''}"


def result_words(attempt: AttemptReport) -> str:
    """Say what the attempt did."""
    return tag_words(attempt.command_tag, attempt.row_count)


def step_result_words(step: StepReport) -> str:
    """Say what the step did: its last attempt, or all of its iterations."""
    if step.iterations:
        return sum_words(step.tag, step.rows, step.iterations)
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


def error_block(error: ErrorDetails, sql: str = "") -> str:
    """Write an error on several lines: the message, the line of the SQL that it is about, and all else."""
    fields = (f"{name}: {text}" for name, text in error_fields(error))
    return "\n".join([error.message, *excerpt(error, sql), *fields])


@dataclass(frozen=True, slots=True, kw_only=True)
class Afterlife:
    """What is to be said of workers that live on: the commands that follow and stop them, or why there are none."""

    follow: str = ""
    stop: str = ""
    instead: str = ""


def last_line(state: RunState, *, run_id: str, seconds: float, record: str | None, afterlife: Afterlife) -> str:
    """Sum up the run: how many of each state, how long, WARNINGs, where the record is, how to find what lives on."""
    counts = state.counts()
    tally = ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in StepState if counts[name])
    text = f"run {run_id}: {tally} in {format_duration(seconds)}"
    warnings = sum(record.warnings for record in state.records.values())
    text += f"; {counted(warnings, 'warning')} of the server" if warnings else ""
    if record:
        text += f"; record: {record}"
    if any((r.state is StepState.DETACHED and not r.gone) or r.state in HOLDING for r in state.records.values()):
        text += f"; {afterlife.instead}" if afterlife.instead else ""
        text += f"; follow what lives on: {afterlife.follow}" if afterlife.follow else ""
        text += f"; stop it: {afterlife.stop}" if afterlife.stop else ""
    return text
