"""Build a `Step`: merge the defaults, read each key, and check the parameters of each SQL text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

from runner.errors import Position
from runner.plan import control
from runner.plan.fields import Fields
from runner.plan.files import PlanFiles
from runner.plan.includes import PlanFile
from runner.plan.model import Need, OnFinish, OnRunnerExit, Param, Sql, Step
from runner.plan.nodes import Mapping as MappingNode
from runner.plan.nodes import Node, Scalar
from runner.plan.report import Placed, Report
from runner.plan.scope import Scope, check_references
from runner.plan.settings import check_parameters, read_settings

MAX_ID: Final = 63
#: The queue sizes that pg_background accepts. It refuses fewer than 64 bytes, and below 1 kB no error message fits.
MIN_BUFFER: Final = 1_024
MAX_BUFFER: Final = 268_435_456
_DEFAULT_BUFFER = 65_536

_SIZE_UNITS = {"B": 1, "kB": 1_024, "MB": 1_048_576, "GB": 1_073_741_824}
_NOTHING = Sql(text="", start=Position(file="", line=1, column=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A step with the positions that the rules between steps need for their problems."""

    step: Step
    fields: Fields
    needs: tuple[tuple[Need, Node], ...]
    finally_: bool

    def place(self, key: str) -> Placed:
        """Return the node of a key's value, or the step if it has none."""
        return self.fields.node(key) or self.fields


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReader:
    """What is needed to read a step besides the step: defaults, parameters, files."""

    defaults: Mapping[str, Node]
    params: Mapping[str, Param]
    files: PlanFiles
    report: Report
    bad: frozenset[int]

    def read(self, file: PlanFile, node: MappingNode, scope: Scope, *, finally_: bool = False) -> Draft:
        """Return the step; report each problem, and use a harmless value instead of one that is not valid."""
        fields = self._fields(file, node)
        needs = control.read_needs(fields, file.prefix)
        for_each = control.read_for_each(fields, self.params)
        on_finish = fields.choice("on_finish", OnFinish.WAIT)
        leaves = OnRunnerExit.CANCEL if on_finish is OnFinish.WAIT else OnRunnerExit.DETACH
        step = Step(
            id=fields.step or "",
            sql=self._main_sql(file, fields) or _NOTHING,
            timeout=fields.duration("timeout"),
            on_finish=on_finish,
            on_runner_exit=fields.choice("on_runner_exit", leaves),
            needs=tuple(need for need, _ in needs),
            for_each=for_each,
            position=node.position,
            **{_READERS[key][0]: _READERS[key][1](fields) for key in fields.present if key in _READERS},
        )
        if for_each is not None and for_each.sql is not None:
            check_references(for_each.sql, scope, self.report, step=fields.step)
        inner = scope.with_items(for_each)
        for sql in _texts(step):
            check_references(sql, inner, self.report, step=fields.step)
        check_parameters(fields, inner)
        return Draft(step=step, fields=fields, needs=needs, finally_=finally_)

    def _fields(self, file: PlanFile, node: MappingNode) -> Fields:
        written = node.values.get("id")
        good = isinstance(written, Scalar) and id(written) not in self.bad
        step = file.prefix + written.text if good and isinstance(written, Scalar) else None
        if step is not None and len(step) > MAX_ID:
            message = f"with its file's prefix the id `{step}` is longer than {MAX_ID} characters"
            self.report.add(node.values["id"], "JP233", message, step=step)
        return Fields({**self.defaults, **node.values}, node, self.report, self.bad, step=step)

    def _main_sql(self, file: PlanFile, fields: Fields) -> Sql | None:
        node = fields.scalar("sql_file")
        if node is None or fields.has("sql"):
            return control.read_sql(fields, "sql")
        found = self.files.find(node.text, file.name, node, "sql_file", step=fields.step)
        sql = None if found is None else self.files.sql(found)
        if found is not None and sql is not None and control.is_empty(sql):
            fields.add(node, "JP219", f"{found.name} has no SQL")
        return sql


def _texts(step: Step) -> Iterable[Sql]:
    """Return every SQL text of a step that is executed for each of its instances."""
    until = step.repeat.until_sql if step.repeat else None
    expect = step.expect.sql if step.expect else None
    checks = (check.sql for check in step.preconditions)
    return (sql for sql in chain((step.sql, step.if_, step.verify, expect, until), checks) if sql is not None)


def _pools(fields: Fields) -> Mapping[str, int]:
    node = fields.mapping("pools")
    if node is None:
        return MappingProxyType(dict.fromkeys(fields.texts("pools"), 1))
    return MappingProxyType({name: node.integer(name, 1) for name, _ in node.pairs()})


def _capture(fields: Fields) -> int:
    capture = fields.mapping("capture")
    return capture.integer("rows", 0) if capture else 0


def _buffer(fields: Fields) -> int:
    node = fields.scalar("output_buffer")
    match = re.fullmatch(r"([0-9]+) ?([A-Za-z]+)", node.text) if node else None
    if node is None or match is None:
        return _DEFAULT_BUFFER
    size = int(match[1]) * _SIZE_UNITS[match[2]]
    if not MIN_BUFFER <= size <= MAX_BUFFER:
        fields.add(node, "JP216", f"`output_buffer` must be from 1kB to 256MB, not {node.text}")
        return _DEFAULT_BUFFER
    return size


#: The other keys: for each the field of `Step`, and how to read it. Absent keys are skipped, because most steps of a
#: large plan have a fifth of the keys.
_READERS: Final[Mapping[str, tuple[str, Callable[[Fields], Any]]]] = {
    "lock_timeout": ("lock_timeout", lambda fields: fields.duration("lock_timeout")),
    "queue_timeout": ("queue_timeout", lambda fields: fields.duration("queue_timeout")),
    "slots": ("slots", lambda fields: fields.integer("slots", 1)),
    "pools": ("pools", _pools),
    "exclusive": ("exclusive", lambda fields: frozenset(fields.texts("exclusive"))),
    "priority": ("priority", lambda fields: fields.integer("priority", 0)),
    "retry": ("retry", control.read_retry),
    "idempotent": ("idempotent", lambda fields: fields.boolean("idempotent") or False),
    "allow_failure": ("allow_failure", control.read_allow_failure),
    "if": ("if_", lambda fields: control.read_sql(fields, "if")),
    "preconditions": ("preconditions", control.read_checks),
    "verify": ("verify", lambda fields: control.read_sql(fields, "verify")),
    "expect": ("expect", control.read_expect),
    "capture": ("capture_rows", _capture),
    "repeat": ("repeat", control.read_repeat),
    "settings": ("settings", lambda fields: MappingProxyType(read_settings(fields))),
    "role": ("role", lambda fields: fields.text("role") or None),
    "search_path": ("search_path", lambda fields: fields.text("search_path") or None),
    "output_buffer": ("output_buffer", _buffer),
    "touches": ("touches", lambda fields: fields.texts("touches")),
    "tags": ("tags", lambda fields: frozenset(fields.texts("tags"))),
    "description": ("description", lambda fields: fields.text("description")),
}
