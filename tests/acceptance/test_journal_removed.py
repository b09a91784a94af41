"""A journal that disappears under a run: it is noticed, said, and costs the exit code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.console import Database, Jobplan, until


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def move(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def remove_root(folder: Path) -> None:
    shutil.rmtree(folder.parents[1])


def replace_events(folder: Path) -> None:
    (folder / "new").write_text("", encoding="utf-8")
    os.replace(folder / "new", folder / "events.jsonl")  # noqa: PTH105 - as another program does it


@pytest.mark.parametrize("harm", [remove, move, remove_root, replace_events])
def test_a_journal_that_was_removed_is_noticed(jobplan: Jobplan, db: Database, harm: Callable[[Path], None]) -> None:
    db.run("CREATE TABLE done (step text)")
    plan = jobplan.plan("""
        - {id: first, sql: SELECT pg_sleep(3)}
        - {id: second, needs: [first], sql: INSERT INTO done VALUES ('second')}
        """)
    started = jobplan.start("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("attempt_running"))
    (folder,) = (jobplan.folder / ".jobplan" / "runs").iterdir()
    harm(folder)
    ran = started.ended()
    assert ran.code == 1
    assert "cannot be written any more" in ran.err
    assert "(incomplete)" in ran.labelled("Record")[0]
    assert db.column("SELECT step FROM done") == []
    names = [event["event"] for event in jobplan.events()]
    assert "record_lost" in names
