"""A character of a SQL text points to the place in the file where it was written, whatever YAML did to the text."""

from __future__ import annotations

import pytest

from runner.errors import Position
from runner.plan.problem_collector import Report
from runner.plan.yaml_nodes import LineStarts, Scalar, sql_of, sql_of_file
from runner.plan.yaml_reader import parse

_EXACT = {
    "plain": "sql: SELECT @here\n",
    "single quotes": "sql: 'SELECT @here'\n",
    "double quotes": 'sql: "SELECT @here"\n',
    "flow": "step: {id: a, sql: SELECT @here, x: 1}\n",
    "after umlauts": "step: {id: ä, sql: 'SELECT ü @here'}\n",
    "literal": "sql: |\n  SELECT\n    @here\n",
    "literal, stripped": "sql: |-\n  SELECT\n    @here\n\n\n",
    "literal, kept": "sql: |+\n  SELECT\n    @here\n\n\n",
    "literal with indicator": "sql: |2\n      SELECT\n    @here\n",
    "literal with indicator and chomping": "sql: |-2\n      SELECT\n    @here\n",
    "literal with a comment after the bar": "sql: | # text\n  SELECT\n   @here\n",
    "literal that begins with empty lines": "sql: |\n\n\n  SELECT\n\n  @here\n",
    "literal in a list": "steps:\n- sql: |\n   SELECT\n   @here\n- b\n",
    "literal with CRLF": "sql: |\r\n  SELECT\r\n  @here\r\n",
    "literal with spaces in an empty line": "sql: |\n  SELECT\n    \n  @here\n",
    "literal with an anchor": "sql: &a |\n  SELECT\n  @here\n",
}

_ONLY_THE_START = {
    "folded": "sql: >\n  SELECT\n  @here\n",
    "folded on one line": "sql: >\n  SELECT @here\n",
    "plain on two lines": "sql: SELECT\n  @here\n",
    "escapes": 'sql: "SELECT \\x31 @here"\n',
    "doubled quotes": "sql: 'SELECT ''a'', @here'\n",
    "plain with an anchor": "sql: &a SELECT @here\n",
    "literal with the bar on the next line": "sql: &a\n  |\n  SELECT\n  @here\n",
}


def find(text: str) -> Scalar:
    root = parse(text, "p", Report())
    assert root is not None
    nodes = list(root.values.items())
    while nodes:
        key, node = nodes.pop()
        if key == "sql" and isinstance(node, Scalar):
            return node
        inner = getattr(node, "values", None)
        nodes += inner.items() if isinstance(inner, dict) else [("", item) for item in getattr(node, "items", ())]
    raise AssertionError("no sql")


@pytest.mark.parametrize("text", _EXACT.values(), ids=_EXACT.keys())
def test_the_place_is_exact(text: str) -> None:
    sql = sql_of(find(text))
    before = text.replace("\r\n", "\n").split("@here")[0]
    expected = Position(file="p", line=before.count("\n") + 1, column=len(before) - before.rfind("\n"))
    assert sql.position(sql.text.index("@here")) == expected


@pytest.mark.parametrize("text", _ONLY_THE_START.values(), ids=_ONLY_THE_START.keys())
def test_else_it_is_the_start_of_the_value(text: str) -> None:
    scalar = find(text)
    sql = sql_of(scalar)
    assert not sql.line_starts
    assert sql.position(sql.text.index("@here")) == scalar.position


def test_a_literal_of_nothing_but_lines_has_its_start() -> None:
    scalar = find("sql: |+\n\n\n")
    assert sql_of(scalar).position(1) == scalar.position


def test_a_file_of_sql_knows_every_place() -> None:
    sql = sql_of_file("a.sql", "SELECT\r\n  1\n")
    assert [str(sql.position(offset)) for offset in (0, 10, len(sql.text))] == ["a.sql:1:1", "a.sql:2:3", "a.sql:3:1"]


def test_line_starts_are_a_sequence() -> None:
    starts = LineStarts(file="a", first_line=3, column=5, lines=2)
    assert [str(position) for position in starts] == ["a:3:5", "a:4:5"]
    assert starts[-1] == starts[1]
    assert starts[1:] == (starts[1],)
    with pytest.raises(IndexError):
        starts[2]
