"""Drafts of malformed plans: a dry run checks their SQL although their needs cannot be met."""

from pathlib import Path

import pytest

from runner.lint import check_plan
from runner.plan.graph import topological_order
from runner.plan.groups import written_steps
from runner.preflight.dry_run import readable_draft

_HEAD = "version: 1\nname: p\nbudget: {slots: 1}\ndefaults: {timeout: 1m, on_finish: wait}\nsteps:\n"


@pytest.mark.parametrize(
    ("steps", "order"),
    [
        pytest.param(
            "  - {id: a, sql: SELECT 1, needs: [b]}\n  - {id: b, sql: SELECT 1, needs: [a]}\n",
            ("a", "b"),
            id="a cycle",
        ),
        pytest.param(
            "  - {id: a, sql: SELECT 1, needs: [b, c]}\n  - {id: b, sql: SELECT 1, needs: [a]}\n"
            "  - {id: c, sql: SELECT 1, needs: [d, a]}\n  - {id: d, sql: SELECT 1, needs: [c]}\n",
            ("a", "b", "c", "d"),
            id="two cycles that are connected",
        ),
        pytest.param(
            "  - id: g\n    steps:\n      - {id: one, sql: SELECT 1, needs: [two]}\n"
            "      - {id: two, sql: SELECT 1, needs: [one, none]}\n      - {id: two, sql: SELECT 2}\n"
            "  - {id: last, sql: SELECT 1, needs: [g]}\n",
            ("g.one", "g.two", "last"),
            id="a cycle and an id twice in a group",
        ),
    ],
)
def test_the_steps_of_a_readable_draft_have_an_order(tmp_path: Path, steps: str, order: tuple[str, ...]) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(_HEAD + steps)
    draft = check_plan(plan).draft
    assert draft is not None
    written = written_steps(readable_draft(draft))
    needs = {step.id: [need.step for need in step.needs] for step in written}
    assert topological_order(needs) == order
    assert len(written) == len(order)
