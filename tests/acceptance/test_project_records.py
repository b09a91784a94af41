"""Commands in a subfolder of a project have the same records as commands in its root."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.console import Database, Jobplan
from tests.acceptance.fleets import started_fleet, targets_file


@pytest.fixture
def sub(jobplan: Jobplan) -> Iterator[Jobplan]:
    """The command in a subfolder of a git repository, whose root is the folder of `jobplan`."""
    (jobplan.folder / ".git").mkdir()
    folder = jobplan.folder / "jobs" / "nightly"
    folder.mkdir(parents=True)
    command = Jobplan(folder)
    yield command
    command.close()


def test_every_command_that_reads_records_finds_them_from_a_subfolder(
    jobplan: Jobplan, sub: Jobplan, db: Database
) -> None:
    db.run("CREATE TABLE here ()")
    plan = jobplan.plan("- {id: one, sql: SELECT 1}\n- {id: two, sql: SELECT * FROM missing, needs: [one]}")
    ran = sub("run", plan, "--dsn", db.dsn, "--run-id", "nightly-1")
    assert ran.code == 1, ran.err
    assert (jobplan.folder / ".jobplan" / "runs" / "nightly-1" / "events.jsonl").exists()
    assert (jobplan.folder / ".jobplan" / ".gitignore").read_text(encoding="utf-8") == "*\n"
    assert not (sub.folder / ".jobplan").exists()
    assert ran.labelled("Record") == ["../../.jobplan/runs/nightly-1"]
    assert "--journal" not in ran.err
    for command in (jobplan, sub):
        assert [run["run"] for run in json.loads(command("runs", "--format", "json").out)] == ["nightly-1"]
        assert json.loads(command("show", "last", "--format", "json").out)["run"] == "nightly-1"
        complete = command(env={"_JOBPLAN_COMPLETE": "bash_complete", "COMP_WORDS": "jobplan show ", "COMP_CWORD": "2"})
        assert "nightly-1" in complete.out
        for verb in (["attach"], ["status"], ["cancel"]):  # no longer on the server: the hint knows the record
            found = command(*verb, "nightly-1", "--dsn", db.dsn)
            assert "jobplan show nightly-1" in found.err, (verb, found)
            assert "--journal" not in found.err
    db.run("CREATE TABLE missing ()")
    resumed = sub("resume", "last", "--dsn", db.dsn)
    assert resumed.code == 0, resumed.err
    assert json.loads(jobplan("runs", "--format", "json").out)[0]["exit_code"] == 0
    assert "nightly-1" in sub("runs", "--prune", "--keep", "0").out
    assert json.loads(jobplan("runs", "--format", "json").out) == []


def test_a_given_journal_stays_where_it_was_given(jobplan: Jobplan, sub: Jobplan, db: Database) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1}")
    assert sub("run", plan, "--dsn", db.dsn, "--journal", ".jobplan/runs").code == 0
    assert len(list((sub.folder / ".jobplan" / "runs").iterdir())) == 1
    assert sub("run", plan, "--dsn", db.dsn, env={"JOBPLAN_JOURNAL": "mine"}).code == 0
    assert len(list((sub.folder / "mine").iterdir())) == 1
    assert not (jobplan.folder / ".jobplan").exists()
    # records that are in the subfolder already are used from there
    assert sub("run", plan, "--dsn", db.dsn).code == 0
    assert len(list((sub.folder / ".jobplan" / "runs").iterdir())) == 2


def test_the_records_of_a_fleet_are_found_from_a_subfolder(jobplan: Jobplan, sub: Jobplan, tmp_path: Path) -> None:
    plan = jobplan.plan("- {id: one, sql: SELECT 1}")
    with started_fleet(1, 2) as fleet:
        targets = targets_file(tmp_path, fleet.clusters(slots=[2]), fleet.discover(1))
        ran = sub("fleet", "run", plan, "--targets", targets)
        assert ran.code == 0, ran.err
        assert not (sub.folder / ".jobplan").exists()
        for command in (jobplan, sub):
            assert len(json.loads(command("fleet", "show", "--format", "json").out)["members"]) == 2
            assert command("fleet", "status").code == 0
        assert sub("fleet", "resume", "last").code == 0
