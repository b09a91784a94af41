"""Where `--report KIND=PATH` writes: standard output, files, links, pipes, devices; and what it never overwrites."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.acceptance.console import Database, Jobplan, clean_environment

ONE = "- {id: one, sql: SELECT 1}"
KINDS = {"jsonl": '{"event": "run_started"', "junit": "<?xml", "markdown": "### ", "html": "<!doctype html>"}


def shell(jobplan: Jobplan, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in the test's folder; `J` stands for jobplan."""
    return subprocess.run(
        ["bash", "-c", line.replace("J ", f"'{sys.executable}' -m runner ", 1)],
        cwd=jobplan.folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_dash_is_standard_output(jobplan: Jobplan, db: Database, kind: str) -> None:
    plan = jobplan.plan(ONE)
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", f"{kind}=-")
    assert ran.code == 0, ran.err
    assert ran.out.lower().startswith(KINDS[kind])
    assert not (jobplan.folder / "-").exists()
    assert ran.labelled("Report") == []
    shown = jobplan("show", "last", "--report", f"{kind}=-")
    assert shown.out.lower().startswith(KINDS[kind])
    assert "STEP" not in shown.out
    resumed = jobplan("resume", "last", "--dsn", db.dsn)
    assert resumed.code == 0


def test_annotations_leave_standard_output_to_the_report(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1 / 0}")
    ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "junit=-", env={"GITHUB_ACTIONS": "true"})
    assert ran.code == 1
    assert ran.out.startswith("<?xml")
    assert "::error" not in ran.out
    assert "::error" in ran.err


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-", "run.log"])
def test_a_log_that_standard_output_goes_to_is_kept(jobplan: Jobplan, db: Database, kind: str, path: str) -> None:
    """`markdown=/dev/stdout >> run.log` destroyed run.log."""
    log = jobplan.folder / "run.log"
    log.write_text("yesterday\n", encoding="utf-8")
    inode = log.stat().st_ino
    plan = jobplan.plan(ONE)
    done = shell(jobplan, f"J run {plan} --dsn '{db.dsn}' --report {kind}={path} >> run.log")
    assert done.returncode == 0, done.stderr
    text = log.read_text(encoding="utf-8")
    assert text.startswith("yesterday\n")
    assert text[len("yesterday\n") :].lower().startswith(KINDS[kind])
    assert log.stat().st_ino == inode


def test_a_descriptor_that_the_shell_opened(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(ONE)
    run = f"run {plan} --dsn '{db.dsn}'"
    assert shell(jobplan, f"J {run} --report junit=/dev/fd/3 3> out.xml").returncode == 0
    assert (jobplan.folder / "out.xml").read_text(encoding="utf-8").startswith("<?xml")
    assert shell(jobplan, f"J {run} --report junit=>(cat > piped.xml)").returncode == 0
    assert shell(jobplan, f"J {run} --report junit=/dev/stderr 2> err.txt").returncode == 0
    assert "<?xml" in (jobplan.folder / "err.txt").read_text(encoding="utf-8")
    closed = shell(jobplan, f"J {run} --report junit=/dev/fd/9")
    assert (closed.returncode, "cannot be written" in closed.stderr) == (4, True)
    reading = shell(jobplan, f"J {run} --report junit=/dev/fd/4 4< out.xml")
    assert (reading.returncode, "reading only" in reading.stderr) == (4, True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_stays_and_its_target_stays_the_same_file(jobplan: Jobplan, db: Database, kind: str) -> None:
    target, link = jobplan.folder / "target", jobplan.folder / "link"
    target.write_text("old", encoding="utf-8")
    link.symlink_to(target)
    inode = target.stat().st_ino
    assert jobplan("run", jobplan.plan(ONE), "--dsn", db.dsn, "--report", f"{kind}={link}").code == 0
    assert link.is_symlink()
    assert target.stat().st_ino == inode
    assert target.read_text(encoding="utf-8").lower().startswith(KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_another_name_of_a_regular_file_keeps_its_content(jobplan: Jobplan, db: Database, kind: str) -> None:
    report, archive = jobplan.folder / "report", jobplan.folder / "archive"
    report.write_text("old", encoding="utf-8")
    archive.hardlink_to(report)
    assert jobplan("run", jobplan.plan(ONE), "--dsn", db.dsn, "--report", f"{kind}={report}").code == 0
    assert archive.read_text(encoding="utf-8") == "old"
    assert report.read_text(encoding="utf-8").lower().startswith(KINDS[kind])


@pytest.mark.parametrize("kind", ["jsonl", "junit"])
def test_a_named_pipe_is_written_into(jobplan: Jobplan, db: Database, kind: str) -> None:
    pipe, read = jobplan.folder / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    assert jobplan("run", jobplan.plan(ONE), "--dsn", db.dsn, "--report", f"{kind}={pipe}").code == 0
    reader.join(timeout=30)
    assert read[0].lower().startswith(KINDS[kind])
    assert pipe.is_fifo()


def test_a_pipe_that_has_no_reader_and_a_folder_are_refused_before_the_run(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t ()")
    plan = jobplan.plan("- {id: drop, sql: DROP TABLE t}")
    os.mkfifo(jobplan.folder / "pipe")
    for kind in ("jsonl", "junit"):
        for path in ("pipe", ".", "missing/file"):
            ran = jobplan("run", plan, "--dsn", db.dsn, "--report", f"{kind}={path}")
            assert (ran.code, "cannot be written" in ran.err) == (4, True), ran.err
    assert db.value("SELECT count(*) FROM pg_class WHERE relname = 't'") == 1


def test_a_file_called_dash_can_be_named(jobplan: Jobplan, db: Database) -> None:
    ran = jobplan("run", jobplan.plan(ONE), "--dsn", db.dsn, "--report", "junit=./-")
    assert (ran.code, ran.out) == (0, "")
    assert (jobplan.folder / "-").read_text(encoding="utf-8").startswith("<?xml")


def inputs(jobplan: Jobplan) -> list[str]:
    """Write a plan that is made of several files, and return their names."""
    (jobplan.folder / "more.yaml").write_text("steps:\n  - {id: two, sql_file: two.sql}\n", encoding="utf-8")
    (jobplan.folder / "two.sql").write_text("SELECT 2\n", encoding="utf-8")
    (jobplan.folder / "one.sql").write_text("SELECT 1\n", encoding="utf-8")
    (jobplan.folder / "values.yaml").write_text("day: 1\n", encoding="utf-8")
    jobplan.plan(
        "- {id: one, sql_file: one.sql}\n- {id: day, sql: 'SELECT :day'}",
        include="[more.yaml]",
        params="{day: {type: integer, default: 1}}",
    )
    return ["plan.yaml", "more.yaml", "two.sql", "one.sql", "values.yaml"]


@pytest.mark.parametrize("kind", ["jsonl", "html"])
def test_a_report_never_overwrites_what_the_plan_is_made_of(jobplan: Jobplan, db: Database, kind: str) -> None:
    files = inputs(jobplan)
    texts = {name: (jobplan.folder / name).read_bytes() for name in files}
    run = ("run", "plan.yaml", "--dsn", db.dsn, "--params-file", "values.yaml")
    assert jobplan(*run).code == 0
    for name in files:
        (jobplan.folder / f"hard-{name}").hardlink_to(jobplan.folder / name)
        (jobplan.folder / f"soft-{name}").symlink_to(name)
        for path in (name, f"./x/../{name}", f"hard-{name}", f"soft-{name}"):
            (jobplan.folder / "x").mkdir(exist_ok=True)
            ran = jobplan(*run, "--report", f"{kind}={path}")
            assert (ran.code, "would overwrite" in ran.err) == (2, True), (path, ran.err)
        if name != "values.yaml":
            for command in (("show", "last"), ("resume", "last", "--dsn", db.dsn)):
                ran = jobplan(*command, "--report", f"{kind}={name}")
                assert (ran.code, "would overwrite" in ran.err) == (2, True), (name, ran.err)
    assert texts == {name: (jobplan.folder / name).read_bytes() for name in files}


def test_a_report_never_goes_into_a_journal(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(ONE)
    assert jobplan("run", plan, "--dsn", db.dsn).code == 0
    (folder,) = (jobplan.folder / ".jobplan" / "runs").iterdir()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    (jobplan.folder / "short").symlink_to(folder)
    for path in ("events.jsonl", "plan.json", "plan.sha256", "new.html"):
        for where in (folder / path, Path("short") / path):
            for command in (("run", plan, "--dsn", db.dsn), ("show", "last")):
                ran = jobplan(*command, "--report", f"html={where}")
                assert (ran.code, "journal" in ran.err) == (2, True), ran.err
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert jobplan("show", "last", "--report", "jsonl=-").out == before["events.jsonl"].decode()


def test_two_reports_to_one_place_are_refused(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(ONE)
    (jobplan.folder / "a").write_text("", encoding="utf-8")
    (jobplan.folder / "b").symlink_to("a")
    (jobplan.folder / "c").hardlink_to(jobplan.folder / "a")
    for one, two in (("a", "./a"), ("a", "b"), ("a", "c"), ("-", "-"), ("new", "./new"), ("-", "/dev/stdout")):
        for command in (("run", plan, "--dsn", db.dsn),):
            ran = jobplan(*command, "--report", f"junit={one}", "--report", f"html={two}")
            assert (ran.code, "would overwrite" in ran.err) == (2, True), (one, two, ran.err)
    both = jobplan("run", plan, "--dsn", db.dsn, "--report", "junit=/dev/null", "--report", "html=/dev/null")
    assert both.code == 0


def test_the_events_on_standard_output_are_whole_lines(jobplan: Jobplan, db: Database) -> None:
    ran = jobplan("run", jobplan.plan(ONE), "--dsn", db.dsn, "--report", "jsonl=-")
    names = [json.loads(line)["event"] for line in ran.out.splitlines()]
    assert (names[0], names[-1]) == ("run_started", "run_finished")
