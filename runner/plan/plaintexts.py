"""Find parameters in keys that take none, where the parameter's name would be used as text.

The few keys that take parameters are listed; every other key is checked, so that a new key cannot be forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from typing import Final

from runner.errors import Severity
from runner.plan.fields import Fields
from runner.plan.nodes import Mapping, Node, Scalar, Sequence
from runner.plan.report import Report
from runner.plan.scope import RUN_NAMES, RUN_STATUS

#: Keys whose texts may contain parameters; other modules read them. `params` declares parameters.
_TAKE_PARAMETERS: Final = frozenset(
    {"sql", "if", "verify", "until", "role", "search_path", "settings", "touches", "params"}
)
#: Keys whose texts are only displayed.
_SHOWN: Final = frozenset({"description", "owner", "tags", "message"})
#: A word after a colon that does not follow a letter: `at 10:days` is a text, `of :days` is not.
_REFERENCE: Final = re.compile(
    r"""(?<![:\w]):(?:'(?P<literal>[\w.]+)'|"(?P<identifier>[\w.]+)"|(?P<bare>[A-Za-z_]\w*)(?!\w))"""
)


def check_plain_texts(file: Fields, params: Collection[str], report: Report) -> None:
    """Report each parameter in a text that takes none: an error, or a warning if the text is only displayed."""
    known = {*params, *RUN_NAMES, RUN_STATUS}
    for key, node in file.pairs():
        if key in ("steps", "finally") and isinstance(node, Sequence):
            for step in node.items:
                _check(key, step, known | _items_of(step), report, step=_id_of(step))
        elif key != "params" and not key.startswith("x-"):
            _check(key, node, known, report, step=None)


def _check(key: str, node: Node, known: AbstractSet[str], report: Report, *, step: str | None) -> None:
    take = frozenset({"sql"}) if key == "requires" else _TAKE_PARAMETERS
    for name, scalar in _texts(key, node, take):
        for found in _REFERENCE.finditer(scalar.text):
            reference = found["literal"] or found["identifier"] or found["bare"]
            if known.isdisjoint({reference, reference.partition(".")[0]}) or report.has_at(scalar.position):
                continue
            if name in _SHOWN:
                message = f"`{name}` takes no parameters: `{found.group()}` would be displayed as text"
                hint = "leave out the colon"
                report.add(scalar, "JP241", message, hint=hint, step=step, severity=Severity.WARNING)
            else:
                message = f"`{name}` takes no parameters: `{found.group()}` would be used as text"
                report.add(scalar, "JP240", message, hint="write the value itself", step=step)
            break


def _texts(key: str, node: Node, take: AbstractSet[str]) -> Iterator[tuple[str, Scalar]]:
    """Yield each scalar that may not contain parameters, with its key; the keys in `take` are left out."""
    if isinstance(node, Scalar):
        if ":" in node.text:
            yield key, node
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from _texts(key, item, take)
    elif isinstance(node, Mapping):
        for name, value in node.values.items():
            if name not in take and not name.startswith("x-"):
                yield from _texts(name, value, take)


def _items_of(step: Node) -> set[str]:
    """Return the name of a step's item; its columns follow a dot and are not part of the name."""
    for_each = step.values.get("for_each") if isinstance(step, Mapping) else None
    as_ = for_each.values.get("as") if isinstance(for_each, Mapping) else None
    return {as_.text} if isinstance(as_, Scalar) else {"item"} if for_each is not None else set()


def _id_of(step: Node) -> str | None:
    id_ = step.values.get("id") if isinstance(step, Mapping) else None
    return id_.text if isinstance(id_, Scalar) else None
