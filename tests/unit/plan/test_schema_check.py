"""The schema file, and our reading of it against jsonschema's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from referencing import Registry
from referencing.jsonschema import DRAFT7

from runner.plan.problem_collector import Report
from runner.plan.schema_check import check_shape, compile_check, schema, schema_text
from runner.plan.yaml_nodes import Mapping, Node, Scalar, UnusableNodes
from runner.plan.yaml_reader import parse

_PLANS = Path(__file__).parents[2] / "plans"
_STEP_ONLY = {"id", "sql", "sql_file", "steps", "include", "needs", "window"}


def plain(node: Node) -> Any:
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.values.items()}
    return [plain(item) for item in node.items]


def root_of(text: str) -> Mapping:
    root = parse(text, "p", Report())
    assert root is not None
    return root


def agree(root: Node) -> None:
    report = Report()
    check_shape(root, report)
    theirs = jsonschema.Draft7Validator(schema()).is_valid(plain(root))
    assert (not report.problems()) == theirs, [str(problem) for problem in report.problems()]


def test_the_schema_is_draft_7() -> None:
    jsonschema.Draft7Validator.check_schema(schema())
    assert schema()["$schema"] == "http://json-schema.org/draft-07/schema#"


def test_the_text_is_the_file_in_the_checkout() -> None:
    file = _PLANS.parents[1] / "schemas" / "plan-v1.schema.json"
    assert schema_text() == file.read_text()


def test_every_property_has_a_description_and_every_object_is_closed() -> None:
    def check(part: object, place: str) -> None:
        if isinstance(part, list):
            for item in part:
                check(item, place)
        if not isinstance(part, dict):
            return
        for key, value in part.get("properties", {}).items():
            assert "description" in value or value["$ref"].endswith(f"/step/properties/{key}"), f"{place}.{key}"
        if part.get("type") == "object":
            assert "additionalProperties" in part, place
        for key, value in part.items():
            check(value, f"{place}.{key}")

    check(schema(), "")


def test_defaults_have_every_key_of_a_step_but_those_that_only_one_step_can_have() -> None:
    step = schema()["definitions"]["step"]["properties"]
    assert set(schema()["properties"]["defaults"]["properties"]) == set(step) - _STEP_ONLY


@pytest.mark.parametrize("path", sorted(_PLANS.glob("*valid/*.yaml")), ids=lambda path: path.stem)
def test_we_and_jsonschema_agree_on_every_plan_of_the_corpus(path: Path) -> None:
    try:
        root = parse(path.read_bytes().decode(), str(path), Report())
    except UnicodeDecodeError:
        root = None
    if root is not None:
        agree(root)
    assert path.exists()


_WORDS = st.sampled_from(
    ["a", "b", "wait", "cancel", "10m", "none", "64kB", ">=14", "SELECT 1", "integer", "no_rows", "", "A b", "true"]
)
_SCALARS = _WORDS | st.integers(-2, 101) | st.sampled_from([0.5, 2.0, True, False, None])
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=3), max_leaves=6
)


def _paths(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [inner for key, item in pairs for inner in _paths(item, (*path, key))]


_EVERY_KEY = plain(root_of((_PLANS / "valid" / "every_key.yaml").read_text()))
_EVERY_PATH = _paths(_EVERY_KEY)


@given(st.lists(st.tuples(st.sampled_from(_EVERY_PATH), st.none() | _VALUES), min_size=1, max_size=3))
def test_we_and_jsonschema_agree_on_mutated_plans(changes: list[tuple[tuple[Any, ...], object]]) -> None:
    plan = json.loads(json.dumps(_EVERY_KEY))
    for path, value in changes:
        place = plan
        for key in path[:-1]:
            place = place[key] if _has(place, key) else None
        if place is None or not _has(place, path[-1]):
            continue
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value
    agree(root_of(yaml.safe_dump(plan, sort_keys=False) or "{}"))


def _has(place: object, key: object) -> bool:
    if isinstance(place, dict):
        return key in place
    return isinstance(place, list) and isinstance(key, int) and key < len(place)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "string", "format": "date"},
        {"type": "object", "dependencies": {}},
        {"anyOf": [{"type": "string"}, {"type": "string"}]},
        {"type": "object", "patternProperties": {"^a|b": {}}},
        {"$ref": "#/definitions/id", "minLength": 3},
    ],
)
def test_what_the_schema_cannot_say_to_us_is_an_error(part: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not known here|of type string|one plain prefix"):
        compile_check({"definitions": {"id": {"type": "string"}}}, part)


def test_unusable_values_are_known_by_their_identity() -> None:
    root = root_of("version: 1\nname: Bad Name\nbudget: {slots: 1}\nsteps: [x]\n")
    unusable = check_shape(root, Report())
    assert root.values["name"] in unusable
    assert root.values["budget"] not in unusable
    same = root_of("version: 1\nname: Bad Name\nbudget: {slots: 1}\nsteps: [x]\n").values["name"]
    assert same not in unusable
    assert same in check_shape(root_of("version: 1"), Report()) | UnusableNodes([same])


def test_an_included_file_follows_the_fragment_that_the_schema_s_id_names() -> None:
    identity = schema()["$id"]
    assert identity == "urn:jobplan:schema:plan-v1"
    registry: Registry[Any] = Registry().with_resource(identity, DRAFT7.create_resource(schema()))
    fragment = jsonschema.Draft7Validator({"$ref": f"{identity}#/definitions/fragment"}, registry=registry)
    whole = jsonschema.Draft7Validator(schema())
    included = {"steps": [{"id": "a", "sql": "VACUUM"}]}
    assert fragment.is_valid(included)
    assert not whole.is_valid(included)
    assert not fragment.is_valid({**included, "budget": {"slots": 1}})
    assert not fragment.is_valid({"steps": []})
