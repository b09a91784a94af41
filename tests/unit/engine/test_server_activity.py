"""What is read of a server's sessions: whose they are, what they may tell, and which run is meant."""

from __future__ import annotations

import pytest

from runner.engine.leftovers import read_leftover
from runner.engine.server_activity import KnownWorkers, find_run
from runner.errors import UsageError
from runner.gateway.observer import read_runs
from runner.gateway.replies import Row
from runner.identity import WorkerLabel, runner_name, worker_name
from tests.builders import looked_label

RUN = "260131-k7f3qz"
START = "2026-01-31T00:00:00.000000Z"


def session(
    pid: int, name: str, kind: str | None = "pg_background", *, query: str = "SELECT 1", wait: str | None = None
) -> Row:
    """Return a row as the query `sessions` gives it."""
    visible = kind is not None
    seen: tuple[str | None, ...] = (START, name, kind, "app", "u") if visible else (None, name, None, "app", "u")
    state = ("active", "Lock" if wait else None, wait, query) if visible else (None, None, None, query)
    return (str(pid), *seen, *state, "1000.5" if visible else None, "10.0.0.1", "1001.5" if visible else None)


def worker(pid: int, step: str, *, on_finish: str = "wait", run: str = RUN, label_run: str = "") -> Row:
    """Return the row of a labelled worker."""
    label = looked_label(label_run or run, step, on_finish=on_finish)
    return session(pid, worker_name(run, step), query=f"{label.to_comment()} VACUUM t")


def test_sessions_become_runs_with_runners_and_workers() -> None:
    rows = [session(1, runner_name(RUN), "client backend"), worker(2, "a"), worker(3, "b", run="260131-zzzzzz")]
    first, second = read_runs(rows, [], [])
    assert (first.run, first.alive, [w.step for w in first.workers]) == (RUN, True, ["a"])
    assert (second.run, second.alive, [w.step for w in second.orphans]) == ("260131-zzzzzz", False, ["b"])
    (seen,) = first.workers
    assert (seen.query, seen.started_at, seen.deadline) == ("VACUUM t", 1000.5, 1300.5)
    assert (seen.worker.backend_start, first.plan, first.runner[0].host) == (START, "nightly", "10.0.0.1")
    assert first.runner[0].last_active_at == 1001.5


def test_detached_workers_of_a_dead_runner_are_no_orphans() -> None:
    (run,) = read_runs([worker(1, "a", on_finish="detach"), worker(2, "b")], [], [])
    assert [w.step for w in run.orphans] == ["b"]


def test_a_step_called_runner_is_no_runner() -> None:
    (run,) = read_runs([worker(1, "runner")], [], [])
    assert (run.alive, [w.step for w in run.workers]) == (False, ["runner"])


def test_a_role_that_only_has_such_a_name_is_not_reported() -> None:
    assert read_runs([session(1, worker_name(RUN, "a"), "client backend")], [], []) == ()


def test_workers_that_this_role_may_not_see_are_recognized_by_name() -> None:
    hidden = "<insufficient privilege>"
    rows = [session(1, runner_name(RUN), None, query=hidden), session(2, worker_name(RUN, "a"), None, query=hidden)]
    (run,) = read_runs(rows, [], [])
    (seen,) = run.workers
    assert (run.alive, seen.step, seen.visible, seen.query, seen.worker.backend_start) == (True, "a", False, "", "")
    assert (seen.deadline, seen.detached) == (None, False)
    assert run.silence(5000.0) is None


def test_a_worker_that_takes_the_name_of_another_run_is_found_by_its_label() -> None:
    (run,) = read_runs([worker(1, "a", label_run="260131-zzzzzz")], [], [])
    assert (run.run, run.workers[0].step) == ("260131-zzzzzz", "a")
    assert run.workers[0].worker.application_name == worker_name(RUN, "a")


def test_a_worker_that_a_record_knows_is_found_whatever_it_says() -> None:
    (seen,) = read_runs([worker(1, "a", label_run="260131-zzzzzz")], [], [])[0].workers
    known = KnownWorkers(by_identity={seen.worker: looked_label(RUN, "b")})
    (run,) = read_runs([worker(1, "a", label_run="260131-zzzzzz")], [], [], known)
    assert (run.run, run.workers[0].step) == (RUN, "b")


def test_a_lock_wait_is_reported_on_both_sides() -> None:
    sides = ("2", worker_name(RUN, "b"), "u", "active", "LOCK t", "3.5"), ("1", None, "u", "idle", None, None)
    rows = [worker(1, "a"), worker(2, "b")]
    progress = ("1", "VACUUM", "scanning", "t", "1", "2", "blocks")
    (run,) = read_runs(rows, [(*sides[0], "ShareLock on t", *sides[1])], [progress])
    holder, waiter = run.workers
    (other,) = waiter.blocked_by
    assert (other.pid, other.lock, other.seconds) == (1, "ShareLock on t", None)
    assert (holder.blocks[0].pid, holder.blocks[0].name, holder.blocks[0].seconds) == (2, worker_name(RUN, "b"), 3.5)
    assert holder.progress is not None
    assert (holder.progress.phase, holder.progress.done, holder.progress.total) == ("scanning", 1, 2)


@pytest.mark.parametrize(
    ("step", "asked", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("ab", "a", False),
        ("a[x]", "a", True),
        ("a[x]", "a[x]", True),
        ("a[x]", "a[y]", False),
        ("a[" + "x" * 2000 + "]", "a[" + "x" * 2000 + "]", True),
        ("a[" + "x" * 2000 + "]", "a[" + "x" * 2001 + "]", False),
        ("a[größe]", "a[größe]", True),
        ("a[größe]", "a[gräße]", False),
    ],
)
def test_a_worker_is_of_its_step_and_of_the_step_that_it_is_an_instance_of(
    step: str, asked: str, *, expected: bool
) -> None:
    (run,) = read_runs([worker(1, step)], [], [])
    assert run.workers[0].is_of(asked) is expected
    (bare,) = read_runs([session(1, worker_name(RUN, step))], [], [])
    assert bare.workers[0].is_of(asked) is expected


def test_a_run_is_found_by_its_beginning() -> None:
    runs = read_runs([worker(1, "a"), worker(2, "a", run="260131-zz"), worker(3, "a", run="260131-zzzzzz")], [], [])
    assert find_run(runs, "260131-k").run == RUN
    assert find_run(runs, "260131-zz").run == "260131-zz"
    with pytest.raises(
        UsageError, match=r"'260131' is the beginning of more than one run .* 260131-k7f3qz, 260131-zz, 260131-zzzzzz"
    ):
        find_run(runs, "260131")
    with pytest.raises(UsageError, match=r"no run 'x' is active .* There are: 260131-k7f3qz, "):
        find_run(runs, "x")
    with pytest.raises(UsageError, match="No jobplan session is active there"):
        find_run((), "x")


def test_a_label_is_kept_as_it_was_written() -> None:
    (run,) = read_runs([worker(1, "größe[*/]")], [], [])
    assert run.workers[0].label == looked_label(RUN, "größe[*/]")
    assert isinstance(run.workers[0].label, WorkerLabel)


@pytest.mark.parametrize("name", ["public.i_{}", 'public."I x_{}"', "i_{}2"])
@pytest.mark.parametrize(
    ("suffix", "what"),
    [("ccnew", "an unfinished copy"), ("ccold", "the old one, and the new one is in its place")],
)
def test_what_a_reindex_concurrently_leaves(name: str, suffix: str, what: str) -> None:
    index = name.format(suffix)
    found = read_leftover("index", index, "t")
    assert found.what == f"index {index} of t is {what}"
    assert found.repair == (f"DROP INDEX CONCURRENTLY {index};",)
