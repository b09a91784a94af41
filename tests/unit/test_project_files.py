"""What a developer's set-up relies on: the lock file covers every dependency, and a manual page every command."""

from __future__ import annotations

import importlib.util
import re
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from packaging.requirements import Requirement

from runner.cli import cli

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")


def script(name: str) -> ModuleType:
    """Return a script of `.ci` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(command: click.Command, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield the command and those below it, each with the words that call it."""
    yield names, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, *names, name)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The manual pages, by file name."""
    folder = tmp_path_factory.mktemp("man") / "man1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # click-man calls a deprecated function of click
        script("man_pages").write(folder)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_each_command_has_a_manual_page_with_its_options(pages: dict[str, str]) -> None:
    found = {f"{'-'.join(names)}.1": command for names, command in commands(cli, "jobplan")}
    assert set(pages) == set(found)
    for name, command in found.items():
        options = {option for one in command.params if isinstance(one, click.Option) for option in one.opts}
        plain = pages[name].replace("\\-", "-")
        assert not {option for option in options if option not in plain}, name


def test_the_manual_page_of_jobplan_names_every_command(pages: dict[str, str]) -> None:
    assert isinstance(cli, click.Group)
    for name in cli.list_commands(click.Context(cli)):
        assert f"jobplan-{name}(1)" in pages["jobplan.1"].replace("\\-", "-")


def test_the_lock_file_satisfies_each_dependency() -> None:
    """Otherwise: `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", LOCK, re.MULTILINE))
    needed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    for requirement in map(Requirement, needed):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert requirement.specifier.contains(locked.get(name, "")), requirement


def test_the_lock_file_has_a_hash_for_each_package_and_names_no_host() -> None:
    packages = re.split(r"^(?=[A-Za-z0-9._-]+==)", LOCK, flags=re.MULTILINE)[1:]
    assert packages
    assert all("--hash=sha256:" in package for package in packages)
    assert "://" not in LOCK
