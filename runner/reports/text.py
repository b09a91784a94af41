"""Words and characters that every report needs: what may stand in XML, what a result looks like, what went wrong."""

from __future__ import annotations

import re

from runner.durations import format_duration
from runner.engine.events import ErrorDetails
from runner.engine.state import StepState
from runner.reports.lock_waits import holder_words, lock_words
from runner.reports.outcomes import COMMITTED, sum_words, tag_words
from runner.reports.places import excerpt
from runner.reports.report import AttemptReport, LockWaitReport, StepReport

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
