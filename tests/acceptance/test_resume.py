"""`jobplan resume`: a run whose runner was killed, or that ended badly, is finished; nothing is done twice."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.console import Database, Jobplan, until

#: Four steps that the run waits for and one that it does not; a step that comes after them.
FIVE = """
    - {id: one, sql: "INSERT INTO done SELECT 'one' FROM pg_sleep(60)", idempotent: true}
    - {id: two, sql: "INSERT INTO done SELECT 'two' FROM pg_sleep(60)", idempotent: true}
    - id: three
      sql: INSERT INTO done SELECT 'three' FROM pg_sleep(60)
      verify: SELECT EXISTS (SELECT FROM done WHERE step = 'three')
    - {id: four, sql: "INSERT INTO done SELECT 'four' FROM pg_sleep(60)"}
    - {id: away, sql: "INSERT INTO done SELECT 'away' FROM pg_sleep(60)", on_finish: detach}
    - {id: last, sql: "INSERT INTO done VALUES ('last')", needs: [one, two, three, four]}
"""
ALL = ("away", "four", "one", "three", "two")


@pytest.fixture
def done(db: Database) -> Database:
    """A database with a table that steps write to."""
    db.run("CREATE TABLE done (step text)")
    return db


def kill_runner(jobplan: Jobplan, db: Database, plan: Path, *steps: str) -> str:
    """Run the plan until these workers run and have been seen, kill the runner, and return the run's id."""
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    db.until_workers(*steps)
    until(lambda: sum(event["event"] == "attempt_running" for event in jobplan.events()) == len(steps))
    started.send(signal.SIGKILL)
    started.ended()
    return str(jobplan.events()[0]["run"])


def quicken(db: Database) -> None:
    """Let steps sleep no longer: what runs is a matter of the first run."""
    db.run("CREATE FUNCTION public.pg_sleep(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    database = db.value("SELECT quote_ident(current_database())")
    db.run(f"ALTER DATABASE {database} SET search_path = public, pg_catalog")


def recorded(jobplan: Jobplan, run: str) -> list[dict[str, Any]]:
    """Read the run's journal."""
    lines = (jobplan.folder / ".jobplan" / "runs" / run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def copy_of(jobplan: Jobplan, run: str) -> Path:
    """Copy the run's journal as it is now, as a backup or another machine would have it; return the folder of runs."""
    copy = jobplan.folder / "copy"
    (copy / run).mkdir(parents=True)
    for name in ("plan.json", "plan.sha256", "events.jsonl"):
        source = jobplan.folder / ".jobplan" / "runs" / run / name
        (copy / run / name).write_bytes(source.read_bytes())
    return copy


def test_the_way_from_a_killed_runner_to_a_finished_run(jobplan: Jobplan, done: Database, tmp_path: Path) -> None:
    plan = jobplan.plan(FIVE, budget="{slots: 5}", defaults="{timeout: 5m, on_finish: wait}")
    run = kill_runner(jobplan, done, plan, *ALL)
    home = tmp_path / "elsewhere"
    home.mkdir()
    elsewhere = {"HOME": str(home)}
    status = jobplan("status", "--dsn", done.dsn, "--format", "json", env=elsewhere)
    assert status.code == 0, status.err
    for step in ALL:
        assert f'"{step}"' in status.out
    reported = jobplan("status", "--dsn", done.dsn, env=elsewhere)
    assert "RUNNER LOST" in reported.out
    cancelled = jobplan("cancel", run, "--dsn", done.dsn, env=elsewhere)
    assert cancelled.code == 0, cancelled.err
    assert done.workers() == ["away"]
    quicken(done)
    asked = jobplan("resume", run)
    assert asked.code == 4
    assert "--mark 'four=succeeded'" in asked.err
    assert "--mark 'one" not in asked.err
    unbegun = jobplan("resume", run, "--mark", "last=succeeded", "--mark", "four=failed")
    assert unbegun.code == 2
    assert "--mark last: the step has not started" in unbegun.err
    finished = jobplan("resume", run, "--mark", "four=failed")
    assert finished.code == 0, finished.err
    assert done.value("SELECT string_agg(step, ' ' ORDER BY step) FROM done") == "four last one three two"
    assert done.workers() == ["away"]
    events = recorded(jobplan, run)
    (resumed,) = [event for event in events if event["event"] == "run_resumed"]
    settled = {found["step"]: (found["outcome"], found["by"]) for found in resumed["settled"]}
    assert settled.pop("four")[0] == "failed"
    assert settled == {
        "one": ("unknown", "idempotent"),
        "two": ("unknown", "idempotent"),
        "three": ("failed", "verify"),
    }
    assert [found["step"] for found in resumed["adopted"]] == ["away"]
    states = dict(events[-1]["steps"])
    assert states.pop("away") == "detached"
    assert states == dict.fromkeys(("one", "two", "three", "four", "last"), "succeeded")
    again = jobplan("resume", run)
    assert (again.code, again.lines) == (0, [f"run {run} is finished: nothing is left to do."])
    marked = jobplan("resume", run, "--mark", "four=failed")
    assert marked.code == 2
    assert f"--mark four: run {run} is finished, so the mark has no effect" in marked.err
    assert "marked failed by " in jobplan("show", run).out
    assert recorded(jobplan, run) == events


def test_workers_that_live_are_waited_for(jobplan: Jobplan, done: Database) -> None:
    done.run("CREATE TABLE gate ()")
    plan = jobplan.plan("""
        - id: slow
          sql: LOCK TABLE gate; INSERT INTO done VALUES ('slow')
          verify: SELECT EXISTS (SELECT FROM done)
        - {id: last, sql: "INSERT INTO done VALUES ('last')", needs: [slow]}
    """)
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        run = kill_runner(jobplan, done, plan, "slow")
        resumed = jobplan.start("resume", run)
        until(lambda: any(event["event"] == "run_resumed" for event in recorded(jobplan, run)))
    ran = resumed.ended()
    assert ran.code == 0, ran.err
    assert "still running: slow" in ran.err
    assert done.value("SELECT string_agg(step, ' ' ORDER BY step) FROM done") == "last slow"


def test_workers_that_live_can_be_stopped_first(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan("""
        - id: slow
          sql: INSERT INTO done SELECT 'slow' FROM pg_sleep(60)
          verify: SELECT EXISTS (SELECT FROM done)
    """)
    run = kill_runner(jobplan, done, plan, "slow")
    quicken(done)
    ran = jobplan("resume", run, "--orphans", "cancel")
    assert ran.code == 0, ran.err
    assert "did not complete its work (evidence: verify)" in ran.err
    assert done.value("SELECT count(*) FROM done") == 1


def test_the_command_that_answers_all_questions_can_be_pasted(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan("""
        - {id: lives, sql: "INSERT INTO done SELECT 'lives' FROM pg_sleep(60)"}
        - id: each
          for_each: {items: ["it's"], as: item}
          sql: INSERT INTO done SELECT :'item' FROM pg_sleep(60)
    """)
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl", "--journal", "my runs")
    until(lambda: len(done.workers()) == 2)
    until(lambda: sum(event["event"] == "attempt_running" for event in jobplan.events()) == 2)
    started.send(signal.SIGKILL)
    started.ended()
    quicken(done)
    asked = jobplan("resume", "last", "--orphans", "cancel", "--journal", "my runs")
    assert asked.code == 4
    assert "stopped before that: lives (pid " in asked.err
    command = asked.err.splitlines()[-1].partition("Answer all of them with: jobplan ")[2]
    assert command.endswith("""--journal 'my runs' --mark 'lives=…' --mark 'each[it'"'"'s]=…'""")
    assert jobplan(*shlex.split(command)).code == 2
    finished = jobplan(*shlex.split(command.replace("…", "succeeded")))
    assert finished.code == 0, finished.err
    assert done.value("SELECT count(*) FROM done") == 0
    steps = json.loads(jobplan("show", "last", "--journal", "my runs", "--format", "json").out)["steps"]
    assert [step["marked"] for step in steps] == ["succeeded", None, "succeeded"]
    assert all("@" in step["marked_by"] for step in steps if step["marked"])


def test_while_one_resume_runs_another_is_refused(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan("- {id: slow, sql: SELECT pg_sleep(60), idempotent: true}")
    run = kill_runner(jobplan, done, plan, "slow")
    first = jobplan.start("resume", run)
    until(lambda: any(event["event"] == "run_resumed" for event in recorded(jobplan, run)))
    second = jobplan("resume", run)
    assert second.code == 4
    assert "is being written by process" in second.err
    copy = copy_of(jobplan, run)
    elsewhere = jobplan("resume", run, "--journal", copy)
    assert elsewhere.code == 6
    assert f"run {run} is already running" in elsewhere.err
    first.send(signal.SIGINT)
    assert first.ended().code == 130
    assert not done.workers()


def test_a_failed_step_runs_again_with_a_corrected_plan(jobplan: Jobplan, done: Database) -> None:
    steps = """
        - {{id: good, sql: "INSERT INTO done VALUES ('good')"}}
        - {{id: bad, sql: "{}", needs: [good]}}
        - {{id: last, sql: "INSERT INTO done VALUES ('last')", needs: [bad]}}
    """
    jobplan.plan(steps.format("SELECT 1/0"))
    ran = jobplan("run", "plan.yaml", "--dsn", done.dsn)
    assert ran.code == 1
    jobplan.plan(steps.format("SELECT 1"))
    refused = jobplan("resume", "last")
    assert refused.code == 2
    assert "step bad: sql: SELECT 1/0 -> SELECT 1" in refused.err
    assert "--allow-changed" in refused.err
    finished = jobplan("resume", "last", "--allow-changed", "--report", "jsonl=events.jsonl")
    assert finished.code == 0, finished.err
    assert "step bad: sql: SELECT 1/0 -> SELECT 1" in finished.err
    assert done.value("SELECT string_agg(step, ' ' ORDER BY step) FROM done") == "good last"
    kinds = [event["event"] for event in jobplan.events()]
    assert kinds[0] == "run_started"
    assert kinds.count("run_resumed") == 1
    shown = jobplan("show", "last", "--format", "json")
    assert shown.code == 0, shown.err
    assert jobplan("resume", "last").code == 0


def test_items_that_were_fixed_stay_although_their_query_has_changed(jobplan: Jobplan, done: Database) -> None:
    steps = """
        - id: each
          for_each: {{sql: "SELECT n FROM generate_series(1, {}) AS n", as: n}}
          sql: INSERT INTO done SELECT :'n' WHERE 1 / (SELECT count(*) FROM mended) > 0
    """
    done.run("CREATE TABLE mended ()")
    jobplan.plan(steps.format(2))
    assert jobplan("run", "plan.yaml", "--dsn", done.dsn).code == 1
    done.run("INSERT INTO mended DEFAULT VALUES")
    jobplan.plan(steps.format(3))
    finished = jobplan("resume", "last", "--allow-changed")
    assert finished.code == 0, finished.err
    assert "for_each.sql: SELECT n FROM generate_series(1, 2) AS n -> SELECT n FROM generate" in finished.err
    assert "step each: the run keeps the 2 items that it fixed at its start" in finished.err
    assert done.column("SELECT step FROM done ORDER BY step") == ["1", "2"]


def test_another_database_is_refused(jobplan: Jobplan, done: Database) -> None:
    assert jobplan("run", jobplan.plan("- {id: bad, sql: SELECT 1/0}"), "--dsn", done.dsn).code == 1
    ran = jobplan("resume", "last", "--dsn", f"{done.dsn} dbname=postgres")
    assert ran.code == 4
    assert "the run belongs to database" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nothing"], 4, "there is no run 'nothing'"),
        (["last", "--mark", "bad"], 2, "neither STEP=succeeded nor STEP=failed"),
        (["last", "--mark", "bad=maybe"], 2, "neither STEP=succeeded nor STEP=failed"),
        (["last", "--mark", "bad=failed", "--mark", "bad=succeeded"], 2, "give either succeeded or failed, not both"),
        (["last", "--mark", "other=failed"], 2, "no such step"),
        (["last", "--mark", "good=failed"], 2, "succeeded already"),
        (["last", "--orphans", "shoot"], 2, "shoot"),
        (["last", "--journal", "nowhere"], 4, "there is no run in nowhere"),
    ],
)
def test_wrong_usage(jobplan: Jobplan, done: Database, arguments: list[str], code: int, says: str) -> None:
    plan = jobplan.plan("""
        - {id: good, sql: SELECT 1}
        - {id: bad, sql: SELECT 1/0}
    """)
    assert jobplan("run", plan, "--dsn", done.dsn).code == 1
    before = {path: path.read_bytes() for path in jobplan.folder.rglob("*") if path.is_file()}
    ran = jobplan("resume", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert {path: path.read_bytes() for path in jobplan.folder.rglob("*") if path.is_file()} == before


def test_a_run_can_be_finished_on_another_machine_from_the_ledger(jobplan: Jobplan, done: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan("""
        - {id: good, sql: "INSERT INTO done VALUES ('good')"}
        - {id: slow, sql: "INSERT INTO done SELECT 'slow' FROM pg_sleep(60)", needs: [good]}
        - {id: last, sql: "INSERT INTO done VALUES ('last')", needs: [slow]}
    """)
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    done.until_workers("slow")
    until(lambda: done.value("SELECT count(*) FROM jobplan.events WHERE step = 'slow'") > 0)
    started.send(signal.SIGKILL)
    started.ended()
    run = str(jobplan.events()[0]["run"])
    quicken(done)
    ran = jobplan("resume", run, "--from-ledger", "--dsn", done.dsn, "--journal", "elsewhere", "--orphans", "cancel")
    assert ran.code == 0, ran.err
    assert "slow: its last worker did not complete its work (evidence: ledger); the step runs again" in ran.err
    assert done.value("SELECT string_agg(step, ' ' ORDER BY step) FROM done") == "good last slow"
    again = jobplan("resume", run, "--from-ledger", "--dsn", done.dsn, "--journal", "elsewhere")
    assert (again.code, again.lines) == (0, [f"run {run} is finished: nothing is left to do."])
    assert jobplan("resume", run, "--from-ledger", "--no-ledger").code == 2


def test_what_was_refused_after_it_was_taken_from_the_ledger_can_be_tried_again(
    jobplan: Jobplan, done: Database
) -> None:
    """A DO has no commit row, so the user is asked; the journal is there then, and no answer may fail over it."""
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan("""
        - {id: clean, sql: "DO $$ BEGIN LOCK TABLE done; END $$"}
        - {id: last, sql: "INSERT INTO done VALUES ('last')", needs: [clean]}
    """)
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE done")
        run = kill_runner(jobplan, done, plan, "clean")
        done.terminate("clean")
        done.until_workers()
    command = ("resume", run, "--from-ledger", "--dsn", done.dsn, "--journal", "else where")
    for _ in range(2):
        asked = jobplan(*command)
        assert asked.code == 4
        assert "clean=succeeded" in asked.err
    finished = jobplan(*command, "--mark", "clean=succeeded")
    assert finished.code == 0, finished.err
    assert done.column("SELECT step FROM done") == ["last"]
    done.run("DELETE FROM jobplan.events WHERE event = 'run_finished'")
    refused = jobplan(*command)
    assert refused.code == 4
    assert (
        f"there is a run {run} in else where already, and its journal has events that the ledger lacks" in refused.err
    )
    assert f"Resume it from that journal: jobplan resume {run} --journal 'else where' --dsn '" in refused.err
    shown = shlex.split(refused.err.partition("Resume it from that journal: jobplan ")[2])
    assert jobplan(*shown).lines == [f"run {run} is finished: nothing is left to do."]


def test_an_old_copy_of_a_journal_runs_nothing_twice_where_there_is_a_ledger(jobplan: Jobplan, done: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan("""
        - {id: slow, sql: "INSERT INTO done SELECT 'slow' FROM pg_sleep(60)", idempotent: true}
        - {id: last, sql: "INSERT INTO done VALUES ('last')", needs: [slow]}
    """)
    run = kill_runner(jobplan, done, plan, "slow")
    copy = copy_of(jobplan, run)
    quicken(done)
    assert jobplan("resume", run, "--orphans", "cancel").code == 0
    refused = jobplan("resume", run, "--journal", copy, "--dsn", done.dsn)
    assert refused.code == 4
    assert f"the journal of run {run} is out of date. The ledger contains what it lacks: a runner on" in refused.err
    assert "workers were launched: last (1), slow (2). Nothing was started." in refused.err
    assert done.column("SELECT step FROM done ORDER BY step") == ["last", "slow"]
    restored = jobplan("resume", run, "--from-ledger", "--dsn", done.dsn, "--journal", "new")
    assert (restored.code, restored.lines) == (0, [f"run {run} is finished: nothing is left to do."])


def test_an_old_copy_learns_from_the_ledger_how_its_last_workers_ended(jobplan: Jobplan, done: Database) -> None:
    """A VACUUM has no commit row; but its runner has seen its end, and recorded it in the ledger."""
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan("- {id: clean, sql: VACUUM done}")
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE done")
        started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
        until(lambda: jobplan.happened("attempt_running"))
        run = str(jobplan.events()[0]["run"])
        copy = copy_of(jobplan, run)
    assert started.ended().code == 0
    resumed = jobplan("resume", run, "--journal", copy)
    assert resumed.code == 0, resumed.err
    assert "clean: its last worker completed its work (evidence: ledger)" in resumed.err


@pytest.mark.parametrize("over", [False, True], ids=["under way", "over"])
def test_a_runner_that_was_asleep_while_another_took_the_run_up_stops(
    jobplan: Jobplan, done: Database, over: bool
) -> None:
    """Such as a virtual machine that was paused, and whose connections the server has given up meanwhile."""
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    plan = jobplan.plan("""
        - {id: one, sql: "INSERT INTO done SELECT 'one' FROM pg_sleep(2)"}
        - {id: two, sql: "INSERT INTO done SELECT 'two' FROM pg_sleep(2)", needs: [one]}
        - {id: last, sql: "INSERT INTO done VALUES ('last')", needs: [two]}
    """)
    sleeper = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    run = str(jobplan.events()[0]["run"])
    until(lambda: done.value("SELECT count(*) FROM jobplan.events WHERE event = 'attempt_running'") > 0)
    sleeper.send(signal.SIGSTOP)
    done.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'jobplan:{run}:runner'")
    other = jobplan.start("resume", run, "--from-ledger", "--dsn", done.dsn, "--journal", "elsewhere")
    until(lambda: done.value("SELECT count(*) FROM jobplan.events WHERE event = 'run_resumed'") > 0)
    if over:
        assert other.ended().code == 0
    sleeper.send(signal.SIGCONT)
    stopped = sleeper.ended()
    assert stopped.code == 6
    assert f"another runner took run {run} over" in stopped.err
    if not over:
        assert other.ended().code == 0
    assert done.column("SELECT step FROM done ORDER BY step") == ["last", "one", "two"]
    assert done.value("SELECT exit_code FROM jobplan.runs") == 0


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (True, "ends early: it has 0 of the 6 lines that were written. The journal was damaged or changed."),
        (False, "has no complete line: the run never started, or"),  # as versions without a head left it
    ],
)
def test_a_journal_without_a_whole_line_may_be_one_that_was_damaged(
    jobplan: Jobplan, done: Database, head: bool, message: str
) -> None:
    assert jobplan("run", jobplan.plan("- {id: bad, sql: SELECT 1/0}"), "--dsn", done.dsn).code == 1
    (events,) = (jobplan.folder / ".jobplan" / "runs").glob("*/events.jsonl")
    events.write_bytes(b"\xff\xfe damaged")
    if not head:
        events.with_name("events.head").unlink()
    ran = jobplan("resume", "last")
    assert ran.code == 4
    assert message in ran.err
    assert "--from-ledger" in ran.err


@pytest.mark.parametrize("damage", ["half a line", "a byte", "a value", "no plan", "another plan"])
def test_the_error_of_a_damaged_journal_names_how_to_resume(jobplan: Jobplan, done: Database, damage: str) -> None:
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    assert jobplan("run", jobplan.plan("- {id: bad, sql: SELECT 1/0}"), "--dsn", done.dsn).code == 1
    (events,) = (jobplan.folder / ".jobplan" / "runs").glob("*/events.jsonl")
    lines = events.read_bytes().splitlines(keepends=True)
    plan = events.with_name("plan.json")
    match damage:
        case "half a line":
            lines[2] = lines[2][:20] + b"\n"
        case "a byte":
            lines[2] = b"\xff" + lines[2]
        case "a value":
            lines = [line.replace(b'"attempt": 1', b'"attempt": "1"') for line in lines]
        case "no plan":
            plan.unlink()
        case _:
            plan.write_bytes(plan.read_bytes().replace(b"1/0", b"1/1"))
    events.write_bytes(b"".join(lines))
    ran = jobplan("resume", "last")
    assert ran.code == 4
    command = ran.err.partition("With a ledger: jobplan ")[2].strip().rstrip(".")
    assert command.endswith("--from-ledger --journal NEW_FOLDER")
    assert "the version of jobplan that wrote it" not in ran.err
    again = jobplan(*shlex.split(command), "--dsn", done.dsn, "--mark", "bad=succeeded")
    assert again.code == 0, again.err


def test_a_detached_worker_that_was_cancelled_is_not_reported_as_running(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan("""
        - {id: away, sql: SELECT pg_sleep(60), on_finish: detach}
        - {id: bad, sql: SELECT count(*) FROM missing}
    """)
    ran = jobplan("run", plan, "--dsn", done.dsn)
    assert ran.code == 1
    assert ran.labelled("Follow")
    run = str(
        done.value(
            "SELECT split_part(application_name, ':', 2) FROM pg_stat_activity WHERE backend_type = "
            "'pg_background' AND datname = current_database()"
        )
    )
    still = jobplan("resume", run)
    assert still.labelled("Follow")
    assert jobplan("cancel", run, "--detached", "--dsn", done.dsn).code == 0
    gone = jobplan("resume", run)
    assert gone.code == 1
    assert "1 failed, 1 detached" in gone.last_line
    assert "jobplan attach" not in gone.err
    assert "its worker had ended when the run was resumed" in jobplan("show", run).out


def test_a_question_about_an_index_refers_to_doctor_which_lists_what_is_left(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan("- {id: build, sql: CREATE INDEX CONCURRENTLY done_i ON done (step)}")
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE done IN ROW EXCLUSIVE MODE")
        run = kill_runner(jobplan, done, plan, "build")
        until(lambda: done.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") > 0)
        done.terminate("build")
        done.until_workers()
    asked = jobplan("resume", run)
    assert asked.code == 4
    assert "It may have left an INVALID index behind: jobplan doctor lists them" in asked.err
    assert "done_i" in jobplan("doctor", "--dsn", done.dsn).out
