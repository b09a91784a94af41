"""What past runs tell: how long each step took, in reports, and how long a run will still take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.engine.event_json import to_json
from runner.engine.fold import apply
from runner.engine.previous_runs import MOST_PREVIOUS_RUNS, PreviousRun, PreviousRuns
from runner.engine.simulation import AttemptScript
from runner.engine.state import RunState, initial_state
from runner.plan.model import Plan
from runner.records.summaries import durations, previous_runs
from runner.reports.report_kinds import report_text
from runner.reports.worker_activity import estimate
from tests.unit.report_samples import AT, RUN, everything
from tests.unit.simulated_runs import plan, simulated, step

PLAN = plan(step("a"), step("b", "a"), step("c"), slots=2)


def recorded(root: Path, run_id: str, start: float) -> None:
    """Write the journal of a run that began at a moment."""
    run = simulated(PLAN, {"a": [AttemptScript(duration=3.0)]}, start=start)
    folder = root / run_id
    folder.mkdir(parents=True)
    lines = [json.dumps(to_json(event, run_id)) for event in run.events]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_past_runs_of_the_plan_are_found_the_oldest_first(tmp_path: Path) -> None:
    for number in range(MOST_PREVIOUS_RUNS + 3):
        recorded(tmp_path, f"run-{number:02d}", AT + 100 * number)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "events.jsonl").write_text("{}\nnothing\n{}\n", encoding="utf-8")
    found = previous_runs(tmp_path, PLAN.name, AT + 100 * (MOST_PREVIOUS_RUNS + 2))
    assert [run.run for run in found] == [f"run-{number:02d}" for number in range(2, MOST_PREVIOUS_RUNS + 2)]
    assert found[0].steps == {"a": (3.0, "succeeded"), "b": (1.0, "succeeded"), "c": (1.0, "succeeded")}
    assert previous_runs(tmp_path, "another", AT * 2) == ()
    assert previous_runs(tmp_path / "nowhere", PLAN.name, AT * 2) == ()


def test_a_step_s_time_has_its_retries_in_it() -> None:
    found = durations(to_json(event, RUN) for event in everything()[1])
    assert found["deadlocked"] == (4.0, "succeeded")
    assert found["late"] == (5.0, "timed_out")
    assert "after_late" not in found


def test_the_page_has_each_step_s_past() -> None:
    a_plan, events = everything()
    past = PreviousRun(run="older", started_at=AT - 1, steps={"late": (4.5, "succeeded")})
    text = report_text("html", a_plan, RUN, events, [past])
    assert '"history":[{"run":"older","at":1767225599.0,"steps":{"late":[4.5,"succeeded"]}}]' in text


def at_second(a_plan: Plan, second: float) -> RunState:
    run = simulated(a_plan, {}, start=AT)
    state = initial_state(a_plan)
    for event in run.events:
        if event.at <= AT + second:
            apply(state, event)
    return state


@pytest.mark.parametrize(
    ("second", "known", "left"),
    [
        (0.25, {"a": 2.0, "b": 3.0, "c": 1.0}, 4.75),
        (0.25, {"a": 2.0, "b": 3.0, "c": 99.0}, 98.75),
        (0.25, {"a": 10.0, "c": 2.0}, 9.75 + 6.0),
        (0.25, {"a": 10.0}, None),
        (0.25, {}, None),
        (1.5, {"b": 3.0}, 2.5),
        (9.0, {"a": 1.0, "b": 1.0, "c": 1.0}, None),
    ],
)
def test_what_is_left_is_the_longest_chain_or_all_work(
    second: float, known: dict[str, float], left: float | None
) -> None:
    assert estimate(at_second(PLAN, second), AT + second, known.get) == left


def test_what_is_left_is_all_work_where_slots_are_few() -> None:
    steps = [step(f"s{number}") for number in range(10)]
    assert estimate(at_second(plan(*steps, slots=2), 0.0), AT, lambda _: 2.0) == 10.0


def test_runs_of_the_ledger_join_those_of_the_journals_once_and_only_before_this_run() -> None:
    def run(name: str, at: float) -> PreviousRun:
        return PreviousRun(run=name, started_at=at, steps={"a": (1.0, "succeeded")})

    history = PreviousRuns("plan", before=100.0, runs=[run("b", 20.0)])
    history.add([run("b", 21.0), run("later", 100.0)])
    assert (history.runs, history.added) == ((run("b", 20.0),), False)
    history.add([run("c", 30.0), run("a", 10.0)])
    assert [one.run for one in history.runs] == ["a", "b", "c"]
    assert history.added
    history.add([run(f"r{number}", 40.0 + number) for number in range(MOST_PREVIOUS_RUNS)])
    assert [one.run for one in history.runs] == [f"r{number}" for number in range(MOST_PREVIOUS_RUNS)]
