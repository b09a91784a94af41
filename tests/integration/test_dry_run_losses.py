"""Data that a plan would destroy: a dry run warns whenever the table is there, whatever the plan creates."""

from __future__ import annotations

import asyncio
import textwrap
from pathlib import Path

import psycopg
import pytest

from runner.cli.dry_run import look, read_to_look
from runner.cli.options import ParameterValues
from runner.preflight.dry_run import DryRunOptions
from runner.run.api import run_plan

HEAD = "version: 1\nname: p\nbudget: {slots: 1}\ndefaults: {timeout: 1m, lock_timeout: 5s, on_finish: wait}\nsteps:\n"
SEED = """
CREATE TABLE victim (id int); INSERT INTO victim VALUES (1);
CREATE SCHEMA s; CREATE TABLE s.victim (id int); INSERT INTO s.victim VALUES (1);
CREATE TABLE s.single (id int); INSERT INTO s.single VALUES (1);
CREATE SCHEMA s2;
"""
ROWS = "SELECT count(*) FROM {}"


@pytest.fixture
def seeded(database: str) -> str:
    """A database of this test's own, with tables that have a row."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SEED)
    return database


def lost(dsn: str) -> bool:
    """Return whether a row of one of the tables is not there any more."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in ("victim", "s.victim", "s.single"):
            try:
                row = connection.execute(f"SELECT count(id) FROM {name}").fetchone()
            except psycopg.Error:
                return True
            if row != (1,):
                return True
    return False


def warned(folder: Path, dsn: str, steps: str) -> set[str]:
    """Return the codes of a dry run, and run the plan after it."""
    path = folder / "plan.yaml"
    path.write_text(HEAD + textwrap.dedent(steps), encoding="utf-8")
    readable = read_to_look(path, ParameterValues(given={}, params_file=None, environment={}))
    dry = asyncio.run(look(readable.plan, dsn, DryRunOptions(found=readable.found)))
    run_plan(readable.plan, dsn=dsn, sinks=[], ledger=None)
    return {problem.code for problem in dry.problems}


@pytest.mark.parametrize(
    "steps",
    [
        "- {id: a, sql: CREATE TABLE IF NOT EXISTS victim (id int); TRUNCATE victim}",
        "- {id: a, sql: CREATE TABLE IF NOT EXISTS victim (id int); DROP TABLE victim CASCADE}",
        "- {id: a, sql: CREATE TABLE IF NOT EXISTS victim (id int); ALTER TABLE victim DROP COLUMN id}",
        "- {id: a, sql: CREATE TABLE IF NOT EXISTS victim (id int); DELETE FROM victim}",
        "- {id: a, sql: CREATE TABLE IF NOT EXISTS victim AS SELECT 1 AS id; TRUNCATE victim}",
        "- {id: a, sql: CREATE TABLE IF NOT EXISTS public.victim (id int); TRUNCATE public.victim}",
        "- {id: a, sql: DROP TABLE victim; CREATE TABLE victim (id int)}",
        "- {id: a, sql: DROP TABLE IF EXISTS victim; CREATE TABLE victim (id int)}",
        "- {id: a, sql: CREATE SCHEMA IF NOT EXISTS s; DROP SCHEMA s CASCADE}",
        "- {id: a, sql: CREATE SCHEMA IF NOT EXISTS s; DROP TABLE s.victim}",
        "- {id: a, sql: CREATE SCHEMA IF NOT EXISTS s; TRUNCATE s.victim}",
        "- {id: a, sql: ALTER TABLE victim RENAME TO other; DROP TABLE other}",
        "- {id: a, sql: CREATE TEMP TABLE kept (id int); TRUNCATE victim}",
        "- {id: a, sql: CREATE TABLE s.other (id int); SET search_path = s; DROP TABLE victim}",
        """
        - {id: a, sql: CREATE TABLE IF NOT EXISTS victim (id int)}
        - {id: b, needs: [a], sql: TRUNCATE victim}
        """,
        """
        - {id: a, allow_failure: true, sql: CREATE TABLE victim (id int)}
        - {id: b, needs: [a], sql: TRUNCATE victim}
        """,
        """
        - {id: a, allow_failure: [duplicate_table], sql: CREATE TABLE victim (id int)}
        - {id: b, needs: [a], sql: DROP TABLE victim}
        """,
        """
        - {id: a, if: SELECT to_regclass('victim') IS NULL, sql: CREATE TABLE victim (id int)}
        - {id: b, needs: [a], sql: DROP TABLE victim}
        """,
        """
        - {id: a, sql: CREATE TABLE victim (id int)}
        - {id: b, needs: [{step: a, on: done}], sql: DROP TABLE victim}
        """,
        """
        - {id: a, sql: CREATE TABLE victim (id int)}
        - {id: b, sql: DROP TABLE victim}
        """,
        """
        - id: a
          for_each: {sql: "SELECT 'victim' AS t", as: t}
          sql: DROP TABLE :"t"
        """,
        "- {id: a, sql: CREATE SCHEMA fresh; ALTER TABLE victim SET SCHEMA fresh; DROP SCHEMA fresh CASCADE}",
        "- {id: a, sql: CREATE SCHEMA fresh; ALTER TABLE victim SET SCHEMA fresh; DROP TABLE fresh.victim}",
        """
        - id: a
          sql: |
            CREATE TABLE fresh (id int) PARTITION BY LIST (id);
            ALTER TABLE fresh ATTACH PARTITION victim DEFAULT;
            DROP TABLE fresh
        """,
        "- {id: a, sql: CREATE TABLE fresh (id int); ALTER TABLE victim INHERIT fresh; TRUNCATE fresh}",
        "- {id: a, sql: CREATE TABLE fresh (id int); ALTER TABLE victim INHERIT fresh; DROP TABLE fresh CASCADE}",
        "- {id: a, sql: CREATE TABLE fresh (id int); ALTER TABLE victim INHERIT fresh; DELETE FROM fresh}",
        """
        - id: a
          sql: |
            CREATE TABLE fresh (id int PRIMARY KEY);
            ALTER TABLE victim ADD FOREIGN KEY (id) REFERENCES fresh NOT VALID;
            TRUNCATE fresh CASCADE
        """,
        """
        - id: a
          sql: |
            CREATE TABLE fresh (id int);
            ALTER TABLE fresh RENAME TO moved;
            ALTER TABLE victim RENAME TO fresh;
            DROP TABLE fresh
        """,
        """
        - {id: a, sql: CREATE TABLE fresh (id int); ALTER TABLE fresh RENAME TO moved}
        - {id: b, needs: [a], sql: ALTER TABLE victim RENAME TO fresh}
        - {id: c, needs: [b], sql: TRUNCATE fresh}
        """,
        "- {id: a, sql: CREATE VIEW fresh AS SELECT id FROM victim; DELETE FROM fresh}",
        "- {id: a, sql: CREATE VIEW fresh AS SELECT id FROM victim; UPDATE fresh SET id = 0; DELETE FROM fresh}",
        "- {id: a, sql: CREATE VIEW one AS SELECT id FROM victim; CREATE VIEW two AS TABLE one; DELETE FROM two}",
        "- {id: a, sql: CREATE TABLE single (id int); DROP TABLE s.single}",
        "- {id: a, sql: CREATE TABLE s2.victim (id int); DROP TABLE victim}",
        "- {id: a, sql: CREATE TABLE s2.victim (id int); DELETE FROM victim}",
        """
        - {id: a, search_path: s2, sql: CREATE TABLE victim (id int)}
        - {id: b, needs: [a], sql: DROP TABLE victim}
        """,
        """
        - {id: a, search_path: s2, sql: CREATE TABLE victim (id int)}
        - {id: b, needs: [a], search_path: "s, s2", sql: TRUNCATE victim}
        """,
        """
        - {id: a, sql: CREATE TEMP TABLE victim (id int); TRUNCATE victim}
        - {id: b, needs: [a], sql: TRUNCATE victim}
        """,
        "- {id: a, sql: WITH gone AS (DELETE FROM victim RETURNING id) SELECT count(*) FROM gone}",
        "- {id: a, sql: DO $$ BEGIN DROP TABLE victim; END $$}",
        "- {id: a, sql: DO $$ BEGIN TRUNCATE victim; END $$}",
        "- {id: a, sql: DO $$ BEGIN DELETE FROM victim; END $$}",
        "- {id: a, sql: ALTER TABLE victim ADD z int; ALTER TABLE victim DROP id}",
    ],
)
def test_data_that_is_lost_has_a_finding(tmp_path: Path, seeded: str, steps: str) -> None:
    codes = warned(tmp_path, seeded, steps)
    assert lost(seeded)
    assert codes & {"JP352", "JP353", "JP608"}


@pytest.mark.parametrize(
    "steps",
    [
        "- {id: a, sql: CREATE TABLE fresh (id int); TRUNCATE fresh; DROP TABLE fresh}",
        "- {id: a, sql: CREATE TEMP TABLE fresh (id int); TRUNCATE fresh}",
        "- {id: a, sql: CREATE SCHEMA fresh; CREATE TABLE fresh.victim (id int); DROP SCHEMA fresh CASCADE}",
        "- {id: a, sql: CREATE TABLE fresh (id int); ALTER TABLE fresh RENAME TO moved; DROP TABLE moved}",
        "- {id: a, sql: CREATE TABLE fresh (id int); ALTER TABLE fresh SET SCHEMA s; TRUNCATE s.fresh}",
        "- {id: a, sql: CREATE TABLE fresh (id int); CREATE VIEW seen AS TABLE fresh; DELETE FROM seen}",
        """
        - {id: a, sql: CREATE TABLE fresh (id int)}
        - {id: b, needs: [a], sql: DROP TABLE fresh}
        """,
    ],
)
def test_what_the_plan_surely_creates_itself_has_none(tmp_path: Path, seeded: str, steps: str) -> None:
    codes = warned(tmp_path, seeded, steps)
    assert not lost(seeded)
    assert not codes & {"JP352", "JP353"}
