"""What earlier steps, conditions, roles and settings mean for a dry run: not known is not an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from runner.cli.dry_run import exit_code, look
from runner.plan.loading import load_plan
from runner.preflight.dry_run import DryRunOptions
from runner.preflight.dry_run_result import Coverage, DryRun, StatementReport
from tests.integration.dry_runs import codes, errors

HEAD = (
    "version: 1\nname: trial\nbudget: {slots: 1}\ndefaults: {timeout: 1m, lock_timeout: 5s, on_finish: wait}\nsteps:\n"
)
SEED = """
CREATE TABLE lst (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE lst_2020 PARTITION OF lst FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE SCHEMA tenant_a; CREATE TABLE tenant_a.t (x int);
CREATE TABLE agents (id int PRIMARY KEY, tenant int, armed_at timestamptz);
INSERT INTO agents SELECT i, i % 3, NULL FROM generate_series(1, 10) i;
ALTER TABLE agents ENABLE ROW LEVEL SECURITY;
ALTER TABLE agents FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON agents USING (tenant = nullif(current_setting('app.tenant', true), '')::int);
CREATE MATERIALIZED VIEW never AS SELECT 1 AS a WITH NO DATA;
CREATE TABLE kid (id int, CHECK (id > 0));
"""


@pytest.fixture(scope="module")
def seeded(new_database: Callable[[], str]) -> Iterator[str]:
    """A database that dry runs look at, and an owner of a table with policies who is no superuser."""
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = f"dry_owner_{connection.info.backend_pid}"
        connection.execute(f"CREATE ROLE {name}")
        connection.execute(SEED)
        connection.execute(f"ALTER TABLE agents OWNER TO {name}")
        yield f"{dsn} options='-c app.owner={name}'"
        connection.execute(f"DROP OWNED BY {name}")
        connection.execute(f"DROP ROLE {name}")


@pytest.fixture
def owner(seeded: str) -> str:
    """The name of the role that owns the table with policies."""
    with psycopg.connect(seeded) as connection:
        row = connection.execute("SELECT current_setting('app.owner')").fetchone()
    assert row is not None
    return str(row[0])


def looked(folder: Path, dsn: str, steps: str) -> DryRun:
    """Return the report of a plan of these steps."""
    path = folder / "plan.yaml"
    path.write_text(HEAD + steps, encoding="utf-8")
    plan = load_plan(path).plan
    assert plan is not None
    return asyncio.run(look(plan, dsn, DryRunOptions()))


def of_step(result: DryRun, step: str) -> list[StatementReport]:
    """Return what is said of a step's statements and of its list."""
    return [one for one in result.statements if one.step == step]


EMPTY_NOW = """
  - {id: detach, sql: ALTER TABLE lst DETACH PARTITION lst_2020}
  - id: drop_old
    needs: [detach]
    for_each:
      sql: SELECT relname AS t FROM pg_class WHERE relname ~ '^lst_[0-9]{4}$' AND NOT relispartition
      as: t
    sql: DROP TABLE :"t"
"""


def test_a_list_that_an_earlier_step_may_fill_is_not_called_empty(tmp_path: Path, seeded: str) -> None:
    result = looked(tmp_path, seeded, EMPTY_NOW)
    assert errors(result) == []
    said = of_step(result, "drop_old")
    listed = next(one for one in said if one.key == "for_each")
    assert listed.coverage is Coverage.NOT
    assert "step `detach` may fill it" in listed.why[0]
    assert any("made-up item" in why for why in listed.why)
    assert any(one.key == "sql" and one.coverage is Coverage.NOT for one in said)


def test_the_template_of_an_empty_list_is_checked_with_a_made_up_item(tmp_path: Path, seeded: str) -> None:
    steps = EMPTY_NOW.replace('DROP TABLE :"t"', 'DROP TABLE no_such_table, :"t"')
    result = looked(tmp_path, seeded, steps)
    assert any("no_such_table" in problem.message for problem in result.problems)
    assert errors(result) == []  # the list may be empty when the step runs


def test_an_empty_list_that_nothing_fills_is_empty(tmp_path: Path, seeded: str) -> None:
    steps = (
        "  - {id: a, for_each: {sql: SELECT relname AS t FROM pg_class WHERE false, as: t}, sql: 'ANALYZE :\"t\"'}\n"
    )
    (said,) = [one for one in of_step(looked(tmp_path, seeded, steps), "a") if one.key == "for_each"]
    assert said.coverage is Coverage.CHECKED
    assert "nothing to do" in said.why[0]


def test_a_role_that_is_missing_is_one_finding_and_the_rest_is_looked_at(tmp_path: Path, seeded: str) -> None:
    steps = "  - {id: a, role: no_such_role, sql: ANALYZE lst}\n  - {id: b, sql: ANALYZE no_such_table}\n"
    result = looked(tmp_path, seeded, steps)
    assert codes(errors(result)) == {"JP522", "JP601"}
    assert not result.refused
    assert of_step(result, "a")[0].coverage is Coverage.NOT


def test_a_role_that_an_earlier_step_creates_is_no_error(tmp_path: Path, seeded: str) -> None:
    steps = (
        "  - {id: a, sql: CREATE ROLE dry_run_new_role}\n"
        "  - {id: b, needs: [a], role: dry_run_new_role, sql: SELECT 1}\n"
        "  - {id: c, needs: [a], sql: GRANT SELECT ON lst TO dry_run_new_role}\n"
    )
    result = looked(tmp_path, seeded, steps)
    assert errors(result) == []
    assert of_step(result, "b")[0].coverage is Coverage.NOT


def test_names_after_a_computed_search_path_are_not_checkable(tmp_path: Path, seeded: str) -> None:
    text = "SELECT set_config('search_path', quote_ident('tenant' || '_a'), true); INSERT INTO t VALUES (1)"
    result = looked(tmp_path, seeded, f'  - {{id: a, sql: "{text}"}}\n')
    assert result.problems == tuple(problem for problem in result.problems if problem.code.startswith("JP5"))
    assert [one.coverage for one in of_step(result, "a")] == [Coverage.CHECKED, Coverage.NOT]


def test_a_constant_search_path_is_followed(tmp_path: Path, seeded: str) -> None:
    text = "SELECT set_config('search_path', 'tenant_a', true); INSERT INTO t (nope) VALUES (1)"
    result = looked(tmp_path, seeded, f'  - {{id: a, sql: "{text}"}}\n')
    assert "JP602" in codes(errors(result))


def test_a_step_that_its_condition_skips_does_not_fail_a_strict_gate(tmp_path: Path, seeded: str) -> None:
    steps = "  - {id: a, if: SELECT false, sql: ALTER TABLE no_such_table ADD COLUMN x int}\n"
    result = looked(tmp_path, seeded, steps)
    assert [problem for problem in result.problems if problem.step == "a"] == []
    report = next(one for one in of_step(result, "a") if one.key == "sql")
    assert any("no_such_table" in note for note in report.notes)
    assert any("would be skipped" in why for why in report.why)
    strict = [problem for problem in result.problems if not problem.code.startswith("JP5")]
    assert strict == []
    assert exit_code(result, strict=False) == 0


def test_what_a_conditional_step_drops_may_still_be_there(tmp_path: Path, seeded: str) -> None:
    steps = (
        "  - {id: a, if: SELECT count(*) > 100 FROM agents, sql: DROP TABLE kid}\n"
        "  - {id: b, needs: [a], sql: SELECT id FROM kid}\n"
    )
    result = looked(tmp_path, seeded, steps)
    assert errors(result) == []
    assert of_step(result, "b")[0].coverage is Coverage.PARTLY


@pytest.mark.parametrize("sql", ["UPDATE agents SET armed_at = now()", "DELETE FROM agents WHERE id = 1"])
def test_rows_that_policies_hide_are_a_warning(tmp_path: Path, seeded: str, owner: str, sql: str) -> None:
    result = looked(tmp_path, seeded, f"  - {{id: a, role: {owner}, sql: {sql}}}\n")
    (found,) = [problem for problem in result.problems if problem.code == "JP625"]
    assert "row_security" in (found.hint or "")
    assert of_step(result, "a")[0].coverage is Coverage.PARTLY


def test_without_row_security_the_server_refuses_what_policies_would_hide(
    tmp_path: Path, seeded: str, owner: str
) -> None:
    steps = (
        f"  - {{id: a, role: {owner}, settings: {{row_security: 'off'}}, sql: UPDATE agents SET armed_at = now()}}\n"
    )
    result = looked(tmp_path, seeded, steps)
    assert "JP625" not in codes(list(result.problems))
    assert any("row-level security" in problem.message for problem in errors(result))


def test_a_superuser_sees_all_rows(tmp_path: Path, seeded: str) -> None:
    result = looked(tmp_path, seeded, "  - {id: a, sql: UPDATE agents SET armed_at = now()}\n")
    assert of_step(result, "a")[0].coverage is Coverage.CHECKED


def test_tables_of_one_name_in_two_schemas_are_not_mixed_up(tmp_path: Path, seeded: str) -> None:
    steps = (
        "  - {id: a, search_path: public, sql: 'CREATE TABLE t (y int); DROP TABLE t'}\n"
        "  - {id: b, needs: [a], search_path: tenant_a, sql: SELECT x FROM t}\n"
    )
    result = looked(tmp_path, seeded, steps)
    assert errors(result) == []
    assert of_step(result, "b")[0].coverage is Coverage.CHECKED
