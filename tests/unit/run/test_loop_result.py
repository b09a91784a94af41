"""The result of a run must not keep the run's memory alive."""

from __future__ import annotations

from runner.engine.state import initial_state
from runner.errors import Position
from runner.plan.model import Budget, OnFinish, OnRunnerExit, Plan, Sql, Step
from runner.run.loop import RunResult


def test_repr_leaves_the_state_out() -> None:
    """asyncio formats a task's result for debug messages: a whole plan in it would cost as much as its run."""
    sql = Sql(text="select 1", start=Position(file="", line=1, column=1))
    step = Step(id="vacuum", sql=sql, timeout=1.0, on_finish=OnFinish.WAIT, on_runner_exit=OnRunnerExit.CANCEL)
    state = initial_state(Plan(name="p", budget=Budget(slots=1), steps=(step,)))

    assert repr(RunResult(state=state, exit_code=0)) == "RunResult(exit_code=0, record_errors=[])"
