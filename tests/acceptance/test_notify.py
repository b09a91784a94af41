"""`jobplan run --notify`: failures, a recovery, a silent server, and no secret in the output or the journal."""

from __future__ import annotations

from tests.acceptance.console import Database, Jobplan
from tests.unit.reports.test_notify import PATH_OF_URL, receiver, silent

PLAN = "- {id: work, sql: SELECT 1 FROM wanted}"


def test_a_failure_and_the_recovery_after_it(db: Database, jobplan: Jobplan) -> None:
    plan = jobplan.plan(PLAN)
    with receiver(200) as server:
        env = {"JOBPLAN_NOTIFY": server.url}
        first = jobplan("run", plan, "--dsn", db.dsn, env=env)
        db.run("CREATE TABLE wanted ()")
        second = jobplan("run", plan, "--dsn", db.dsn, env=env)
        third = jobplan("run", plan, "--dsn", db.dsn, "--notify", server.url)
        assert (first.code, second.code, third.code) == (1, 0, 0)
        assert [one["event"] for one in server.got] == ["failure", "recovery"]
        assert server.got[0]["steps"] == [{"step": "work", "state": "failed"}]
        assert "wanted" not in str(server.got)
    for ran in (first, second, third):
        assert PATH_OF_URL not in ran.out + ran.err
    assert not [
        file for file in jobplan.folder.rglob("*") if file.is_file() and PATH_OF_URL in file.read_text("latin-1")
    ]


def test_a_run_that_cannot_begin_is_a_failure(db: Database, jobplan: Jobplan) -> None:
    plan = jobplan.plan(PLAN)
    with receiver(200) as server:
        ran = jobplan("run", plan, "--dsn", f"{db.dsn} port=1", "--notify", server.url)
        assert ran.code == 4
        assert [(one["event"], one["exit_code"]) for one in server.got] == [("failure", 4)]


def test_a_silent_server_changes_neither_the_run_nor_its_exit_code(db: Database, jobplan: Jobplan) -> None:
    with silent() as url:
        ran = jobplan("run", jobplan.plan(PLAN), "--dsn", db.dsn, "--notify", url)
    assert ran.code == 1
    assert "a notification to 127.0.0.1 was not sent" in ran.err
    assert PATH_OF_URL not in ran.err


def test_wrong_options_are_refused_without_the_url(db: Database, jobplan: Jobplan) -> None:
    for more in (
        ["--notify", f"ftp://{PATH_OF_URL}"],
        ["--notify-blocked", "5m"],
        ["--notify", "http://h", "--notify-blocked", "x"],
    ):
        ran = jobplan("run", jobplan.plan(PLAN), "--dsn", db.dsn, *more)
        assert ran.code == 2
        assert PATH_OF_URL not in ran.err


def test_a_resume_sends_messages_too(db: Database, jobplan: Jobplan) -> None:
    plan = jobplan.plan(PLAN)
    assert jobplan("run", plan, "--dsn", db.dsn, "--run-id", "r1").code == 1
    with receiver(200) as server:
        env = {"JOBPLAN_NOTIFY": server.url}
        failed = jobplan("resume", "r1", env=env)
        db.run("CREATE TABLE wanted ()")
        resumed = jobplan("resume", "r1", "--notify", server.url)
        again = jobplan("resume", "r1", env=env)  # nothing is left to do
        assert (failed.code, resumed.code, again.code) == (1, 0, 0), (failed, resumed, again)
        assert [(one["event"], one["run"], one["plan"]) for one in server.got] == [
            ("failure", "r1", "trial"),
            ("recovery", "r1", "trial"),
        ]
        assert server.got[1]["database"] == db.value("SELECT current_database()")
        assert server.got[1]["text"].endswith("run r1 succeeded; it had failed before")
    for ran in (failed, resumed, again):
        assert PATH_OF_URL not in ran.out + ran.err


def test_a_resume_that_cannot_begin_is_a_failure(db: Database, jobplan: Jobplan) -> None:
    assert jobplan("run", jobplan.plan(PLAN), "--dsn", db.dsn, "--run-id", "r1").code == 1
    with receiver(200) as server:
        env = {"JOBPLAN_NOTIFY": server.url}
        assert jobplan("resume", "r1", "--dsn", f"{db.dsn} port=1", env=env).code == 4
        assert jobplan("resume", "unknown", env=env).code == 4
        assert [(one["event"], one["run"], one["exit_code"]) for one in server.got] == [
            ("failure", "r1", 4),
            ("failure", "unknown", 4),
        ]
        assert server.got[0]["plan"] == "trial"
        assert "run unknown ended with exit code 4" in server.got[1]["text"]
    assert jobplan("resume", "r1", "--notify-blocked", "5m").code == 2
