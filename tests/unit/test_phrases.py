"""Counts and lists in sentences."""

from __future__ import annotations

from runner.phrases import counted, counts, ended, listed, some


def test_large_numbers_are_grouped_in_every_form() -> None:
    assert [counted(number, "step") for number in (0, 1, 2, 1234)] == ["0 steps", "1 step", "2 steps", "1,234 steps"]
    assert counts({"error": 1234, "note": 0, "warning": 1}) == "1,234 errors, 1 warning"
    assert counts({"error": 0}) == ""
    assert some([str(number) for number in range(1237)], 3) == "0, 1, 2 and 1,234 more"
    assert some([]) == "nothing"


def test_words_are_listed_and_sentences_ended() -> None:
    assert listed(["a"]) == "`a`"
    assert listed(["a", "b", "c"]) == "`a`, `b` or `c`"
    assert [ended(text) for text in ("so", "so.", "so?")] == ["so.", "so.", "so?"]
