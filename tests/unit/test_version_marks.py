"""Every mark of a version names a range and its reason; a test for another version is skipped with both."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import unmet

_TESTS = Path(__file__).parents[1]


def marks() -> Iterator[tuple[str, ast.Call]]:
    """Yield every use of the mark with the file that it is in."""
    for file in sorted(_TESTS.rglob("*.py")):
        if file.name in {"conftest.py", Path(__file__).name}:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.pg":
                yield f"{file.relative_to(_TESTS)}:{node.lineno}", node


def test_every_mark_names_a_range_and_a_reason() -> None:
    found = dict(marks())
    assert len(found) >= 12
    for place, node in found.items():
        (versions,) = node.args
        assert isinstance(versions, ast.Constant), place
        assert re.fullmatch(r"(>=|<) [0-9]{2}", str(versions.value)), place
        assert [keyword.arg for keyword in node.keywords] == ["reason"], place


@pytest.mark.parametrize(
    ("versions", "version", "runs"),
    [
        (">= 17", "17.0", True),
        (">= 17", "16.14 (Debian 16.14-1)", False),
        (">= 17", "18beta1", True),
        ("< 15", "14.23", True),
        ("< 15", "15.1", False),
    ],
)
def test_a_mark_is_met_by_its_versions_only(versions: str, version: str, runs: bool) -> None:
    reason = unmet(pytest.mark.pg(versions, reason="MERGE").mark, version)
    assert (reason is None) is runs
    if reason is not None:
        assert versions in reason
        assert "MERGE" in reason
        assert version in reason
