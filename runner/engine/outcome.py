"""What a worker's end means: from what the gateway knows to an outcome that is never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable

from runner.engine.events import WARNING, CancelReason, ErrorDetails, Notice, Outcome
from runner.gateway.base import WorkerEnd
from runner.sql.nature import Nature

_QUERY_CANCELED = "57014"
#: Ways in which somebody stops a worker: a cancel or statement timeout, a terminate, a shutdown of the server.
_STOPPED = frozenset({_QUERY_CANCELED, "57P01", "57P02", "57P03"})
#: Seconds by which the server's own timer may be early against its own clock.
_TIMER_SLACK = 0.005
#: The server's functions that warn when VACUUM, ANALYZE, REINDEX or CLUSTER leaves an object out: it may not touch it,
#: gets no lock, finds it gone, or finds that it is of a kind that it cannot treat. Their names are the same in every
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
#: What a plan says if that is as it should be.
_MAY_SKIP = "A step that may skip objects says so: expect: {warnings: {max: N}}, or allow_failure."
_SYSTEM_CATALOGS = "ReindexMultipleTables"
#: An index that an earlier attempt has left INVALID: REINDEX leaves it out, and it is reported as left behind.
_UNFINISHED_COPY = re.compile(r"_cc(?:new|old)\d*\b")


def skipped(notices: Iterable[Notice], nature: Nature) -> ErrorDetails | None:
    """Return the WARNING by which a maintenance command says that it left an object out, None if there is none.

    REINDEX DATABASE CONCURRENTLY always leaves the system catalogs out before PostgreSQL 16: that is what it is for.
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
    """Return the outcome of an attempt and what there is to say about it.

    `timeout` is what the server enforced, in seconds; `cancelled` is why jobplan asked the worker to stop, if it did.
    57014 means a timeout or a cancel, and only our own record tells them apart
    (pg_background.md#timeouts-are-armed-at-launch).
    """
    if end.detached:
        return Outcome.DETACHED, None
    if end.proven:
        return Outcome.SUCCEEDED, None
    if end.rolled_back:
        why = f": {end.reason}" if end.reason else ""
        error = ErrorDetails(message=f"the worker has gone and has not committed, so its transaction did nothing{why}")
        return _did_nothing(end, cancelled), error
    if end.lost:
        why = f": {end.reason}" if end.reason else ""
        return Outcome.UNKNOWN, ErrorDetails(message=f"the worker has gone and nobody can say what it did{why}")
    if end.error is not None:
        return _of_error(end, end.error, timeout=timeout, cancelled=cancelled), end.error
    return _without_evidence(end, cancelled=cancelled)


def _of_error(end: WorkerEnd, error: ErrorDetails, *, timeout: float | None, cancelled: CancelReason | None) -> Outcome:
    if error.sqlstate not in _STOPPED:
        return Outcome.FAILED
    if cancelled is not None:
        return _stopped_by_us(cancelled)
    ran_out = error.sqlstate == _QUERY_CANCELED and _ran_out(end, timeout)
    return Outcome.TIMED_OUT if ran_out else Outcome.CANCELLED


def _did_nothing(end: WorkerEnd, cancelled: CancelReason | None) -> Outcome:
    """Return the outcome of a worker that has certainly not done its work, although it has said no error."""
    if cancelled is not None:
        return _stopped_by_us(cancelled)
    return Outcome.FAILED if end.cancelled_by is None else Outcome.CANCELLED


def _stopped_by_us(cancelled: CancelReason) -> Outcome:
    by_clock = cancelled in (CancelReason.TIMEOUT, CancelReason.RUN_TIMEOUT)
    return Outcome.TIMED_OUT if by_clock else Outcome.CANCELLED


def _ran_out(end: WorkerEnd, timeout: float | None) -> bool:
    if timeout is None or end.started_at is None or end.finished_at is None:
        return False
    return end.finished_at - end.started_at >= timeout - _TIMER_SLACK


def _without_evidence(end: WorkerEnd, *, cancelled: CancelReason | None) -> tuple[Outcome, ErrorDetails]:
    """The worker has gone, and the extension knows of no error: that alone is not success
    (pg_background.md#completed-is-not-success).
    """
    if end.started_at is None:
        error = ErrorDetails(message="the worker ended before it began with its SQL")
        return _did_nothing(end, cancelled), error
    return Outcome.UNKNOWN, ErrorDetails(
        message="the worker ended without saying how; a setting such as transaction_timeout may have stopped it"
    )
