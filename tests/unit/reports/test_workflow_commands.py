"""Workflow commands and the step summary: nothing in them is a command of a stranger, and GitHub's limits hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runner.errors import Position, Problem, Severity
from runner.reports.terminal_text import visible, visible_json
from runner.reports.workflow_commands import (
    MOST_ANNOTATIONS,
    MOST_SUMMARY,
    Annotations,
    append_summary,
    github_lines,
    workflow_command,
)


def problem(number: int, severity: Severity = Severity.ERROR) -> Problem:
    place = Position(file="plans/a.yaml", line=number, column=1)
    return Problem(code="JP300", severity=severity, message=f"message {number}", position=place)


@pytest.mark.parametrize(
    "hostile",
    [
        "x\n::set-output name=a::b",
        "x\r::add-mask::secret",
        "x\r\n::error::y",
        "::stop-commands::token",
        "100%0A::error::y",
        "a,line=1::b",
        "\u2028::error::y",
    ],
)
def test_a_hostile_text_stays_in_its_command(hostile: str) -> None:
    line = workflow_command("error", {"title": hostile, "file": hostile}, hostile)
    assert len(line.splitlines()) == 1
    head, _, rest = line.removeprefix("::error ").partition("::")
    assert [pair.partition("=")[0] for pair in head.split(",")] == ["title", "file"]
    assert rest.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%")


def test_a_command_in_the_middle_of_a_line_is_made_visible() -> None:
    assert visible("x ##[set-output name=a]b") == "x ##\\x5bset-output name=a]b"
    assert visible_json('["##[error]"]') == '["##\\u005berror]"]'
    assert visible("items[0] #[1]") == "items[0] #[1]"


def test_a_long_message_and_a_long_title_are_cut() -> None:
    line = workflow_command("error", {"title": "t" * 1_000}, "m" * 100_000)
    assert len(line) < 4_300
    assert line.endswith("m…")


@pytest.mark.parametrize(
    ("count", "lines", "more"), [(1, 1, ""), (10, 10, ""), (11, 10, "2 more"), (500, 10, "491 more")]
)
def test_at_most_ten_of_a_kind_and_the_last_says_what_is_missing(count: int, lines: int, more: str) -> None:
    found = github_lines([problem(number) for number in range(1, count + 1)])
    assert len(found) == lines
    assert all(f"message {number}" in line for number, line in enumerate(found[: min(count, 9)], start=1))
    last = f"::error title=jobplan::{more} errors have no annotation" if more else f"::message {count}"
    assert last in found[-1]


def test_each_kind_has_its_own_ten() -> None:
    found = github_lines(
        [problem(number, kind) for number in range(1, 31) for kind in (Severity.WARNING, Severity.ERROR)]
    )
    assert sum(line.startswith("::error ") for line in found) == MOST_ANNOTATIONS
    assert sum(line.startswith("::warning ") for line in found) == MOST_ANNOTATIONS


def test_closing_twice_writes_once() -> None:
    lines: list[str] = []
    annotations = Annotations(lines.append)
    for number in range(12):
        annotations.add(workflow_command("error", {}, str(number)))
    annotations.close()
    annotations.close()
    assert len(lines) == MOST_ANNOTATIONS


def test_a_summary_that_is_too_long_is_replaced_by_its_short_form(tmp_path: Path) -> None:
    file = tmp_path / "summary"
    file.write_text("x" * (MOST_SUMMARY - 500), encoding="utf-8")
    missing = append_summary(file, "long " * 200, "short")
    assert missing == "The step summary has no details: it has at most 1 MiB."
    text = file.read_text(encoding="utf-8")
    assert text.endswith("xshort\n\n_The details are left out: the summary of a step has at most 1 MiB._\n\n")
    assert file.stat().st_size <= MOST_SUMMARY


def test_a_full_summary_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "summary"
    file.write_text("x" * MOST_SUMMARY, encoding="utf-8")
    assert append_summary(file, "text", "short") == "The step summary is full: it has at most 1 MiB."
    assert file.stat().st_size == MOST_SUMMARY


def test_the_limit_counts_bytes_not_characters(tmp_path: Path) -> None:
    file = tmp_path / "summary"
    assert append_summary(file, "é" * (MOST_SUMMARY // 2), "short") is not None
    assert file.stat().st_size < 1_000


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to(path.parent / "a" / "b")])
def test_a_summary_that_cannot_be_written_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    file = tmp_path / "summary"
    make(file)
    assert str(append_summary(file, "text", "short")).startswith("The step summary cannot be written: ")
