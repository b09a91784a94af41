"""What a run's record leaves open about its workers, and how a person is asked about it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from runner.clock import rfc3339
from runner.engine import events as ev
from runner.engine.resumed import finally_starts_again, has_succeeded, is_kept
from runner.engine.state import HOLDING, RunState, StepRecord, StepState
from runner.sql.nature import nature_of


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
