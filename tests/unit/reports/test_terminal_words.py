"""Lines for a terminal are broken between words only; wait events have words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.reports.terminal_text import at_words, broken_command, columns, cut_at_words, flowing, some_lines
from runner.reports.waits import wait_words

LINES = st.text(alphabet="abc_0123 \u6f22é", max_size=200)


@given(LINES, st.integers(20, 100))
def test_a_broken_line_has_the_same_words_and_none_is_broken(text: str, width: int) -> None:
    lines = at_words(text, width)
    assert " ".join(lines).split() == text.split()
    for line in lines:
        assert columns(line) <= width or len(line.split()) == 1 or any(word[:1].isdigit() for word in line.split())


@given(LINES, st.integers(20, 100), st.integers(1, 4))
def test_a_limited_text_fits(text: str, width: int, number: int) -> None:
    lines = some_lines(text, width, number)
    assert len(lines) <= number
    assert all(columns(line) <= width for line in lines)
    assert columns(cut_at_words(text, width)) <= width


@given(st.lists(st.text(alphabet="abc/123 ", min_size=1, max_size=15), max_size=12), st.integers(20, 60))
def test_parts_stay_whole_and_in_order(parts: list[str], width: int) -> None:
    lines = flowing(parts, width)
    assert [part for line in lines for part in line] == parts
    assert all(sum(map(columns, line)) + 2 * (len(line) - 1) <= width for line in lines)


def test_a_number_stays_with_what_it_counts() -> None:
    assert at_words("run x: 24 succeeded, 1 failed in 3m", 26) == ["run x: 24 succeeded,", "  1 failed in 3m"]


def test_what_indents_a_line_stays() -> None:
    assert at_words("    step a: one two three", 20, rest="      ") == ["    step a: one two", "      three"]


def test_a_command_that_fits_has_no_backslash() -> None:
    assert broken_command("Resume  jobplan resume x", 80) == ["Resume  jobplan resume x"]


@pytest.mark.parametrize(
    ("wait", "words"),
    [
        ("", ""),
        ("IO: DataFileRead", "reading a data file (DataFileRead)"),
        ("IO: WALSync", "flushing WAL to disk (WALSync)"),
        ("IO: WalSync", "flushing WAL to disk (WalSync)"),
        ("Timeout: PgSleep", "sleeping in pg_sleep (PgSleep)"),
        ("LWLock: SomethingNew", "waiting for a lock in shared memory (SomethingNew)"),
        ("Extension: Extension", "waiting in an extension (Extension)"),
        ("Later: Unknown", "waiting (Later: Unknown)"),
    ],
)
def test_wait_events_have_words(wait: str, words: str) -> None:
    assert wait_words(wait) == words
