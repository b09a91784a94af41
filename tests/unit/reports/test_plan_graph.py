"""A plan's graph as a tree, as Mermaid and as DOT."""

from __future__ import annotations

import re

import pytest

from runner.plan.model import ForEach, Need, NeedOn, Repeat
from runner.reports.plan_graph import FORMS, dot, mermaid, plan_graph, tree
from tests.unit.report_samples import sql
from tests.unit.simulated_runs import IDLE, plan, step

PLAN = plan(
    step("end"),
    step("left", "end"),
    step("right", "end", for_each=ForEach(as_="t", items=("a", "b"))),
    step("both", "left", "right"),
    step("rescue", Need(step="both", on=NeedOn.FAILURE)),
    step("after", "both", repeat=Repeat(max_iterations=7), **IDLE),
    step("alone", for_each=ForEach(as_="t", sql=sql("SELECT 1"))),
    finally_=(step("note"), step("mail", "note")),
)


def test_the_tree() -> None:
    assert tree(plan_graph(PLAN)) == (
        "end\n"
        "├─ left\n"
        "└─ right [2 items]\n"
        "   ↓ both  (also after left)\n"
        "   ├─ rescue  (on failure)\n"
        "   └─ after [up to 7 times]  (detached)\n"
        "alone [items of a query]\n"
        "finally  (after all steps, however they end)\n"
        "  note\n"
        "  ↓ mail\n"
    )


def test_a_long_chain_stays_narrow_and_nothing_recurses() -> None:
    steps = [step("s0"), *(step(f"s{number}", f"s{number - 1}") for number in range(1, 3000))]
    lines = tree(plan_graph(plan(*steps))).splitlines()
    assert len(lines) == 3000
    assert max(map(len, lines)) == len("↓ s2999")


def test_mermaid_names_nodes_by_numbers_and_labels_them() -> None:
    lines = mermaid(plan_graph(PLAN)).splitlines()
    assert lines[0] == "flowchart LR"
    assert '  s1["end"]' in lines
    assert '  s3["right [2 items]"]' in lines
    assert "  s1 --> s2" in lines
    assert "  s4 -. failure .-> s5" in lines
    assert '  subgraph finally["finally"]' in lines
    assert "  class s6 detach" in lines
    after = [line.strip() for line in lines if line.endswith("-.-> finally")]
    assert after == [f"s{number} -.-> finally" for number in (5, 6, 7)]  # the steps that no other one needs


def test_dot() -> None:
    text = dot(plan_graph(PLAN))
    assert text.startswith('digraph "table" {\n')
    assert '  "end" -> "left"\n' in text
    assert '  "both" -> "rescue" [style=dashed, label=failure]\n' in text
    assert text.count("{") == text.count("}") == 2
    assert "  compound=true\n" in text
    for last in ("rescue", "after", "alone"):
        assert f'  "{last}" -> "note" [style=dotted, lhead=cluster_finally]\n' in text
    assert text.count("lhead=cluster_finally") == 3


@pytest.mark.parametrize("form", ["text", "mermaid", "dot"])
def test_without_finally_nothing_is_connected_to_it(form: str) -> None:
    text = FORMS[form](plan_graph(plan(step("a"), step("b", "a"))))
    assert "finally" not in text
    assert "compound" not in text


def test_labels_are_escaped() -> None:
    odd = plan_graph(plan(step('a"]\\<b>')))
    assert re.search(r's1\["a#34;\]#92;#60;b#62;"\]', mermaid(odd))
    assert '"a\\"]\\\\<b>" [label=' in dot(odd)


def test_steps_left_out_take_their_edges_with_them() -> None:
    for form in FORMS.values():
        text = form(plan_graph(PLAN, frozenset({"right", "alone"})))
        assert "right" not in text
        assert "both" in text
