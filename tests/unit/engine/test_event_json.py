"""What is written of a run can be read again: every event, and every plan, comes back as it was."""

from __future__ import annotations

import enum
import json
import signal
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.engine import events as ev
from runner.engine.event_json import MOMENTS as MOMENT_FIELDS
from runner.engine.event_json import from_json, to_json, to_line
from runner.errors import Position, RecordError
from runner.plan import load_plan
from runner.plan.model import AllowFailure, OnFinish, Plan, Sql
from runner.plan.plan_json import plan_from_json, resolved_json, sha256
from runner.sql.qualified_names import qualified_name
from runner.structs import Struct, replace
from tests.unit.engine.test_events_schema import event_classes
from tests.unit.random_runs import random_plan

RUN = "260101-abcdef"
ROOT = Path(__file__).parents[3]
PLANS = sorted([*(ROOT / "plans").glob("*.yaml"), *(ROOT / "tests" / "plans" / "valid").glob("*.yaml")])
MOMENTS = st.integers(0, 4_102_444_800_000).map(lambda milliseconds: milliseconds / 1000)
TEXTS = st.text(st.characters(), max_size=20)
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    types.NoneType: st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Draw values of an annotated type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    return SIMPLE[kind] if kind in SIMPLE else built(kind)


def built(kind: Any) -> st.SearchStrategy[Any]:
    """Draw a dataclass; its moments are whole milliseconds, as they are written, and its version is ours."""
    hints = typing.get_type_hints(kind)
    ends = tuple[kind, ...]  # the items of an item have none: they would not end
    fields = {name: st.just(()) if hints[name] == ends else values(hints[name]) for name in kind.__struct_fields__}
    fields = {name: st.none() | MOMENTS if name in MOMENT_FIELDS else drawn for name, drawn in fields.items()}
    required = {name: MOMENTS for name in MOMENT_FIELDS if hints.get(name) is float}
    version = {"version": st.just(1)} if "version" in fields else {}
    return st.builds(kind, **{**fields, **required, **version})


@pytest.mark.parametrize("kind", list(event_classes()), ids=lambda kind: str(kind.name))
@settings(max_examples=25)
@given(data=st.data())
def test_every_event_comes_back_from_its_line(kind: type[ev.Event], data: st.DataObject) -> None:
    event = data.draw(built(kind))
    line = to_line(event, RUN)
    assert line.index(b"\n") == len(line) - 1
    back = from_json(json.loads(line))
    assert back == event
    assert kinds(back) == kinds(event)


@given(MOMENTS)
def test_a_moment_is_written_again_as_it_was_read(at: float) -> None:
    written = to_json(ev.RunTimedOut(at=at), RUN)
    assert to_json(from_json(written), RUN) == written


@pytest.mark.parametrize("signal", [2, signal.SIGINT])
def test_the_number_of_a_signal_is_a_number(signal: int) -> None:
    assert to_json(ev.RunInterrupted(at=0.0, signal=signal), RUN)["signal"] == 2


class _Text(str):
    """A text with more to it, and another form for people."""

    __slots__ = ()

    def __str__(self) -> str:
        return "for people"


class _Whole(int):
    pass


class _Fraction(float):
    pass


@pytest.mark.parametrize(
    ("value", "as_written"),
    [
        (qualified_name('app."Order Lines"'), 'app."Order Lines"'),
        (_Text("app.é"), "app.é"),
        (_Whole(2**70), 2**70),
        (_Fraction(0.25), 0.25),
        (OnFinish.WAIT, "wait"),
    ],
)
def test_a_value_of_a_subclass_is_written_as_its_base(value: Any, as_written: object) -> None:
    item = ev.Item(key="k", values=MappingProxyType({"v": value}))
    for event in (
        ev.StepExpanded(at=0.0, step="a", items=(item,)),
        ev.StepFinished(at=0.0, step="a", state="s", because=value),
    ):
        data = to_json(event, RUN)
        found = data["items"][0]["values"]["v"] if "items" in data else data["because"]
        assert (type(found), found) == (type(as_written), as_written)


def test_a_text_that_is_not_unicode_is_escaped() -> None:
    event = ev.RunDraining(at=0.0, step="file\udcff\u2028.yaml")
    assert b"\\udcff" in to_line(event, RUN)
    assert from_json(json.loads(to_line(event, RUN))) == event


STARTED = to_json(
    ev.RunStarted(
        at=0.0,
        jobplan="0",
        plan="p",
        file="p.yaml",
        sha256="",
        host="h",
        os_pid=1,
        server="18",
        extension="2.0",
        database="d",
        user="u",
        slots=1,
        steps=1,
    ),
    RUN,
)
READY = to_json(ev.StepReady(at=0.0, step="a"), RUN)
RUNNING = to_json(
    ev.AttemptRunning(
        at=0.0, step="a", attempt=1, worker=ev.Worker(pid=1, backend_start="now", application_name="jobplan:x:a")
    ),
    RUN,
)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({**READY, "event": "step_dreamt"}, "the event 'step_dreamt' is not known"),
        ({**READY, "event": 7}, "the event 7 is not known"),
        ({}, "the event None is not known"),
        ({**READY, "colour": "red"}, "step_ready has the unknown field colour"),
        ({**RUNNING, "worker": {"pid": 1, "backend_start": "", "application_name": "", "host": "x"}}, "field host"),
        ({**RUNNING, "worker": {"pid": 1}}, "attempt_running lacks the field backend_start"),
        ({**RUNNING, "worker": None}, "attempt_running holds a wrong value"),
        ({**RUNNING, "attempt": "1"}, "'1' is not int"),
        ({**RUNNING, "attempt": True}, "True is not int"),
        ({**READY, "at": "yesterday"}, "step_ready holds a wrong value"),
        ({**READY, "at": "2026-01-01T00:00:00"}, "has no time zone"),
        ({**READY, "at": 7}, "step_ready holds a wrong value"),
        ({"event": "step_ready", "at": READY["at"]}, "step_ready lacks the field step"),
        ({**STARTED, "version": 2}, "of version 2, and this jobplan reads 1"),
    ],
)
def test_what_this_version_does_not_know_is_refused_with_what_to_do(data: dict[str, Any], says: str) -> None:
    with pytest.raises(RecordError, match=says) as refused:
        from_json(data)
    assert refused.value.hint is not None
    assert "later" in refused.value.hint


# --- plans ------------------------------------------------------------------------------------------------------------


def without_places(value: Any) -> Any:
    """Return a plan as its JSON can say it: no positions, no file, plain mappings."""
    if isinstance(value, Sql):
        return Sql(text=value.text, start=Position(file="", line=1, column=1))
    if isinstance(value, Position):
        return Position(file="", line=1, column=1)
    if isinstance(value, Struct):
        fields = {name: without_places(getattr(value, name)) for name in value.__struct_fields__}
        return replace(value, **{**fields, **({"file": ""} if isinstance(value, Plan) else {})})
    if isinstance(value, Mapping):
        return {name: without_places(item) for name, item in value.items()}
    return tuple(map(without_places, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_plan_comes_back_from_its_json(path: Path) -> None:
    plan = load_plan(path).plan
    assert plan is not None
    back = plan_from_json(resolved_json(plan))
    assert sha256(back) == sha256(plan)
    assert back == without_places(plan)
    assert kinds(back) == kinds(without_places(plan))


def kinds(value: Any) -> Any:
    """Return the types in a value: a member of an enumeration equals its text, and is not the same."""
    if isinstance(value, Struct):
        return {name: kinds(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [kinds(item) for item in value]
    return type(value) if isinstance(value, enum.Enum | str) else None


def drawn_plan(seed: int) -> Plan:
    return random_plan(Random(seed))  # noqa: S311 - a reproducible generator is wanted


@given(st.integers(0, 2**32))
def test_random_plans_come_back_from_their_json(seed: int) -> None:
    plan = drawn_plan(seed)
    back = plan_from_json(resolved_json(plan))
    assert (sha256(back), back) == (sha256(plan), without_places(plan))


def test_no_failure_is_allowed_is_not_the_same_as_every_failure_is() -> None:
    plan = drawn_plan(1)
    some, all_ = (
        replace(plan, steps=(replace(plan.steps[0], allow_failure=allowed),))
        for allowed in (AllowFailure(sqlstates=frozenset({"23505"})), AllowFailure())
    )
    assert plan_from_json(resolved_json(some)).steps[0].allow_failure == AllowFailure(sqlstates=frozenset({"23505"}))
    assert plan_from_json(resolved_json(all_)).steps[0].allow_failure == AllowFailure()


GOOD = resolved_json(drawn_plan(1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds a wrong value"),
        ("[]", "list instead of an object"),
        ("{}", "lacks the field name"),
        (GOOD[:-1] + ',"colour":"red"}', "has the unknown field colour"),
        (GOOD.replace('"slots":', '"slotz":', 1), "has the unknown field slotz"),
        (GOOD.replace('"sql":"select 1"', '"sql":7', 1), "7 is not SQL"),
    ],
)
def test_json_that_is_no_plan_is_refused(text: str, says: str) -> None:
    with pytest.raises(RecordError, match=says):
        plan_from_json(text)
