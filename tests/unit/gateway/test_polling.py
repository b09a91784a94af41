"""When a runner looks at a worker: how long a session may wait in the server, and how long the runner sleeps."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.engine.ports import LaunchRequest, WorkerEnd
from runner.engine.worker_text import waits_for_snapshots
from runner.gateway.polling import FIRST_SLICE, LEAST_SLICE, MOST_SLICES, SLICE, Pauses, Rhythm, pause_after
from runner.gateway.replies import Reply
from runner.gateway.worker import LaunchedWorker
from tests.unit.gateway.test_worker import CANCELLED, FAILED, NAME, RUNNING, SUCCEEDED, Answer, Eyes, Scripted, at_once

#: Milliseconds that a snapshot of ours may last.
LONGEST_SNAPSHOT = 20


def test_no_slice_is_longer_than_a_snapshot_of_ours_may_be() -> None:
    assert 0 < LEAST_SLICE < FIRST_SLICE < SLICE < LONGEST_SNAPSHOT


@given(st.floats(min_value=0.0, max_value=1e7))
def test_a_pause_is_never_longer_than_a_quarter_of_a_second(elapsed: float) -> None:
    assert 0 < pause_after(elapsed) <= 0.25


@given(st.floats(min_value=5.0, max_value=1e7))
def test_a_long_step_is_looked_at_five_times_a_second_at_most(elapsed: float) -> None:
    assert pause_after(elapsed) >= 0.2


@given(st.floats(min_value=1.0, max_value=1e4))
def test_the_end_of_a_step_of_a_second_is_noticed_within_five_percent_of_its_time(elapsed: float) -> None:
    assert pause_after(elapsed) <= 0.05 * elapsed


@given(st.floats(min_value=0.0, max_value=1e4), st.floats(min_value=0.0, max_value=1e4))
def test_pauses_never_become_shorter(one: float, other: float) -> None:
    assert pause_after(min(one, other)) <= pause_after(max(one, other))


@given(st.floats(min_value=1.0, max_value=1e5))
def test_the_end_of_work_that_was_done_before_is_noticed_within_half_a_percent_of_its_time(took: float) -> None:
    for part in (0.8, 0.9, 1.0, 1.2):
        assert pause_after(part * took, took) <= max(0.005 * took, 0.003)


@given(st.floats(min_value=0.2, max_value=1e5))
def test_an_expectation_costs_no_more_polls_until_the_expected_end(took: float) -> None:
    def polls(expected: float | None) -> int:
        elapsed, count = 0.1, 0
        while elapsed < min(took, 600.0):
            pause = pause_after(elapsed, expected)
            assert 0 < pause <= 0.25
            elapsed, count = elapsed + pause, count + 1
        return count

    assert polls(took) <= 1.4 * polls(None) + 10


@given(st.floats(min_value=0.0, max_value=1e5), st.floats(min_value=0.0, max_value=1e5))
def test_what_takes_longer_than_expected_is_polled_like_anything_else(took: float, more: float) -> None:
    elapsed = 1.25 * took + more
    assert pause_after(elapsed, took) == pause_after(elapsed)


@given(st.floats(min_value=0.0, max_value=1e4), st.integers(min_value=1, max_value=1000))
def test_many_workers_are_polled_less_often_but_often_enough(elapsed: float, workers: int) -> None:
    assert pause_after(elapsed) <= pause_after(elapsed, None, workers) <= 0.25
    assert pause_after(elapsed, None, 4) <= 2.001 * pause_after(elapsed)


def test_work_is_expected_to_take_as_long_as_the_last_time() -> None:
    rhythm = Rhythm()
    assert rhythm.expected(":fill") is None
    rhythm.remember(":fill", 3.0)
    rhythm.remember(":fill", 1.0)
    rhythm.remember("on_retry:fill", 9.0)
    assert rhythm.expected(":fill") == 1.0


async def test_a_pause_ends_at_once_when_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.gateway.polling.pause_after", lambda *_: 3600.0)
    pauses = Pauses()
    sleeping = asyncio.create_task(pauses.pause())
    await asyncio.sleep(0)
    pauses.interrupt()
    assert await sleeping is False


async def test_an_interruption_before_the_pause_ends_the_next_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = Pauses()
    pauses.interrupt()
    monkeypatch.setattr("runner.gateway.polling.pause_after", lambda *_: 3600.0)
    assert await pauses.pause() is False
    monkeypatch.setattr("runner.gateway.polling.pause_after", lambda *_: 0.0)
    assert await pauses.pause() is True


async def test_a_pause_that_is_cancelled_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.gateway.polling.pause_after", lambda *_: 3600.0)
    pauses = Pauses()
    sleeping = asyncio.create_task(pauses.pause())
    await asyncio.sleep(0)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    monkeypatch.setattr("runner.gateway.polling.pause_after", lambda *_: 0.0)
    assert await pauses.pause() is True


# --- which steps wait for snapshots -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE INDEX CONCURRENTLY i ON t (a)",
        "create unique index concurrently if not exists i on t (a)",
        "REINDEX TABLE CONCURRENTLY t",
        "REINDEX INDEX CONCURRENTLY i",
        "REINDEX (CONCURRENTLY) TABLE t",
        "REINDEX (CONCURRENTLY true, VERBOSE) SCHEMA s",
        "DROP INDEX CONCURRENTLY i",
        "ALTER TABLE p DETACH PARTITION c CONCURRENTLY",
        "-- nightly\nREINDEX DATABASE CONCURRENTLY app;",
        "WHAT THE PARSER DOES NOT KNOW",
    ],
)
def test_a_statement_that_waits_for_snapshots_is_recognized(sql: str) -> None:
    assert waits_for_snapshots(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "VACUUM (ANALYZE) t",
        "CREATE INDEX i ON t (a)",
        "REINDEX TABLE t",
        "REINDEX (CONCURRENTLY false) TABLE t",
        "DROP INDEX i",
        "ALTER TABLE p DETACH PARTITION c",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
        "INSERT INTO t VALUES ('CREATE INDEX CONCURRENTLY i ON t (a)')",
        "UPDATE t SET a = 1; UPDATE t SET b = 2",
    ],
)
def test_a_statement_that_does_not_wait_for_snapshots_is_recognized(sql: str) -> None:
    assert not waits_for_snapshots(sql)


# --- what the session is asked, and when ------------------------------------------------------------------------------


class Fixed(Rhythm):
    """A rhythm with the given slices; the answers say whether a session may wait in the server, one look each."""

    def __init__(self, first: int = SLICE, slices: int = 0, *answers: bool) -> None:
        super().__init__()
        self._given = (first, slices)
        self._answers = list(answers)
        self.learned: list[int] = []

    def first_slices(self) -> tuple[int, int]:
        return self._given

    def waits_in_server(self, elapsed: float) -> bool:  # noqa: ARG002 - the rhythm's
        return bool(self._answers) and self._answers.pop(0)

    def learn(self, seconds: float, slices: int) -> None:
        assert seconds >= 0
        self.learned.append(slices)


@pytest.fixture(autouse=True)
def _no_pauses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "session" in request.node.name or "worker" in request.node.name:
        monkeypatch.setattr("runner.gateway.polling.pause_after", lambda *_: 0.0)
        monkeypatch.setattr("runner.gateway.worker_follower.POLL_INTERVAL", 0)


async def follow(session: Scripted, rhythm: Rhythm, *, plain: bool = True) -> tuple[LaunchedWorker, WorkerEnd]:
    """Launch a worker and follow it to its end; `plain` launches it in one statement."""
    request = LaunchRequest(
        sql="DO $$ BEGIN END $$", application_name=NAME, settings={} if plain else {"work_mem": "8MB"}
    )
    worker = LaunchedWorker(request, session, Eyes(), lambda _: None, rhythm=rhythm)
    await worker.launch()
    return worker, await worker.wait_until_ended(
        on_seen=lambda _: None, on_lost=lambda _: None, on_unstoppable=lambda _, __: None
    )


DONE = at_once(SUCCEEDED, confirmed=True)
STILL = at_once(RUNNING, confirmed=False)


def test_the_first_slice_is_the_shorter_the_more_workers_there_are() -> None:
    rhythm = Rhythm()
    firsts = []
    requests = [LaunchRequest(sql="SELECT 1", application_name=f"w{number}") for number in range(40)]
    for number in range(40):
        rhythm.begin(requests[number], for_snapshots=False)
        firsts.append(rhythm.first_slices()[0])
    assert firsts[0] == FIRST_SLICE
    assert firsts == sorted(firsts, reverse=True)
    assert firsts[-1] == LEAST_SLICE


def test_no_session_waits_in_the_server_while_a_worker_waits_for_snapshots() -> None:
    rhythm = Rhythm()
    one, other = (LaunchRequest(sql=sql, application_name=NAME) for sql in ("SELECT 1", "REINDEX TABLE CONCURRENTLY t"))
    rhythm.begin(one, for_snapshots=False)
    assert rhythm.waits_in_server(0.0)
    rhythm.begin(other, for_snapshots=True)
    for _ in range(20):
        rhythm.learn(0.02, 2)
    assert rhythm.first_slices() == (LEAST_SLICE, 0)
    assert not rhythm.waits_in_server(0.0)
    rhythm.end(other)
    assert rhythm.first_slices()[0] > LEAST_SLICE
    assert rhythm.waits_in_server(0.0)


def test_slices_that_were_needed_travel_with_the_next_launches() -> None:
    rhythm = Rhythm()
    assert rhythm.first_slices()[1] == 0
    for _ in range(40):
        rhythm.learn(0.04, 2)
    assert rhythm.first_slices()[1] == 4
    for _ in range(40):
        rhythm.learn(0.1, 20)
    assert rhythm.first_slices()[1] == MOST_SLICES
    for _ in range(40):
        rhythm.learn(0.003, 0)
    assert rhythm.first_slices()[1] == 0


def test_a_run_of_long_steps_does_not_wait_in_the_server_after_the_first_slice() -> None:
    rhythm = Rhythm()
    for _ in range(40):
        rhythm.learn(3600.0, 4)
    assert not rhythm.waits_in_server(0.0)
    assert rhythm.first_slices()[1] == 0
    for _ in range(40):
        rhythm.learn(0.003, 0)
    assert rhythm.waits_in_server(0.0)


async def test_a_session_sends_the_first_slice_with_the_launch() -> None:
    session = Scripted({"launch_at_once": [DONE]})
    rhythm = Fixed(7)
    _, end = await follow(session, rhythm)
    assert end.confirmed
    assert session.parameters["launch_at_once"][-1] == "7"
    assert session.asked == ["nothing", "launch_at_once"]
    assert rhythm.learned == [0]


async def test_a_session_sends_the_first_slice_of_a_step_with_settings_too() -> None:
    session = Scripted({"launch": [FAILED], "wait": [SUCCEEDED]})
    await follow(session, Fixed(7, 3), plain=False)
    assert session.parameters["wait"][0] == "7"
    assert session.asked.count("wait") == 1


@pytest.mark.parametrize("needed", [0, 1, 2, 3])
async def test_a_worker_may_end_in_any_slice_of_its_launch(needed: int) -> None:
    replies: list[Answer] = [*[STILL] * needed, DONE, *[Reply()] * (3 - needed)]
    session = Scripted({"launch_at_once": replies[:1], "wait_at_once": replies[1:]})
    rhythm = Fixed(7, 3)
    worker, end = await follow(session, rhythm)
    assert (end.confirmed, end.command_tag) == (True, "DO")
    assert session.asked == ["begin", "launch_at_once", *["chain", "wait_at_once"] * 3, "commit"]
    assert session.parameters["wait_at_once"] == (str(SLICE),)
    assert session.launched == 1
    assert rhythm.learned == [needed]
    assert worker.session_free


async def test_a_worker_that_ends_in_no_slice_of_its_launch_is_followed() -> None:
    session = Scripted({"launch_at_once": [STILL], "wait_at_once": [STILL, STILL], "wait": [RUNNING, SUCCEEDED]})
    rhythm = Fixed(7, 2)
    _, end = await follow(session, rhythm)
    assert end.confirmed
    assert session.asked.count("wait_at_once") == 2
    assert session.asked.count("follow") == 2
    assert rhythm.learned == [2]


async def test_a_failed_worker_is_reported_by_every_slice_that_follows() -> None:
    failed = at_once(FAILED, confirmed=False)
    details = Reply(rows=(("22012", "division by zero", *[None] * 7),))
    session = Scripted({"launch_at_once": [STILL], "wait_at_once": [failed, failed], "error": [details]})
    _, end = await follow(session, Fixed(7, 2))
    assert end.error is not None
    assert end.error.sqlstate == "22012"


async def test_a_worker_whose_launch_was_cancelled_after_it_is_followed() -> None:
    """The statement launched it and was cancelled while it waited; the rest of the transaction block was skipped."""
    cancelled = Reply(error=CANCELLED)
    tracks = Reply(rows=(("1", "1"),))
    session = Scripted({"launch_at_once": [cancelled], "load": [tracks], "wait": [RUNNING, SUCCEEDED]})
    _, end = await follow(session, Fixed(7, 2))
    assert end.confirmed
    assert session.launched == 1
    assert session.asked.index("rollback") < session.asked.index("load")


async def test_a_slice_that_was_cancelled_says_nothing_of_the_worker() -> None:
    cancelled = Reply(error=CANCELLED)
    session = Scripted(
        {"launch_at_once": [STILL], "wait_at_once": [cancelled, cancelled], "wait": [RUNNING, SUCCEEDED]}
    )
    _, end = await follow(session, Fixed(7, 2))
    assert end.confirmed
    assert session.asked.index("rollback") < session.asked.index("follow")


async def test_a_worker_is_waited_for_in_the_server_for_as_long_as_the_rhythm_says() -> None:
    session = Scripted(
        {"launch_at_once": [STILL], "wait_at_once": [STILL, STILL], "wait": [SUCCEEDED], "drain": [Reply()]}
    )
    _, end = await follow(session, Fixed(7, 0, True, True, False))
    assert end.confirmed
    assert session.asked[2:5] == ["wait_at_once", "wait_at_once", "follow"]


async def test_a_worker_that_ends_during_a_slice_has_its_output_read_with_it() -> None:
    session = Scripted({"launch_at_once": [STILL], "wait_at_once": [DONE]})
    worker, end = await follow(session, Fixed(7, 0, True))
    assert (end.confirmed, end.command_tag) == (True, "DO")
    assert session.asked == ["nothing", "launch_at_once", "wait_at_once"]
    assert worker.session_free


async def test_a_session_whose_extension_has_forgotten_the_worker_has_lost_it() -> None:
    session = Scripted({"launch_at_once": [STILL], "wait_at_once": [Reply()]})
    _, end = await follow(session, Fixed(7, 0, True))
    assert end.lost
