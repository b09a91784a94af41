"""The table of rules. A module with rules has them in its `RULES`; it is named here, and in no other place."""

from __future__ import annotations

from itertools import chain
from typing import Final

from runner.lint import (
    attempt_rules,
    blocking_rules,
    data_rules,
    lock_conflict_rules,
    parameter_rules,
    plan_rules,
    repeat_rules,
    suppressions,
    syntax_rules,
    transaction_rules,
)
from runner.lint.rule import Rule

_MODULES: Final = (
    syntax_rules,
    transaction_rules,
    blocking_rules,
    data_rules,
    plan_rules,
    repeat_rules,
    attempt_rules,
    parameter_rules,
    lock_conflict_rules,
    suppressions,
)

#: Every rule, by code. Codes are stable: none is given to another rule, and a retired one is never used again.
RULES: Final[tuple[Rule, ...]] = tuple(
    sorted(chain.from_iterable(module.RULES for module in _MODULES), key=lambda rule: rule.code)
)
