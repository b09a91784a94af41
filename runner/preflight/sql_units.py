"""Every SQL text of a plan as the run would send it, with the settings, role and schemas of its session.

Parameters are filled in, one text for each item, statement by statement. Each statement keeps its position in the
plan's files.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from runner.engine.batches import first_values
from runner.engine.events import Item
from runner.engine.for_each_items import values_in_sql
from runner.engine.step_sql import with_values
from runner.errors import Position, Severity
from runner.gateway.catalog import FunctionFacts, NamedFacts, RelationFacts, SchemaFacts
from runner.gateway.inspection import Inspector, Settings
from runner.locks.relation_names import listed_names
from runner.plan.model import FOR_EACH_SQL, ItemValues, Plan, Sql, Step, Value
from runner.sql.catalog_needs import ObjectSort
from runner.sql.placeholders import Rendered, TemplateError, render_traced
from runner.sql.relations import Relation
from runner.sql.session_settings import ALL, OF_USERS, assigned, computed_after
from runner.sql.statements import SqlSyntaxError, Statement, parse_statements
from runner.structs import Struct

#: How many instances of a step are checked; the others differ only in their item.
MAX_INSTANCES = 100
#: A part of the values of a made-up item, which represents items that are not known yet.
MADE_UP = "jobplan_item"


class StatementFinding(Struct, frozen=True):
    """One problem of a statement; `offset` counts characters of the whole text, as the parser does.

    `severity` overrides that of the code. `sqlstate` is that of the server's error, if it is one.
    """

    code: str
    message: str
    offset: int
    hint: str | None = None
    severity: Severity | None = None
    sqlstate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One statement. `key` is the plan's key that holds it, `instance` the step's id with its item.

    `number` counts the statements of the text from 0, `alone` says that it is the only one. `settings` are what the
    statements before it have set, `computed` the settings to which they give a value that is known only when they run.
    `rendered` is the whole text with its values, `source` as it is in the plan.
    """

    step: Step | None
    instance: str
    key: str
    sql: str
    statement: Statement
    number: int = 0
    alone: bool = True
    settings: tuple[tuple[str, str], ...] = ()
    computed: frozenset[str] = frozenset()
    source: Sql = field(repr=False, compare=False)
    rendered: Rendered = field(repr=False, compare=False)

    @property
    def step_id(self) -> str:
        """The id of its step, empty for the plan's own SQL."""
        return self.step.id if self.step is not None else ""

    @property
    def is_condition(self) -> bool:
        """Whether jobplan evaluates it itself, in a read-only session."""
        return self.key not in ("sql", "on_retry")

    @property
    def settings_after(self) -> tuple[tuple[str, str], ...]:
        """The settings for the next statement of the text."""
        found = dict(self.settings)
        for name, value in assigned(self.statement):
            if name == ALL:
                found = {kept: found[kept] for kept in found if kept in OF_USERS} | {ALL: _RESET}
            else:
                found.pop(name, None)  # the order counts
                found[name] = _RESET if value is None else value
        return tuple(found.items())

    def finding(
        self,
        code: str,
        message: str,
        offset: int | None = None,
        *,
        hint: str | None = None,
        severity: Severity | None = None,
    ) -> StatementFinding:
        """Return a problem at an offset of the whole text, or where the statement begins."""
        return StatementFinding(code, message, self.statement.start if offset is None else offset, hint, severity)

    def position(self, offset: int | None = None) -> Position:
        """Return the place in the plan of an offset of the whole text, or of the statement."""
        return self.source.position(self.origin(self.statement.start if offset is None else offset))

    def origin(self, offset: int) -> int:
        """Return the offset in the plan's own text of one in the whole text with its values."""
        return self.rendered.original(offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """The error of a text that cannot be parsed: a value does not fit, or the parser refuses it.

    `text` is the text with its values if only the parser refuses it: a server may know newer syntax.
    """

    step: Step | None
    instance: str
    key: str
    message: str
    position: Position
    text: str | None = None


def base_values(plan: Plan) -> Mapping[str, Value]:
    """Return the values that all SQL may use; the run has no id yet."""
    return {**plan.values, "run.id": "dry-run", "run.name": plan.name, "run.status": "succeeded"}


def units_of(
    sql: Sql, values: ItemValues, *, step: Step | None, instance: str, key: str
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
            alone=len(statements) == 1,
            settings=settings,
            computed=computed,
            source=sql,
            rendered=rendered,
        )
        yield unit
        settings = unit.settings_after
        computed = computed_after(computed, statement)


def step_units(step: Step, values: ItemValues, items: tuple[Item, ...]) -> Iterator[Unit | Unreadable]:
    """Yield the statements of a step and of its conditions, for each of its items; none if it has no items."""
    if step.for_each is None:
        yield from _instance(step, step.id, values)
        return
    for item in items[:MAX_INSTANCES]:
        yield from _instance(step, item.key, {**values, **values_in_sql(step, item)})


def _instance(step: Step, instance: str, values: ItemValues) -> Iterator[Unit | Unreadable]:
    values = {**values, **first_values(step)}
    try:
        step = with_values(step, values)
    except TemplateError as error:
        yield Unreadable(step=step, instance=instance, key="sql", message=error.message, position=step.position)
        return
    for key, sql in step.texts():
        if key != FOR_EACH_SQL:
            yield from units_of(sql, values, step=step, instance=instance, key=key)


#: Settings of the transaction: the dry run keeps its own.
_OF_TRANSACTION = "transaction_"
#: Values of a boolean setting that is off.
_OFF = frozenset({"off", "false", "no", "0"})
#: The value of a setting that RESET or SET … TO DEFAULT has restored.
_RESET = "\0"


class EventTrigger(Struct, frozen=True, kw_only=True):
    """An enabled event trigger; without `tags` every command of its event fires it."""

    name: str
    function: str
    event: str
    tags: frozenset[str] = frozenset()

    @classmethod
    def read(cls, row: list[str | list[str] | None]) -> EventTrigger:
        """Return the event trigger of a row of the catalog."""
        name, function, event, tags = row
        return cls(name=str(name), function=str(function), event=str(event), tags=frozenset(tags or ()))


@dataclass(slots=True, kw_only=True)
class StatementContext:
    """The session context of a statement, and the catalog that it sees. `error`: the server refuses the settings."""

    settings: Settings
    #: The server's version, such as 160004.
    version: int
    role: str = ""
    database: str = ""
    #: Attributes of the role: superuser, creates_roles, owns_database and so on.
    abilities: frozenset[str] = frozenset()
    schemas: Sequence[str] = ()
    error: str | None = None
    #: Its memberships in the predefined roles for files and programs of the server.
    outside: frozenset[str] = frozenset()
    relations: dict[Relation, RelationFacts] = field(default_factory=dict)
    known_schemas: dict[str, SchemaFacts] = field(default_factory=dict)
    event_triggers: tuple[EventTrigger, ...] = ()
    #: By name: user-defined functions, those of extensions, and built-in ones.
    functions: dict[str, Sequence[FunctionFacts]] = field(default_factory=dict)
    builtin: dict[str, Sequence[FunctionFacts]] = field(default_factory=dict)
    #: Labels that enums have now, of those to which the plan adds one: the enum's name and the label.
    labels: set[tuple[str, str]] = field(default_factory=set)
    named: dict[tuple[ObjectSort, Relation], NamedFacts] = field(default_factory=dict)

    @property
    def superuser(self) -> bool:
        """Whether the role is a superuser."""
        return "superuser" in self.abilities

    def is_on(self, name: str, *, default: bool) -> bool:
        """Return whether a boolean setting is on; `default` applies if the step does not set it."""
        value = {given.lower(): value for given, value in self.settings}.get(name)
        return default if value is None else value.lower() not in _OFF

    def path(self, created: Collection[str] = ()) -> tuple[str, ...]:
        """Return the schemas that search_path leads to, without the system's; `created` by previous steps."""
        known = {name for name in self.schemas if not name.startswith("pg_")}
        setting = next((value for name, value in reversed(self.settings) if name.lower() == "search_path"), "")
        named = [self.role if name == "$user" else name for name in listed_names(setting)]
        if not any(name in created and name not in known for name in named):
            return tuple(name for name in self.schemas if name in known)
        return tuple(dict.fromkeys(name for name in named if name in known or name in created))

    def new_place(self, relation: Relation, created: Collection[str] = ()) -> Relation:
        """Return the relation with the schema where it is created."""
        if relation.schema is not None:
            return relation
        return Relation(next(iter(self.path(created)), None), relation.name)

    def placed(self, relation: Relation) -> Relation:
        """Return the relation with its schema: where it is found, else where it would be created."""
        found = self.relations.get(relation) if relation.schema is None else None
        return found.relation if found is not None else self.new_place(relation)


class StatementContexts:
    """The contexts of all statements of a plan; statements with the same settings share one."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._contexts: dict[str, StatementContext] = {}

    async def of_step(self, step: Step | None, *, condition: bool = False) -> StatementContext:
        """Return the context of a step's first statement, or of its conditions; without a step, the plan's."""
        return await self._enter(self._settings(step, condition=condition))

    async def of(self, unit: Unit) -> StatementContext:
        """Return the context of a statement, with the settings of the statements before it in its text."""
        return await self._enter(self._with(unit, unit.settings))

    async def after(self, unit: Unit) -> StatementContext:
        """Return the context of the next statement of the text."""
        return await self._enter(self._with(unit, unit.settings_after))

    def known(self, unit: Unit) -> StatementContext:
        """Return the context of a statement that was requested before."""
        return self._contexts[json.dumps(self._with(unit, unit.settings))]

    def _with(self, unit: Unit, assigned: Settings) -> Settings:
        settings = dict(self._settings(unit.step, condition=unit.is_condition))
        for name, value in assigned:
            if name == ALL:
                settings = {kept: settings[kept] for kept in settings if kept in OF_USERS}
                settings["search_path"] = self._inspector.search_path
            elif name.startswith(_OF_TRANSACTION):
                continue
            else:
                self._assign(settings, name, value)
        return tuple(settings.items())

    def _assign(self, settings: dict[str, str], name: str, value: str) -> None:
        """Give a setting its value; RESET restores that of the session, not the one that the step has set before."""
        settings.pop(name, None)
        if name == "session_authorization":  # a new session user has no role until the next SET ROLE
            settings.pop("role", None)
        if value != _RESET:
            settings[name] = value
        elif name == "search_path":
            settings[name] = self._inspector.search_path

    def _settings(self, step: Step | None, *, condition: bool) -> Settings:
        path = self._inspector.search_path
        if step is None:
            return (("search_path", path),)
        settings = {"search_path": path if step.search_path is None else step.search_path}
        settings |= {} if condition else step.settings
        if step.role is not None:
            settings["role"] = step.role
        return tuple(settings.items())

    async def _enter(self, settings: Settings) -> StatementContext:
        name = json.dumps(settings)
        if name not in self._contexts:
            context = self._contexts[name] = StatementContext(settings=settings, version=self._inspector.version)
            reply = await self._inspector.surroundings(settings)
            if reply.error is not None:
                context.error = reply.error.message
            else:
                role, schemas, outside, database, abilities, events = reply.rows[0]
                context.database = database or ""
                context.abilities = frozenset(json.loads(abilities or "[]")) | frozenset(json.loads(outside or "[]"))
                context.role, context.schemas = role or "", json.loads(schemas or "[]")
                context.outside = frozenset(json.loads(outside or "[]"))
                context.event_triggers = tuple(EventTrigger.read(one) for one in json.loads(events or "[]"))
        return self._contexts[name]
