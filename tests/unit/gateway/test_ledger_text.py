"""Texts of the ledger in databases whose encoding lacks characters."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.gateway.ledger.storage import read, read_event, stored, stored_event, stored_json

TEXTS = st.text(max_size=8) | st.sampled_from(["U&", "U&x", "U&\\0041", "\\", "a\\0416", "\U0001f600", "Ж\\", "U&U&"])
EVENTS = st.dictionaries(
    TEXTS,
    st.recursive(
        TEXTS | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@given(TEXTS, st.booleans())
def test_what_is_read_is_what_was_stored(text: str, unicode: bool) -> None:
    assert read(stored(text, unicode=unicode)) == text


@given(TEXTS)
def test_what_is_stored_where_characters_are_missing_is_ascii(text: str) -> None:
    assert stored(text, unicode=False).isascii()


@given(EVENTS, st.booleans(), st.booleans())
def test_events_come_back_as_they_were(event: dict[str, object], unicode: bool, ascii_only: bool) -> None:
    kept = stored_event(json.dumps(event, ensure_ascii=ascii_only), unicode=unicode)
    assert read_event(json.loads(kept)) == event
    escapes = kept.replace("\\\\", "")  # an escaped backslash begins no escape
    control = ("\\u001", "\\u000", "\\u007f")
    for allowed in control:
        escapes = escapes.replace(allowed, "")
    assert unicode or (kept.isascii() and "\\u00" not in escapes)


@pytest.mark.parametrize("text", ["\\u00", "\\\\u00e9", "U&\\u00"])
def test_a_backslash_before_what_looks_like_an_escape_comes_back(text: str) -> None:
    kept = stored_event(json.dumps({text: text}), unicode=False)
    assert read_event(json.loads(kept)) == {text: text}


@given(EVENTS)
def test_json_that_is_kept_as_it_is_says_the_same(event: dict[str, object]) -> None:
    kept = stored_json(json.dumps(event, ensure_ascii=False), unicode=False)
    assert kept.isascii()
    assert json.loads(kept) == event


def test_a_text_of_ascii_is_stored_as_it_is_so_that_queries_find_it() -> None:
    for unicode in (True, False):
        assert stored("load[a\\b]", unicode=unicode) == "load[a\\b]"
    assert stored("load[Ж]", unicode=True) == "load[Ж]"
    assert stored("load[Ж]", unicode=False) == "U&load[\\0416]"
