"""Parameters in SQL: where references are found, and that a value is always exactly one token."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.sql.placeholders import (
    Form,
    Reference,
    Scalar,
    TemplateError,
    in_brackets,
    quote_identifier,
    quote_literal,
    references,
    render,
)
from runner.sql.tokens import TokenKind, tokenize

LITERAL, IDENTIFIER, BARE = Form.LITERAL, Form.IDENTIFIER, Form.BARE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT :'x'", [("x", LITERAL, 7, 11)]),
        ('SELECT :"x"', [("x", IDENTIFIER, 7, 11)]),
        ("SELECT :x", [("x", BARE, 7, 9)]),
        ("SELECT :'run.id', :\"t.column\"", [("run.id", LITERAL, 7, 16), ("t.column", IDENTIFIER, 18, 29)]),
        ('VACUUM :"schema".:"table"', [("schema", IDENTIFIER, 7, 16), ("table", IDENTIFIER, 17, 25)]),
        (":select", [("select", BARE, 0, 7)]),
        (":n5", [("n5", BARE, 0, 3)]),
        (":a::int", [("a", BARE, 0, 2)]),
        (":n:m", [("n", BARE, 0, 2), ("m", BARE, 2, 4)]),
        ("a[lo:hi]", [("hi", BARE, 4, 7)]),
        ("f(x =>:y)", [("y", BARE, 6, 8)]),
        (":::'t'", [("t", LITERAL, 2, 6)]),
        ("'é' || :'x'", [("x", LITERAL, 7, 11)]),
        ("/* é𝄞 */ :'x', é, :x", [("x", LITERAL, 9, 13), ("x", BARE, 18, 20)]),
        ("E:'x'", [("x", LITERAL, 1, 5)]),
        ("$$a$$:'x'", [("x", LITERAL, 5, 9)]),
        (":n'x'", [("n", BARE, 0, 2)]),
    ],
)
def test_references_are_found_with_character_offsets(text: str, expected: list[tuple[str, Form, int, int]]) -> None:
    assert references(text) == tuple(Reference(*reference) for reference in expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT 1",
        "SELECT a::int, 'x'::text",
        "SELECT f(x := 1)",
        "SELECT ':x :''y'' :\"z\"'",
        "SELECT E'it\\'s :x', U&'\\0061 :x', B'01', X'1f', N':x'",
        "SELECT $$:x$$, $tag$ :'x' $$ :\"y\" $tag$",
        'SELECT ":x", U&":y"',
        "SELECT 1 -- :x\n",
        "SELECT 1 /* :x /* :'y' */ :\"z\" */",
        "SELECT a[1:2], a[:], a[1:], a[: n]",
        "SELECT json_object('a': 1, 'b': x)",
        "DO $$ BEGIN FOR i IN 1..:n LOOP END LOOP; END $$",
        "SELECT :$$x$$, :$1",
        "SELECT a[1:E'2'], a[1:U&'2']",
    ],
)
def test_what_is_no_reference_is_left_alone(text: str) -> None:
    assert references(text) == ()
    assert render(text, {"x": "wrong", "y": "wrong", "z": "wrong", "n": 0}) == text


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("SELECT :'a b'", 7, "does not name a parameter"),
        ("SELECT :''", 7, "names no parameter"),
        ("SELECT :'a''b'", 7, "does not name a parameter"),
        ("SELECT :'a.'", 7, "does not name a parameter"),
        ("SELECT :'1a'", 7, "does not name a parameter"),
        ("SELECT :a$1", 7, "does not name a parameter"),
        ("SELECT :é", 7, "does not name a parameter"),
        ("SELECT :'x'\n'y'", 7, "continued on another line"),
        ("SELECT :'x'--c\n'y'", 7, "beside a string constant"),
        ("SELECT :'x' 'y'", 7, "beside a string constant"),
        ("SELECT 'y'\n:'x'", 11, "beside a string constant"),
        ("SELECT 'y' -- c\n :'x'", 17, "beside a string constant"),
        ("SELECT E'y'\n:'x'", 12, "beside a string constant"),
        ("SELECT 'a':'x'", 10, "beside a string constant"),
        ("SELECT :'a':'b'", 11, "beside a string constant"),
        ("SELECT :'a'\n:'b'", 12, "beside a string constant"),
        ("SELECT :run.id", 7, "write :'run.id' or :\"run.id\""),
        ("SELECT é, :'x", 11, "unterminated quoted string"),
        ("SELECT '𝄞', :x /* é", 15, "unterminated /* comment"),
        ("SELECT é\0:x", 8, "NUL"),
        ("SELECT é\ud800:x", 8, "surrogate"),
    ],
)
def test_a_text_that_cannot_be_meant_so_is_refused_at_its_place(text: str, offset: int, message: str) -> None:
    with pytest.raises(TemplateError, match=message.replace("*", r"\*")) as caught:
        references(text)
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("text", "inside"),
    [("a[lo:hi]", True), ("f(:hi)", False), ("a[1] || :hi", False), ("a[b[1]:hi]", True), ("'[' || :hi", False)],
)
def test_a_reference_in_brackets_is_distinguished(text: str, inside: bool) -> None:
    (reference,) = references(text)
    assert in_brackets(text, reference) is inside


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("SELECT :'s'", "SELECT 'it''s'"),
        ('SELECT :"s"', 'SELECT "it\'s"'),
        ("SELECT :n", "SELECT 5"),
        ("SELECT :'n'", "SELECT '5'"),
        ("SELECT :neg", "SELECT (-5)"),
        ("SELECT 1-:neg", "SELECT 1- (-5)"),
        ("SELECT -:neg", "SELECT - (-5)"),
        ("SELECT :neg::int2", "SELECT (-5)::int2"),
        ("SELECT :flag, :'flag'", "SELECT true, 'true'"),
        ("SELECT :off, :'off'", "SELECT false, 'false'"),
        ("SELECT :d, :f, :t", "SELECT 0.10, 1.5, 12.50"),
        ("SELECT E:'s'", "SELECT E 'it''s'"),
        ("SELECT U&:'s'", "SELECT U& 'it''s'"),
        ("SELECT x:'s'", "SELECT x 'it''s'"),
        ('SELECT "a":"s"', 'SELECT "a" "it\'s"'),
        ('SELECT U&:"s"', 'SELECT U& "it\'s"'),
        ("SELECT 1:n", "SELECT 1 5"),
        ("SELECT :n:n", "SELECT 5 5"),
        ("SELECT 1.:n", "SELECT 1. 5"),
        ("SELECT :n.5", "SELECT 5 .5"),
        ("SELECT $:n", "SELECT $ 5"),
        ('VACUUM :"s".:"s"', 'VACUUM "it\'s"."it\'s"'),
        ("SELECT :'path'", "SELECT  E'C:\\\\x'"),
        ("SELECT e:'path'", "SELECT e  E'C:\\\\x'"),
        ("SELECT :'nested'", "SELECT ':''s'' :n'"),
        ("SELECT x>:n,x=:neg", "SELECT x>5,x=(-5)"),
    ],
)
def test_a_value_takes_the_place_of_its_reference(text: str, rendered: str) -> None:
    values: dict[str, Scalar] = {
        "s": "it's",
        "n": 5,
        "neg": -5,
        "flag": True,
        "off": False,
        "d": Decimal("0.10"),
        "f": 1.5,
        "t": "12.50",
        "path": "C:\\x",
        "nested": ":'s' :n",
    }
    assert render(text, values) == rendered


@pytest.mark.parametrize(
    ("text", "value", "message"),
    [
        (":'x'", "a\0b", "NUL"),
        (":'x'", "\udcff", "surrogate"),
        (':"x"', "", "empty"),
        (':"x"', "a" * 64, "63 bytes"),
        (':"x"', "é" * 32, "63 bytes"),
        (':"x"', "a\0", "NUL"),
        (":x", "now()", "is not a number"),
        (":x", "", "is not a number"),
        (":x", "1; DROP TABLE t", "is not a number"),
        (":x", "0x10", "is not a number"),
        (":x", "٣", "is not a number"),
        (":x", "1_000", "is not a number"),
        (":x", "--5", "is not a number"),
        (":x", "5\n", "is not a number"),
        (":x", float("nan"), "finite"),
        (":x", Decimal("Infinity"), "finite"),
        (":x", Decimal("sNaN"), "finite"),
        (":'x'", float("inf"), "finite"),
        (":'y'", "v", "no such parameter"),
    ],
)
def test_a_value_that_cannot_take_its_form_is_refused(text: str, value: Scalar, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        render(f"SELECT é, {text}", {"x": value})
    assert caught.value.offset == 10


def test_the_longest_identifier_that_postgresql_keeps_is_allowed() -> None:
    assert quote_identifier("é" * 31 + "x") == '"' + "é" * 31 + 'x"'


def _constant(token: str) -> str:
    """Return the value of a string constant that `quote_literal` can have written."""
    if token.startswith("E"):
        return token[2:-1].replace("''", "'").replace("\\\\", "\\")
    return token[1:-1].replace("''", "'")


characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
hostile = st.text(st.one_of(st.sampled_from("'\"\\$;:-/*\n\r\t Eé\u00a5\uff07𝄞%"), characters), max_size=20)


@given(hostile)
def test_a_literal_is_exactly_one_constant_with_that_value(value: str) -> None:
    (token,) = tokenize(quote_literal(value))
    assert token.kind is TokenKind.STRING
    assert _constant(token.text) == value


@given(hostile.filter(lambda value: 0 < len(value.encode()) <= 63))
def test_an_identifier_is_exactly_one_name_with_that_value(value: str) -> None:
    (token,) = tokenize(quote_identifier(value))
    assert token.kind is TokenKind.QUOTED_IDENTIFIER
    assert token.text[1:-1].replace('""', '"') == value


_NEIGHBOURS = [
    *("'a'", "E'a'", "U&'a'", "B'1'", "N'a'", "E", "e", "U&", "B", "x", "N", 'U&"a"', '"a"', "a", "é", "1", "1."),
    *(".5", "1e5", "$$a$$", "$t$a$t$", "$1", "$", "-", "--\n", "-- :c\n", "/", "*", "/* :c */", "::", ":=", ":", ": "),
    *(".", "..", "=", "<", "&", "@", "|", "(", ")", "[", "]", ",", ";", " ", "\n", "\t", "?", "\\", "+", "true", "''"),
]
_REFERENCES = [":'s'", ":'e'", ':"i"', ":n", ":neg", ":flag", ":d", ":'t.c'"]


@settings(max_examples=1000)
@given(
    st.lists(st.sampled_from([*_NEIGHBOURS, *_REFERENCES, *_REFERENCES]), max_size=8),
    st.fixed_dictionaries({"s": hostile, "e": hostile.map(lambda text: text + "\\"), "t.c": hostile}),
)
def test_a_value_never_merges_with_its_neighbours(fragments: list[str], texts: dict[str, str]) -> None:
    values: dict[str, Scalar] = {**texts, "i": 'a"b', "n": 5, "neg": -7, "flag": True, "d": "0.5"}
    text = "".join(fragments)
    try:
        found = references(text)
        rendered = render(text, values)
    except TemplateError:
        return  # refused is as good as kept apart
    if not found:
        assert rendered == text
        return
    expected: list[str] = []
    starts = {reference.start: reference for reference in found}
    names = {reference.start + 1 for reference in found}
    for token in tokenize(text):
        if token.start in starts:
            expected += _atoms(starts[token.start], values)
        elif token.start not in names:
            expected.append(token.text)
    assert [token.text for token in tokenize(rendered)] == expected


def _atoms(reference: Reference, values: dict[str, Scalar]) -> list[str]:
    value = values[reference.name]
    if reference.form is Form.LITERAL:
        return [quote_literal(str(value)).strip()]
    if reference.form is Form.IDENTIFIER:
        return [quote_identifier(str(value))]
    return {"n": ["5"], "neg": ["(", "-", "7", ")"], "flag": ["true"], "d": ["0.5"]}[reference.name]


def test_a_message_is_one_line_although_it_quotes_the_text() -> None:
    with pytest.raises(TemplateError) as caught:
        references("SELECT :a, '\n")
    assert "\n" not in caught.value.message
