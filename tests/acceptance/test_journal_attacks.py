"""Attacks on journals: what was cut, changed, replaced, or could have been written by another user."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.engine.state import StepState
from runner.errors import RecordError
from runner.records.record import read_record
from tests.acceptance.console import Database, Jobplan, until

STEPS = """
    - {id: pay, sql: INSERT INTO paid VALUES (1)}
    - {id: ship, sql: INSERT INTO paid VALUES (2), needs: [pay]}
    - {id: slow, sql: SELECT pg_sleep(120), needs: [ship], idempotent: true}
"""


@pytest.fixture
def cut_short(jobplan: Jobplan, db: Database) -> Path:
    """The journal of a run whose runner was killed when two steps, which must not run twice, had succeeded."""
    db.run("CREATE TABLE paid (n int)")
    plan = jobplan.plan(STEPS, defaults="{timeout: 5m, on_finish: wait}")
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    db.until_workers("slow")
    until(lambda: any(event["event"] == "attempt_running" and event["step"] == "slow" for event in jobplan.events()))
    started.send(signal.SIGKILL)
    started.ended()
    db.terminate("slow")
    db.until_workers()
    return jobplan.folder / ".jobplan" / "runs" / str(jobplan.events()[0]["run"])


def lines(folder: Path) -> list[bytes]:
    return (folder / "events.jsonl").read_bytes().splitlines(keepends=True)


def test_a_journal_cut_at_any_line_end_never_says_that_a_launched_step_was_not_begun(
    cut_short: Path, tmp_path: Path
) -> None:
    whole = lines(cut_short)
    refused = 0
    reasons: list[str] = []
    for kept in range(len(whole)):
        copy = tmp_path / "copies" / f"{kept}" / cut_short.name
        shutil.copytree(cut_short, copy)
        (copy / "events.jsonl").write_bytes(b"".join(whole[:kept]))
        try:
            record = read_record(copy.parent, copy.name, own=True)
        except RecordError as error:
            refused += 1
            reasons.append(error.message)
        else:
            states = {key: found.state for key, found in record.state.records.items()}
            assert states["pay"] is StepState.SUCCEEDED
            assert states["ship"] is StepState.SUCCEEDED
            assert states["slow"] is not StepState.PENDING
    assert refused > len(whole) // 2
    assert all("lines that were written" in reason or "does not follow" in reason for reason in reasons)


def test_a_cut_journal_is_refused_by_resume_and_nothing_runs_twice(
    jobplan: Jobplan, db: Database, cut_short: Path
) -> None:
    whole = lines(cut_short)
    for count in (1, 4, len(whole) // 2):
        (cut_short / "events.jsonl").write_bytes(b"".join(whole[:count]))
        resumed = jobplan("resume", cut_short.name, "--dsn", db.dsn)
        assert resumed.code == 4
        assert f"it has {count} of the " in resumed.err
        assert "The journal was damaged or changed." in resumed.err
    assert db.column("SELECT n FROM paid ORDER BY n") == [1, 2]


def test_a_journal_with_a_line_taken_out_or_changed_is_refused(jobplan: Jobplan, db: Database, cut_short: Path) -> None:
    whole = lines(cut_short)
    finished = next(n for n, line in enumerate(whole) if b'"step_finished"' in line)
    for changed in (
        [*whole[:finished], *whole[finished + 1 :]],
        [line.replace(b'"succeeded"', b'"cancelled"') for line in whole],
    ):
        (cut_short / "events.jsonl").write_bytes(b"".join(changed))
        resumed = jobplan("resume", cut_short.name, "--dsn", db.dsn)
        assert resumed.code == 4, resumed.err
        assert "The journal was damaged or changed." in resumed.err
    assert db.column("SELECT n FROM paid ORDER BY n") == [1, 2]


def test_a_journal_of_an_older_version_which_has_no_head_is_still_read(jobplan: Jobplan, cut_short: Path) -> None:
    (cut_short / "events.head").unlink()
    shown = jobplan("show", cut_short.name)
    assert shown.code == 0, shown.err
    assert "pay" in shown.out


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("replace", "name"),
    [
        (fifo, "events.jsonl"),
        (fifo, "plan.json"),
        (link, "events.jsonl"),
        (device, "plan.json"),
        (device, "events.head"),
        (directory, "plan.sha256"),
    ],
)
def test_what_is_no_regular_file_is_not_read_as_a_journal(
    jobplan: Jobplan, replace: Callable[[Path], None], name: str
) -> None:
    """A FIFO would be waited for, and /dev/zero read for ever."""
    folder = jobplan.folder / ".jobplan" / "runs" / "260101-abcdef"
    folder.mkdir(parents=True)
    for file in ("events.jsonl", "plan.json", "plan.sha256", "events.head"):
        (folder / file).touch(0o600)
    folder.chmod(0o700)
    replace(folder / name)
    for command in (("show", "260101-abcdef"), ("runs",), ("runs", "--prune", "--keep", "0")):
        ran = jobplan(*command)
        assert ran.code in (0, 4), (command, ran.err)
        assert "Traceback" not in ran.err
    refused = jobplan("resume", "260101-abcdef")
    assert refused.code == 4
    assert f"{name} is a" in refused.err


def test_a_run_s_folder_that_is_a_link_is_not_resumed(jobplan: Jobplan, cut_short: Path) -> None:
    elsewhere = jobplan.folder / "elsewhere"
    cut_short.rename(elsewhere)
    cut_short.symlink_to(elsewhere)
    resumed = jobplan("resume", cut_short.name)
    assert resumed.code == 4
    assert "is a symbolic link" in resumed.err


@pytest.fixture
def quick(jobplan: Jobplan, db: Database) -> Path:
    """The journal of a run that failed."""
    assert jobplan("run", jobplan.plan("- {id: fails, sql: SELECT 1/0}"), "--dsn", db.dsn).code == 1
    (folder,) = (jobplan.folder / ".jobplan" / "runs").iterdir()
    return folder


def test_a_journal_that_others_can_write_is_not_resumed(jobplan: Jobplan, quick: Path) -> None:
    for name in (".", "events.jsonl", "plan.json", "plan.sha256", "events.head"):
        path = quick / name
        before = path.stat().st_mode
        for mode, who in ((0o020, "its group"), (0o002, "others")):
            path.chmod(before | mode)
            resumed = jobplan("resume", quick.name)
            assert resumed.code == 4, name
            assert f"can be written by {who}" in resumed.err
            assert "chmod go-w" in resumed.err
        path.chmod(before)
    assert jobplan("resume", quick.name).code == 1
    quick.parent.chmod(0o777)
    assert "can be written by others" in jobplan("resume", quick.name).err
    assert jobplan("show", quick.name).code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_journal_of_another_user_is_not_resumed_by_root(jobplan: Jobplan, quick: Path) -> None:
    for name in (".", "events.jsonl", "plan.json"):
        os.chown(quick / name, 65534, 65534)
        resumed = jobplan("resume", quick.name)
        assert resumed.code == 4, name
        assert "belongs to user 65534, and this is user 0" in resumed.err
        os.chown(quick / name, 0, 0)
