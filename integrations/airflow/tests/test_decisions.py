"""What each exit code means for a task: one table, which jobplan's exports use as well."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from airflow_provider_jobplan.decisions import Decision, decide, exit_code
from runner.exit_codes import RETRIES, ExitCode, Retry
from runner.export.pod import codes

EXPECTED = {
    Decision.SUCCEED: {0},
    Decision.FAIL: {2, 3, 7, 70},
    Decision.LATER: {8, 9},
    Decision.RETRY: {1, 4, 5, 6, 129, 130, 142, 143},
}


@pytest.mark.parametrize(("decision", "numbers"), EXPECTED.items())
def test_each_exit_code_has_its_decision(decision: Decision, numbers: set[int]) -> None:
    assert {code for code in (0, *RETRIES) if decide(code) is decision} == numbers


def test_every_exit_code_of_jobplan_is_decided() -> None:
    assert {int(code) for code in ExitCode} <= set().union(*EXPECTED.values())


def test_the_policies_for_pods_come_from_the_same_table() -> None:
    assert set(codes(Retry.CANNOT_HELP)) == EXPECTED[Decision.FAIL]
    assert set(codes(Retry.LATER)) == EXPECTED[Decision.LATER]
    assert set(codes(Retry.HELPS)) == EXPECTED[Decision.RETRY]


def test_a_killed_runner_is_tried_again() -> None:
    assert decide(exit_code(-signal.SIGKILL)) is Decision.RETRY
    assert exit_code(-signal.SIGTERM) == 143
    assert exit_code(8) == 8


def test_the_documentation_has_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "airflow.md").read_text(encoding="utf-8")
    rows = {
        Decision.FAIL: "failed, without a retry",
        Decision.LATER: "rescheduled",
        Decision.RETRY: "failed; a retry resumes the run",
    }
    for decision, words in rows.items():
        (numbers,) = re.findall(rf"^\| ([\d, ]+) \| {re.escape(words)}", page, re.MULTILINE)
        assert {int(one) for one in numbers.split(",")} == EXPECTED[decision]
