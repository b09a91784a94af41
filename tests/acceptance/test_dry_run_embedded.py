"""`jobplan dry-run --embedded`: a dry run on a temporary server, and what it says of tables that the plan creates."""

from __future__ import annotations

import json

from tests.acceptance.console import Jobplan

STEPS = """
- {id: make, sql: CREATE TABLE made (id int)}
- {id: fill, needs: [make], sql: INSERT INTO made SELECT 1}
- {id: change, needs: [fill], sql: UPDATE made SET id = 2 WHERE id = 1}
- {id: wrong, sql: SELECT missing FROM pg_class}
"""


def test_a_dry_run_on_a_temporary_server(jobplan: Jobplan) -> None:
    plan = jobplan.plan(STEPS)
    ran = jobplan("dry-run", plan, "--embedded")
    assert ran.code == 3, ran.err
    assert "starting PostgreSQL" in ran.err
    assert 'error JP602: column "missing" does not exist' in ran.out
    assert "not checkable: 2 steps depend on tables that this plan creates: fill, change\n" in ran.out
    assert "- made: created by step" not in ran.out


def test_its_json_has_the_reason_of_each_statement(jobplan: Jobplan) -> None:
    ran = jobplan("dry-run", jobplan.plan(STEPS), "--embedded", "--format", "json")
    statements = {one["step"]: one for one in json.loads(ran.out)["statements"]}
    assert all("created by step `make`" in " ".join(statements[step]["why"]) for step in ("fill", "change"))


def test_embedded_and_a_dsn_exclude_each_other(jobplan: Jobplan) -> None:
    ran = jobplan("dry-run", jobplan.plan(STEPS), "--embedded", "--dsn", "dbname=x")
    assert ran.code == 2
    assert "--embedded and --dsn exclude each other" in ran.err
