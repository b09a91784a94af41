"""What the catalog alone tells of a query: the rights on rows that it needs, and the triggers that it fires."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.preflight.finding import Finding
from runner.preflight.seen import Sight
from runner.preflight.texts import Unit
from runner.sql.facts import functions_called
from runner.sql.kinds import StatementKind
from runner.sql.needs import needed
from runner.sql.params import quote_identifier
from runner.sql.relations import Use, query_relations
from runner.sql.rights import row_rights

_K = StatementKind
_WRITES = frozenset({"INSERT", "UPDATE", "DELETE"})


@dataclass(slots=True, kw_only=True)
class RowRights:
    """Rights that are missing, and why nothing is known of some."""

    findings: list[Finding] = field(default_factory=list)
    why: list[str] = field(default_factory=list)


def check_row_rights(unit: Unit, sight: Sight) -> RowRights:
    """Return what the catalog says of the rights on the relations that a query names; EXPLAIN would say the same."""
    rights = RowRights()
    role = sight.around.role
    for one in row_rights(unit.statement):
        facts = sight.relation(one.relation).facts
        if facts is None or facts.owned or one.privilege in facts.privileges:
            continue
        if not facts.reached:
            continue  # Parse has said so
        if one.privilege in facts.on_columns:
            told = f'role "{role}" has {one.privilege} on some columns of {one.relation}, perhaps not on all'
            rights.why.append(told)
            continue
        message = f'role "{role}" has no {one.privilege} on {one.relation}, which belongs to "{facts.owner}"'
        name = f"{quote_identifier(facts.relation.schema or '')}.{quote_identifier(facts.relation.name)}"
        hint = f"GRANT {one.privilege} ON {name} TO {quote_identifier(role)};"
        rights.findings.append(Finding(code="JP610", message=message, offset=one.offset, hint=hint))
    return rights


def fired_triggers(unit: Unit, sight: Sight) -> list[str]:
    """Return a sentence for each trigger of the database's own that a statement may fire."""
    statement = unit.statement
    if statement.kind is _K.TRUNCATE:
        fires = [(one.relation, "TRUNCATE") for one in needed(statement)]
    elif statement.kind is _K.COPY_FROM:
        fires = [(one.relation, "INSERT") for one in needed(statement)]
    else:
        fires = [(one.relation, one.privilege) for one in row_rights(statement) if one.privilege in _WRITES]
    known = ((facts, event) for relation, event in fires if (facts := sight.relation(relation).facts) is not None)
    told = (
        f"its trigger {trigger.name} runs {trigger.function}(): what that does is not known"
        for facts, event in known
        for trigger in facts.triggers
        if event in trigger.fires
    )
    return list(dict.fromkeys(told))


def sequences_used(unit: Unit, sight: Sight) -> list[str]:
    """Return what only a run tells of functions of sequences: the planner asks for no right on the sequence."""
    called = {call.name for call in functions_called(unit.statement)}
    told = []
    if called & {"nextval", "setval"} and not sight.around.superuser:
        told.append("whether the role may use the sequence shows when it runs")
    if called & {"currval", "lastval"}:
        told.append("whether its session has called nextval() before shows when it runs")
    return told


def hidden_rows(unit: Unit, sight: Sight) -> RowRights:
    """Return what row-level security hides from the role: a statement that changes no rows for it succeeds as well."""
    found = RowRights()
    settings = {name.lower(): value for name, value in sight.around.settings}
    if settings.get("row_security", "on").lower() in {"off", "false", "no", "0"}:
        return found  # the server raises an error where a policy would hide rows
    aware = any("." in name for name in settings)
    role = sight.around.role
    for use in query_relations(unit.statement):
        facts = sight.relation(use.relation).facts
        if facts is None or not facts.row_security:
            continue
        told = f'row-level security is active on {use.relation} for role "{role}": policies decide which rows it sees'
        found.why.append(told)
        if use.use is not Use.READ and unit.statement.kind in _CHANGES and not aware:
            hint = 'with `settings: {row_security: "off"}` the server reports an error instead of hiding rows'
            found.findings.append(Finding(code="JP625", message=told, offset=use.offset, hint=hint))
    return found


_CHANGES = frozenset({_K.UPDATE, _K.DELETE, _K.MERGE})
