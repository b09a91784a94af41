"""The registry of problem codes: what each one means, why it is a problem, and how to fix the plan.

Codes are stable: a code is never given to another problem, and a retired one is never used again. JP0xx: the file is
not readable YAML. JP1xx: the schema forbids it. JP2xx: the plan as a whole is not valid. JP3xx and above belong to the
safety rules of `runner.lint`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from runner.errors import Severity
from runner.plan.codes_of_form import CODES_OF_FORM
from runner.plan.codes_of_meaning import CODES_OF_MEANING


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """One kind of problem, as `--explain` prints it; `wrong` and `right` are short examples of a plan or a command."""

    title: str
    why: str
    wrong: str
    right: str
    severity: Severity = Severity.ERROR


#: Codes of problems that are warnings.
_RISKS: Final = frozenset({"JP241", "JP210"})

#: Every code of this package, in order.
CODES: Final = MappingProxyType(
    {
        code: Code(
            title=title,
            why=why,
            wrong=wrong,
            right=right,
            severity=Severity.WARNING if code in _RISKS else Severity.ERROR,
        )
        for code, (title, why, wrong, right) in (CODES_OF_FORM | CODES_OF_MEANING).items()
    }
)
