"""Chunks: no item is lost or done twice, when a list is divided, when a chunk fails, and when a run is resumed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.for_each_items import (
    in_chunks,
    literal_items,
    parts_of,
    queried_items,
    single_items,
    values_of,
)
from runner.engine.resume_state import expansions, kept_items
from runner.engine.simulation import AttemptScript, Simulation, simulate
from runner.engine.state import RunState, StepRecord, StepState, initial_state
from runner.engine.step_sql import SessionError, with_values
from runner.errors import Position, UsageError
from runner.plan.model import ForEach, ParamType, Plan, RetryPolicy, Sql, Step
from runner.sql.placeholders import Listed, render
from runner.structs import replace
from tests.builders import plan, step

LISTS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h", "a+1", "b+2", "c#2", "é]"]), unique=True)


def chunked(items: Sequence[str], size: int, **keys: object) -> Step:
    """A step that may run again, with these items in chunks of this size."""
    for_each = ForEach(as_="t", items=tuple(items), chunk=size)
    return step("s", 'VACUUM :"t"', for_each=for_each, **keys)


def labels(items: Sequence[ev.Item]) -> list[list[object]]:
    """Return the values of the items of each chunk."""
    return [[one.values["t"] for one in parts_of(item)] for item in items]


@settings(max_examples=300, deadline=None)
@given(LISTS, st.integers(1, 5))
def test_each_item_is_in_one_chunk_and_the_order_is_kept(items: list[str], size: int) -> None:
    found = literal_items(chunked(items, size))
    assert [value for chunk in labels(found) for value in chunk] == items
    assert all(len(parts_of(chunk)) == size for chunk in found[:-1])
    keys = [chunk.key for chunk in found] + [one.key for chunk in found for one in chunk.items]
    assert len(keys) == len(set(keys))


def test_a_chunk_names_its_first_item_and_how_many_others_it_has() -> None:
    found = literal_items(chunked(["a", "b", "c", "a+1"], 2))
    assert [chunk.key for chunk in found] == ["s[a+1#2]", "s[c+1]"]
    assert [one.key for one in found[0].items] == ["s[a]", "s[b]"]
    assert [chunk.key for chunk in literal_items(chunked(["a", "b", "c"], 2))] == ["s[a+1]", "s[c]"]


def test_the_items_of_a_chunk_are_lists_in_sql() -> None:
    (chunk,) = literal_items(chunked(["a", "B c", 'd"e'], 3))
    values = values_of(None, chunk)
    assert values["t"] == Listed(("a", "B c", 'd"e'))
    assert render('VACUUM :"t"', values) == 'VACUUM "a", "B c", "d""e"'
    assert render("SELECT 1 WHERE x IN (:'t')", values) == "SELECT 1 WHERE x IN ('a', 'B c', 'd\"e')"
    assert render("SELECT 1+:'t'", values) == "SELECT 1+ 'a', 'B c', 'd\"e'"
    numbers = Listed((1, -2, "3.5"))
    assert render("IN (:n)", {"n": numbers}) == "IN (1, (-2), 3.5)"
    assert render(":'n'", {"n": Listed((None, "a\\b"))}) == "NULL, E'a\\\\b'"


def test_relations_are_quoted_part_by_part_in_a_chunk() -> None:
    for_each = ForEach(as_="t", items=("Sales.Orders", '"a.b".c', "plain"), type=ParamType.RELATION, chunk=5)
    (chunk,) = literal_items(step("s", 'VACUUM :"t"', for_each=for_each))
    assert render('VACUUM :"t"', values_of(for_each, chunk)) == 'VACUUM "Sales"."Orders", "a.b"."c", "plain"'
    assert chunk.key == "s[Sales.Orders+2]"


def test_rows_of_several_columns_are_no_chunk() -> None:
    with pytest.raises(ValueError, match="several columns"):
        queried_items(chunked([], 2), ["a", "b"], [["1", "2"]])


# --- runs -------------------------------------------------------------------------------------------------------------

Bad = frozenset[str]


def play(p: Plan, bad: Bad, history: Sequence[ev.Event] = ()) -> Simulation:
    """Run a plan in which every worker fails that gets one of these items."""

    parts: dict[str, set[str]] = {}

    def attempt(one: Step, _: int) -> AttemptScript:
        failed = any(f"s[{name}]" in parts.get(one.id, {one.id}) for name in bad)
        return AttemptScript(duration=1.0, outcome=ev.Outcome.FAILED if failed else ev.Outcome.SUCCEEDED)

    def watch(state: RunState, _: object) -> None:
        for key, record in state.records.items():
            if record.chunk:
                parts[key] = {one.key for one in record.chunk}

    return simulate(p, durations=attempt, history=history, start=history[-1].at if history else 0.0, watch=watch)


@pytest.mark.parametrize(
    ("sql", "keys", "again"),
    [
        ('VACUUM :"t"', {}, True),
        ('ANALYZE :"t"', {}, True),
        ("SELECT 1 WHERE 'x' IN (:'t')", {}, True),
        ('TRUNCATE :"t"', {}, False),
        ('TRUNCATE :"t"', {"retry": RetryPolicy(max_attempts=2)}, True),
        ('TRUNCATE :"t"', {"idempotent": True}, True),
    ],
)
def test_which_chunks_are_repeated_item_by_item(sql: str, keys: dict[str, object], *, again: bool) -> None:
    text = Sql(text=sql, start=Position(file="", line=1, column=1))
    for items in (["a", "b"], ["a"]):  # one item is no chunk
        run = play(plan(replace(chunked(items, 2), sql=text, **keys)), frozenset("a"))
        split = any(isinstance(event, ev.StepSplit) for event in run.events)
        assert split is (again and len(items) > 1)


def done_of(run: Simulation, since: int = 0) -> list[str]:
    """Return the items whose workers succeeded, each as often as it did."""
    records = run.state.records
    done = []
    for event in run.events[since:]:
        if isinstance(event, ev.AttemptFinished) and event.outcome is ev.Outcome.SUCCEEDED:
            chunk = records[event.step].chunk if event.step in records else ()
            done += [one.key for one in chunk] or [event.step]
    return done


@settings(max_examples=200, deadline=None)
@given(LISTS.filter(bool), st.integers(1, 4), st.data())
def test_whatever_fails_every_good_item_is_done_once(items: list[str], size: int, data: st.DataObject) -> None:
    bad = frozenset(data.draw(st.sets(st.sampled_from(items))))
    run = play(plan(chunked(items, size)), bad)
    good = {f"s[{name}]" for name in items if name not in bad}
    assert sorted(done_of(run)) == sorted(good)
    final = {key: str(record.state) for key, record in run.state.records.items()}
    assert final["s"] == ("failed" if bad else "succeeded")
    for name in bad:
        assert final[f"s[{name}]"] == "failed"
    named = [event for event in run.events if isinstance(event, ev.StepFinished) and event.error is not None]
    assert bool(named) is bool(bad)


def _values_in(record: StepRecord) -> list[object]:
    """Return the items of an instance."""
    value = record.values["t"]
    return list(value.values) if isinstance(value, Listed) else [value]


@settings(max_examples=200, deadline=None)
@given(LISTS.filter(bool), LISTS.filter(bool), st.integers(1, 4), st.data())
def test_a_resume_with_another_list_does_each_item_once(
    items: list[str], later: list[str], size: int, data: st.DataObject
) -> None:
    bad = frozenset(data.draw(st.sets(st.sampled_from(items))))
    old, new = plan(chunked(items, size)), plan(chunked(later, size))
    first = play(old, bad)
    at = data.draw(st.integers(1, len(first.events)))
    history = list(first.events[:at])
    state = initial_state(old)
    for event in history:
        apply(state, event)
    open_ = [record.key for record in state.records.values() if record.key in state.active]
    resumed = ev.RunResumed(
        at=history[-1].at + 1.0,
        jobplan="",
        file="",
        sha256="",
        host="",
        os_pid=1,
        slots=4,
        steps=1,
        settled=tuple(ev.Settled(step=key, outcome=ev.Outcome.FAILED, by="ann") for key in open_),
        expansions=expansions(state, new),
    )
    before = done_of(Simulation(events=tuple(history), state=state, makespan=0.0))
    state.plan = new
    apply(state, resumed)
    instances = [state.records[key] for key in state.records["s"].instances or ()]
    covered = [value for one in instances for value in _values_in(one)]
    assert len(covered) == len(set(covered))
    wanted = set(later)
    if state.records["s"].instances is not None:
        assert wanted <= set(covered)
        # What was done stays done; of what is listed, nothing is done again.
        again = {
            key
            for key, record in state.records.items()
            if not (record.final or record.state is StepState.SETTLING)
            if record.instances is None and key != "s"
        }
        repeated = {one for key in again for one in ([i.key for i in state.records[key].chunk] or [key])}
        assert not repeated & set(before)


def test_whether_items_come_in_chunks_cannot_change_in_a_run() -> None:
    old = plan(chunked(["a", "b"], 2))
    run = play(old, frozenset("a"))
    new = plan(replace(chunked(["a", "b"], 2), for_each=ForEach(as_="t", items=("a", "b"))))
    with pytest.raises(UsageError, match="chunks of 2 items"):
        list(kept_items(run.state, new))
    assert list(kept_items(run.state, old)) == []


def test_chunks_that_are_kept_stay_and_the_rest_is_divided_again() -> None:
    before = literal_items(chunked(["a", "b", "c", "d"], 2))
    now = chunked(["x", "a", "b", "d", "y", "z"], 2)
    singles = single_items(now, [one for item in before for one in parts_of(item)])
    found = in_chunks(now, singles, before[:1])
    assert labels(found) == [["x", "d"], ["a", "b"], ["y", "z"]]


def test_touches_names_each_item_of_a_chunk_and_a_role_takes_none() -> None:
    one = chunked(["a", "B c"], 2, touches=('app.:"t"', "other"))
    (chunk,) = literal_items(one)
    assert with_values(one, values_of(None, chunk)).touches == ('app."a"', 'app."B c"', "other")
    with pytest.raises(SessionError, match="the items of a chunk are not one value"):
        with_values(replace(one, touches=(), role=':"t"'), values_of(None, chunk))
