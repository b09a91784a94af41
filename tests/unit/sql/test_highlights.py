"""What of a SQL text is written in a colour, as PostgreSQL's own scanner reads it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from runner.sql.tokens import highlights


def _marked(text: str) -> list[tuple[str, str]]:
    return [(mark.kind, text[mark.start : mark.end]) for mark in highlights(text)]


def test_keywords_strings_numbers_comments_and_quoted_names_are_marked() -> None:
    assert _marked("select \"T\" from t -- why ü\nwhere a = 'é' and b > 1.5 /* x */") == [
        ("keyword", "select"),
        ("name", '"T"'),
        ("keyword", "from"),
        ("comment", "-- why ü"),
        ("keyword", "where"),
        ("string", "'é'"),
        ("keyword", "and"),
        ("number", "1.5"),
        ("comment", "/* x */"),
    ]


@pytest.mark.parametrize(
    ("text", "keywords"),
    [
        ("delete from data", ["delete", "from"]),
        ("VACUUM data", ["VACUUM"]),
        ("select 1; vacuum data", ["select", "vacuum"]),
        ("-- first\nvacuum data", ["vacuum"]),
        ("SELECT name, type FROM data", ["SELECT", "FROM"]),
        ("INSERT INTO data VALUES (1)", ["INSERT", "INTO", "VALUES"]),
    ],
)
def test_a_word_that_can_be_a_name_is_a_keyword_in_capitals_or_at_the_start(text: str, keywords: list[str]) -> None:
    assert [word for kind, word in _marked(text) if kind == "keyword"] == keywords


def test_the_body_of_a_do_block_is_sql_and_a_short_dollar_quote_a_string() -> None:
    text = "DO $x$\nBEGIN\n  PERFORM 'it''s' FROM t;\nEND $x$; SELECT $$a$$"
    assert _marked(text) == [
        ("keyword", "DO"),
        ("keyword", "BEGIN"),
        ("string", "'it''s'"),
        ("keyword", "FROM"),
        ("keyword", "END"),
        ("keyword", "SELECT"),
        ("string", "$$a$$"),
    ]


@pytest.mark.parametrize("text", ["", "select 'unfinished", "select \0", "select '\ud800'", "/* never closed"])
def test_a_text_that_cannot_be_scanned_has_no_marks(text: str) -> None:
    assert highlights(text) == ()


def test_marks_count_characters_and_are_in_order() -> None:
    text = "select '😀', \"名\" from 日本 where x = 1;" * 40
    marks = highlights(text)
    assert all(one.end <= after.start for one, after in pairwise(marks))
    assert {text[mark.start : mark.end] for mark in marks if mark.kind == "string"} == {"'😀'"}
