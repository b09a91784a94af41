"""What a cancel and an attach say of what they did and saw."""

from __future__ import annotations

import pytest

from runner.engine.events import Leftover, Worker
from runner.engine.server_activity import Activity, LiveRun, LiveWorker, Other, Progress, RunnerSession, end_sessions
from runner.identity import worker_name
from runner.reports.attach_report import HEARTBEAT, AttachedRun, EndedWorker, attach_data, attach_lines
from runner.reports.cancel_report import Cancelled, cancel_data, cancel_lines
from runner.reports.status_report import RecordSummary
from runner.structs import replace
from tests.builders import looked_label

RUN = "260101-abcdef"
NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def worker(step: str, pid: int, **label: object) -> LiveWorker:
    """Return a worker that began at NOW."""
    return LiveWorker(
        worker=Worker(pid=pid, backend_start="s", application_name=worker_name(RUN, step)),
        run=RUN,
        database="app",
        user="u",
        label=looked_label(RUN, step, **label),
        started_at=NOW,
        state="active",
    )


A, B = worker("a", 1), worker("b", 2)
AWAY = worker("away", 3, on_finish="detach")
NOTE = worker("note", 4, in_finally=True)
DONE = Cancelled(
    run=LiveRun(run=RUN, database="app"),
    by="alice@laptop",
    at=NOW,
    asked=[(A, 0.3), (B, 1.5)],
    left=[],
    runner_alive=False,
    refused=None,
    user="dba",
    leftovers=[],
)


def test_ended_workers() -> None:
    assert list(cancel_lines(DONE)) == ["a (pid 1): ended after 300ms", "b (pid 2): ended after 1.5s"]


def test_what_is_left_alone_and_how_to_stop_it() -> None:
    done = replace(DONE, asked=[], left=[AWAY, NOTE], runner_alive=True, answered=True)
    assert list(cancel_lines(done)) == [
        f"run {RUN} has no worker to cancel",
        "its runner received the request: it starts only finally steps, and reports who cancelled",
        "away (pid 3): a detach step, not cancelled, ends by 2026-01-01T00:05:00Z",
        "note (pid 4): a finally step, not cancelled",
        f"  cancel them too: jobplan cancel {RUN} --detached",
    ]


def test_what_still_runs() -> None:
    assert list(cancel_lines(replace(DONE, asked=[(A, None)]))) == [
        "a (pid 1): STILL RUNNING",
        f"a worker ends when it next checks for interrupts; see what it does: jobplan status {RUN}",
    ]


def test_a_refused_cancel_is_reported_with_the_missing_grant() -> None:
    refused = replace(DONE, asked=[(A, None)], refused="permission denied to terminate process", user="On Call")
    assert list(cancel_lines(refused))[1:] == [
        "not allowed: permission denied to terminate process",
        '  a superuser can grant the privileges: GRANT pg_signal_backend, pg_read_all_stats TO "On Call";',
        "  (only a superuser can cancel workers of a superuser)",
    ]


@pytest.mark.parametrize("step", [None, "a"])
def test_a_runner_that_refuses_this_role_continues(step: str | None) -> None:
    deaf = replace(DONE, asked=[], runner_alive=True, request_accepted=False, step=step)
    assert list(cancel_lines(deaf)) == [
        f"run {RUN} has no worker to cancel" if step is None else "a has no worker to cancel",
        "its runner is alive and continues: it accepts no request from a role that may not cancel its workers",
        '  a superuser can grant the privileges: GRANT pg_signal_backend, pg_read_all_stats TO "dba";',
        "  (only a superuser can cancel workers of a superuser)",
    ]
    assert cancel_data(deaf)["runner_heeds"] is False


def test_what_is_left_behind_and_what_repairs_it() -> None:
    repair = ("REINDEX INDEX CONCURRENTLY i;", "DROP INDEX CONCURRENTLY i;")
    leftovers = [Leftover(what="index i of t is INVALID", repair=repair)]
    assert list(cancel_lines(replace(DONE, leftovers=leftovers)))[2:] == [
        "left behind: index i of t is INVALID",
        "  REINDEX INDEX CONCURRENTLY i;",
        "  or DROP INDEX CONCURRENTLY i;",
    ]


def test_a_cancel_as_data() -> None:
    data = cancel_data(
        replace(DONE, asked=[(A, 0.3), (B, None)], left=[AWAY], leftovers=[Leftover(what="x", repair=("DROP x;",))])
    )
    assert [one["step"] for one in data["stopped"]] == ["a"]
    assert data["stopped"][0]["gone_after_seconds"] == 0.3
    assert [one["step"] for one in data["still_running"]] == ["b"]
    assert [one["step"] for one in data["left_alone"]] == ["away"]
    assert data["leftovers"] == [{"what": "x", "repair": ["DROP x;"]}]


# --- attach -----------------------------------------------------------------------------------------------------------


def look(seconds: float, *workers: LiveWorker, runner: bool = False) -> Activity:
    """Return a look, so many seconds after NOW; nothing of the run is there without workers and a runner."""
    run = LiveRun(run=RUN, database="app", runner=(RunnerSession(pid=9),) if runner else (), workers=workers)
    runs = (run,) if workers or runner else ()
    return Activity(at=NOW + seconds, version="18", database="app", user="u", sees_all=True, runs=runs)


def follower() -> AttachedRun:
    """Return a follower that has seen nothing yet."""
    return AttachedRun(LiveRun(run=RUN, database="app"))


def test_a_worker_is_followed_to_its_end() -> None:
    one = follower()
    assert one.follow(look(1, A)) == (
        ["a: pid 1, for 1.0s, ends within 4m59s, active", "its runner has ended"],
        True,
    )
    assert one.follow(look(2, A)) == ([], True)
    assert one.follow(look(3)) == (["a (pid 1): ended after 3.0s"], False)
    assert list(attach_lines(one.run, one.ended, [])) == [
        "a (pid 1): ended after 3.0s",
        f"run {RUN}: it has no more sessions on the server",
        "the server does not keep how a worker ended: only its runner and the run's record know it",
    ]


def test_a_worker_that_goes_when_its_time_is_over_was_probably_stopped() -> None:
    one = follower()
    one.follow(look(1, A))
    lines, _ = one.follow(look(300))
    assert lines == ["a (pid 1): ended after 5m00s; its timeout had expired, so the server probably cancelled it"]
    assert attach_data(one.run, one.ended, [], now=NOW)["gone"][0]["at_deadline"] is True


def test_the_start_and_the_end_of_a_runner_are_reported() -> None:
    one = follower()
    assert one.follow(look(1, runner=True)) == (["its runner is alive and reports the outcome"], True)
    assert one.follow(look(2, A, runner=True))[0][0].startswith("a: pid 1")
    assert one.follow(look(3, A)) == (["its runner has ended"], True)
    assert one.follow(look(4))[1] is False


def test_a_runner_that_falls_silent_is_reported_once() -> None:
    one = follower()
    one.follow(look(1, runner=True))
    runner = RunnerSession(pid=9, host="10.0.0.7", last_active_at=NOW)
    silent = replace(look(12, runner=True), runs=(LiveRun(run=RUN, database="app", runner=(runner,)),))
    assert one.follow(silent)[0] == [
        f"its runner is connected from 10.0.0.7, silent for 12.0s; if its machine is lost: {end_sessions(RUN)}"
    ]
    assert one.follow(replace(silent, at=NOW + 13.0)) == ([], True)


def test_locks_and_phases_are_reported_when_they_change() -> None:
    one = follower()
    one.follow(look(1, A))
    blocked = replace(A, blocked_by=(Other(pid=7, user="bob", lock="ShareLock on t"),))
    assert one.follow(look(2, blocked))[0] == ["a: waits for ShareLock on t, blocked by pid 7 (bob)"]
    assert one.follow(look(3, blocked))[0] == []
    scanning = replace(A, progress=Progress(command="VACUUM", phase="scanning heap", done=1, total=2))
    assert one.follow(look(4, scanning))[0] == ["a: no longer blocked", "a: VACUUM: scanning heap, 50% (1 of 2 blocks)"]
    assert one.follow(look(5, scanning))[0] == []


def test_a_heartbeat_says_what_runs() -> None:
    one = follower()
    one.follow(look(1, A, B))
    assert one.follow(look(HEARTBEAT, A, B))[0] == []
    lines, _ = one.follow(look(1 + HEARTBEAT, A, B))
    assert [line.partition(":")[0] for line in lines] == ["a", "b"]


def test_a_record_without_an_outcome_names_the_command_that_determines_it() -> None:
    one = follower()
    one.follow(look(1, A))
    one.follow(look(2))
    record = RecordSummary(plan="p", steps="1 running", where="ledger in schema jobplan", counts={"running": 1})
    asks = (
        f"the record does not have the outcome of every worker; jobplan resume {RUN} determines it and finishes the run"
    )
    assert list(attach_lines(one.run, one.ended, [], record))[-2:] == [
        "its record: 1 running (ledger in schema jobplan)",
        asks,
    ]
    elsewhere = replace(record, source="ledger")
    assert (
        f"jobplan resume {RUN} --from-ledger determines it" in list(attach_lines(one.run, one.ended, [], elsewhere))[-1]
    )
    for settled in (
        replace(record, finished=True),
        replace(record, ends={"a": "succeeded"}),
        replace(record, committed=frozenset({"a"})),
        replace(record, counts={}),
    ):
        assert asks not in list(attach_lines(one.run, one.ended, [], settled))


def test_a_run_that_was_over_at_once_says_so() -> None:
    one = follower()
    assert one.follow(look(1)) == ([], False)
    assert list(attach_lines(one.run, one.ended, [Leftover(what="x", repair=("DROP x;",))])) == [
        f"run {RUN}: it has no more sessions on the server",
        "left behind: x",
        "  DROP x;",
    ]


@pytest.mark.parametrize("pid", [1, 2])
def test_a_worker_that_takes_anothers_place_is_another_one(pid: int) -> None:
    one = follower()
    one.follow(look(1, A))
    second = replace(A, worker=replace(A.worker, pid=pid, backend_start="later"))
    lines, _ = one.follow(look(2, second))
    assert lines[0] == "a (pid 1): ended after 2.0s"
    assert lines[1].startswith(f"a: pid {pid}, ")


@pytest.mark.parametrize(
    ("asked", "concerned", "said"),
    [
        ([(A, 0.3)], 1, "its runner received the request: it does not start the step again, continues, and"),
        ([], 2, "its runner received the request: it does not start the step again, continues, and"),
        ([], 0, "its runner is alive and reports that the step has ended"),
    ],
)
def test_what_a_living_runner_says_to_a_request_about_a_step(
    asked: list[tuple[LiveWorker, float | None]], concerned: int, said: str
) -> None:
    done = replace(DONE, asked=asked, runner_alive=True, step="a", concerned=concerned, answered=True)
    *first, last = cancel_lines(done)
    assert first == (["a (pid 1): ended after 300ms"] if asked else ["a has no worker to cancel"])
    assert last.startswith(said)
    assert not done.unanswered
    assert cancel_data(done)["steps_not_over"] == concerned


@pytest.mark.parametrize("asked", [[], [(A, 0.3)]])
@pytest.mark.parametrize(("step", "may"), [(None, "start more workers"), ("a", "start the step again")])
def test_a_runner_that_does_not_answer_may_continue(
    asked: list[tuple[LiveWorker, float | None]], step: str | None, may: str
) -> None:
    done = replace(DONE, asked=asked, runner_alive=True, step=step)
    assert done.unanswered
    assert list(cancel_lines(done))[1:] == [
        f"its runner is alive and did not answer: it may {may}; check with: jobplan status {RUN}",
        f"  if its machine is lost, terminate its sessions, then cancel again: {end_sessions(RUN)}",
    ]
    assert cancel_data(done)["runner_answered"] is False


def test_commands_lead_to_the_same_server() -> None:
    done = replace(DONE, asked=[(A, None)], left=[AWAY], runner_alive=True, where=" --dsn dbname=app")
    commands = [line.split("jobplan ")[1] for line in cancel_lines(done) if "jobplan " in line]
    assert commands == [
        f"status {RUN} --dsn dbname=app",
        f"cancel {RUN} --detached --dsn dbname=app",
        f"status {RUN} --dsn dbname=app",
    ]
    record = RecordSummary(plan="p", steps="1 running", where="ledger", source="ledger", counts={"running": 1})
    ended = EndedWorker(worker=A, seconds=1.0, at_deadline=False)
    assert f"jobplan resume {RUN} --from-ledger --dsn dbname=app determines it" in "".join(
        attach_lines(DONE.run, [ended], [], record, where=" --dsn dbname=app")
    )


def test_the_sql_that_ends_a_runners_sessions_is_safe_to_copy() -> None:
    begin = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
    assert end_sessions(RUN) == f"{begin}'jobplan:{RUN}:runner';"
    assert end_sessions("x' OR 'a' = 'a") == f"{begin}'jobplan:x'' OR ''a'' = ''a:runner';"


@pytest.mark.parametrize(
    ("answered", "said"),
    [(True, "its runner has ended the run"), (False, "its runner ended in the meantime without an answer")],
)
def test_a_runner_that_ended_with_its_workers(answered: bool, said: str) -> None:
    done = replace(DONE, run=replace(DONE.run, runner=(RunnerSession(pid=9),)), answered=answered)
    assert list(cancel_lines(done))[-1] == said
    assert not done.unanswered
