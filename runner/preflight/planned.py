"""Statements that the planner understands: their names, types and privileges are the server's own word.

Parse and Describe say whether names and types are right, EXPLAIN (never ANALYZE) what it would cost, whether the role
may, and which locks it takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runner.engine.events import ErrorDetails
from runner.errors import Severity
from runner.gateway.catalog import FunctionFacts
from runner.gateway.inspection import BOOLEAN, Probe
from runner.gateway.replies import Reply
from runner.gateway.session import EXPLAIN
from runner.lint.locking.names import relation_in
from runner.preflight.certainty import doubt, is_syntax_error
from runner.preflight.commands.followed import new_label
from runner.preflight.finding import Finding
from runner.preflight.made import CREATES, EXTENSION, Made
from runner.preflight.seen import Sight
from runner.preflight.texts import Unit
from runner.sql.effects import Effect, effect, effect_of_call
from runner.sql.facts import FunctionCall, functions_called
from runner.sql.kinds import StatementKind
from runner.sql.objects import Action, Sort
from runner.sql.params import quote_identifier
from runner.sql.tokens import ScanError, TokenKind, tokenize
from runner.sql.versions import GRAMMAR

_K = StatementKind

#: Kinds that Parse analyses, and those of them that EXPLAIN takes.
ANALYSED = frozenset(
    {
        *(_K.SELECT, _K.SELECT_INTO, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.CREATE_TABLE_AS),
        *(_K.CREATE_MATERIALIZED_VIEW, _K.DECLARE_CURSOR, _K.EXPLAIN, _K.CALL),
    }
)
EXPLAINED = frozenset(
    {_K.SELECT, _K.INSERT, _K.UPDATE, _K.DELETE, _K.MERGE, _K.CREATE_TABLE_AS, _K.CREATE_MATERIALIZED_VIEW}
)

#: How the hint for a syntax error of an older server begins.
READ_AS = "it was read as"
#: SQLSTATE → the code of the finding, and what sort of object may be created by an earlier step.
_NAMES: dict[str, tuple[str, Sort]] = {
    "42P01": ("JP601", Sort.RELATION),
    "3F000": ("JP601", Sort.SCHEMA),
    "42703": ("JP602", Sort.COLUMN),
    "42883": ("JP603", Sort.FUNCTION),
    "42704": ("JP603", Sort.TYPE),
}
#: Reasons that may be gone when something has been created.
_MENDED_BY_CREATING = frozenset(
    {
        *("42P01", "3F000", "42883", "42704", "42846", "42804", "42P10", "42P18", "22P02", "42725", "42703"),
        *("JP522", "JP601", "JP603", "JP615", "JP621", "JP622", "JP623"),
    }
)
_PRIVILEGE = "42501"
_READ_ONLY = "25006"
#: What PL/pgSQL says of a command that changes something, in a function that is not VOLATILE.
_NOT_SUPPORTED = "0A000"
_BUSY = frozenset({"55P03", "57014"})
_TAKEN = "42P07"
#: What the server says in English; in another language it is told without what mends it.
_SCHEMA = re.compile(r"permission denied for schema (.+)")
_QUOTED = re.compile(r'"([^"]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a probe says: findings, why not all was checked, and the planner's estimates."""

    findings: tuple[Finding, ...] = ()
    why: tuple[str, ...] = ()
    #: Nothing at all could be said.
    blind: bool = False
    cost: float | None = None
    rows: int | None = None


def run_by_the_planner(unit: Unit, sight: Sight) -> tuple[FunctionFacts, ...]:
    """Return functions of the statement that planning may run: not built in, and marked STABLE or IMMUTABLE."""
    called = {call.name for call in functions_called(unit.statement)}
    known = (facts for name in sorted(called) for facts in sight.around.functions.get(name, ()))
    return tuple(facts for facts in known if facts.volatility != "v")


def may_do_anything(functions: Sequence[FunctionFacts]) -> FunctionFacts | None:
    """Return a function that a READ ONLY transaction does not hold: in an untrusted language, and of no extension."""
    return next(
        (facts for facts in functions if not facts.trusted and facts.extension is None and not _built(facts)), None
    )


def _built(facts: FunctionFacts) -> bool:
    return facts.language in {"internal", "sql"}


def is_harmless(unit: Unit, sight: Sight) -> bool:
    """Return whether a query may be run in a READ ONLY transaction: all that it calls is known to read.

    Functions that are not known by name have to be marked as reading only, one's own also in a trusted language.
    """
    known = effect(unit.statement)
    if known is not Effect.UNKNOWN:
        return known is Effect.READS
    return all(_reads(call, sight) for call in functions_called(unit.statement))


def _reads(call: FunctionCall, sight: Sight) -> bool:
    if effect_of_call(call) is Effect.READS:
        return True
    own = sight.around.functions.get(call.name, ())
    all_of_that_name = (*own, *sight.around.builtin.get(call.name, ()))
    marked = all(facts.volatility != "v" for facts in all_of_that_name)
    return bool(all_of_that_name) and marked and may_do_anything(own) is None


def judge(unit: Unit, probe: Probe, sight: Sight, *, start: int = 0) -> Judged:
    """Return what the server's answers mean for the statement, or for the query in it that begins at `start`."""
    if probe.setting.error is not None:
        return Judged(why=(f"the step's settings are refused: {probe.setting.error.message}",), blind=True)
    if probe.parse.error is not None:
        return _failed(unit, probe.parse, sight, shift=-start, planning=False)
    shape = tuple(_condition(unit, probe.parse)) if unit.is_condition else ()
    if probe.explain is None:
        return Judged(findings=shape)
    if probe.explain.error is not None:
        judged = _failed(unit, probe.explain, sight, shift=len(EXPLAIN) - start, planning=True)
        return Judged(findings=(*shape, *judged.findings), why=judged.why, blind=judged.blind)
    cost, rows = _estimates(probe.explain)
    return Judged(findings=shape, cost=cost, rows=rows)


def _condition(unit: Unit, parse: Reply) -> Iterator[Finding]:
    if unit.key == "for_each.sql":
        return
    if len(parse.columns) != 1 or parse.columns[0].type != BOOLEAN:
        gives = ", ".join(column.name for column in parse.columns) or "nothing"
        message = f"{unit.key} has to give one boolean, and gives {gives}"
        yield Finding(code="JP605", message=message, offset=unit.statement.start)


def _estimates(explain: Reply) -> tuple[float | None, int | None]:
    """A statement that changes rows gives none itself: what it changes is what the node below it gives."""
    text = "\n".join(row[0] or "" for row in explain.rows)
    try:
        plan = json.loads(text)[0].get("Plan")
    except (ValueError, IndexError, AttributeError):
        return None, None
    if not isinstance(plan, dict):
        return None, None
    rows = plan
    if plan.get("Node Type") == "ModifyTable" and plan.get("Plans"):
        rows = plan["Plans"][0]
    return float(plan.get("Total Cost", 0.0)), int(rows.get("Plan Rows", 0))


def _failed(unit: Unit, reply: Reply, sight: Sight, *, shift: int, planning: bool) -> Judged:
    error = reply.error or ErrorDetails(message="")
    state = error.sqlstate or ""
    offset = unit.statement.start + max((reply.position or 1) - 1 - shift, 0)
    if state in _BUSY:
        message = f"the server could not look at it within its limits: {error.message}"
        return Judged(findings=(Finding(code="JP620", message=message, offset=offset),), why=(error.message,))
    if planning and (state == _READ_ONLY or (state == _NOT_SUPPORTED and run_by_the_planner(unit, sight))):
        return _writes_while_planned(unit, error, sight, offset)
    finding = _finding(error, sight, state, offset, planning=planning)
    if state in _NAMES:
        made = _made_name(unit, reply, error, sight, offset)
        if made is not None:
            return made
    if state == _TAKEN and planning:  # the catalog says more about it
        return Judged(why=("it was not explained, because the name is taken",))
    return uncertain(unit, sight, finding, state) or Judged(findings=(finding,), why=("the server refuses it",))


def uncertain(unit: Unit, sight: Sight, finding: Finding, reason: str) -> Judged | None:
    """Return what is said instead of a finding that earlier steps may have made wrong, None if it is certain.

    `reason` is the SQLSTATE, or the finding's code.
    """
    label = new_label(unit, sight, _last_quoted(finding.message)) if reason == "22P02" else None
    if label is not None:
        return Judged(findings=(label,), why=("the server refuses it",))
    why = doubt(unit, sight, reason, finding.message)
    if why is not None:
        return Judged(why=(f"{finding.message}, as things stand; {why}",), blind=True)
    opaque = sight.opaque()
    if opaque is None or is_syntax_error(reason, finding.message):
        return None
    if opaque.change.kind in {CREATES, EXTENSION} and reason not in _MENDED_BY_CREATING:
        return None
    verb = "create it" if reason in _NAMES or finding.code in {"JP601", "JP603"} else "change that"
    message = f"{finding.message}; step `{opaque.step}` may {verb}"
    if opaque.change.kind == EXTENSION:
        return Judged(why=(message,), blind=True)
    return Judged(findings=(Finding(code="JP617", message=message, offset=finding.offset),), why=(message,))


def _finding(error: ErrorDetails, sight: Sight, state: str, offset: int, *, planning: bool) -> Finding:
    """Return the finding for an error of the server, if it is certain."""
    if state in _NAMES:
        return Finding(code=_NAMES[state][0], message=error.message, offset=offset, hint=error.hint)
    if state == _PRIVILEGE:
        message = f'role "{sight.around.role}": {error.message}'
        schema = _SCHEMA.fullmatch(error.message)
        hint = error.hint
        if schema is not None:
            hint = f"GRANT USAGE ON SCHEMA {quote_identifier(schema[1])} TO {quote_identifier(sight.around.role)};"
        return Finding(code="JP610", message=message, offset=offset, hint=hint)
    major = sight.around.version // 10_000
    if is_syntax_error(state, error.message) and major < GRAMMAR:
        hint = f"{READ_AS} PostgreSQL {GRAMMAR} syntax; the server is {major}"
        return Finding(code="JP606", message=error.message, offset=offset, hint=hint)
    severity = Severity.WARNING if planning and state[:2] in {"P0", "55", "XX", "53"} else None
    return Finding(code="JP606", message=error.message, offset=offset, hint=error.hint, severity=severity)


def _writes_while_planned(unit: Unit, error: ErrorDetails, sight: Sight, offset: int) -> Judged:
    blamed = ", ".join(f"{facts.name}()" for facts in run_by_the_planner(unit, sight)) or "a function that it runs"
    message = f"{blamed} is marked STABLE or IMMUTABLE, and planning it would write: {error.message}"
    return Judged(
        findings=(Finding(code="JP613", message=message, offset=offset, hint="mark it VOLATILE"),),
        why=("it was not explained, because planning it would run what writes",),
    )


def _made_name(unit: Unit, reply: Reply, error: ErrorDetails, sight: Sight, offset: int) -> Judged | None:
    """Return what is said of a name that an earlier step creates, None if none does."""
    sort = _NAMES[error.sqlstate or ""][1]
    name = _name_at(unit, offset - unit.statement.start, string=sort is Sort.RELATION) if reply.position else None
    name = name or _in_quotes(error.message)
    made = _made(unit, sort, name, sight)
    return Judged(why=(f"{name} is {made.told}",), blind=True) if made is not None else None


def _made(unit: Unit, sort: Sort, name: str | None, sight: Sight) -> Made | None:
    """Return who creates what the server does not know."""
    if name is None:
        return None
    relation = relation_in(name)
    if relation is None:
        return None
    if sort is Sort.RELATION:
        return sight.relation(relation).made
    if sort is Sort.SCHEMA:
        return sight.schema(relation.schema or relation.name)[1]
    if sort is Sort.COLUMN and unit.statement.kind is _K.CALL:
        return None
    made = sight.part(sort, relation.name)
    return made if made is not None and made.change.action is Action.CREATE else None


def _name_at(unit: Unit, offset: int, *, string: bool) -> str | None:
    """Return the dotted name at an offset of the statement, or with `string` what a string constant there holds."""
    try:
        tokens = [token for token in tokenize(unit.sql) if token.end > offset]
    except ScanError:
        return None
    if string and tokens and tokens[0].kind is TokenKind.STRING:
        return tokens[0].text.strip("'")
    name = ""
    for token in tokens:
        if token.kind not in {TokenKind.WORD, TokenKind.QUOTED_IDENTIFIER} and token.text != ".":
            break
        if token.kind is not TokenKind.OTHER and name and not name.endswith("."):
            break
        name += token.text
    return name.rstrip(".") or None


def _last_quoted(message: str) -> str:
    found: list[str] = _QUOTED.findall(message)
    return found[-1] if found else ""


def _in_quotes(message: str) -> str | None:
    found = _QUOTED.search(message)
    return found.group(1) if found else None
