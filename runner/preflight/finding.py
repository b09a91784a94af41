"""What a check yields: a code, what is wrong, and where in the statement; the code's table knows how bad it is."""

from __future__ import annotations

from dataclasses import dataclass

from runner.errors import Position, Problem, Severity
from runner.preflight.codes import CODES


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with a statement; `offset` counts characters of the whole text, as the parser does."""

    code: str
    message: str
    offset: int
    hint: str | None = None
    severity: Severity | None = None


def problem(
    code: str,
    message: str,
    position: Position,
    *,
    hint: str | None = None,
    step: str | None = None,
    severity: Severity | None = None,
) -> Problem:
    """Return a problem with the severity of its code, unless this one is of another."""
    return Problem(
        position=position,
        code=code,
        message=message,
        hint=hint,
        severity=severity or CODES[code].severity,
        step=step,
    )
