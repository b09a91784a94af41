"""The registry of codes, and the table of PostgreSQL's errors."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg.errors
import pytest

from runner.codes import CODES
from runner.plan.sqlstates import CONDITIONS, sqlstates

_PLAN = Path(__file__).parents[3] / "runner" / "plan"
_FLEET = Path(__file__).parents[3] / "runner" / "fleet"
_PROJECT = Path(__file__).parents[3] / "runner" / "project"


def test_every_code_that_is_used_is_registered_and_the_other_way_round() -> None:
    sources = (path.read_text() for folder in (_PLAN, _FLEET, _PROJECT) for path in folder.glob("*.py"))
    used = {code for source in sources for code in re.findall(r'"(JP\d{3})"', source)}
    assert used == {code for code in CODES if code < "JP300"}


def _condition(name: str) -> str:
    """Return a class's name as PostgreSQL writes it; psycopg reports the second of two SQLSTATEs by `Ext`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Ext")).lower()


def test_the_driver_knows_the_same_errors() -> None:
    classes = (item for item in vars(psycopg.errors).values() if isinstance(item, type))
    theirs: dict[str, set[str]] = {}
    for item in classes:
        sqlstate = getattr(item, "sqlstate", None)
        if isinstance(sqlstate, str) and sqlstate[:2] not in ("00", "01", "02"):
            theirs.setdefault(_condition(item.__name__), set()).add(sqlstate)
    ours = {name: set(states) for name, states in CONDITIONS.items()}
    assert {name for name in ours if name in theirs and not ours[name] >= theirs[name]} == set()
    assert len(ours.keys() & theirs.keys()) > 200
    assert {state for states in theirs.values() for state in states} <= {state for s in ours.values() for state in s}


@pytest.mark.parametrize(
    ("condition", "states"),
    [
        ("deadlock_detected", ("40P01",)),
        ("reading_sql_data_not_permitted", ("2F004", "38004")),
        ("40001", ("40001",)),
        ("ZX001", ("ZX001",)),
    ],
)
def test_a_condition_stands_for_its_sqlstates(condition: str, states: tuple[str, ...]) -> None:
    assert sqlstates(condition) == states


@pytest.mark.parametrize("condition", ["00000", "01004", "02000", "deadlock", "4000", "40p01", ""])
def test_what_is_no_error(condition: str) -> None:
    with pytest.raises(KeyError):
        sqlstates(condition)
