"""Every plan under tests/plans: the valid ones load, the invalid ones give exactly the problems beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.codes import CODES
from runner.plan import Loaded, load_plan
from runner.plan.problem_collector import Report
from runner.plan.schema_check import schema
from runner.plan.yaml_nodes import Mapping, Node, Sequence
from runner.plan.yaml_reader import read

_PLANS = Path(__file__).parents[2] / "plans"
_VALID = sorted((_PLANS / "valid").glob("*.yaml"))
_INVALID = sorted(path for path in (_PLANS / "invalid").glob("*.yaml") if not path.name.endswith(".given.yaml"))
_SHIPPED = sorted((_PLANS.parents[1] / "plans").glob("*.yaml"))

#: Shown by other tests, because a repository is no place for such files.
_SHOWN_ELSEWHERE = {
    *("JP001", "JP002", "JP016"),
    *("JP270", "JP271", "JP272", "JP273", "JP274"),  # targets files: tests/unit/fleet/test_targets.py
    *("JP275", "JP276", "JP277"),  # settings: tests/unit/project/test_settings.py
}


def load(path: Path) -> Loaded:
    given = path.with_suffix(".given.yaml")
    params_file = given if given.exists() else None
    return load_plan(path, params_file=params_file, require_values=given.exists())


@pytest.mark.parametrize("path", _VALID, ids=lambda path: path.stem)
def test_a_valid_plan_has_no_problems(path: Path) -> None:
    loaded = load(path)
    assert [str(problem) for problem in loaded.problems] == []
    assert loaded.plan is not None


@pytest.mark.parametrize("path", _SHIPPED, ids=lambda path: path.stem)
def test_a_plan_that_is_shipped_is_valid_and_supported(path: Path) -> None:
    loaded = load_plan(path)
    assert [str(problem) for problem in loaded.problems] == []
    assert loaded.plan is not None


@pytest.mark.parametrize("path", _INVALID, ids=lambda path: path.stem)
def test_an_invalid_plan_has_exactly_the_problems_beside_it(path: Path) -> None:
    loaded = load(path)
    reported = [str(problem).replace(f"{path.parent}/", "") for problem in loaded.problems]
    assert reported == path.with_suffix(".problems").read_text().splitlines()
    assert loaded.plan is None


@pytest.mark.parametrize("path", _INVALID, ids=lambda path: path.stem)
def test_every_problem_stands_at_a_place_that_exists(path: Path) -> None:
    for problem in load(path).problems:
        place = problem.position
        lines = Path(place.file).read_bytes().decode(errors="replace").split("\n")
        assert 1 <= place.line <= len(lines)
        assert 1 <= place.column <= len(lines[place.line - 1]) + 1


def test_every_code_has_an_invalid_plan() -> None:
    reported = "".join(path.with_suffix(".problems").read_text() for path in _INVALID)
    codes = {code for code in CODES if code < "JP300"}
    assert codes - set(re.findall(r"(?:error|warning) (JP\d{3}):", reported)) == _SHOWN_ELSEWHERE


def test_every_key_of_the_language_is_in_a_valid_plan() -> None:
    used = {place for path in _VALID for place in _places(path, schema())}
    fragment = schema()["definitions"]["fragment"]
    for path in (_PLANS / "valid" / "parts").glob("*.yaml"):
        used |= _places(path, fragment)
    assert sorted(_keys(schema()) - used) == []


def _resolve(part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        pointer = part["$ref"]
        part = schema()
        for name in pointer.removeprefix("#/").split("/"):
            part = part[name]
    return part


def _keys(part: object) -> set[tuple[str, str]]:
    """Return every property of the schema, as (the properties that stand with it, its name)."""
    if isinstance(part, list):
        return {place for item in part for place in _keys(item)}
    if not isinstance(part, dict):
        return set()
    found = {place for value in part.values() for place in _keys(value)}
    properties = part.get("properties")
    if isinstance(properties, dict) and part.get("type") == "object":
        found |= {(_title(part), name) for name in properties}
    return found


def _title(part: dict[str, Any]) -> str:
    return json.dumps(sorted(part["properties"]))


def _places(path: Path, part: dict[str, Any]) -> set[tuple[str, str]]:
    root = read(path, str(path), Report())
    assert root is not None
    return set(_used(root, part))


def _used(node: Node, part: dict[str, Any]) -> Iterator[tuple[str, str]]:
    part = _resolve(part)
    for branch in part.get("anyOf", ()):
        wanted = _resolve(branch).get("type")
        if (wanted == "object") == isinstance(node, Mapping) and (wanted == "array") == isinstance(node, Sequence):
            yield from _used(node, branch)
    if isinstance(node, Mapping):
        for key, value in node.values.items():
            if key in part.get("properties", {}):
                yield (_title(part), key)
                yield from _used(value, part["properties"][key])
            elif isinstance(part.get("additionalProperties"), dict):
                yield from _used(value, part["additionalProperties"])
    elif isinstance(node, Sequence) and "items" in part:
        for item in node.items:
            yield from _used(item, part["items"])
