"""Every SQL text of a plan as the run would send it: parameters filled in, one for each item, statement by statement.

Each statement knows where it stands in the plan's files, whatever its parameters have done to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from runner.engine.events import Item
from runner.engine.session import with_values
from runner.errors import Position
from runner.plan.model import Plan, Sql, Step, Value
from runner.sql.assignments import assigned, computed_after, settings_after
from runner.sql.params import Rendered, TemplateError, render_traced
from runner.sql.parse import SqlSyntaxError, Statement, parse_statements

#: Instances of one step that are looked at; the others differ in their item alone.
MAX_INSTANCES = 100
#: Part of the values of an item that stands for all those that a list may have when its step runs.
MADE_UP = "jobplan_item"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One statement. `key` is the plan's key that holds it, `instance` the step's id with its item.

    `number` counts the statements of `text` from 0, `last` says that no other one follows, `alone` that it is the only
    one. `settings` are what the statements before it have set, `computed` the settings to which they give a value that
    is known only when they run. `origin` turns an offset in `text` into one in the plan's own text.
    """

    step: Step | None
    instance: str
    key: str
    sql: str
    statement: Statement
    number: int = 0
    last: bool = True
    alone: bool = True
    settings: tuple[tuple[str, str], ...] = ()
    computed: frozenset[str] = frozenset()
    text: str = field(default="", repr=False)
    locate: Callable[[int], Position] = field(repr=False, compare=False)
    origin: Callable[[int], int] = field(repr=False, compare=False)

    @property
    def is_condition(self) -> bool:
        """Whether jobplan itself asks it, on a read-only session."""
        return self.key != "sql"

    @property
    def settings_after(self) -> tuple[tuple[str, str], ...]:
        """What is set for the next statement of the text."""
        return settings_after(self.settings, assigned(self.statement))

    def at(self, offset: int) -> Position:
        """Return the place in the plan of the character at `offset` of `sql`."""
        return self.locate(offset)

    def within(self, offset: int) -> Position:
        """Return the place of an offset that counts from the beginning of the whole text, as the parser does."""
        return self.locate(offset - self.statement.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A text that cannot be read: a value does not fit in it, or the parser refuses it. What is wrong, and where.

    `text` is the text with its values if only the parser refuses it: a server may know newer syntax.
    """

    step: Step | None
    instance: str
    key: str
    message: str
    position: Position
    text: str | None = None


def base_values(plan: Plan) -> Mapping[str, Value]:
    """Return what SQL may name everywhere; the run has no id yet."""
    return {**plan.values, "run.id": "dry-run", "run.name": plan.name, "run.status": "succeeded"}


def units_of(
    sql: Sql, values: Mapping[str, Value | None], *, step: Step | None, instance: str, key: str
) -> Iterator[Unit | Unreadable]:
    """Yield the statements of one text with its values."""
    try:
        rendered = render_traced(sql.text, values)
    except TemplateError as error:
        position = sql.position(error.offset)
        yield Unreadable(step=step, instance=instance, key=key, message=error.message, position=position)
        return
    try:
        statements = parse_statements(rendered.text)
    except SqlSyntaxError as error:
        position = sql.position(rendered.original(error.offset))
        yield Unreadable(
            step=step, instance=instance, key=key, message=error.message, position=position, text=rendered.text
        )
        return
    settings: tuple[tuple[str, str], ...] = ()
    computed: frozenset[str] = frozenset()
    for number, statement in enumerate(statements):
        unit = Unit(
            step=step,
            instance=instance,
            key=key,
            sql=rendered.text[statement.start : statement.end],
            statement=statement,
            number=number,
            last=number == len(statements) - 1,
            alone=len(statements) == 1,
            settings=settings,
            computed=computed,
            text=rendered.text,
            locate=_locator(sql, rendered, statement.start),
            origin=rendered.original,
        )
        yield unit
        settings = unit.settings_after
        computed = computed_after(computed, statement)


def _locator(sql: Sql, rendered: Rendered, start: int) -> Callable[[int], Position]:
    return lambda offset: sql.position(rendered.original(start + offset))


def step_units(step: Step, values: Mapping[str, Value | None], items: tuple[Item, ...]) -> Iterator[Unit | Unreadable]:
    """Yield the statements of a step and of its conditions, for each of its items; none if it has no items."""
    if step.for_each is None:
        yield from _instance(step, step.id, values)
        return
    for item in items[:MAX_INSTANCES]:
        yield from _instance(step, item.key, {**values, **item.values})


def _instance(step: Step, instance: str, values: Mapping[str, Value | None]) -> Iterator[Unit | Unreadable]:
    try:
        step = with_values(step, values)
    except TemplateError as error:
        yield Unreadable(step=step, instance=instance, key="sql", message=error.message, position=step.position)
        return
    for key, sql in _texts(step):
        yield from units_of(sql, values, step=step, instance=instance, key=key)


def _texts(step: Step) -> Iterator[tuple[str, Sql]]:
    if step.if_ is not None:
        yield "if", step.if_
    for check in step.preconditions:
        yield "preconditions", check.sql
    yield "sql", step.sql
    if step.repeat is not None and step.repeat.until_sql is not None:
        yield "repeat.until", step.repeat.until_sql
    if step.expect is not None and step.expect.sql is not None:
        yield "expect.sql", step.expect.sql
    if step.verify is not None:
        yield "verify", step.verify
