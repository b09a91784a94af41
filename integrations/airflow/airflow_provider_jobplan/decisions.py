"""What an exit code of jobplan means for a task. The table is jobplan's own: `runner.exit_codes.RETRIES`."""

from __future__ import annotations

import enum

from runner.exit_codes import RETRIES, Retry, for_signal


class Decision(enum.StrEnum):
    """What becomes of the task."""

    SUCCEED = "succeed"
    #: Failed; a retry resumes the run.
    RETRY = "retry"
    #: Failed, without a retry: a person has to act.
    FAIL = "fail"
    #: Not now: the window of the plan is closed, or the server does not meet `requires`.
    LATER = "later"


_OF: dict[Retry, Decision] = {
    Retry.HELPS: Decision.RETRY,
    Retry.CANNOT_HELP: Decision.FAIL,
    Retry.LATER: Decision.LATER,
}


def decide(code: int) -> Decision:
    """Return the decision for an exit code. A code that the table does not have is that of a lost runner."""
    if code == 0:
        return Decision.SUCCEED
    return _OF[RETRIES.get(code, Retry.HELPS)]


def exit_code(returncode: int) -> int:
    """Return the exit code as a shell reports it: Python has a negative number for a process that a signal ended."""
    return for_signal(-returncode) if returncode < 0 else returncode
