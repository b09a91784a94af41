"""The difference between two plans is reported key by key."""

from __future__ import annotations

from runner.plan.model import Budget, ForEach
from runner.plan.plan_json import differences
from runner.structs import replace
from tests.builders import plan, sql, step


def test_the_same_plan_differs_in_nothing() -> None:
    assert list(differences(plan(step("a", "select 1")), plan(step("a", "select 1")))) == []


def test_each_key_of_each_step_is_reported() -> None:
    old = plan(step("a", "select 1"), step("b", "select 2"), finally_=(step("f", "select 3"),))
    new = plan(
        step("a", "select 1", timeout=5.0), step("c", "select 2"), finally_=(step("f", "select 3\n  where true"),)
    )
    assert list(differences(old, new)) == [
        "step a: timeout: 60.0 -> 5.0",
        "step b was removed",
        "step c was added",
        "step f: sql: select 3 -> select 3 where true",
    ]


def test_the_plans_own_keys_are_reported() -> None:
    old = plan(step("a", "select 1"))
    new = replace(old, name="other", budget=Budget(slots=2), run_timeout=60.0)
    reported = list(differences(old, new))
    assert reported[0] == "budget.slots: 4 -> 2"
    assert reported[1:] == ["name: test -> other", "run_timeout: nothing -> 60.0"]


def test_a_long_text_is_cut() -> None:
    old = plan(step("a", "select 1"))
    new = replace(old, steps=(replace(old.steps[0], sql=sql("select " + "x" * 1000)),))
    (line,) = differences(old, new)
    assert line.endswith("x…")
    assert len(line) < 120


def test_of_long_texts_that_part_is_shown_in_which_they_differ() -> None:
    query = (
        "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace and relname like "
    )
    old = plan(step("a", "vacuum", for_each=ForEach(as_="t", sql=sql(query + "'a%'"))))
    new = plan(step("a", "vacuum", for_each=ForEach(as_="t", sql=sql(query + "'b%'"))))
    assert list(differences(old, new)) == [
        "step a: for_each.sql: … and relname like 'a%' -> … and relname like 'b%'",
    ]
