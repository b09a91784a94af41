"""The forecast of a run: the scheduler's own order, with the durations that are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.engine import events as ev
from runner.plan.model import Budget, Expect, ForEach, OnFinish, Plan, Repeat
from runner.preflight.schedule_forecast import Schedule, forecast, schedule_problems
from runner.preflight.step_durations import Duration, FirstOf, KnownDurations, MostRuns, of_samples, recorded
from runner.reports.dry_run_report import schedule_lines
from runner.reports.plan_problems import Style
from tests.builders import plan, step


def known(**seconds: float) -> KnownDurations:
    """Return durations that never vary."""
    return KnownDurations({name: Duration(p50=each, p95=each, runs=9) for name, each in seconds.items()})


def ends(schedule: Schedule) -> dict[str, float]:
    """Return when each step ends, in whole seconds."""
    return {bar.step: round(bar.end) for bar in schedule.bars}


DIAMOND = plan(
    step("a", "SELECT 1"),
    step("b", "SELECT 1", needs=["a"]),
    step("c", "SELECT 1", needs=["a"]),
    step("d", "SELECT 1", needs=["b", "c"]),
    slots=2,
)


def test_a_diamond_takes_as_long_as_its_longest_side() -> None:
    schedule = forecast(DIAMOND, known(a=10, b=20, c=40, d=5), rows={})
    assert ends(schedule) == {"a": 10, "b": 30, "c": 50, "d": 55}
    assert schedule.critical == ("a", "c", "d")
    assert schedule.lower_bound == pytest.approx(55, abs=0.1)
    assert schedule.makespan == pytest.approx(schedule.lower_bound, abs=0.1)


def test_a_slot_that_is_waited_for_is_on_the_critical_path() -> None:
    of = plan(step("long", "SELECT 1", priority=1), step("short", "SELECT 1"), slots=1)
    schedule = forecast(of, known(long=30, short=5), rows={})
    assert schedule.critical == ("long", "short")
    assert round(schedule.bars[1].start - schedule.bars[1].ready) == 30
    assert schedule.lower_bound == pytest.approx(30, abs=0.1)


def test_more_slots_help_as_far_as_they_do() -> None:
    of = plan(*(step(name, "SELECT 1") for name in "abcdef"), slots=2)
    schedule = forecast(of, known(**dict.fromkeys("abcdef", 10.0)), rows={}, slots=range(1, 9))
    assert [round(one.makespan) for one in schedule.tried] == [60, 30, 20, 20, 20, 10, 10, 10]
    assert schedule.enough == 6


def test_slots_below_the_widest_step_are_not_tried() -> None:
    of = plan(step("wide", "SELECT 1", slots=3), slots=4)
    assert [one.slots for one in forecast(of, known(wide=1), rows={}, slots=range(1, 6)).tried] == [3, 4, 5]


def test_a_pool_bounds_the_makespan() -> None:
    steps = [step(name, "SELECT 1", pools={"disk": 1}) for name in "abc"]
    of = Plan(name="test", budget=Budget(slots=4, pools={"disk": 1}), steps=tuple(steps))
    schedule = forecast(of, known(a=10, b=10, c=10), rows={})
    assert schedule.lower_bound == pytest.approx(30, abs=0.1)
    assert round(schedule.makespan) == 30


def test_what_is_not_known_gets_the_median_and_says_so() -> None:
    schedule = forecast(DIAMOND, known(a=10, b=20, d=40), rows={})
    assert schedule.unknown == ("c",)
    assert ends(schedule)["c"] == 30
    assert not schedule.nothing_known


def test_when_nothing_is_known_only_the_order_is() -> None:
    schedule = forecast(DIAMOND, KnownDurations({}), rows={})
    assert schedule.nothing_known
    lines = list(schedule_lines(schedule, Style()))
    assert any("No durations are known" in line for line in lines)
    assert not any("Makespan" in line for line in lines)


def test_conditions_expectations_and_timeouts_do_not_end_a_forecast_early() -> None:
    of = plan(
        step("a", "SELECT 1", timeout=1.0, expect=Expect(value=7, has_value=True)), step("b", "SELECT 1", needs=["a"])
    )
    schedule = forecast(of, known(a=60, b=1), rows={}, left_out=frozenset())
    assert ends(schedule) == {"a": 60, "b": 61}


def test_instances_come_from_the_rows_of_the_query() -> None:
    each = ForEach(as_="t", sql=step("x", "SELECT 1").sql)
    of = plan(step("vacuum", "SELECT 1", for_each=each), slots=1)
    rows = {"vacuum": ev.Rows(columns=("name",), rows=(("a",), ("b",)))}
    schedule = forecast(
        of, KnownDurations({"vacuum": Duration(p50=5, p95=5), "vacuum[b]": Duration(p50=9, p95=9)}), rows=rows
    )
    assert ends(schedule) == {"vacuum[a]": 5, "vacuum[b]": 14}


def test_steps_left_out_take_no_time() -> None:
    assert ends(forecast(DIAMOND, known(a=1, b=1, c=1, d=1), rows={}, left_out=frozenset({"d"}))).keys() == {
        "a",
        "b",
        "c",
    }


def test_limits_that_are_too_short_are_found() -> None:
    of = plan(
        step("first", "SELECT 1", timeout=60.0, priority=1),
        step("second", "SELECT 1", timeout=10.0, queue_timeout=20.0),
        slots=1,
        run_timeout=45.0,
    )
    durations = KnownDurations({"first": Duration(p50=30, p95=40, runs=3), "second": Duration(p50=5, p95=12, runs=3)})
    schedule = forecast(of, durations, rows={})
    found = [problem.code for problem in schedule_problems(of, schedule, durations)]
    assert sorted(found) == ["JP801", "JP802", "JP803"]


def test_percentiles_are_those_of_percentile_cont() -> None:
    assert of_samples([float(n) for n in range(1, 102)]) == Duration(p50=51.0, p95=96.0, runs=101)
    assert of_samples([10.0, 20.0]) == Duration(p50=15.0, p95=19.5, runs=2)
    assert of_samples([7.0], [2.0, 4.0]) == Duration(p50=7.0, p95=7.0, runs=1, attempt_p95=3.9)


def test_the_source_with_the_most_runs_is_used() -> None:
    once = KnownDurations({"a": Duration(p50=1, p95=1, runs=1), "b": Duration(p50=4, p95=4, runs=2)})
    often = KnownDurations({"a": Duration(p50=2, p95=2, runs=9), "b": Duration(p50=5, p95=5, runs=2)})
    both = MostRuns([once, often])
    assert [each.p50 for each in (both.of("a"), both.of("b")) if each is not None] == [2, 4]
    assert both.of("c") is None


def test_the_timeout_of_a_step_that_repeats_is_that_of_an_iteration() -> None:
    repeated = step("a", "SELECT 1", timeout=10.0, repeat=Repeat(max_iterations=9))
    of = plan(repeated, slots=1)

    def found(**more: float) -> list[str]:
        durations = KnownDurations({"a": Duration(p50=60, p95=60, runs=3, **more)})
        return [problem.code for problem in schedule_problems(of, forecast(of, durations, rows={}), durations)]

    assert found() == []
    assert found(attempt_p95=5.0) == []
    assert found(attempt_p95=15.0) == ["JP801"]


def test_a_step_that_is_detached_bounds_nothing() -> None:
    steps = [step(name, "SELECT 1") for name in "abcd"]
    of = plan(step("away", "SELECT 1", on_finish=OnFinish.DETACH, priority=9), *steps, slots=2)
    schedule = forecast(of, known(away=1000, **dict.fromkeys("abcd", 10.0)), rows={}, slots=range(2, 7))
    assert round(schedule.makespan) == 40
    assert schedule.lower_bound == pytest.approx(10, abs=0.1)
    assert round(schedule.tried[-1].makespan) == 10


def test_the_most_slots_that_were_tried_are_not_enough_while_they_help() -> None:
    of = plan(*(step(name, "SELECT 1") for name in "abcdefgh"), slots=2)
    durations = known(**dict.fromkeys("abcdefgh", 10.0))
    schedule = forecast(of, durations, rows={}, slots=range(1, 5))
    assert schedule.enough is None
    assert "More than 4 slots may shorten it further" in "\n".join(schedule_lines(schedule, Style()))
    assert forecast(of, durations, rows={}, slots=range(1, 9)).enough == 8


def test_what_excludes_itself_bounds_the_makespan() -> None:
    of = plan(*(step(name, "SELECT 1", exclusive=frozenset({"door"})) for name in "abc"), slots=3)
    assert forecast(of, known(a=10, b=10, c=10), rows={}).lower_bound == pytest.approx(30, abs=0.1)


def test_the_first_source_that_has_the_step_is_used() -> None:
    both = FirstOf([known(a=1), known(a=2, b=3)])
    assert [each.p50 for each in (both.of("a"), both.of("b")) if each is not None] == [1, 3]
    assert both.of("c") is None


def journal(folder: Path, run: str, plan_name: str, seconds: float, state: str = "succeeded") -> None:
    """Write a journal of one step, beginning at noon."""
    lines = [
        {"event": "run_started", "at": "2026-01-01T12:00:00.000Z", "plan": plan_name},
        {"event": "attempt_launching", "at": "2026-01-01T12:00:01.000Z", "step": "a"},
        {"event": "attempt_launching", "at": "2026-01-01T12:00:02.000Z", "step": "a"},
        {"event": "attempt_finished", "at": f"2026-01-01T12:00:{seconds:06.3f}Z", "step": "a", "outcome": state},
        {"event": "step_finished", "at": f"2026-01-01T12:00:{1 + seconds:06.3f}Z", "step": "a", "state": state},
    ]
    path = folder / run / "events.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn', encoding="utf-8")


def test_durations_come_from_journals(tmp_path: Path) -> None:
    journal(tmp_path, "one", "nightly", 10)
    journal(tmp_path, "two", "nightly", 20)
    journal(tmp_path, "other", "weekly", 50)
    journal(tmp_path, "failed", "nightly", 55, state="failed")
    found = recorded(tmp_path, "nightly").of("a")
    assert found == Duration(p50=15.0, p95=19.5, runs=2, attempt_p95=17.5)
    assert recorded(tmp_path / "missing", "nightly").of("a") is None


def test_the_chart_shows_every_step_and_what_it_means() -> None:
    schedule = forecast(DIAMOND, known(a=10, b=20, c=40, d=5), rows={}, slots=range(1, 4))
    text = "\n".join(schedule_lines(schedule, Style()))
    assert "Critical path: a → c → d" in text
    assert "Makespan: 55.0s" in text
    assert "More than 2 slots do not help." in text


def test_a_chart_of_a_thousand_steps_can_be_read() -> None:
    names = [f"s{number}" for number in range(1000)]
    of = plan(*(step(name, "SELECT 1") for name in names), slots=8)
    schedule = forecast(of, known(**dict.fromkeys(names, 3.0)), rows={})
    lines = list(schedule_lines(schedule, Style()))
    assert len(lines) < 60
    assert any("shorter ones" in line for line in lines)
