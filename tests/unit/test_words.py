"""The checker of words: it finds a listed word in prose and in names, and keeps its list of exceptions true."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RULES: dict[str, Any] = {
    "words": [
        {"pattern": "(no|some)body", "say": "user, role, session"},
        {"pattern": "told|lets? go of", "say": "report; detach"},
    ],
    "exceptions": [{"path": "a.py", "text": "account nobody", "reason": "the name of a Unix account"}],
}


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    """The script as a module: it is not in a package."""
    spec = importlib.util.spec_from_file_location("check_words", ROOT / ".ci/check_words.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("the role is told", "told"),
        ("def test_a_role_is_told() -> None:", "told"),
        ("TOLD = 5", "TOLD"),
        ("lets go of the worker", "lets go of"),
        ("def lets_go_of(worker):", "lets_go_of"),
        ("Nobody waits", "Nobody"),
    ],
)
def test_a_listed_word_is_found_in_prose_and_in_names(checker: ModuleType, line: str, found: str) -> None:
    (message,) = checker.Words(RULES).find("b.py", ["", line])
    assert message.startswith(f"b.py:2: “{found}”: say ")


@pytest.mark.parametrize("line", ["retold", "bodyguard", "a plain sentence", "letting go", "toldness"])
def test_a_word_that_only_contains_a_listed_one_is_not_found(checker: ModuleType, line: str) -> None:
    assert list(checker.Words(RULES).find("b.py", [line])) == []


def test_an_exception_is_for_its_file_and_its_text_only(checker: ModuleType) -> None:
    words = checker.Words(RULES)
    assert list(words.find("a.py", ["chown to the account nobody"])) == []
    assert len(list(words.find("a.py", ["nobody waits"]))) == 1
    assert len(list(words.find("b.py", ["chown to the account nobody"]))) == 1
    assert list(words.unused()) == []


def test_an_exception_that_matches_nothing_is_reported(checker: ModuleType) -> None:
    words = checker.Words(RULES)
    assert list(words.find("a.py", ["a plain sentence"])) == []
    (message,) = words.unused()
    assert "a.py matches nothing: account nobody" in message


def test_every_exception_of_the_project_has_a_reason() -> None:
    rules = tomllib.loads((ROOT / ".ci/words.toml").read_text(encoding="utf-8"))
    assert all(one["reason"].strip() for one in rules.get("exceptions", []))
    assert all(word["say"].strip() for word in rules["words"])
