"""The role that a step runs as may do what its commands do."""

from __future__ import annotations

from collections.abc import Iterator

from runner.gateway.catalog import RelationFacts
from runner.preflight.commands.existence import skip_severity, there
from runner.preflight.finding import Finding
from runner.preflight.seen import Sight
from runner.preflight.texts import Unit
from runner.sql.details import role_for_file
from runner.sql.kinds import StatementKind
from runner.sql.objects import Right
from runner.sql.params import quote_identifier

_K = StatementKind
#: Commands that leave out what they may not touch, and succeed.
_SKIPS = frozenset({_K.VACUUM, _K.ANALYZE})
#: The version from which on MAINTAIN can be granted.
_MAINTAIN = 170_000
#: How many of several things a finding names.
_NAMED = 3


def check_rights(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield what the role may not do."""
    role = sight.around.role
    for one, facts in there(unit, sight):
        if not facts.reached:
            message = f'role "{role}" may not use the schema {facts.relation.schema}'
            hint = f"GRANT USAGE ON SCHEMA {quote_identifier(facts.relation.schema or '')} TO {quote_identifier(role)};"
            yield Finding(code="JP610", message=message, offset=one.offset, hint=hint)
        elif not _may(one.right, facts, unit):
            right = _right(one.right, sight)
            message = f'role "{role}" has no {right.value} on {one.relation}, which belongs to "{facts.owner}"'
            if unit.statement.kind in _SKIPS:
                message += f": {unit.statement.kind} would skip it with a WARNING"
            yield Finding(code="JP610", message=message, offset=one.offset, hint=_grant(right, facts, role))
        elif unit.statement.kind in _SKIPS and facts.kind == "p" and facts.unmaintained and not facts.of_database:
            yield _partitions(unit, facts, one.offset, role)


def check_files(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield a COPY whose file or program the role may not use."""
    wanted = role_for_file(unit.statement)
    if wanted is not None and wanted not in sight.around.outside:
        role = sight.around.role
        message = f'role "{role}" may not use what is outside of the database: it is no member of {wanted}'
        hint = f"GRANT {wanted} TO {quote_identifier(role)};"
        yield Finding(code="JP610", message=message, offset=unit.statement.start, hint=hint)


def _right(right: Right, sight: Sight) -> Right:
    """MAINTAIN is a privilege from version 17 on."""
    return Right.OWN if right is Right.MAINTAIN and sight.around.version < _MAINTAIN else right


def _partitions(unit: Unit, facts: RelationFacts, offset: int, role: str) -> Finding:
    names = ", ".join(map(str, facts.unmaintained[:_NAMED])) + (", …" if len(facts.unmaintained) > _NAMED else "")
    message = (
        f'role "{role}" may not maintain {len(facts.unmaintained)} of the partitions of {facts.relation}: '
        f"{unit.statement.kind} would skip {names} with a WARNING"
    )
    return Finding(code="JP610", message=message, offset=offset, severity=skip_severity(unit))


def _may(right: Right, facts: RelationFacts, unit: Unit) -> bool:
    match right:
        case Right.NONE:
            return True
        case Right.OWN:
            return facts.owned or (unit.statement.kind.startswith("DROP") and facts.drops)
        case Right.MAINTAIN:
            index = facts.index_of
            table = index is not None and (index.owned or index.maintained)
            vacuums = unit.statement.kind in {_K.VACUUM, _K.ANALYZE} and facts.of_database
            return facts.owned or table or vacuums or "MAINTAIN" in facts.privileges
        case Right.GRANT:
            return facts.owned or facts.grants
        case _:
            return facts.owned or right.value in facts.privileges


def _grant(right: Right, facts: RelationFacts, role: str) -> str:
    if right in {Right.OWN, Right.GRANT}:
        return f"run the step as the owner (`role: {facts.owner}`)"
    on = facts.index_of.relation if facts.index_of is not None else facts.relation
    name = f"{quote_identifier(on.schema or '')}.{quote_identifier(on.name)}"
    return f"GRANT {right.name} ON {name} TO {quote_identifier(role)};"
