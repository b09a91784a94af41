"""`for_each: {chunk: 10}`: what a plan may say about several items for one worker.

The items of a chunk stand in SQL as a list with commas between them, so each has one value: one column, or the name of
a relation. What takes one value cannot take a chunk.
"""

from __future__ import annotations

from runner.errors import JobplanError
from runner.plan.yaml_nodes import Fields, Mapping
from runner.sql.statements import StatementKind, parse_template
from runner.sql.syntax_tree import Tree, unwrap


def read_chunk(for_each: Fields, step: Fields) -> int | None:
    """Return how many items an instance gets at most, None for one each; report what a chunk cannot be combined with.

    `chunk: 1` is the same as no chunk.
    """
    size = for_each.integer("chunk", 1)
    node = for_each.scalar("chunk")
    if node is None or size < 2:
        return None
    if step.has("repeat"):
        message = "`chunk` cannot be combined with `repeat`: a loop has one item"
        for_each.add(node, "JP262", message, hint="leave out `chunk`, or make the loop a step of its own")
    for item in for_each.items("items"):
        if isinstance(item, Mapping) and len(item.values) > 1:
            message = f"an item of a chunk has one column, and this one has {len(item.values)}"
            for_each.add(item, "JP263", message, hint="leave out `chunk`, or keep one column")
    query = for_each.scalar("sql")
    columns = 0 if query is None else _columns(query.text)
    if query is not None and columns > 1:
        message = f"an item of a chunk has one column, and this query returns {columns}"
        for_each.add(query, "JP263", message, hint=_ONE_COLUMN)
    return size


_ONE_COLUMN = "leave out `chunk`, or return one column; a query may sort by others"


def _columns(text: str) -> int:
    """Return how many columns a query names, 0 if that is not known: it may be `*`."""
    try:
        statements = parse_template(text).statements
    except JobplanError:
        return 0
    if len(statements) != 1 or statements[0].kind is not StatementKind.SELECT:
        return 0
    targets = [unwrap(target) for target in statements[0].node.target_list]
    return 0 if any(_is_star(target.val) for target in targets) else len(targets)


def _is_star(value: Tree) -> bool:
    node = unwrap(value)
    fields = node.fields if node.DESCRIPTOR.name == "ColumnRef" else ()
    return any(unwrap(field).DESCRIPTOR.name == "A_Star" for field in fields)
