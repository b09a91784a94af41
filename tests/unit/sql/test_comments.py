"""Comments inside SQL: what they may stand between, and that many of them take no time."""

from __future__ import annotations

import pytest

from runner.sql.comments import strip_comments, without_comments
from runner.sql.placeholders import TemplateError, references, render
from runner.sql.statements import SqlSyntaxError, parse_statements, parse_template

#: What a server runs although a comment stands inside a token of two words, or between the parts of a string.
RUNS = (
    "SELECT 1 WHERE 1 NOT -- why\n IN (2)",
    "SELECT 1 WHERE 'a' NOT /* why */ LIKE 'b'",
    "SELECT 1 WHERE 1 NOT -- a\n -- b\n /* c */ BETWEEN 2 AND 3",
    "SELECT 1 ORDER BY 1 NULLS /*x*/ LAST",
    "SELECT 1 ORDER BY 1 NULLS -- x\n FIRST",
    "SELECT now()::timestamp WITH -- c\n TIME ZONE",
    "SELECT now()::timestamp WITHOUT /* c */ TIME ZONE",
    "SELECT * FROM unnest(ARRAY[1]) WITH /* n */ ORDINALITY",
    "SELECT 'a' -- c\n 'b'",
    "SELECT 'a' -- c\n -- d\n\n 'b'",
    "SELECT E'a' -- c\n 'b'",
    "SELECT U&'a' -- x\n 'b'",
    "SELECT U&'!0041' -- c\n UESCAPE /* d */ '!'",
    "SELECT $a$ /* x $a$, 'ü' NOT /* ü */ IN ('é')",
    "SELECT E'\\'--' NOT --x'\n IN ('b')",
    'SELECT "a--" FROM (SELECT 1 AS "a--") AS s WHERE 1 NOT --"\n IN (2)',
)


@pytest.mark.parametrize("text", RUNS)
def test_a_comment_is_white_space_wherever_it_stands(text: str) -> None:
    (statement,) = parse_statements(text)
    assert (statement.start, statement.end) == (0, len(text))


def test_a_block_comment_does_not_join_strings() -> None:
    with pytest.raises(SqlSyntaxError):
        parse_statements("SELECT 'a' /* c */\n 'b'")


def test_offsets_stay_those_of_the_text_as_it_is_written() -> None:
    text = "SELECT 1; /* ü */ SELECT 2 NOT -- ö\n IN (1); SELEC 3"
    with pytest.raises(SqlSyntaxError) as raised:
        parse_statements(text)
    assert raised.value.offset == text.index("SELEC 3")


def test_parameters_beside_such_comments_are_found_and_replaced() -> None:
    text = "SELECT 1 WHERE :n NOT -- :x\n IN (2) /* :'y' */ AND 'a' = :'z'"
    assert [reference.name for reference in references(text)] == ["n", "z"]
    assert len(parse_template(text).statements) == 1
    assert render(text, {"n": 1, "z": "b"}) == "SELECT 1 WHERE 1 NOT -- :x\n IN (2) /* :'y' */ AND 'a' = 'b'"


@pytest.mark.parametrize("text", ["SELECT '--' -- x\n, $$ /* $$, \"/*\" /* y /* z */ */", "/**/--\n", "a$$b--c", "'--"])
def test_nothing_but_comments_is_blanked(text: str) -> None:
    blank = without_comments(text)
    assert len(blank) == len(text)
    assert all(new in (old, " ") for old, new in zip(text, blank, strict=True))
    assert without_comments(blank) == blank


def test_what_is_blanked_is_the_comments() -> None:
    assert without_comments("a --b\nc /* d\n /* e */ */ f") == "a    \nc     \n            f"
    assert without_comments("'a--' \"b/*\" $x$--$x$ $y1$ /* $y1$") == "'a--' \"b/*\" $x$--$x$ $y1$ /* $y1$"
    assert without_comments("a$b$--c") == "a$b$   "
    assert strip_comments("SELECT /* a /* b */") == ("SELECT /* a /* b */", 7)


def test_comments_nested_50_000_deep_are_read() -> None:
    (statement,) = parse_statements("/*" * 50_000 + "*/" * 50_000 + " SELECT 1")
    assert statement.end - statement.start == len("SELECT 1")
    assert references("/*" * 50_000 + "*/" * 50_000 + " SELECT :n")[0].name == "n"


def test_50_000_openings_without_an_end_are_a_syntax_error_at_the_first_one() -> None:
    text = "SELECT 1 " + "/*" * 50_000
    with pytest.raises(SqlSyntaxError, match=r"unterminated /\* comment") as raised:
        parse_statements(text)
    assert raised.value.offset == 9
    with pytest.raises(TemplateError, match=r"unterminated /\* comment"):
        references(f"{text} :n")


def test_a_text_that_is_too_long_is_not_refused_by_the_grammar() -> None:
    with pytest.raises(SqlSyntaxError) as raised:
        parse_statements("SELECT 1" + " + 1" * 60_000)
    assert not raised.value.refused
