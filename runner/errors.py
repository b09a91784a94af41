"""The error classes, and the problems found in a plan.

Every error that a user can see says what happened, to which step, and what to do. Exit codes are not here: the command
line maps these classes to them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


class Severity(enum.StrEnum):
    """How serious a problem is: errors make a plan invalid, warnings only with `--strict`."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Position:
    """A place in a file: line and column count from 1, columns in characters (not bytes)."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What several problems have in common, so that they are reported as one.

    Problems with the same code and `key` are one group. `part` names this one in the list, such as a step; `hint` says
    how to fix all of them.
    """

    key: str
    part: str
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem of a plan: position, message, a stable code (`JP…`), and a hint how to fix it.

    `also` has the other positions and steps if the problem represents several with the same cause.
    """

    position: Position
    code: str
    message: str
    hint: str | None = None
    severity: Severity = Severity.ERROR
    step: str | None = None
    also: tuple[tuple[Position, str | None], ...] = ()
    cause: Cause | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        text = f"{self.position}: {self.severity} {self.code}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


class JobplanError(Exception):
    """Base of every error that jobplan raises on purpose.

    `hint` says what to do, as a separate sentence.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        return f"{self.message}{'' if self.message.endswith(chr(10)) else ' '}{self.hint}"


class UsageError(JobplanError):
    """The command line or a call names something that does not exist, or combines options that exclude each other."""


class PlanError(JobplanError):
    """A plan is invalid; `problems` holds every problem that was found, in file order."""

    def __init__(self, message: str, problems: tuple[Problem, ...] = (), *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class ParameterError(PlanError):
    """The plan is valid, but a value for a parameter is not valid or is missing."""


class SettingsError(PlanError):
    """The settings file of the project is not valid; `problems` as for a plan."""


class TargetsError(PlanError):
    """The targets file of a fleet is not valid; `problems` as for a plan."""


class PreflightError(JobplanError):
    """Nothing was started: the server, the extension or a privilege does not meet the plan's needs."""


class RequirementsUnmetError(PreflightError):
    """Nothing was started: the server does not meet the plan's `requires`."""


class OutsideWindowError(PreflightError):
    """Nothing was started: the plan's window is closed."""


class RunSkippedError(RequirementsUnmetError):
    """As `RequirementsUnmetError`, with `otherwise: skip` in the plan: the run counts as skipped, not as failed."""


class OpenQuestionError(PreflightError):
    """A run cannot be resumed before a user has answered questions that jobplan cannot answer.

    `questions` are by step; `stopped` describes each worker that was stopped before the questions arose.
    """

    def __init__(self, questions: Mapping[str, str], *, stopped: Sequence[str] = (), hint: str | None = None) -> None:
        count = "one question is" if len(questions) == 1 else f"{len(questions)} questions are"
        lines = [f"nothing was started: {count} open.", *questions.values()]
        if stopped:
            lines.insert(1, f"stopped before that: {', '.join(stopped)}.")
        super().__init__("\n".join([*lines, ""] if hint else lines), hint=hint)
        self.questions = dict(questions)
        self.stopped = tuple(stopped)

    def answered_by(self, command: str) -> OpenQuestionError:
        """Return the same questions with the command that answers all of them."""
        return OpenQuestionError(self.questions, stopped=self.stopped, hint=f"Answer all of them with: {command}")


class ConnectionFailedError(PreflightError):
    """The server could not be reached, or refused the connection.

    `unnamed`: no server was specified, so libpq's defaults were tried.
    """

    unnamed = False


class EmbeddedServerError(PreflightError):
    """The embedded PostgreSQL could not be found, installed, started or stopped."""


class GroupHeldError(JobplanError):
    """Another run holds the plan's concurrency group."""


class RunHeldError(GroupHeldError):
    """The run `run_id` has a runner already, or workers of it still run."""

    def __init__(self, message: str, *, run_id: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.run_id = run_id


class RunExistsError(UsageError):
    """There is a run with this id already."""


class GatewayError(JobplanError):
    """The server refused or interrupted a request of jobplan while a plan was running."""


class ServerLostError(GatewayError):
    """A session to the server was lost."""


class ServerGivenUpError(ServerLostError):
    """The server could not be reached for a minute: nothing is requested from it until a poll reaches it again."""


class UnstoppableError(JobplanError):
    """A worker is still running although it was requested to stop repeatedly."""


class RecordError(JobplanError):
    """The run's record or a report cannot be written or read."""


class JournalLostError(RecordError):
    """The journal of a run cannot be written any more. Nothing may be launched that is not in the journal."""


class JournalHeldError(RecordError):
    """Another process writes the journal of the run `run_id`."""

    def __init__(self, message: str, *, run_id: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.run_id = run_id


class JournalExistsError(RecordError):
    """There is a journal of a run with this id already, or something in its place."""


class StaleRecordError(RecordError):
    """The ledger has entries of a run that its journal lacks."""


class CapacityError(GatewayError):
    """The server has no free worker now: max_worker_processes, the reserve, or connections are used up."""


class OutsideLaunchTimeError(CapacityError):
    """By the server's clock, the worker may not be launched now: the plan's window is not open."""
