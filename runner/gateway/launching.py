"""What a worker is asked for with: the statements of its launch, and what a refusal of theirs means."""

from __future__ import annotations

from collections.abc import Sequence

from runner.engine.events import ErrorDetails
from runner.errors import CapacityError, GatewayError
from runner.gateway.base import LaunchRequest
from runner.gateway.output import cannot_send_rows, launched_text, sends_no_rows
from runner.gateway.replies import Reply
from runner.gateway.session import Statement
from runner.gateway.settings import COMMIT_ROW_LOCK_TIMEOUT, plain_settings, with_lock_timeout, worker_settings
from runner.gateway.waiting import SLICE

#: "No worker to give now" (pg_background.md#capacity-errors), and "no connection to give now", which a launcher
#: session needs.
_CAPACITY_SQLSTATES = {
    "53000": "max_worker_processes is used up",
    "53400": "pg_background.max_workers is used up",
    "53300": "there are too many connections",
}
#: The statement that waits once more for a worker that was launched at once.
WAIT_AT_ONCE = "wait_at_once"


#: Columns of the moment of the launch, in the rows of `launch` and `launch_at_once`.
_MOMENT = 2
_MOMENT_AT_ONCE = 9


class LaunchRefusedError(GatewayError):
    """The server refused the launch itself: a setting, a role, a privilege."""

    def __init__(self, details: ErrorDetails) -> None:
        super().__init__(details.message)
        self.details = details


def refusal(error: ErrorDetails) -> CapacityError | LaunchRefusedError:
    """Return what an error before the worker had been asked for means: a shortage, or the step's own fault."""
    if error.sqlstate in _CAPACITY_SQLSTATES:
        return CapacityError(f"{_CAPACITY_SQLSTATES[error.sqlstate]} ({error.message})")
    return LaunchRefusedError(error)


class Launching:
    """How one worker is launched on a session of `role` and `search_path`.

    `first_wait` is how many milliseconds the statement waits for its end. Where one statement launches and waits,
    `slices` further waits follow in the same round trip.
    """

    def __init__(self, request: LaunchRequest, *, role: str, search_path: str, first_wait: int, slices: int) -> None:
        self._request = request
        self._search_path = search_path
        #: The role whose rights the worker has; "none" is that of the login.
        self.role = role if request.role is None else request.role
        # In the transaction of `wait` the role is taken already, and it need not have the rights of who took it.
        own_role = request.role is None
        #: Reads the output of a worker that has succeeded; it travels with `wait`.
        drain_ended = (("drain_ended", (self.role,)),) if own_role and sends_no_rows(request) else ()
        #: Whether one statement launches, waits and drains. In one statement with the launch, an output that cannot be
        #: read would take the outcome with it. Settings of the plan's would reach it too: how the outcome is written
        #: (client_encoding), when the session is ended.
        self.at_once = own_role and not request.settings and cannot_send_rows(request)
        self._first_wait = str(first_wait)
        self._first = (("wait", (self._first_wait, self.role)), *drain_ended)
        #: What waits in the server for the worker once more, with a snapshot of its own, and reads its output.
        self.slice: tuple[Statement, ...] = (("wait", (str(SLICE), self.role)), *drain_ended)
        if self.at_once:
            self.slice = ((WAIT_AT_ONCE, (str(SLICE),)),)
        self._slices = slices if self.at_once else 0

    @property
    def in_block(self) -> bool:
        """Say whether the launch is in a transaction block, which an error leaves open."""
        return not self.at_once or self._slices > 0

    def moment_of(self, launched: Reply) -> str | None:
        """Return the server's time before the launch, from the launch's reply; the worker has not begun earlier."""
        return launched.rows[0][_MOMENT_AT_ONCE if self.at_once else _MOMENT]

    def slices_in(self, replies: Sequence[Reply]) -> Sequence[Reply]:
        """Return the replies of the slices among those that came after the one of the launch itself."""
        return replies[1::2]

    def statements(self, first: str) -> tuple[Statement, ...]:
        """Return what asks for the worker and waits a moment for it; `first` are the statements of its commit row."""
        request, path = self._request, self._search_path
        text, size = launched_text(request, first), str(request.output_buffer)
        if first:
            request = with_lock_timeout(request, COMMIT_ROW_LOCK_TIMEOUT)
        if self.at_once:
            at_once = ("launch_at_once", (text, size, *plain_settings(request, path), self._first_wait))
            if not self._slices:
                return ("nothing", ()), at_once
            return ("begin", ()), at_once, *(("chain", ()), *self.slice) * self._slices, ("commit", ())
        launch = ("launch", (text, size, worker_settings(request, path)))
        return ("begin", ()), launch, ("commit", ()), *self._first
