"""`jobplan run` with `--run-id` and `--or-resume`: one command line that begins a run, or finishes it."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.acceptance.console import Database, Jobplan, Ran, Started, until

#: A step that waits for a table, and one after it. Neither has a verify query, and neither may be repeated.
GATED = """
    - {id: first, sql: "INSERT INTO done VALUES ('first')"}
    - {id: slow, sql: "LOCK TABLE gate; INSERT INTO done VALUES ('slow')", needs: [first]}
    - {id: last, sql: "INSERT INTO done VALUES ('last')", needs: [slow]}
"""
#: A step that fails until there is a table that it reads.
FAILS = """
    - {id: first, sql: "INSERT INTO done VALUES ('first')"}
    - {id: second, sql: "INSERT INTO done SELECT 'second' FROM wanted", needs: [first]}
"""


@pytest.fixture
def kept(done: Database, jobplan: Jobplan) -> Database:
    """The same with a ledger."""
    installed = jobplan("ledger", "install", "--dsn", done.dsn)
    assert installed.code == 0, installed.err
    return done


def rows(done: Database) -> str:
    """Return what the steps have written."""
    return str(done.value("SELECT coalesce(string_agg(step, ' ' ORDER BY step), '') FROM done"))


def run_of(ran: Ran) -> str:
    """Return the id of the run that a command's last line names."""
    found = re.search(r"run ([\w.-]+)", ran.last_line)
    assert found, ran.err
    return found.group(1)


def ids(jobplan: Jobplan, folder: str = ".jobplan/runs") -> list[str]:
    """Return the runs that have a journal."""
    return sorted(path.parent.name for path in (jobplan.folder / folder).glob("*/events.jsonl"))


class Interrupted:
    """A run of `GATED` that holds still in its second step, and what ends it there."""

    def __init__(self, jobplan: Jobplan, done: Database, *arguments: str | Path) -> None:
        self._done = done
        self._keeper = done.elsewhere()
        self._keeper.execute("LOCK TABLE gate")
        plan = jobplan.plan(GATED, defaults="{timeout: 5m, on_finish: wait}")
        report = ("--report", "jsonl=events.jsonl")
        self.command: tuple[str | Path, ...] = ("run", plan, "--dsn", done.dsn, *arguments)
        self.started: Started = jobplan.start(*self.command, *report)
        until(lambda: done.workers() == ["slow"] and jobplan.happened("attempt_running"))
        until(lambda: any((one["event"], one.get("step")) == ("attempt_running", "slow") for one in jobplan.events()))
        self.run = str(jobplan.events()[0]["run"])

    def end(self, number: signal.Signals) -> Ran:
        """End the runner by a signal, let its worker finish if it lives, and return how the command ended."""
        self.started.send(number)
        ended = self.started.ended()
        self.open_gate()
        self._done.until_workers()
        return ended

    def open_gate(self) -> None:
        """Let the step finish."""
        self._keeper.close()


# --- the caller's own id ---


def test_the_run_has_the_id_that_the_caller_chose(jobplan: Jobplan, kept: Database) -> None:
    plan = jobplan.plan("- {id: one, sql: INSERT INTO done VALUES (:'run.id')}")
    chosen = "Nightly_2026-11.30"
    ran = jobplan("run", plan, "--dsn", kept.dsn, "--run-id", chosen)
    assert ran.code == 0, ran.err
    assert run_of(ran) == chosen
    assert ids(jobplan) == [chosen]
    assert kept.column("SELECT run FROM jobplan.runs") == [chosen]
    assert jobplan("show", chosen).code == 0


@pytest.mark.parametrize("length", [1, 36])
def test_the_shortest_and_the_longest_id_name_the_workers_of_every_step(
    jobplan: Jobplan, done: Database, length: int
) -> None:
    done.run("CREATE TABLE names (name text)")
    steps = [
        f"- {{id: {name}, sql: \"INSERT INTO names SELECT current_setting('application_name')\"}}"
        for name in ("a" * 40, "a" * 39 + "b")
    ]
    ran = jobplan("run", jobplan.plan("\n".join(steps)), "--dsn", done.dsn, "--run-id", "x" * length)
    assert ran.code == 0, ran.err
    names = done.column("SELECT DISTINCT name FROM names")
    assert len(names) == 2
    assert all(name.startswith(f"jobplan:{'x' * length}:a") and len(name) <= 63 for name in names)


@pytest.mark.parametrize("bad", ["", "日本", "a" * 300, "../up", "last"])
def test_an_id_that_cannot_be_one_is_refused(jobplan: Jobplan, bad: str) -> None:
    ran = jobplan("run", jobplan.plan(FAILS), f"--run-id={bad}", "--or-resume")
    assert ran.code == 2, ran.err
    assert "--run-id" in ran.err
    assert "Traceback" not in ran.err
    assert not (jobplan.folder / ".jobplan").exists()


@pytest.mark.parametrize("where", ["journal", "ledger"])
def test_an_id_that_exists_is_refused_and_the_message_names_the_resume_command(
    jobplan: Jobplan, kept: Database, where: str
) -> None:
    plan = jobplan.plan(FAILS)
    ledger = ("--no-ledger",) if where == "journal" else ()
    first = jobplan("run", plan, "--dsn", kept.dsn, "--run-id", "mine", *ledger)
    assert first.code == 1, first.err
    folder = () if where == "journal" else ("--journal", "elsewhere")
    again = jobplan("run", plan, "--dsn", kept.dsn, "--run-id", "mine", *ledger, *folder)
    assert again.code == 2, again.err
    assert "jobplan resume mine" in again.err
    assert ("--from-ledger" in again.err) is (where == "ledger")
    assert rows(kept) == "first"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--wait-for-runner",), "--or-resume"),
        (("--allow-changed",), "--or-resume"),
        (("--or-resume", "--allow-changed"), "--run-id"),
        (("--or-resume", "--embedded"), "--embedded"),
        (("--or-resume", "--dry-run"), "--dry-run"),
        (("--require-ledger", "--no-ledger"), "--no-ledger"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(
    jobplan: Jobplan, arguments: tuple[str, ...], message: str
) -> None:
    ran = jobplan("run", jobplan.plan(FAILS), *arguments)
    assert ran.code == 2, ran.err
    assert message in ran.err
    assert arguments[0] in ran.err


# --- with an id: begin, resume, done ---


def test_an_unknown_id_begins_a_failed_run_is_resumed_and_one_that_succeeded_is_done(
    jobplan: Jobplan, done: Database
) -> None:
    plan = jobplan.plan(FAILS)
    command = ("run", plan, "--dsn", done.dsn, "--run-id", "mine", "--or-resume")
    first = jobplan(*command)
    assert first.code == 1, first.err
    done.run("CREATE TABLE wanted AS SELECT 1")
    second = jobplan(*command, "--log-format", "json")
    assert second.code == 0, second.err
    summary = json.loads(second.last_line)
    assert (summary["event"], summary["run"], summary["resumed"]) == ("summary", "mine", True)
    assert rows(done) == "first second"
    third = jobplan(*command)
    assert (third.code, third.lines) == (0, ["run mine is finished: nothing is left to do."])
    reported = jobplan(*command, "--log-format", "json")
    assert reported.code == 0
    summary = json.loads(reported.err)
    assert (summary["event"], summary["run"], summary["exit_code"], summary["resumed"]) == ("summary", "mine", 0, False)
    assert rows(done) == "first second"


def test_a_run_that_begins_says_so_in_json(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1}")
    ran = jobplan("run", plan, "--dsn", done.dsn, "--run-id", "mine", "--or-resume", "--log-format", "json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.last_line)["resumed"] is False


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same journal", "ledger only"])
def test_a_killed_run_is_resumed_with_every_effect_once(jobplan: Jobplan, kept: Database, elsewhere: bool) -> None:
    held = Interrupted(jobplan, kept, "--run-id", "mine", "--or-resume", "--require-ledger")
    held.end(signal.SIGKILL)
    folder = ("--journal", "elsewhere") if elsewhere else ()
    ran = jobplan(*held.command, *folder)
    assert ran.code == 0, ran.err
    assert rows(kept) == "first last slow"
    assert ids(jobplan, "elsewhere" if elsewhere else ".jobplan/runs") == ["mine"]


def test_the_first_machine_resumes_what_a_second_one_has_left(jobplan: Jobplan, kept: Database) -> None:
    """The journal here is not the latest: another machine has resumed the run from the ledger, and failed."""
    plan = jobplan.plan(FAILS)
    command = ("run", plan, "--dsn", kept.dsn, "--run-id", "mine", "--or-resume")
    assert jobplan(*command).code == 1
    assert jobplan(*command, "--journal", "elsewhere").code == 1
    kept.run("CREATE TABLE wanted AS SELECT 1")
    ran = jobplan(*command)
    assert ran.code == 0, ran.err
    assert rows(kept) == "first second"
    there = jobplan(*command, "--journal", "elsewhere")
    assert (there.code, there.lines) == (0, ["run mine is finished: nothing is left to do."])


def test_a_journal_that_was_overtaken_elsewhere_is_kept_under_another_name(jobplan: Jobplan, kept: Database) -> None:
    """The killed runner wrote events to its journal that the ledger lacks; another machine resumed without them."""
    held = Interrupted(jobplan, kept, "--run-id", "mine", "--or-resume")
    held.end(signal.SIGKILL)
    kept.run("DELETE FROM jobplan.events WHERE event = 'attempt_running'")
    there = jobplan(*held.command, "--journal", "elsewhere")
    assert there.code == 0, there.err
    here = jobplan(*held.command)
    assert here.code == 0, here.err
    assert "its journal here is kept as .jobplan/runs/.mine.1" in here.err
    assert here.lines[-1] == "run mine is finished: nothing is left to do."
    assert (jobplan.folder / ".jobplan" / "runs" / ".mine.1" / "events.jsonl").exists()
    assert "mine" in jobplan("runs").out
    assert rows(kept) == "first last slow"


def test_what_another_machine_has_finished_is_done_here(jobplan: Jobplan, kept: Database) -> None:
    plan = jobplan.plan(FAILS)
    for more in (("--run-id", "mine"), ()):
        command = ("run", plan, "--dsn", kept.dsn, "--or-resume", *more)
        kept.run("DROP TABLE IF EXISTS wanted; TRUNCATE done")
        assert jobplan(*command).code == 1
        run = "mine" if more else str(kept.value("SELECT run FROM jobplan.runs ORDER BY started_at DESC LIMIT 1"))
        kept.run("CREATE TABLE wanted AS SELECT 1")
        there = jobplan("resume", run, "--from-ledger", "--journal", f"elsewhere-{run}", "--dsn", kept.dsn)
        assert there.code == 0, there.err
        ran = jobplan("run", plan, "--dsn", kept.dsn, "--or-resume", "--run-id", run)
        assert ran.code == 0, ran.err
        assert ran.lines == [f"run {run} is finished: nothing is left to do."]
        assert rows(kept) == "first second"


def test_another_plan_with_the_id_is_refused(jobplan: Jobplan, done: Database) -> None:
    assert jobplan("run", jobplan.plan(FAILS), "--dsn", done.dsn, "--run-id", "mine").code == 1
    other = jobplan.plan(FAILS, file="other.yaml", name="other")
    ran = jobplan("run", other, "--dsn", done.dsn, "--run-id", "mine", "--or-resume")
    assert ran.code == 2, ran.err
    assert "run mine is a run of the plan 'trial', and this is 'other'" in ran.err
    assert rows(done) == "first"


def test_other_parameters_and_another_selection_are_refused(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan(FAILS, params="{days: {type: integer, default: 3}}")
    command = ("run", plan, "--dsn", done.dsn, "--run-id", "mine", "--or-resume")
    assert jobplan(*command).code == 1
    ran = jobplan(*command, "--param", "days=4")
    assert ran.code == 2, ran.err
    assert "days" in ran.err
    assert jobplan(*command, "--param", "days=4", "--allow-changed").code == 2
    selected = jobplan(*command, "--select", "first")
    assert selected.code == 2, selected.err
    assert "second" in selected.err
    assert rows(done) == "first"


def test_a_plan_that_has_changed_is_refused_unless_that_is_allowed(jobplan: Jobplan, done: Database) -> None:
    command = ("run", jobplan.plan(FAILS), "--dsn", done.dsn, "--run-id", "mine", "--or-resume")
    assert jobplan(*command).code == 1
    jobplan.plan(FAILS.replace("SELECT 'second' FROM wanted", "VALUES ('mended')"))
    refused = jobplan(*command)
    assert refused.code == 2, refused.err
    assert "has changed since run mine started:" in refused.err
    assert "--allow-changed" in refused.err
    assert rows(done) == "first"
    ran = jobplan(*command, "--allow-changed")
    assert ran.code == 0, ran.err
    assert rows(done) == "first mended"


def test_the_id_of_a_run_in_another_database_is_refused(jobplan: Jobplan, done: Database, dsn: str) -> None:
    command = ("run", jobplan.plan(FAILS), "--run-id", "mine", "--or-resume")
    assert jobplan(*command, "--dsn", done.dsn).code == 1
    ran = jobplan(*command, "--dsn", dsn)
    assert ran.code == 4, ran.err
    assert "the run belongs to database" in ran.err
    assert rows(done) == "first"


# --- without an id ---


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGALRM, 142)],
)
def test_the_last_unfinished_run_of_the_plan_is_resumed(
    jobplan: Jobplan, kept: Database, number: signal.Signals, code: int
) -> None:
    held = Interrupted(jobplan, kept, "--or-resume")
    assert held.end(number).code == code
    ran = jobplan(*held.command)
    assert ran.code == 0, ran.err
    assert run_of(ran) == held.run
    assert ids(jobplan) == [held.run]
    assert rows(kept) == "first last slow"
    again = jobplan(*held.command)
    assert again.code == 0, again.err
    assert run_of(again) != held.run
    assert rows(kept) == "first first last last slow slow"


def test_a_run_that_only_the_ledger_knows_is_restored_and_resumed(jobplan: Jobplan, kept: Database) -> None:
    held = Interrupted(jobplan, kept, "--or-resume")
    held.end(signal.SIGKILL)
    ran = jobplan(*held.command, "--journal", "elsewhere")
    assert ran.code == 0, ran.err
    assert ids(jobplan, "elsewhere") == [held.run]
    assert rows(kept) == "first last slow"


def test_a_run_that_its_run_timeout_ended_is_resumed(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan(GATED.replace("needs: [first]}", "needs: [first], idempotent: true}"), run_timeout="3s")
    command = ("run", plan, "--dsn", done.dsn, "--or-resume")
    with psycopg.connect(done.dsn) as keeper:
        keeper.execute("LOCK TABLE gate")
        first = jobplan(*command)
    assert first.code == 5, first.err
    ran = jobplan(*command)
    assert ran.code == 0, ran.err
    assert run_of(ran) == run_of(first)
    assert rows(done) == "first last slow"


def test_after_a_failure_another_run_begins(jobplan: Jobplan, done: Database) -> None:
    command = ("run", jobplan.plan(FAILS), "--dsn", done.dsn, "--or-resume")
    first, second = jobplan(*command), jobplan(*command)
    assert (first.code, second.code) == (1, 1)
    assert run_of(first) != run_of(second)
    assert rows(done) == "first first"


def test_a_killed_runner_without_evidence_leaves_a_question_with_exit_code_7(jobplan: Jobplan, done: Database) -> None:
    held = Interrupted(jobplan, done, "--or-resume")
    held.end(signal.SIGKILL)
    asked = jobplan(*held.command)
    assert asked.code == 7, asked.err
    answer = f"jobplan resume {held.run} --dsn "
    assert answer in asked.err
    assert "--mark 'slow=…'" in asked.err
    assert rows(done) == "first slow"
    assert jobplan("resume", held.run, "--mark", "slow=succeeded").code == 0
    assert rows(done) == "first last slow"


@pytest.mark.parametrize("differs", ["parameter", "selection", "plan", "database"])
def test_a_run_of_something_else_is_left_alone(jobplan: Jobplan, kept: Database, dsn: str, differs: str) -> None:
    keeper = kept.elsewhere()
    keeper.execute("LOCK TABLE gate")
    steps = GATED + "    - {id: other, sql: SELECT 1}\n"
    keys = {"params": "{days: {type: integer, default: 3}}", "defaults": "{timeout: 5m, on_finish: wait}"}
    plan = jobplan.plan(steps, **keys)
    started = jobplan.start("run", plan, "--dsn", kept.dsn, "--or-resume")
    kept.until_workers("slow")
    started.send(signal.SIGKILL)
    started.ended()
    keeper.close()
    kept.until_workers()
    before = ids(jobplan)
    where, more = kept.dsn, []
    if differs == "parameter":
        more = ["--param", "days=4"]
    elif differs == "selection":
        more = ["--exclude", "other"]
    elif differs == "plan":
        jobplan.plan(steps.replace("VALUES ('last')", "VALUES ('LAST')"), **keys)
    else:
        where = dsn
        with psycopg.connect(dsn, autocommit=True) as there:
            there.execute("CREATE TABLE IF NOT EXISTS done (step text); CREATE TABLE IF NOT EXISTS gate ()")
    ran = jobplan("run", plan, "--dsn", where, "--or-resume", *more)
    assert ran.code == 0, ran.err
    assert run_of(ran) not in before
    assert len(ids(jobplan)) == 2


# --- a run that is under way ---


@pytest.mark.parametrize("named", [True, False], ids=["id", "no id"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same journal", "ledger only"])
def test_a_run_that_is_under_way_elsewhere_is_left_to_its_runner(
    jobplan: Jobplan, kept: Database, named: bool, elsewhere: bool
) -> None:
    held = Interrupted(jobplan, kept, "--or-resume", *(["--run-id", "mine"] if named else []))
    folder = ("--journal", "elsewhere") if elsewhere else ()
    refused = jobplan(*held.command, *folder)
    assert refused.code == 6, refused.err
    assert f"run {held.run} is already running" in refused.err
    assert ids(jobplan, "elsewhere") == []
    waits = jobplan.start(*held.command, *folder, "--wait-for-runner")
    assert "waiting for the end of its runner" in waits.read_line()
    held.open_gate()
    assert held.started.ended().code == 0
    ran = waits.ended()
    assert ran.code == 0, ran.err
    assert rows(kept) == "first last slow"


def test_a_waiting_process_finishes_what_a_killed_runner_leaves(jobplan: Jobplan, kept: Database) -> None:
    held = Interrupted(jobplan, kept, "--run-id", "mine", "--or-resume")
    waits = jobplan.start(*held.command, "--wait-for-runner", "--log-format", "json", "--report", "jsonl=waits.jsonl")
    held.started.send(signal.SIGKILL)
    held.started.ended()
    until((jobplan.folder / "waits.jsonl").exists)
    held.open_gate()
    ran = waits.ended()
    assert ran.code == 0, ran.err
    assert json.loads(ran.last_line)["resumed"] is True
    assert rows(kept) == "first last slow"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_wait_for_a_runner_can_be_ended(
    jobplan: Jobplan, kept: Database, number: signal.Signals, code: int
) -> None:
    held = Interrupted(jobplan, kept, "--run-id", "mine", "--or-resume")
    waits = jobplan.start(*held.command, "--wait-for-runner", "--log-format", "json")
    line = waits.read_line()
    assert "waiting for the end of its runner" in line
    waits.send(number)
    ran = waits.ended()
    assert ran.code == code, ran.err
    assert "nothing was started" in ran.err
    held.open_gate()
    assert held.started.ended().code == 0


def test_workers_of_an_unknown_run_with_that_id_are_not_joined_by_others(jobplan: Jobplan, done: Database) -> None:
    """Neither a ledger nor this journal has the run, but its worker lives."""
    held = Interrupted(jobplan, done, "--run-id", "mine")
    held.started.send(signal.SIGKILL)
    held.started.ended()
    ran = jobplan(*held.command, "--journal", "elsewhere", "--or-resume")
    assert ran.code == 6, ran.err
    assert "jobplan attach mine" in ran.err
    held.open_gate()
    done.until_workers()
    assert rows(done) == "first slow"


# --- what a retry can rely on ---


def test_a_ledger_that_is_required_and_missing_lets_nothing_begin(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan(FAILS)
    for more in ((), ("--run-id", "mine"), ("--or-resume",), ("--or-resume", "--run-id", "mine")):
        ran = jobplan("run", plan, "--dsn", done.dsn, "--require-ledger", *more)
        assert ran.code == 4, ran.err
        assert "--require-ledger" in ran.err
        assert "jobplan ledger install" in ran.err
    assert ids(jobplan) == []
    assert rows(done) == ""


def test_a_ledger_of_a_role_that_is_not_trusted_is_not_enough(jobplan: Jobplan, kept: Database) -> None:
    role = str(kept.value("SELECT 'lo_' || md5(current_database())"))
    kept.run(f"CREATE ROLE {role}; ALTER TABLE jobplan.runs OWNER TO {role}")
    try:
        ran = jobplan("run", jobplan.plan(FAILS), "--dsn", kept.dsn, "--require-ledger", "--or-resume")
        assert ran.code == 4, ran.err
        assert "is ignored" in ran.err
        assert rows(kept) == ""
    finally:
        kept.run(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_ledger_of_a_newer_version_lets_no_id_begin_that_it_may_know(jobplan: Jobplan, kept: Database) -> None:
    kept.run("INSERT INTO jobplan.meta (version, jobplan) VALUES (99, 'later')")
    plan = jobplan.plan(FAILS)
    for more in (("--run-id", "mine"), ("--or-resume",), ("--or-resume", "--run-id", "mine"), ("--require-ledger",)):
        ran = jobplan("run", plan, "--dsn", kept.dsn, *more)
        assert ran.code == 4, ran.err
        assert "version 99" in ran.err
    assert rows(kept) == ""
    ran = jobplan("run", plan, "--dsn", kept.dsn, "--or-resume", "--no-ledger")
    assert ran.code == 1
    assert rows(kept) == "first"


def test_a_run_that_a_stranger_recorded_is_refused(jobplan: Jobplan, kept: Database) -> None:
    role = str(kept.value("SELECT 'st_' || md5(current_database())"))
    kept.run(f"CREATE ROLE {role} LOGIN; GRANT pgbackground_role TO {role}; GRANT ALL ON done TO {role}")
    try:
        assert jobplan("ledger", "install", "--dsn", kept.dsn, "--grant", role).code == 0
        plan = jobplan.plan(FAILS)
        theirs = jobplan("run", plan, "--dsn", make_conninfo(kept.dsn, user=role), "--run-id", "mine")
        assert theirs.code == 1, theirs.err
        ran = jobplan("run", plan, "--dsn", kept.dsn, "--journal", "else", "--run-id", "mine", "--or-resume")
        assert ran.code == 4, ran.err
        assert f"was recorded by role {role}" in ran.err
        assert rows(kept) == "first"
    finally:
        kept.run(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_damaged_journal_is_neither_resumed_nor_begun_again(jobplan: Jobplan, done: Database) -> None:
    for more in (("--run-id", "mine"), ()):
        command = (
            "run",
            jobplan.plan(FAILS),
            "--dsn",
            done.dsn,
            "--or-resume",
            "--journal",
            f"runs-{len(more)}",
            *more,
        )
        done.run("TRUNCATE done")
        first = jobplan(*command)
        assert first.code == 1
        events = jobplan.folder / f"runs-{len(more)}" / run_of(first) / "events.jsonl"
        events.write_bytes(events.read_bytes()[:-200])
        ran = jobplan(*command)
        assert ran.code == 4, ran.err
        assert "damaged or changed" in ran.err
        assert rows(done) == "first"


def test_a_journal_folder_that_cannot_be_written_is_reported_in_a_line(jobplan: Jobplan, done: Database) -> None:
    folder = jobplan.folder / "fixed"
    folder.write_text("")
    for more in (("--run-id", "mine"), ()):
        ran = jobplan("run", jobplan.plan(FAILS), "--dsn", done.dsn, "--or-resume", "--journal", folder / "runs", *more)
        assert ran.code == 4, ran.err
        assert "cannot be" in ran.err
        assert "Traceback" not in ran.err
    assert rows(done) == ""


def test_a_missing_connection_is_reported_in_a_line(jobplan: Jobplan) -> None:
    for more in (("--run-id", "mine"), ("--or-resume",)):
        ran = jobplan("run", jobplan.plan(FAILS), "--dsn", "host=127.0.0.1 port=1", *more)
        assert ran.code == 4, ran.err
        assert "Connection refused" in ran.err
    assert ids(jobplan) == []


def test_a_process_that_was_killed_before_its_run_began_is_not_in_the_way(jobplan: Jobplan, done: Database) -> None:
    """Its folder is there, as far as it got, but nothing was launched."""
    runs = jobplan.folder / ".jobplan" / "runs"
    plan = jobplan.plan("- {id: one, sql: SELECT 1}")
    assert jobplan("run", plan, "--dsn", done.dsn, "--run-id", "model").code == 0
    for name, files in (("empty", []), ("half", ["plan.json"]), ("line", ["plan.json", "plan.sha256"])):
        (runs / name).mkdir(mode=0o700)
        for file in files:
            (runs / name / file).write_bytes((runs / "model" / file).read_bytes())
    (runs / "line" / "events.jsonl").write_text('{"event": "run_star')
    for name in ("empty", "half", "line"):
        ran = jobplan("run", plan, "--dsn", done.dsn, "--run-id", name, "--or-resume")
        assert ran.code == 0, ran.err
        assert run_of(ran) == name
