"""What the sweep takes and what it leaves, and how processes are distinguished; neither needs a server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runner.embedded import server_folders
from runner.embedded.server_folders import FolderRecord, read_record, sweep
from runner.embedded.watchdog import postmaster_pid, process_started, stop_postmaster, tear_down

_LONG_AGO = 1_000_000_000


def _folder(base: Path, *, keep: bool | None = False) -> Path:
    path = base / "jobplan-pg-abcdefgh"
    (path / "data").mkdir(parents=True)
    (path / "lock").touch()
    if keep is not None:
        text = json.dumps({"data_dir": str(path / "data"), "keep": keep})
        (path / "server.json").write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("keep", [False, True])
def test_a_folder_without_a_process_is_removed(keep: bool, tmp_path: Path) -> None:
    path = _folder(tmp_path, keep=keep)
    assert sweep([tmp_path]) == (path,)
    assert not path.exists()


def test_a_folder_that_is_held_stays(tmp_path: Path) -> None:
    path = _folder(tmp_path)
    lock = server_folders.hold_shared(path / "lock")
    try:
        assert sweep([tmp_path]) == ()
        assert path.exists()
    finally:
        os.close(lock)
    assert sweep([tmp_path]) == (path,)


def test_a_folder_that_may_be_in_the_making_stays_for_a_while(tmp_path: Path) -> None:
    path = _folder(tmp_path, keep=None)
    assert sweep([tmp_path]) == ()
    os.utime(path, (_LONG_AGO, _LONG_AGO))
    assert sweep([tmp_path]) == (path,)


def test_an_old_folder_without_even_a_lock_is_removed(tmp_path: Path) -> None:
    path = _folder(tmp_path, keep=None)
    (path / "lock").unlink()
    os.utime(path, (_LONG_AGO, _LONG_AGO))
    assert sweep([tmp_path]) == (path,)


def test_other_folders_and_links_are_not_looked_at(tmp_path: Path) -> None:
    other = tmp_path / "something-else"
    other.mkdir()
    (tmp_path / "jobplan-pg-link").symlink_to(other)
    (tmp_path / "jobplan-pg-file").write_text("", encoding="utf-8")
    assert sweep([tmp_path]) == ()
    assert other.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"keep": true}', '{"data_dir": 3, "keep": false}', "\x00"])
def test_a_damaged_record_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text(text, encoding="utf-8")
    assert read_record(tmp_path) is None


def test_a_record_is_read(tmp_path: Path) -> None:
    path = _folder(tmp_path, keep=True)
    assert read_record(path) == FolderRecord(data_dir=path / "data", keep=True)


def test_a_process_keeps_its_mark_and_loses_it_with_its_life() -> None:
    assert process_started(os.getpid()) == process_started(os.getpid()) is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert process_started(child.pid) is not None
        child.communicate(b"\n")
        assert process_started(child.pid) is None


def test_a_zombie_process_counts_as_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process_started(child.pid) is None


@pytest.mark.parametrize("text", ["", "x\n", "-1\n", "0\n", "1\n", "999999999\n"])
def test_a_pid_file_without_a_process_is_no_server(text: str, tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text(text, encoding="utf-8")
    assert postmaster_pid(tmp_path) is None


def test_another_program_that_got_a_dead_servers_number_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n{tmp_path}\n", encoding="utf-8")
    assert postmaster_pid(tmp_path) is None
    assert stop_postmaster(tmp_path) is False


def test_the_lock_of_a_killed_server_whose_number_is_in_use_is_dropped(tmp_path: Path) -> None:
    lines = [str(os.getpid()), str(tmp_path), "1700000000", "5432", str(tmp_path), "127.0.0.1"]
    (tmp_path / "postmaster.pid").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / ".s.PGSQL.5432.lock").touch()
    stop_postmaster(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_server_that_may_be_on_another_host_stays(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text(f"999999999\n{tmp_path}\n1\n5432\n{tmp_path}\n", encoding="utf-8")
    stop_postmaster(tmp_path)
    assert (tmp_path / "postmaster.pid").exists()


def test_a_copy_that_is_still_being_made_does_not_keep_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _folder(tmp_path)
    late = iter([path / "data" / "base", path / "data" / "global"])
    remove = shutil.rmtree

    def remove_while_copied(folder: Path, *, ignore_errors: bool) -> None:
        remove(folder, ignore_errors=ignore_errors)
        if (one := next(late, None)) is not None:
            one.mkdir(parents=True)

    monkeypatch.setattr(shutil, "rmtree", remove_while_copied)
    tear_down(path / "data", path)
    assert not path.exists()
