"""Rules about parameters that are not replaced, not used, or misspelled, and about the bodies of DO and functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from runner.errors import Severity
from runner.lint.rule import Finding, Rule, statements
from runner.plan.model import ForEach, ParamType, Sql, Step
from runner.plan.parsed_sql import QuerySql, StepSql, Subject
from runner.sql.placeholders import Form, Reference
from runner.sql.plpgsql_bodies import body_syntax_error, refused_in_body
from runner.sql.qualified_names import qualified_name
from runner.sql.returned_rows import names_already_quoted
from runner.sql.statements import Statement, Template
from runner.sql.statements import StatementKind as Kind
from runner.sql.tokens import ScanError, Token, TokenKind, tokenize

#: What the grammar says of a body with a parameter in it.
STOPS_AT_A_COLON: Final = 'at or near ":"'
#: What looks like a parameter. Not the colon of a cast, of `host:port`, of `a[1:n]`, or of `{"key":"value"}`.
_LIKE_A_PARAMETER: Final = re.compile(r"""(?<![:A-Za-z0-9"\]]):(?:'([\w.]+)'|"([\w.]+)"|''([\w.]+)''|([A-Za-z_]\w*))""")
_INTERVAL: Final = re.compile(r"\s*:(\w+)\s+(year|month|week|day|hour|minute|min|second|sec)s?\s*", re.IGNORECASE)
_MADE_OF: Final = {"minute": "mins", "min": "mins", "second": "secs", "sec": "secs"}
_NUMBERS: Final = frozenset({ParamType.INTEGER, ParamType.NUMBER, ParamType.BOOLEAN})
_BUILT_IN: Final = frozenset({"run.id", "run.name", "run.status"})


class _ParameterText(NamedTuple):
    """One SQL text of the plan, as a rule sees it: `step` is None for the plan's own."""

    step: StepSql | None
    sql: Sql
    template: Template


def _texts(subject: Subject) -> Iterator[_ParameterText]:
    for query in subject.preconditions:
        yield from _text(None, query)
    for step in subject.steps:
        if step.template is not None:
            yield _ParameterText(step, step.step.sql, step.template)
        for query in step.queries:
            yield from _text(step, query)


def _text(step: StepSql | None, query: QuerySql) -> Iterator[_ParameterText]:
    if query.template is not None:
        yield _ParameterText(step, query.sql, query.template)


def _known(subject: Subject, step: StepSql | None, name: str) -> bool:
    each = step.step.for_each if step is not None else None
    return name in subject.plan.params or name in _BUILT_IN or (each is not None and _is_item(each, name))


def _is_item(for_each: ForEach, name: str) -> bool:
    return name == for_each.as_ or name.startswith(f"{for_each.as_}.")


# --- not replaced -----------------------------------------------------------------------------------------------------


def _not_replaced(subject: Subject) -> Iterator[Finding]:
    for text in _texts(subject):
        for place, name, token in _unreplaced(subject, text):
            if _stops_the_body(text, place.start()):
                continue  # an error, which has the same hint
            what = _WHAT.get(token.text[:1], "a string")
            written = text.sql.text[place.start() : place.end()]
            yield Finding(
                position=text.sql.position(place.start()),
                message=f"`{written}` stands in {what}, where parameters are not replaced",
                hint=_instead(subject, text, name, token),
                step=text.step.step.id if text.step is not None else None,
            )


_WHAT: Final = {"$": "a dollar quote", '"': "a quoted name"}


def in_body(subject: Subject, step: StepSql, statement: Statement) -> tuple[int, str] | None:
    """Return where the first parameter of a statement stands in its body, and what to write; None if it has none."""
    if step.template is None:
        return None
    text = _ParameterText(step, step.step.sql, step.template)
    for place, name, token in _unreplaced(subject, text):
        if statement.start <= place.start() < statement.end:
            return place.start(), f"parameters are not replaced here: {_instead(subject, text, name, token)}"
    return None


def _stops_the_body(text: _ParameterText, offset: int) -> bool:
    """Say whether the grammar refuses the body for a parameter in it: then that is the problem."""
    statement = _statement_at(text.template, offset)
    problem = body_syntax_error(statement, text.sql.text) if statement is not None and text.step is not None else None
    return problem is not None and STOPS_AT_A_COLON in problem.message


def _unreplaced(subject: Subject, text: _ParameterText) -> Iterator[tuple[re.Match[str], str, Token]]:
    """Yield what looks like a known parameter and is part of a string or a quoted name, each once for a text."""
    replaced = {reference.start for reference in text.template.references}
    places = [found for found in _LIKE_A_PARAMETER.finditer(text.sql.text) if found.start() not in replaced]
    named = [(place, next(filter(None, place.groups()))) for place in places]
    named = [(place, name) for place, name in named if _known(subject, text.step, name)]
    if not named:
        return
    try:
        tokens = tokenize(text.sql.text)
    except ScanError:
        return
    seen: set[str] = set()
    for place, name in named:
        token = next((one for one in tokens if one.start <= place.start() < one.end), None)
        if token is not None and token.kind in (TokenKind.STRING, TokenKind.QUOTED_IDENTIFIER) and name not in seen:
            seen.add(name)
            yield place, name, token


def _instead(subject: Subject, text: _ParameterText, name: str, token: Token) -> str:
    """Say which form works: each of them is tried on a server by the tests."""
    param = subject.plan.params.get(name)
    is_number = param is not None and param.type in _NUMBERS
    if token.kind is TokenKind.QUOTED_IDENTIFIER:
        return f'make the whole name the value of the parameter, and write :"{name}"'
    if token.text.startswith("$"):
        match _statement_at(text.template, token.start):
            case Statement(kind=Kind.DO):
                form = f":{name}" if is_number else f":'{name}'"
                setting = f"app.{name.replace('.', '_')}"
                cast = "::int" if param is not None and param.type is ParamType.INTEGER else ""
                return (
                    f"write `settings: {{{setting}: \"{form}\"}}`, and in the body current_setting('{setting}'){cast}"
                )
            case Statement(kind=Kind.CREATE_FUNCTION):
                return "make it an argument of the function, and pass the parameter where the function is called"
    interval = _INTERVAL.fullmatch(token.text.strip("'"))
    if interval is not None and param is not None and param.type is ParamType.INTEGER:
        unit = interval[2].lower()
        return f"write make_interval({_MADE_OF.get(unit, unit + 's')} => :{name}) in place of the whole interval"
    return f"end the string before it and write '…' || :'{name}' || '…'"


def _statement_at(template: Template, offset: int) -> Statement | None:
    return next((one for one in template.statements if one.start <= offset < one.end), None)


# --- not used ---------------------------------------------------------------------------------------------------------


def _not_used(subject: Subject) -> Iterator[Finding]:
    used: set[str] = set()
    for text in _texts(subject):
        used.update(reference.name for reference in text.template.references)
        used.update(name for _, name, _ in _unreplaced(subject, text))
    broken = any(step.template is None or None in (query.template for query in step.queries) for step in subject.steps)
    for step in subject.steps:
        used.update(_named_by_keys(step.step))
    if not broken:
        for name, param in subject.plan.params.items():
            if name not in used:
                message = f"nothing uses the parameter `{name}`"
                yield Finding(position=param.position, message=message, hint="use it, or remove its declaration")
    for step in subject.steps:
        yield from _item_not_used(subject, step)


def _item_not_used(subject: Subject, step: StepSql) -> Iterator[Finding]:
    each = step.step.for_each
    queries = [query for query in step.queries if query.key != "for_each.sql"]
    if each is None or step.template is None or None in (query.template for query in queries):
        return
    used = set(_named_by_keys(step.step))
    for text in (text for query in queries for text in _text(step, query)):
        used.update(reference.name for reference in text.template.references)
        used.update(name for _, name, _ in _unreplaced(subject, text))
    whole = _ParameterText(step, step.step.sql, step.template)
    used.update(reference.name for reference in step.template.references)
    used.update(name for _, name, _ in _unreplaced(subject, whole))
    if not any(_is_item(each, name) for name in used):
        message = f"nothing in `{step.step.id}` uses its item `{each.as_}`: every instance runs the same SQL"
        hint = f"write :'{each.as_}' or :\"{each.as_}\" where the item belongs"
        yield Finding(position=step.step.position, message=message, hint=hint, step=step.step.id)


def _named_by_keys(step: Step) -> Iterator[str]:
    for text in (step.role or "", step.search_path or "", *step.settings.values(), *step.touches):
        for found in _LIKE_A_PARAMETER.finditer(text):
            yield next(filter(None, found.groups()))


# --- a name with a dot ------------------------------------------------------------------------------------------------


def _name_with_a_dot(subject: Subject) -> Iterator[Finding]:
    for text in _texts(subject):
        seen: set[str] = set()
        for reference in text.template.references:
            if reference.form is Form.IDENTIFIER and reference.name not in seen:
                seen.add(reference.name)
                yield from _qualified(subject, text, reference)


def _qualified(subject: Subject, text: _ParameterText, reference: Reference) -> Iterator[Finding]:
    param = subject.plan.params.get(reference.name)
    each = text.step.step.for_each if text.step is not None else None
    if param is not None and param.type is not ParamType.RELATION:
        known = subject.plan.values.get(reference.name)
        if _is_qualified(known):
            hint = f"declare `{reference.name}` with `type: relation`, if a table of a schema is meant"
            yield _dotted(text, reference, f"is the one name {_quoted(known)}, with a dot in it", hint)
    elif each is not None and each.type is None and _is_item(each, reference.name):
        column = reference.name.partition(".")[2]
        value = next((one for one in _values(each, column) if _is_qualified(one)), None)
        if value is not None:
            yield _dotted(text, reference, f"is the one name {_quoted(value)}, with a dot in it", _as_items(each))
        elif text.step is not None and _gives_quoted(text.step, column):
            message = "is quoted once more than the query has quoted it: that is the name of no relation"
            yield _dotted(text, reference, message, _as_items(each))


def _dotted(text: _ParameterText, reference: Reference, message: str, hint: str) -> Finding:
    step = text.step.step.id if text.step is not None else None
    place = text.sql.position(reference.start)
    return Finding(position=place, message=f"`{reference}` {message}", hint=hint, step=step)


def _as_items(each: ForEach) -> str:
    return f"write `for_each: {{…, as: {each.as_}, type: relation}}`, if a table of a schema is meant"


def _values(each: ForEach, column: str) -> Iterator[object]:
    for item in each.items:
        if not isinstance(item, Mapping):
            yield item
        elif column in item:
            yield item[column]
        elif not column and len(item) == 1:
            yield from item.values()


def _is_qualified(value: object) -> bool:
    try:
        return isinstance(value, str) and len(qualified_name(value).parts) > 1
    except ValueError:
        return False


def _quoted(value: object) -> str:
    doubled = str(value).replace('"', '""')
    return f'"{doubled}"'


def _gives_quoted(step: StepSql, column: str) -> bool:
    """Say whether the query of the items gives the text of a regclass, or a name that it has quoted itself."""
    query = next((query for query in step.queries if query.key == "for_each.sql"), None)
    found = names_already_quoted(query.statements[0]) if query is not None and query.statements else {}
    return found.get(column, False) if column else list(found.values()) == [True]


_PURGE = "DELETE FROM audit WHERE at < now() - "

REPLACEMENT_RULES = (
    Rule(
        code="JP380",
        severity=Severity.WARNING,
        title="A qualified name as one identifier",
        why=(
            'The form :"name" makes one identifier of a value, whatever is in it: "public.orders" is a table of that '
            "name, with a dot, and there is hardly ever one. What a query gives as regclass, or has put through "
            "quote_ident, would be quoted twice. A parameter or an item of type relation is split into its parts, and "
            "each part is quoted."
        ),
        wrong='- id: vacuum\n  for_each: {items: [public.orders], as: t}\n  sql: VACUUM :"t"',
        right='- id: vacuum\n  for_each: {items: [public.orders], as: t, type: relation}\n  sql: VACUUM :"t"',
        check=_name_with_a_dot,
    ),
    Rule(
        code="JP381",
        severity=Severity.WARNING,
        title="A parameter in a string",
        why=(
            "Inside string constants, dollar quotes and quoted names a colon is a character like any other, so the "
            "name of a parameter stays there as text. An interval is made by make_interval, a text by joining strings. "
            "The body of a DO block reads a setting that the step's `settings` give a value; a function takes an "
            "argument."
        ),
        wrong=f"params: {{days: {{type: integer, default: 90}}}}\n…\n- id: purge\n  sql: {_PURGE}interval ':days days'",
        right=(
            "params: {days: {type: integer, default: 90}}\n…\n- id: purge\n"
            f"  sql: {_PURGE}make_interval(days => :days)"
        ),
        check=_not_replaced,
    ),
    Rule(
        code="JP382",
        severity=Severity.WARNING,
        title="A parameter or an item that nothing uses",
        why=(
            "A value that nothing uses changes nothing, whatever the person who gives it expects of it. An item that "
            "the step's SQL does not name makes every instance run the same SQL: often its name is misspelt, or stands "
            "where parameters are not replaced. Where equal instances are meant, such as several workers on one queue, "
            "a comment says so: `# jobplan: ignore=JP382 four workers on one queue`."
        ),
        wrong="- id: vacuum\n  for_each: {items: [orders, audit], as: t}\n  sql: VACUUM orders",
        right='- id: vacuum\n  for_each: {items: [orders, audit], as: t}\n  sql: VACUUM :"t"',
        check=_not_used,
    ),
)


def _syntax_error(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.DO, Kind.CREATE_FUNCTION):
        problem = body_syntax_error(place.statement, place.text)
        if problem is not None:
            offset, hint = problem.offset, None
            if STOPS_AT_A_COLON in problem.message:
                offset, hint = in_body(subject, place.step, place.statement) or (offset, None)
            yield place.finding(f"{problem.message}, in the body", offset=offset, hint=hint)


def _refused(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.DO, Kind.CREATE_FUNCTION):
        for problem in refused_in_body(place.statement, place.text):
            severity = Severity.ERROR if problem.certain else None
            hint = "make it a step of its own; `for_each` runs it once for each item"
            yield place.finding(problem.message, hint=hint, offset=problem.offset, severity=severity)


BODY_RULES = (
    Rule(
        code="JP306",
        severity=Severity.ERROR,
        title="A syntax error in a body",
        why=(
            "The server reads the whole body of a DO block before it runs any of it, and that of a function in SQL or "
            "PL/pgSQL when the function is created: a syntax error fails the step (42601), also in a branch that is "
            "never taken. Bodies in other languages, and texts that EXECUTE puts together, are not read."
        ),
        wrong="- id: purge\n  sql: DO $$ BEGIN DELETE FORM audit; END $$",
        right="- id: purge\n  sql: DO $$ BEGIN DELETE FROM audit; END $$",
        check=_syntax_error,
    ),
    Rule(
        code="JP323",
        severity=Severity.WARNING,
        title="A command that cannot run in a body",
        why=(
            "VACUUM, everything CONCURRENTLY, ALTER SYSTEM and the other commands that must stand alone fail inside "
            "of DO and functions (25001), and so does COMMIT in a function or in a block that has an EXCEPTION clause "
            "(2D000). It is an error where a DO block surely reaches it, and a warning where a condition or a handler "
            "decides, or where the step only creates the function."
        ),
        wrong=(
            "- id: tidy\n  sql: |\n    DO $$ BEGIN\n"
            "      IF to_regclass('audit') IS NOT NULL THEN VACUUM audit; END IF;\n    END $$"
        ),
        right="- id: tidy\n  if: SELECT to_regclass('audit') IS NOT NULL\n  sql: VACUUM audit",
        check=_refused,
    ),
)


RULES = (*BODY_RULES, *REPLACEMENT_RULES)
