"""What the page's scripts are given: the report as JSON that cannot end the element it stands in."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from runner.engine.events import ErrorDetails
from runner.reports.layout import lay_out
from runner.reports.outcomes import COMMITTED, leftover_lines
from runner.reports.places import excerpt
from runner.reports.report import AttemptReport, RunReport, StepReport
from runner.reports.text import lock_wait_words, result_words, skip_words, step_result_words

#: More lanes than this are only drawn if they were used.
_LANES = 32


def page_json(report: RunReport) -> str:
    """Return the data as JSON without a character that means something to an HTML parser."""
    text = json.dumps(_run(report), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _run(report: RunReport) -> dict[str, Any]:
    used = 1 + max((lane for step in report.steps for one in step.attempts for lane in one.lanes), default=-1)
    texts: dict[str, int] = {}
    return {
        "run": report.run,
        "started_at": report.started_at,
        "finished_at": report.finished_at,
        "lanes": max(used, min(report.slots, _LANES)),
        "critical": report.critical,
        "steps": [_step(step, texts) for step in report.steps],
        "texts": list(texts),
        "graph": _graph(report),
        "history": [{"run": past.run, "at": past.started_at, "steps": past.steps} for past in report.history],
    }


def _step(step: StepReport, texts: dict[str, int]) -> dict[str, Any]:
    return {
        "key": step.key,
        "state": str(step.state),
        "sql": texts.setdefault(step.sql, len(texts)),
        "description": step.description,
        "tags": step.tags,
        "pools": step.pools,
        "needs": [(need.step, str(need.on)) for need in step.needs],
        "parent": step.parent,
        "instances": step.instances,
        "detaches": step.detaches,
        "slots": step.slots,
        "timeout": step.timeout,
        "started_at": step.started_at,
        "seconds": step.seconds,
        "waited": step.waited,
        "skipped": skip_words(step),
        "error": _error(step.error, step.sql),
        "result_words": step_result_words(step),
        "committed": COMMITTED if step.committed else "",
        "leftovers": list(leftover_lines(step.leftovers)),
        "waits": [dataclasses.asdict(wait) for wait in step.waits],
        "attempts": [_attempt(attempt) for attempt in step.attempts],
    }


def _attempt(attempt: AttemptReport) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "iteration": attempt.iteration,
        "launched_at": attempt.launched_at,
        "ended_at": attempt.ended_at,
        "server_started_at": attempt.server_started_at,
        "server_finished_at": attempt.server_finished_at,
        "lanes": attempt.lanes,
        "outcome": attempt.outcome,
        "error": _error(attempt.error, ""),
        "result_words": result_words(attempt),
        "pid": attempt.worker.pid if attempt.worker else None,
        "deadline": attempt.deadline,
        "cancel_reason": attempt.cancel_reason,
        "lost": attempt.lost,
        "lock_waits": [
            {"since": wait.since, "until": wait.until, "words": lock_wait_words(wait)} for wait in attempt.lock_waits
        ],
        "notices": [(notice.severity, notice.message) for notice in attempt.notices],
        "notices_dropped": attempt.notices_dropped,
        "result": dataclasses.asdict(attempt.result) if attempt.result is not None else None,
    }


def _error(error: ErrorDetails | None, sql: str) -> dict[str, Any] | None:
    if error is None:
        return None
    told = {name: text for name, text in dataclasses.asdict(error).items() if text is not None}
    return told | {"excerpt": list(excerpt(error, sql))}


def _graph(report: RunReport) -> dict[str, Any]:
    steps = {step.key: step for step in report.steps if step.parent is None}
    needs = {key: [need.step for need in step.needs] for key, step in steps.items()}
    layout = lay_out(needs, last=[key for key, step in steps.items() if step.in_finally])
    return {
        "nodes": [
            {"key": key, "column": column, "row": row, "seconds": report.spans[key]}
            for key, (column, row) in layout.places.items()
        ],
        "edges": [(need.step, key, str(need.on)) for key, step in steps.items() for need in step.needs],
        "columns": layout.columns,
        "rows": layout.rows,
    }
