"""Records are found from the working directory upwards, and never where another user could have prepared them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.project.places import default_journal


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Create folders and files (a name with a dot in the last part and no slash at its end), go to one, and ask."""

    def place(*paths: str, cwd: str = "project/a/b") -> Path:
        (tmp_path / cwd).mkdir(parents=True, exist_ok=True)
        for path in paths:
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                target.mkdir(exist_ok=True)
            else:
                target.write_text("[tool.jobplan]\n" if target.name == "pyproject.toml" else "", encoding="utf-8")
        monkeypatch.chdir(tmp_path / cwd)
        return default_journal()

    return place


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        ([], ".jobplan/runs"),
        (["project/.git/"], "../../.jobplan/runs"),
        (["project/.git"], "../../.jobplan/runs"),  # a worktree or a submodule
        (["project/jobplan.toml"], "../../.jobplan/runs"),
        (["project/pyproject.toml"], "../../.jobplan/runs"),
        (["project/.jobplan/"], "../../.jobplan/runs"),
        (["project/a/b/.jobplan/", "project/.git/"], ".jobplan/runs"),
        (["project/.jobplan/", "project/a/.git/"], "../.jobplan/runs"),  # a repository of its own
        (["project/.git/", "project/a/jobplan.toml"], "../.jobplan/runs"),
        (["project/a/.jobplan", "project/.git/"], "../../.jobplan/runs"),  # a file is no folder of records
        ([".jobplan/"], "../../../.jobplan/runs"),
    ],
)
def test_the_nearest_folder_with_records_or_the_root_of_a_project_counts(
    at: Callable[..., Path], paths: list[str], found: str
) -> None:
    assert at(*paths) == Path(found)


def test_a_pyproject_without_settings_of_jobplan_is_no_root(at: Callable[..., Path], tmp_path: Path) -> None:
    at("project/pyproject.toml")
    (tmp_path / "project" / "pyproject.toml").write_text("[project]\nname = 'jobplan-plans'\n", encoding="utf-8")
    assert default_journal() == Path(".jobplan/runs")


def test_a_pyproject_that_is_a_pipe_does_not_stop_the_command(at: Callable[..., Path], tmp_path: Path) -> None:
    at()
    os.mkfifo(tmp_path / "project" / "pyproject.toml")
    assert default_journal() == Path(".jobplan/runs")


def test_nothing_is_found_above_a_folder_that_every_user_can_write(at: Callable[..., Path], tmp_path: Path) -> None:
    at("project/.jobplan/", ".git/")
    (tmp_path / "project").chmod(0o1777)
    assert default_journal() == Path(".jobplan/runs")


def test_nothing_is_found_above_the_home_directory(
    at: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "project"))
    assert at(".jobplan/") == Path(".jobplan/runs")
    assert at("project/.jobplan/") == Path("../../.jobplan/runs")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_nothing_is_found_in_a_folder_of_another_owner(at: Callable[..., Path], tmp_path: Path) -> None:
    at("project/.jobplan/", "project/.git/")
    os.chown(tmp_path / "project", 12345, -1)
    assert default_journal() == Path(".jobplan/runs")
    for folder in (tmp_path / "project" / "a", tmp_path / "project" / "a" / "b", tmp_path / "project" / ".jobplan"):
        os.chown(folder, 12345, -1)  # a checkout of another user, as in a container: it is one project
    assert default_journal() == Path("../../.jobplan/runs")
    os.chown(tmp_path / "project" / ".jobplan", 54321, -1)
    (tmp_path / "project" / ".git").rmdir()
    assert default_journal() == Path(".jobplan/runs")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_nothing_is_found_on_another_file_system(at: Callable[..., Path], tmp_path: Path) -> None:
    at("project/.git/", "project/a/.keep", cwd="project/a")
    mount = tmp_path / "project" / "a"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(mount)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        os.chdir(tmp_path)
        os.chdir(mount)
        assert default_journal() == Path(".jobplan/runs")
    finally:
        os.chdir(tmp_path)
        subprocess.run(["umount", str(mount)], check=True)


def test_a_removed_working_directory_has_the_default(at: Callable[..., Path], tmp_path: Path) -> None:
    at(cwd="gone")
    (tmp_path / "gone").rmdir()
    assert default_journal() == Path(".jobplan/runs")
