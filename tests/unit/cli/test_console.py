"""What is said of an error fits the error."""

from __future__ import annotations

import pytest

from runner.cli.console import report_error
from runner.errors import ConnectionFailedError

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
