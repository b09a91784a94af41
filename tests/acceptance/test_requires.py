"""`requires`: it is evaluated before anything else, and an unmet requirement has an exit code of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import Database, Jobplan
from tests.integration.standby import standby_of
from tests.servers import start_test_server

ONE = "- {id: one, sql: SELECT 1}"
#: Each kind of requirement that no database of these tests meets, and what the message says.
UNMET = [
    ("database: somewhere_else", "somewhere_else"),
    ("server_version: '>=99'", "server_version is "),
    ("extension_version: '>=99'", "extension_version is "),
    ("standby: true", "the server is not a standby"),
    ("role: no_such_role", 'not a member of the role "no_such_role"'),
    ("preconditions: [{sql: SELECT false, message: it is not the hour}]", "it is not the hour"),
    ("preconditions: [{sql: SELECT NULL::boolean, message: it is not the hour}]", "it is not the hour"),
    ("preconditions: [{sql: SELECT true WHERE false, message: it is not the hour}]", "it is not the hour"),
]


@pytest.mark.parametrize(("requires", "says"), UNMET)
def test_an_unmet_requirement_ends_a_run_and_a_dry_run_with_9(
    jobplan: Jobplan, db: Database, requires: str, says: str
) -> None:
    plan = jobplan.plan(ONE, requires=f"{{{requires}}}")
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert (ran.code, ran.out, ran.err.count("\n")) == (9, "", 1), ran.err
    assert says in ran.err
    assert not (jobplan.folder / ".jobplan" / "runs").exists() or not any((jobplan.folder / ".jobplan/runs").iterdir())
    dry = jobplan("dry-run", plan, "--dsn", db.dsn)
    assert dry.code == 9, dry.out
    assert says in dry.out


@pytest.mark.parametrize(("requires", "says"), UNMET)
def test_otherwise_skip_ends_with_0_and_one_line(jobplan: Jobplan, db: Database, requires: str, says: str) -> None:
    plan = jobplan.plan(ONE, requires=f"{{{requires}, otherwise: skip}}")
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert (ran.code, ran.out, ran.err.count("\n")) == (0, "", 1), ran.err
    assert ran.err.startswith("jobplan: skipped")
    assert says in ran.err
    dry = jobplan("dry-run", plan, "--dsn", db.dsn)
    assert dry.code == 0, dry.out
    assert says in dry.out
    assert "would be skipped" in dry.out.splitlines()[-1]
    data = json.loads(jobplan("dry-run", plan, "--dsn", db.dsn, "--format", "json").out)
    assert (data["would_start"], data["would_skip"]) == (False, True)


@pytest.mark.parametrize("otherwise", ["skip", "fail"])
def test_a_run_that_does_not_begin_leaves_the_report_of_the_run_before(
    jobplan: Jobplan, db: Database, otherwise: str
) -> None:
    report = ("--report", "jsonl=run.jsonl", "--report", "junit=run.xml")
    assert jobplan("run", jobplan.plan(ONE), "--dsn", db.dsn, *report).code == 0
    before = [(jobplan.folder / name).read_bytes() for name in ("run.jsonl", "run.xml")]
    plan = jobplan.plan(ONE, requires=f"{{database: somewhere_else, otherwise: {otherwise}}}")
    assert jobplan("run", plan, "--dsn", db.dsn, *report).code == (0 if otherwise == "skip" else 9)
    assert [(jobplan.folder / name).read_bytes() for name in ("run.jsonl", "run.xml")] == before
    assert jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=new.jsonl").code == (
        0 if otherwise == "skip" else 9
    )
    assert not (jobplan.folder / "new.jsonl").exists()


def test_otherwise_fail_is_the_default(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(ONE, requires="{database: somewhere_else, otherwise: fail}")
    assert jobplan("run", plan, "--dsn", db.dsn).code == 9


def test_a_met_requirement_changes_nothing(jobplan: Jobplan, db: Database) -> None:
    requires = "{standby: false, server_version: '>=14', otherwise: skip}"
    plan = jobplan.plan("- {id: one, sql: ANALYZE pg_class}", requires=requires, budget="{slots: 1}")
    assert jobplan("run", plan, "--dsn", db.dsn).code == 0
    assert jobplan("dry-run", plan, "--dsn", db.dsn, "--strict").code == 0


def test_a_precondition_that_cannot_be_evaluated_is_never_skipped(jobplan: Jobplan, db: Database) -> None:
    """A misspelt table would else keep the plan from running for ever, with exit code 0."""
    plan = jobplan.plan(
        ONE, requires="{preconditions: [{sql: SELECT count(*) > 0 FROM missing, message: m}], otherwise: skip}"
    )
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert ran.code == 9
    assert 'relation "missing" does not exist' in ran.err
    assert jobplan("dry-run", plan, "--dsn", db.dsn).code == 9


def test_requirements_are_evaluated_before_the_server_is_found_not_ready(jobplan: Jobplan, db: Database) -> None:
    db.run("DROP EXTENSION pg_background")
    for requires, code in (
        ("{database: somewhere_else}", 9),
        ("{database: somewhere_else, otherwise: skip}", 0),
        ("{extension_version: '>=2.0'}", 9),
        ("{standby: false}", 4),
    ):
        plan = jobplan.plan(ONE, requires=requires)
        assert jobplan("run", plan, "--dsn", db.dsn).code == code, requires
        assert jobplan("dry-run", plan, "--dsn", db.dsn).code == code, requires


def test_no_connection_is_still_4(jobplan: Jobplan) -> None:
    plan = jobplan.plan(ONE, requires="{database: somewhere_else, otherwise: skip}")
    assert jobplan("run", plan, "--dsn", "host=127.0.0.1 port=1 dbname=x").code == 4


def test_a_resume_whose_requirement_is_unmet_changes_nothing(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE gate (open boolean); INSERT INTO gate VALUES (true)")
    requires = "{preconditions: [{sql: SELECT open FROM gate, message: the gate is shut}], otherwise: %s}"
    for otherwise, code in (("fail", 9), ("skip", 0)):
        plan = jobplan.plan("- {id: one, sql: SELECT 1 / 0}", requires=requires % otherwise)
        db.run("UPDATE gate SET open = true")
        assert jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl").code == 1
        run = jobplan.events()[0]["run"]
        journal = jobplan.folder / ".jobplan" / "runs" / run / "events.jsonl"
        before = journal.read_bytes()
        db.run("UPDATE gate SET open = false")
        resumed = jobplan("resume", run, "--dsn", db.dsn)
        assert resumed.code == code, resumed.err
        assert "the gate is shut" in resumed.err
        assert journal.read_bytes() == before


def test_the_session_of_a_query_is_not_taken_for_one_of_a_previous_runner(jobplan: Jobplan, db: Database) -> None:
    requires = "{preconditions: [{sql: SELECT true, message: never}]}"
    plan = jobplan.plan("- {id: one, sql: SELECT 1/0}", requires=requires)
    ran = jobplan("run", plan, "--dsn", db.dsn, "--run-id", "chosen")
    assert (ran.code, "division by zero" in ran.err) == (1, True), ran.err
    resumed = jobplan("resume", "chosen", "--dsn", db.dsn)
    assert (resumed.code, "division by zero" in resumed.err) == (1, True), resumed.err


@pytest.fixture(scope="module")
def standby() -> Iterator[str]:
    """A superuser's connection to a standby."""
    with start_test_server() as primary, standby_of(primary) as dsn:
        yield dsn


@pytest.mark.pg(">= 15", reason="the standby is made with pg_backup_start()")
def test_on_a_standby(jobplan: Jobplan, standby: str) -> None:
    """The same unit of cron on both nodes of a pair: the one that is the primary runs the plan."""
    for requires, code in (("{standby: false}", 9), ("{standby: false, otherwise: skip}", 0), (None, 4)):
        keys = {} if requires is None else {"requires": requires}
        plan = jobplan.plan(ONE, **keys)
        ran = jobplan("run", plan, "--dsn", standby)
        assert ran.code == code, ran.err
        assert "the server is a standby" in ran.err
        assert jobplan("dry-run", plan, "--dsn", standby).code == code


def test_the_json_log_says_that_the_run_was_skipped(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(ONE, requires="{database: somewhere_else, otherwise: skip}")
    ran = jobplan("run", plan, "--dsn", make_conninfo(db.dsn), "--log-format", "json")
    line = json.loads(ran.err)
    assert (ran.code, line["level"], line["event"]) == (0, "info", "skipped")
