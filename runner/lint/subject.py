"""A plan to the subject of the rules: every SQL text in it is parsed, once, however many rules look at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.lint.rule import QuerySql, StepSql, Subject, Unparsed
from runner.plan.model import Plan, Sql, Step, Value
from runner.sql.params import TemplateError
from runner.sql.parse import SqlSyntaxError, Template, parse_template


def read_subject(plan: Plan) -> Subject:
    """Return what the rules look at; SQL that does not parse is in it too, as `unparsed`."""
    reader = _Reader(plan.values)
    steps = (
        *(reader.step(step, final=False) for step in plan.steps),
        *(reader.step(step, final=True) for step in plan.finally_),
    )
    checks = plan.requires.preconditions
    preconditions = tuple(reader.query("requires.preconditions", check.sql, None) for check in checks)
    return Subject(plan=plan, steps=steps, preconditions=preconditions, unparsed=tuple(reader.unparsed))


class _Reader:
    def __init__(self, known: Mapping[str, Value]) -> None:
        self._known = known
        #: The same text is often there many times: a `verify` in defaults, a file that several steps run.
        self._parsed: dict[str, Template | SqlSyntaxError | TemplateError] = {}
        self.unparsed: list[Unparsed] = []

    def step(self, step: Step, *, final: bool) -> StepSql:
        template = self._template(step.sql, step.id)
        queries = tuple(self.query(key, sql, step.id) for key, sql in _queries(step))
        return StepSql(step=step, template=template, queries=queries, final=final)

    def query(self, key: str, sql: Sql, step: str | None) -> QuerySql:
        return QuerySql(key=key, sql=sql, template=self._template(sql, step))

    def _template(self, sql: Sql, step: str | None) -> Template | None:
        parsed = self._parsed.get(sql.text)
        if parsed is None:
            parsed = self._parsed[sql.text] = self._parse(sql.text)
        if isinstance(parsed, Template):
            return parsed
        self.unparsed.append(
            Unparsed(
                position=sql.position(parsed.offset),
                message=parsed.message,
                hint=parsed.hint,
                step=step,
                refused=not isinstance(parsed, SqlSyntaxError) or parsed.refused,
                meta_command=parsed.message.startswith("\\"),  # nothing that PostgreSQL says begins with a backslash
            )
        )
        return None

    def _parse(self, text: str) -> Template | SqlSyntaxError | TemplateError:
        try:
            return parse_template(text, self._known)
        except (SqlSyntaxError, TemplateError) as error:
            return error


def _queries(step: Step) -> Iterator[tuple[str, Sql]]:
    if step.for_each is not None and step.for_each.sql is not None:
        yield "for_each.sql", step.for_each.sql
    if step.if_ is not None:
        yield "if", step.if_
    for check in step.preconditions:
        yield "preconditions", check.sql
    if step.repeat is not None and step.repeat.until_sql is not None:
        yield "repeat.until", step.repeat.until_sql
    if step.expect is not None and step.expect.sql is not None:
        yield "expect.sql", step.expect.sql
    if step.verify is not None:
        yield "verify", step.verify
