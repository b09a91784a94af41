"""The record of a fleet run: what is written is read, also after a process was killed at any moment."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runner.errors import RecordError, RunHeldError
from runner.fleet import events as ev
from runner.fleet.events import Failure, MemberState
from runner.fleet.records import EVENTS, FleetJournal, find_fleet, fleets, is_running, read_fleet
from runner.fleet.targets import Cluster, Target, Targets

TARGETS = Targets(
    name="tenants",
    clusters={"c1": Cluster(name="c1", connection={"service": "c1"}, slots=2)},
    targets=(
        Target(name="a", cluster="c1", database="a", labels={"tier": "gold"}),
        Target(name="b", cluster="c1", database="b"),
    ),
)
STARTED = ev.FleetStarted(at=1.5, jobplan="1", plan="p", file="p.yaml", sources="x", targets=2, host="h", os_pid=1)
FINISHED = ev.MemberFinished(
    at=3.0,
    target="a",
    state=MemberState.FAILED,
    exit_code=1,
    seconds=1.0,
    failures=(Failure(step="s", message="nö", sqlstate="42P01"),),
    steps={"s": "failed"},
)


def write(root: Path, *events: ev.FleetEvent) -> Path:
    with FleetJournal.create(root, "f", TARGETS) as journal:
        for event in events:
            journal.write(event)
    return root / "f" / EVENTS


def test_a_folder_that_may_not_be_read_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    assert fleets(tmp_path / "none") == ()
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(RecordError, match="cannot be read: Permission denied"):
        find_fleet(tmp_path, "last")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    root = tmp_path / "fleets"
    write(root, STARTED, ev.MemberStarted(at=2.0, target="a", run="f-001", wave="all"), FINISHED)
    targets, state = read_fleet(root, "f")
    assert targets == TARGETS
    assert state.started == STARTED
    assert state.members["a"].last == FINISHED
    assert state.members["b"].state is MemberState.PENDING
    assert fleets(root) == ("f",)
    assert find_fleet(root, "last") == "f"


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_was_cut_is_ignored_and_overwritten(tmp_path: Path, cut: int) -> None:
    root = tmp_path / "fleets"
    file = write(root, STARTED, FINISHED)
    file.write_bytes(file.read_bytes()[:-cut])
    _, state = read_fleet(root, "f")
    assert state.members["a"].state is MemberState.PENDING
    with FleetJournal.reopen(root, "f") as journal:
        journal.write(FINISHED)
    _, state = read_fleet(root, "f")
    assert state.members["a"].state is MemberState.FAILED


def test_a_record_that_never_began_is_none_and_its_id_is_free(tmp_path: Path) -> None:
    root = tmp_path / "fleets"
    file = write(root)
    file.write_bytes(b'{"event": "fleet_st')
    assert fleets(root) == ()
    with pytest.raises(RecordError, match="there are no fleet runs"):
        find_fleet(root, "last")
    write(root, STARTED)
    assert fleets(root) == ("f",)
    with pytest.raises(RecordError, match="already"):
        FleetJournal.create(root, "f", TARGETS)


def test_one_process_at_a_time_writes_it(tmp_path: Path) -> None:
    root = tmp_path / "fleets"
    with FleetJournal.create(root, "f", TARGETS) as journal:
        journal.write(STARTED)
        assert is_running(root / "f")
        with pytest.raises(RunHeldError):
            FleetJournal.reopen(root, "f")
    assert not is_running(root / "f")


@pytest.mark.parametrize(
    "line", [b"{\n", b'{"event": "nonsense", "at": 1}\n', b'{"event": "fleet_started"}\n', b"[]\n"]
)
def test_a_damaged_record_is_an_error(tmp_path: Path, line: bytes) -> None:
    root = tmp_path / "fleets"
    file = write(root, STARTED)
    file.write_bytes(file.read_bytes() + line)
    with pytest.raises(RecordError, match="is damaged"):
        read_fleet(root, "f")
