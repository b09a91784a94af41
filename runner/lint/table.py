"""The table of rules. A module with rules has them in its `RULES`; it is named here, and nowhere else."""

from __future__ import annotations

from itertools import chain
from typing import Final

from runner.lint import (
    alone,
    blocking,
    concurrently,
    conflicts,
    hygiene,
    inside,
    options,
    parameters,
    retrying,
    safety,
    sharing,
    suppress,
    syntax,
    transactions,
)
from runner.lint.rule import Rule

_MODULES: Final = (
    syntax,
    options,
    transactions,
    alone,
    inside,
    sharing,
    concurrently,
    blocking,
    safety,
    retrying,
    hygiene,
    parameters,
    conflicts,
    suppress,
)

#: Every rule, by code. Codes are stable: none is given to another rule, and a retired one is never used again.
RULES: Final[tuple[Rule, ...]] = tuple(
    sorted(chain.from_iterable(module.RULES for module in _MODULES), key=lambda rule: rule.code)
)
