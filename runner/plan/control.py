"""Read the keys of a step for when and how often it runs: needs, retry, allow_failure, for_each, repeat, expect."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from runner.plan.conditions import CONDITIONS, sqlstates
from runner.plan.fields import Fields
from runner.plan.model import (
    AllowFailure,
    Check,
    Expect,
    ForEach,
    Need,
    NeedOn,
    ParamType,
    Repeat,
    Retry,
    Sql,
    Value,
)
from runner.plan.nodes import Mapping, Node, Scalar, sql_of
from runner.plan.scalars import read_otherwise
from runner.sql.comments import has_comments, without_comments
from runner.sql.qualified import qualified_name

_TIMEOUT = "timeout"
_QUERY_CANCELED = "57014"
_NO_ROWS = "no_rows"
_DEFAULT_ITEM = "item"
_ERRORS = (*CONDITIONS, _TIMEOUT)
_RUN = "run"


def read_sql(fields: Fields, key: str) -> Sql | None:
    """Return the SQL text under a key; a text without any SQL is a problem."""
    node = fields.scalar(key)
    if node is None:
        return None
    sql = sql_of(node)
    if is_empty(sql):
        fields.add(node, "JP219", f"`{key}` has no SQL")
        return None
    return sql


def is_empty(sql: Sql) -> bool:
    """Return whether a text has only white space, semicolons and comments."""
    text = without_comments(sql.text) if has_comments(sql.text) else sql.text
    return not text.strip(" \t\r\n\f\v;")


def read_needs(fields: Fields, prefix: str) -> tuple[tuple[Need, Node], ...]:
    """Return what a step needs, with the node of each; `prefix` is that of the included file's ids."""
    found: list[tuple[Need, Node]] = []
    for node in fields.items("needs"):
        if isinstance(node, Scalar):
            found.append((Need(step=prefix + node.text), node))
        elif isinstance(node, Mapping):
            need = fields.within(node)
            step = need.scalar("step")
            if step is not None:
                found.append((Need(step=prefix + step.text, on=need.choice("on", NeedOn.SUCCESS)), node))
    return tuple(found)


def read_retry(fields: Fields) -> Retry:
    """Return when a step is tried again."""
    retry = fields.mapping("retry")
    if retry is None:
        return Retry()
    delay = retry.duration("delay", 0.0, zero=True) or 0.0
    max_delay = retry.duration("max_delay")
    if max_delay is not None and max_delay < delay:
        retry.add(retry.scalar("max_delay") or retry, "JP229", "`max_delay` is shorter than `delay`")
    on: set[str] = set()
    for node in retry.items("on"):
        if not isinstance(node, Scalar):
            continue
        if node.text == _TIMEOUT:
            on.add(_TIMEOUT)
        elif _QUERY_CANCELED in (found := _states(retry, node)):
            message = f"`{node.text}` is both a timeout and a cancel; a cancel is never retried"
            retry.add(node, "JP211", message, hint="write `timeout`")
        else:
            on.update(found)
    return Retry(
        max_attempts=retry.integer("max_attempts", 1),
        delay=delay,
        backoff=retry.number("backoff", 1.0),
        max_delay=max_delay,
        on=frozenset(on),
    )


def read_allow_failure(fields: Fields) -> AllowFailure | None:
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
        if isinstance(node, Mapping):
            check = fields.within(node)
            sql = read_sql(check, "sql")
            if sql is not None:
                checks.append(Check(sql=sql, message=check.text("message")))
    return tuple(checks)


def read_expect(fields: Fields) -> Expect | None:
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
        sql=read_sql(expect, "sql"),
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
        return None
    as_ = for_each.text("as", _DEFAULT_ITEM)
    if as_ == _RUN or as_ in params:
        place = for_each.scalar("as") or for_each
        taken = "jobplan's own" if as_ == _RUN else "a parameter's"
        for_each.add(place, "JP231", f"the item cannot be called `{as_}`: that name is {taken}", hint="set `as`")
    parallel = for_each.integer("max_parallel", 0)
    return ForEach(
        as_=as_,
        type=_item_type(for_each),
        items=_items(for_each),
        sql=read_sql(for_each, "sql"),
        max_parallel=parallel or None,
    )


def read_repeat(fields: Fields) -> Repeat | None:
    """Return how a step is repeated."""
    repeat = fields.mapping("repeat")
    if repeat is None:
        return None
    until = None if repeat.text("until") == _NO_ROWS else read_sql(repeat, "until")
    pause = repeat.duration("pause", 0.0, zero=True) or 0.0
    return Repeat(max_iterations=repeat.integer("max_iterations", 1), until_sql=until, pause=pause)


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
        parts = [part for _, part in for_each.within(node).pairs()] if isinstance(node, Mapping) else [node]
        if len(parts) != 1:
            for_each.add(node, "JP225", "an item of type relation is one name, not several columns")
        elif isinstance(parts[0], Scalar):
            try:
                qualified_name(parts[0].text)
            except ValueError as error:
                for_each.add(parts[0], "JP225", f"this item {error}")
    return ParamType.RELATION


def _check_number(fields: Fields, node: Scalar, what: str) -> None:
    """Report a number that SQL would get in another form: it is not clear whether a text or a number is meant."""
    other = read_otherwise(node.value, node.text)
    if other is not None:
        message = f"{what} is the number {node.text}, and SQL would get {other}"
        fields.add(node, "JP225", message, hint=f"put it in quotes if the text is meant, or write {other}")


def _item(for_each: Fields, node: Node) -> tuple[Value | dict[str, Value] | None, object]:
    """Return an item, or None if a part of it is not valid, and its texts."""
    if isinstance(node, Scalar):
        _check_number(for_each, node, "this item")
        return node.value, node.text
    if not isinstance(node, Mapping):
        return None, None
    parts = {key: part for key, part in for_each.within(node).pairs() if isinstance(part, Scalar)}
    values = {key: part.value for key, part in parts.items() if part.value is not None}
    for key, part in parts.items():
        _check_number(for_each, part, f"`{key}`")
    if not values or len(values) < len(node.values):
        return None, None
    return values, tuple(sorted((key, part.text) for key, part in parts.items()))
