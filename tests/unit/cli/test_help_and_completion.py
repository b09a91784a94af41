"""Every command shows an example that it accepts; `help` shows what --help shows; shells complete ids and codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from runner.cli import cli, main
from runner.cli.examples import EXAMPLES
from runner.codes import CODES
from runner.engine.simulation import run_started
from runner.engine.state import initial_state
from runner.fleet.events import FleetStopping
from runner.fleet.records import FleetJournal
from runner.fleet.targets import Targets
from runner.records.journal import Journal
from tests.builders import plan, step


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


def test_the_help_of_every_command_shows_an_example() -> None:
    without = [name for name, found in commands(cli) if f"jobplan {name}" not in (found.epilog or "")]
    assert without == []


@pytest.mark.parametrize("example", [example for examples in EXAMPLES.values() for example in examples])
def test_every_example_is_accepted(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobplan.toml").write_text("[env.prod]\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    text = found[1] if (found := re.search(r"\$\((.*)\)", example)) else example.partition(" > ")[0]
    context, command, rest = click.Context(cli), cli, shlex.split(text)[1:]
    parsed: click.Command = command
    while isinstance(parsed, click.Group):
        one = parsed.get_command(context, rest[0])
        assert one is not None, example
        parsed, rest = one, rest[1:]
    assert parsed.make_context(parsed.name, rest, parent=context) is not None


@pytest.mark.parametrize("path", [["run"], ["fleet", "resume"], []])
def test_help_as_a_command_shows_the_same_as_the_option(path: list[str]) -> None:
    runner = CliRunner()
    asked = runner.invoke(cli, ["help", *path], prog_name="jobplan")
    assert asked.exit_code == 0, asked.output
    assert asked.output == runner.invoke(cli, [*path, "--help"], prog_name="jobplan").output


@pytest.mark.parametrize("path", [["rnu"], ["fleet", "nothing"], ["run", "more"]])
def test_help_on_a_command_that_does_not_exist_is_wrong_usage(path: list[str]) -> None:
    asked = CliRunner().invoke(cli, ["help", *path], prog_name="jobplan")
    assert asked.exit_code == 2
    assert "Error: " in asked.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_asks_jobplan(shell: str) -> None:
    printed = CliRunner().invoke(cli, ["completion", shell], prog_name="jobplan").output
    assert f"_JOBPLAN_COMPLETE={shell}_complete" in printed
    assert "jobplan" in printed


def completed(*words: str) -> set[str]:
    """Return what a shell would offer for the last word."""
    found = ShellComplete(cli, {}, "jobplan", "_JOBPLAN_COMPLETE").get_completions(list(words[:-1]), words[-1])
    return {item.value for item in found}


def test_commands_options_codes_run_ids_and_step_ids_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert completed("show", "") == set()
    p = plan(step("load", "SELECT 1"), step("tidy", "SELECT 2"))
    journal = Journal.create(Path(".jobplan/runs"), "260101-abcdef", p)
    journal.handle(run_started(p, 1_767_225_600.0), initial_state(p))
    journal.close()
    assert completed("re") == {"report", "resume"}
    assert "--report" in completed("run", "--re")
    assert completed("show", "26") == {"260101-abcdef"}
    assert completed("resume", "") == {"260101-abcdef", "last"}
    assert completed("show", "last", "--step", "") == {"load", "tidy"}
    assert completed("cancel", "260101-abcdef", "--step", "t") == {"tidy"}
    assert completed("run", "--env", "") == set()
    Path("jobplan.toml").write_text("[env.prod]\n[env.dev]\n", encoding="utf-8")
    assert completed("run", "--env", "") == completed("fleet", "run", "--env", "") == {"dev", "prod"}
    assert completed("resume", "last", "--env", "p") == {"prod"}
    Path("jobplan.toml").write_text("journal = 'elsewhere'\n", encoding="utf-8")
    assert completed("show", "") == set()
    Path("jobplan.toml").write_text("wrong: file", encoding="utf-8")
    assert completed("run", "--env", "") == set()
    assert completed("show", "26") == {"260101-abcdef"}
    assert completed("validate", "--explain", "jp20") == {code for code in CODES if code.startswith("JP20")}


@pytest.mark.parametrize(
    "variables",
    [
        {"COMP_WORDS": "jobplan nosuch ", "COMP_CWORD": "2"},
        {"COMP_WORDS": "jobplan", "COMP_CWORD": "x"},
        {},
    ],
)
def test_a_word_that_cannot_be_completed_is_no_message(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_JOBPLAN_COMPLETE", "bash_complete")
    for name in ("COMP_WORDS", "COMP_CWORD"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main([])
    shown = capsys.readouterr()
    assert (shown.out.strip(), shown.err) == ("", "")


def test_ids_of_fleet_runs_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert completed("fleet", "show", "") == set()
    targets = Targets(name="t", clusters={})
    root = tmp_path / ".jobplan" / "fleets"
    for at, name in enumerate(("260101-abcdef", "260102-abcdef")):
        with FleetJournal.create(root, name, targets) as journal:
            journal.write(FleetStopping(at=float(at), reason="a test"))
    for command in ("show", "status", "cancel", "resume"):
        assert completed("fleet", command, "") == {"260101-abcdef", "260102-abcdef", "last"}
        assert completed("fleet", command, "260102") == {"260102-abcdef"}
