"""Rules on plans with groups: conflicting locks between items, items that nothing uses, comments, names in a chain."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from runner.errors import Problem
from runner.lint import check_plan

#: The rules that these tests are about.
_CODES = {"JP300", "JP341", "JP382", "JP401", "JP402", "JP403"}
_HEAD = "version: 1\nname: p\nbudget: {slots: 4}\ndefaults: {timeout: 10m, on_finish: wait}\n"


def problems(folder: Path, steps: str, **files: str) -> list[Problem]:
    """Return what is found in a plan of these steps; `files` are the files beside it."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(textwrap.dedent(text), encoding="utf-8")
    path = folder / "plan.yaml"
    path.write_text(_HEAD + "steps:\n" + textwrap.dedent(steps).strip("\n") + "\n", encoding="utf-8")
    return [problem for problem in check_plan(path).problems if problem.code in _CODES]


def codes(folder: Path, steps: str, **files: str) -> list[tuple[str, str | None]]:
    return [(problem.code, problem.step) for problem in problems(folder, steps, **files)]


_SHARED = """
- id: g
  for_each: {{items: [a, b], as: x{limit}}}
  steps:
    - {{id: build, sql: "INSERT INTO app.log SELECT :'x'"}}
    - {{id: lock, needs: [build], sql: "LOCK TABLE app.log IN SHARE MODE; SELECT count(*) FROM app.log WHERE i = :'x'",
       expect: {{value: 1}}}}
"""


def test_steps_of_different_items_can_exclude_each_other_although_one_needs_the_other(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, _SHARED.format(limit=""))
    assert found.code == "JP402"
    assert "`g.build`" in found.message
    assert "can run at the same time for different items and exclude each other on app.log" in found.message
    assert found.hint == "give `for_each` of the group `g` a `max_parallel: 1`"


def test_one_item_at_a_time_excludes_nothing(tmp_path: Path) -> None:
    assert codes(tmp_path, _SHARED.format(limit=", max_parallel: 1")) == []


def test_steps_of_one_item_do_not_meet_on_its_own_table(tmp_path: Path) -> None:
    steps = """
        - id: g
          for_each: {items: [a, b], as: x}
          steps:
            - {id: fill, sql: 'INSERT INTO app.:"x" VALUES (1)'}
            - {id: build, needs: [fill], sql: 'LOCK TABLE app.:"x" IN SHARE MODE; SELECT count(*) FROM app.:"x"',
               expect: {value: 1}}
    """
    assert codes(tmp_path, steps) == []
    unordered = steps.replace("needs: [fill], ", "")
    assert codes(tmp_path, unordered) == [("JP402", "g.build")]


def test_two_groups_that_bind_the_same_parameter_to_other_tables_do_not_meet(tmp_path: Path) -> None:
    chain = """
        params: {table: {type: relation}}
        steps:
          - {id: lock, sql: 'LOCK TABLE :"table" IN SHARE MODE; INSERT INTO :"table" VALUES (1)'}
    """
    steps = """
        - {id: one, include: {file: chain.yaml, with: {table: app.a}}}
        - {id: two, include: {file: chain.yaml, with: {table: app.%s}}}
    """
    assert codes(tmp_path, steps % "b", chain=chain) == []
    assert {code for code, _ in codes(tmp_path, steps % "a", chain=chain)} == {"JP403"}


def test_a_step_outside_meets_the_steps_of_the_chain_unless_it_needs_the_group(tmp_path: Path) -> None:
    steps = """
        - id: g
          for_each: {items: [a, b], as: x}
          steps:
            - {id: fill, sql: "INSERT INTO app.log VALUES (:'x')"}
            - {id: more, needs: [fill], sql: "INSERT INTO app.log VALUES (:'x')"}
        - {id: lock, %ssql: "LOCK TABLE app.log IN SHARE MODE; UPDATE app.other SET n = 1"}
    """
    assert {code for code, _ in codes(tmp_path, steps % "")} == {"JP402"}
    assert codes(tmp_path, steps % "needs: [g], ") == []


def test_a_table_that_the_chain_creates_for_its_item_is_new_for_its_later_steps(tmp_path: Path) -> None:
    steps = """
        - id: g
          for_each: {items: [a, b], as: x}
          steps:
            - {id: make, sql: 'CREATE TABLE app.:"x" (n int)'}
            - {id: build, needs: [make], sql: 'CREATE INDEX ON app.:"x" (n)'}
    """
    assert codes(tmp_path, steps) == []
    without = steps.replace('CREATE TABLE app.:"x" (n int)', 'INSERT INTO app.:"x" VALUES (1)')
    assert ("JP341", "g.build") in codes(tmp_path, without)


def test_an_item_that_no_step_of_the_chain_uses_is_reported_once(tmp_path: Path) -> None:
    steps = """
        - id: g
          for_each: {items: [a, b], as: x}
          steps:
            - {id: one, sql: "INSERT INTO app.log VALUES (%s)"}
            - {id: two, needs: [one], sql: "INSERT INTO app.log VALUES (2)"}
    """
    assert codes(tmp_path, steps % "1") == [("JP382", "g.one")]
    assert codes(tmp_path, steps % ":'x'") == []


def test_a_parameter_that_only_with_uses_is_used(tmp_path: Path) -> None:
    chain = "params: {table: {type: identifier}}\nsteps: [{id: v, sql: 'VACUUM :\"table\"'}]\n"
    path = tmp_path / "plan.yaml"
    (tmp_path / "chain.yaml").write_text(chain, encoding="utf-8")
    path.write_text(
        f"{_HEAD}params: {{t: {{type: identifier, default: a}}}}\n"
        "steps: [{id: g, include: {file: chain.yaml, with: {table: \":'t'\"}}}]\n",
        encoding="utf-8",
    )
    assert [problem.code for problem in check_plan(path).problems] == ["JP374"]


@pytest.mark.parametrize("place", ["group", "step", "none"])
def test_a_comment_beside_the_group_or_the_step_ignores_a_rule(tmp_path: Path, place: str) -> None:
    comment = "  # jobplan: ignore=JP341 nobody writes at night"
    steps = f"""
- id: g{comment if place == "group" else ""}
  for_each: {{items: [a, b], as: x, max_parallel: 1}}
  steps:
    - {{id: fill, sql: "INSERT INTO app.log VALUES (:'x')"}}
    - id: build{comment if place == "step" else ""}
      needs: [fill]
      sql: CREATE INDEX ON app.:"x" (n)
"""
    assert codes(tmp_path, steps) == ([("JP341", "g.build")] if place == "none" else [])


def test_sql_of_a_shared_chain_is_reported_at_its_file(tmp_path: Path) -> None:
    chain = "params: {table: {type: identifier}}\nsteps: [{id: v, sql: 'VACUUMM :\"table\"'}]\n"
    steps = """
        - {id: one, include: {file: chain.yaml, with: {table: a}}}
        - {id: two, include: {file: chain.yaml, with: {table: b}}}
    """
    found = problems(tmp_path, steps, chain=chain)
    assert {(problem.code, problem.position.line) for problem in found} == {("JP300", 2)}
    assert {Path(problem.position.file).name for problem in found} == {"chain.yaml"}


def test_wrong_sql_in_the_query_of_a_group_is_reported_once(tmp_path: Path) -> None:
    steps = """
        - id: g
          for_each: {sql: SELEC 1, as: x}
          steps:
            - {id: one, sql: "INSERT INTO app.log VALUES (:'x')"}
            - {id: two, needs: [one], sql: "INSERT INTO app.log VALUES (:'x')"}
    """
    assert [code for code, _ in codes(tmp_path, steps)] == ["JP300"]
