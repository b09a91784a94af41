"""What is said of an error fits the error."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.cli.console import report_error
from runner.errors import ConnectionFailedError, JobplanError
from runner.fleet.targets import read_targets
from runner.project.settings import read_settings

FULL = "The server has no connection left for this role: end a session, or connect as a role"
ROLE = "Specify a role that exists and may log in"
HOST = "The host name is unknown"
WHERE = "Specify the server and the role with --dsn"


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("FATAL: remaining connection slots are reserved for roles with the SUPERUSER attribute", FULL),
        ("FATAL: sorry, too many clients already", FULL),
        ('FATAL: too many connections for role "app"', FULL),
        ('FATAL: too many connections for database "app"', FULL),
        ('FATAL: role "nobody" does not exist', ROLE),
        ("could not translate host name", HOST),
        ("something that no remedy knows", WHERE),
    ],
)
def test_the_advice_fits_why_there_is_no_connection(
    message: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report_error(ConnectionFailedError(message))
    assert capsys.readouterr().err.startswith(f"jobplan: {message}. {advice}")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jobplan.toml", "password = hunter2\n"),
        ("jobplan.toml", "pasword = 'hunter2'\nplan = 'password'\n"),
        ("jobplan.toml", "[env.prod]\nuri = 'postgresql://u:hunter2@h/d'\n"),
        ("targets.yaml", "version: 1\nclusters:\n  c: {connection: {password: hunter2\n"),
        ("targets.yaml", "version: 1\nname: t\nclusters: [{url: 'postgresql://u:hunter2@h/d'}]\n"),
    ],
)
def test_no_line_of_a_file_with_a_secret_is_repeated(
    tmp_path: Path, name: str, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal: problems are shown with their lines
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(JobplanError) as refused:
        read_settings(path) if name == "jobplan.toml" else read_targets(path)
    report_error(refused.value)
    shown = capsys.readouterr().err
    assert name in shown
    assert "hunter2" not in shown
