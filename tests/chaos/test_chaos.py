"""A short campaign of the chaos suite: the real command, real servers, real faults. `make chaos` runs the long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign, Order, summary

SEED = 7
RUNS = 12


@pytest.mark.slow
def test_a_short_campaign_finds_no_violation(tmp_path: Path) -> None:
    order = Order(runs=RUNS, seed=SEED, seconds=None, folder=tmp_path)
    verdicts = Campaign(order, print).carry_out()
    assert sorted(verdict["number"] for verdict in verdicts) == list(range(RUNS))
    assert [violation for verdict in verdicts for violation in verdict["violations"]] == []
    assert sum(len(verdict["faults"]) for verdict in verdicts) >= RUNS // 2, summary(order, verdicts)
    again = Campaign(order, print).carry_out()  # all is done, so nothing is done again
    assert sorted(map(_as_text, again)) == sorted(map(_as_text, verdicts))


def _as_text(verdict: object) -> str:
    return json.dumps(verdict, sort_keys=True)
