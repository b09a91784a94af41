"""status, cancel and attach as the person on call uses them: another home, another folder, only the DSN."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import Database, Jobplan, Ran, Started, until

#: Longer than any of these tests takes on a busy machine; nothing that a test starts outlives it.
PATIENT = "{timeout: 5m, on_finish: wait}"
#: A row if another session has looked at the server already: the last of its queries has run, or the one after it,
#: which looks for a ledger.
LOOKED = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'jobplan looking' AND datname = current_database()"
    " AND state = 'idle' AND query LIKE ANY (ARRAY['%pg_stat_progress_vacuum%', '%16384%', '%''meta'', ''runs''%'])"
)
FIVE = """
    - {id: a, sql: INSERT INTO done SELECT 'a' FROM pg_sleep(240)}
    - {id: b, for_each: {items: ["*/ x", größe], as: i}, sql: "INSERT INTO done SELECT :'i' FROM pg_sleep(240)"}
    - {id: c, sql: INSERT INTO done SELECT 'c' FROM pg_sleep(240)}
    - {id: away, sql: INSERT INTO done SELECT 'away' FROM pg_sleep(240), on_finish: detach, timeout: 2h}
    """


class OnCall:
    """A second shell: nothing but the command and the DSN."""

    def __init__(self, folder: Path, db: Database) -> None:
        folder.mkdir()
        self.jobplan = Jobplan(folder)
        self._env = {"HOME": str(folder), "JOBPLAN_DSN": db.dsn}

    def __call__(self, *arguments: str) -> Ran:
        """Run a command to its end."""
        return self.jobplan(*arguments, env=self._env)

    def start(self, *arguments: str) -> Started:
        """Start a command."""
        return self.jobplan.start(*arguments, env=self._env)


@pytest.fixture
def on_call(tmp_path_factory: pytest.TempPathFactory, db: Database) -> Iterator[OnCall]:
    """The second shell."""
    shell = OnCall(tmp_path_factory.mktemp("other") / "home", db)
    yield shell
    shell.jobplan.close()


def run_of(db: Database) -> str:
    """Return the id of the only run whose workers live in this database."""
    query = (
        "SELECT DISTINCT split_part(application_name, ':', 2) FROM pg_stat_activity"
        " WHERE backend_type = 'pg_background' AND datname = current_database()"
    )
    return str(db.value(query))


def labelled(db: Database) -> None:
    """Wait until the server shows the texts of all workers."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_background' AND datname = current_database()"
        " AND NOT starts_with(query, '/* jobplan ')"
    )
    until(lambda: db.value(query) == 0)


def start_five(jobplan: Jobplan, db: Database) -> tuple[Started, str]:
    """Start a run of four waiting workers and one that may continue alone."""
    db.run("CREATE TABLE done (step text)")
    plan = jobplan.plan(FIVE, budget="{slots: 5}", defaults=PATIENT)
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: len(db.workers()) == 5)
    labelled(db)
    return started, run_of(db)


def test_after_kill_9_another_shell_sees_stops_and_follows_what_is_left(
    jobplan: Jobplan, db: Database, on_call: OnCall
) -> None:
    started, run = start_five(jobplan, db)
    started.send(signal.SIGKILL)
    started.ended()
    until(lambda: "RUNNER LOST" in on_call("status", run).out)

    shown = on_call("status", run)
    assert shown.code == 0
    assert f"run {run} of trial: RUNNER LOST, 4 orphaned workers (" in shown.out
    for step in ("a", "b[*/ x]", "b[größe]", "c", "away (detach)"):
        assert f"  {step}: pid " in shown.out
    data = json.loads(on_call("status", "--format", "json", run[:9]).out)
    (reported,) = data["runs"]
    assert (reported["run"], reported["runner"]["alive"], len(reported["workers"])) == (run, False, 5)

    cancelled = on_call("cancel", run)
    assert cancelled.code == 0
    assert cancelled.out.count(": ended after ") == 4
    assert "away (pid " in cancelled.out
    assert f"cancel them too: jobplan cancel {run} --detached" in cancelled.out
    assert db.workers() == ["away"]

    following = on_call.start("attach", run)
    until(lambda: bool(db.column(LOOKED)))
    stopped = json.loads(on_call("cancel", run, "--detached", "--format", "json").out)
    assert [worker["step"] for worker in stopped["stopped"]] == ["away"]
    attached = following.ended()
    assert attached.code == 0
    assert "away (pid " in attached.out
    assert "it has no more sessions on the server" in attached.out
    assert db.column("SELECT step FROM done") == []
    assert on_call("status").code == 0


def test_a_runner_reports_the_user_who_cancelled_it(jobplan: Jobplan, db: Database, on_call: OnCall) -> None:
    started, run = start_five(jobplan, db)
    done = on_call("cancel", run)
    ran = started.ended()
    assert (done.code, ran.code) == (0, 1)
    assert done.out.splitlines()[4].startswith(("its runner has ended the run", "its runner received the request"))
    events = jobplan.events()
    (reported,) = [event for event in events if event["event"] == "run_cancelled"]
    assert "@" in reported["by"]
    ends = {event["step"]: event for event in events if event["event"] == "attempt_finished"}
    assert {step for step, event in ends.items() if event.get("cancelled_by") == reported["by"]} == {
        "a",
        "b[*/ x]",
        "b[größe]",
        "c",
    }
    assert events[-1]["steps"]["away"] == "detached"
    assert f"cancelled by {reported['by']}: no further steps start" in ran.err
    assert on_call("cancel", run, "--step", "away").code == 0
    db.until_workers()


def test_one_step_is_cancelled_and_the_run_continues(jobplan: Jobplan, db: Database, on_call: OnCall) -> None:
    plan = jobplan.plan(
        """
        - {id: slow, sql: SELECT pg_sleep(240), retry: {max_attempts: 3, delay: 1s}}
        - {id: after, needs: [{step: slow, on: done}], sql: CREATE TABLE witness ()}
        """,
        defaults=PATIENT,
    )
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    db.until_workers("slow")
    labelled(db)
    run = run_of(db)
    wrong = on_call("cancel", run, "--step", "slwo")
    assert (wrong.code, "Steps with workers: slow." in wrong.err) == (2, True)
    assert on_call("cancel", run, "--step", "slow").code == 0
    ran = started.ended()
    assert ran.code == 1
    assert jobplan.events()[-1]["steps"] == {"slow": "cancelled", "after": "succeeded"}
    assert "@" in next(e for e in jobplan.events() if e["event"] == "attempt_finished")["cancelled_by"]
    assert db.value("SELECT count(*) FROM pg_class WHERE relname = 'witness'") == 1


def test_a_step_between_two_attempts_is_cancelled(jobplan: Jobplan, db: Database, on_call: OnCall) -> None:
    plan = jobplan.plan(
        """
        - {id: flaky, sql: SELECT 1/0, retry: {max_attempts: 3, delay: 1h}}
        - {id: slow, sql: SELECT pg_sleep(240)}
        - {id: later, sql: CREATE TABLE witness (), needs: [slow]}
        """,
        defaults=PATIENT,
    )
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    db.until_workers("slow")
    until(lambda: jobplan.happened("step_retrying"))
    run = run_of(db)
    wrong = on_call("cancel", run, "--step", "flakey")
    assert (wrong.code, f"run {run} has no step 'flakey'." in wrong.err) == (2, True)
    done = on_call("cancel", run, "--step", "flaky")
    assert (done.code, done.out.splitlines()) == (
        0,
        [
            "flaky has no worker to cancel",
            "its runner received the request: it does not start the step again, continues, and reports who cancelled",
        ],
    )
    assert on_call("cancel", run, "--step", "later").code == 0
    assert on_call("cancel", run, "--step", "slow").code == 0
    ran = started.ended()
    assert ran.code == 1
    assert jobplan.events()[-1]["steps"] == dict.fromkeys(("flaky", "slow", "later"), "cancelled")
    assert "cancelled the step before attempt 2" in ran.err


def test_a_cancelled_create_index_concurrently_is_reported_with_its_repair(
    jobplan: Jobplan, db: Database, on_call: OnCall
) -> None:
    db.run("CREATE TABLE t (i int)")
    started = jobplan.start(
        "run",
        jobplan.plan("- {id: index, sql: CREATE INDEX CONCURRENTLY t_i ON t (i)}", defaults=PATIENT),
        "--dsn",
        db.dsn,
    )
    with psycopg.connect(db.dsn, application_name="the app") as other:
        other.execute("INSERT INTO t VALUES (1)")
        db.until_workers("index")
        run = run_of(db)
        until(lambda: "BLOCKED" in on_call("status", run).out)
        shown = on_call("status", run).out
        assert f"blocked by pid {other.info.backend_pid}" in shown
        done = on_call("cancel", run)
    assert done.code == 0
    assert "left behind: index public.t_i of public.t is INVALID" in done.out
    assert "  REINDEX INDEX CONCURRENTLY public.t_i;" in done.out
    assert started.ended().code == 1
    db.run("REINDEX INDEX CONCURRENTLY public.t_i")
    assert db.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_i'::regclass") is True


def test_a_worker_that_ignores_its_cancel_is_exit_7(jobplan: Jobplan, db: Database, on_call: OnCall) -> None:
    started = jobplan.start(
        "run", jobplan.plan("- {id: deaf, sql: SELECT pg_sleep(240)}", defaults=PATIENT), "--dsn", db.dsn
    )
    db.until_workers("deaf")
    labelled(db)
    pid = db.pid("deaf")
    os.kill(pid, signal.SIGSTOP)  # as in a long call of a C function
    try:
        done = on_call("cancel", run_of(db), "--timeout", "1s")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.code == 7
    assert f"deaf (pid {pid}): STILL RUNNING" in done.out
    assert started.ended().code == 1


@pytest.mark.slow
def test_a_runner_that_does_not_answer_is_exit_7(
    jobplan: Jobplan, db: Database, on_call: OnCall, tmp_path: Path
) -> None:
    plan = jobplan.plan(
        """
        - {id: one, sql: SELECT pg_sleep(240)}
        - {id: two, sql: SELECT pg_sleep(240)}
        - {id: later, sql: CREATE TABLE witness (), needs: [one]}
        """,
        defaults=PATIENT,
    )
    started = jobplan.start("run", plan, "--dsn", db.dsn)
    db.until_workers("one", "two")
    labelled(db)
    run = run_of(db)
    started.send(signal.SIGSTOP)  # as a machine that is suspended or switched off
    try:
        until(lambda: ", silent for 1" in on_call("status", run).out)
        copied = shutil.copytree(jobplan.folder / ".jobplan", tmp_path / "copied")
        refused = jobplan("resume", run, "--journal", copied / "runs")
        assert (refused.code, f"run {run} is already running: its runner is connected" in refused.err) == (6, True)
        assert f"application_name = 'jobplan:{run}:runner'" in refused.err
        step = on_call("cancel", run, "--step", "two")
        whole = json.loads(on_call("cancel", run, "--format", "json").out)
    finally:
        started.send(signal.SIGCONT)
    assert step.code == 7
    assert "two (pid " in step.out
    assert "its runner is alive and did not answer: it may start the step again" in step.out
    assert [worker["step"] for worker in whole["stopped"]] == ["one"]
    assert (whole["runner_alive"], whole["runner_answered"]) == (True, False)
    assert started.ended().code == 1


def test_unknown_runs_servers_and_durations(on_call: OnCall, jobplan: Jobplan, db: Database) -> None:
    started = jobplan.start(
        "run", jobplan.plan("- {id: one, sql: SELECT pg_sleep(240)}", defaults=PATIENT), "--dsn", db.dsn
    )
    db.until_workers("one")
    run = run_of(db)
    for command in ("status", "cancel", "attach"):
        unknown = on_call(command, "nonsense")
        assert unknown.code == 2
        assert "no run 'nonsense' is active on the server" in unknown.err
        assert run in unknown.err
        assert "Its record" not in unknown.err
        nowhere = on_call(command, "x", "--dsn", "host=127.0.0.1 port=1")
        assert nowhere.code == 4
    for short in (run[:2], run[:7]):
        looked = on_call("status", short)
        if "is the beginning of more than one run" in looked.err:
            assert run in looked.err  # another process of tests has a run on the same server
            continue
        assert looked.code == 0
        too_little = on_call("cancel", short)
        assert (too_little.code, f"{short!r} is too short to select a run to cancel" in too_little.err) == (2, True)
        assert f"{run[:8]} selects run {run}." in too_little.err
    assert db.workers() == ["one"]
    assert on_call("cancel", run, "--timeout", "soon").code == 2
    assert on_call("cancel", run, "--step", "x" * 501).code == 2
    hidden = "not for every terminal"
    shown = on_call("status", "--dsn", make_conninfo(db.dsn, password=hidden)).out
    assert (f"attach {run} --dsn " in shown, hidden in shown) == (True, False)
    assert on_call("cancel", run).code == 0
    started.ended()
    for command in ("status", "cancel", "attach"):
        gone = jobplan(command, run[:9], "--dsn", db.dsn)
        assert (gone.code, f"no run {run[:9]!r} is active on the server" in gone.err) == (2, True)
        assert f"Its record is in .jobplan/runs/{run}: jobplan show {run} prints it" in gone.err
        assert f"jobplan resume {run} --dsn " in gone.err


def test_watch_polls_until_the_run_has_ended(jobplan: Jobplan, db: Database, on_call: OnCall) -> None:
    started = jobplan.start(
        "run", jobplan.plan("- {id: one, sql: SELECT pg_sleep(240)}", defaults=PATIENT), "--dsn", db.dsn
    )
    db.until_workers("one")
    run = run_of(db)
    watching = on_call.start("status", run, "--watch", "--every", "0.2", "--format", "json")
    reading = on_call.start("status", run, "--watch", "--every", "0.2")
    seen: set[int] = set()

    def both_have_looked() -> bool:
        seen.update(db.column(LOOKED))
        return len(seen) == 2

    until(both_have_looked)
    started.send(signal.SIGINT)
    started.ended()
    watched = watching.ended()
    assert watched.code == 0
    looks = [json.loads(line) for line in watched.out.splitlines()]
    assert [worker["step"] for worker in looks[0]["runs"][0]["workers"]] == ["one"]
    assert looks[-1]["runs"] == []
    assert reading.ended().out.rstrip().endswith(f": no more sessions of run {run}")


def test_a_blocked_worker_names_the_blocking_session(jobplan: Jobplan, db: Database, on_call: OnCall) -> None:
    db.run("CREATE TABLE t (i int)")
    with psycopg.connect(db.dsn, application_name="the app") as other:
        other.execute("LOCK TABLE t IN SHARE MODE")
        started = jobplan.start(
            "run", jobplan.plan("- {id: one, sql: INSERT INTO t VALUES (1)}", defaults=PATIENT), "--dsn", db.dsn
        )
        db.until_workers("one")
        until(lambda: "BLOCKED" in on_call("status").out)
        data = json.loads(on_call("status", run_of(db), "--format", "json").out)
        (by,) = data["runs"][0]["workers"][0]["blocked_by"]
        assert (by["pid"], by["application_name"], by["state"]) == (
            other.info.backend_pid,
            "the app",
            "idle in transaction",
        )
    assert started.ended().code == 0


def test_with_its_record_a_run_needs_no_connection_and_shows_more(jobplan: Jobplan, db: Database) -> None:
    db.run("SELECT pg_advisory_lock(1)")
    plan = jobplan.plan(
        """
        - {id: quick, sql: SELECT 1}
        - {id: slow, needs: [quick], sql: SELECT pg_advisory_xact_lock(1)}
        """,
        defaults=PATIENT,
    )
    started = jobplan.start("run", plan, "--dsn", db.dsn)
    db.until_workers("slow")
    run = run_of(db)
    until(lambda: "1 running" in jobplan("status", run).out)
    shown = jobplan("status", run).out
    assert f"1 succeeded, 1 running (.jobplan/runs/{run})" in shown
    following = jobplan.start("attach", run)
    until(lambda: bool(db.column(LOOKED)))
    db.run("SELECT pg_advisory_unlock(1)")
    assert started.ended().code == 0
    attached = following.ended()
    assert attached.code == 0
    assert "; recorded as succeeded" in attached.out
    assert f"its record: 2 succeeded (.jobplan/runs/{run})" in attached.out


def test_last_names_the_run_that_was_recorded_last_also_on_the_server(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: long, sql: SELECT pg_sleep(60), timeout: 2m, on_finish: detach}\n")
    assert jobplan("run", plan, "--dsn", db.dsn).code == 0
    run = json.loads(jobplan("show", "last", "--format", "json").out)["run"]
    seen = jobplan("status", "last", "--dsn", db.dsn)
    assert f"stop: jobplan cancel {run} --dsn" in seen.out
    assert next(line for line in seen.out.splitlines() if "stop:" in line).endswith(" --detached")
    following = jobplan.start("attach", "last", "--dsn", db.dsn)
    assert "long" in following.read_line()
    assert jobplan("cancel", "last", "--dsn", db.dsn, "--detached").code == 0
    assert "long" in following.ended().out


def test_last_without_any_record_is_an_error_that_says_so(jobplan: Jobplan, db: Database) -> None:
    refused = jobplan("cancel", "last", "--dsn", db.dsn)
    assert refused.code == 2
    assert "last" in refused.err


def test_a_run_that_has_ended_is_offered_for_a_resume_only_if_something_is_left(jobplan: Jobplan, db: Database) -> None:
    jobplan.plan("- {id: a, sql: SELECT 1}")
    assert jobplan("run", "plan.yaml", "--dsn", db.dsn, "--run-id", "well").code == 0
    said = jobplan("attach", "well", "--dsn", db.dsn).err
    assert "jobplan show well prints it." in said
    jobplan.plan("- {id: a, sql: SELECT 1/0}")
    assert jobplan("run", "plan.yaml", "--dsn", db.dsn, "--run-id", "ill").code == 1
    said = jobplan("attach", "ill", "--dsn", db.dsn).err
    assert "jobplan show ill prints it, and jobplan resume ill" in said
