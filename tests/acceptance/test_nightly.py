"""Nightly scripts of DBAs, as plans: each validates, is dry-run without an error, and runs two nights in a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.console import Database, Jobplan

FOLDER = Path(__file__).parent / "nightly"
PLANS = sorted(FOLDER.glob("*.yaml"))
#: What each plan says about its work, as its last steps report it.
RESULTS = {
    "archive-orders": "move: succeeded",
    "quality": "no_doubles: failed, as allowed",
    "purge-sessions": "note: succeeded",
}


def test_there_are_ten() -> None:
    assert len(PLANS) == 10


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_nightly_plan(path: Path, jobplan: Jobplan, db: Database) -> None:
    db.run((FOLDER / "setup.sql").read_text(encoding="utf-8"))
    checked = jobplan("validate", path)
    assert checked.code == 0, checked.out
    looked = jobplan("dry-run", path, "--dsn", db.dsn)
    assert looked.code == 0, looked.out
    for _ in range(2):  # tonight, and tomorrow night
        ran = jobplan("run", path, "--dsn", db.dsn)
        assert ran.code == 0, ran.err
    shown = jobplan("show", "last")
    assert shown.code == 0
    assert "succeeded" in shown.out
