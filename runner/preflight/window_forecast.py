"""When the plan's window opens and closes next, and which steps of the schedule fit into it.

`schedule` simulates a run that begins now, or when the window opens, and obeys the window. So the forecast is what the
scheduler would decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.codes import new_problem
from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.simulation import Simulation
from runner.engine.window import is_unfinished
from runner.errors import Problem
from runner.plan.model import Plan, StepWindow, Window
from runner.plan.window import longest_opening, opening_at
from runner.preflight.schedule_forecast import Rows, forecaster
from runner.preflight.step_durations import Durations
from runner.structs import Struct

#: Steps that a finding names.
_NAMED = 5


class WindowForecast(Struct, frozen=True, kw_only=True):
    """The present or next opening, and how far a run would come in it. Times are seconds since the epoch.

    The run begins now, or at the opening, and `ends_at` is when it would end. `left_over` are the steps that would not
    start, with the usual durations; `left_over_late` if every step takes as long as its 95th percentile. `known`: there
    are durations, without which these say nothing.
    """

    window: Window
    server_time: float
    opens: float
    closes: float
    known: bool
    ends_at: float
    left_over: tuple[str, ...] = ()
    left_over_late: tuple[str, ...] = ()

    @property
    def open_now(self) -> bool:
        """Return whether the window is open."""
        return self.opens <= self.server_time


def window_forecast(
    plan: Plan,
    durations: Durations,
    usual: Mapping[str, float],
    *,
    rows: Rows,
    left_out: frozenset[str],
    server_time: float,
) -> WindowForecast | None:
    """Return the forecast for a plan with a window, None for any other. `usual` are the durations for `fit`."""
    if plan.window is None:
        return None
    opening = opening_at(plan.window, server_time)
    simulated = forecaster(plan, durations, rows=rows, left_out=left_out, window=plan.window)
    start = max(server_time, opening.opens)
    usually, late = (
        simulated.run(slots=plan.budget.slots, late=late, start=start, usual=usual) for late in (False, True)
    )
    return WindowForecast(
        window=plan.window,
        server_time=server_time,
        opens=opening.opens,
        closes=opening.closes,
        known=any(durations.of(step.id) is not None for step in plan.steps),
        ends_at=_end(usually),
        left_over=_left_over(plan, usually, opening.closes),
        left_over_late=_left_over(plan, late, opening.closes),
    )


def _end(run: Simulation) -> float:
    return max(event.at for event in run.events if not isinstance(event, ev.ServerClock))


def _left_over(plan: Plan, run: Simulation, closes: float) -> tuple[str, ...]:
    """Return the steps that do not start, are cancelled, or repeat and would need iterations after the close."""
    loops = {step.id for step in plan.steps if step.repeat is not None and step.window is not StepWindow.IGNORE}
    return tuple(
        key
        for key, one in run.state.records.items()
        if not one.instances
        and (is_unfinished(run.state, one) or (key.partition("[")[0] in loops and (one.ended_at or 0.0) > closes))
    )


def window_problems(plan: Plan, found: WindowForecast | None, usual: Mapping[str, float]) -> Iterator[Problem]:
    """Yield steps that can never start because of `fit`, and that the schedule does not fit into the window."""
    if found is None:
        return
    window, longest = found.window, longest_opening(found.window)
    for step in plan.steps:
        seconds = usual.get(step.id)
        if seconds is not None and seconds >= longest and step.window is not StepWindow.IGNORE:
            message = (
                f"`{step.id}` usually takes {format_duration(seconds)} ({window.fit}), and the window is open for at "
                f"most {format_duration(longest)}: with `fit: {window.fit}` it never starts"
            )
            yield new_problem("JP626", message, step.position, step=step.id)
    if found.known and found.left_over:
        names = ", ".join(found.left_over[:_NAMED]) + (", …" if len(found.left_over) > _NAMED else "")
        opening = "what is left of the window" if found.open_now else "the next opening of the window"
        length = format_duration(found.closes - max(found.opens, found.server_time))
        message = (
            f"the plan does not fit into {opening} ({length}): {len(found.left_over)} of its steps are left over "
            f"({names})"
        )
        hint = "The run would end with exit code 8; `jobplan run --or-resume` continues it in the next opening."
        yield new_problem("JP627", message, window.position, hint=hint)
