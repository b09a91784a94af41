"""One table has the exit codes; help, documentation, errors and reports agree with it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from runner import errors
from runner.errors import JobplanError
from runner.exit_codes import MEANINGS, RETRIES, ExitCode, Retry, for_error, for_signal, help_text

ROOT = Path(__file__).parents[2]


def test_every_code_has_one_meaning() -> None:
    listed = [int(code) for codes, _ in MEANINGS for code in codes.split(", ")]
    signals = (signal.SIGHUP, signal.SIGINT, signal.SIGALRM, signal.SIGTERM)
    assert listed == [*sorted(set(ExitCode)), *(for_signal(number) for number in signals)]


def test_help_and_documentation_have_the_table() -> None:
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([0-9, ]+) \| (.+) \|$", page, re.MULTILINE)
    assert rows == list(MEANINGS)
    words = " ".join(help_text().split())
    assert all(f"{codes} {meaning}" in words for codes, meaning in MEANINGS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("UsageError", 2),
        ("ParameterError", 2),
        ("PlanError", 3),
        ("RunSkippedError", 0),
        ("RequirementsUnmetError", 9),
        ("PreflightError", 4),
        ("ConnectionFailedError", 4),
        ("EmbeddedServerError", 4),
        ("RecordError", 4),
        ("JournalLostError", 4),
        ("GroupHeldError", 6),
        ("ServerLostError", 7),
        ("UnstoppableError", 7),
        ("GatewayError", 70),
        ("CapacityError", 70),
        ("JobplanError", 70),
    ],
)
def test_an_error_ends_with_the_code_of_its_class(error: str, code: int) -> None:
    kind: type[JobplanError] = getattr(errors, error)
    assert for_error(kind("no")) == code


def test_no_other_module_writes_an_exit_code_as_a_number() -> None:
    wanted = re.compile(r"\bexit_code(?:=| = )[1-9]|\bcontext\.exit\([0-9]|\bcode = [0-9]+$", re.MULTILINE)
    for path in (ROOT / "runner").rglob("*.py"):
        assert not wanted.findall(path.read_text(encoding="utf-8")), path


def test_each_code_says_whether_a_retry_can_help() -> None:
    listed = {int(code) for codes, _ in MEANINGS for code in codes.split(", ")} - {0}
    assert listed <= set(RETRIES)
    assert {code for code, meaning in RETRIES.items() if meaning is Retry.CANNOT_HELP} == {2, 3, 7, 70}
