"""`validate` and `dry-run` say that `role:` is no boundary, and name the one that PostgreSQL has."""

from __future__ import annotations

import json

import pytest
from psycopg.conninfo import make_conninfo

from runner.reports.plan_problems import ROLE_NOTE
from tests.acceptance.console import Database, Jobplan

PLAIN = "- {id: one, sql: SELECT 1}"
ROLE = "- {id: one, sql: SELECT 1, role: reports}"
ROLES = {
    "step": (ROLE, {}),
    "default": (PLAIN, {"defaults": "{timeout: 20s, on_finish: wait, role: reports}"}),
    "finally": (PLAIN, {"finally": "[{id: last, sql: SELECT 1, role: reports}]"}),
    "for_each": ("- {id: one, sql: SELECT 1, role: ':\"who\"', for_each: {items: [{who: a}]}}", {}),
    "invalid": ("- {id: one, sql: SELEC 1, role: reports}", {}),
}


@pytest.mark.parametrize("kind", ROLES)
def test_validate_says_that_role_is_no_boundary_and_names_the_one_that_is(jobplan: Jobplan, kind: str) -> None:
    steps, keys = ROLES[kind]
    plan = jobplan.plan(steps, **keys)
    ran = jobplan("validate", plan)
    assert ran.out.splitlines()[-2] == ROLE_NOTE, ran.out + ran.err
    assert "connect as its role: user= in --dsn" in ROLE_NOTE
    assert ROLE_NOTE not in jobplan("validate", "--quiet", plan).out


def test_the_note_comes_once_for_several_plans(jobplan: Jobplan) -> None:
    plans = [jobplan.plan(steps, file=f"{n}.yaml") for n, steps in enumerate((ROLE, ROLE, PLAIN))]
    ran = jobplan("validate", *plans)
    assert ran.code == 0, ran.out
    assert ran.out.splitlines()[-2] == ROLE_NOTE
    assert ran.out.count("RESET ROLE") == 1


def test_there_is_no_note_without_a_role(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(PLAIN, requires="{role: pg_monitor}")
    assert "RESET ROLE" not in jobplan("validate", plan).out
    assert "RESET ROLE" not in jobplan("dry-run", plan, "--dsn", db.dsn).out


@pytest.mark.parametrize("form", ["json", "github", "sarif"])
def test_formats_for_programs_have_no_note(jobplan: Jobplan, form: str) -> None:
    ran = jobplan("validate", "--format", form, jobplan.plan(ROLE))
    assert ran.code == 0
    assert "RESET ROLE" not in ran.out + ran.err
    if form == "json":
        assert {problem["severity"] for problem in json.loads(ran.out)} == {"warning"}


def test_a_dry_run_says_it_too_as_text_only(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1, role: pg_monitor}")
    dry = ("dry-run", plan, "--dsn", db.dsn)
    assert jobplan(*dry).out.splitlines()[-2] == ROLE_NOTE
    assert jobplan("run", "--dry-run", plan, "--dsn", db.dsn).out.splitlines()[-2] == ROLE_NOTE
    assert "RESET ROLE" not in jobplan("run", "--dry-run", "--quiet", plan, "--dsn", db.dsn).out
    for form in ("json", "github", "sarif", "markdown"):
        assert "RESET ROLE" not in jobplan(*dry, "--format", form).out


def test_sql_of_a_run_that_connects_as_the_role_cannot_leave_it(jobplan: Jobplan, db: Database) -> None:
    """The boundary that the note names."""
    db.run("DROP ROLE IF EXISTS confined")
    db.run("CREATE ROLE confined LOGIN IN ROLE pgbackground_role")
    try:
        db.run("CREATE TABLE seen (who text); GRANT INSERT ON seen TO confined")
        attempts = "RESET ROLE; SET SESSION AUTHORIZATION DEFAULT; RESET ALL"
        plan = jobplan.plan(f'- {{id: one, sql: "{attempts}; INSERT INTO seen VALUES (current_user)"}}')
        ran = jobplan("run", plan, "--dsn", make_conninfo(db.dsn, user="confined"))
        assert ran.code == 0, ran.err
        assert db.column("SELECT who FROM seen") == ["confined"]
    finally:
        db.run("DROP OWNED BY confined; DROP ROLE confined")
