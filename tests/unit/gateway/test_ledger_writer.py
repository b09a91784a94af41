"""The ledger's side of a run without a server: what is kept, taken along, given back and given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest

from runner.engine import events as ev
from runner.engine.state import initial_state
from runner.errors import GatewayError
from runner.gateway.ledger import writer as module
from runner.gateway.ledger.commit_rows import Commits
from runner.gateway.ledger.reader import EventKey
from runner.gateway.ledger.sink import LedgerSink
from runner.gateway.ledger.writer import Ledger, digest_of
from runner.gateway.replies import Reply
from tests.builders import plan, step

FOUND = ("t", "t", "f", "t", "[]", "me", "UTF8", "off", "read committed", "0", "on")
Statement = tuple[str, Sequence[str]]


class Server:
    """Answers as a session and as a link; `errors` come first, None is the absence of a server."""

    def __init__(self, *found: str | None, version: str = "2") -> None:
        self.found = found or FOUND
        self.version = version
        self.errors: list[str | None] = []
        self.hangs = False
        self.written: list[tuple[int, str]] = []
        self.statements: list[str] = []
        #: Events that say that a worker has a commit row.
        self.claims: set[int] = set()

    async def run(self, *statements: Statement) -> list[Reply]:
        answers = {"ledger_found": self.found, "ledger_version": (self.version,)}
        return [Reply(rows=(answers[name],) if name in answers else ()) for name, _ in statements]

    async def together(self, *statements: Statement) -> list[Reply]:
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.errors:
            sqlstate = self.errors.pop(0)
            if sqlstate is None:
                raise GatewayError("away")
            error = ev.ErrorDetails(message="no", sqlstate=sqlstate)
            return [Reply(), *(Reply(error=error) for _ in statements[1:])]
        for name, parameters in statements:
            self.statements.append(name)
            if name == "ledger_events":
                rows = json.loads(parameters[1])
                self.written += [(seq, event["event"]) for seq, event in rows]
                self.claims |= {seq for seq, event in rows if event.get("commit_row")}
        answers = {"ledger_withdraw_commit_row": tuple((str(seq),) for seq in sorted(self.claims))}
        if any(name == "ledger_withdraw_commit_row" for name, _ in statements):
            self.claims.clear()
        return [Reply(rows=answers.get(name, ())) for name, _ in statements]


async def opened(server: Server) -> Ledger:
    ledger = Ledger("r", "jobplan")
    await ledger.open(server, server)
    return ledger


def event(name: str) -> str:
    return json.dumps({"event": name})


def key(name: str) -> EventKey:
    return ("then", name, None, None)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here waits."""
    for name in ("BATCH_EVERY", "TRY_AGAIN"):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(module, "LAST_TRY", 0.2)
    monkeypatch.setattr("runner.gateway.ledger.commit_rows.LAST_TRY", 0.2)


@pytest.mark.parametrize(
    ("found", "version", "problem"),
    [
        (("f", "f", "f", None), "1", "there is no schema jobplan"),
        (("t", "f", "f", None), "1", "there is none in schema jobplan"),
        (("t", "t", "t", "t"), "1", "the server is a standby, which is read-only"),
        (("t", "t", "f", "f"), "1", "this role may not write to the one in schema jobplan"),
        (("t", "t", "f", "t"), "4", "the one in schema jobplan is of version 4, and this jobplan writes 3"),
    ],
)
async def test_why_it_is_not_written(found: tuple[str | None, ...], version: str, problem: str) -> None:
    ledger = await opened(Server(*found, *FOUND[4:], version=version))
    assert ledger.problem is not None
    assert ledger.problem.startswith(problem)
    assert not ledger.on
    ledger.take(event("a"))
    assert ledger.ahead("s", 1, commit_row=False) is None
    await ledger.close()


async def test_what_was_taken_is_written_in_order_and_once() -> None:
    server = Server()
    ledger = await opened(server)
    ledger.recall([(3, key("x")), (7, key("y"))])
    ledger.begin("p", event("run_started"), "{}")
    ledger.take_first(event("a"))
    ledger.take(event("b"))
    await ledger.before_launch()
    assert server.statements == [
        "ledger_begin",
        "ledger_limits",
        "ledger_same",
        "ledger_events",
        "ledger_run",
        "commit",
    ]
    ledger.take(event("c"))
    ledger.end(event("run_finished"))
    await ledger.close()
    assert server.written == [(8, "a"), (9, "b"), (10, "c")]
    assert server.statements[-2:] == ["ledger_end", "commit"]
    assert ledger.problem is None


async def test_a_launch_takes_along_what_has_happened_but_no_other_launch() -> None:
    ledger = await opened(Server())
    ledger.take(event("a"))
    ledger.take_launching(event("launch-1"), "s", 1)
    ledger.take_launching(event("launch-2"), "t", 1)
    batch = ledger.ahead("s", 1, commit_row=True)
    assert batch is not None
    assert [name for name, _ in batch.statements] == [
        "ledger_begin",
        "ledger_limits",
        "ledger_same",
        "ledger_events",
        "commit",
    ]
    assert json.loads(batch.statements[3][1][1]) == [
        [1, {"event": "a"}],
        [2, {"event": "launch-1", "commit_row": True, "proof": digest_of(ledger.proof("s", 1))}],
    ]
    other = ledger.ahead("t", 1, commit_row=False)
    assert other is not None
    assert json.loads(other.statements[3][1][1]) == [[3, {"event": "launch-2"}]]
    await ledger.close()


async def test_no_launch_goes_ahead_of_what_has_happened_before_it_however_much_that_is() -> None:
    ledger = await opened(Server())
    for number in range(5_000):
        ledger.take(event(str(number)))
    ledger.take_launching(event("launch"), "s", 1)
    batch = ledger.ahead("s", 1, commit_row=False)
    assert batch is not None
    assert [name for name, _ in batch.statements[3:]] == [*["ledger_events"] * 3, "commit"]
    rows = [
        row for name, parameters in batch.statements if name == "ledger_events" for row in json.loads(parameters[1])
    ]
    assert [seq for seq, _ in rows] == list(range(1, 5_002))
    assert rows[-1][1] == {"event": "launch"}
    await ledger.close()


async def test_instances_are_written_before_one_of_them_is_launched() -> None:
    """Batches of several sessions are on their way at the same time, and perhaps only the later one arrives."""
    server = Server()
    ledger = await opened(server)
    ledger.take(event("a"))
    await ledger.before_launch()
    assert not server.written
    ledger.take_first(event("expanded"))
    ledger.take_launching(event("launch"), "s[1]", 1)
    server.errors = [None]
    await ledger.before_launch()
    assert not server.written  # the server cannot be queried now
    await ledger.before_launch()
    assert server.written == [(1, "a"), (2, "expanded")]
    server.written.clear()
    ledger.take(event("b"))
    await ledger.before_launch()
    assert not server.written
    await ledger.close()


async def test_nothing_goes_ahead_of_instances_that_another_launch_has_taken_along() -> None:
    server = Server()
    ledger = await opened(server)
    ledger.take_first(event("expanded"))
    ledger.take_launching(event("launch-1"), "y", 1)
    batch = ledger.ahead("y", 1, commit_row=False)
    assert batch is not None
    ledger.take(event("ready"))
    ledger.take_launching(event("launch-2"), "z[1]", 1)
    waiting = asyncio.create_task(ledger.before_launch())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert not server.written
    batch.failed(None)
    await waiting
    assert server.written == [(1, "expanded"), (2, "launch-1"), (3, "ready")]
    ledger.take_first(event("more"))
    batch = ledger.ahead("z[1]", 1, commit_row=False)
    assert batch is not None
    await server.together(*batch.statements)
    waiting = asyncio.create_task(ledger.before_launch())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    batch.written()
    await waiting
    await ledger.close()


async def test_what_is_said_of_an_attempt_comes_after_its_announcement() -> None:
    """A launch may be put off, or stopped, before a worker is requested."""
    server = Server()
    ledger = await opened(server)
    ledger.take_launching(event("launch-2"), "s", 2)
    ledger.take(event("deferred"), ("s", 2))
    await ledger.close()
    assert server.written == [(1, "launch-2"), (2, "deferred")]


async def test_a_ledger_that_is_out_of_reach_for_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is thrown away would be a hole in the record, that would stay unnoticed."""
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    server = Server()
    ledger = await opened(server)
    for name in "abcd":
        ledger.take(event(name))
    server.errors = ["55P03"]
    assert not await ledger.write()
    assert ledger.problem == "the ledger in schema jobplan is not written any longer: more than 3 events wait for it"
    await ledger.close()
    assert not server.written


async def test_a_launch_takes_the_run_s_own_row_along_as_long_as_that_is_not_written() -> None:
    server = Server()
    ledger = await opened(server)
    ledger.begin("p", event("run_resumed"), "{}")
    ledger.take(event("run_resumed"))
    server.errors = [None]
    await ledger.before_launch()
    batch = ledger.ahead("s", 1, commit_row=False)
    assert batch is not None
    assert [name for name, _ in batch.statements[3:]] == ["ledger_events", "ledger_run", "commit"]
    await ledger.close()
    assert server.statements[3:] == ["ledger_run", "commit"]


async def test_what_an_earlier_runner_has_recorded_elsewhere_is_written_first() -> None:
    server = Server()
    ledger = await opened(server)
    ledger.recall([(1, key("a")), (3, key("c"))])
    ledger.complete([key(name) for name in "abcde"], lambda place: event("abcde"[place]))
    ledger.take(event("f"))
    assert await ledger.write()
    assert server.written == [(2, "b"), (4, "d"), (5, "e"), (6, "f")]
    await ledger.close()


async def test_a_launch_that_was_put_off_is_announced_again() -> None:
    server = Server()
    ledger = await opened(server)
    ledger.take_launching(event("launch-1"), "s", 1)
    ledger.take_launching(event("launch-2"), "s", 1)
    batch = ledger.ahead("s", 1, commit_row=False)
    assert batch is not None
    batch.failed(None)
    await ledger.close()
    assert server.written == [(1, "launch-1"), (2, "launch-2")]


@pytest.mark.parametrize("error", ["55P03", "57014", "53100", None])
async def test_what_cannot_be_written_now_is_written_later(error: str | None) -> None:
    server = Server()
    ledger = await opened(server)
    ledger.take(event("a"))
    server.errors = [error]
    assert not await ledger.write()
    assert ledger.on
    if error is not None:
        assert not ledger.answers
        ledger.take(event("b"))
        assert ledger.ahead("s", 1, commit_row=False) is None
    assert await ledger.write()
    assert ledger.answers
    assert server.written[0] == (1, "a")
    await ledger.close()


@pytest.mark.parametrize("error", ["42P01", "42501", "25006"])
async def test_what_can_never_be_written_is_given_up(error: str) -> None:
    server = Server()
    ledger = await opened(server)
    ledger.take(event("a"))
    server.errors = [error]
    assert not await ledger.write()
    assert ledger.problem == "the ledger in schema jobplan is not written any longer: no"
    ledger.take(event("b"))
    await ledger.close()
    assert server.written == []


async def test_a_character_that_the_server_does_not_have_is_escaped() -> None:
    server = Server()
    ledger = await opened(server)
    ledger.take('{"event": "ä\\u00e4"}')
    server.errors = ["22P05"]
    assert await ledger.write()
    assert server.written == [(1, "U&\\00E4\\00E4")]
    ledger.take('{"event": "\\u0416"}')
    server.errors = ["22P05"]
    assert await ledger.write()
    assert ledger.problem is not None
    await ledger.close()


async def launched(ledger: Ledger, server: Server, attempt: int = 1, *, error: str | None = None) -> None:
    """Announce a worker with a commit row, as a launch does; `error` is what the server says to that."""
    ledger.take_launching(event("launch"), "s", attempt)
    batch = ledger.ahead("s", attempt, commit_row=True)
    assert batch is not None
    if error is None:
        await server.together(*batch.statements)
    else:
        batch.failed(ev.ErrorDetails(message="no", sqlstate=error))


async def test_a_worker_that_was_announced_with_a_row_runs_without_one_when_the_ledger_knows() -> None:
    server = Server()
    ledger = await opened(server)
    await launched(ledger, server)
    server.errors = ["55P03", None]
    assert [await Commits(ledger).withdraw_commit_row("s", 1) for _ in range(3)] == [False, False, True]
    assert await Commits(ledger).withdraw_commit_row("s", 1)
    assert await Commits(ledger).withdraw_commit_row("t", 1)  # of which nothing was announced
    assert server.statements.count("ledger_withdraw_commit_row") == 1
    await ledger.close()
    assert not server.claims


async def test_an_announcement_that_was_not_written_is_taken_back_before_it_is() -> None:
    server = Server()
    ledger = await opened(server)
    await launched(ledger, server, error="55P03")
    assert ledger.withdraw("s", 1)
    await ledger.close()
    assert server.written == [(1, "launch")]
    assert not server.claims


async def test_an_announcement_on_its_way_cannot_be_taken_back_yet() -> None:
    server = Server()
    ledger = await opened(server)
    ledger.take_launching(event("launch"), "s", 1)
    batch = ledger.ahead("s", 1, commit_row=True)
    assert batch is not None
    assert not await Commits(ledger).withdraw_commit_row("s", 1)  # the UPDATE has not found it
    await server.together(*batch.statements)
    assert await Commits(ledger).withdraw_commit_row("s", 1)
    await ledger.close()


async def test_what_was_announced_before_a_worker_was_put_off_counts_too() -> None:
    server = Server()
    ledger = await opened(server)
    await launched(ledger, server)
    await launched(ledger, server, error="55P03")
    assert not ledger.withdraw("s", 1)
    assert await Commits(ledger).withdraw_commit_row("s", 1)
    await ledger.close()
    assert server.written == [(1, "launch"), (2, "launch")]


async def test_what_was_thrown_away_announces_nothing() -> None:
    server = Server()
    ledger = await opened(server)
    await launched(ledger, server, error="42501")
    assert not ledger.on
    assert ledger.withdraw("s", 1)
    await ledger.close()


async def test_closing_ends_within_a_limit() -> None:
    server = Server()
    ledger = await opened(server)
    ledger.take(event("a"))
    server.errors = ["55P03"] * 1_000_000
    await ledger.close()
    assert ledger.problem == "the last events could not be written to the ledger: no"


async def test_a_batch_whose_wait_was_given_up_is_kept() -> None:
    server = Server()
    ledger = await opened(server)

    ledger.take(event("a"))
    server.hangs = True
    writing = asyncio.create_task(ledger.write())
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    server.hangs = False
    await ledger.close()
    assert server.written == [(1, "a")]


async def test_without_a_schema_it_is_off() -> None:
    ledger = Ledger("r", None)
    await ledger.open(Server(), Server())
    assert not ledger.on
    assert ledger.problem is None
    await ledger.close()


# --- the sink ---------------------------------------------------------------------------------------------------------


class Writer(Ledger):
    """Keeps what it receives."""

    def __init__(self) -> None:
        super().__init__("r", "jobplan")
        self.received: list[tuple[str | None, ...]] = []
        self.texts: list[str] = []

    @property
    def on(self) -> bool:
        return True

    def complete(self, journal: Sequence[EventKey], text: Callable[[int], str]) -> None:
        self.received += [
            ("complete", *key[1:3], json.loads(text(place))["event"]) for place, key in enumerate(journal)
        ]

    def begin(self, plan: str, event: str, resolved: str) -> None:
        self.received.append(("begin", plan, json.loads(event)["event"], json.loads(resolved)["name"]))

    def take(self, event: str, of: tuple[str, int] | None = None) -> None:
        self.texts.append(event)
        self.received.append(("take", json.loads(event)["event"], *map(str, of or ())))

    def take_first(self, event: str) -> None:
        self.received.append(("first", json.loads(event)["event"]))

    def take_launching(self, event: str, step: str, attempt: int) -> None:
        self.received.append(("launching", json.loads(event)["event"], step, str(attempt)))

    def end(self, event: str) -> None:
        self.received.append(("end", json.loads(event)["event"]))


def test_the_sink_reports_beginnings_launches_and_the_end_apart() -> None:
    of = plan(step("a", "SELECT 1"))
    state, writer = initial_state(of), Writer()
    history = [ev.StepReady(at=0.0, step="a"), ev.RunTimedOut(at=0.0)]
    sink = LedgerSink(writer, "r", history)
    resumed = ev.RunResumed(at=0.0, jobplan="0", file="", sha256="", host="", os_pid=1, slots=1, steps=1)
    launching = ev.AttemptLaunching(at=0.0, step="a", attempt=2, application_name="", timeout=None)
    waits = ev.GroupWaiting(at=0.0, message="")
    expanded = ev.StepExpanded(at=0.0, step="a", items=())
    lost = ev.AttemptLost(at=0.0, step="a", attempt=2, message="")
    for happened in (waits, resumed, expanded, launching, lost, ev.RunFinished(at=0.0, exit_code=0, steps={})):
        sink.handle(happened, state)
    assert writer.received == [
        ("complete", "step_ready", "a", "step_ready"),
        ("complete", "run_timed_out", None, "run_timed_out"),
        ("begin", "test", "run_resumed", "test"),
        ("first", "run_resumed"),
        ("first", "step_expanded"),
        ("launching", "attempt_launching", "a", "2"),
        ("take", "attempt_lost", "a", "2"),
        ("take", "run_finished"),
        ("end", "run_finished"),
    ]


def test_what_no_text_of_postgresql_can_hold_is_replaced() -> None:
    writer = Writer()
    sink = LedgerSink(writer, "r")
    notice = ev.Notice(severity="NOTICE", message="a\0b\udcffc\nä")
    sink.handle(ev.AttemptNotice(at=0.0, step="a", attempt=1, notice=notice), initial_state(plan(step("a", "S"))))
    assert json.loads(writer.texts[0])["notice"]["message"] == "a\ufffdb?c\nä"
