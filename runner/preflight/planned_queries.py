"""Checks statements that the planner supports: the server itself checks their names, types and privileges.

Parse and Describe check names and types; EXPLAIN (never ANALYZE) gives the cost, the privileges and the locks. The
catalog adds rights on rows and the triggers that fire.

EXPLAIN evaluates IMMUTABLE functions of constants, and STABLE ones for its estimates, in casts, operators, domains,
views, policies, defaults and constraints. The volatility of a function is no evidence of what it does. So a statement
is planned, and a condition or a list evaluated, only if all functions that it could execute are built in or belong to
an extension.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from runner.engine.events import ErrorDetails
from runner.errors import Severity
from runner.gateway.catalog import FunctionFacts
from runner.gateway.inspection import Inspector, Probe
from runner.gateway.replies import Reply, is_boolean
from runner.gateway.session import EXPLAIN
from runner.locks.relation_names import relation_in
from runner.preflight.catalog_state import CatalogView, Made
from runner.preflight.earlier_steps import doubt, is_syntax_error, new_label
from runner.preflight.sql_units import StatementFinding, Unit
from runner.sql.catalog_changes import CREATES, EXTENSION, Action, Sort
from runner.sql.catalog_needs import needed, row_rights
from runner.sql.definition_changes import fires_event_triggers
from runner.sql.function_calls import FunctionCall, functions_called
from runner.sql.placeholders import quote_identifier
from runner.sql.qualified_names import MAX_NAME_BYTES, without_double_quotes
from runner.sql.relations import Use, query_relations
from runner.sql.statement_effects import Effect, effect, effect_of_call
from runner.sql.statements import GRAMMAR, StatementKind
from runner.sql.tokens import ScanError, TokenKind, tokenize
from runner.structs import Struct

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
#: Errors that may not occur after an object was created.
_MENDED_BY_CREATING = frozenset(
    {
        *("42P01", "3F000", "42883", "42704", "42846", "42804", "42P10", "42P18", "22P02", "42725", "42703"),
        *("JP522", "JP601", "JP603", "JP615", "JP621", "JP622", "JP623"),
    }
)
_PRIVILEGE = "42501"
_READ_ONLY = "25006"
#: PL/pgSQL's error for a command that writes, in a function that is not VOLATILE.
_NOT_SUPPORTED = "0A000"
#: The errors of a statement that a limit of the dry run has ended.
BUSY = frozenset({"55P03", "57014"})
_TAKEN = "42P07"
#: The server's message in English; in other languages the finding has no hint.
_SCHEMA = re.compile(r"permission denied for schema (.+)")
_QUOTED = re.compile(r'"([^"]+)"')


class Judged(Struct, frozen=True, kw_only=True):
    """The result of a probe: findings, the reasons why not all was checked, and the planner's estimates."""

    findings: tuple[StatementFinding, ...] = ()
    why: tuple[str, ...] = ()
    #: Nothing could be checked.
    blind: bool = False
    cost: float | None = None
    rows: int | None = None


def _run_by_the_planner(unit: Unit, catalog: CatalogView) -> tuple[FunctionFacts, ...]:
    """Return functions of the statement that planning may run: not built in, and marked STABLE or IMMUTABLE."""
    called = {call.name for call in functions_called(unit.statement)}
    known = (facts for name in sorted(called) for facts in catalog.context.functions.get(name, ()))
    return tuple(facts for facts in known if facts.volatility != "v")


def _may_do_anything(functions: Sequence[FunctionFacts]) -> FunctionFacts | None:
    """Return a function that READ ONLY does not restrict: in an untrusted language, and of no extension."""
    own = (facts for facts in functions if not facts.trusted and facts.extension is None)
    return next((facts for facts in own if facts.language not in {"internal", "sql"}), None)


def is_harmless(unit: Unit, catalog: CatalogView) -> bool:
    """Return whether a query may be run in a READ ONLY transaction: all functions that it calls are known to read.

    Functions that are not known by name must be STABLE or IMMUTABLE; those of no extension also in a trusted language.
    """
    known = effect(unit.statement)
    if known is not Effect.UNKNOWN:
        return known is Effect.READS
    return all(_reads(call, catalog) for call in functions_called(unit.statement))


def _reads(call: FunctionCall, catalog: CatalogView) -> bool:
    if effect_of_call(call) is Effect.READS:
        return True
    own = catalog.context.functions.get(call.name, ())
    all_of_that_name = (*own, *catalog.context.builtin.get(call.name, ()))
    marked = all(facts.volatility != "v" for facts in all_of_that_name)
    return bool(all_of_that_name) and marked and _may_do_anything(own) is None


def judge(unit: Unit, probe: Probe, catalog: CatalogView, *, start: int = 0) -> Judged:
    """Return the findings from the server's answers, for the statement or for the query that begins at `start`."""
    if probe.setting.error is not None:
        return Judged(why=(f"the step's settings are refused: {probe.setting.error.message}",), blind=True)
    if probe.parse.error is not None:
        return _failed(unit, probe.parse, catalog, shift=-start, planning=False)
    shape = tuple(_condition(unit, probe.parse)) if unit.is_condition else ()
    if probe.explain is None:
        return Judged(findings=shape)
    if probe.explain.error is not None:
        judged = _failed(unit, probe.explain, catalog, shift=len(EXPLAIN) - start, planning=True)
        return Judged(findings=(*shape, *judged.findings), why=judged.why, blind=judged.blind)
    cost, rows = _estimates(probe.explain)
    return Judged(findings=shape, cost=cost, rows=rows)


def _condition(unit: Unit, parse: Reply) -> Iterator[StatementFinding]:
    if unit.key == "for_each.sql":
        return
    if not is_boolean(parse.columns):
        gives = ", ".join(column.name for column in parse.columns) or "nothing"
        yield unit.finding("JP605", f"{unit.key} must return one boolean, but returns {gives}")


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


def _failed(unit: Unit, reply: Reply, catalog: CatalogView, *, shift: int, planning: bool) -> Judged:
    error = reply.error or ErrorDetails(message="")
    state = error.sqlstate or ""
    offset = unit.statement.start + max((reply.position or 1) - 1 - shift, 0)
    if state in BUSY:
        message = f"the server could not plan it within its limits: {error.message}"
        return Judged(findings=(unit.finding("JP620", message, offset),), why=(error.message,))
    if planning and (state == _READ_ONLY or (state == _NOT_SUPPORTED and _run_by_the_planner(unit, catalog))):
        return _writes_while_planned(unit, error, catalog, offset)
    finding = _finding(error, catalog, state, offset, planning=planning)
    if state in _NAMES:
        made = _made_name(unit, reply, error, catalog, offset)
        if made is not None:
            return made
    if state == _TAKEN and planning:  # the catalog has more facts about it
        return Judged(why=("it was not explained, because the name is taken",))
    return uncertain(unit, catalog, finding, state) or Judged(findings=(finding,), why=("the server refuses it",))


def uncertain(unit: Unit, catalog: CatalogView, finding: StatementFinding, reason: str) -> Judged | None:
    """Return a remark instead of a finding that previous steps may make obsolete, None if the finding is certain.

    `reason` is the SQLSTATE, or the finding's code.
    """
    label = new_label(unit, catalog, _last_quoted(finding.message)) if reason == "22P02" else None
    if label is not None:
        return Judged(findings=(label,), why=("the server refuses it",))
    why = doubt(unit, catalog, reason, finding.message)
    if why is not None:
        return Judged(why=(f"now: {finding.message}; {why}",), blind=True)
    opaque = catalog.opaque()
    if opaque is None or is_syntax_error(reason, finding.message):
        return None
    if opaque.change.kind in {CREATES, EXTENSION} and reason not in _MENDED_BY_CREATING:
        return None
    verb = "create it" if reason in _NAMES or finding.code in {"JP601", "JP603"} else "change that"
    message = f"{finding.message}; step `{opaque.step}` may {verb}"
    if opaque.change.kind == EXTENSION:
        return Judged(why=(message,), blind=True)
    return Judged(findings=(unit.finding("JP617", message, finding.offset),), why=(message,))


def _finding(error: ErrorDetails, catalog: CatalogView, state: str, offset: int, *, planning: bool) -> StatementFinding:
    """Return the finding for an error of the server, if it is certain."""
    if state in _NAMES:
        return StatementFinding(_NAMES[state][0], error.message, offset, hint=error.hint, sqlstate=state)
    if state == _PRIVILEGE:
        message = f'role "{catalog.context.role}": {error.message}'
        schema = _SCHEMA.fullmatch(error.message)
        hint = error.hint
        if schema is not None:
            hint = f"GRANT USAGE ON SCHEMA {quote_identifier(schema[1])} TO {quote_identifier(catalog.context.role)};"
        return StatementFinding("JP610", message, offset, hint=hint, sqlstate=state)
    major = catalog.context.version // 10_000
    if is_syntax_error(state, error.message) and major < GRAMMAR:
        hint = f"{READ_AS} PostgreSQL {GRAMMAR} syntax; the server is {major}"
        return StatementFinding("JP606", error.message, offset, hint=hint, sqlstate=state)
    severity = Severity.WARNING if planning and state[:2] in {"P0", "55", "XX", "53"} else None
    return StatementFinding("JP606", error.message, offset, hint=error.hint, severity=severity, sqlstate=state)


def _writes_while_planned(unit: Unit, error: ErrorDetails, catalog: CatalogView, offset: int) -> Judged:
    blamed = ", ".join(f"{facts.name}()" for facts in _run_by_the_planner(unit, catalog)) or "a function that it runs"
    message = f"{blamed} is marked STABLE or IMMUTABLE, and planning it would write: {error.message}"
    return Judged(
        findings=(unit.finding("JP613", message, offset, hint="mark it VOLATILE"),),
        why=("it was not explained, because planning it would run what writes",),
    )


def _made_name(unit: Unit, reply: Reply, error: ErrorDetails, catalog: CatalogView, offset: int) -> Judged | None:
    """Return the remark for a name that a previous step creates, None if none does."""
    sort = _NAMES[error.sqlstate or ""][1]
    name = _name_at(unit, offset - unit.statement.start, string=sort is Sort.RELATION) if reply.position else None
    quoted = _in_quotes(error.message)
    made = _made(unit, sort, name or quoted, catalog)
    if made is None and sort is Sort.COLUMN:  # the server may point at the row that has no such column
        name, made = quoted, _made(unit, sort, quoted, catalog)
    return Judged(why=(f"{name} is {made.words}",), blind=True) if made is not None else None


def _made(unit: Unit, sort: Sort, name: str | None, catalog: CatalogView) -> Made | None:
    """Return the change that creates an object which the server does not have."""
    if name is None:
        return None
    relation = relation_in(name)
    if relation is None:
        return None
    if sort is Sort.RELATION:
        return catalog.relation(relation).made
    if sort is Sort.SCHEMA:
        return catalog.schema(relation.schema or relation.name)[1]
    if sort is Sort.COLUMN and unit.statement.kind is _K.CALL:
        return None
    made = catalog.part(sort, relation.name)
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


_WRITES = frozenset({"INSERT", "UPDATE", "DELETE"})


def check_row_rights(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding | str]:
    """Yield the missing privileges on the relations of a query, from the catalog, and why some are unknown.

    EXPLAIN would report the same.
    """
    role = catalog.context.role
    for one in row_rights(unit.statement):
        facts = catalog.facts(one.relation)
        if facts is None or facts.owned or one.privilege in facts.privileges or not facts.reached:
            continue  # Parse has reported a schema that is not reached
        if one.privilege in facts.on_columns:
            yield f'role "{role}" has {one.privilege} on some columns of {one.relation}, perhaps not on all'
            continue
        message = f'role "{role}" has no {one.privilege} on {one.relation}, which belongs to "{facts.owner}"'
        name = f"{quote_identifier(facts.relation.schema or '')}.{quote_identifier(facts.relation.name)}"
        hint = f"GRANT {one.privilege} ON {name} TO {quote_identifier(role)};"
        yield unit.finding("JP610", message, one.offset, hint=hint)


def fired_triggers(unit: Unit, catalog: CatalogView) -> list[str]:
    """Return a sentence for each user trigger that a statement may fire."""
    statement = unit.statement
    if statement.kind is _K.TRUNCATE:
        fires = [(one.relation, "TRUNCATE") for one in needed(statement)]
    elif statement.kind is _K.COPY_FROM:
        fires = [(one.relation, "INSERT") for one in needed(statement)]
    else:
        fires = [(one.relation, one.privilege) for one in row_rights(statement) if one.privilege in _WRITES]
    known = ((facts, event) for relation, event in fires if (facts := catalog.facts(relation)) is not None)
    sentences = (
        f"its trigger {trigger.name} runs {trigger.function}(): what that does is not known"
        for facts, event in known
        for trigger in facts.triggers
        if event in trigger.fires
    )
    return list(dict.fromkeys(sentences))


#: Commands that can fire an event trigger of a kind; those of other kinds are fired by all.
_FIRING: dict[str, tuple[str, ...]] = {
    "sql_drop": ("DROP", "ALTER"),
    "table_rewrite": ("ALTER TABLE", "ALTER TYPE", "ALTER MATERIALIZED VIEW"),
}


def fired_event_triggers(unit: Unit, catalog: CatalogView) -> list[str]:
    """Return a sentence for each enabled event trigger that a command may fire."""
    if unit.key != "sql" or not catalog.context.event_triggers or not fires_event_triggers(unit.statement):
        return []
    kind = str(unit.statement.kind)
    certain = kind.startswith(("CREATE", "DROP ", "ALTER")) and "…" not in kind  # its text is the tag of the command
    return [
        f"the event trigger {one.name} runs {one.function}(): what that does is not known"
        for one in catalog.context.event_triggers
        if kind.startswith(_FIRING.get(one.event, "")) and not (certain and one.tags and kind not in one.tags)
    ]


def sequences_used(unit: Unit, catalog: CatalogView) -> list[str]:
    """Return what only a run shows about functions of sequences: the planner checks no privilege on the sequence."""
    called = {call.name for call in functions_called(unit.statement)}
    unknown = []
    if called & {"nextval", "setval"} and not catalog.context.superuser:
        unknown.append("only running it shows whether the role may use the sequence")
    if called & {"currval", "lastval"}:
        unknown.append("only running it shows whether its session has called nextval() before")
    return unknown


def hidden_rows(unit: Unit, catalog: CatalogView) -> Iterator[StatementFinding | str]:
    """Yield what row-level security hides from the role: a statement succeeds although it sees no rows."""
    if not catalog.context.is_on("row_security", default=True):
        return  # the server raises an error where a policy would hide rows
    aware = any("." in name for name, _ in catalog.context.settings)
    role = catalog.context.role
    for use in query_relations(unit.statement):
        facts = catalog.facts(use.relation)
        if facts is None or not facts.row_security:
            continue
        message = (
            f'row-level security is active on {use.relation} for role "{role}": policies decide which rows it sees'
        )
        yield message
        if use.use is not Use.READ and unit.statement.kind in _CHANGES and not aware:
            hint = 'with `settings: {row_security: "off"}` the server reports an error instead of hiding rows'
            yield unit.finding("JP625", message, use.offset, hint=hint)


_CHANGES = frozenset({_K.UPDATE, _K.DELETE, _K.MERGE})


#: Functions that a report names.
_NAMED = 3
_OPERATOR_CHARACTERS = frozenset("+-*/<>=~!@#%^&|`?")
#: Operators that keywords stand for (IN, BETWEEN, LIKE, DISTINCT, USING …).
_IMPLIED = frozenset({"=", "<>", "<", ">", "<=", ">=", "~~", "!~~", "~~*", "!~~*", "~"})


class OwnCode:
    """Queries which words are functions: all words of a plan at once, later words separately."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._words: set[str] = set()
        self._reached: dict[str, list[str]] = {}

    async def learn(self, texts: Iterable[str]) -> None:
        """Query the words of all texts together. If the server refuses it, each text is queried separately."""
        words = [found for found in map(words_of, dict.fromkeys(texts)) if found is not None]
        await self._ask(frozenset().union(*(one[0] for one in words)), frozenset().union(*(one[1] for one in words)))

    async def of(self, sql: str) -> str | None:
        """Return which functions could be executed, in words; None if all are built in or belong to an extension."""
        words = words_of(sql)
        if words is None:
            return "functions that cannot be determined from its text"
        error = await self._ask(*words)
        if error is not None:
            return f"functions that could not be looked up in the catalogs ({error})"
        found = {function for word in ("", *words[0], *words[1]) for function in self._reached.get(word, ())}
        return ", ".join(sorted(found)[:_NAMED]) or None

    async def _ask(self, names: frozenset[str], operators: frozenset[str]) -> str | None:
        """Query the words that are not known yet. Return why the server did not answer, if it did not."""
        if self._words.issuperset(names | operators):
            return None
        new = [json.dumps(sorted(words - self._words)) for words in (names, operators)]
        reply = await self._inspector.reply("own_code", *new)
        if reply.error is not None:
            return reply.error.message
        self._words |= names | operators
        for row in reply.rows:
            self._reached.setdefault(row[0] or "", []).append(row[1] or "")
        return None


def words_of(sql: str) -> tuple[frozenset[str], frozenset[str]] | None:
    """Return every name and every operator in a text; None if it has names that are written with escapes."""
    try:
        tokens = tokenize(sql)
    except ScanError:
        return None
    names: set[str] = set()
    operators = set(_IMPLIED)
    for token in tokens:
        if token.text[:3].lower() == 'u&"':
            return None
        if token.kind is TokenKind.QUOTED_IDENTIFIER:
            names.add(_cut(without_double_quotes(token.text)))
        elif token.kind is TokenKind.WORD:
            names.add(_cut(token.text.lower()))
            names.add(_cut(token.text))
        elif token.kind is TokenKind.OTHER and _OPERATOR_CHARACTERS.issuperset(token.text):
            operators.add("<>" if token.text == "!=" else token.text)
    return frozenset(names), frozenset(operators)


def _cut(name: str) -> str:
    return name.encode("utf-8", "replace")[:MAX_NAME_BYTES].decode("utf-8", "ignore")
