"""`jobplan doctor` on real servers: what is wrong is found, and the statement that it gives mends it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import Database, Jobplan

ROLE = "jobplan_test_patient"


@pytest.fixture
def patient(db: Database) -> Iterator[str]:
    """A connection of a role that may do nothing yet."""
    db.run(f"DROP ROLE IF EXISTS {ROLE}")
    db.run(f"CREATE ROLE {ROLE} LOGIN")
    yield make_conninfo(db.dsn, user=ROLE)
    db.run(f"DROP OWNED BY {ROLE} CASCADE")
    db.run(f"DROP ROLE {ROLE}")


def checks(jobplan: Jobplan, dsn: str, *arguments: str, code: int) -> dict[str, dict[str, Any]]:
    """Return what the checks find, by name."""
    ran = jobplan("doctor", "--dsn", dsn, "--format", "json", *arguments)
    assert ran.code == code, ran.out + ran.err
    return {one["check"]: one for one in json.loads(ran.out)["checks"]}


def test_a_server_that_is_ready(jobplan: Jobplan, db: Database) -> None:
    ran = jobplan("doctor", "--dsn", db.dsn)
    assert ran.code == 0, ran.out
    assert ran.err == ""
    assert ran.out.splitlines()[-1].endswith("ready.") or "warning" in ran.out.splitlines()[-1]


def test_every_fault_of_a_role_is_fixed_by_the_printed_statement(jobplan: Jobplan, db: Database, patient: str) -> None:
    db.run(f"ALTER ROLE {ROLE} SET default_transaction_read_only = on")
    db.run(f"ALTER ROLE {ROLE} CONNECTION LIMIT 2")
    found = checks(jobplan, patient, code=4)
    wrong = {name for name, one in found.items() if one["level"] in {"error", "warning"}}
    assert wrong >= {"privileges", "writing", "connections", "sight"}
    for name in ("privileges", "writing", "connections", "sight"):
        db.run(found[name]["mend"])
    after = checks(jobplan, patient, code=0)
    assert {after[name]["level"] for name in ("privileges", "writing", "connections", "sight")} == {"ok"}


def test_a_database_without_the_extension(jobplan: Jobplan, db: Database) -> None:
    db.run("DROP EXTENSION pg_background")
    found = checks(jobplan, db.dsn, code=4)
    assert found["extension"]["level"] == "error"
    db.run(found["extension"]["mend"])
    assert checks(jobplan, db.dsn, code=0)["extension"]["level"] == "ok"


def test_more_workers_than_the_server_has(jobplan: Jobplan, db: Database) -> None:
    assert checks(jobplan, db.dsn, "--slots", "500", code=0)["workers"]["level"] == "warning"
    assert checks(jobplan, db.dsn, "--slots", "500", "--strict", code=4)["workers"]["level"] == "warning"
    assert checks(jobplan, db.dsn, "--reserve", "500", code=4)["workers"]["level"] == "error"


def test_an_invalid_index_is_found(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE twice (n int); INSERT INTO twice VALUES (1), (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        db.run("CREATE UNIQUE INDEX CONCURRENTLY twice_idx ON twice (n)")
    found = checks(jobplan, db.dsn, code=0)["invalid indexes"]
    assert found["level"] == "warning"
    assert "twice_idx of twice" in found["found"]
    db.run(found["mend"])
    assert checks(jobplan, db.dsn, code=0)["invalid indexes"]["level"] == "ok"


def test_no_server(jobplan: Jobplan) -> None:
    ran = jobplan("doctor", "--dsn", "host=/nowhere")
    assert ran.code == 4
    assert "/nowhere" in ran.err
