"""`expect`: whether the last statement gave what the plan wanted, as far as its rows and WARNINGs tell."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from runner.engine.events import AttemptFinished
from runner.plan.model import Expect, Step, Value


def rows_wanted(step: Step) -> int:
    """Return how many rows of the result the plan needs to see; their number alone is known without any."""
    wants_value = step.expect is not None and step.expect.has_value
    return max(step.capture_rows, 2 if wants_value else 0)


def unmet_expectation(step: Step, last: AttemptFinished) -> str | None:
    """Return what is wrong with the result, or None if it is as expected.

    Rows that were only to be captured and cannot be read are no failure: the work is done, and the record says why.
    """
    expect = step.expect
    if expect is None:
        return None
    if not last.command_tag and last.row_count is None and last.result is None:
        wants_rows = expect.has_value or expect.rows_min is not None or expect.rows_max is not None
        lost = "it has committed, but what it gave was lost with its session"
        return lost if wants_rows or expect.judges_warnings else None
    return (
        _wrong_warnings(expect, last.warnings or 0)
        or _wrong_number(expect, last.row_count or 0)
        or (_wrong_value(expect, last) if expect.has_value else None)
    )


def _wrong_number(expect: Expect, rows: int) -> str | None:
    return _outside(expect.rows_min, expect.rows_max, rows, "rows")


def _wrong_warnings(expect: Expect, warnings: int) -> str | None:
    return _outside(expect.warnings_min, expect.warnings_max, warnings, "warnings")


def _outside(least: int | None, most: int | None, got: int, things: str) -> str | None:
    if (least is None or got >= least) and (most is None or got <= most):
        return None
    if least == most:
        wanted = f"{least}"
    elif most is None:
        wanted = f"at least {least}"
    elif least is None:
        wanted = f"at most {most}"
    else:
        wanted = f"{least} to {most}"
    return f"expected {wanted} {things}, got {got}"


def _wrong_value(expect: Expect, last: AttemptFinished) -> str | None:
    result = last.result
    if result is not None and result.problem is not None:
        return f"its rows cannot be read: {result.problem}"
    rows = result.rows if result is not None else ()
    columns = len(result.columns) if result is not None else 0
    if len(rows) != 1 or columns != 1:
        return f"expected one value, got {last.row_count or 0} rows of {columns} columns"
    (got,) = rows[0]
    if same_value(expect.value, got):
        return None
    return f"expected {_shown(expect.value)}, got {'NULL' if got is None else got}"


def same_value(wanted: Value | None, got: str | None) -> bool:
    """Compare a YAML value with PostgreSQL's text of one: numbers by value, booleans as t and f, the rest as text."""
    if wanted is None or got is None:
        return wanted is None and got is None
    if isinstance(wanted, bool):
        return got == ("t" if wanted else "f")
    if isinstance(wanted, str):
        return wanted == got
    try:
        number, other = Decimal(str(wanted)), Decimal(got)
        # PostgreSQL's NaN equals itself.
        return number == other or (number.is_nan() and other.is_nan())
    except InvalidOperation:
        return False


def _shown(value: Value | None) -> str:
    if value is None:
        return "NULL"
    return str(value).lower() if isinstance(value, bool) else str(value)
