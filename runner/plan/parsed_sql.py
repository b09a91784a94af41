"""A plan with every SQL text in it parsed, once, however many rules and checks look at it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar

from runner.errors import Position
from runner.plan.groups import constants, written_out
from runner.plan.model import FOR_EACH_SQL, Plan, Sql, Step, Value
from runner.sql.placeholders import TemplateError
from runner.sql.psql_commands import client_parts
from runner.sql.statements import SqlSyntaxError, Statement, Template, parse_template
from runner.sql.tokens import invisible_characters, name_of
from runner.sql.version_needs import NewerSyntax, newer_syntax
from runner.structs import Struct, field, replace

_Found = TypeVar("_Found")


class Unparsed(Struct, frozen=True, kw_only=True):
    """A SQL text that could not be parsed: what is wrong, and where. `step` is None for the plan's own.

    `refused` says that the grammar refuses it; otherwise it is too long or too deep to be looked at. `newer` is the
    syntax of a version newer than the grammar's that it seems to use.
    """

    position: Position
    message: str
    hint: str | None = None
    step: str | None = None
    meta_command: bool = False
    refused: bool = True
    newer: NewerSyntax | None = None


class Invisible(Struct, frozen=True, kw_only=True):
    """An invisible character in a SQL text: where it is, and what to do about it."""

    position: Position
    message: str
    hint: str
    step: str | None = None


class QuerySql(Struct, frozen=True, kw_only=True):
    """A SQL text of a step besides its own, with the key that holds it: `if`, `expect.sql`.

    jobplan evaluates it on a read-only session, except `on_retry`, which a worker executes.
    """

    key: str
    sql: Sql
    template: Template | None

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The statements of the text, none if it does not parse."""
        return self.template.statements if self.template is not None else ()


class StepSql(Struct, frozen=True, kw_only=True):
    """A step and its SQL as parsed; `template` is None when it does not parse, which has a rule of its own.

    `queries` are its conditions, checks and lists in the order of the keys; `final` says that it is in `finally`.
    `rank` is its number in the plan, counted from 0.
    """

    step: Step
    template: Template | None
    queries: tuple[QuerySql, ...] = ()
    final: bool = False
    rank: int = 0

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The statements of the step, none if its SQL does not parse."""
        return self.template.statements if self.template is not None else ()

    def position(self, offset: int) -> Position:
        """Return the place in the file of the character at `offset` of the step's SQL."""
        return self.step.sql.position(offset)


class Subject(Struct, frozen=True, kw_only=True, eq=False):
    """What rules look at: the plan, each step with its parsed SQL (`finally` last), and what does not parse.

    Groups are written out: the plan has the steps of their chains instead.

    `preconditions` are those of the plan's `requires`, `holds` the SQL of its holds; `invisible` are characters in SQL
    that no reader sees; `shared` is what one rule has found and others can use again.
    """

    plan: Plan
    steps: tuple[StepSql, ...]
    preconditions: tuple[QuerySql, ...] = ()
    holds: tuple[QuerySql, ...] = ()
    unparsed: tuple[Unparsed, ...] = ()
    invisible: tuple[Invisible, ...] = ()
    shared: dict[str, Any] = field(default_factory=dict)

    def once(self, key: str, find: Callable[[Subject], _Found]) -> _Found:
        """Return what `find` finds in this plan; for all rules together it is called once."""
        if key not in self.shared:
            self.shared[key] = find(self)
        found: _Found = self.shared[key]
        return found


def of_on_retry(subject: Subject) -> Subject:
    """Return the plan's `on_retry` texts as if they were steps, for rules about what a worker refuses."""
    steps = tuple(
        StepSql(step=replace(step.step, sql=query.sql), template=query.template, final=step.final, rank=step.rank)
        for step in subject.steps
        for query in step.queries
        if query.key == "on_retry"
    )
    return Subject(plan=subject.plan, steps=steps)


def read_subject(plan: Plan) -> Subject:
    """Return what the rules look at; SQL that does not parse is in it too, as `unparsed`."""
    plan = written_out(plan)
    reader = _Reader(plan.values)
    steps = tuple(
        reader.step(step, rank, final=rank >= len(plan.steps))
        for rank, step in enumerate((*plan.steps, *plan.finally_))
    )
    checks = plan.requires.preconditions
    preconditions = tuple(reader.query("requires.preconditions", check.sql, None) for check in checks)
    holds = tuple(reader.query("holds.while", hold.while_, None) for hold in plan.holds if hold.while_ is not None)
    return Subject(
        plan=plan,
        steps=steps,
        preconditions=preconditions,
        holds=holds,
        unparsed=tuple(reader.unparsed),
        invisible=tuple(reader.invisible),
    )


_UNBOUND: Mapping[str, Value] = {}


class _Reader:
    def __init__(self, known: Mapping[str, Value]) -> None:
        self._known = known
        #: The same text is often there many times: a `verify` in defaults, a file that several steps run.
        self._parsed: dict[Hashable, Template | SqlSyntaxError | TemplateError] = {}
        #: Groups whose query for items was read; each of their steps has it.
        self._groups: set[str] = set()
        self.unparsed: list[Unparsed] = []
        self.invisible: list[Invisible] = []

    def step(self, step: Step, rank: int, *, final: bool) -> StepSql:
        bound = constants(step)
        template = self._template(sql=step.sql, step=step.id, bound=bound)
        queries = tuple(self.query(key, sql, step.id, bound) for key, sql in self._queries(step))
        return StepSql(step=step, template=template, queries=queries, final=final, rank=rank)

    def _queries(self, step: Step) -> Iterator[tuple[str, Sql]]:
        is_first = step.group is None or step.group not in self._groups
        self._groups.update(() if step.group is None else (step.group,))
        return ((key, sql) for key, sql in step.texts() if key != "sql" and (is_first or key != FOR_EACH_SQL))

    def query(self, key: str, sql: Sql, step: str | None, bound: Mapping[str, Value] = _UNBOUND) -> QuerySql:
        return QuerySql(key=key, sql=sql, template=self._template(sql=sql, step=step, bound=bound))

    def _template(self, sql: Sql, step: str | None, bound: Mapping[str, Value]) -> Template | None:
        seen = (sql.text, *bound.items()) if bound else sql.text
        parsed = self._parsed.get(seen)
        if parsed is None:
            parsed = self._parsed[seen] = self._parse(sql.text, bound)
        for part in client_parts(sql.text):
            if part.command is not None:
                message = f"{part.command} is a command of psql, not SQL"
                place = sql.position(part.start)
                self.unparsed.append(
                    Unparsed(position=place, message=message, hint=part.hint, step=step, meta_command=True)
                )
        invisible = invisible_characters(sql.text)
        for offset in invisible:
            message = f"{name_of(sql.text[offset])} is in the SQL, and PostgreSQL reads it as a part of a name"
            hint = "write a plain space, or remove it"
            self.invisible.append(Invisible(position=sql.position(offset), message=message, hint=hint, step=step))
        if isinstance(parsed, Template):
            return parsed
        if invisible:
            return None  # the syntax error, if that is what it is, has its reason
        self.unparsed.append(
            Unparsed(
                position=sql.position(parsed.offset),
                message=parsed.message,
                hint=parsed.hint,
                step=step,
                refused=not isinstance(parsed, SqlSyntaxError) or parsed.refused,
                newer=newer_syntax(sql.text, parsed.offset) if isinstance(parsed, SqlSyntaxError) else None,
            )
        )
        return None

    def _parse(self, text: str, bound: Mapping[str, Value]) -> Template | SqlSyntaxError | TemplateError:
        try:
            return parse_template(text, {**self._known, **bound} if bound else self._known)
        except (SqlSyntaxError, TemplateError) as error:
            return error
