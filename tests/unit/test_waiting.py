"""When a runner looks at a worker: how long a session may wait in the server, and how long the runner sleeps."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.gateway.base import LaunchRequest
from runner.gateway.output import waits_for_snapshots
from runner.gateway.waiting import LEAST_SLICE, SLICE, Pauses, pause_after
from runner.gateway.worker import LaunchedWorker
from tests.unit.test_worker import FAILED, NAME, RUNNING, SUCCEEDED, Eyes, Scripted, at_once

#: Milliseconds that a snapshot of ours may last.
LONGEST_SNAPSHOT = 20


def test_a_slice_leaves_room_for_the_launch_in_the_same_statement() -> None:
    assert 0 < LEAST_SLICE < SLICE <= LONGEST_SNAPSHOT / 2


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


async def test_a_pause_ends_at_once_when_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.gateway.waiting.pause_after", lambda _: 3600.0)
    pauses = Pauses()
    sleeping = asyncio.create_task(pauses.pause())
    await asyncio.sleep(0)
    pauses.interrupt()
    assert await sleeping is False


async def test_an_interruption_before_the_pause_ends_the_next_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = Pauses()
    pauses.interrupt()
    monkeypatch.setattr("runner.gateway.waiting.pause_after", lambda _: 3600.0)
    assert await pauses.pause() is False
    monkeypatch.setattr("runner.gateway.waiting.pause_after", lambda _: 0.0)
    assert await pauses.pause() is True


async def test_a_pause_that_is_cancelled_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.gateway.waiting.pause_after", lambda _: 3600.0)
    pauses = Pauses()
    sleeping = asyncio.create_task(pauses.pause())
    await asyncio.sleep(0)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    monkeypatch.setattr("runner.gateway.waiting.pause_after", lambda _: 0.0)
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


def launched(session: Scripted, *, matter: bool | list[bool] = False, plain: bool = True) -> LaunchedWorker:
    """Return a worker; `matter` says whether snapshots matter, always or from one question to the next."""
    answers = matter if isinstance(matter, list) else []
    request = LaunchRequest(
        sql="DO $$ BEGIN END $$", application_name=NAME, settings={} if plain else {"work_mem": "8MB"}
    )

    def snapshots_matter() -> bool:
        return answers.pop(0) if answers else bool(matter)

    return LaunchedWorker(request, session, Eyes(), lambda _: None, snapshots_matter=snapshots_matter)


@pytest.mark.parametrize(("matter", "milliseconds"), [(False, SLICE), (True, LEAST_SLICE)])
async def test_the_first_wait_is_shortest_while_snapshots_matter(matter: bool, milliseconds: int) -> None:
    session = Scripted({"launch_at_once": [at_once(SUCCEEDED, proven=True)]})
    await launched(session, matter=matter).launch()
    assert session.parameters["launch_at_once"][-1] == str(milliseconds)


@pytest.mark.parametrize(("matter", "milliseconds"), [(False, SLICE), (True, LEAST_SLICE)])
async def test_the_first_wait_of_a_step_with_settings_is_no_longer(matter: bool, milliseconds: int) -> None:
    session = Scripted({"launch": [FAILED], "wait": [SUCCEEDED]})
    await launched(session, matter=matter, plain=False).launch()
    assert session.parameters["wait"][0] == str(milliseconds)


async def test_a_young_worker_is_waited_for_in_the_server_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.gateway.worker.IN_SERVER", 3600.0)
    session = Scripted({"launch_at_once": [at_once(RUNNING, proven=False)], "wait": [RUNNING, RUNNING, SUCCEEDED]})
    worker = launched(session)
    await worker.launch()
    end = await worker.ended(seen=lambda _: None, lost=lambda _: None)
    assert end.proven
    assert session.asked.count("wait") == 3
    assert "follow" not in session.asked
    assert session.parameters["wait"][0] == str(SLICE)


async def test_a_worker_that_ends_during_a_slice_has_its_output_read_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.gateway.worker.IN_SERVER", 3600.0)
    told = SUCCEEDED.rows[0]
    session = Scripted(
        {
            "launch_at_once": [at_once(RUNNING, proven=False)],
            "wait": [SUCCEEDED],
            "drain_ended": [type(SUCCEEDED)(rows=((*told, "DO"),))],
        }
    )
    worker = launched(session)
    await worker.launch()
    end = await worker.ended(seen=lambda _: None, lost=lambda _: None)
    assert end.proven
    assert session.asked == ["nothing", "launch_at_once", "wait", "drain_ended"]
    assert worker.session_free


async def test_a_session_stops_waiting_in_the_server_when_a_step_that_waits_for_snapshots_is_launched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runner.gateway.worker.IN_SERVER", 3600.0)
    monkeypatch.setattr("runner.gateway.waiting.pause_after", lambda _: 0.0)
    session = Scripted(
        {"launch_at_once": [at_once(RUNNING, proven=False)], "wait": [RUNNING, RUNNING, SUCCEEDED], "drain": [RUNNING]}
    )
    worker = launched(session, matter=[False, False, True, True])
    await worker.launch()
    await worker.ended(seen=lambda _: None, lost=lambda _: None)
    looks = [name for name in session.asked if name in ("wait", "follow")]
    assert looks == ["wait", "follow", "follow"]
