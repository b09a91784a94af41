"""A plan's graph as text: Mermaid for Markdown, DOT for Graphviz, and a tree for a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import groupby
from types import MappingProxyType

from runner.plan.graph import topological_order
from runner.plan.groups import written_out
from runner.plan.model import Need, NeedOn, Plan, Step
from runner.reports.terminal_text import visible_json
from runner.structs import Struct, replace


class PlanGraph(Struct, frozen=True, kw_only=True):
    """The steps to draw, and those of `finally`, with needs among them only. Groups are written out."""

    name: str
    steps: tuple[Step, ...]
    finally_: tuple[Step, ...]


def plan_graph(plan: Plan, left_out: AbstractSet[str] = frozenset()) -> PlanGraph:
    """Return the graph of a plan without the steps that are left out; single items of a step are not drawn."""
    kept = written_out(replace(plan, steps=tuple(step for step in plan.steps if step.id not in left_out)))
    drawn = tuple(step for step in kept.steps if step.id not in left_out)
    ids = {step.id for step in drawn}
    steps = tuple(replace(step, needs=tuple(need for need in step.needs if need.step in ids)) for step in drawn)
    return PlanGraph(name=plan.name, steps=steps, finally_=kept.finally_)


def _by_group(steps: Iterable[Step]) -> Iterator[tuple[str | None, tuple[Step, ...]]]:
    """Yield the steps in runs of the same group, with its label; None for steps without a group."""
    for group, found in groupby(steps, key=lambda step: step.group):
        members = tuple(found)
        label = _label(replace(members[0], id=group, repeat=None)) if group is not None else None
        yield label, members


def mermaid(graph: PlanGraph) -> str:
    """Write the graph in Mermaid's flowchart syntax; GitHub and GitLab draw it in Markdown.

    Source: https://mermaid.js.org/syntax/flowchart.html
    """
    return "\n".join(_mermaid(graph)) + "\n"


def _mermaid(graph: PlanGraph) -> Iterator[str]:
    numbers = _numbers(graph)
    yield "flowchart LR"
    yield from _mermaid_nodes(graph.steps, numbers, "  ")
    if graph.finally_:
        yield '  subgraph finally["finally"]'
        yield from _mermaid_nodes(graph.finally_, numbers, "    ")
        yield "  end"
    if graph.finally_:
        yield from (f"  {numbers[last]} -.-> finally" for last in _last(graph.steps))
    for step, need in _edges(graph):
        arrow = "-->" if need.on is NeedOn.SUCCESS else f"-. {need.on} .->"
        yield f"  {numbers[need.step]} {arrow} {numbers[step.id]}"
    detached = [numbers[step.id] for step in (*graph.steps, *graph.finally_) if not step.waits]
    if detached:
        yield "  classDef detach stroke-dasharray: 5 4"
        yield f"  class {','.join(detached)} detach"


def _mermaid_nodes(steps: tuple[Step, ...], numbers: Mapping[str, str], indent: str) -> Iterator[str]:
    for group, members in _by_group(steps):
        inner = indent
        if group is not None:
            inner += "  "
            yield f'{indent}subgraph g{numbers[members[0].id]}["{_mermaid_text(group)}"]'
        yield from (f'{inner}{numbers[step.id]}["{_mermaid_text(_short_label(step))}"]' for step in members)
        if group is not None:
            yield f"{indent}end"


def _mermaid_text(text: str) -> str:
    """Escape special characters of a label with Mermaid's character codes."""
    return "".join(
        character if character.isalnum() or character in " _-.,:()[]" else f"#{ord(character)};" for character in text
    )


def dot(graph: PlanGraph) -> str:
    """Write the graph in Graphviz' DOT. Source: https://graphviz.org/doc/info/lang.html"""
    return "\n".join(_dot(graph)) + "\n"


def _dot(graph: PlanGraph) -> Iterator[str]:
    yield f"digraph {_dot_text(graph.name)} {{"
    yield '  graph [rankdir=LR, fontname="sans-serif"]'
    yield '  node [shape=box, style=rounded, fontname="sans-serif"]'
    yield '  edge [fontname="sans-serif", fontsize=10]'
    if graph.finally_:
        yield "  compound=true"
    yield from _dot_nodes(graph.steps, "  ")
    if graph.finally_:
        yield "  subgraph cluster_finally {"
        yield "    label=finally"
        yield from _dot_nodes(graph.finally_, "    ")
        yield "  }"
        first = _dot_text(graph.finally_[0].id)
        for last in _last(graph.steps):
            yield f"  {_dot_text(last)} -> {first} [style=dotted, lhead=cluster_finally]"
    for step, need in _edges(graph):
        style = "" if need.on is NeedOn.SUCCESS else f" [style=dashed, label={need.on}]"
        yield f"  {_dot_text(need.step)} -> {_dot_text(step.id)}{style}"
    yield "}"


def _dot_nodes(steps: tuple[Step, ...], indent: str) -> Iterator[str]:
    for group, members in _by_group(steps):
        inner = indent
        if group is not None:
            inner += "  "
            yield f"{indent}subgraph {_dot_text(f'cluster_{members[0].group}')} {{"
            yield f"{inner}label={_dot_text(group)}"
        yield from (f"{inner}{_dot_node(step)}" for step in members)
        if group is not None:
            yield f"{indent}}}"


def _dot_node(step: Step) -> str:
    style = "" if step.waits else ', style="rounded,dashed"'
    return f"{_dot_text(step.id)} [label={_dot_text(_short_label(step))}{style}]"


def _dot_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def tree(graph: PlanGraph) -> str:
    """Write the graph as a tree: each step under the last step that it needs, with the names of the others.

    A step that is the only one after another step stands below it with an arrow, without indentation: a long chain
    stays narrow.
    """
    lines = list(_tree(graph.steps))
    if graph.finally_:
        after = "  (after all steps, however they end)" if graph.steps else ""
        lines += [f"finally{after}", *(f"  {line}" for line in _tree(graph.finally_))]
    return "\n".join(lines) + "\n"


def _tree(steps: tuple[Step, ...]) -> Iterator[str]:
    by_id = {step.id: step for step in steps}
    order = {name: place for place, name in enumerate(topological_order(_needs(steps)))}
    under: dict[str, list[str]] = {name: [] for name in order}
    parents: dict[str, str | None] = {}
    for name in order:
        parents[name] = max((need.step for need in by_id[name].needs), key=order.__getitem__, default=None)
        under.setdefault(parents[name] or "", []).append(name)
    # name, the prefix of its line, and the prefix of the lines below it
    waiting = [(name, "", "") for name in reversed(under.get("", []))]
    while waiting:
        name, first, rest = waiting.pop()
        yield f"{first}{_described(by_id[name], parents[name])}"
        children = under[name]
        if len(children) == 1:
            waiting.append((children[0], f"{rest}↓ ", rest))
            continue
        for child in reversed(children):
            last = child == children[-1]
            waiting.append((child, f"{rest}{'└─ ' if last else '├─ '}", f"{rest}{'   ' if last else '│  '}"))


def _described(step: Step, parent: str | None) -> str:
    words = [*(f"on {need.on}" for need in step.needs if need.step == parent and need.on is not NeedOn.SUCCESS)]
    others = [
        need.step if need.on is NeedOn.SUCCESS else f"{need.step} on {need.on}"
        for need in step.needs
        if need.step != parent
    ]
    if others:
        words.append(f"also after {', '.join(others)}")
    if not step.waits:
        words.append("detached")
    return f"{_label(step)}  ({'; '.join(words)})" if words else _label(step)


def _label(step: Step) -> str:
    if step.for_each is not None:
        count = len(step.for_each.items)
        chunk = f" in chunks of {step.for_each.chunk}" if step.for_each.chunk is not None else ""
        return f"{step.id} [{f'{count} items' if count else 'items of a query'}{chunk}]"
    if step.repeat is not None and step.repeat.carry:
        return f"{step.id} [in batches]"
    return f"{step.id} [up to {step.repeat.max_iterations} times]" if step.repeat is not None else step.id


def _short_label(step: Step) -> str:
    """Return the label inside the frame of the step's group, which shows the group's id and its items."""
    if step.group is None:
        return _label(step)
    return _label(replace(step, id=step.id.removeprefix(f"{step.group}."), for_each=None))


def _numbers(graph: PlanGraph) -> Mapping[str, str]:
    """Return a numbered name for each node: an id can be a keyword of Mermaid, such as `end`."""
    return {step.id: f"s{number}" for number, step in enumerate((*graph.steps, *graph.finally_), start=1)}


def _edges(graph: PlanGraph) -> Iterator[tuple[Step, Need]]:
    yield from ((step, need) for step in (*graph.steps, *graph.finally_) for need in step.needs)


def _last(steps: tuple[Step, ...]) -> tuple[str, ...]:
    """Return the steps that no other one needs: the steps of `finally` follow them."""
    needed = {need.step for step in steps for need in step.needs}
    return tuple(step.id for step in steps if step.id not in needed)


def _needs(steps: tuple[Step, ...]) -> Mapping[str, tuple[str, ...]]:
    return {step.id: tuple(need.step for need in step.needs) for step in steps}


def _graph_json(graph: PlanGraph) -> str:
    """Write the graph as JSON: each step with what it needs."""
    steps = [
        {
            "id": step.id,
            "needs": [{"step": need.step, "on": str(need.on)} for need in step.needs],
            "finally": in_finally,
            "waits": step.waits,
            "group": step.group,
            "items": len(step.for_each.items) or None if step.for_each is not None else None,
        }
        for in_finally, members in ((False, graph.steps), (True, graph.finally_))
        for step in members
    ]
    return visible_json(json.dumps({"plan": graph.name, "steps": steps}, indent=2, ensure_ascii=False)) + "\n"


#: The forms of `jobplan graph`.
FORMS: Mapping[str, Callable[[PlanGraph], str]] = {"text": tree, "json": _graph_json, "mermaid": mermaid, "dot": dot}


#: What Mermaid draws at most on GitHub (its `maxTextSize` and `maxEdges`), and the steps of a graph that is not folded.
_MOST_TEXT, _MOST_EDGES, _MOST_UNFOLDED = 50_000, 500, 30
#: The colours of steps in a drawn run, readable on a light and on a dark page.
_COLOURS = {
    "succeeded": "fill:#dafbe1,stroke:#1a7f37,color:#1f2328",
    "failed": "fill:#ffebe9,stroke:#cf222e,stroke-width:3px,color:#1f2328",
    "skipped": "fill:#eaeef2,stroke:#8c959f,color:#1f2328",
}


def drawing(
    plan: Plan,
    *,
    title: str,
    left_out: AbstractSet[str] = frozenset(),
    colours: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the graph as Markdown with a Mermaid diagram, which GitHub and GitLab draw; folded if it has many steps.

    `colours` has `succeeded`, `failed` or `skipped` for the ids of steps.
    """
    graph = plan_graph(plan, left_out)
    text = mermaid(graph) + "".join(_coloured(graph, colours))
    steps, edges = len(graph.steps) + len(graph.finally_), sum(1 for _ in _edges(graph))
    if len(text) > _MOST_TEXT or edges > _MOST_EDGES:
        return f"_{title}: {steps} steps are too many to be drawn here; `jobplan graph` prints them._\n"
    unfolded = " open" if steps <= _MOST_UNFOLDED else ""
    return f"<details{unfolded}><summary>{title}</summary>\n\n```mermaid\n{text}```\n\n</details>\n"


def _coloured(graph: PlanGraph, colours: Mapping[str, str]) -> Iterator[str]:
    for name, style in _COLOURS.items():
        numbers = [number for step, number in _numbers(graph).items() if colours.get(step) == name]
        if numbers:
            yield f"  classDef {name} {style}\n  class {','.join(numbers)} {name}\n"
