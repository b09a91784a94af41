"""Nodes of TOML have the values of tomllib, and the places where they are written."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.plan.problem_collector import Report
from runner.plan.yaml_nodes import Mapping, Node, Scalar, Sequence
from runner.project.toml_nodes import parse_toml

TEXT = '''\
# é a comment = 1
bare = "a # b"
"quoted key" = 'lit\\eral'
dotted . "in side".deep = 1
number = -3 # behind
float = 1.50
flag = true
moment = 1979-05-27 07:32:00
multi = """
[not.a.table]
x = "quoted ""twice\\""""  # the end
lines = \'\'\'
]]\'\'\'\'\'
list = [ 1, # one
  "two",
  [3, {a = 4, b.c = [5]}],
]
empty = []
inline = { x = 1, "y" = { z = "}" } }

[ table . "sub" ]
key = 'v'
[[array]]
n = 1
[[array]]
n = 2
[array.child]
m = 3
[table]
late = 1
'''


def nodes(node: Node) -> Iterator[Node]:
    yield node
    if isinstance(node, Mapping):
        for value in node.values.values():
            yield from nodes(value)
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from nodes(item)


def keys(node: Node) -> Iterator[Scalar]:
    for one in nodes(node):
        if isinstance(one, Mapping):
            yield from one.keys.values()


def plain(node: Node) -> Any:
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.values.items()}
    return [plain(item) for item in node.items] if isinstance(node, Sequence) else node.value


@pytest.mark.parametrize("text", [TEXT, TEXT.replace("\n", "\r\n")], ids=["unix", "dos"])
def test_every_key_and_value_is_where_it_is_written(text: str) -> None:
    report = Report()
    root = parse_toml(text, "f", report)
    assert not report.problems()
    assert root is not None
    lines = text.splitlines()
    for key in keys(root):
        written = lines[key.line - 1][key.column - 1 :]
        assert key.text in (written[: len(key.text)], written[1 : len(key.text) + 1]), (key, written)
    found = {node.text: lines[node.line - 1][node.column - 1 :] for node in nodes(root) if isinstance(node, Scalar)}
    for text_, written in found.items():
        assert written.startswith((text_, "'", '"', "1979-05-27 07")), (text_, written)
    assert found["a # b"].startswith('"a # b"')
    assert found["two"].startswith('"two",')
    assert found["}"].startswith('"}" } }')


def test_the_values_are_those_of_tomllib() -> None:
    root = parse_toml(TEXT, "f", Report())
    assert root is not None
    expected = tomllib.loads(TEXT)
    expected["moment"] = expected["moment"].isoformat()
    assert plain(root) == expected
    numbers = [node.text for node in nodes(root) if isinstance(node, Scalar) and isinstance(node.value, float)]
    assert numbers == ["1.50"]  # as it is written


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1", 1, "expected '=' after a key"),
        ("a = 1\na = 2", 2, "cannot overwrite a value"),
        ("a = [1", 1, "unclosed array"),
        ('a = "x', 1, "unterminated string"),
        ("[a]\n[a]", 2, "cannot declare"),
        ("a = \x00", 1, "invalid value"),
        ("a = " + "9" * 5000, 1, "digits"),
    ],
)
def test_what_is_not_toml_is_reported_where_it_is(text: str, line: int, words: str) -> None:
    report = Report()
    assert parse_toml(text, "f", report) is None
    (problem,) = report.problems()
    assert problem.code == "JP275"
    assert words in problem.message.lower()
    assert (problem.position.file, problem.position.line) == ("f", line)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "{a=" * 50_000, "a" + ".a" * 50_000 + " = 1"])
def test_deep_nesting_is_a_problem_and_no_crash(text: str) -> None:
    report = Report()
    assert parse_toml(text, "f", report) is None
    assert report.problems()[0].code in ("JP012", "JP275")


def test_a_character_that_changes_the_direction_of_text_is_refused() -> None:
    report = Report()
    assert parse_toml("a = 1\nb = '\u202e'\n", "f", report) is None
    assert [(one.code, one.position.line) for one in report.problems()] == [("JP004", 2)]


@given(st.text(max_size=200))
def test_nothing_else_is_raised(text: str) -> None:
    report = Report()
    root = parse_toml(text, "f", report)
    assert (root is None) == report.has_errors


KEYS = st.sampled_from(["a", '"b c"', "'d'", "e-f", "1"])
VALUES = st.recursive(
    st.sampled_from(["1", '"x]"', "'}'", "true", '"""\n,"""', "1.0", "1979-05-27"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[ # c\n" + ",\n".join(items) + "\n]"),
        st.lists(st.tuples(KEYS, inner), max_size=3, unique_by=lambda pair: pair[0]).map(
            lambda pairs: "{ " + ", ".join(f"{key} = {value}" for key, value in pairs) + " }"
        ),
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=4, unique_by=lambda pair: pair[0]))
def test_every_value_of_any_file_has_its_place(pairs: list[tuple[str, str]]) -> None:
    text = "".join(f"{key} = {value}\n" for key, value in pairs)
    root = parse_toml(text, "f", Report())
    assert root is not None
    lines = text.split("\n")
    for node in nodes(root):
        if node is root:
            continue
        rest = "\n".join([lines[node.line - 1][node.column - 1 :], *lines[node.line :]])
        opening = {Mapping: "{", Sequence: "["}.get(type(node))
        assert rest.startswith(opening or (node.text, '"', "'")), (node, rest)  # type: ignore[union-attr]
