"""What a rule is, and what it looks at.

A rule is one function in a table: it looks at a whole plan whose SQL has been parsed once, and yields findings. Code,
severity and the words that explain it stand beside it, and the documentation is made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from runner.errors import Cause, Position, Severity
from runner.plan.model import Plan, Sql, Step
from runner.slugs import slug_of
from runner.sql.parse import Statement, Template
from runner.sql.versions import NewerSyntax


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place where a rule does not hold.

    `severity` is that of the rule unless this finding weighs more or less; findings with one `cause` are reported once.
    """

    position: Position
    message: str
    hint: str | None = None
    step: str | None = None
    severity: Severity | None = None
    cause: Cause | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unparsed:
    """A SQL text that could not be parsed: what is wrong, and where. `step` is None for the plan's own.

    `refused` says that the grammar refuses it; otherwise it is too long or too deep to be looked at. `newer` is the
    syntax of a version newer than the grammar's that it seems to use.
    """

    position: Position
    message: str
    hint: str | None = None
    step: str | None = None
    meta_command: bool = False
    refused: bool = True
    newer: NewerSyntax | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySql:
    """A SQL text that jobplan itself asks on a read-only session, with the key that holds it: `if`, `expect.sql`."""

    key: str
    sql: Sql
    template: Template | None

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The statements of the text, none if it does not parse."""
        return self.template.statements if self.template is not None else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSql:
    """A step and its SQL as parsed; `template` is None when it does not parse, which has a rule of its own.

    `queries` are its conditions, checks and lists in the order of the keys; `final` says that it is in `finally`.
    """

    step: Step
    template: Template | None
    queries: tuple[QuerySql, ...] = ()
    final: bool = False

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The statements of the step, none if its SQL does not parse."""
        return self.template.statements if self.template is not None else ()

    def position(self, offset: int) -> Position:
        """Return the place in the file of the character at `offset` of the step's SQL."""
        return self.step.sql.position(offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What rules look at: the plan, each step with its parsed SQL (`finally` last), and what does not parse.

    `preconditions` are those of the plan's `requires`; `invisible` are characters in SQL that no reader sees;
    `shared` is what one rule has found and others can use again.
    """

    plan: Plan
    steps: tuple[StepSql, ...]
    preconditions: tuple[QuerySql, ...] = ()
    unparsed: tuple[Unparsed, ...] = ()
    invisible: tuple[Finding, ...] = ()
    shared: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A row of the table. `why`, `wrong` and `right` are what `--explain` prints: Markdown, and YAML examples.

    An `optional` rule finds nothing unless a comment of the plan asks for it.
    """

    code: str
    severity: Severity
    title: str
    why: str
    wrong: str
    right: str
    check: Callable[[Subject], Iterable[Finding]]
    optional: bool = False

    @property
    def slug(self) -> str:
        """The rule's readable name."""
        return slug_of(self.code)
