"""Rules about what happens after a failed attempt: `on_retry`, and the items of a chunk one by one."""

from __future__ import annotations

from collections.abc import Iterator

from runner.errors import JobplanError
from runner.lint.rule import Finding, Rule, step_finding
from runner.plan.model import Sql, Step, Value
from runner.plan.parsed_sql import StepSql, Subject
from runner.sql.placeholders import Form, Listed, Reference, references, render_traced
from runner.sql.statements import SqlSyntaxError, parse_statements
from runner.sql.text_traits import nature_of


def _never_repeated(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        own = step.step
        if own.on_retry is None or own.retry.max_attempts > 1 or _may_run_again(own):
            continue
        message = f"`on_retry` of `{own.id}` runs only before a resume: the step has no `retry`"
        yield Finding(
            position=own.on_retry.start,
            message=message,
            hint="add `retry: {max_attempts: 2}`, if it is for a further attempt",
            step=own.id,
        )


def _fails_as_a_whole(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        for_each = step.step.for_each
        if for_each is None or for_each.chunk is None or step.template is None:
            continue
        if step.step.retry.max_attempts < 2 and not _may_run_again(step.step):
            message = f"one failed item of `{step.step.id}` fails its whole chunk: nothing is repeated item by item"
            hint = "add `retry`, or `idempotent: true` if a second run does no harm"
            yield step_finding(step, message, hint=hint)


def _may_run_again(step: Step) -> bool:
    """Return whether a failed chunk is repeated without `retry`."""
    return step.idempotent or nature_of(step.sql.text).idempotent


def _takes_no_list(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        for_each = step.step.for_each
        if for_each is None or for_each.chunk is None or step.template is None:
            continue
        sql = step.step.sql
        found = [one for one in references(sql.text) if one.name.partition(".")[0] == for_each.as_]
        for_all = _parses(sql, subject, step, found, frozenset(one.start for one in found))
        if found and not for_all:
            wrong = next((one for one in found if not _parses(sql, subject, step, found, {one.start})), found[0])
            yield Finding(
                position=sql.position(wrong.start),
                message=f"`{wrong}` is a list of the items of a chunk, and the statement takes none there",
                hint="leave out `chunk`: then each instance has one item",
                step=step.step.id,
            )


def _parses(
    sql: Sql, subject: Subject, step: StepSql, items: list[Reference], several: frozenset[int] | set[int]
) -> bool:
    """Return whether the text can be parsed if the references at these places are lists of two."""
    values: dict[str, Value | Listed] = {}
    text, moved = sql.text, 0
    for number, one in enumerate(items):
        name = f"item_{number}"
        written = f":{one.form.value}{name}{one.form.value}"
        text = text[: one.start + moved] + written + text[one.end + moved :]
        moved += len(written) - (one.end - one.start)
        single: Value = 0 if one.form is Form.BARE else name
        values[name] = Listed((single, single)) if one.start in several else single
    for reference in step.template.references if step.template is not None else ():
        known = subject.plan.values.get(reference.name)
        values.setdefault(reference.name, known if known is not None else 0 if reference.form is Form.BARE else "name")
    try:
        parse_statements(render_traced(text, values).text)
    except SqlSyntaxError as error:
        return not error.refused
    except JobplanError:
        return True  # another rule reports it
    return True


RULES = (
    Rule(code="JP397", check=_never_repeated),
    Rule(code="JP398", check=_takes_no_list),
    Rule(code="JP399", check=_fails_as_a_whole),
)
