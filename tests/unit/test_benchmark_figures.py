"""The arithmetic behind the table of benchmarks."""

from __future__ import annotations

from benchmarks.figures import Figure, at_least, below, ratios, table, take_turns


def test_a_figure_is_the_middle_of_its_rounds_and_stands_to_its_target() -> None:
    figure = Figure.median("b", "w", [0.9, 0.7, 0.86], "", at_least(0.85))
    assert figure.value == 0.86
    assert figure.verdict == "met"
    assert Figure.median("b", "w", [0.8], "", at_least(0.85)).verdict == "MISSED"
    assert Figure.median("b", "w", [300.0], "ms", below(300)).verdict == "MISSED"
    assert Figure.median("b", "w", [1.0], "ms").verdict == ""


def test_sides_alternate_and_so_does_the_first_one() -> None:
    order: list[str] = []

    def side(name: str, value: float) -> float:
        order.append(name)
        return value

    taken = take_turns({"a": lambda: side("a", 1.0), "b": lambda: side("b", 2.0)}, 3)
    assert taken == {"a": [1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0]}
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert ratios(taken["a"], taken["b"]) == [0.5, 0.5, 0.5]


def test_the_table_shows_the_spread_of_several_rounds_only() -> None:
    figures = [
        Figure.median("startup", "help", [120.4, 101.2, 99.0], "ms", below(150)),
        Figure(benchmark="idle", what="CPU", value=0.512, unit="% of a core"),
    ]
    lines = table(figures).splitlines()
    assert lines[0].split() == ["benchmark", "what", "value", "spread", "target"]
    assert lines[2].split() == ["startup", "help", "101", "ms", "99", "…", "120", "<", "150", "met"]
    assert lines[3].split() == ["idle", "CPU", "0.512", "%", "of", "a", "core"]


def test_json_keeps_the_rounds_and_the_verdict() -> None:
    data = Figure.median("b", "w", [2.0, 1.0], "s", below(2)).as_json()
    assert data["samples"] == (2.0, 1.0)
    assert data["target"] == "< 2"
    assert data["met"] is True
