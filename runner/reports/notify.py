"""Messages to a webhook: a run failed, it succeeded after one that had failed, a step is blocked for too long.

A message has names, states, exit codes and SQLSTATEs. It has no SQL, no values and no messages of the server, which
may contain data. The URL is a secret, because anyone who has it can send messages: only its host is ever printed.

A thread sends, with few attempts and a deadline, and the end of a run waits for it at most `PATIENCE` seconds. A
message that cannot be sent is a warning, and never changes how a run ends.
"""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException, InvalidURL
from typing import Final, Protocol

from runner.durations import format_duration
from runner.engine.events import AttemptBlocked, AttemptFinished, AttemptUnblocked, Event, RunFinished, RunStarted
from runner.engine.ports import Sink
from runner.engine.state import BAD, RunState
from runner.errors import UsageError
from runner.exit_codes import is_failure
from runner.phrases import some
from runner.structs import Struct

#: Seconds that the end of a run waits for messages, all together.
PATIENCE: Final = 10.0
#: Attempts for one message, the seconds for one of them, and between two of them.
_ATTEMPTS, _TIMEOUT, _BETWEEN = 3, 3.0, 0.5
#: Messages that wait; a run sends few.
_MOST_WAITING = 100
#: Failed steps that a message names.
_MOST_STEPS = 10
#: Answers after which the same message can be accepted later.
_TRY_AGAIN = frozenset({408, 425, 429})

Message = Mapping[str, object]


class Webhook:
    """Sends messages to a URL in a thread of its own. `warn` gets what could not be sent, in words."""

    def __init__(self, url: str, warn: Callable[[str], None]) -> None:
        parts = urllib.parse.urlsplit(checked_url(url))
        self._host = parts.hostname
        #: The URL without user and password: urllib would read them as a part of the host.
        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._headers = {"Content-Type": "application/json", "User-Agent": "jobplan", **_authorization(parts)}
        self._warn = warn
        self._waiting: queue.Queue[Message | None] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._ends_at: float | None = None

    def send(self, message: Message) -> None:
        """Send a message; returns at once. If too many wait, it is left out."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="jobplan-notify", daemon=True)
            self._thread.start()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(message)

    def close(self) -> None:
        """Wait, for a short time, until everything is sent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ends_at = time.monotonic() + PATIENCE
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        thread.join(PATIENCE)
        if thread.is_alive():  # the process ends without it
            self._warn(self._failure(f"no answer within {PATIENCE:g} s"))

    def _work(self) -> None:
        while (message := self._waiting.get()) is not None:
            # a text that is not Unicode, such as a file name in another encoding, is escaped
            problem = self._deliver(json.dumps(message, ensure_ascii=False).encode(errors="backslashreplace"))
            if problem is not None and not self._late():
                self._warn(self._failure(problem))

    def _late(self) -> bool:
        return self._ends_at is not None and time.monotonic() >= self._ends_at

    def _deliver(self, body: bytes) -> str | None:
        """Send one message, with a few attempts; return why it could not be sent."""
        problem = None
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_BETWEEN * 2 ** (attempt - 1))
            if self._late():
                break
            problem, again = self._post(body)
            if problem is None or not again:
                break
        return problem

    def _post(self, body: bytes) -> tuple[str | None, bool]:
        """Send one request. Returns why it failed, and whether another attempt can help."""
        request = urllib.request.Request(  # noqa: S310 - `checked_url` allows http and https
            self._url, data=body, headers=self._headers, method="POST"
        )
        try:
            with _OPENER.open(request, timeout=_TIMEOUT) as answer:
                answer.read(1)
        except urllib.error.HTTPError as error:
            with error:
                return f"the answer was {error.code}", error.code >= 500 or error.code in _TRY_AGAIN
        except urllib.error.URLError as error:
            return str(error.reason) or type(error.reason).__name__, True
        except InvalidURL:  # its text may contain a part of a password; `checked_url` accepted the webhook
            return "the URL of the proxy is not valid", False
        except (OSError, HTTPException) as error:
            return str(error) or type(error).__name__, True
        return None, False

    def _failure(self, why: str) -> str:
        return f"a notification to {self._host} was not sent: {why}"


def _authorization(parts: urllib.parse.SplitResult) -> dict[str, str]:
    """Return the header for the user and the password of a URL, if it has them."""
    if parts.username is None:
        return {}
    user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would turn the message into a request without one, to a host that was not named."""

    def redirect_request(self, *_: object) -> None:
        """Follow no redirect: it is reported as the answer."""


_OPENER: Final = urllib.request.build_opener(_NoRedirects)


def checked_url(url: str) -> str:
    """Return the URL of a webhook. UsageError, without the URL, if it cannot be one."""
    if not is_http_url(url):
        raise UsageError("--notify: this is not the URL of a webhook (https://…).")
    return url


def is_http_url(url: str) -> bool:
    """Return whether a request can be sent to a URL."""
    try:
        parts = urllib.parse.urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    return fits and url.isascii() and url.isprintable() and " " not in url


class Outbox(Protocol):
    """Where messages go: a webhook."""

    def send(self, message: Message) -> None:
        """Send a message; returns at once."""
        ...

    def close(self) -> None:
        """Wait, for a short time, until everything is sent."""
        ...


class Notifications(Struct, frozen=True, kw_only=True):
    """The options for messages: their destination, and after how many seconds a blocked step is reported."""

    url: str
    blocked_after: float | None = None


class Notifier(Sink):
    """A sink that sends a message when something happens that a person should know.

    `failed_before`: the previous run of the plan, or this one before it was resumed, had failed. `resumed` says which.
    Without `ends` the end of the run is not reported: the fleet run that it belongs to reports its own.
    """

    def __init__(
        self,
        webhook: Outbox,
        *,
        plan: str,
        run: str,
        database: str = "",
        failed_before: bool = False,
        resumed: bool = False,
        ends: bool = True,
        blocked_after: float | None = None,
    ) -> None:
        self._webhook = webhook
        self._about = {"plan": plan, "run": run, "host": socket.gethostname()}
        if database:
            self._about["database"] = database
        self._failed_before = failed_before
        self._before = "it had failed before" if resumed else "the run before had failed"
        self._ends = ends
        self._blocked_after = blocked_after
        self._blocked: dict[str, AttemptBlocked] = {}
        self._reported: set[tuple[str, int]] = set()

    def handle(self, event: Event, state: RunState) -> None:  # noqa: ARG002 - the protocol's
        """Send a message if one belongs to the event."""
        match event:
            case RunStarted():
                self._about["database"] = event.database
            case AttemptBlocked():
                self._blocked[event.step] = event
            case AttemptUnblocked() | AttemptFinished():
                self._blocked.pop(event.step, None)
            case RunFinished() if not self._ends:
                pass
            case RunFinished(exit_code=0):
                if self._failed_before:
                    self._send("recovery", f"succeeded; {self._before}", exit_code=0)
            case RunFinished() if is_failure(event.exit_code):
                self._failed(event)

    def tick(self, now: float, state: RunState) -> None:  # noqa: ARG002 - the protocol's
        """Report steps that have been blocked for too long, each attempt once."""
        if self._blocked_after is None:
            return
        for step, event in self._blocked.items():
            key, seconds = (step, event.attempt), now - event.waiting_since
            if seconds >= self._blocked_after and key not in self._reported:
                self._reported.add(key)
                on = "" if event.relation is None else f" on {event.relation}"
                by = [{"pid": one.pid, "user": one.user, "application": one.name} for one in event.by]
                what = f"step {step} has waited {format_duration(round(seconds))} for a lock{on}"
                self._send("blocked", what, step=step, seconds=round(seconds), relation=event.relation, by=by)

    def close(self) -> None:
        """Wait, for a short time, until everything is sent."""
        self._webhook.close()

    def ended_early(self, exit_code: int) -> None:
        """Report that an error ended the command, and wait for a short time until that is sent."""
        if is_failure(exit_code):
            self._send("failure", f"ended with exit code {exit_code} before it had begun", exit_code=exit_code)
        self.close()

    def _failed(self, event: RunFinished) -> None:
        bad = [(step, state) for step, state in event.steps.items() if state in BAD]
        steps = [{"step": step, "state": state} for step, state in bad[:_MOST_STEPS]]
        names = f": {some([f'{step} {state}' for step, state in bad], _MOST_STEPS)}" if bad else ""
        what = f"ended with exit code {event.exit_code}{names}"
        self._send("failure", what, exit_code=event.exit_code, steps=steps)

    def _send(self, event: str, what: str, **fields: object) -> None:
        run = f", run {self._about['run']}" if self._about["run"] and self._about["plan"] else ""
        where = f" on {self._about['database']}" if "database" in self._about else ""
        text = f"jobplan: {self._about['plan'] or 'run ' + self._about['run']}{where}{run} {what}"
        self._webhook.send({"text": text, "event": event, **self._about, **fields})
