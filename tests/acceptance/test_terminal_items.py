"""The live terminal with 60 items, long identifiers and a failure, on a real pseudo-terminal at two sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.console import Database, Jobplan
from tests.acceptance.test_terminal import Terminal

ITEM = "measurement_by_sensor_and_day_y2026m{:02d}_with_a_long_suffix"
SINGLES = ("refresh_the_materialized_views_of_the_reporting_schema", "analyze_what_has_changed_since_yesterday")
STEPS = f"""
- id: partitions
  timeout: 10m
  for_each:
    as: name
    sql: >-
      SELECT 'measurement_by_sensor_and_day_y2026m' || lpad(n::text, 2, '0') || '_with_a_long_suffix' AS name
      FROM generate_series(1, 60) n
  sql: "SELECT CASE WHEN :'name' LIKE '%m07%' THEN 1/0 ELSE 1 END; SELECT pg_sleep(0.3)"
- {{id: {SINGLES[0]}, sql: SELECT pg_sleep(4), timeout: 10m}}
- {{id: {SINGLES[1]}, sql: SELECT pg_sleep(3), timeout: 10m}}
- {{id: report, needs: [partitions], sql: SELECT 1}}
"""


@pytest.fixture
def terminals(jobplan: Jobplan) -> Iterator[Callable[..., Terminal]]:
    """Open terminals in the test's folder; a command that still runs at the end is ended."""
    opened: list[Terminal] = []

    def open_one(*arguments: object, size: tuple[int, int]) -> Terminal:
        opened.append(Terminal(jobplan.folder, *map(str, arguments), size=size))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.process.close(force=True)


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
def test_items_are_folded_and_nothing_is_broken_or_cut(
    jobplan: Jobplan, db: Database, terminals: Callable[..., Terminal], size: tuple[int, int]
) -> None:
    plan = jobplan.plan(STEPS, budget="{slots: 4}", name="nightly_maintenance_of_the_warehouse_partitions")
    terminal = terminals("run", plan, "--dsn", db.dsn, size=size)
    counts = re.compile(r"partitions +(\d+)/60 done, 1 failed, (\d+) running, (\d+) queued$")

    def is_under_way(lines: list[str]) -> bool:
        rows = [found for line in lines if (found := counts.search(line))]
        hint = any(line.startswith("Ctrl-C: start no further steps; running ones end as") for line in lines)
        return bool(rows) and hint and any(ITEM.format(7) in line and "failed" in line for line in lines)

    shown = terminal.until(is_under_way)
    assert len(shown) <= size[1]
    (row,) = [found for line in shown if (found := counts.search(line))]
    assert sum(map(int, row.groups())) == 59
    (bar,) = [line for line in shown if line.startswith("━")]
    assert re.search(r" [012]/4 steps done  \d+/60 items done, 1 failed( |$)", bar)
    assert any(re.search(r"slots \d/4", line) for line in shown)
    text = "\n".join(shown)
    assert not any(symbol in text for symbol in "▶▷")
    for name in re.findall(r"(?:measurement|refresh|analyze)_\w*", text):
        assert name in {*SINGLES, *(ITEM.format(number) for number in range(1, 61))}, name
    assert terminal.ended() == 1
    end = " ".join(" ".join(line.strip() for line in terminal.shown).split())
    assert re.search(r"failed: 2 succeeded, 1 failed, 1 skipped in \S+; 60 items: 59 succeeded, 1 failed", end)
    assert f"What went wrong: step partitions[{ITEM.format(7)}]: division by zero" in end


@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
def test_show_fits_the_terminal(
    jobplan: Jobplan, db: Database, terminals: Callable[..., Terminal], size: tuple[int, int]
) -> None:
    plan = jobplan.plan(STEPS.replace("0.3", "0").replace("(4)", "(0)").replace("(3)", "(0)"), budget="{slots: 4}")
    assert jobplan("run", plan, "--dsn", db.dsn).code == 1
    terminal = terminals("show", "last", size=size)
    assert terminal.ended() == 0
    shown = terminal.shown
    text = "\n".join(shown)
    assert "59/60 done, 1 failed" in text
    assert len([line for line in shown if line.startswith("partitions[")]) == 1
    for name in re.findall(r"(?:measurement|refresh|analyze)_\w*", text):
        assert name in {*SINGLES, ITEM.format(7)}, name
