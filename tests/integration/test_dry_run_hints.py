"""A hint of the dry run that is a statement, or a key of the plan: following it removes the finding and adds none."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from runner.cli.dry_run import look, read_to_look
from runner.cli.options import ParameterValues
from runner.errors import Problem, Severity
from runner.preflight.dry_run import DryRunOptions

ROLE = f"dry_hints_{os.getpid()}"
OWNER = f"dry_hints_owner_{os.getpid()}"
SEED = f"""
CREATE TABLE t (id int PRIMARY KEY, b int); INSERT INTO t VALUES (1, 1), (2, 2);
CREATE TABLE owned (id int); ALTER TABLE owned OWNER TO {OWNER};
CREATE SCHEMA closed; CREATE TABLE closed.t (id int); GRANT ALL ON closed.t TO {ROLE};
CREATE SCHEMA full_; GRANT USAGE ON SCHEMA full_ TO {ROLE};
CREATE MATERIALIZED VIEW never AS SELECT 1 AS a WITH NO DATA; CREATE UNIQUE INDEX never_a ON never (a);
CREATE TABLE p (id int, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE p_default PARTITION OF p DEFAULT;
CREATE INDEX p_at ON p (at);
CREATE INDEX t_b ON t (b);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 't_b'::regclass;
"""


@pytest.fixture
def seeded(database: str) -> Iterator[str]:
    """A database of this test's own, and two roles that may do little."""
    with psycopg.connect(database, autocommit=True) as connection:
        for role in (ROLE, OWNER):
            connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        connection.execute(SEED.encode())
        yield database
        for role in (ROLE, OWNER):
            connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def found(folder: Path, dsn: str, step: str) -> list[Problem]:
    """Return the findings of a dry run about a step."""
    path = folder / "plan.yaml"
    path.write_text(
        "version: 1\nname: p\nbudget: {slots: 1}\ndefaults: {timeout: 1m, lock_timeout: 2m, on_finish: wait}\n"
        f"steps:\n{step}",
        encoding="utf-8",
    )
    readable = read_to_look(path, ParameterValues(given={}, params_file=None, environment={}))
    dry = asyncio.run(look(readable.plan, dsn, DryRunOptions(found=readable.found)))
    return [problem for problem in dry.problems if problem.step == "a" and problem.code.startswith(("JP5", "JP6"))]


@pytest.mark.parametrize(
    ("text", "as_role"),
    [
        ("SELECT id FROM t", True),
        ("UPDATE t SET b = 3 WHERE id = 1", True),
        ("DELETE FROM t WHERE id = 1", True),
        ("INSERT INTO t VALUES (5, 5)", True),
        ("TRUNCATE t", True),
        pytest.param("VACUUM t", True, marks=pytest.mark.pg(">= 17", reason="the privilege MAINTAIN")),
        pytest.param("REINDEX TABLE t", True, marks=pytest.mark.pg(">= 17", reason="the privilege MAINTAIN")),
        ("LOCK TABLE t IN SHARE MODE; SELECT 1", True),
        ("SELECT id FROM closed.t", True),
        ("VACUUM closed.t", False),
        ("CREATE TABLE full_.new (id int)", True),
        ("CREATE SCHEMA new", True),
        ("CREATE ROLE dry_hints_new", True),
        ("CREATE DATABASE dry_hints_new", True),
        pytest.param("CHECKPOINT", True, marks=pytest.mark.pg(">= 15", reason="the role pg_checkpoint")),
        ("COPY t TO '/tmp/dry_hints'", True),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY never", False),
        ("SELECT a FROM never", False),
        ("CREATE INDEX t_b ON t (b)", False),
        ("CREATE INDEX IF NOT EXISTS t_b ON t (b)", False),
    ],
)
def test_a_statement_that_a_hint_names_removes_the_finding(
    tmp_path: Path, seeded: str, text: str, as_role: bool
) -> None:
    role = f", role: {ROLE}" if as_role else ""
    step = f"  - {{id: a, sql: {json.dumps(text)}{role}}}\n"
    if text == "VACUUM closed.t":  # nothing is wrong with it for a superuser
        assert found(tmp_path, seeded, step) == []
        return
    for _ in range(3):  # a second right may be missing behind the first one
        errors = [problem for problem in found(tmp_path, seeded, step) if problem.severity is Severity.ERROR]
        if not errors:
            break
        hints = [problem.hint or "" for problem in errors]
        assert all(hint.endswith(";") for hint in hints), errors
        with psycopg.connect(seeded, autocommit=True) as connection:
            for hint in hints:
                connection.execute(hint.encode())
    assert found(tmp_path, seeded, step) == []


@pytest.mark.parametrize(
    ("steps", "old", "new", "code"),
    [
        (
            "  - {id: b, sql: CREATE TABLE new (id int)}\n  - {id: a, sql: INSERT INTO new VALUES (1)}\n",
            "id: a, ",
            "id: a, needs: [b], ",
            "JP612",
        ),
        (
            "  - {id: a, sql: ALTER TABLE p DETACH PARTITION p_1 CONCURRENTLY}\n",
            " CONCURRENTLY",
            "",
            "JP618",
        ),
        ("  - {id: a, sql: DROP INDEX p_1_at_idx}\n", "p_1_at_idx", "p_at", "JP609"),
        ("  - {id: a, sql: CLUSTER t}\n", "CLUSTER t", "CLUSTER t USING t_pkey", "JP606"),
        ("  - {id: a, role: ROLE, sql: ALTER TABLE owned ADD COLUMN z int}\n", "ROLE", "OWNER", "JP610"),
    ],
)
def test_a_change_of_the_plan_that_a_hint_names_removes_the_finding(
    tmp_path: Path, seeded: str, steps: str, old: str, new: str, code: str
) -> None:
    after = steps.replace(old, new).replace("OWNER", OWNER)
    (problem,) = [one for one in found(tmp_path, seeded, steps.replace("ROLE", ROLE)) if one.code.startswith("JP6")]
    assert problem.code == code
    assert problem.hint
    assert [one for one in found(tmp_path, seeded, after) if one.code.startswith("JP6")] == []
