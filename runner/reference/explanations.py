"""The explanation of every problem code, for `--explain`, the documentation and reports."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from runner.errors import Severity, UsageError
from runner.lint.rule_table import RULES
from runner.lint.suppressions import nearest_code
from runner.plan.codes import CODES
from runner.preflight.codes import CODES as CODES_OF_DRY_RUN
from runner.slugs import code_of, slug_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The explanation of a code; `why` is Markdown, `wrong` and `right` are parts of a plan, SQL, or a command."""

    code: str
    severity: Severity
    title: str
    why: str
    wrong: str
    right: str

    @property
    def slug(self) -> str:
        """The readable name of the code."""
        return slug_of(self.code)


@lru_cache(maxsize=1)
def explanations() -> MappingProxyType[str, Explanation]:
    """Return the explanation of every code, in the order of the codes."""
    found = {
        code: Explanation(
            code=code, severity=entry.severity, title=entry.title, why=entry.why, wrong=entry.wrong, right=entry.right
        )
        for code, entry in CODES.items()
    }
    for rule in RULES:
        found[rule.code] = Explanation(
            code=rule.code,
            severity=rule.severity,
            title=rule.title,
            why=rule.why,
            wrong=rule.wrong,
            right=rule.right,
        )
    for code, finding in CODES_OF_DRY_RUN.items():
        found[code] = Explanation(
            code=code,
            severity=finding.severity,
            title=finding.title,
            why=finding.why,
            wrong=finding.wrong,
            right=finding.right,
        )
    return MappingProxyType(dict(sorted(found.items())))


def explain(code: str) -> Explanation:
    """Return the explanation of a code or slug, in upper or lower case; UsageError if there is none."""
    known = explanations()
    found = known.get(code_of(code) or "")
    if found is None:
        hint = nearest_code(code, known)
        raise UsageError(f"There is no code {code!r}.", hint=f"{hint[0].upper()}{hint[1:]}" if hint else None)
    return found
