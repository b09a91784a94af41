"""What the forecast says and what a run does are the same, when it is known how long each step takes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from runner import load_plan, run_plan
from runner.preflight.schedule_forecast import forecast
from runner.preflight.step_durations import Duration, KnownDurations

NAPS = {"a": 2.4, "b": 4.8, "c": 1.6, "d": 3.2, "e": 2.0, "f": 3.6}
PLAN = """
version: 1
name: naps
budget: {slots: 2, pools: {bed: 1}}
defaults: {timeout: 1m, on_finish: wait}
steps:
  - {id: a, sql: SELECT pg_sleep(2.4)}
  - {id: b, sql: SELECT pg_sleep(4.8), pools: [bed]}
  - {id: c, sql: SELECT pg_sleep(1.6), needs: [a]}
  - {id: d, sql: SELECT pg_sleep(3.2), pools: [bed], priority: 5}
  - {id: e, sql: SELECT pg_sleep(2.0), needs: [b, c]}
finally:
  - {id: f, sql: SELECT pg_sleep(3.6)}
"""


@pytest.mark.slow
def test_the_forecast_and_the_run_agree(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN, encoding="utf-8")
    plan = load_plan(tmp_path / "plan.yaml")
    durations = KnownDurations({name: Duration(p50=each, p95=each) for name, each in NAPS.items()})
    schedule = forecast(plan, durations, rows={})
    result = run_plan(plan, dsn=dsn)
    assert result.exit_code == 0
    began = result.state.started_at or 0.0
    real = {key: (record.ended_at or 0.0) - began for key, record in result.state.records.items()}
    for bar in schedule.bars:  # a busy machine is later, but never earlier
        assert real[bar.step] >= bar.end - 0.05, (bar.step, real[bar.step], bar.end)
    order = [bar.step for bar in sorted(schedule.bars, key=lambda bar: bar.end)]
    assert all(real[one] <= real[other] for one, other in pairwise(order))
    # The forecast of the durations that were measured leaves out only the time between steps.
    taken = {key: (record.ended_at or 0.0) - (record.started_at or 0.0) for key, record in result.state.records.items()}
    measured = KnownDurations({name: Duration(p50=each, p95=each) for name, each in taken.items()})
    again = forecast(plan, measured, rows={})
    assert [bar.step for bar in sorted(again.bars, key=lambda bar: bar.end)] == order
