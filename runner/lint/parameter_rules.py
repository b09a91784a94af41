"""Rules about parameters that are not replaced, not used, or misspelled, and about the bodies of DO and functions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from runner.errors import Severity
from runner.lint.rule import Finding, Rule, statements
from runner.plan.groups import bound_to_items
from runner.plan.model import ForEach, ParamType, Sql, Step
from runner.plan.parsed_sql import QuerySql, StepSql, Subject
from runner.sql.placeholders import Form, Reference
from runner.sql.plpgsql_bodies import body_syntax_error, refused_in_body
from runner.sql.qualified_names import in_double_quotes, qualified_name
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
    for query in (*subject.preconditions, *subject.holds):
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
    repeat = step.step.repeat if step is not None else None
    carried = repeat is not None and name in repeat.carry
    bound = step is not None and any(bound.param.name == name for bound in step.step.bound)
    known = bound or carried or name in subject.plan.params or name in _BUILT_IN
    return known or (each is not None and _is_item(each, name))


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
                message=f"`{written}` is in {what}, where parameters are not replaced",
                hint=_instead(subject, text, name, token),
                step=text.step.step.id if text.step is not None else None,
            )


_WHAT: Final = {"$": "a dollar quote", '"': "a quoted name"}


def _in_body(subject: Subject, step: StepSql, statement: Statement) -> tuple[int, str] | None:
    """Return the place of the first parameter in a statement's body, and what to write; None if it has none."""
    if step.template is None:
        return None
    text = _ParameterText(step, step.step.sql, step.template)
    for place, name, token in _unreplaced(subject, text):
        if statement.start <= place.start() < statement.end:
            return place.start(), f"parameters are not replaced here: {_instead(subject, text, name, token)}"
    return None


def _stops_the_body(text: _ParameterText, offset: int) -> bool:
    """Return whether the grammar refuses the body for a parameter in it: then that is the problem."""
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
    """Return which form works: each of them is tried on a server by the tests."""
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
        used.update(_names_in(subject, text))
    broken = any(step.template is None or None in (query.template for query in step.queries) for step in subject.steps)
    for step in subject.steps:
        used.update(_named_by_keys(step.step))
        used.update(bound.source for bound in step.step.bound if bound.source is not None)
    if not broken:
        for name, param in subject.plan.params.items():
            if name not in used:
                message = f"nothing uses the parameter `{name}`"
                yield Finding(position=param.position, message=message, hint="use it, or remove its declaration")
    groups: defaultdict[str, list[StepSql]] = defaultdict(list)
    for step in subject.steps:
        if step.step.group is not None:
            groups[step.step.group].append(step)
        elif _never_names_its_item(subject, step):
            yield _item_not_used(step, step.step.id)
    for group, chain in groups.items():
        if not bound_to_items(chain[0].step) and all(_never_names_its_item(subject, step) for step in chain):
            yield _item_not_used(chain[0], group)


def _item_not_used(step: StepSql, name: str) -> Finding:
    as_ = step.step.for_each.as_ if step.step.for_each is not None else ""
    message = f"nothing in `{name}` uses its item `{as_}`: every instance runs the same SQL"
    hint = f"write :'{as_}' or :\"{as_}\" where the item belongs"
    return Finding(position=step.step.position, message=message, hint=hint, step=step.step.id)


def _names_in(subject: Subject, text: _ParameterText) -> Iterator[str]:
    """Yield the parameters that a text names, also those that are not replaced there."""
    yield from (reference.name for reference in text.template.references)
    yield from (name for _, name, _ in _unreplaced(subject, text))


def _never_names_its_item(subject: Subject, step: StepSql) -> bool:
    each = step.step.for_each
    queries = [query for query in step.queries if query.key != "for_each.sql"]
    if each is None or step.template is None or None in (query.template for query in queries):
        return False
    used = set(_named_by_keys(step.step))
    whole = _ParameterText(step, step.step.sql, step.template)
    for text in (whole, *(text for query in queries for text in _text(step, query))):
        used.update(_names_in(subject, text))
    return not any(_is_item(each, name) for name in used)


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
    bound = {one.param.name: one for one in (text.step.step.bound if text.step is not None else ())}.get(reference.name)
    param = subject.plan.params.get(reference.name) if bound is None else bound.param
    each = text.step.step.for_each if text.step is not None else None
    if param is not None and param.type is not ParamType.RELATION:
        known = subject.plan.values.get(reference.name) if bound is None else bound.value
        if _is_qualified(known):
            hint = f"declare `{reference.name}` with `type: relation`, if a table of a schema is meant"
            yield _dotted(text, reference, f"is the one name {in_double_quotes(str(known))}, with a dot in it", hint)
    elif each is not None and each.type is None and _is_item(each, reference.name):
        column = reference.name.partition(".")[2]
        value = next((one for one in _values(each, column) if _is_qualified(one)), None)
        if value is not None:
            yield _dotted(
                text, reference, f"is the one name {in_double_quotes(str(value))}, with a dot in it", _as_items(each)
            )
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


def _gives_quoted(step: StepSql, column: str) -> bool:
    """Return whether the query of the items gives the text of a regclass, or a name that it has quoted itself."""
    query = next((query for query in step.queries if query.key == "for_each.sql"), None)
    found = names_already_quoted(query.statements[0]) if query is not None and query.statements else {}
    return found.get(column, False) if column else list(found.values()) == [True]


def _syntax_error(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.DO, Kind.CREATE_FUNCTION):
        problem = body_syntax_error(place.statement, place.text)
        if problem is not None:
            offset, hint = problem.offset, None
            if STOPS_AT_A_COLON in problem.message:
                offset, hint = _in_body(subject, place.step, place.statement) or (offset, None)
            yield place.finding(f"{problem.message}, in the body", offset=offset, hint=hint)


def _refused(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.DO, Kind.CREATE_FUNCTION):
        for problem in refused_in_body(place.statement, place.text):
            severity = Severity.ERROR if problem.certain else None
            hint = "make it a step of its own; `for_each` runs it once for each item"
            yield place.finding(problem.message, hint=hint, offset=problem.offset, severity=severity)


BODY_RULES = (
    Rule(code="JP306", check=_syntax_error),
    Rule(code="JP323", check=_refused),
)

RULES = (
    *BODY_RULES,
    Rule(code="JP380", check=_name_with_a_dot),
    Rule(code="JP381", check=_not_replaced),
    Rule(code="JP382", check=_not_used),
)
