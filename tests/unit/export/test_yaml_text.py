"""What the writer of manifests writes, a YAML parser reads as the same value."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.export.yaml_text import Commented, yaml_documents

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
SCALARS = st.none() | st.booleans() | st.integers() | TEXTS
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4))
def test_values_stay_the_same(value: dict[str, Any]) -> None:
    assert yaml.safe_load(yaml_documents([value])) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "yes", "No", "null", "~", "1", "1.5", "1e3", "0x1f", "12:30", "2026-11-30", "- a", "a: b", "a #b", " a"),
        *(
            "a\nb",
            "a\nb\n",
            "a\n\n\nb\n\n",
            " a\nb",
            "\na",
            "a\n  b\n",
            "a\tb\nc",
            "a\r\nb",
            "é\n😀\n",
            "\ufeffa\nb",
            "%a",
        ),
        *("a\n ", "#!/bin/sh\nx\n", "a:\n", "---\na\n", "...\n...\n"),
    ],
)
def test_texts_that_look_like_something_else_stay_texts(text: str) -> None:
    value = {"key": text, "list": [text, {"inner": text, "next": 1}, [text]], text or "x": 1}
    assert yaml.safe_load(yaml_documents([value])) == value


def test_a_comment_stands_before_what_it_explains() -> None:
    value = {"list": [Commented({"a": Commented(1, "inner"), "b": 2}, "outer")], "c": Commented("x", "why " * 60)}
    text = yaml_documents([value, {"d": 3}])
    assert text.splitlines()[:5] == ["list:", "# outer", "# inner", "- a: 1", "  b: 2"]
    assert list(yaml.safe_load_all(text)) == [{"list": [{"a": 1, "b": 2}], "c": "x"}, {"d": 3}]
    assert max(map(len, text.splitlines())) <= 112
