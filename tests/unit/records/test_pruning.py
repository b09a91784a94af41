"""Records are removed when they are old, and never while anything may still depend on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.engine import events as ev
from runner.engine.state import initial_state
from runner.plan.model import Plan
from runner.records.journal import Journal
from runner.records.pruning import prune
from runner.structs import replace
from tests.builders import plan, step
from tests.unit.records.test_journal import keep, started

PLAN = plan(step("a", "select 1", detach=True))
WORKER = ev.Worker(pid=1, backend_start="", application_name="")
DAY = 86_400.0
NOW = 100 * DAY


def launching(at: float, timeout: float | None) -> ev.AttemptLaunching:
    """Return a launch."""
    return ev.AttemptLaunching(at=at, step="a", attempt=1, application_name="", timeout=timeout)


def finished(root: Path, run: str, at: float, state: str = "succeeded", *events: ev.Event, of: Plan = PLAN) -> None:
    """Write the journal of a run that ended."""
    end = ev.RunFinished(at=at, exit_code=0, steps={"a": state})
    keep(root, started(of, run, at - 60), *events, end, run=run, of=of)


def detached(root: Path, run: str, deadline: float | None) -> None:
    """Write the journal of an old run that detached a worker."""
    end = ev.AttemptFinished(at=DAY, step="a", attempt=1, outcome=ev.Outcome.DETACHED, worker=WORKER, deadline=deadline)
    last = ev.StepFinished(at=DAY, step="a", state="detached")
    finished(root, run, DAY, "detached", launching(DAY, None), end, last)


def left(root: Path) -> set[str]:
    """Return the runs that are there."""
    return {path.name for path in root.iterdir()}


def test_old_runs_go_and_the_latest_stay(tmp_path: Path) -> None:
    for day in (10, 20, 80, 99):
        finished(tmp_path, f"day{day}", day * DAY)
    assert {run.run_id for run in prune(tmp_path, now=NOW, older_than=30 * DAY, keep=3).removed} == {"day10"}
    assert {run.run_id for run in prune(tmp_path, now=NOW, older_than=30 * DAY).removed} == {"day20"}
    assert prune(tmp_path, now=NOW, keep=2).removed == ()
    assert left(tmp_path) == {"day80", "day99"}
    assert {run.run_id for run in prune(tmp_path, now=NOW, keep=1).removed} == {"day80"}


def test_a_run_without_an_end_goes_by_force_only(tmp_path: Path) -> None:
    keep(tmp_path, started(PLAN, "killed", DAY), launching(DAY, 60.0), run="killed", of=PLAN)
    (keep(tmp_path, started(PLAN, "damaged", DAY), run="damaged", of=PLAN) / "events.jsonl").write_bytes(b"x\ny\n")
    (kept, other) = prune(tmp_path, now=10 * NOW**2).kept
    assert (kept.run.run_id, other.run.run_id) == ("killed", "damaged")
    assert "no end (broken off)" in kept.why
    assert "damaged" in other.why
    assert len(prune(tmp_path, now=10 * NOW**2, force=True).removed) == 2
    assert left(tmp_path) == set()


@pytest.mark.parametrize("force", [False, True])
def test_a_run_that_is_under_way_stays_whatever_is_asked(tmp_path: Path, force: bool) -> None:
    journal = Journal.create(tmp_path, "going", PLAN)
    journal.handle(started(PLAN, "going", DAY), initial_state(PLAN))
    (kept,) = prune(tmp_path, now=NOW, force=force).kept
    assert kept.why == "it is running"
    assert left(tmp_path) == {"going"}
    journal.close()


@pytest.mark.parametrize("force", [False, True])
def test_a_run_whose_workers_may_live_stays_whatever_is_asked(tmp_path: Path, force: bool) -> None:
    detached(tmp_path, "detached", NOW + 60)
    keep(tmp_path, started(PLAN, "killed", DAY), launching(DAY, NOW), run="killed", of=PLAN)
    running = replace(PLAN, steps=(step("a", "select 1"),))
    finished(tmp_path, "abandoned", DAY, "running", launching(DAY, NOW), of=running)
    pruned = prune(tmp_path, now=NOW, force=force)
    assert pruned.removed == ()
    assert left(tmp_path) == {"detached", "killed", "abandoned"}
    assert sum("may run until 1970-04-" in kept.why for kept in pruned.kept) == (3 if force else 2)


def test_a_worker_that_the_server_has_ended_keeps_nothing(tmp_path: Path) -> None:
    detached(tmp_path, "detached", NOW - 60)
    assert len(prune(tmp_path, now=NOW).removed) == 1


def test_a_worker_without_a_timeout_keeps_its_run_until_another_session_insists(tmp_path: Path) -> None:
    detached(tmp_path, "endless", None)
    (kept,) = prune(tmp_path, now=NOW).kept
    assert "without a timeout" in kept.why
    assert len(prune(tmp_path, now=NOW, force=True).removed) == 1


def test_what_is_no_record_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    assert prune(tmp_path, now=NOW).removed == ()
    assert left(tmp_path) == {"notes"}
