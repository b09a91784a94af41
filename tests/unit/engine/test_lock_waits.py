"""Which looks at waiting workers become events, and which of them a log has a line for."""

from __future__ import annotations

import io

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.lock_waits import FIRST, LONGEST, LockWaits
from runner.engine.state import RunState, initial_state
from runner.reports.messages import Verbosity, lock_wait_words
from runner.reports.progress import Plain
from runner.reports.report_builder import run_report
from tests.builders import plan, step

WORKER = ev.Worker(pid=7, backend_start="2026-01-01T00:00:00.000000Z", application_name="jobplan:r:a")
WHO = (WORKER.pid, WORKER.backend_start)


def running() -> RunState:
    """Return the state of a run whose only step has a worker."""
    state = initial_state(plan(step("a", "UPDATE t SET x = 1")))
    for event in begun():
        apply(state, event)
    return state


def begun() -> list[ev.Event]:
    return [
        ev.StepReady(at=0.0, step="a"),
        ev.AttemptLaunching(at=0.0, step="a", attempt=1, application_name="jobplan:r:a", timeout=None),
        ev.AttemptRunning(at=0.1, step="a", attempt=1, worker=WORKER),
    ]


def wait(seconds: float, *pids: int, mode: str = "ShareLock", relation: str | None = "public.t") -> ev.LockWait:
    by = tuple(ev.Blocker(pid=pid) for pid in pids or (99,))
    return ev.LockWait(mode=mode, lock="relation", relation=relation, by=by, seconds=seconds)


def test_a_wait_is_recorded_once_it_has_lasted_and_once_it_is_over() -> None:
    waits = LockWaits(running())
    assert waits.look({WHO: wait(0.4)}, 1.0) == []
    (blocked,) = waits.look({WHO: wait(1.4)}, 2.0)
    assert isinstance(blocked, ev.AttemptBlocked)
    assert (blocked.mode, blocked.relation, blocked.seconds) == ("ShareLock", "public.t", 1.4)
    assert abs(blocked.waiting_since - 0.6) < 1e-9
    assert waits.look({WHO: wait(2.4)}, 3.0) == []
    (over,) = waits.look({}, 4.0)
    assert isinstance(over, ev.AttemptUnblocked)
    assert over.seconds == 3.4
    assert waits.look({}, 5.0) == []


def test_another_lock_ends_the_wait_for_the_first() -> None:
    waits = LockWaits(running())
    waits.look({WHO: wait(1.0)}, 1.0)
    (over,) = waits.look({WHO: wait(0.5, mode="AccessExclusiveLock")}, 5.0)
    assert isinstance(over, ev.AttemptUnblocked)
    assert (over.mode, over.seconds) == ("ShareLock", 4.5)
    (blocked,) = waits.look({WHO: wait(2.5, mode="AccessExclusiveLock")}, 7.0)
    assert isinstance(blocked, ev.AttemptBlocked)


def test_a_new_wait_for_the_same_lock_is_another_wait() -> None:
    waits = LockWaits(running())
    waits.look({WHO: wait(1.0)}, 1.0)
    (over,) = waits.look({WHO: wait(0.2)}, 10.0)
    assert isinstance(over, ev.AttemptUnblocked)


def test_other_holders_are_recorded_while_the_worker_waits() -> None:
    waits = LockWaits(running())
    waits.look({WHO: wait(1.0, 11)}, 1.0)
    assert waits.look({WHO: wait(1.5, 12)}, 1.5) == []
    (again,) = waits.look({WHO: wait(4.0, 12)}, 4.0)
    assert isinstance(again, ev.AttemptBlocked)
    assert [one.pid for one in again.by] == [12]
    assert again.waiting_since == 0.0


def test_a_worker_that_waits_again_and_again_does_not_fill_the_journal() -> None:
    """Ten hours of waits of 1.5 s, each followed by half a second of work."""
    waits, events = LockWaits(running()), 0
    for second in range(0, 36_000, 2):
        events += len(waits.look({WHO: wait(1.5)}, second + 1.5))
        events += len(waits.look({}, second + 2.0))
    assert 2 <= events <= 4


def test_the_number_of_recorded_waits_is_bounded_by_the_time() -> None:
    """The threshold doubles up to `LONGEST`, so there is at most one pair of events in a minute."""
    waits, events, now = LockWaits(running()), 0, 0.0
    while now < 36_000:
        events += len(waits.look({WHO: wait(LONGEST)}, now + LONGEST))
        events += len(waits.look({}, now + LONGEST + 1))
        now += LONGEST + 2
    assert events <= 2 * 36_000 / LONGEST


def test_the_end_of_the_worker_ends_the_wait_and_a_detached_one_may_wait_on() -> None:
    for outcome, ends in ((ev.Outcome.FAILED, 1), (ev.Outcome.DETACHED, 0)):
        waits = LockWaits(running())
        waits.look({WHO: wait(FIRST)}, 1.0)
        finished = ev.AttemptFinished(at=6.0, step="a", attempt=1, outcome=outcome)
        assert len(waits.end(finished)) == ends
        assert waits.end(finished) == []


def test_another_worker_under_the_same_process_number_is_not_ours() -> None:
    waits = LockWaits(running())
    assert waits.look({(WORKER.pid, "2020-01-01T00:00:00.000000Z"): wait(5.0)}, 5.0) == []


def blocked_run(until: float) -> list[ev.Event]:
    """Return the events of a run whose step waits from 1.0 to `until`."""
    by = (ev.Blocker(pid=99, name="psql", user="ann", seconds=200.0),)
    lock = {"mode": "AccessExclusiveLock", "lock": "relation", "relation": "public.t", "by": by}
    seconds = until - 1.0
    return [
        *begun(),
        ev.AttemptBlocked(at=2.0, step="a", attempt=1, waiting_since=1.0, seconds=1.0, **lock),  # type: ignore[arg-type]
        ev.AttemptUnblocked(at=until, step="a", attempt=1, seconds=seconds, **lock),  # type: ignore[arg-type]
        ev.AttemptFinished(at=until + 1.0, step="a", attempt=1, outcome=ev.Outcome.SUCCEEDED),
    ]


def logged(until: float, verbosity: Verbosity = Verbosity.NORMAL) -> list[str]:
    """Return the lines about locks that a log has of this run, with a tick each second."""
    stream, state = io.StringIO(), initial_state(plan(step("a", "UPDATE t SET x = 1")))
    sink = Plain(stream, "r", verbosity)
    moment = 0.0
    for event in blocked_run(until):
        while moment + 1.0 <= event.at:
            moment += 1.0
            sink.tick(moment, state)
        apply(state, event)
        sink.handle(event, state)
    return [line.partition("Z ")[2] for line in stream.getvalue().splitlines() if "wait" in line]


def test_a_log_has_a_line_after_ten_seconds_and_one_at_the_end() -> None:
    lock = "AccessExclusiveLock on public.t"
    assert logged(8.0) == []
    assert logged(26.0) == [
        f"a: has waited 10.0s for {lock}, held by pid 99 app 'psql' user ann in a transaction of 3m20s",
        f"a: no longer waiting for {lock}, after 25.0s",
    ]
    assert logged(26.0, Verbosity.QUIET) == []


def test_a_report_has_the_wait() -> None:
    events = [
        ev.RunStarted(
            at=0.0,
            jobplan="1",
            plan="p",
            file="",
            sha256="",
            host="h",
            os_pid=1,
            server="18",
            extension="2.0",
            database="d",
            user="u",
            slots=1,
            steps=1,
        ),
        *blocked_run(26.0),
    ]
    (found,) = run_report(plan(step("a", "UPDATE t SET x = 1")), "r", events).steps
    ((locked,),) = [attempt.lock_waits for attempt in found.attempts]
    assert (locked.since, locked.until, found.blocked) == (1.0, 26.0, 25.0)
    assert lock_wait_words(locked).startswith(
        "waited 25.0s for AccessExclusiveLock on public.t, held by pid 99 app 'psql'"
    )
    unfinished = run_report(plan(step("a", "UPDATE t SET x = 1")), "r", events[:5]).steps[0]
    assert unfinished.attempts[0].lock_waits[0].until == 2.0
