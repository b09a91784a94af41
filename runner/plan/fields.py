"""Typed access to a mapping of the plan. A value that the schema does not allow reads as absent."""

from __future__ import annotations

import enum
from collections.abc import KeysView
from collections.abc import Mapping as MappingABC
from functools import lru_cache
from typing import TypeVar

from runner.durations import parse_duration
from runner.errors import Cause, Position, Severity
from runner.plan.nodes import Mapping, Node, Scalar, Sequence
from runner.plan.report import Placed, Report

_Choice = TypeVar("_Choice", bound=enum.StrEnum)

_NONE = "none"


@lru_cache(maxsize=1024)
def _seconds(text: str) -> float | str:
    """Return the seconds, or the error."""
    try:
        return parse_duration(text)
    except ValueError as error:
        return str(error)


class Fields:
    """A mapping's values by key, without those that the schema does not allow (`bad`, by `id()`)."""

    __slots__ = ("_values", "bad", "place", "report", "step")

    def __init__(
        self,
        values: MappingABC[str, Node],
        place: Placed,
        report: Report,
        bad: frozenset[int],
        *,
        step: str | None = None,
    ) -> None:
        self._values = values
        self.bad = bad
        self.place = place
        self.report = report
        self.step = step

    @property
    def position(self) -> Position:
        """Return where the mapping begins."""
        return self.place.position

    @property
    def present(self) -> KeysView[str]:
        """Return all keys, also those with values that are not valid."""
        return self._values.keys()

    def has(self, key: str) -> bool:
        """Return whether the key exists, also with a value that is not valid."""
        return key in self._values

    def node(self, key: str) -> Node | None:
        """Return the key's node, None if there is none or it is not valid."""
        node = self._values.get(key)
        return None if node is None or id(node) in self.bad else node

    def key(self, name: str) -> Placed:
        """Return the node of a key, or the mapping if the key comes from elsewhere."""
        keys = self.place.keys if isinstance(self.place, Mapping) else {}
        return keys.get(name, self.place)

    def scalar(self, key: str) -> Scalar | None:
        """Return the key's node if it is a scalar."""
        node = self._values.get(key)
        return node if isinstance(node, Scalar) and id(node) not in self.bad else None

    def items(self, key: str) -> tuple[Node, ...]:
        """Return the valid items of a list."""
        node = self._values.get(key)
        if not isinstance(node, Sequence) or id(node) in self.bad:
            return ()
        return tuple(item for item in node.items if id(item) not in self.bad)

    def mapping(self, key: str) -> Fields | None:
        """Return the key's mapping."""
        node = self.node(key)
        return self.within(node) if isinstance(node, Mapping) else None

    def within(self, node: Mapping) -> Fields:
        """Return the fields of a mapping that belongs to this one."""
        return Fields(node.values, node, self.report, self.bad, step=self.step)

    def pairs(self) -> tuple[tuple[str, Node], ...]:
        """Return every key that has a valid value."""
        return tuple((key, node) for key, node in self._values.items() if id(node) not in self.bad)

    def text(self, key: str, default: str = "") -> str:
        """Return a text."""
        node = self.scalar(key)
        return default if node is None else node.text

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        return tuple(item.text for item in self.items(key) if isinstance(item, Scalar))

    def integer(self, key: str, default: int) -> int:
        """Return a whole number."""
        node = self.scalar(key)
        return int(node.value) if node is not None and isinstance(node.value, int | float) else default

    def number(self, key: str, default: float) -> float:
        """Return a number."""
        node = self.scalar(key)
        return float(node.value) if node is not None and isinstance(node.value, int | float) else default

    def boolean(self, key: str) -> bool | None:
        """Return true or false, None if the key has neither."""
        node = self.scalar(key)
        return node.value if node is not None and isinstance(node.value, bool) else None

    def choice(self, key: str, default: _Choice) -> _Choice:
        """Return a member of the default's enum."""
        node = self.scalar(key)
        return default if node is None else type(default)(node.text)

    def duration(self, key: str, default: float | None = None, *, zero: bool = False) -> float | None:
        """Return seconds, None for `none`; a duration of zero is a problem unless `zero`."""
        node = self.scalar(key)
        if node is None or node.text == _NONE:
            return None if node is not None else default
        seconds = _seconds(node.text)
        if isinstance(seconds, str):
            self.add(node, "JP215", f"`{key}`: {seconds}")
            return default
        if seconds == 0 and not zero:
            hint = "write `none` for no limit" if key.endswith("timeout") and key != "run_timeout" else None
            self.add(node, "JP215", f"`{key}` must be greater than zero", hint=hint)
            return default
        return seconds

    def add(
        self,
        where: Placed | Position,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        severity: Severity = Severity.ERROR,
        cause: Cause | None = None,
    ) -> None:
        """Report a problem of this mapping's step."""
        self.report.add(where, code, message, hint=hint, step=self.step, severity=severity, cause=cause)
