"""What users type first is accepted, means the same as the long form, and has the same SHA-256."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.lint import check_plan
from runner.plan.model import Plan
from runner.plan.plan_json import sha256
from runner.plan.schema_check import schema_text

HEAD = "version: 1\nname: trial\nbudget: {slots: 1}\n"
DEFAULTS = "defaults: {timeout: 5s, on_finish: wait}\n"


def load(folder: Path, steps: str, *, defaults: str = DEFAULTS) -> Plan:
    plan = folder / "plan.yaml"
    plan.write_text(f"{HEAD}{defaults}steps:\n{steps}", encoding="utf-8")
    loaded = check_plan(plan)
    assert loaded.plan is not None, [str(problem) for problem in loaded.problems]
    return loaded.plan


def problems(folder: Path, steps: str, *, defaults: str = DEFAULTS) -> list[str]:
    plan = folder / "plan.yaml"
    plan.write_text(f"{HEAD}{defaults}steps:\n{steps}", encoding="utf-8")
    errors = [one for one in check_plan(plan).problems if one.severity == "error"]
    return [f"{one.code} {one.message} ({one.hint})" for one in errors]


FIRST = "- {id: a, sql: CREATE TABLE t ()}\n"


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("needs: a", "needs: [a]"),
        ("needs: a", "needs: [{step: a}]"),
        ("retry: 3", "retry: {max_attempts: 3}"),
        ("retry: 2", "retry: {max_attempts: 2, delay: 0s, backoff: 1}"),
        ("needs: a, retry: 1000", "needs: [a], retry: {max_attempts: 1000}"),
    ],
)
def test_a_shorthand_is_the_same_plan_as_the_long_form(tmp_path: Path, short: str, long: str) -> None:
    step = FIRST + "- {id: b, sql: CREATE TABLE u (), %s}\n"
    one, other = load(tmp_path, step % short), load(tmp_path, step % long)
    assert one.steps == other.steps
    assert sha256(one) == sha256(other)


def test_a_shorthand_works_in_defaults_groups_and_included_files(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(
        "steps:\n- {id: c, sql: CREATE TABLE c ()}\n- {id: d, sql: CREATE TABLE d (), needs: c}\n"
    )
    plan = load(
        tmp_path,
        FIRST
        + "- id: g\n  needs: a\n  for_each: {items: [x, y]}\n  steps:\n"
        + '  - {id: one, sql: "CREATE TABLE :\\"item\\" ()"}\n  - {id: two, sql: SELECT 1, needs: one, retry: 4}\n',
        defaults="defaults: {timeout: 5s, on_finish: wait, retry: 2}\ninclude: [{file: more.yaml, as: inc}]\n",
    )
    by_id = {step.id: step for step in plan.steps}
    assert [need.step for need in by_id["inc_d"].needs] == ["inc_c"]
    assert [need.step for need in by_id["g"].needs] == ["a"]
    assert [need.step for need in by_id["g"].steps[1].needs] == ["one"]
    assert (by_id["a"].retry.max_attempts, by_id["g"].steps[1].retry.max_attempts) == (2, 4)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("needs: b", "JP203 `b` needs itself"),
        ("needs: missing", "JP202 "),
        ("needs: ", "JP103 `needs` has no value; it must be a step's id like"),
        ("needs: 3", "JP103 `needs` must be a step's id like"),
        ("needs: A", "JP106 `needs`: `A` is not a step's id like"),
        ("needs: {step: a}", "JP103 `needs` must be a step's id like"),
        ("retry: 1", "JP105 `retry` must be at least 2, not 1"),
        ("retry: 0", "JP105 `retry` must be at least 2, not 0"),
        ("retry: -1", "JP105 `retry` must be at least 2, not -1"),
        ("retry: 1001", "JP105 `retry` must be at most 1000, not 1001"),
        ("retry: 2.5", "JP103 `retry` must be a number of attempts or a mapping, not `2.5`"),
        ("retry: '3'", "JP103 `retry` must be a number of attempts or a mapping, not the text `3` (write 3"),
        ("retry: true", "JP103 `retry` must be a number of attempts or a mapping, not `true`"),
        ("retry: [3]", "JP103 `retry` must be a number of attempts or a mapping, not a list"),
        ("retry: 99999999999999999999", "JP105 `retry`"),
        ("retry: {}", "JP102 `retry` has no `max_attempts`, which is required"),
    ],
)  # fmt: skip
def test_a_wrong_shorthand_has_a_clear_message(tmp_path: Path, keys: str, expected: str) -> None:
    found = problems(tmp_path, FIRST + f"- {{id: b, sql: CREATE TABLE u (), {keys}}}\n")
    assert len(found) == 1, found
    assert found[0].startswith(expected), found


def test_the_message_for_a_missing_policy_gives_the_lines_to_paste(tmp_path: Path) -> None:
    found = problems(tmp_path, FIRST, defaults="")
    assert [one.split()[0] for one in found] == ["JP204", "JP205"]
    for one in found:
        assert "paste two lines, `timeout: 10m` and `on_finish: wait`, into the step or into `defaults`" in one
    assert problems(tmp_path, FIRST, defaults="defaults:\n  timeout: 10m\n  on_finish: wait\n") == []
    (found_one,) = problems(tmp_path, FIRST, defaults="defaults: {timeout: 1m}\n")
    assert found_one.endswith("(write `on_finish: wait` in the step or in `defaults`)")
    assert problems(tmp_path, "- {id: a, sql: CREATE TABLE t (), timeout: 10m, on_finish: wait}\n", defaults="") == []


@pytest.mark.parametrize("step_id", ["purge-audit", "a-", "a--b", "a-1_b"])
def test_an_id_may_have_dashes(tmp_path: Path, step_id: str) -> None:
    plan = load(
        tmp_path,
        f"- {{id: {step_id}, sql: CREATE TABLE t ()}}\n- {{id: b, sql: CREATE TABLE u (), needs: {step_id}}}\n",
    )
    assert [need.step for need in plan.steps[1].needs] == [step_id]


@pytest.mark.parametrize(
    ("step_id", "meant"),
    [("-a", "a"), ("Purge-Audit", "purge-audit"), ("purge audit", "purge_audit"), ("purge.audit", "purge_audit")],
)
def test_a_wrong_id_is_mended_with_the_dashes_that_it_has(tmp_path: Path, step_id: str, meant: str) -> None:
    found = problems(tmp_path, f"- {{id: '{step_id}', sql: CREATE TABLE t ()}}\n")
    assert found[0].endswith(f"(did you mean `{meant}`?)")
    assert "lower-case letters, digits, `_` and `-`" in found[0]


def test_the_schema_describes_the_shorthands() -> None:
    assert "`retry: 3` is `retry: {max_attempts: 3}`" in schema_text()
