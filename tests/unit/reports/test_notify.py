"""Messages to a webhook, with real servers: good, slow, refusing, failing, and silent ones."""

from __future__ import annotations

import base64
import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from runner.engine.events import AttemptBlocked, AttemptUnblocked, Blocker, Event, RunFinished
from runner.engine.state import initial_state
from runner.errors import UsageError
from runner.reports import notify
from runner.reports.notify import Notifier, Webhook, checked_url
from tests.builders import plan, step

#: The path of a URL, which lets anyone write.
PATH_OF_URL = "T0000/B0000/verysecret"


class Receiver:
    """A web server that answers with these codes, the last one for all further requests."""

    def __init__(self, *codes: int) -> None:
        self.got: list[dict[str, Any]] = []
        receiver = self
        answers = list(codes)

        class Handler(BaseHTTPRequestHandler):
            """Keeps what it gets."""

            quiet: ClassVar = True

            def do_POST(self) -> None:
                """Answer as planned."""
                length = int(self.headers["Content-Length"])
                receiver.got.append({**json.loads(self.rfile.read(length)), "type": self.headers["Content-Type"]})
                if "Authorization" in self.headers:
                    receiver.got[-1]["authorization"] = self.headers["Authorization"]
                code = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "/other")
                self.end_headers()

            def do_GET(self) -> None:
                """No redirect may lead here."""
                receiver.got.append({"text": "GET"})

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/{PATH_OF_URL}"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def receiver(*codes: int) -> Iterator[Receiver]:
    """Start a web server, and stop it."""
    server = Receiver(*codes)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def silent() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/{PATH_OF_URL}"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less than with real servers."""
    monkeypatch.setattr(notify, "_BETWEEN", 0.01)


def sent(url: str, *messages: str) -> list[str]:
    """Send messages, and return the warnings."""
    warnings: list[str] = []
    webhook = Webhook(url, warnings.append)
    for text in messages:
        webhook.send({"text": text})
    webhook.close()
    return warnings


def test_a_message_is_json_with_a_text() -> None:
    with receiver(200) as server:
        assert sent(server.url, "one", "zwei: é 😀") == []
        assert server.got == [
            {"text": "one", "type": "application/json"},
            {"text": "zwei: é 😀", "type": "application/json"},
        ]


@pytest.mark.parametrize("codes", [(500, 503, 200), (429, 200), (408, 204)])
def test_an_error_of_the_server_is_tried_again(codes: tuple[int, ...]) -> None:
    with receiver(*codes) as server:
        assert sent(server.url, "x") == []
        assert len(server.got) == len(codes)


def test_after_a_few_attempts_it_is_a_warning_without_the_url() -> None:
    with receiver(500) as server:
        (warning,) = sent(server.url, "x")
        assert len(server.got) == 3
    assert warning == "a notification to 127.0.0.1 was not sent: the answer was 500"


@pytest.mark.parametrize(
    ("user", "header"),
    [("me:hunter2", "me:hunter2"), ("me", "me:"), (":hunter2", ":hunter2"), ("me:h%40:x", "me:h@:x")],
)
def test_a_user_and_a_password_of_a_url_are_sent_and_never_repeated(user: str, header: str) -> None:
    with receiver(200, 404) as server:
        url = server.url.replace("http://", f"http://{user}@")
        assert sent(url, "x") == []
        assert base64.b64decode(server.got[0]["authorization"].removeprefix("Basic ")).decode() == header
        (warning,) = sent(url, "x")
    assert warning == "a notification to 127.0.0.1 was not sent: the answer was 404"
    with silent() as unanswered:  # its port is not in use any more
        url = unanswered.replace("http://", f"http://{user}@")
    for other in (url, "http://me:hunter2@127.0.0.1/x", "http://hunter2@nowhere.invalid/x"):
        assert "hunter2" not in "".join(sent(other, "x"))


def test_a_wrong_proxy_is_a_warning_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("http://me:hunter2", "me:hunter2", "http://me:hunter2@h:port"):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}))
        monkeypatch.setattr(notify, "_OPENER", opener)
        (warning,) = sent("http://hooks.invalid/x", "x")
        assert "hunter2" not in warning


def test_a_text_that_is_not_unicode_is_sent() -> None:
    with receiver(200) as server:
        assert sent(server.url, "plan \udcff") == []
        assert server.got[0]["text"] == "plan \udcff"


@pytest.mark.parametrize("code", [400, 403, 404, 302])
def test_what_cannot_help_is_not_repeated(code: int) -> None:
    with receiver(code) as server:
        (warning,) = sent(server.url, "x")
        assert len(server.got) == 1
    assert str(code) in warning
    assert PATH_OF_URL not in warning


def test_a_refused_connection_is_a_warning() -> None:
    with silent() as url:
        pass
    (warning,) = sent(url, "x")
    assert "refused" in warning
    assert PATH_OF_URL not in warning


def test_a_silent_server_does_not_hold_the_end_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PATIENCE", 0.2)
    monkeypatch.setattr(notify, "_TIMEOUT", 2.0)
    with silent() as url:
        (warning,) = sent(url, *["x"] * 200)
    assert "no answer within 0.2 s" in warning
    assert PATH_OF_URL not in warning


def test_a_slow_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_TIMEOUT", 0.05)
    with silent() as url:
        (warning,) = sent(url, "x")
    assert "timed out" in warning


@pytest.mark.parametrize(
    "url",
    ["", "slack", "ftp://x/y", "file:///etc/passwd", "https://", "http://[::1", "http://h:99999/x", "http://h/ a"],
)
def test_other_texts_are_no_urls_and_are_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as error:
        checked_url(url)
    assert not url or url not in error.value.message.replace("https://…", "")


STATE = initial_state(plan(step("a", "SELECT 1")))
BLOCKED = AttemptBlocked(
    at=110.0,
    step="a",
    attempt=1,
    mode="AccessExclusiveLock",
    lock="relation",
    relation="public.orders",
    by=(Blocker(pid=7, name="psql", user="ann"),),
    waiting_since=100.0,
    seconds=10.0,
)


def messages(*events: Event, ticks: tuple[float, ...] = (), failed_before: bool = False) -> list[dict[str, Any]]:
    """Return the messages for these events and then these moments."""
    with receiver(200) as server:
        webhook = Webhook(server.url, pytest.fail)
        notifier = Notifier(webhook, plan="nightly", run="r1", failed_before=failed_before, blocked_after=300)
        for event in events:
            notifier.handle(event, STATE)
        for moment in ticks:
            notifier.tick(moment, STATE)
        notifier.close()
        return server.got


def test_a_failure_names_the_steps_and_no_message_of_the_server() -> None:
    (message,) = messages(RunFinished(at=1.0, exit_code=1, steps={"a": "failed", "b": "succeeded", "c": "timed_out"}))
    assert message["event"] == "failure"
    assert message["text"] == "jobplan: nightly, run r1 ended with exit code 1: a failed, c timed_out"
    assert message["steps"] == [{"step": "a", "state": "failed"}, {"step": "c", "state": "timed_out"}]
    assert (message["plan"], message["run"], message["exit_code"]) == ("nightly", "r1", 1)


@pytest.mark.parametrize("code", [0, 8, 9])
def test_a_success_and_a_run_that_continues_later_are_no_news(code: int) -> None:
    assert messages(RunFinished(at=1.0, exit_code=code, steps={"a": "succeeded"})) == []


def test_a_success_after_a_failure_is_a_recovery() -> None:
    (message,) = messages(RunFinished(at=1.0, exit_code=0, steps={"a": "succeeded"}), failed_before=True)
    assert message["event"] == "recovery"
    assert "nightly" in message["text"]


def test_many_failed_steps_are_counted() -> None:
    (message,) = messages(RunFinished(at=1.0, exit_code=1, steps={f"s{number}": "failed" for number in range(13)}))
    assert len(message["steps"]) == 10
    assert message["text"].endswith("s9 failed and 3 more")


def test_a_long_wait_for_a_lock_is_reported_once() -> None:
    (message,) = messages(BLOCKED, ticks=(399.0, 400.0, 401.0))
    assert message["event"] == "blocked"
    assert message["text"] == "jobplan: nightly, run r1 step a has waited 5m00s for a lock on public.orders"
    assert message["by"] == [{"pid": 7, "user": "ann", "application": "psql"}]


def test_a_wait_that_has_ended_is_not_reported() -> None:
    ended = AttemptUnblocked(at=120.0, step="a", attempt=1, mode="AccessExclusiveLock", lock="relation", seconds=20.0)
    assert messages(BLOCKED, ended, ticks=(900.0,)) == []
