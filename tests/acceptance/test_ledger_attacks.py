"""Attacks through a ledger: by the role that owns it, and by roles that may write to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import Database, Jobplan

#: A step that any run may have.
ONE = "- {id: one, sql: SELECT 1}"
_NUMBERS = iter(range(1, 1_000_000))


@pytest.fixture
def mallory(db: Database) -> Iterator[Callable[[], str]]:
    """A role that may create schemas in the database and use pg_background; the name of the one made last."""
    names: list[str] = []

    def make() -> str:
        name = f"mallory_{next(_NUMBERS)}"
        db.run(f"DROP ROLE IF EXISTS {name}")
        db.run(f"CREATE ROLE {name} LOGIN")
        db.run(f"GRANT CREATE ON DATABASE {db.value('SELECT current_database()')} TO {name}")
        db.run(f"GRANT pgbackground_role TO {name}")
        names.append(name)
        return name

    yield make
    for name in names:
        db.run(f"ALTER ROLE {name} NOSUPERUSER")
        db.run(f"DROP OWNED BY {name} CASCADE")
        db.run(f"DROP ROLE {name}")


def as_role(db: Database, role: str) -> Database:
    """Connect to the same database as another role."""
    return Database(make_conninfo(db.dsn, user=role))


def trap(db: Database, role: str) -> None:
    """Make functions that give the role what only a superuser may give, whatever kind of expression calls them."""
    db.run("CREATE SCHEMA trap")
    db.run("GRANT USAGE ON SCHEMA trap TO PUBLIC")
    body = f"""
        BEGIN
          IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user) THEN
            EXECUTE 'ALTER ROLE {role} SUPERUSER';
          END IF;
    """
    db.run(f"CREATE FUNCTION trap.fire() RETURNS trigger LANGUAGE plpgsql AS $f$ {body} RETURN NULL; END $f$")
    for kind in ("text", "boolean"):
        value = "''" if kind == "text" else "true"
        db.run(
            f"CREATE FUNCTION trap.spring(x {kind}) RETURNS {kind} LANGUAGE plpgsql IMMUTABLE AS"
            f" $f$ {body} RETURN {value}; END $f$"
        )
    db.run("CREATE FUNCTION trap.spring() RETURNS text LANGUAGE plpgsql AS $f$ " + body + " RETURN ''; END $f$")


TABLES = ("meta", "runs", "plans", "events", "commits")

#: What the owner of a ledger can hang on it, by the way in which it is executed.
HOOKS = {
    "triggers and expressions": [
        "ALTER TABLE jobplan.runs ADD COLUMN more text DEFAULT trap.spring()",
        "ALTER TABLE jobplan.events ADD CHECK (trap.spring(event) = '')  NOT VALID",
        "ALTER TABLE jobplan.events ADD COLUMN more text GENERATED ALWAYS AS (trap.spring(event)) STORED",
        "CREATE INDEX ON jobplan.events (trap.spring(event))",
        *(
            f"CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON jobplan.{table} EXECUTE FUNCTION trap.fire()"
            for table in TABLES
        ),
    ],
    "rules": [f"CREATE RULE r AS ON INSERT TO jobplan.{table} DO ALSO SELECT trap.spring()" for table in TABLES[2:]],
    "policies": [
        statement
        for table in TABLES
        for statement in (
            f"ALTER TABLE jobplan.{table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE jobplan.{table} FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY p ON jobplan.{table} USING (trap.spring(true))",
        )
    ],
    "view in place of a table": [
        "ALTER TABLE jobplan.meta RENAME TO old_meta",
        "CREATE VIEW jobplan.meta AS SELECT 1 AS version, trap.spring() AS jobplan, now() AS installed_at",
    ],
}

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("run", "plan.yaml"),
    ("dry-run", "plan.yaml"),
    ("status",),
    ("doctor",),
    ("resume", "last", "--from-ledger"),
    ("ledger", "status"),
    ("ledger", "install"),
    ("ledger", "upgrade"),
    ("ledger", "purge", "--older-than", "0s"),
    ("ledger", "restore", "last"),
    ("ledger", "remove", "--yes"),
)


@pytest.mark.parametrize("hook", HOOKS)
def test_what_a_role_hangs_on_its_own_ledger_is_not_executed_by_a_superuser(
    jobplan: Jobplan, db: Database, mallory: Callable[[], str], hook: str
) -> None:
    name = mallory()
    role = as_role(db, name)
    assert jobplan("ledger", "install", "--dsn", role.dsn).code == 0
    jobplan.plan(ONE)
    assert jobplan("run", "plan.yaml", "--dsn", role.dsn).code == 0
    trap(role, name)
    for statement in HOOKS[hook]:
        role.run(statement)
    role.close()
    for command in COMMANDS:
        ran = jobplan(*command, "--dsn", db.dsn)
        assert not db.value(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{name}'"), command
        told = ran.out + ran.err
        if command[0] != "doctor":
            assert f"schema jobplan belongs to role {name}" in told, command
        assert ran.code == (4 if "ledger" in " ".join(command) else 0), (command, told)


@pytest.mark.parametrize("hook", ["triggers and expressions", "rules", "policies"])
def test_a_function_of_an_untrusted_role_on_a_trusted_ledger_is_not_executed(
    jobplan: Jobplan, db: Database, mallory: Callable[[], str], hook: str
) -> None:
    name = mallory()
    role = as_role(db, name)
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    trap(role, name)
    role.close()
    db.run("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA trap TO PUBLIC")
    for statement in HOOKS[hook]:
        db.run(statement)
    ran = jobplan("run", jobplan.plan(ONE), "--dsn", db.dsn)
    assert ran.code == 0
    assert "is ignored: function trap." in ran.err
    assert f"belongs to role {name}" in ran.err
    assert not db.value(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{name}'")


def test_a_role_may_be_trusted_by_name_and_its_ledger_is_then_used(
    jobplan: Jobplan, db: Database, mallory: Callable[[], str]
) -> None:
    name = mallory()
    role = as_role(db, name)
    assert jobplan("ledger", "install", "--dsn", role.dsn).code == 0
    role.close()
    plan = jobplan.plan(ONE)
    assert jobplan("run", plan, "--dsn", db.dsn).code == 0
    assert db.value("SELECT count(*) FROM jobplan.runs") == 0
    ran = jobplan("run", plan, "--dsn", db.dsn, "--trust-ledger-role", name)
    assert "ignored" not in ran.err
    again = jobplan("run", plan, "--dsn", db.dsn, env={"JOBPLAN_TRUST_LEDGER_ROLES": f"nobody, {name}"})
    assert "ignored" not in again.err
    assert db.value("SELECT count(*) FROM jobplan.runs") == 2


def test_install_does_not_adopt_a_schema_or_objects_that_another_role_has_prepared(
    jobplan: Jobplan, db: Database, mallory: Callable[[], str]
) -> None:
    name = mallory()
    db.run(f"CREATE SCHEMA jobplan AUTHORIZATION {name}")
    ran = jobplan("ledger", "install", "--dsn", db.dsn)
    assert ran.code == 4
    assert f"schema jobplan belongs to role {name}" in ran.err
    assert db.column("SELECT relname FROM pg_class WHERE relnamespace = 'jobplan'::regnamespace") == []
    db.run("ALTER SCHEMA jobplan OWNER TO CURRENT_USER")
    db.run(f"GRANT USAGE, CREATE ON SCHEMA jobplan TO {name}")
    role = as_role(db, name)
    role.run("CREATE VIEW jobplan.attempts AS SELECT 1 AS n")
    role.close()
    ran = jobplan("ledger", "install", "--dsn", db.dsn)
    assert ran.code == 4
    assert f"view jobplan.attempts belongs to role {name}" in ran.err


@pytest.mark.parametrize("name", ["set_config", "current_setting", "pg_advisory_xact_lock", "count"])
def test_functions_in_a_schema_that_comes_first_in_search_path_are_not_called(
    jobplan: Jobplan, db: Database, mallory: Callable[[], str], name: str
) -> None:
    """The owner of a database decides which search_path its sessions begin with."""
    role = mallory()
    owner = as_role(db, role)
    trap(owner, role)
    signature, result = {
        "set_config": ("a text, b text, c boolean", "text"),
        "current_setting": ("a text", "text"),
        "pg_advisory_xact_lock": ("a bigint", "text"),
        "count": ("a text", "text"),
    }[name]
    owner.run(
        f"CREATE FUNCTION trap.{name}({signature}) RETURNS {result} LANGUAGE plpgsql AS"
        " $f$ BEGIN RETURN trap.spring(); END $f$"
    )
    owner.close()
    database = db.value("SELECT current_database()")
    db.run(f"ALTER DATABASE {database} SET search_path = trap, pg_catalog")
    jobplan.plan(ONE)
    for command in COMMANDS[4:] + COMMANDS[:4]:
        jobplan(*command, "--dsn", db.dsn)
        assert not db.value(f"SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = '{role}'"), command
