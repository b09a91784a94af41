"""YAML as plans use it: types, places, bounds. What is wrong with a file is a problem, never an exception."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from runner.plan import yaml_reader
from runner.plan.problem_collector import Report
from runner.plan.yaml_nodes import Mapping, Node, Scalar, Sequence
from runner.plan.yaml_reader import PLAN_HINT, decode, parse, read, read_text


def parsed(text: str) -> tuple[Mapping | None, list[str]]:
    report = Report()
    root = parse(text, "p", report)
    return root, [f"{problem.position} {problem.code}" for problem in report.problems()]


def plain(node: Node | None) -> object:
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    assert node is not None
    return {key: plain(value) for key, value in node.values.items()}


@pytest.fixture(params=["libyaml", "pure Python"], autouse=True)
def _loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with both of PyYAML's parsers: wheels for rare platforms come without libyaml."""
    if request.param == "pure Python":
        monkeypatch.setattr(yaml_reader, "_Loader", yaml.SafeLoader)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("yes", "yes"),
        ("on", "on"),
        ("null", None),
        ("~", None),
        ("", None),
        ("Null", "Null"),
        ("0", 0),
        ("-5", -5),
        ("+5", 5),
        ("007", "007"),
        ("0o17", "0o17"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-01-02", "2026-01-02"),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1e999", "1e999"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("-", "-"),
        ("1.2.3", "1.2.3"),
        ("9" * 101, "9" * 101),
        ("'5'", "5"),
        ('"true"', "true"),
        ("! 5", "5"),
        ("!!str 5", "5"),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(written: str, value: object) -> None:
    root, problems = parsed(f"key: {written if written != '-' else repr(written)}\n")
    assert not problems
    assert plain(root) == {"key": value}
    assert type(plain(root)["key"]) is type(value)  # type: ignore[index] # it is a dict, as the line above says


def test_every_node_knows_its_place() -> None:
    root, _ = parsed("a: [1, {b: ä, c: 2}]\nd:\n  - x\n")
    assert root is not None
    listed = root.values["a"]
    assert isinstance(listed, Sequence)
    inner = listed.items[1]
    assert isinstance(inner, Mapping)
    assert [str(node.position) for node in (root, listed, inner, inner.keys["c"], inner.values["c"])] == [
        "p:1:1",
        "p:1:4",
        "p:1:8",
        "p:1:15",
        "p:1:18",
    ]


def test_aliases_share_the_node_that_they_repeat() -> None:
    root, problems = parsed("a: &x [1, 2]\nb: *x\nc: [*x, *x]\n")
    assert not problems
    assert root is not None
    assert root.values["b"] is root.values["a"]
    assert root.size == 1 + (1 + 3) + (1 + 3) + (1 + 7)


def test_an_anchor_may_be_used_again() -> None:
    root, problems = parsed("a: &x 1\nb: &x 2\nc: *x\n")
    assert not problems
    assert plain(root) == {"a": 1, "b": 2, "c": 2}


def test_merged_keys_are_weaker_than_own_ones_and_earlier_mappings_stronger() -> None:
    root, problems = parsed("x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  c: 3\n  <<: [*x, *y]\n")
    assert not problems
    assert root is not None
    assert plain(root.values["z"]) == {"c": 3, "a": 1, "b": 1}


def test_a_quoted_merge_key_is_a_key() -> None:
    root, problems = parsed("a: {'<<': 1}\n")
    assert not problems
    assert plain(root) == {"a": {"<<": 1}}


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("a: 1\nb: 2\na: 3\n", ["p:3:1 JP010"]),
        ("a: {<<: {}, <<: {}}\n", ["p:1:13 JP010"]),
        ("a: {<<: 1}\n", ["p:1:9 JP015"]),
        ("a: {<<: [1, {}]}\n", ["p:1:10 JP015"]),
        ("1: a\n? [b]\n: c\n~: d\n", ["p:1:1 JP009", "p:2:3 JP009", "p:4:1 JP009"]),
        ("a: *b\n", ["p:1:4 JP011"]),
        ("a: &b {c: *b}\n", ["p:1:11 JP011"]),
        ("a: !!binary aGk=\nb: !foo [1]\n", ["p:1:4 JP014", "p:2:4 JP014"]),
        ("a: !!map [1]\n", ["p:1:4 JP014"]),
        ("%TAG ! x:\n---\na: 1\n", ["p:1:1 JP014"]),
        ("a: 1\n---\nb: 1\n", ["p:2:1 JP007"]),
        ("", ["p:1:1 JP006"]),
        ("# only a comment\n", ["p:1:1 JP006"]),
        ("--- ~\n", ["p:1:1 JP006"]),
        ("\n- a\n", ["p:2:1 JP008"]),
        ("a text\n", ["p:1:1 JP008"]),
        ("a: \x07\n", ["p:1:4 JP004"]),
        ("a: 1\nb: \x85\n", ["p:2:4 JP004"]),
        ("a: 1\r\nb: \ufeff\n", ["p:2:4 JP004"]),
        ('a: "\\0"\n', ["p:1:4 JP004"]),
        ("a: [1\n", ["p:2:1 JP005"]),
        ('a: "x\n\n\n', ["p:1:4 JP005"]),
        ("a: b: c\n", ["p:1:5 JP005"]),
    ],
)
def test_what_is_wrong_with_the_yaml_is_reported_at_its_place(text: str, problems: list[str]) -> None:
    assert parsed(text)[1] == problems


def test_all_problems_after_which_the_yaml_can_still_be_read_are_reported_at_once() -> None:
    root, problems = parsed("a: 1\na: 2\n3: 4\nb: !x 5\n")
    assert problems == ["p:2:1 JP010", "p:3:1 JP009", "p:4:4 JP014"]
    assert plain(root) == {"a": 1, "b": "5"}


@pytest.mark.parametrize(
    "text",
    ["x: " + "[" * 10_000 + "]" * 10_000, "x: " + "{a: " * 10_000, "x:\n" + "- " * 10_000, "x:\n" + "? " * 10_000],
    ids=["lists", "mappings", "block lists", "block keys"],
)
def test_ten_thousand_levels_are_refused_and_crash_nothing(text: str) -> None:
    _, problems = parsed(text)
    assert [problem.split()[1] for problem in problems] == ["JP012"]


def test_the_deepest_nesting_that_is_allowed() -> None:
    depth = yaml_reader.MAX_DEPTH - 1
    assert parsed("a: " + "[" * depth + "]" * depth)[1] == []
    assert parsed("a: " + "[" * (depth + 1) + "]" * (depth + 1))[1] == [f"p:1:{4 + depth} JP012"]


def test_a_billion_laughs_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert parsed("\n".join(lines))[1] == ["p:6:45 JP013"]


def test_the_number_of_values_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_reader, "MAX_NODES", 10)
    assert parsed("a: [1, 2, 3, 4, 5, 6, 7]\n")[1] == []
    assert parsed("a: [1, 2, 3, 4, 5, 6, 7, 8]\n")[1] == ["p:1:26 JP013"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("a: ä".encode("utf-16"), "p:1:1 JP003 the file is UTF-16"),
        ("a: ä".encode("utf-32"), "p:1:1 JP003 the file is UTF-32"),
        (b"a: 1\nb: \xc3\xa4\xe4\n", "p:2:5 JP003 byte 0xe4 is not UTF-8"),
        (b"a: \xed\xa0\x80\n", "p:1:4 JP003 byte 0xed is not UTF-8"),
    ],
)
def test_only_utf_8_is_read(data: bytes, problem: str) -> None:
    report = Report()
    assert decode(data, "p", report) is None
    (found,) = report.problems()
    assert f"{found.position} {found.code} {found.message}" == problem


def test_a_byte_order_mark_is_no_character() -> None:
    text = decode(b"\xef\xbb\xbfa: 1\n", "p", Report())
    assert text == "a: 1\n"


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    report = Report()
    assert read(tmp_path / "none.yaml", "none.yaml", report) is None
    assert [str(problem) for problem in report.problems()] == [
        "none.yaml:1:1: error JP001: the file cannot be read: No such file or directory"
    ]


def test_a_folder_is_a_problem(tmp_path: Path) -> None:
    report = Report()
    assert read(tmp_path, "folder", report) is None
    assert [problem.code for problem in report.problems()] == ["JP001"]


def test_a_path_with_a_nul_is_a_problem() -> None:
    report = Report()
    assert read(Path("a\0b"), "a", report) is None
    assert [problem.code for problem in report.problems()] == ["JP001"]


def test_a_file_without_end_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_reader, "MAX_BYTES", 1_000)
    report = Report()
    assert read_text(Path("/dev/zero"), "zero", report, limit=1_000) is None
    assert [str(problem) for problem in report.problems()] == [
        "zero:1:1: error JP002: the file is larger than 1,000 bytes"
    ]


def test_the_hint_says_how_such_a_file_begins() -> None:
    report = Report()
    parse("", "p", report)
    parse("", "q", report, hint=None)
    assert [problem.hint for problem in report.problems()] == [PLAN_HINT, None]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a:\n\t- b\n", "YAML does not allow tabs for indentation; use spaces"),
        ("a: @b\n", "a value cannot begin with `@`; put it in quotes"),
        ("a: b: c\n", "a value with a colon and a space in it needs quotes, or the indentation is wrong"),
        ("a: 'b\n", "a quote is opened here and never closed"),
        ("a: [b\nc: d\n", "a bracket or a comma is missing"),
        ("a:\n  - b\n c: d\n", "check the indentation of this line and of the one before it"),
    ],
)
def test_a_syntax_error_says_what_probably_went_wrong(text: str, hint: str) -> None:
    report = Report()
    parse(text, "p", report)
    assert [problem.hint for problem in report.problems()] == [hint]
