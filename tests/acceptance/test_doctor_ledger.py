"""`jobplan doctor` and the ledger: whose it is, and that nothing of an untrusted one is executed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from tests.acceptance.console import Database, Jobplan


@pytest.fixture
def owner(db: Database) -> Iterator[Database]:
    """A connection of a role that may create schemas in the database."""
    name = f"owner_{os.getpid()}"
    db.run(f"DROP ROLE IF EXISTS {name}")
    db.run(f"CREATE ROLE {name} LOGIN")
    db.run(f"GRANT CREATE ON DATABASE {db.value('SELECT current_database()')} TO {name}")
    connected = db.as_role(name)
    yield connected
    connected.close()
    db.run(f"DROP OWNED BY {name} CASCADE")
    db.run(f"DROP ROLE {name}")


def ledger_check(jobplan: Jobplan, db: Database, *arguments: str, **env: str) -> dict[str, str]:
    """Return what doctor says of the ledger."""
    ran = jobplan("doctor", "--dsn", db.dsn, "--format", "json", *arguments, env=env)
    assert ran.code == 0, ran.err
    (one,) = [check for check in json.loads(ran.out)["checks"] if check["check"] == "ledger"]
    return dict(one)


def test_no_ledger_and_one_of_its_own_are_fine(jobplan: Jobplan, db: Database) -> None:
    assert ledger_check(jobplan, db)["level"] == "ok"
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    found = ledger_check(jobplan, db)
    assert (found["level"], found["code"]) == ("ok", "JP515")
    assert "schema jobplan" in found["found"]


@pytest.mark.parametrize("schema", ["jobplan", "other"])
def test_a_ledger_of_an_untrusted_role_is_named_with_its_owner_and_not_executed(
    jobplan: Jobplan, db: Database, owner: Database, schema: str
) -> None:
    name = owner.value("SELECT session_user")
    assert jobplan("ledger", "install", "--dsn", owner.dsn, "--schema", schema).code == 0
    owner.run(f"GRANT USAGE ON SCHEMA {schema} TO PUBLIC; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO PUBLIC")
    found = ledger_check(jobplan, db)
    assert found["level"] == "warning"
    assert f"the ledger in schema {schema} is ignored" in found["found"]
    assert f"belongs to role {name}" in found["found"]
    assert f"--trust-ledger-role {name}" in found["mend"]
    assert jobplan("doctor", "--dsn", db.dsn, "--strict").code == 4
    text = jobplan("doctor", "--dsn", db.dsn)
    assert f"belongs to role {name}" in text.out
    assert ledger_check(jobplan, db, "--trust-ledger-role", name)["level"] == "ok"
    assert ledger_check(jobplan, db, JOBPLAN_TRUST_LEDGER_ROLES=name)["level"] == "ok"


def test_a_schema_that_another_role_has_prepared_is_named(jobplan: Jobplan, db: Database, owner: Database) -> None:
    name = owner.value("SELECT session_user")
    owner.run("CREATE SCHEMA jobplan")
    found = ledger_check(jobplan, db)
    assert found["level"] == "warning"
    assert f"schema jobplan belongs to role {name}" in found["found"]
    assert ledger_check(jobplan, db, JOBPLAN_LEDGER_SCHEMA="another")["level"] == "ok"


def test_a_role_without_access_to_a_ledger_sees_its_owner(jobplan: Jobplan, db: Database, owner: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", owner.dsn).code == 0
    db.run("DROP ROLE IF EXISTS outsider")
    db.run("CREATE ROLE outsider LOGIN; GRANT pgbackground_role TO outsider")
    try:
        outsider = db.as_role("outsider")
        assert ledger_check(jobplan, outsider)["level"] == "warning"
        outsider.close()
    finally:
        db.run("DROP OWNED BY outsider; DROP ROLE outsider")
