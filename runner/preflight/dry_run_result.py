"""The result of a dry run: data for reports."""

from __future__ import annotations

import enum

from runner.errors import Problem, Severity
from runner.gateway.catalog import RelationFacts
from runner.gateway.server_facts import ServerFacts
from runner.preflight.current_activity import LockReport
from runner.preflight.doctor import Examined
from runner.preflight.schedule_forecast import Schedule, WindowForecast
from runner.structs import Struct


class Coverage(enum.StrEnum):
    """How much of a statement could be checked. A checked statement can still fail."""

    CHECKED = "checked"
    PARTLY = "partly checked"
    NOT = "not checkable"


class StatementReport(Struct, frozen=True, kw_only=True):
    """One statement. `why` are the reasons why it is not completely checked, `notes` are further remarks.

    `codes` are those of the findings about it; `cost` and `rows` the planner's estimates, in its own units and in rows;
    `locks` the tables and modes. With `of_plan` it is not checked only because it uses tables that steps of this plan
    create.
    """

    step: str
    instance: str
    key: str
    text: str
    command: str
    coverage: Coverage
    why: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    cost: float | None = None
    rows: int | None = None
    locks: tuple[tuple[str, str], ...] = ()
    of_plan: bool = False


class HoldNow(Struct, frozen=True, kw_only=True):
    """A hold of the plan as it is now, with the measured value. `on` is None if it could not be measured."""

    name: str
    on: bool | None = None
    value: str = ""


class DryRun(Struct, frozen=True, kw_only=True):
    """Everything that a dry run found. `problems` come worst first; `refused`: a run would not start.

    `unmet`: because the server does not meet the plan's `requires`. `skipped`: and the plan has `otherwise: skip`.
    """

    plan: str
    file: str
    facts: ServerFacts
    server: tuple[Examined, ...]
    problems: tuple[Problem, ...]
    statements: tuple[StatementReport, ...] = ()
    locks: tuple[LockReport, ...] = ()
    schedule: Schedule | None = None
    holds: tuple[HoldNow, ...] = ()
    window: WindowForecast | None = None
    #: What is known of the iterations of steps that carry values or adapt a parameter, one sentence each.
    iterations: tuple[str, ...] = ()
    refused: bool = False
    unmet: bool = False
    skipped: bool = False
    #: The relations that statements of the plan name, as they are now.
    relations: tuple[RelationFacts, ...] = ()

    @property
    def errors(self) -> int:
        """Return how many of the problems are errors."""
        return sum(problem.severity is Severity.ERROR for problem in self.problems)

    @property
    def warnings(self) -> int:
        """Return how many of the problems are warnings."""
        return len(self.problems) - self.errors

    def count(self, coverage: Coverage) -> int:
        """Return how many statements have this coverage."""
        return sum(one.coverage is coverage for one in self.statements)
