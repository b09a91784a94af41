"""What a worker's end means: every combination of what the gateway can know, and of what jobplan did."""

from __future__ import annotations

from typing import Any

import pytest

from runner.engine.events import CancelReason, ErrorDetails, Notice, Outcome
from runner.engine.outcomes import classify, skipped
from runner.engine.ports import WorkerEnd
from runner.sql.text_traits import nature_of

STOPPED = ErrorDetails(message="canceling statement", sqlstate="57014")
TERMINATED = ErrorDetails(message="terminating connection", sqlstate="57P01")
FAULT = ErrorDetails(message="division by zero", sqlstate="22012")


def outcome(end: WorkerEnd, *, timeout: float | None = None, cancelled: CancelReason | None = None) -> Outcome:
    """Return the outcome alone."""
    return classify(end, timeout=timeout, cancelled=cancelled)[0]


def test_evidence_is_success() -> None:
    end = WorkerEnd(confirmed=True, command_tag="SELECT", started_at=1.0, finished_at=2.0)
    assert classify(end, timeout=1.0, cancelled=None) == (Outcome.SUCCEEDED, None)


def test_a_cancel_that_came_too_late_takes_nothing_back() -> None:
    assert outcome(WorkerEnd(confirmed=True, command_tag="DO"), cancelled=CancelReason.INTERRUPT) is Outcome.SUCCEEDED


def test_detached_is_no_failure() -> None:
    assert classify(WorkerEnd(detached=True), timeout=1.0, cancelled=None) == (Outcome.DETACHED, None)


@pytest.mark.parametrize(
    ("error", "ran", "timeout", "cancelled", "expected"),
    [
        (FAULT, 0.1, None, None, Outcome.FAILED),
        (FAULT, 0.1, 1.0, CancelReason.INTERRUPT, Outcome.FAILED),
        (STOPPED, 1.0, 1.0, None, Outcome.TIMED_OUT),
        (STOPPED, 0.999, 1.0, None, Outcome.TIMED_OUT),
        (STOPPED, 0.5, 1.0, None, Outcome.CANCELLED),
        (STOPPED, 0.5, None, None, Outcome.CANCELLED),
        (TERMINATED, 1.5, 1.0, None, Outcome.CANCELLED),
        (STOPPED, 0.5, 1.0, CancelReason.INTERRUPT, Outcome.CANCELLED),
        (STOPPED, 0.5, 1.0, CancelReason.ON_FAILURE, Outcome.CANCELLED),
        (STOPPED, 6.0, 1.0, CancelReason.TIMEOUT, Outcome.TIMED_OUT),
        (TERMINATED, 6.0, 1.0, CancelReason.TIMEOUT, Outcome.TIMED_OUT),
        (STOPPED, 0.5, None, CancelReason.RUN_TIMEOUT, Outcome.TIMED_OUT),
    ],
)
def test_an_error_is_distinguished_by_jobplans_own_record(
    error: ErrorDetails, ran: float, timeout: float | None, cancelled: CancelReason | None, expected: Outcome
) -> None:
    end = WorkerEnd(error=error, started_at=100.0, finished_at=100.0 + ran)
    assert classify(end, timeout=timeout, cancelled=cancelled) == (expected, error)


def test_an_error_without_times_is_no_timeout() -> None:
    assert outcome(WorkerEnd(error=STOPPED), timeout=1.0) is Outcome.CANCELLED


@pytest.mark.parametrize(
    ("cancelled", "by", "expected"),
    [
        (None, None, Outcome.FAILED),
        (CancelReason.TIMEOUT, None, Outcome.TIMED_OUT),
        (CancelReason.INTERRUPT, None, Outcome.CANCELLED),
        (None, "dba@host", Outcome.CANCELLED),
    ],
)
def test_a_worker_that_has_certainly_not_committed_is_not_unknown(
    cancelled: CancelReason | None, by: str | None, expected: Outcome
) -> None:
    end = WorkerEnd(rolled_back=True, reason="its launcher session was lost", cancelled_by=by)
    got, error = classify(end, timeout=None, cancelled=cancelled)
    assert got is expected
    assert error is not None
    assert error.message.endswith("so its transaction was rolled back: its launcher session was lost")


def test_a_worker_that_is_lost_is_unknown_and_the_reason_is_said() -> None:
    got, error = classify(WorkerEnd(lost=True, reason="the server restarted"), timeout=None, cancelled=None)
    assert got is Outcome.UNKNOWN
    assert error is not None
    assert "the server restarted" in error.message


@pytest.mark.parametrize("times", [{"started_at": 1.0}, {"started_at": 1.0, "finished_at": 2.0}])
@pytest.mark.parametrize("cancelled", [None, CancelReason.INTERRUPT])
def test_no_error_is_not_success(times: dict[str, Any], cancelled: CancelReason | None) -> None:
    got, error = classify(WorkerEnd(**times), timeout=None, cancelled=cancelled)
    assert got is Outcome.UNKNOWN
    assert error is not None


@pytest.mark.parametrize(
    ("cancelled", "expected"),
    [
        (None, Outcome.FAILED),
        (CancelReason.INTERRUPT, Outcome.CANCELLED),
        (CancelReason.RUN_TIMEOUT, Outcome.TIMED_OUT),
    ],
)
def test_a_worker_that_never_began_did_nothing(cancelled: CancelReason | None, expected: Outcome) -> None:
    got, error = classify(WorkerEnd(), timeout=None, cancelled=cancelled)
    assert got is expected
    assert error is not None
    assert "before it executed its SQL" in error.message


@pytest.mark.parametrize(("error", "expected"), [(STOPPED, Outcome.TIMED_OUT), (TERMINATED, Outcome.CANCELLED)])
def test_a_cancel_by_another_session_does_not_hide_a_timeout(error: ErrorDetails, expected: Outcome) -> None:
    end = WorkerEnd(error=error, started_at=1.0, finished_at=2.0, cancelled_by="alice")
    assert outcome(end, timeout=1.0) is expected
    assert outcome(end, timeout=9.0) is Outcome.CANCELLED


def test_a_worker_that_another_session_stopped_before_it_began_was_cancelled() -> None:
    assert outcome(WorkerEnd(cancelled_by="alice")) is Outcome.CANCELLED


def _warning(message: str, routine: str | None, severity: str = "WARNING") -> Notice:
    return Notice(severity=severity, message=message, sqlstate="01000", routine=routine)


@pytest.mark.parametrize(
    ("notice", "sql", "fails"),
    [
        (_warning("keine Berechtigung, wird übersprungen", "vacuum_is_permitted_for_relation"), "VACUUM t", True),
        (_warning('skipping "t" --- only table or database owner can vacuum it', "vacuum_is_relation_owner"), "", True),
        (_warning("пропускается", "expand_vacuum_rel"), "VACUUM t", True),
        (_warning("permission denied to cluster", "cluster_is_permitted_for_relation"), "CLUSTER", True),
        (_warning("cannot reindex system catalogs concurrently, skipping all", "ReindexMultipleTables"),
         "REINDEX SCHEMA CONCURRENTLY pg_catalog", True),
        (_warning("cannot reindex system catalogs concurrently, skipping all", "ReindexMultipleTables"),
         "REINDEX DATABASE CONCURRENTLY d", False),
        (_warning('skipping reindex of invalid index "public.i"', "ReindexRelationConcurrently"), "", True),
        (_warning('skipping reindex of invalid index "public.i_ccnew1"', "ReindexRelationConcurrently"), "", False),
        (_warning("cutoff for removing and freezing tuples is far in the past", "vacuum_get_cutoffs"), "VACUUM", False),
        (_warning("skipping what I like", "exec_stmt_raise"), "", False),
        (_warning("skipping", None), "VACUUM", False),
        (_warning('relation "t" does not exist, skipping', "vacuum_rel", severity="NOTICE"), "", False),
    ],
)  # fmt: skip
def test_what_says_that_it_left_an_object_out(notice: Notice, sql: str, *, fails: bool) -> None:
    found = skipped([_warning("something else", "exec_stmt_raise"), notice], nature_of(sql))
    assert (found is not None) is fails
    assert found is None or found.message == notice.message
