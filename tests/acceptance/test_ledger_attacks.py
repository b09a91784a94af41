"""Attacks through a ledger: by the role that owns it, and by roles that may write to it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from runner.gateway.queries import query
from tests.acceptance.console import Database, Jobplan, until

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
    "domain": [
        "CREATE DOMAIN jobplan.checked AS text CHECK (trap.spring(VALUE) = '')",
        "ALTER TABLE jobplan.events ADD COLUMN more jobplan.checked DEFAULT ''",
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
    role = db.as_role(name)
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
        reported = ran.out + ran.err
        if command[0] != "doctor":
            assert f"schema jobplan belongs to role {name}" in reported, command
        assert ran.code == (4 if "ledger" in " ".join(command) else 0), (command, reported)


@pytest.mark.parametrize("hook", ["triggers and expressions", "rules", "policies", "domain"])
def test_a_function_of_an_untrusted_role_on_a_trusted_ledger_is_not_executed(
    jobplan: Jobplan, db: Database, mallory: Callable[[], str], hook: str
) -> None:
    name = mallory()
    role = db.as_role(name)
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
    role = db.as_role(name)
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
    role = db.as_role(name)
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
    owner = db.as_role(role)
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


# --- by a role that may write to the ledger ---------------------------------------------------------------------------

#: A plan whose step is followed by one that waits, so that its runner can be killed in between.
SLOW = """
    - id: pay
      sql: INSERT INTO paid SELECT 1 FROM pg_sleep(CASE WHEN EXISTS (SELECT FROM ready) THEN 0 ELSE 60 END)
    - {id: last, sql: SELECT 1, needs: [pay]}
"""


@pytest.fixture
def writer(db: Database, jobplan: Jobplan, mallory: Callable[[], str]) -> Iterator[Database]:
    """A connection of a role that may write to the superuser's ledger."""
    name = mallory()
    assert jobplan("ledger", "install", "--grant", name, "--dsn", db.dsn).code == 0
    db.run("CREATE TABLE paid (n int)")
    db.run("CREATE TABLE ready (n int)")
    db.run(f"GRANT INSERT ON paid TO {name}")
    connected = db.as_role(name)
    yield connected
    connected.close()


def killed(jobplan: Jobplan, db: Database, *, worker_too: bool = True) -> str:
    """Begin `SLOW`, kill its runner, and its worker before it has committed; return the run."""
    started = jobplan.start(
        "run",
        jobplan.plan(SLOW, defaults="{timeout: 5m, on_finish: wait}"),
        "--dsn",
        db.dsn,
        "--report",
        "jsonl=e.jsonl",
    )
    db.until_workers("pay")
    until(lambda: any(event["event"] == "attempt_running" for event in jobplan.events("e.jsonl")))
    until(lambda: db.value("SELECT count(*) FROM jobplan.events WHERE event = 'attempt_running'") == 1)
    started.send(signal.SIGKILL)
    started.ended()
    if worker_too:
        db.terminate("pay")
        db.until_workers()
    return str(jobplan.events("e.jsonl")[0]["run"])


def test_a_forged_commit_row_does_not_make_a_step_succeed(jobplan: Jobplan, db: Database, writer: Database) -> None:
    run = killed(jobplan, db)
    announced = db.value("SELECT body ->> 'proof' FROM jobplan.events WHERE body ? 'proof'")
    for proof in ("", announced, "0" * 32):
        writer.run(
            "INSERT INTO jobplan.commits (run, step, attempt, committed, proof)"
            f" VALUES ('{run}', 'pay', 1, true, '{proof}')"
        )
    db.run("INSERT INTO ready VALUES (1)")
    resumed = jobplan("resume", run, "--dsn", db.dsn, "--report", "jsonl=r.jsonl", "--orphans", "cancel")
    reported = resumed.out + resumed.err
    assert "pay: its last worker completed its work" not in reported
    settled = [event for event in jobplan.events("r.jsonl") if event["event"] == "run_resumed"]
    assert settled[0]["settled"] == [{"step": "pay", "outcome": "failed", "by": "ledger"}]


def test_a_role_cannot_write_rows_in_the_name_of_another(db: Database, writer: Database) -> None:
    me = db.value("SELECT session_user")
    for statement in (
        "INSERT INTO jobplan.commits (run, step, attempt, committed, writer) VALUES ('r', 's', 1, true, '{me}')",
        "INSERT INTO jobplan.events (run, seq, at, event, body, writer) VALUES ('r', 1, now(), 'e', '{{}}', '{me}')",
        "INSERT INTO jobplan.plans (run, sha256, resolved, writer) VALUES ('r', '', '{{}}', '{me}')",
        "INSERT INTO jobplan.keys (run, key, writer) VALUES ('r', 'k', '{me}')",
        """INSERT INTO jobplan.runs (run, plan, sha256, jobplan, host, os_pid, started_at, writer)
           VALUES ('r', 'p', '', '', '', 1, now(), '{me}')""",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            writer.run(statement.format(me=me))


def test_a_role_can_neither_change_rows_of_another_nor_read_its_keys(
    jobplan: Jobplan, db: Database, writer: Database
) -> None:
    assert jobplan("run", jobplan.plan(ONE), "--dsn", db.dsn).code == 0
    assert db.value("SELECT count(*) FROM jobplan.keys") == 1
    assert writer.value("SELECT count(*) FROM jobplan.keys") == 0
    writer.run("UPDATE jobplan.events SET body = '{}'")
    writer.run("UPDATE jobplan.runs SET exit_code = 9")
    assert db.value("SELECT count(*) FROM jobplan.events WHERE body = '{}'") == 0
    assert db.value("SELECT exit_code FROM jobplan.runs") == 0
    for table in TABLES:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            writer.run(f"DELETE FROM jobplan.{table}")


def test_a_forged_fence_neither_stops_a_worker_nor_hides_that_it_has_committed(
    jobplan: Jobplan, db: Database, writer: Database
) -> None:
    """A role sees the run's name in pg_stat_activity before the step has its worker."""
    plan = jobplan.plan(
        """
        - {id: wait, sql: SELECT pg_advisory_xact_lock(1)}
        - {id: pay, sql: INSERT INTO paid VALUES (1), needs: [wait]}
        """
    )
    keeper = db.elsewhere()
    keeper.execute("SELECT pg_advisory_xact_lock(1)")
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=e.jsonl")
    db.until_workers("wait")
    run = jobplan.events("e.jsonl")[0]["run"]
    for proof in ("", "0" * 32):
        for committed in ("false", "true"):
            writer.run(
                "INSERT INTO jobplan.commits (run, step, attempt, committed, proof)"
                f" VALUES ('{run}', 'pay', 1, {committed}, '{proof}{committed}')"
            )
    keeper.rollback()
    assert started.ended().code == 0
    assert db.value("SELECT count(*) FROM paid") == 1


def test_a_superuser_does_not_resume_a_plan_that_another_role_has_written(
    jobplan: Jobplan, db: Database, writer: Database
) -> None:
    """Its whole record is made by the role itself, with SQL that only a superuser may run."""
    name = writer.value("SELECT session_user")
    plan = jobplan.plan(f"- {{id: one, sql: ALTER ROLE {name} SUPERUSER}}")
    assert jobplan("run", plan, "--dsn", writer.dsn).code == 1
    run = writer.value("SELECT run FROM jobplan.runs")
    for arguments in (
        ("resume", run, "--from-ledger"),
        ("resume", "last", "--from-ledger"),
        ("ledger", "restore", run),
    ):
        ran = jobplan(*arguments, "--dsn", db.dsn, "--journal", "elsewhere")
        assert ran.code == 4
        assert f"run {run} was recorded by role {name}" in ran.err
        assert f"--trust-ledger-role {name}" in ran.err
    assert not db.value(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{name}'")
    own = jobplan("resume", run, "--from-ledger", "--dsn", writer.dsn, "--journal", "own")
    assert own.code == 1, own.err
    trusted = jobplan(
        "resume", run, "--from-ledger", "--dsn", db.dsn, "--journal", "trusted", "--trust-ledger-role", str(name)
    )
    assert trusted.code == 0, trusted.err


def test_rows_that_another_role_adds_to_a_run_are_not_restored(
    jobplan: Jobplan, db: Database, writer: Database
) -> None:
    assert jobplan("run", jobplan.plan("- {id: one, sql: SELECT 1/0}"), "--dsn", db.dsn).code == 1
    run = db.value("SELECT run FROM jobplan.runs")
    name = writer.value("SELECT session_user")
    evil = db.value("SELECT resolved::text FROM jobplan.plans").replace("SELECT 1/0", f"ALTER ROLE {name} SUPERUSER")
    writer.run(f"INSERT INTO jobplan.plans (run, sha256, resolved) SELECT run, sha256, $e${evil}$e$ FROM jobplan.plans")
    writer.run(
        "INSERT INTO jobplan.events (run, seq, at, event, step, attempt, body)"
        " SELECT run, seq + 100, at, event, step, attempt, body FROM jobplan.events WHERE event = 'run_started'"
    )
    resumed = jobplan("resume", run, "--from-ledger", "--dsn", db.dsn, "--journal", "elsewhere")
    assert resumed.code == 1
    assert "division by zero" in resumed.err
    assert not db.value(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{name}'")


def test_a_ledger_of_version_1_is_brought_up_with_its_grants(jobplan: Jobplan, db: Database, writer: Database) -> None:
    name = str(writer.value("SELECT session_user"))
    db.run("DROP SCHEMA jobplan CASCADE; CREATE SCHEMA jobplan")
    db.run(query("ledger_version_1", ledger="jobplan").decode())
    db.run("INSERT INTO jobplan.meta VALUES (1, '0')")
    db.run(f"GRANT USAGE ON SCHEMA jobplan TO {name}; GRANT SELECT ON ALL TABLES IN SCHEMA jobplan TO {name}")
    db.run(f"GRANT INSERT ON jobplan.runs, jobplan.plans, jobplan.events, jobplan.commits TO {name}")
    db.run(f"GRANT UPDATE ON jobplan.runs, jobplan.events TO {name}")
    db.run("INSERT INTO jobplan.commits VALUES ('r', 's', 1, true)")
    before = jobplan("run", jobplan.plan(ONE), "-v", "--dsn", writer.dsn)
    assert "is of version 1, and this jobplan writes 3: use jobplan ledger upgrade" in before.err
    assert jobplan("ledger", "upgrade", "--dsn", db.dsn).code == 0
    after = jobplan("run", jobplan.plan(ONE), "-v", "--dsn", writer.dsn)
    assert "ledger: schema jobplan" in after.lines
    assert db.column("SELECT writer FROM jobplan.commits ORDER BY writer") == ["", name]


# --- databases whose encoding lacks characters ------------------------------------------------------------------------


@pytest.fixture(params=["LATIN1", "SQL_ASCII", "KOI8R"])
def narrow(request: pytest.FixtureRequest, server_dsn: str) -> Iterator[Database]:
    """A database of another encoding than UTF8, with the extension."""
    name = f"jobplan_narrow_{next(_NUMBERS)}"
    with psycopg.connect(server_dsn, autocommit=True) as server:
        server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{request.param}' LOCALE 'C'")
        connected = Database(make_conninfo(server_dsn, dbname=name, client_encoding="UTF8"))
        connected.run("CREATE EXTENSION pg_background")
        connected.run("CREATE TABLE paid (n int)")
        yield connected
        connected.close()
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_items_outside_the_encoding_of_the_database_do_not_harm_the_ledger(jobplan: Jobplan, narrow: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", narrow.dsn).code == 0
    plan = jobplan.plan(
        """
        - id: each
          for_each: {items: ["Жук", "emoji 😀", "U&x", 'back\\slash', plain], as: item}
          sql: INSERT INTO paid VALUES (1)
        - {id: fails, sql: SELECT missing, needs: [each]}
        """
    )
    ran = jobplan("run", plan, "--dsn", narrow.dsn)
    assert ran.code == 1
    assert "ledger" not in ran.err
    assert narrow.value("SELECT count(*) FROM jobplan.commits WHERE committed") == 5
    assert narrow.value("SELECT count(*) = max(seq) AND min(seq) = 1 FROM jobplan.events")
    run = narrow.value("SELECT run FROM jobplan.runs")
    narrow.run("ALTER TABLE paid ADD COLUMN missing int")
    resumed = jobplan("resume", run, "--from-ledger", "--dsn", narrow.dsn, "--journal", "elsewhere")
    assert resumed.code == 1, resumed.err
    assert narrow.value("SELECT count(*) FROM paid") == 5
    journal, restored = (
        (jobplan.folder / folder / run / "events.jsonl").read_text(encoding="utf-8").splitlines()
        for folder in (".jobplan/runs", "elsewhere")
    )
    assert [json.loads(line) for line in restored[: len(journal)]] == [json.loads(line) for line in journal]
