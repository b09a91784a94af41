"""Steps that may never run, or may fail: what a dry run says of them is no error. Each plan is run for real and dry."""

from __future__ import annotations

import asyncio
import textwrap
from pathlib import Path

import psycopg
import pytest

from runner.cli.dry_run import exit_code, look, read_to_look
from runner.cli.options import ParameterValues
from runner.preflight.dry_run import DryRunOptions
from runner.preflight.dry_run_result import Coverage, DryRun
from runner.run.api import run_plan
from tests.integration.dry_runs import errors

HEAD = "version: 1\nname: p\nbudget: {slots: 1}\ndefaults: {timeout: 1m, lock_timeout: 5s, on_finish: wait}\nsteps:\n"
SEED = """
CREATE TABLE t (id int PRIMARY KEY, b int); INSERT INTO t VALUES (1, 1);
CREATE TABLE old_1 (id int); CREATE TABLE old_2 (id int);
CREATE TABLE flag (on_ boolean); INSERT INTO flag VALUES (true);
CREATE FUNCTION ready() RETURNS boolean LANGUAGE plpgsql STABLE AS 'BEGIN RETURN false; END';
"""


@pytest.fixture
def seeded(database: str) -> str:
    """A database of this test's own, with some tables."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SEED)
    return database


def tried(folder: Path, dsn: str, steps: str) -> tuple[DryRun, int]:
    """Return the report of a dry run, and the exit code of the run after it."""
    path = folder / "plan.yaml"
    path.write_text(HEAD + textwrap.dedent(steps), encoding="utf-8")
    readable = read_to_look(path, ParameterValues(given={}, params_file=None, environment={}))
    dry = asyncio.run(look(readable.plan, dsn, DryRunOptions(found=readable.found)))
    return dry, run_plan(readable.plan, dsn=dsn, sinks=[], ledger=None).exit_code


@pytest.mark.parametrize(
    "steps",
    [
        # A step for a failure that does not happen.
        """
        - {id: a, sql: UPDATE t SET b = 2 WHERE id = 1}
        - {id: b, needs: [{step: a, on: failure}], sql: DROP TABLE left_behind}
        - {id: c, needs: [b], sql: SELECT count(*) FROM left_behind, capture: {rows: 1}}
        """,
        # What such a step drops is still there.
        """
        - {id: a, sql: UPDATE t SET b = 2 WHERE id = 1}
        - {id: b, needs: [{step: a, on: failure}], sql: DROP TABLE old_1}
        - {id: c, needs: [{step: b, on: done}], sql: INSERT INTO old_1 VALUES (1)}
        """,
        # An allowed failure.
        """
        - {id: a, allow_failure: true, sql: DROP TABLE left_behind}
        - {id: b, needs: [a], sql: UPDATE t SET b = 3 WHERE id = 1}
        """,
        """
        - {id: a, allow_failure: [undefined_table], sql: DROP TABLE left_behind}
        - {id: b, needs: [a], sql: UPDATE t SET b = 3 WHERE id = 1}
        """,
        """
        - {id: a, allow_failure: [duplicate_table], sql: CREATE TABLE t (id int)}
        - {id: b, needs: [a], sql: UPDATE t SET b = 3 WHERE id = 1}
        """,
        # A condition that is true now, and that a previous step makes false.
        """
        - {id: a, sql: CREATE TABLE done (id int)}
        - {id: b, needs: [a], if: SELECT to_regclass('done') IS NULL, sql: SELECT nope FROM t, capture: {rows: 1}}
        """,
        """
        - {id: a, sql: UPDATE flag SET on_ = false WHERE true}
        - {id: b, needs: [a], if: SELECT on_ FROM flag, sql: DROP TABLE left_behind}
        """,
        # A condition that a dry run does not evaluate.
        """
        - {id: b, if: SELECT ready(), sql: DROP TABLE left_behind}
        """,
        # A list that a previous step makes shorter.
        """
        - {id: a, sql: DROP TABLE old_1}
        - id: b
          needs: [a]
          for_each: {sql: "SELECT relname AS t FROM pg_class WHERE relname LIKE 'old%'", as: t}
          sql: ANALYZE :"t"
        """,
        """
        - {id: a, sql: ALTER TABLE old_1 RENAME TO kept_1}
        - id: b
          needs: [a]
          for_each: {sql: "SELECT relname AS t FROM pg_class WHERE relname LIKE 'old%'", as: t}
          sql: INSERT INTO :"t" VALUES (1)
        """,
        # Lists that a previous step empties.
        """
        - {id: a, sql: DELETE FROM flag WHERE true}
        - {id: b, needs: [a], for_each: {sql: SELECT 'nope' AS t FROM flag, as: t}, sql: 'ANALYZE :"t"'}
        """,
    ],
)
def test_what_need_not_happen_is_no_error(tmp_path: Path, seeded: str, steps: str) -> None:
    dry, code = tried(tmp_path, seeded, steps)
    assert code == 0
    assert [problem.message for problem in errors(dry)] == []


@pytest.mark.parametrize(
    "steps",
    [
        # The failure that a step waits for is certain, and the step for it fails too.
        """
        - {id: a, sql: DROP TABLE left_behind}
        - {id: b, needs: [{step: a, on: failure}], sql: DROP TABLE never_there}
        """,
        # A failure with another SQLSTATE than those that are allowed.
        """
        - {id: a, allow_failure: [lock_not_available], sql: DROP TABLE left_behind}
        """,
        """
        - {id: a, allow_failure: [duplicate_table], sql: SELECT nope FROM t, capture: {rows: 1}}
        """,
        # A condition and a list that nothing changes.
        """
        - {id: a, if: SELECT on_ FROM flag, sql: DROP TABLE left_behind}
        """,
        """
        - {id: a, for_each: {sql: SELECT 'nope' AS t FROM flag, as: t}, sql: 'ANALYZE :"t"'}
        """,
        # Steps that always run.
        """
        - {id: a, sql: UPDATE t SET b = 2 WHERE id = 1}
        - {id: b, needs: [{step: a, on: done}], sql: DROP TABLE left_behind}
        """,
    ],
)
def test_what_surely_happens_and_fails_is_an_error(tmp_path: Path, seeded: str, steps: str) -> None:
    dry, code = tried(tmp_path, seeded, steps)
    assert code == 1
    assert errors(dry) != []
    assert exit_code(dry, strict=False) == 3


def test_a_condition_that_a_previous_step_makes_true_is_not_called_skipped_for_certain(
    tmp_path: Path, seeded: str
) -> None:
    steps = """
        - {id: a, sql: CREATE TABLE done (id int)}
        - {id: b, needs: [a], if: SELECT to_regclass('done') IS NOT NULL, sql: DROP TABLE left_behind}
    """
    dry, code = tried(tmp_path, seeded, steps)
    assert code == 1
    said = [one for one in dry.statements if one.step == "b" and one.key == "sql"]
    assert [one.coverage for one in said] != [Coverage.CHECKED]
    assert any("left_behind" in note for one in said for note in one.notes) or errors(dry) != []
