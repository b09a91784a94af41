"""Where a step's SQL and its errors stand: in the text that the server was given, and in the plan's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runner.engine import events as ev
from runner.engine.scheduler import run_status
from runner.engine.state import RunState, StepRecord
from runner.errors import Position
from runner.plan.model import Plan, Value
from runner.sql.params import Rendered, TemplateError, render_traced


def named_values(plan: Plan, run_id: str) -> Mapping[str, Value]:
    """Return what the SQL of every step may name."""
    return {**plan.values, "run.id": run_id, "run.name": plan.name}


def launched_sql(record: StepRecord, values: Mapping[str, Value], status: str) -> Rendered:
    """Put the values in, as for the server; a text in which they do not fit stays as it stands in the plan."""
    own: dict[str, Any] = {**values, **record.values}
    if record.in_finally:
        own["run.status"] = status
    try:
        return render_traced(record.step.sql.text, own)
    except TemplateError:
        return Rendered(text=record.step.sql.text, values=())


def place_in_plan(error: ev.ErrorDetails | None, record: StepRecord, state: RunState, run_id: str) -> Position | None:
    """Return the place in the plan's file that the server complained of; None if it named none."""
    if error is None or error.position is None:
        return None
    sql = launched_sql(record, named_values(state.plan, run_id), run_status(state))
    return record.step.sql.position(min(sql.original(error.position - 1), len(record.step.sql.text)))


def with_facts(event: ev.StepFinished, record: StepRecord, state: RunState, run_id: str) -> ev.StepFinished:
    """Return the end of a step with what a log or a record of it needs: how long, how many rows, and where.

    `record` is the step's before the event. A step that is only the sum of its instances has no attempts of its own.
    """
    place = place_in_plan(event.error, record, state, run_id) or record.step.position
    known = replace(event, file=place.file or None, line=place.line if place.file else None)
    if record.instances is not None or not record.attempt:
        return known
    return replace(
        known,
        duration=None if record.took is None else round(record.took, 3),
        rows=record.rows if record.iterations else record.last.row_count if record.last is not None else None,
        attempt=record.attempt,
    )
