"""What becomes of a valid file: defaults merged, every key read, and rules that the corpus shows only one side of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runner.errors import Position
from runner.plan import Loaded, load_plan
from runner.plan.model import (
    AllowFailure,
    AtEnd,
    Check,
    Concurrency,
    Day,
    Expect,
    Fit,
    ForEach,
    Need,
    NeedOn,
    OnConflict,
    OnFailure,
    OnFinish,
    OnRunnerExit,
    Otherwise,
    Outside,
    ParamType,
    Plan,
    Requires,
    RetryPolicy,
    StepWindow,
    Window,
)

_VALID = Path(__file__).parents[2] / "plans" / "valid"
_HEAD = "version: 1\nname: example\nbudget: {slots: 2, pools: {io: 1}}\ndefaults: {timeout: 10m, on_finish: wait}\n"

Load = Callable[..., Loaded]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_text(text: str, *, head: str = _HEAD) -> Loaded:
        path = tmp_path / "plan.yaml"
        path.write_text(head + text)
        return load_plan(path)

    return load_text


def problems(loaded: Loaded) -> list[str]:
    return [f"{problem.position.line}:{problem.position.column} {problem.code}" for problem in loaded.problems]


@pytest.fixture(scope="module")
def plan() -> Plan:
    found = load_plan(_VALID / "every_key.yaml").plan
    assert found is not None
    return found


def test_the_plan_s_own_keys(plan: Plan) -> None:
    assert (plan.name, plan.owner) == ("every-key", "data-platform")
    assert plan.tags == {"nightly", "2026.q1"}
    assert plan.run_timeout == 7200
    assert plan.on_failure is OnFailure.DRAIN
    assert plan.concurrency == Concurrency(group="nightly", on_conflict=OnConflict.WAIT)
    assert (plan.budget.slots, plan.budget.reserve, plan.budget.pools) == (4, 2, {"heavy_io": 2, "network": 1})
    assert plan.file == str(_VALID / "every_key.yaml")


def test_its_window(plan: Plan) -> None:
    assert plan.window == Window(
        timezone="Europe/Berlin",
        days=(Day.SAT, Day.SUN),
        from_=22 * 3600,
        to=5 * 3600 + 30 * 60 + 15,
        outside=Outside.WAIT,
        at_end=AtEnd.CANCEL,
        fit=Fit.P95,
        position=Position(file=str(_VALID / "every_key.yaml"), line=36, column=3),
    )
    assert plan.step("purge").window is StepWindow.IGNORE
    assert plan.step("count").window is None


def test_its_requirements(plan: Plan) -> None:
    (check,) = plan.requires.preconditions
    assert check.sql.text == "SELECT :days > 0"
    assert plan.requires == Requires(
        databases=("app_prod", "app_staging"),
        server_version=">=14, <20",
        extension_version=">=2.0",
        standby=False,
        role="maintenance",
        preconditions=(check,),
        otherwise=Otherwise.FAIL,
    )


def test_its_parameters(plan: Plan) -> None:
    assert list(plan.params) == ["days", "word", "schema", "share", "dry", "pause", "since"]
    assert plan.params["pause"].maximum == 3600
    assert plan.params["share"].type is ParamType.NUMBER
    assert plan.values == {
        "days": 90,
        "word": "a",
        "schema": "public",
        "share": "0.25",
        "dry": False,
        "pause": "200ms",
    }


def test_steps_of_included_files_come_first_with_their_prefix(plan: Plan) -> None:
    assert [step.id for step in plan.steps] == [
        "analyze",
        "reindex",
        "again_analyze",
        "again_reindex",
        "purge",
        "count",
        "settle",
        "refresh",
    ]
    assert plan.step("again_reindex").needs == (Need(step="again_analyze"),)
    assert plan.step("analyze").position.file == str(_VALID / "parts" / "analyze.yaml")
    assert str(plan.step("analyze").sql.start) == f"{_VALID / 'sql' / 'analyze.sql'}:1:1"


def test_every_key_of_a_step(plan: Plan) -> None:
    step = plan.step("purge")
    assert step.needs == (
        Need(step="analyze"),
        Need(step="again_analyze", on=NeedOn.DONE),
        Need(step="again_reindex", on=NeedOn.FAILURE),
    )
    assert (step.on_finish, step.on_runner_exit) == (OnFinish.WAIT, OnRunnerExit.DETACH)
    assert (step.timeout, step.lock_timeout, step.queue_timeout) == (5400, None, 600)
    assert (step.slots, step.pools) == (2, {"heavy_io": 2, "network": 1})
    assert step.exclusive == {"audit", "app.orders"}
    assert (step.priority, step.idempotent, step.capture_rows, step.output_buffer) == (-5, True, 10, 1_048_576)
    assert step.retry == RetryPolicy(
        max_attempts=5, delay=1.0, backoff=1.5, max_delay=90.0, on=frozenset({"55P03", "40P01", "timeout"})
    )
    assert step.allow_failure == AllowFailure(sqlstates=frozenset({"42P01", "57014"}))
    assert step.for_each == ForEach(as_="part", items=("north", "south"), max_parallel=2, type=ParamType.RELATION)
    assert step.repeat is not None
    assert (step.repeat.until_sql, step.repeat.pause, step.repeat.max_iterations) == (None, 0.2, 5000)
    assert step.settings == {
        "maintenance_work_mem": "512MB",
        "jit": "off",
        "random_page_cost": "1.10",
        "max_parallel_workers": "2",
        "app.tenant": "x",
    }
    assert (step.role, step.search_path, step.touches) == ("app_owner", "app", ("app.orders", "audit"))
    assert step.tags == {"purge"}
    assert step.description == "Every key that a step can have, but sql_file."
    assert step.sql.text.startswith('DELETE FROM :"schema".audit\n')


def test_every_sql_text_of_a_step(plan: Plan) -> None:
    step = plan.step("purge")
    assert step.if_ is not None
    assert step.if_.text == "SELECT pg_relation_size('audit') > 1024 AND NOT :dry"
    assert step.verify is not None
    assert step.verify.text == "SELECT count(*) < 1000 * :share FROM audit"
    assert [(check.sql.text, check.message) for check in step.preconditions] == [
        ("SELECT :'part' <> ''", "The part has a name.")
    ]
    assert step.expect is not None
    assert step.expect.sql is not None
    assert step.expect == Expect(rows_min=0, rows_max=100, value=None, has_value=True, sql=step.expect.sql)


def test_other_forms_of_the_same_keys(plan: Plan) -> None:
    count, settle, refresh = plan.step("count"), plan.step("settle"), plan.step("refresh")
    assert count.expect == Expect(rows_min=1, rows_max=1)
    assert count.allow_failure == AllowFailure()
    assert count.for_each is not None
    assert count.for_each.sql is not None
    assert count.for_each.items == ()
    assert settle.for_each == ForEach(as_="item", items=({"table": "a", "size": 1}, {"table": "b", "size": 2}))
    assert settle.repeat is not None
    assert settle.repeat.until_sql is not None
    assert settle.expect == Expect(value=0, has_value=True, warnings_min=0, warnings_max=0)
    assert refresh.on_finish is OnFinish.DETACH


def test_defaults_hold_where_a_step_says_nothing(plan: Plan) -> None:
    for step in (plan.step("settle"), plan.step("last")):
        assert (step.timeout, step.lock_timeout, step.queue_timeout) == (1200, 5, None)
        assert (step.pools, step.settings, step.role) == ({"network": 1}, {"work_mem": "64MB"}, "maintenance")
        assert (step.allow_failure, step.retry, step.description) == (None, RetryPolicy(), "A step.")


def test_finally_steps_are_apart(plan: Plan) -> None:
    assert [step.id for step in plan.finally_] == ["note", "last"]
    assert plan.finally_[1].needs == (Need(step="note", on=NeedOn.DONE),)


@pytest.mark.parametrize(
    ("keys", "leaves"),
    [
        ("on_finish: wait", OnRunnerExit.CANCEL),
        ("on_finish: detach", OnRunnerExit.DETACH),
        ("on_finish: detach, on_runner_exit: cancel", OnRunnerExit.CANCEL),
    ],
)
def test_what_becomes_of_a_worker_depends_on_whether_the_run_waits(load: Load, keys: str, leaves: OnRunnerExit) -> None:
    plan = load(f"steps:\n  - {{id: a, sql: VACUUM, {keys}}}\n").plan
    assert plan is not None
    assert plan.steps[0].on_runner_exit is leaves


def test_a_step_s_value_replaces_the_default_whole(load: Load) -> None:
    head = _HEAD.replace("wait}", "wait, settings: {work_mem: 1MB}, retry: {max_attempts: 3, delay: 1s}}")
    plan = load("steps:\n  - {id: a, sql: VACUUM, settings: {jit: off}, retry: {max_attempts: 2}}\n", head=head).plan
    assert plan is not None
    assert plan.steps[0].settings == {"jit": "off"}
    assert plan.steps[0].retry == RetryPolicy(max_attempts=2)


def test_the_concurrency_group_is_the_plan_s_name_unless_it_says_otherwise(load: Load) -> None:
    plan = load("concurrency: {}\nsteps:\n  - {id: a, sql: VACUUM}\n").plan
    assert plan is not None
    assert plan.concurrency == Concurrency(group="example")


def test_a_single_database_may_stand_without_a_list(load: Load) -> None:
    text = "requires: {database: app, preconditions: [{sql: SELECT true, message: no}]}\nsteps:\n"
    plan = load(text + "  - {id: a, sql: VACUUM}\n").plan
    assert plan is not None
    assert plan.requires.databases == ("app",)
    assert isinstance(plan.requires.preconditions[0], Check)


def test_a_wrong_default_is_reported_once(load: Load) -> None:
    head = _HEAD.replace("wait}", "wait, lock_timeout: 0s, verify: SELECT :x}")
    loaded = load("steps:\n  - {id: a, sql: VACUUM}\n  - {id: b, sql: VACUUM}\n", head=head)
    assert problems(loaded) == ["4:57 JP215", "4:76 JP220"]


def test_a_wrong_value_is_not_reported_again_as_missing_or_too_large(load: Load) -> None:
    loaded = load("steps:\n  - {id: a, sql: VACUUM, timeout: soon, on_finish: later, slots: many, needs: [A]}\n")
    assert problems(loaded) == ["6:35 JP106", "6:52 JP104", "6:66 JP103", "6:80 JP106"]


def test_an_unusable_budget_makes_no_step_too_wide(load: Load) -> None:
    head = _HEAD.replace("slots: 2", "slots: two")
    assert problems(load("steps:\n  - {id: a, sql: VACUUM, slots: 3}\n", head=head)) == ["3:17 JP103"]


def test_problems_of_shape_and_meaning_are_reported_together(load: Load) -> None:
    loaded = load("stpes: []\nsteps:\n  - {id: a, sql: 'SELECT :x', needs: [b]}\n")
    assert problems(loaded) == ["5:1 JP101", "7:26 JP220", "7:39 JP202"]


def test_a_step_that_is_its_own_default_or_alias_is_read_like_any_other(load: Load) -> None:
    plan = load("x-a: &a {id: a, sql: VACUUM}\nsteps:\n  - *a\n  - {<<: *a, id: b, needs: [a]}\n").plan
    assert plan is not None
    assert [step.id for step in plan.steps] == ["a", "b"]


def test_ten_thousand_unknown_names_get_hints_only_while_that_is_cheap(load: Load) -> None:
    steps = "".join(f"  - {{id: step_{n}, sql: VACUUM, needs: [setp_{n}]}}\n" for n in range(2_000))
    loaded = load("steps:\n" + steps)
    assert 0 < sum(problem.hint is not None for problem in loaded.problems) < 100


def test_after_a_thousand_problems_the_rest_is_not_reported(load: Load) -> None:
    loaded = load("".join(f"k{n}: 1\n" for n in range(2_000)) + "steps:\n  - {id: a, sql: VACUUM}\n")
    assert [problem.code for problem in loaded.problems] == ["JP101"] * 1_000 + ["JP016"]


def test_a_chain_of_ten_thousand_steps_is_no_recursion(load: Load) -> None:
    steps = "".join(f"  - {{id: s{n}, sql: VACUUM, needs: [s{n + 1}]}}\n" for n in range(9_999))
    plan = load("steps:\n" + steps + "  - {id: s9999, sql: VACUUM}\n").plan
    assert plan is not None
    assert len(plan.steps) == 10_000


def test_wrong_references_of_one_text_are_reported_up_to_a_hundred(load: Load) -> None:
    loaded = load(f"steps:\n  - {{id: a, sql: 'SELECT {' '.join(f':x{n}' for n in range(500))}'}}\n")
    assert len(loaded.problems) == 100
