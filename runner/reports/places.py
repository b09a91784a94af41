"""The line of the SQL that an error is about, as psql shows it."""

from __future__ import annotations

from collections.abc import Iterator

from runner.engine.events import ErrorDetails
from runner.reports.problems import text_width, window


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
