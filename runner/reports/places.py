"""Where an error stands: in the SQL that the server was given, and in the plan's file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runner.engine.events import ErrorDetails
from runner.engine.scheduler import run_status
from runner.engine.state import RunState, StepRecord
from runner.errors import Position
from runner.plan.model import Plan, Value
from runner.reports.problems import text_width, window
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


def place_in_plan(error: ErrorDetails | None, record: StepRecord, state: RunState, run_id: str) -> Position | None:
    """Return the place in the plan's file that the server complained of; None if it named none."""
    if error is None or error.position is None:
        return None
    sql = launched_sql(record, named_values(state.plan, run_id), run_status(state))
    return record.step.sql.position(min(sql.original(error.position - 1), len(record.step.sql.text)))


def excerpt(error: ErrorDetails, sql: str) -> Iterator[str]:
    """Yield the line of the SQL that the server complained of, and a caret under the place, as psql does."""
    if error.position is None or not sql:
        return
    offset = min(error.position - 1, len(sql))
    start = sql.rfind("\n", 0, offset) + 1
    end = sql.find("\n", offset)
    number = sql.count("\n", 0, offset) + 1
    line, column = window(sql[start : end if end >= 0 else len(sql)], offset - start)
    head = f"LINE {number}: "
    yield head + line
    yield " " * (len(head) + text_width(line[:column])) + "^"
