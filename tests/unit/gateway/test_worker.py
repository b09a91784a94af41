"""A worker's rare ends, on a session whose every answer is written down: races that no server can be made to show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import pytest

from runner.engine.events import ErrorDetails, Worker
from runner.engine.ports import LaunchRequest, WorkerEnd
from runner.engine.server_activity import ReportedProgress
from runner.errors import CapacityError, GatewayError, ServerLostError
from runner.gateway.polling import Rhythm
from runner.gateway.replies import Reply, Row
from runner.gateway.session import NothingExecutedError, Session
from runner.gateway.worker import LaunchedWorker, LaunchRefusedError
from runner.gateway.worker_follower import WorkerSearch
from runner.identity import step_of
from runner.structs import replace

NAME = "jobplan:run:step"
WORKER = Worker(pid=42, backend_start="2026-01-31T00:00:00.000000Z", application_name=NAME)
LOST = ServerLostError("the connection is lost")
CANCELLED = ErrorDetails(message="canceling statement due to user request", sqlstate="57014")
OWN = "background worker, pid 42"

Answer = Reply | ServerLostError


def row(*, done: bool, error: bool = False, tag: str = "", finished: bool = True, pid: int = 42) -> Reply:
    """Return what `wait` gives."""
    end = "101.5" if finished and done else None
    values: Row = (str(pid), "7", "t" if done else "f", "1", tag, "t" if error else "f", "100.0", end)
    return Reply(rows=(values,))


RUNNING = row(done=False)
SUCCEEDED = row(done=True, tag="DO")
FAILED = row(done=True, error=True)
GONE_WITHOUT_A_WORD = row(done=True, finished=False)
TAGS = Reply(rows=(("DO",),))
FREE, TRACKS = Reply(rows=(("0", "0"),)), Reply(rows=(("1", "1"),))
LAUNCHED_AND_FREE = Reply(rows=(("0", "1"),))
DETAILS = Reply(rows=(("22012", "division by zero", None, None, OWN, None, None, None, None),))


class Scripted(Session):
    """A session that answers each statement with the next of its answers; `follow` with those of `wait`."""

    def __init__(self, answers: dict[str, list[Answer]]) -> None:
        self._answers = answers
        self.asked: list[str] = []
        self.parameters: dict[str, tuple[str, ...]] = {}
        self.search_path, self.role, self.process = "public", "none", 42
        self.on_notice = None
        self.launched = 0
        #: The progress that the worker has reported.
        self.progress: str | None = None
        self._lost = None

    @property
    def backend_pid(self) -> int:
        return 4711

    async def run(self, *statements: tuple[str, Iterable[str]], answer_within: float | None = None) -> list[Reply]:  # noqa: ARG002
        await asyncio.sleep(0)
        replies = []
        for name, parameters in statements:
            self.asked.append(name)
            self.parameters[name] = tuple(parameters)
            answers = self._answers.get("wait" if name == "follow" else name)
            answer: Answer = Reply()
            if answers:
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, ServerLostError):
                raise answer
            if name == "follow":
                report = (self.progress, None if self.progress is None else "half")
                answer = replace(answer, rows=tuple((*row, *report) for row in answer.rows))
            replies.append(answer)
        return replies

    run_together = run

    async def describe(self, *_: object) -> Reply:
        return Reply()

    async def cancel(self) -> None:
        self.asked.append("(cancel)")


class Eyes:
    """The monitor: sees the worker for so many looks, or never; `late`: after so many that see nothing."""

    def __init__(self, looks: int = 0, *, late: int = 0, blocked: bool = False) -> None:
        self.looks = looks
        self.late = late
        self.blocked = blocked
        self.cancels = 0
        self.away = False
        self.who: str | None = None

    def _look(self) -> bool:
        if self.away:
            raise GatewayError("the server cannot be queried now")
        if self.late > 0:
            self.late -= 1
            return False
        self.looks -= 1
        return self.looks >= 0

    async def identify(self, search: WorkerSearch) -> tuple[Worker, float] | None:  # noqa: ARG002 - the protocol's
        return (WORKER, 0.5) if self._look() else None

    async def is_running(self, search: WorkerSearch, worker: Worker | None) -> bool:  # noqa: ARG002 - the protocol's
        return self._look()

    async def waits_for(self, worker: Worker, session_pid: int) -> bool:  # noqa: ARG002 - the protocol's
        return False

    async def cancel(self, worker: Worker) -> None:
        assert worker == WORKER
        self.cancels += 1

    def is_blocked(self, worker: Worker) -> bool:  # noqa: ARG002 - the protocol's
        return self.blocked

    async def reconnected(self) -> None:
        """It was never away for long."""

    async def cancelled_by(self, step: str) -> str | None:
        assert step == step_of(NAME)
        return self.who


class Case:
    """A worker on a scripted session; without settings of the plan's it is launched and awaited in one statement."""

    def __init__(
        self,
        eyes: Eyes | None = None,
        *,
        detachable: bool = False,
        settings: Mapping[str, str] | None = None,
        **answers: Answer | Sequence[Answer],
    ) -> None:
        defaults: dict[str, Answer | Sequence[Answer]] = {
            "launch": Reply(rows=(("42", "7", "2026-01-31T00:00:00.000000Z"),)),
            "load": FREE,
            "error": DETAILS,
            "drain": TAGS,
            "now": Reply(rows=(("101.5",),)),
        }
        script = {**defaults, **answers}
        self.session = Scripted({name: list(a) if isinstance(a, Sequence) else [a] for name, a in script.items()})
        self.eyes = eyes or Eyes()
        self.over: list[bool] = []
        self.seen: list[Worker] = []
        self.lost: list[str] = []
        request = LaunchRequest(
            sql="DO $$ BEGIN END $$",
            application_name=NAME,
            detachable=detachable,
            settings={"work_mem": "8MB"} if settings is None else settings,
        )
        self.worker = LaunchedWorker(request, self.session, self.eyes, self._is_over, rhythm=Rhythm())

    def _is_over(self, worker: LaunchedWorker) -> None:
        self.over.append(worker.session_free)

    async def end(self, before: Callable[[LaunchedWorker], None] = lambda _: None) -> WorkerEnd:
        await self.worker.launch()
        before(self.worker)
        return await self.worker.wait_until_ended(
            on_seen=self.seen.append, on_lost=self.lost.append, on_unstoppable=lambda _, __: None
        )


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the worker without any pause, and look it up at once; it has left the phase of waits in the server."""
    monkeypatch.setattr("runner.gateway.worker.POLL_WHILE_READING", 0)
    monkeypatch.setattr("runner.gateway.polling.IN_SERVER", 0)
    monkeypatch.setattr("runner.gateway.worker.IDENTIFY_AFTER", 0)
    monkeypatch.setattr("runner.gateway.polling.pause_after", lambda *_: 0)
    monkeypatch.setattr("runner.gateway.worker_follower.POLL_INTERVAL", 0)


# --- the launch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sqlstate", ["53000", "53400", "53300"])
async def test_a_refusal_for_want_of_workers_is_a_shortage(sqlstate: str) -> None:
    case = Case(launch=Reply(error=ErrorDetails(message="none left", sqlstate=sqlstate)))
    with pytest.raises(CapacityError, match="none left"):
        await case.worker.launch()
    assert case.worker.session_free


async def test_any_other_refusal_is_the_steps_own() -> None:
    case = Case(launch=Reply(error=ErrorDetails(message="no such role", sqlstate="22023")))
    with pytest.raises(LaunchRefusedError, match="no such role"):
        await case.worker.launch()
    assert case.worker.session_free


async def test_a_launch_that_another_session_cancelled_may_have_launched() -> None:
    case = Case(Eyes(looks=3), launch=Reply(error=CANCELLED))
    end = await case.end()
    assert end.lost
    assert case.lost == [CANCELLED.message]
    assert case.over == [False]


async def test_a_launch_whose_session_was_lost_is_followed_by_name() -> None:
    case = Case(Eyes(looks=3), launch=LOST)
    end = await case.end()
    assert end.lost
    assert end.reason == str(LOST)
    assert case.eyes.looks < 0
    assert case.over == [False]


@pytest.mark.parametrize("broken", [Reply(error=CANCELLED), LOST])
async def test_a_worker_that_appears_late_is_followed(broken: Answer) -> None:
    case = Case(Eyes(looks=3, late=5), launch=broken)
    end = await case.end()
    assert end.lost
    assert case.seen == [WORKER]
    assert end.worker == WORKER
    assert case.eyes.looks < 0


async def test_a_worker_that_never_appears_is_given_up() -> None:
    case = Case(Eyes(late=10_000), launch=LOST)
    end = await case.end()
    assert end.lost
    assert case.seen == []


async def test_a_session_at_its_end_is_for_the_gateway_to_replace() -> None:
    case = Case(launch=NothingExecutedError("terminating connection"))
    with pytest.raises(NothingExecutedError):
        await case.worker.launch()


# --- who asked for the end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sqlstate", "by"), [("57014", "alice"), ("57P01", "alice"), ("57P02", "alice"), ("22012", None), ("55P03", None)]
)
async def test_the_requester_is_named_where_another_session_may_have_stopped_it(sqlstate: str, by: str | None) -> None:
    eyes = Eyes()
    eyes.who = "alice"
    details = Reply(rows=((sqlstate, "m", None, None, OWN, None, None, None, None),))
    end = await Case(eyes, wait=FAILED, error=details).end()
    assert end.cancelled_by == by


async def test_a_success_was_cancelled_by_no_user() -> None:
    eyes = Eyes()
    eyes.who = "alice"
    assert (await Case(eyes, wait=SUCCEEDED).end()).cancelled_by is None


async def test_the_requester_is_named_for_a_worker_that_is_lost() -> None:
    eyes = Eyes(looks=3)
    eyes.who = "alice"
    end = await Case(eyes, launch=LOST).end()
    assert (end.lost, end.cancelled_by) == (True, "alice")


# --- launched and awaited in one statement ---------------------------------------------------------------------------


def at_once(waited: Reply, *, confirmed: bool, tags: Sequence[str] = ("DO",)) -> Reply:
    """Return what `launch_at_once` gives, from what `wait` would."""
    return Reply(rows=tuple((*waited.rows[0], "t" if confirmed else "f", WORKER.backend_start, tag) for tag in tags))


async def test_a_step_without_settings_is_launched_and_ends_in_one_statement() -> None:
    case = Case(settings={}, launch_at_once=at_once(SUCCEEDED, confirmed=True))
    end = await case.end()
    assert (end.confirmed, end.command_tag, end.started_at) == (True, "DO", 100.0)
    assert case.session.asked == ["nothing", "launch_at_once"]
    assert case.session.launched == 1
    assert case.over == [True]


async def test_a_worker_that_has_not_ended_in_that_statement_is_waited_for() -> None:
    case = Case(settings={}, launch_at_once=at_once(RUNNING, confirmed=False), wait=SUCCEEDED)
    end = await case.end()
    assert (end.confirmed, end.command_tag) == (True, "DO")
    assert case.session.asked == ["nothing", "launch_at_once", "follow", "drain", "now"]


async def test_what_a_worker_reports_its_progress_is_kept() -> None:
    case = Case(Eyes(looks=3), wait=[RUNNING] * 3 + [SUCCEEDED])
    await case.worker.launch()
    assert case.worker.reported is None
    case.session.progress = "40"
    end = await case.worker.wait_until_ended(
        on_seen=case.seen.append, on_lost=case.lost.append, on_unstoppable=lambda _, __: None
    )
    assert end.confirmed
    assert case.worker.reported == ReportedProgress(percent=40, message="half")


async def test_a_failure_in_that_statement_is_reported_in_full() -> None:
    case = Case(settings={}, launch_at_once=at_once(FAILED, confirmed=False))
    end = await case.end()
    assert end.error is not None
    assert end.error.sqlstate == "22012"


async def test_an_error_of_the_server_after_the_launch_is_no_refusal() -> None:
    cancelled = Reply(error=CANCELLED)
    case = Case(settings={}, launch_at_once=cancelled, load=TRACKS, wait=SUCCEEDED)
    end = await case.end()
    assert end.confirmed
    assert case.session.launched == 1


async def test_an_error_after_which_nothing_is_tracked_says_nothing_of_the_worker() -> None:
    error = Reply(error=ErrorDetails(message="out of memory", sqlstate="53200"))
    case = Case(settings={}, launch_at_once=error, load=LAUNCHED_AND_FREE)
    end = await case.end()
    assert end.lost
    assert end.reason == "out of memory"


async def test_an_error_after_which_the_session_is_lost_says_nothing_of_the_worker_either() -> None:
    error = Reply(error=ErrorDetails(message="out of memory", sqlstate="53200"))
    case = Case(settings={}, launch_at_once=error, load=LOST)
    assert (await case.end()).lost
    assert case.over == [False]


async def test_an_error_before_the_launch_is_a_refusal() -> None:
    case = Case(settings={}, launch_at_once=Reply(error=ErrorDetails(message="invalid value", sqlstate="22023")))
    with pytest.raises(LaunchRefusedError, match="invalid value"):
        await case.worker.launch()
    assert case.session.asked == ["nothing", "launch_at_once", "load"]
    assert case.worker.session_free


# --- the outcome is read before anything is consumed ------------------------------------------------------------------


async def test_success_and_its_output_in_one_exchange() -> None:
    ended = Reply(rows=((*SUCCEEDED.rows[0], "DO"),))
    case = Case(wait=SUCCEEDED, drain_ended=ended)
    end = await case.end()
    assert (end.confirmed, end.command_tag) == (True, "DO")
    assert "drain" not in case.session.asked
    assert case.over == [True]


async def test_a_worker_that_ends_between_the_wait_and_the_drain_is_not_forgotten() -> None:
    ended = Reply(rows=((*SUCCEEDED.rows[0], "DO"),))
    case = Case(wait=RUNNING, drain_ended=ended)
    end = await case.end()
    assert end.confirmed
    assert not case.lost
    assert case.over == [True]


@pytest.mark.parametrize("free", [FREE, TRACKS])
async def test_output_that_cannot_be_read_takes_no_outcome_with_it(free: Reply) -> None:
    refused = Reply(error=ErrorDetails(message="rowtype does not match", sqlstate="42804"))
    case = Case(wait=SUCCEEDED, drain_ended=refused, load=free)
    end = await case.end()
    assert end.confirmed
    assert case.over == [free is FREE]


async def test_success_is_not_lost_with_the_session_that_would_have_read_the_output() -> None:
    end = await Case(wait=SUCCEEDED, drain=LOST).end()
    assert end.confirmed
    assert not end.lost


async def test_failure_is_not_lost_with_the_session_that_would_have_reported_the_error() -> None:
    case = Case(wait=FAILED, error=LOST)
    end = await case.end()
    assert not end.confirmed
    assert end.error is not None
    assert not case.lost
    assert case.over == [False]


async def test_an_error_is_read_before_the_output() -> None:
    case = Case(wait=FAILED, drain=Reply(error=ErrorDetails(message="division by zero", context=OWN)))
    end = await case.end()
    assert end.error is not None
    assert end.error.sqlstate == "22012"
    assert case.session.asked.index("error") < case.session.asked.index("drain")
    assert case.over == [True]


async def test_no_word_of_an_error_is_not_success() -> None:
    end = await Case(wait=GONE_WITHOUT_A_WORD).end()
    assert not end.confirmed
    assert end.error is None


async def test_last_words_that_only_the_output_holds_are_an_error() -> None:
    fatal = ErrorDetails(message="terminating connection due to transaction timeout", sqlstate="25P04", context=OWN)
    end = await Case(wait=GONE_WITHOUT_A_WORD, drain=Reply(error=fatal)).end()
    assert end.error == fatal


# --- waits ------------------------------------------------------------------------------------------------------------


async def test_cancelled_waits_are_repeated_for_as_long_as_it_takes() -> None:
    case = Case(wait=[*[Reply(error=CANCELLED)] * 50, SUCCEEDED])
    assert (await case.end()).confirmed
    assert not case.lost


async def test_waits_that_fail_otherwise_are_given_up_and_the_worker_is_followed() -> None:
    case = Case(Eyes(looks=1), wait=[RUNNING, Reply(error=ErrorDetails(message="broken", sqlstate="XX000"))])
    end = await case.end()
    assert end.lost
    assert end.reason == "broken"
    assert case.over == [False]


async def test_a_handle_that_the_extension_has_forgotten_is_a_lost_worker() -> None:
    case = Case(wait=[RUNNING, Reply()])
    end = await case.end()
    assert end.lost
    assert case.over == [False]


async def test_a_worker_is_followed_while_the_monitor_is_lost() -> None:
    eyes = Eyes()
    eyes.away = True
    case = Case(eyes, wait=[RUNNING] * 5 + [SUCCEEDED])
    assert (await case.end(LaunchedWorker.cancel)).confirmed
    assert eyes.cancels == 0


# --- letting go -------------------------------------------------------------------------------------------------------


async def test_a_worker_that_has_just_ended_is_not_called_detached() -> None:
    case = Case(Eyes(looks=9), wait=[RUNNING], detach_worker=SUCCEEDED)
    end = await case.end(LaunchedWorker.detach)
    assert end.confirmed
    assert not end.detached
    assert case.over == [True]


async def test_a_worker_that_runs_is_detached_and_its_session_is_free() -> None:
    case = Case(Eyes(looks=9), wait=[RUNNING], detach_worker=RUNNING)
    end = await case.end(LaunchedWorker.detach)
    assert end.detached
    assert end.worker == WORKER
    assert case.over == [True]


async def test_a_full_queue_detaches_a_worker_that_is_not_awaited() -> None:
    case = Case(Eyes(looks=9, blocked=True), detachable=True, wait=[RUNNING], detach_worker=RUNNING)
    assert (await case.end()).detached


async def test_a_full_queue_of_any_other_worker_is_read() -> None:
    case = Case(Eyes(looks=9, blocked=True), wait=[RUNNING])
    end = await case.end()
    assert (end.confirmed, end.command_tag) == (True, "DO")
    assert "detach_worker" not in case.session.asked


async def test_a_detach_that_comes_while_the_output_is_read_to_its_end_is_too_late() -> None:
    case = Case(Eyes(looks=9, blocked=True), wait=[RUNNING])

    async def end() -> WorkerEnd:
        await case.worker.launch()
        task = asyncio.ensure_future(
            case.worker.wait_until_ended(
                on_seen=case.seen.append, on_lost=case.lost.append, on_unstoppable=lambda _, __: None
            )
        )
        while "drain" not in case.session.asked:  # noqa: ASYNC110 - the script sets no event
            await asyncio.sleep(0)
        case.worker.detach()
        return await task

    assert (await end()).confirmed


async def test_output_that_is_lost_with_its_session_leaves_a_worker_to_follow() -> None:
    case = Case(Eyes(looks=4, blocked=True), wait=[RUNNING], drain=LOST)
    end = await case.end()
    assert end.lost
    assert case.lost == [str(LOST)]
    assert case.over == [False]


async def test_output_that_cannot_be_read_leaves_a_worker_to_follow() -> None:
    refused = Reply(error=ErrorDetails(message="rowtype does not match", sqlstate="42804"))
    case = Case(Eyes(looks=4, blocked=True), wait=[RUNNING], drain=refused)
    end = await case.end()
    assert end.lost
    assert "rowtype does not match" in end.reason
    assert case.over == [True]
