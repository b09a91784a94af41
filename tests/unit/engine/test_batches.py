"""Batches of a repeated step: the types of carried values, and how a parameter is adapted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.engine import events as ev
from runner.engine.batches import (
    CLOSE_ENOUGH,
    ROWS,
    CarriedError,
    adapted,
    batch_values,
    halved,
    has_more,
    note_change,
    read_batch,
    stored_batch,
)
from runner.engine.state import StepRecord, initial_state
from runner.plan.model import Adapt, Carried, ParamType, Repeat, Value
from runner.sql.qualified_names import QualifiedName
from tests.builders import plan, step


def record_of(repeat: Repeat) -> StepRecord:
    return initial_state(plan(step("fill", "SELECT 1", repeat=repeat))).records["fill"]


def carrying(**types: ParamType) -> Repeat:
    carry = {name: Carried(type=kind, start="x") for name, kind in types.items()}
    return Repeat(max_iterations=9, carry=carry)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (ParamType.INTEGER, "42", 42),
        (ParamType.INTEGER, "-9223372036854775808", -9223372036854775808),
        (ParamType.INTEGER, "42.000", 42),
        (ParamType.NUMBER, "0.1000", "0.1000"),
        (ParamType.NUMBER, "NaN", "NaN"),
        (ParamType.BOOLEAN, "t", True),
        (ParamType.BOOLEAN, "false", False),
        (ParamType.STRING, "O'Brien \\", "O'Brien \\"),
        (ParamType.STRING, "", ""),
        (ParamType.TIMESTAMP, "2026-01-31 12:00:00.123456+01", "2026-01-31 12:00:00.123456+01"),
        (ParamType.TIMESTAMP, "infinity", "infinity"),
        (ParamType.DURATION, "1 day 02:00:00", "1 day 02:00:00"),
        (ParamType.IDENTIFIER, 'we"ird', 'we"ird'),
        (ParamType.RELATION, "app.orders", "app.orders"),
        (ParamType.INTEGER, None, None),
    ],
)
def test_a_carried_value_has_its_type(kind: ParamType, text: str | None, value: Value | None) -> None:
    filled = record_of(carrying(a=kind, b=ParamType.STRING)).step
    batch = stored_batch(filled, {"a": text, "b": "b"}, rows=7)
    assert batch.rows == 7
    assert batch.carried == {"a": value, "b": "b"}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ParamType.INTEGER, "x"),
        (ParamType.INTEGER, "1.5"),
        (ParamType.INTEGER, "NaN"),
        (ParamType.INTEGER, "Infinity"),
        (ParamType.NUMBER, "1,5"),
        (ParamType.BOOLEAN, "1"),
        (ParamType.RELATION, "a.b.c.d"),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_it(kind: ParamType, text: str) -> None:
    filled = record_of(carrying(last_id=kind)).step
    with pytest.raises(CarriedError, match="last_id"):
        stored_batch(filled, {"last_id": text}, rows=1)


def test_only_nulls_or_no_row_are_no_rows_and_one_value_is_enough() -> None:
    filled = record_of(carrying(a=ParamType.INTEGER, b=ParamType.STRING)).step
    assert stored_batch(filled, {"a": None, "b": None}, rows=0).carried is None
    assert stored_batch(filled, {"a": None, "b": "x"}, rows=0).carried == {"a": None, "b": "x"}
    none = ev.Rows(columns=(ROWS, "a", "b"), rows=(("0", None, None),))
    assert read_batch(filled, none, 1).carried is None
    assert read_batch(filled, none, 1).rows == 0
    some = ev.Rows(columns=(ROWS, "a", "b"), rows=(("12", "5", None),))
    assert (read_batch(filled, some, 1).rows, read_batch(filled, some, 1).carried) == (12, {"a": 5, "b": None})


def test_a_procedure_returns_the_values_alone() -> None:
    filled = record_of(carrying(a=ParamType.INTEGER)).step
    batch = read_batch(filled, ev.Rows(columns=("a", "other"), rows=(("5", "x"),)), None)
    assert (batch.rows, batch.carried) == (None, {"a": 5})
    assert read_batch(filled, ev.Rows(columns=("a",)), None).carried is None
    with pytest.raises(CarriedError, match="no column a"):
        read_batch(filled, ev.Rows(columns=("b",), rows=(("5",),)), None)


def test_a_value_that_was_cut_is_not_used() -> None:
    filled = record_of(carrying(a=ParamType.STRING)).step
    with pytest.raises(CarriedError, match="longer"):
        read_batch(filled, ev.Rows(columns=(ROWS, "a"), rows=(("1", "x"),), cut=5), 1)


def test_the_values_of_an_iteration() -> None:
    repeat = Repeat(
        max_iterations=9,
        carry={"a": Carried(type=ParamType.INTEGER, start=0), "t": Carried(type=ParamType.RELATION, start="s.t")},
        adapt=Adapt(param="batch", target=1.0, min=10, max=100),
    )
    record = record_of(repeat)
    assert batch_values(record) == {"a": 0, "t": "s.t"}
    assert isinstance(batch_values(record)["t"], QualifiedName)
    record.carried = {"a": 5, "t": None, "of an earlier plan": 1}
    record.adapted = ("batch", 5000)
    assert batch_values(record) == {"a": 5, "t": None, "batch": 100}
    record.adapted = ("another", 50)
    assert "batch" not in batch_values(record)


def test_the_end_of_the_rows() -> None:
    done = ev.AttemptFinished(at=0.0, step="fill", attempt=1, outcome=ev.Outcome.SUCCEEDED, row_count=5)
    plain = record_of(Repeat(max_iterations=9)).step
    carries = record_of(carrying(a=ParamType.INTEGER)).step
    assert has_more(plain, done)
    assert not has_more(carries, done)


# --- adapt ------------------------------------------------------------------------------------------------------------

ADAPT = Adapt(param="batch", target=1.0, min=100, max=50_000)


def after(took: float, value: int, adapt: Adapt = ADAPT) -> ev.StepAdapted | None:
    return after_batch(record_of(Repeat(max_iterations=9, adapt=adapt)), adapt, took, value)


def after_batch(record: StepRecord, adapt: Adapt, took: float, value: int) -> ev.StepAdapted | None:
    record.attempt = 3
    record.adapted = (adapt.param, value)
    record.last = ev.AttemptFinished(
        at=100.0, step="fill", attempt=3, outcome=ev.Outcome.SUCCEEDED, started_at=0.0, finished_at=took
    )
    follows = ev.StepRepeating(at=100.0, step="fill", next_iteration=4, until=100.0)
    return adapted(record, {"batch": 1000}, follows, 100.0)


@pytest.mark.parametrize(
    ("took", "before", "value"),
    [
        (1.0, 1000, None),
        (0.95, 1000, None),
        (1.09, 1000, None),
        (0.5, 1000, 2000),
        (0.8, 1000, 1250),
        (0.001, 1000, 2000),
        (0.0, 1000, 2000),
        (1.25, 1000, 800),
        (2.0, 1000, 500),
        (3600.0, 1000, 500),
        (0.1, 40_000, 50_000),
        (0.1, 50_000, None),
        (9.0, 150, 100),
        (9.0, 100, None),
    ],
)
def test_a_batch_gets_the_size_for_which_it_takes_the_target(took: float, before: int, value: int | None) -> None:
    change = after(took, before)
    assert (change.value if change else None) == value
    if change:
        assert (change.before, change.because, change.param) == (before, ev.AdaptReason.DURATION, "batch")


@given(
    took=st.floats(min_value=0, max_value=1e6),
    before=st.integers(min_value=1, max_value=10**9),
    target=st.floats(min_value=0.01, max_value=3600),
)
def test_the_factor_is_between_a_half_and_two_and_moves_toward_the_target(
    took: float, before: int, target: float
) -> None:
    change = after(took, before, Adapt(param="batch", target=target, min=1, max=10**9))
    if change is None:
        assert abs(took - target) <= CLOSE_ENOUGH * target * 1.0001 or before in (1, 10**9)
        return
    assert math.ceil(before / 2) <= change.value <= before * 2
    assert (change.value > before) == (took < target)


@given(per_row=st.floats(min_value=1e-6, max_value=1e-2), start=st.integers(min_value=1, max_value=10**6))
def test_batches_converge_to_the_target(per_row: float, start: int) -> None:
    adapt = Adapt(param="batch", target=1.0, min=1, max=10**9)
    value, overhead = start, 0.004
    for _ in range(25):
        change = after(overhead + per_row * value, value, adapt)
        value = value if change is None else change.value
    assert overhead + per_row * value == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("cliff", [777, 20_000, 31_234])
@pytest.mark.parametrize("start", [100, 20_000, 1_000_000])
def test_a_batch_whose_time_jumps_at_some_size_settles_there(cliff: int, start: int) -> None:
    """The server chooses another plan for larger batches, which then take twenty times as long."""
    adapt = Adapt(param="batch", target=0.5, min=1, max=10**9)
    record = record_of(Repeat(max_iterations=99, adapt=adapt))
    sizes = [start]
    for _ in range(40):
        took = sizes[-1] * 0.4 / cliff * (1 if sizes[-1] < cliff else 20)
        change = after_batch(record, adapt, took, sizes[-1])
        if change is not None:
            note_change(record, change)
        sizes.append(sizes[-1] if change is None else change.value)
    assert max(sizes[-6:]) < 1.5 * min(sizes[-6:])
    assert min(sizes[-6:]) > cliff / 2


def test_it_begins_with_the_value_of_the_parameter() -> None:
    record = record_of(Repeat(max_iterations=9, adapt=ADAPT))
    record.attempt, record.launched_at = 1, 10.0
    record.last = ev.AttemptFinished(at=10.5, step="fill", attempt=1, outcome=ev.Outcome.SUCCEEDED)
    follows = ev.StepRepeating(at=10.5, step="fill", next_iteration=2, until=10.5)
    change = adapted(record, {"batch": 1000}, follows, 10.5)
    assert change is not None
    assert (change.before, change.value, change.seconds) == (1000, 2000, 0.5)


@pytest.mark.parametrize(
    ("outcome", "sqlstate", "because"),
    [
        (ev.Outcome.FAILED, "55P03", ev.AdaptReason.LOCK_TIMEOUT),
        (ev.Outcome.FAILED, "40P01", ev.AdaptReason.DEADLOCK),
        (ev.Outcome.TIMED_OUT, "57014", ev.AdaptReason.TIMEOUT),
        (ev.Outcome.FAILED, "22012", None),
        (ev.Outcome.UNKNOWN, None, None),
    ],
)
def test_a_batch_that_locks_have_ended_is_halved(
    outcome: ev.Outcome, sqlstate: str | None, because: ev.AdaptReason | None
) -> None:
    record = record_of(Repeat(max_iterations=9, adapt=ADAPT))
    record.attempt = 1
    error = None if sqlstate is None else ev.ErrorDetails(message="no", sqlstate=sqlstate)
    record.last = ev.AttemptFinished(at=1.0, step="fill", attempt=1, outcome=outcome, error=error)
    retry = ev.StepRetrying(at=1.0, step="fill", next_attempt=2, until=2.0)
    change = adapted(record, {"batch": 1000}, retry, 1.0)
    assert (change and change.because) == because
    assert change is None or change.value == 500


def test_an_unmet_precondition_and_the_end_of_the_step_change_nothing() -> None:
    record = record_of(Repeat(max_iterations=9, adapt=ADAPT))
    record.attempt, record.launched_at = 1, 0.0
    record.last = ev.AttemptFinished(at=9.0, step="fill", attempt=1, outcome=ev.Outcome.SUCCEEDED)
    unmet = ev.StepRetrying(at=1.0, step="fill", next_attempt=2, until=2.0, error=ev.ErrorDetails(message="no"))
    over = ev.StepFinished(at=1.0, step="fill", state="succeeded")
    assert adapted(record, {"batch": 1000}, unmet, 1.0) is None
    assert adapted(record, {"batch": 1000}, over, 1.0) is None


def test_a_hold_halves_the_next_batch_down_to_the_minimum() -> None:
    record = record_of(Repeat(max_iterations=9, adapt=ADAPT))
    sizes = []
    while (change := halved(record, {"batch": 1001}, ev.AdaptReason.HOLD, 1.0)) is not None:
        record.adapted = (change.param, change.value)
        sizes.append(change.value)
    assert sizes == [501, 251, 126, 100]
    assert halved(record_of(Repeat(max_iterations=2)), {}, ev.AdaptReason.HOLD, 1.0) is None
