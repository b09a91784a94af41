"""Every run leaves a record behind, also one that was killed; and a run without room for it starts nothing more."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from psycopg.conninfo import make_conninfo

from runner.records.record import Record, read_record
from tests.acceptance.console import Database, Jobplan, clean_environment, until

EVENTS_SCHEMA = json.loads(
    (Path(__file__).parents[2] / "schemas" / "events-v1.schema.json").read_text(encoding="utf-8")
)
CHAIN = "".join(f"- {{id: s{n}, sql: SELECT {n}{f', needs: [s{n - 1}]' if n else ''}}}\n" for n in range(40))


def record_of(jobplan: Jobplan, root: str = ".jobplan/runs") -> Record:
    """Return the record of the only run."""
    (folder,) = (jobplan.folder / root).iterdir()
    return read_record(jobplan.folder / root, folder.name)


def test_a_run_is_recorded_as_it_happened(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 'é'}\n- {id: two, sql: SELECT 1/0, needs: [one]}\n")
    dsn = make_conninfo(db.dsn, password="hunter2")  # noqa: S106 - a password to look for
    ran = jobplan("run", plan, "--dsn", dsn, "--report", "jsonl=events.jsonl")
    assert ran.code == 1
    record = record_of(jobplan)
    assert ran.labelled("Record") == [f".jobplan/runs/{record.run_id}"]
    assert ran.labelled("Report") == ["events.jsonl"]
    written = (record.folder / "events.jsonl").read_bytes()
    assert written == (jobplan.folder / "events.jsonl").read_bytes()
    validator = jsonschema.Draft7Validator(EVENTS_SCHEMA)
    for line in written.splitlines():
        validator.validate(json.loads(line))
    assert record.state.finished is not None
    assert record.state.finished.steps == {"one": "succeeded", "two": "failed"}
    assert not any(b"hunter2" in path.read_bytes() for path in record.folder.iterdir())
    checked = subprocess.run(["sha256sum", "-c", "plan.sha256"], cwd=record.folder, capture_output=True, check=False)
    assert checked.returncode == 0


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_journal_lies_where_it_was_wanted(jobplan: Jobplan, db: Database, by: str) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1}")
    arguments = ["--journal", "records/here"] if by == "option" else []
    environment = {"JOBPLAN_JOURNAL": "elsewhere" if by == "option" else "records/here"}
    assert jobplan("run", plan, "--dsn", db.dsn, *arguments, env=environment).code == 0
    assert record_of(jobplan, "records/here").state.finished is not None
    assert not (jobplan.folder / ".jobplan").exists()


def test_a_plan_with_a_name_that_is_not_unicode_is_recorded(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1}", file="pl\udcffn.yaml")
    assert jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl").code == 0
    started = record_of(jobplan).started
    assert started is not None
    assert started.file == str(plan)
    assert jobplan.events()[0]["file"] == str(plan)


@pytest.mark.parametrize("place", ["plan.yaml", "plan.yaml/runs", "/proc/jobplan"])
def test_nothing_is_started_where_no_journal_can_be(jobplan: Jobplan, db: Database, place: str) -> None:
    ran = jobplan("run", jobplan.plan("- {id: make, sql: CREATE TABLE t ()}"), "--dsn", db.dsn, "--journal", place)
    assert (ran.code, ran.err.count("\n")) == (4, 1), ran.err
    assert f"the journal {place} cannot be written" in ran.err
    assert "--journal" in ran.err
    assert db.value("SELECT count(*) FROM pg_class WHERE relname = 't'") == 0


def test_a_run_that_never_began_leaves_no_record(jobplan: Jobplan) -> None:
    assert jobplan("run", jobplan.plan("- {id: one, sql: SELECT 1}"), "--dsn", "host=/nowhere").code == 4
    assert list((jobplan.folder / ".jobplan" / "runs").iterdir()) == []


def test_a_runner_that_was_killed_has_recorded_what_it_had_launched(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1}\n- {id: nap, needs: [one], sql: SELECT pg_sleep(60)}\n")
    started = jobplan.start("run", plan, "--dsn", db.dsn)
    db.until_workers("nap")
    until(lambda: record_of(jobplan).state.records["nap"].worker is not None)
    pid = db.pid("nap")
    started.close()
    record = record_of(jobplan)
    assert record.state.finished is None
    assert {key: str(found.state) for key, found in record.state.records.items()} == {
        "one": "succeeded",
        "nap": "running",
    }
    worker = record.state.records["nap"].worker
    assert worker is not None
    assert worker.pid == pid
    db.terminate("nap")


# --- a disk that is full ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, where one may be mounted; else a folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "jobplan-test", folder], capture_output=True, check=False
        ).returncode
    )
    yield folder
    if mounted:
        subprocess.run(["umount", folder], check=True)


def limited(arguments: list[str], folder: Path, limit: int) -> subprocess.CompletedProcess[str]:
    """Run the command in a process whose files may not become longer than `limit` bytes."""

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "runner", *arguments],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lower,
    )


def hold_to_a_lost_journal(code: int, err: str, events: list[dict[str, Any]], place: str) -> None:
    """The run says it, starts nothing more, skips the rest, and its journal is true as far as it goes."""
    assert code == 1, err
    assert f"jobplan: the journal {place}" in err
    assert "cannot be written any more" in err
    assert "no further steps start" in err
    end = [line for line in err.splitlines() if re.match(r"(run \S+ failed: |Record  |Resume  )", line)]
    assert len(end) == 3, err
    assert end[1].endswith("(incomplete)")
    done = [event["step"] for event in events if event["event"] == "attempt_finished"]
    launched = [event["step"] for event in events if event["event"] == "attempt_launching"]
    assert 0 < len(done) < 40
    assert set(launched) - set(done) <= {launched[-1]}
    assert f"{40 - len(launched)} skipped" in end[0]


def test_a_disk_that_fills_under_the_journal_starts_nothing_more(
    jobplan: Jobplan, db: Database, small_disk: Path
) -> None:
    (small_disk / "filler").write_bytes(b"x" * 40_960)
    arguments = ["run", str(jobplan.plan(CHAIN)), "--dsn", db.dsn, "--journal", str(small_disk)]
    done = limited(arguments, jobplan.folder, resource.RLIM_INFINITY if os.path.ismount(small_disk) else 20_480)
    (folder,) = (path for path in small_disk.iterdir() if path.is_dir())
    events = [json.loads(line) for line in (folder / "events.jsonl").read_bytes().splitlines()]
    hold_to_a_lost_journal(done.returncode, done.stderr, events, str(folder))
    assert "No space left on device" in done.stderr or "File too large" in done.stderr


def test_a_limit_on_the_size_of_files_has_the_effect_of_a_full_disk(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan(CHAIN)
    done = limited(["run", str(plan), "--dsn", db.dsn], jobplan.folder, 16_384)
    record = record_of(jobplan)
    events = [json.loads(line) for line in (record.folder / "events.jsonl").read_bytes().splitlines()]
    hold_to_a_lost_journal(done.returncode, done.stderr, events, f".jobplan/runs/{record.run_id}")
    assert "File too large" in done.stderr
    assert not record.torn


def test_a_disk_that_is_full_from_the_beginning_starts_nothing(jobplan: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: make, sql: CREATE TABLE t ()}")
    done = limited(["run", str(plan), "--dsn", db.dsn], jobplan.folder, 100)
    assert done.returncode == 4, done.stderr
    assert "cannot be written: File too large" in done.stderr
    assert list((jobplan.folder / ".jobplan" / "runs").iterdir()) == []
    assert db.value("SELECT count(*) FROM pg_class WHERE relname = 't'") == 0
