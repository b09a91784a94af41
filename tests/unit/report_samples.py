"""A run in which something of everything happened, and its events: what reports are tested with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runner.engine import events as ev
from runner.engine.simulation import AttemptScript, Simulation
from runner.errors import Position
from runner.plan.model import AllowFailure, ForEach, Need, NeedOn, Plan, Repeat, RetryPolicy, Sql
from runner.structs import replace
from tests.unit.simulated_runs import IDLE, item_rows, plan, script, simulated, step

RUN = "260101-abcdef"
AT = 1_767_225_600.0  # 2026-01-01T00:00:00Z

#: Text that would do harm where it is not escaped.
HOSTILE = "</script><script>alert('1')</script><img src=x onerror=\"alert(2)\">]]>&amp;`|\\|@everyone\u2028\x1b[31m"
#: The same for an item, which becomes part of a step's name.
HOSTILE_ITEM = "</b>'\"&`|\\@all"
LONG = "SELECT '" + "x" * 10_000 + "'"

_START = Position(file="plan.yaml", line=1, column=1)


def sql(text: str) -> Sql:
    """Return SQL that stands nowhere."""
    return Sql(text=text, start=_START)


def everything() -> tuple[Plan, tuple[ev.Event, ...]]:
    """Return a plan and the events of a run of it: retries, a repeat, a for_each, and most ends of steps."""
    retry = RetryPolicy(max_attempts=3, delay=2.0)
    steps = (
        step("purge", sql=sql("DELETE FROM audit WHERE n > :keep"), repeat=Repeat(max_iterations=9, pause=0.5)),
        step(
            "vacuum", "purge", sql=sql('VACUUM :"t"'), for_each=ForEach(as_="t", sql=sql("SELECT t")), pools={"io": 1}
        ),
        step("wide", "vacuum", slots=2, tags=frozenset({"night"}), description="Takes two slots."),
        step("deadlocked", "purge", retry=retry, capture_rows=2),
        step("late", "purge", timeout=5.0),
        step("after_late", "late"),
        step("told_of_late", Need(step="late", on=NeedOn.FAILURE)),
        step("allowed", "purge", allow_failure=AllowFailure()),
        step("lost", "purge", sql=sql(LONG)),
        step("left", "vacuum", **IDLE),
    )
    scripts = {
        "purge": [AttemptScript(duration=2.0, row_count=3), AttemptScript(duration=1.0, row_count=0)],
        "vacuum[a]": [AttemptScript(duration=4.0)],
        "wide": [AttemptScript(duration=6.0)],
        "deadlocked": [script(ev.Outcome.FAILED, "40P01"), script(ev.Outcome.SUCCEEDED)],
        "late": [script(ev.Outcome.TIMED_OUT, "57014", duration=5.0)],
        "allowed": [script(ev.Outcome.FAILED, "42P01")],
        "lost": [script(ev.Outcome.UNKNOWN)],
        "left": [AttemptScript(duration=60.0)],
    }
    run = reported(
        plan(
            *steps,
            slots=3,
            pools={"io": 1},
            finally_=(step("note", sql=sql("SELECT :'run.status'")),),
            values={"keep": 9},
        ),
        scripts,
        items=("a", "b", HOSTILE_ITEM),
    )
    return run.state.plan, tuple(_with_details(run.events))


def reported(a_plan: Plan, scripts: Mapping[str, Sequence[AttemptScript]], *, items: Sequence[str] = ()) -> Simulation:
    """Run a plan at the beginning of 2026; a step `vacuum` has these items."""
    return simulated(a_plan, scripts, {"vacuum": [item_rows(*items)]}, start=AT)


def _with_details(events: Sequence[ev.Event]) -> Iterator[ev.Event]:
    """Yield the events with what a server would have added."""
    for event in events:
        match event:
            case ev.RunStarted():
                begun = replace(event, jobplan="1.2", file="plans/all.yaml", host="h", database="app", user="u")
                yield replace(begun, server="18.6 (Debian 18.6-3)", extension="2.0")
            case ev.AttemptFinished():
                notice = ev.Notice(severity="NOTICE", message=f"of {event.step} {HOSTILE}")
                yield ev.AttemptNotice(at=event.at, step=event.step, attempt=event.attempt, notice=notice)
                yield _finished(event)
            case ev.StepFinished() if event.error is not None:
                yield replace(event, error=_error(event.error))
            case _:
                yield event


def _finished(event: ev.AttemptFinished) -> ev.AttemptFinished:
    rows = ev.Rows(columns=("id", HOSTILE), rows=(("1", HOSTILE), ("2", None)))
    return replace(
        event,
        error=event.error and _error(event.error),
        started_at=event.at - 0.25,
        finished_at=event.at,
        result=rows if event.step == "deadlocked" and event.error is None else None,
    )


def _error(error: ev.ErrorDetails) -> ev.ErrorDetails:
    return replace(
        error, message=f"no: {HOSTILE}", detail="Key (id)=(1) already exists.", hint=HOSTILE, context="line 1"
    )
