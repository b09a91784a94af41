"""What a run keeps when another runner resumes it: what has evidence, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.resume_state import finally_starts_again, is_kept, is_open, kept_items, steps_over
from runner.engine.simulation import Simulation, simulate
from runner.engine.state import HOLDING, RunState, StepState, initial_state
from runner.errors import UsageError
from runner.plan.model import ForEach, Need, NeedOn, OnRunnerExit, Plan, Repeat
from runner.structs import replace
from tests.builders import sql
from tests.invariants import validate
from tests.unit.random_runs import World, random_plan
from tests.unit.simulated_runs import IDLE, SQL, ends, item_rows, launches, plan, script, simulated, step

RUNS = 600


def resumed(at: float, **keys: Any) -> ev.RunResumed:
    """Return the event of a runner that takes a run up."""
    keys = {"jobplan": "", "file": "", "sha256": "", "host": "", "os_pid": 0, "slots": 1, "steps": 1, **keys}
    return ev.RunResumed(at=at, **keys)


def take_up(a_plan: Plan, first: Sequence[ev.Event], **keys: Any) -> Simulation:
    """Run the plan on from these events; what `keys` are not for the event goes to `simulated`."""
    reported = {name: keys.pop(name) for name in ("settled", "adopted") if name in keys}
    last = first[-1].at
    return simulated(a_plan, history=[*first, resumed(last + 10.0, **reported)], **keys)


def adopted(key: str, attempt: int = 1) -> ev.Adopted:
    """Return a worker that lives."""
    worker = ev.Worker(pid=7, backend_start="then", application_name=f"jobplan:r:{key}")
    return ev.Adopted(step=key, attempt=attempt, worker=worker)


def until(run: Simulation, kind: type[ev.Event], key: str | None = None) -> Sequence[ev.Event]:
    """Return the events up to the first one of a kind, as a journal has them after a crash."""
    for number, event in enumerate(run.events):
        if isinstance(event, kind) and key in (None, getattr(event, "step", None)):
            return run.events[: number + 1]
    raise AssertionError(f"no {kind.name} of {key}")


def test_what_succeeded_is_not_run_again_and_what_failed_is() -> None:
    p = plan(step("a"), step("b", "a"), step("c", "b"))
    first = simulated(p, {"b": [script(ev.Outcome.FAILED)]})
    assert ends(first) == {"a": "succeeded", "b": "failed", "c": "skipped"}
    second = take_up(p, first.events)
    assert ends(second) == {"a": "succeeded", "b": "succeeded", "c": "succeeded"}
    assert launches(second, "a") == []
    assert [event.attempt for event in second.events if isinstance(event, ev.AttemptLaunching)] == [2, 1]


def test_what_was_skipped_because_of_what_stays_stays_skipped() -> None:
    after_failure = Need(step="a", on=NeedOn.FAILURE)
    p = plan(step("a"), step("b", after_failure), step("c", "b"), finally_=(step("z"),))
    first = simulated(p)
    assert ends(first) == {"a": "succeeded", "b": "skipped", "c": "skipped", "z": "succeeded"}
    assert not finally_starts_again(first.state, {}, p)
    second = take_up(p, first.events)
    assert ends(second) == ends(first)
    assert launches(second, "z") == []


def test_what_was_skipped_because_of_a_failure_has_another_chance() -> None:
    p = plan(step("a"), step("b", "a"), step("c", "b"), finally_=(step("z"),))
    first = simulated(p, {"a": [script(ev.Outcome.FAILED)]})
    assert steps_over(first.state, {}, p) == {"z"}
    assert finally_starts_again(first.state, {}, p)


def test_a_success_that_could_not_be_judged_is_judged_again_and_not_run_again() -> None:
    p = plan(step("a", verify=SQL))
    first = simulated(p, verdicts={"a": [ev.Verdict.ERROR]})
    assert ends(first) == {"a": "failed"}
    second = take_up(p, first.events)
    assert ends(second) == {"a": "succeeded"}
    assert launches(second, "a") == []


def test_a_success_that_was_found_wanting_runs_again() -> None:
    p = plan(step("a", verify=SQL))
    first = simulated(p, verdicts={"a": [ev.Verdict.FAIL]})
    second = take_up(p, first.events)
    assert ends(second) == {"a": "succeeded"}
    assert len(launches(second, "a")) == 1


def test_what_was_known_of_a_step_that_is_kept_stays_known() -> None:
    p = plan(step("a"), step("b", "a"))
    first = simulated(p, {"b": [script(ev.Outcome.FAILED)]})
    second = take_up(p, first.events)
    a = second.state.records["a"]
    assert (a.attempt, a.last and a.last.outcome, a.since) == (1, ev.Outcome.SUCCEEDED, 1.0)


def test_a_worker_that_lives_is_followed_and_not_started_again() -> None:
    p = plan(step("a"), step("b", "a"))
    first = simulated(p, {"a": [script(ev.Outcome.SUCCEEDED, duration=5.0)]})
    second = take_up(p, until(first, ev.AttemptRunning, "a"), adopted=(adopted("a"),))
    assert ends(second) == {"a": "succeeded", "b": "succeeded"}
    assert launches(second, "a") == []


def test_an_adopted_worker_keeps_its_slot() -> None:
    p = plan(step("a"), step("b"), slots=1)
    first = simulated(p, {"a": [script(ev.Outcome.SUCCEEDED, duration=5.0)]})
    second = take_up(p, until(first, ev.AttemptRunning, "a"), adopted=(adopted("a"),))
    ended = [event.at for event in second.events if isinstance(event, ev.AttemptFinished) and event.step == "a"]
    assert launches(second, "b") == ended


@pytest.mark.parametrize(("outcome", "again"), [(ev.Outcome.SUCCEEDED, 0), (ev.Outcome.FAILED, 1)])
def test_a_settled_outcome_decides(outcome: ev.Outcome, again: int) -> None:
    p = plan(step("a"), step("b", "a"))
    first = simulated(p, {"a": [script(ev.Outcome.UNKNOWN)]})
    second = take_up(p, first.events, settled=(ev.Settled(step="a", outcome=outcome, by="ledger"),))
    assert ends(second) == {"a": "succeeded", "b": "succeeded"}
    assert len(launches(second, "a")) == again


def test_a_detached_step_stays_so_but_an_awaited_one_that_was_detached_does_not() -> None:
    p = plan(step("a", on_runner_exit=OnRunnerExit.DETACH), step("d", **IDLE), step("b", "a"))
    first = simulated(p, {"a": [script(ev.Outcome.SUCCEEDED, duration=50.0)]}, interrupts=[2.0])
    assert ends(first) == {"a": "detached", "d": "succeeded", "b": "skipped"}
    second = take_up(p, first.events)
    assert ends(second) == {"a": "succeeded", "d": "succeeded", "b": "succeeded"}
    assert len(launches(second, "a")) == 1


def test_the_answer_about_a_detached_worker_is_not_asked_again_and_its_dependents_run() -> None:
    """An interrupted runner detached it; then evidence, or a person, said that its work was done."""
    p = plan(step("a", on_runner_exit=OnRunnerExit.DETACH), step("b", "a"), step("c"))
    first = simulated(p, {"a": [script(ev.Outcome.SUCCEEDED, duration=50.0)]}, interrupts=[2.0])
    assert ends(first)["a"] == "detached"
    settled = (ev.Settled(step="a", outcome=ev.Outcome.SUCCEEDED, by="a user"),)
    second = take_up(p, first.events, settled=settled)
    assert ends(second) == {"a": "succeeded", "b": "succeeded", "c": "succeeded"}
    assert launches(second, "a") == []
    assert is_kept(second.state.records["a"], {})


def test_items_are_kept_and_only_the_rest_of_them_runs() -> None:
    p = plan(step("a", for_each=ForEach(as_="t", sql=step("x").sql)), step("b", "a"))
    first = simulated(p, {"a[y]": [script(ev.Outcome.FAILED)]}, {"a": [item_rows("x", "y", "z")]})
    second = take_up(p, first.events, verdicts={"a": [item_rows("other")]})
    assert ends(second) == dict.fromkeys(("a", "a[x]", "a[y]", "a[z]", "b"), "succeeded")
    assert [event.step for event in second.events if isinstance(event, ev.AttemptLaunching)] == ["a[y]", "b"]


def test_a_step_skipped_by_its_condition_or_not_selected_stays_skipped() -> None:
    p = plan(step("a", if_=step("x").sql), step("b"), step("c"))
    first = simulated(p, {"c": [script(ev.Outcome.FAILED)]}, {"a": [ev.Verdict.SKIP]}, not_selected=["b"])
    second = take_up(p, first.events)
    assert ends(second) == {"a": "skipped", "b": "skipped", "c": "succeeded"}


def test_finally_comes_once_more_after_what_runs_again() -> None:
    p = plan(step("a"), finally_=(step("f"),))
    first = simulated(p, {"a": [script(ev.Outcome.FAILED)]})
    assert finally_starts_again(first.state, {}, p)
    second = take_up(p, first.events)
    assert len(launches(second, "f")) == 1
    assert launches(second, "f") > launches(second, "a")


def test_of_finally_only_the_rest_runs_if_nothing_else_is_left() -> None:
    p = plan(step("a"), finally_=(step("f"), step("g")))
    first = simulated(p, {"g": [script(ev.Outcome.FAILED)]})
    assert not finally_starts_again(first.state, {}, p)
    second = take_up(p, first.events)
    assert [event.step for event in second.events if isinstance(event, ev.AttemptLaunching)] == ["g"]


def test_an_iteration_that_was_under_way_begins_the_repeat_again() -> None:
    p = plan(step("a", repeat=Repeat(max_iterations=3)))
    first = simulated(p, {"a": [script(ev.Outcome.SUCCEEDED, row_count=5), script(ev.Outcome.FAILED)]})
    assert ends(first) == {"a": "failed"}
    second = take_up(p, first.events)
    assert ends(second) == {"a": "succeeded"}
    assert second.state.records["a"].attempt == 3


def test_a_step_that_the_changed_plan_does_not_have_is_left_out() -> None:
    first = simulated(plan(step("a"), step("b")))
    changed = plan(step("b"), step("c"))
    state = first.state
    state.plan = changed
    apply(state, resumed(50.0))
    validate(state)
    assert {key: record.state for key, record in state.records.items()} == {
        "b": StepState.SUCCEEDED,
        "c": StepState.PENDING,
    }


def _drawn(random: Random, state: RunState) -> dict[str, tuple[Any, ...]]:
    """Draw what a runner finds out of the workers that an earlier one has left."""
    settled = []
    for record in state.records.values():
        held = (record.state in HOLDING and not record.assisted) or record.state is StepState.UNKNOWN
        if held and random.random() < 0.5:
            outcome = random.choice((ev.Outcome.SUCCEEDED, ev.Outcome.FAILED))
            settled.append(ev.Settled(step=record.key, outcome=outcome, by="verify"))
    again = finally_starts_again(state, {found.step: found.outcome for found in settled}, state.plan)
    reported = {found.step for found in settled}
    lives = tuple(
        adopted(record.key, record.attempt)
        for record in state.records.values()
        if record.state in HOLDING and not record.assisted
        if record.key not in reported and not (record.in_finally and again)
    )
    return {"settled": tuple(settled), "adopted": lives}


@pytest.mark.parametrize("seed", range(0, RUNS, 100))
def test_any_run_cut_anywhere_can_be_taken_over(seed: int) -> None:
    for number in range(seed, seed + 100):
        random = Random(number)  # noqa: S311 - not for secrets
        p = random_plan(random)
        world = World(random, p)
        run = world.run(p, cancels=())
        first = run.events[: random.randint(1, len(run.events))]
        state = initial_state(p)
        for event in first:
            apply(state, event)
        reported = _drawn(random, state)
        settled = {found.step: found.outcome for found in reported["settled"]}
        again = finally_starts_again(state, settled, p)
        kept = {
            key
            for key, record in state.records.items()
            if record.instances is None and is_kept(record, settled) and not (record.in_finally and again)
        }
        before = {key: record.attempt for key, record in state.records.items()}
        event = resumed(first[-1].at + random.choice((0.0, 1.0, 1000.0)), **reported)
        second = simulate(
            p,
            durations=world.attempt,
            checks=world.check,
            history=[*first, event],
            holds=[replace(script, at=event.at + script.at) for script in world.holds],
            watch=lambda now, _: validate(now),
        )
        assert second.state.finished is not None
        for launched in second.events:
            if isinstance(launched, ev.AttemptLaunching):
                assert launched.step not in kept, number
                assert launched.attempt > before.get(launched.step, 0), number


def test_a_record_with_holes_can_be_continued_and_leaves_open_what_it_does_not_report() -> None:
    """What is never lost is reported before a worker is asked for: its launch, and which instances there are.

    Of a launch that was put off the ledger need not know; then it knows that it was put off only by chance.
    """
    for number in range(RUNS):
        random = Random(f"holes {number}")  # noqa: S311 - not for secrets
        p = random_plan(random)
        world = World(random, p)
        run = world.run(p)
        first = [event for event in run.events if _is_sure(run.events, event) or random.random() < 0.6]
        state = initial_state(p)
        for event in first:
            apply(state, event)
        ended = {(event.step, event.attempt) for event in first if isinstance(event, _ENDS)}
        ended |= {(event.step, event.attempt - 1) for event in first if isinstance(event, _BEGINS)}
        begun = {event.step for event in first if isinstance(event, _BEGINS)}  # an item may have only its chunk's
        waited = {event.step for event in first if isinstance(event, _WAITED)}
        for key, record in state.records.items():
            reported = (key, record.attempt) in ended or isinstance(_last_of(first, key), _TOLD_AFTERWARDS)
            reported |= key in waited  # it had no worker then
            own = key in begun and not record.assisted and record.instances is None
            if record.attempt and own and not reported:
                assert is_open(record) or is_kept(record, {}), (number, key)
        apply(state, resumed(run.events[-1].at + 1.0))
        validate(state)


def _is_sure(events: Sequence[ev.Event], event: ev.Event) -> bool:
    if isinstance(event, ev.AttemptLaunching):
        after = events[events.index(event) + 1 :]
        own = (other for other in after if isinstance(other, ev.AttemptEvent) and other.step == event.step)
        asked = (other for other in own if not isinstance(other, ev.AttemptCancelRequested | ev.AttemptDetachRequested))
        return not isinstance(next(asked, None), ev.AttemptDeferred)
    return isinstance(event, ev.StepExpanded | ev.StepSplit | ev.AttemptPreparing | ev.RunStarted)


#: What says of an attempt that nothing of it is left to be found out; and what is only reported when that is known.
_BEGINS = (ev.AttemptPreparing, ev.AttemptLaunching)
_ENDS = (ev.AttemptFinished, ev.AttemptDeferred)
_WAITED = (ev.StepQueueTimedOut, ev.StepHoldTimedOut)
_TOLD_AFTERWARDS = (ev.StepRetrying, ev.StepRepeating, ev.StepReady, ev.StepQueued, ev.StepSkipped)


def _last_of(events: Sequence[ev.Event], key: str) -> ev.Event | None:
    """Return the last event that changes where a step stands."""
    of_step = [event for event in events if isinstance(event, ev.StepEvent) and event.step == key]
    return next((event for event in reversed(of_step) if not isinstance(event, ev.StepCancelRequested)), None)


def test_a_step_for_a_failure_that_did_not_come_is_over() -> None:
    p = plan(step("a"), step("mend", Need(step="a", on=NeedOn.FAILURE)), finally_=(step("clean"),))
    first = simulated(p, {"clean": [script(ev.Outcome.FAILED)]})
    assert ends(first) == {"a": "succeeded", "mend": "skipped", "clean": "failed"}
    assert not finally_starts_again(first.state, {}, p)


def test_what_was_skipped_for_such_a_step_is_over_too() -> None:
    p = plan(step("a"), step("mend", Need(step="a", on=NeedOn.FAILURE)), step("tell", "mend"))
    first = simulated(p)
    assert steps_over(first.state, {}, p) == {"a", "mend", "tell"}
    failed = simulated(p, {"a": [script(ev.Outcome.FAILED)]}, {"mend": [ev.Verdict.PROCEED]})
    assert steps_over(failed.state, {}, p) == {"mend", "tell"}


def test_what_was_skipped_for_a_step_that_runs_again_is_not_over() -> None:
    p = plan(step("a"), step("b", "a"), step("c", "b"))
    first = simulated(p, {"a": [script(ev.Outcome.FAILED)]})
    assert steps_over(first.state, {}, p) == frozenset()
    assert steps_over(first.state, {"a": ev.Outcome.SUCCEEDED}, p) == {"a"}


def test_finally_comes_once_more_after_a_step_that_is_new_in_the_plan() -> None:
    p = plan(step("a"), finally_=(step("f"), step("g")))
    first = simulated(p, {"g": [script(ev.Outcome.FAILED)]})
    changed = plan(step("a"), step("b"), finally_=p.finally_)
    assert finally_starts_again(first.state, {}, changed)


def test_an_item_that_is_new_in_the_plan_is_run() -> None:
    p = plan(step("a", for_each=ForEach(as_="t", items=("x", "y"))), finally_=(step("f"),))
    first = simulated(p, {"a[y]": [script(ev.Outcome.FAILED)]})
    changed = plan(step("a", for_each=ForEach(as_="t", items=("x", "z"))), finally_=p.finally_)
    state = first.state
    state.plan = changed
    assert finally_starts_again(state, {"a[y]": ev.Outcome.SUCCEEDED}, changed)
    apply(state, resumed(50.0))
    validate(state)
    assert {key: record.state for key, record in state.records.items()} == {
        "a": StepState.EXPANDED,
        "f": StepState.PENDING,
        "a[x]": StepState.SUCCEEDED,
        "a[z]": StepState.PENDING,
    }


def queried(text: str, as_: str = "t") -> Plan:
    """Return a plan of a step for each row of a query."""
    return plan(step("a", for_each=ForEach(as_=as_, sql=sql(text))))


def test_items_that_a_query_gave_stay_and_that_is_reported() -> None:
    first = simulated(queried("select 1"), verdicts={"a": [item_rows("x", "y")]})
    assert list(kept_items(first.state, queried("select 1"))) == []
    assert list(kept_items(first.state, plan(step("a", for_each=ForEach(as_="t", items=("z",)))))) == []
    assert list(kept_items(first.state, queried("select 2"))) == [
        "step a: the run keeps the 2 items that it fixed at its start; the changed query is not executed"
    ]
    with pytest.raises(UsageError, match="fixed its items under the name 't', and the plan now names them 'u'"):
        list(kept_items(first.state, queried("select 1", as_="u")))


def test_a_query_that_was_not_asked_yet_may_be_another_one() -> None:
    state = initial_state(queried("select 1"))
    assert list(kept_items(state, queried("select 2", as_="u"))) == []
