"""The table of exit codes: what each one means, and which errors end with it.

The end of a run (`engine.scheduler`), the results of a dry run and of `doctor`, errors and signals all use it, and
`jobplan run --help` and `docs/ci.md` show it. A code never changes its meaning.
"""

from __future__ import annotations

import enum
import textwrap
from typing import Final

from runner.errors import (
    GroupHeldError,
    JobplanError,
    OutsideWindowError,
    ParameterError,
    PlanError,
    PreflightError,
    RecordError,
    RequirementsUnmetError,
    RunSkippedError,
    ServerLostError,
    SettingsError,
    UnstoppableError,
    UsageError,
)


class ExitCode(enum.IntEnum):
    """The codes by name, without those of signals (`for_signal`)."""

    SUCCESS = 0
    FAILED = 1
    USAGE = 2
    INVALID_PLAN = 3
    #: `server status` and `ledger status`: there is none, as other status commands report it.
    NOT_THERE = 3
    NOT_STARTED = 4
    RUN_TIMEOUT = 5
    GROUP_HELD = 6
    UNKNOWN = 7
    WINDOW_CLOSED = 8
    REQUIREMENT_UNMET = 9
    BUG = 70


class Retry(enum.StrEnum):
    """What the same command, started once more with --or-resume, can do about an exit code other than 0."""

    #: It can finish the run: the cause may have ended.
    HELPS = "helps"
    #: It ends in the same way until a user has acted: a wrong option or plan, an open question, a bug.
    CANNOT_HELP = "cannot_help"
    #: Not now: the window is closed, or the server does not meet `requires`. The next scheduled run tries again.
    LATER = "later"


#: For engines that start a failed task again. Codes that are not listed (137: killed) are those of a lost runner.
RETRIES: Final = {
    1: Retry.HELPS,
    2: Retry.CANNOT_HELP,
    3: Retry.CANNOT_HELP,
    4: Retry.HELPS,
    5: Retry.HELPS,
    6: Retry.HELPS,
    7: Retry.CANNOT_HELP,
    8: Retry.LATER,
    9: Retry.LATER,
    70: Retry.CANNOT_HELP,
    129: Retry.HELPS,
    130: Retry.HELPS,
    142: Retry.HELPS,
    143: Retry.HELPS,
}


def is_failure(code: int) -> bool:
    """Return whether a run with this exit code has failed: not if the next scheduled run continues by itself."""
    return code != 0 and RETRIES.get(code) is not Retry.LATER


def for_signal(number: int) -> int:
    """Return the exit code after a signal, as shells report it."""
    return 128 + number


def for_error(error: JobplanError) -> ExitCode:
    """Return the exit code for an error that ended a command; BUG for one that should not reach the command line."""
    return next((code for kind, code in _ERRORS if isinstance(error, kind)), ExitCode.BUG)


#: The first class that fits counts: a subclass stands above its base.
_ERRORS: Final[tuple[tuple[type[JobplanError], ExitCode], ...]] = (
    (UsageError, ExitCode.USAGE),
    (ParameterError, ExitCode.USAGE),
    (SettingsError, ExitCode.USAGE),
    (PlanError, ExitCode.INVALID_PLAN),
    (RunSkippedError, ExitCode.SUCCESS),
    (OutsideWindowError, ExitCode.WINDOW_CLOSED),
    (RequirementsUnmetError, ExitCode.REQUIREMENT_UNMET),
    (PreflightError, ExitCode.NOT_STARTED),
    (GroupHeldError, ExitCode.GROUP_HELD),
    (RecordError, ExitCode.NOT_STARTED),
    (ServerLostError, ExitCode.UNKNOWN),
    (UnstoppableError, ExitCode.UNKNOWN),
)

_GOOD_END: Final = "every step succeeded, was skipped, allowed to fail, or detached"
#: What the exit codes of a run mean: codes as text, and the words for help and documentation.
MEANINGS: Final = (
    ("0", f"{_GOOD_END}; or `requires` is not met, with otherwise: skip"),
    ("1", "a step failed, timed out or was cancelled; or the journal or a report is incomplete"),
    ("2", "wrong usage: an option, or a parameter's value that is wrong or missing"),
    ("3", "the plan is invalid"),
    ("4", "nothing was started: no connection, the server is not ready, or no journal can be kept"),
    ("5", "run_timeout ended the run"),
    ("6", "the run has a runner already; or another run holds or has taken the concurrency group"),
    ("7", "an outcome is unknown, or a worker that should have ended still runs"),
    ("8", "not finished: the plan's window closed before every step had run; or it is closed, and nothing was started"),
    ("9", "nothing was started: the server does not meet the plan's `requires`"),
    ("70", "a bug in jobplan"),
    ("129, 130", "interrupted by SIGHUP, by Ctrl-C"),
    ("142, 143", "interrupted by SIGALRM, by SIGTERM"),
)


#: How a run ended, by its exit code; the codes of signals are not here.
_ENDS: Final = {
    ExitCode.SUCCESS: "succeeded",
    ExitCode.FAILED: "failed",
    ExitCode.RUN_TIMEOUT: "timed out",
    ExitCode.GROUP_HELD: "stopped: another run took its concurrency group",
    ExitCode.UNKNOWN: "unknown outcome",
    ExitCode.WINDOW_CLOSED: "not finished: its window closed",
}


def end_words(code: int) -> str:
    """Return in words how a run ended that has this exit code: `failed`, `interrupted`."""
    known = next((words for one, words in _ENDS.items() if one == code), None)
    return known or ("interrupted" if code >= for_signal(1) else f"exit code {code}")


def help_text() -> str:
    """Return the table for the help of a command; `\\b` keeps click from wrapping it."""
    rows = (
        textwrap.fill(meaning, width=76, initial_indent=f"  {codes:<10}", subsequent_indent=" " * 12)
        for codes, meaning in MEANINGS
    )
    return "\n".join(("\b", "Exit codes:", *rows, ""))
