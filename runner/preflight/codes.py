"""The codes of what a dry run finds. Stable, like those of the rules: none is ever given to another finding.

JP5xx are about the server, JP6xx about statements, JP7xx about locks, JP8xx about the schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from runner.errors import Severity
from runner.preflight.codes_of_server import CODES_OF_SERVER
from runner.preflight.codes_of_statements import CODES_OF_STATEMENTS
from runner.preflight.codes_of_timing import CODES_OF_TIMING


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What a code means, and how what it tells of looks wrong and right."""

    severity: Severity
    title: str
    why: str
    wrong: str
    right: str


#: Every code of this floor, in order.
CODES: Final[Mapping[str, Code]] = MappingProxyType(
    {
        code: Code(severity=severity, title=title, why=why, wrong=wrong, right=right)
        for code, (severity, title, why, wrong, right) in (
            CODES_OF_SERVER | CODES_OF_STATEMENTS | CODES_OF_TIMING
        ).items()
    }
)
