"""Build a `Step`: merge the defaults, read each key, and check the settings and the parameters of each SQL text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from runner.errors import JobplanError, Position
from runner.plan.model import (
    FOR_EACH_SQL,
    AllowFailure,
    Check,
    Expect,
    ForEach,
    Need,
    NeedOn,
    OnFinish,
    OnLeftovers,
    OnRunnerExit,
    Param,
    ParamType,
    RetryPolicy,
    Sql,
    Step,
    StepWindow,
    Value,
)
from runner.plan.plan_files import PlanFile, PlanFiles
from runner.plan.problem_collector import Placed, Report
from runner.plan.repeat import read_repeat
from runner.plan.sql_scope import Scope, check_names, check_references
from runner.plan.sqlstates import CONDITIONS, QUERY_CANCELED, sqlstates
from runner.plan.yaml_nodes import Fields, Node, Scalar, UnusableNodes, is_empty_sql, read_otherwise, sql_of
from runner.plan.yaml_nodes import Mapping as MappingNode
from runner.sql.qualified_names import qualified_name
from runner.sql.returned_rows import column_names
from runner.sql.session_settings import SettingPlace, place_of_setting
from runner.sql.statements import parse_template
from runner.sql.text_traits import builds_of
from runner.structs import Struct

_TIMEOUT_WORD = "timeout"
YIELDED_WORD: Final = "yielded"
_DEFAULT_ITEM = "item"
_ERRORS = (*CONDITIONS, _TIMEOUT_WORD, YIELDED_WORD)
_RUN = "run"


def read_needs(fields: Fields, prefix: str) -> tuple[tuple[Need, Node], ...]:
    """Return what a step needs, with the node of each; `prefix` is that of the included file's ids."""
    found: list[tuple[Need, Node]] = []
    single = fields.scalar("needs")  # `needs: a`
    for node in fields.items("needs") if single is None else (single,):
        if isinstance(node, Scalar):
            found.append((Need(step=prefix + node.text), node))
        elif isinstance(node, MappingNode):
            need = fields.within(node)
            step = need.scalar("step")
            if step is not None:
                found.append((Need(step=prefix + step.text, on=need.choice("on", NeedOn.SUCCESS)), node))
    return tuple(found)


def _read_retry(fields: Fields) -> RetryPolicy:
    """Return when a step is tried again."""
    retry = fields.mapping("retry")
    if retry is None:  # `retry: 3`, or none
        return RetryPolicy(max_attempts=fields.integer("retry", 1))
    delay = retry.duration("delay", 0.0, zero=True) or 0.0
    max_delay = retry.duration("max_delay")
    if max_delay is not None and max_delay < delay:
        retry.add(retry.scalar("max_delay") or retry, "JP229", "`max_delay` is shorter than `delay`")
    on: set[str] = set()
    for node in retry.items("on"):
        if not isinstance(node, Scalar):
            continue
        if node.text in (_TIMEOUT_WORD, YIELDED_WORD):
            on.add(node.text)
        elif QUERY_CANCELED in (found := _states(retry, node)):
            message = f"`{node.text}` is both a timeout and a cancel; a cancel is never retried"
            retry.add(node, "JP211", message, hint="write `timeout`")
        else:
            on.update(found)
    return RetryPolicy(
        max_attempts=retry.integer("max_attempts", 1),
        delay=delay,
        backoff=retry.number("backoff", 1.0),
        max_delay=max_delay,
        on=frozenset(on),
    )


def _read_allow_failure(fields: Fields) -> AllowFailure | None:
    """Return which failures do not count."""
    allowed = fields.boolean("allow_failure")
    if allowed is not None:
        return AllowFailure() if allowed else None
    nodes = fields.items("allow_failure")
    if not nodes:
        return None
    states = (_states(fields, node) for node in nodes if isinstance(node, Scalar))
    return AllowFailure(sqlstates=frozenset(state for found in states for state in found))


def read_checks(fields: Fields, key: str = "preconditions") -> tuple[Check, ...]:
    """Return the SQL conditions under a key, each with its message."""
    checks = []
    for node in fields.items(key):
        if isinstance(node, MappingNode):
            check = fields.within(node)
            sql = check.sql("sql")
            if sql is not None:
                checks.append(Check(sql=sql, message=check.text("message")))
    return tuple(checks)


def _read_expect(fields: Fields) -> Expect | None:
    """Return what the step must produce."""
    expect = fields.mapping("expect")
    if expect is None:
        return None
    rows_min, rows_max = _range(expect, "rows")
    warnings_min, warnings_max = _range(expect, "warnings")
    value = expect.scalar("value")
    if value is not None and isinstance(value.value, float) and Decimal(value.text) != Decimal(str(value.value)):
        message = f"`value` is the number {value.text}, and would be compared as {value.value}"
        expect.add(value, "JP225", message, hint="write fewer digits, or put it in quotes to compare the text")
    return Expect(
        rows_min=rows_min,
        rows_max=rows_max,
        warnings_min=warnings_min,
        warnings_max=warnings_max,
        value=None if value is None else value.value,
        has_value=value is not None,
        sql=expect.sql("sql"),
    )


def _range(expect: Fields, key: str) -> tuple[int | None, int | None]:
    """Return the minimum and maximum of a key of `expect`, which is a number or {min, max}."""
    bounds = expect.mapping(key)
    if bounds is None:
        exact = expect.integer(key, 0) if expect.scalar(key) is not None else None
        return exact, exact
    low = bounds.integer("min", 0) if bounds.has("min") else None
    high = bounds.integer("max", 0) if bounds.has("max") else None
    if low is not None and high is not None and low > high:
        bounds.add(bounds, "JP229", "`min` is above `max`")
    return low, high


def read_for_each(fields: Fields, params: Iterable[str]) -> ForEach | None:
    """Return the items of a step, or the query that returns them."""
    for_each = fields.mapping("for_each")
    if for_each is None:
        fields.report.unread.update({_DEFAULT_ITEM} if fields.has("for_each") else ())
        return None
    fields.report.unread_any |= for_each.has("as") and for_each.scalar("as") is None
    as_ = for_each.text("as", _DEFAULT_ITEM)
    if as_ == _RUN or as_ in params:
        place = for_each.scalar("as") or for_each
        taken = "jobplan's own" if as_ == _RUN else "a parameter's"
        for_each.add(place, "JP231", f"the item cannot be called `{as_}`: that name is {taken}", hint="set `as`")
    parallel = for_each.integer("max_parallel", 0)
    return ForEach(
        as_=as_,
        type=_item_type(for_each),
        chunk=_chunk(for_each, fields),
        items=_items(for_each),
        sql=for_each.sql("sql"),
        max_parallel=parallel or None,
    )


def _chunk(for_each: Fields, step: Fields) -> int | None:
    """Return the largest number of items of an instance; None if each has one. Report keys that `chunk` excludes.

    The items of a chunk appear in SQL as a list with commas between them, so each has one value: one column, or the
    name of a relation. `chunk: 1` is the same as no chunk.
    """
    size = for_each.integer("chunk", 1)
    node = for_each.scalar("chunk")
    if node is None or size < 2:
        return None
    if step.has("repeat"):
        message = "`chunk` cannot be combined with `repeat`: a loop has one item"
        for_each.add(node, "JP262", message, hint="leave out `chunk`, or make the loop a step of its own")
    for item in for_each.items("items"):
        if isinstance(item, MappingNode) and len(item.values) > 1:
            message = f"an item of a chunk has one column, and this one has {len(item.values)}"
            for_each.add(item, "JP263", message, hint="leave out `chunk`, or keep one column")
    query = for_each.scalar("sql")
    columns = 0 if query is None else _columns(query.text)
    if query is not None and columns > 1:
        message = f"an item of a chunk has one column, and this query returns {columns}"
        hint = "leave out `chunk`, or return one column; a query may sort by others"
        for_each.add(query, "JP263", message, hint=hint)
    return size


def _columns(text: str) -> int:
    """Return the number of columns of a query; 0 if it is not known, for example with `*`."""
    try:
        statements = parse_template(text).statements
    except JobplanError:
        return 0
    return len(column_names(statements[0]) or ()) if len(statements) == 1 else 0


def _states(fields: Fields, node: Scalar) -> tuple[str, ...]:
    try:
        return sqlstates(node.text)
    except KeyError:
        message = f"PostgreSQL has no error condition `{node.text}`"
        fields.add(node, "JP211", message, hint=fields.report.guesses.did_you_mean(node.text, _ERRORS))
        return ()


def _items(for_each: Fields) -> tuple[Value | dict[str, Value], ...]:
    items: list[Value | dict[str, Value]] = []
    shape: object = None
    seen = set()
    for node in for_each.items("items"):
        item, written = _item(for_each, node)
        if item is None:
            continue  # the schema check has reported it
        keys = frozenset(item) if isinstance(item, dict) else None
        if not items:
            shape = keys
        elif keys != shape:
            for_each.add(node, "JP230", "this item does not have the same keys as the first; all items must")
        # Compare the texts: 1 and "1" would be two instances with one name.
        if written in seen:
            for_each.add(node, "JP230", "this item is in `items` twice")
        seen.add(written)
        items.append(item)
    return tuple(items)


def _item_type(for_each: Fields) -> ParamType | None:
    """Return the type of the items; the schema allows only `relation`, and each item must be a relation's name."""
    if not for_each.text("type"):
        return None
    for node in for_each.items("items"):
        parts = [part for _, part in for_each.within(node).pairs()] if isinstance(node, MappingNode) else [node]
        if len(parts) != 1:
            for_each.add(node, "JP225", "an item of type relation is one name, not several columns")
        elif isinstance(parts[0], Scalar):
            try:
                qualified_name(parts[0].text)
            except ValueError as error:
                for_each.add(parts[0], "JP225", f"this item {error}")
    return ParamType.RELATION


def _check_number(fields: Fields, node: Scalar, what: str) -> None:
    """Report a number that SQL would receive in another form: it may be a text or a number."""
    other = read_otherwise(node.value, node.text)
    if other is not None:
        message = f"{what} is the number {node.text}, and SQL would get {other}"
        fields.add(node, "JP225", message, hint=f"put it in quotes if the text is meant, or write {other}")


def _item(for_each: Fields, node: Node) -> tuple[Value | dict[str, Value] | None, object]:
    """Return an item, or None if a part of it is not valid, and its texts."""
    if isinstance(node, Scalar):
        _check_number(for_each, node, "this item")
        return node.value, node.text
    if not isinstance(node, MappingNode):
        return None, None
    parts = {key: part for key, part in for_each.within(node).pairs() if isinstance(part, Scalar)}
    values = {key: part.value for key, part in parts.items() if part.value is not None}
    for key, part in parts.items():
        _check_number(for_each, part, f"`{key}`")
    if not values or len(values) < len(node.values):
        return None, None
    return values, tuple(sorted((key, part.text) for key, part in parts.items()))


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*")

_TIMEOUT = "use `timeout`"
_DEFAULT = "use `default_{}`, which applies to the worker's transaction"
_SESSION = "it would act on jobplan's own session, not on the worker"

#: Settings that a step cannot have, in lower case, and what to do instead. Each would break another key of the step, or
#: the session that launches and observes the worker.
FORBIDDEN: Final = {
    "application_name": "jobplan sets it, to identify the worker",
    "client_encoding": "jobplan's sessions are UTF8",
    "idle_in_transaction_session_timeout": _SESSION,
    "idle_session_timeout": _SESSION,
    "lock_timeout": "use `lock_timeout`, a key of the step",
    "role": "use `role`, a key of the step",
    "search_path": "use `search_path`, a key of the step",
    "session_authorization": "use `role`, a key of the step",
    "standard_conforming_strings": "the quoting of parameters depends on it",
    "statement_timeout": _TIMEOUT,
    "transaction_deferrable": _DEFAULT.format("transaction_deferrable"),
    "transaction_isolation": _DEFAULT.format("transaction_isolation"),
    "transaction_read_only": _DEFAULT.format("transaction_read_only"),
    "transaction_timeout": f"{_TIMEOUT}: a worker that it stops looks as if it had succeeded",
}
_OURS = "pg_background."


def read_settings(fields: Fields) -> dict[str, str]:
    """Return a step's settings; the values as SET takes them."""
    settings = fields.mapping("settings")
    if settings is None:
        return {}
    found: dict[str, str] = {}
    seen: dict[str, str] = {}
    for name, node in settings.pairs():
        lower = name.lower()
        hint = "jobplan sets these itself" if lower.startswith(_OURS) else FORBIDDEN.get(lower)
        if hint is not None:
            fields.add(settings.key(name), "JP212", f"`{name}` cannot be set by a step", hint=hint)
        elif not _NAME.fullmatch(name):
            fields.add(
                settings.key(name),
                "JP213",
                f"`{name}` is not the name of a setting",
                hint="like work_mem, or myapp.tenant",
            )
        elif lower in seen:
            fields.add(settings.key(name), "JP214", f"`{name}` and `{seen[lower]}` are the same setting")
        elif isinstance(node, Scalar):
            seen[lower] = name
            found[name] = ("on" if node.value else "off") if isinstance(node.value, bool) else node.text
    return found


def check_parameters(fields: Fields, scope: Scope) -> None:
    """Report every parameter that is not allowed in `role`, `search_path`, `settings` or `touches`."""
    for node, place in _setting_texts(fields):
        if ":" in node.text:
            check_names(sql_of(node), place, scope, fields)


def _setting_texts(fields: Fields) -> Iterator[tuple[Scalar, SettingPlace]]:
    for key, place in (("role", SettingPlace.ROLE), ("search_path", SettingPlace.SEARCH_PATH)):
        node = fields.scalar(key)
        if node is not None:
            yield node, place
    settings = fields.mapping("settings") if fields.has("settings") else None
    for name, value in settings.pairs() if settings is not None else ():
        if isinstance(value, Scalar):
            yield value, place_of_setting(name)
    for item in fields.items("touches"):
        if isinstance(item, Scalar):
            yield item, SettingPlace.TOUCHES


MAX_ID: Final = 63
#: The queue sizes that pg_background accepts. It refuses fewer than 64 bytes, and below 1 kB no error message fits.
MIN_BUFFER: Final = 1_024
MAX_BUFFER: Final = 268_435_456
_DEFAULT_BUFFER = 65_536

_SIZE_UNITS = {"B": 1, "kB": 1_024, "MB": 1_048_576, "GB": 1_073_741_824, "TB": 1_099_511_627_776}
_NOTHING = Sql(text="", start=Position(file="", line=1, column=1))


class Draft(Struct, frozen=True, kw_only=True):
    """A step with the positions that the rules between steps need for their problems; `inner` are those of a group."""

    step: Step
    fields: Fields
    needs: tuple[tuple[Need, Node], ...]
    finally_: bool
    inner: tuple[Draft, ...] = ()

    def place(self, key: str) -> Placed:
        """Return the node of a key's value, or the step if it has none."""
        return self.fields.node(key) or self.fields

    @property
    def part(self) -> str:
        """The step, as a problem that several have lists it."""
        return f"`{self.fields.step}`" if self.fields.step else f"the step at line {self.fields.position.line}"


class StepReader(Struct, frozen=True, kw_only=True):
    """What is needed to read a step besides the step: defaults, parameters and their values, files, its group's id."""

    defaults: Mapping[str, Node]
    params: Mapping[str, Param]
    values: Mapping[str, Value]
    files: PlanFiles
    report: Report
    unusable: UnusableNodes
    group: str = ""

    def read(self, file: PlanFile, node: MappingNode, scope: Scope, *, finally_: bool = False) -> Draft:
        """Return the step; report each problem, and use a harmless value instead of one that is not valid."""
        fields = self.fields_of(file, node, self.defaults)
        needs = read_needs(fields, file.prefix)
        for_each = read_for_each(fields, self.params)
        repeat = read_repeat(fields, self.params, self.values, for_each) if fields.has("repeat") else None
        on_finish = fields.choice("on_finish", OnFinish.WAIT)
        leaves = OnRunnerExit.CANCEL if on_finish is OnFinish.WAIT else OnRunnerExit.DETACH
        step = Step(
            id=(fields.step or "").removeprefix(self._before_id),
            sql=self._main_sql(file, fields) or _NOTHING,
            timeout=fields.duration("timeout"),
            on_finish=on_finish,
            on_runner_exit=fields.choice("on_runner_exit", leaves),
            needs=tuple(need for need, _ in needs),
            for_each=for_each,
            repeat=repeat,
            position=node.position,
            **{_READERS[key][0]: _READERS[key][1](fields) for key in fields.present if key in _READERS},
        )
        inner = scope.with_items(for_each).with_carry(repeat)
        for key, sql in step.texts():
            check_references(sql, scope if key == FOR_EACH_SQL else inner, fields)
        check_parameters(fields, inner)
        _check_leftovers(step, fields, node)
        return Draft(step=step, fields=fields, needs=needs, finally_=finally_)

    @property
    def _before_id(self) -> str:
        return f"{self.group}." if self.group else ""

    def fields_of(self, file: PlanFile, node: MappingNode, defaults: Mapping[str, Node]) -> Fields:
        """Return the keys of a step, with the defaults that it does not replace."""
        written = node.values.get("id")
        good = isinstance(written, Scalar) and written not in self.unusable
        step = file.prefix + written.text if good and isinstance(written, Scalar) else None
        if step is not None and len(step) > MAX_ID:
            message = f"with its file's prefix the id `{step}` is longer than {MAX_ID} characters"
            self.report.add(node.values["id"], "JP233", message, step=step)
        name = None if step is None else self._before_id + step
        return Fields({**defaults, **node.values}, node, self.report, self.unusable, step=name)

    def _main_sql(self, file: PlanFile, fields: Fields) -> Sql | None:
        node = fields.scalar("sql_file")
        if node is None or fields.has("sql"):
            return fields.sql("sql")
        found = self.files.find(node.text, file.name, node, "sql_file", step=fields.step)
        sql = None if found is None else self.files.sql(found)
        if found is not None and sql is not None and is_empty_sql(sql):
            fields.add(node, "JP219", f"{found.name} has no SQL")
        return sql


def _check_leftovers(step: Step, fields: Fields, written: MappingNode) -> None:
    """Report `leftovers: drop` of a step that leaves nothing behind; one of `defaults` is for the others."""
    node = fields.scalar("leftovers")
    if node is None or step.leftovers is not OnLeftovers.DROP or written.values.get("leftovers") is not node:
        return
    if not any(build.removable for build in builds_of(step.sql.text)):
        message = "`leftovers: drop`, but the step has no statement that leaves anything behind"
        hint = "it is for CREATE INDEX, REINDEX and DETACH PARTITION … CONCURRENTLY"
        fields.add(node, "JP265", message, hint=hint)


def _pools(fields: Fields) -> Mapping[str, int]:
    node = fields.mapping("pools")
    if node is None:
        return MappingProxyType(dict.fromkeys(fields.texts("pools"), 1))
    return MappingProxyType({name: node.integer(name, 1) for name, _ in node.pairs()})


def _capture(fields: Fields) -> int:
    capture = fields.mapping("capture")
    return capture.integer("rows", 0) if capture else 0


def read_size(node: Scalar | None) -> int | None:
    """Return the bytes of a size like `64kB`; None without one, or if the schema does not allow it."""
    match = re.fullmatch(r"([0-9]+) ?([A-Za-z]+)", node.text) if node else None
    return None if match is None else int(match[1]) * _SIZE_UNITS[match[2]]


def _buffer(fields: Fields) -> int:
    node = fields.scalar("output_buffer")
    size = read_size(node)
    if node is None or size is None:
        return _DEFAULT_BUFFER
    if not MIN_BUFFER <= size <= MAX_BUFFER:
        fields.add(node, "JP216", f"`output_buffer` must be from 1kB to 256MB, not {node.text}")
        return _DEFAULT_BUFFER
    return size


#: The other keys: for each the field of `Step`, and how to read it. Absent keys are skipped, because most steps of a
#: large plan have a fifth of the keys.
_READERS: Final[Mapping[str, tuple[str, Callable[[Fields], Any]]]] = {
    "lock_timeout": ("lock_timeout", lambda fields: fields.duration("lock_timeout")),
    "queue_timeout": ("queue_timeout", lambda fields: fields.duration("queue_timeout")),
    "window": ("window", lambda fields: fields.choice("window", StepWindow.IGNORE)),
    "slots": ("slots", lambda fields: fields.integer("slots", 1)),
    "pools": ("pools", _pools),
    "exclusive": ("exclusive", lambda fields: frozenset(fields.texts("exclusive"))),
    "priority": ("priority", lambda fields: fields.integer("priority", 0)),
    "retry": ("retry", _read_retry),
    "on_retry": ("on_retry", lambda fields: fields.sql("on_retry")),
    "leftovers": ("leftovers", lambda fields: fields.choice("leftovers", OnLeftovers.LIST)),
    "idempotent": ("idempotent", lambda fields: fields.boolean("idempotent") or False),
    "allow_failure": ("allow_failure", _read_allow_failure),
    "if": ("if_", lambda fields: fields.sql("if")),
    "preconditions": ("preconditions", read_checks),
    "verify": ("verify", lambda fields: fields.sql("verify")),
    "expect": ("expect", _read_expect),
    "capture": ("capture_rows", _capture),
    "settings": ("settings", lambda fields: MappingProxyType(read_settings(fields))),
    "role": ("role", lambda fields: fields.text("role") or None),
    "search_path": ("search_path", lambda fields: fields.text("search_path") or None),
    "output_buffer": ("output_buffer", _buffer),
    "touches": ("touches", lambda fields: fields.texts("touches")),
    "holds": ("holds", lambda fields: fields.texts("holds")),
    "yield_after": ("yield_after", lambda fields: fields.duration("yield_after")),
    "tags": ("tags", lambda fields: frozenset(fields.texts("tags"))),
    "description": ("description", lambda fields: fields.text("description")),
}
