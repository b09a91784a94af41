"""A journal that disappears under a run: it is noticed, said, and costs the exit code."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.console import Database, Jobplan, Ran, until


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def move(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def remove_root(folder: Path) -> None:
    shutil.rmtree(folder.parents[1])


def replace_events(folder: Path) -> None:
    (folder / "new").write_text("", encoding="utf-8")
    os.replace(folder / "new", folder / "events.jsonl")  # noqa: PTH105 - as another program does it


def ran_with(jobplan: Jobplan, done: Database, harm: Callable[[Path], None]) -> Ran:
    """Run two steps, and do `harm` to the journal's folder while the first one waits for the gate."""
    plan = jobplan.plan("""
        - {id: first, sql: LOCK TABLE gate; SELECT 1}
        - {id: second, needs: [first], sql: INSERT INTO done VALUES ('second')}
        """)
    keeper = done.elsewhere()
    keeper.execute("LOCK TABLE gate")
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    (folder,) = (jobplan.folder / ".jobplan" / "runs").iterdir()
    harm(folder)
    keeper.rollback()
    return started.ended()


@pytest.mark.parametrize("harm", [remove, move, remove_root, replace_events])
def test_a_journal_that_was_removed_is_noticed(jobplan: Jobplan, done: Database, harm: Callable[[Path], None]) -> None:
    ran = ran_with(jobplan, done, harm)
    assert ran.code == 1
    assert "cannot be written any more" in ran.err
    assert "(incomplete)" in ran.labelled("Record")[0]
    assert ran.labelled("Resume") == []  # nothing has a record of the run
    assert done.column("SELECT step FROM done") == []
    names = [event["event"] for event in jobplan.events()]
    assert "record_lost" in names


@pytest.mark.parametrize("harm", [remove, move, remove_root])
def test_a_run_whose_journal_was_removed_is_resumed_from_the_ledger_as_printed(
    jobplan: Jobplan, done: Database, harm: Callable[[Path], None]
) -> None:
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    (command,) = ran_with(jobplan, done, harm).labelled("Resume")
    arguments = shlex.split(command)
    assert arguments[:2] == ["jobplan", "resume"]
    resumed = jobplan(*arguments[1:])
    assert resumed.code == 0, resumed.err
    assert done.column("SELECT step FROM done") == ["second"]
