"""What a command names is there, of the right kind, with the columns and constraints that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.errors import Severity
from runner.gateway.catalog import RelationFacts
from runner.preflight.finding import Finding
from runner.preflight.made import EXTENSION, When
from runner.preflight.seen import Seen, Sight, State
from runner.preflight.texts import Unit
from runner.sql.changes import changes
from runner.sql.kinds import StatementKind
from runner.sql.needs import needed
from runner.sql.objects import Action, Needed, Sort
from runner.sql.parts import attached, parts
from runner.sql.relations import Relation

#: Letters of pg_class.relkind.
KINDS: Mapping[str, str] = {
    "r": "a table",
    "p": "a partitioned table",
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "i": "an index",
    "I": "a partitioned index",
    "S": "a sequence",
    "t": "a TOAST table",
    "c": "a composite type",
}


def there(unit: Unit, sight: Sight) -> Iterator[tuple[Needed, RelationFacts]]:
    """Yield what the statement needs and is there."""
    for one in needed(unit.statement):
        seen = sight.relation(one.relation)
        if seen.facts is not None:
            yield one, seen.facts


def absent(relation: Relation, offset: int, seen: Seen, sight: Sight, *, missing_ok: bool = False) -> Iterator[Finding]:
    """Yield what is to be said of a relation that is not there."""
    if seen.state is State.PERHAPS and seen.made is not None:
        hint = f"add `needs: [{seen.made.step}]`"
        message = f"{relation} is created by step `{seen.made.step}`, which need not come first"
        yield Finding(code="JP612", message=message, offset=offset, hint=hint)
    elif missing_ok:
        return
    elif seen.state is State.GONE and seen.made is not None:
        message = f"{relation} is dropped by step `{seen.made.step}`"
        yield Finding(code="JP604", message=message, offset=offset)
    elif seen.state is State.UNKNOWN and seen.made is not None and seen.made.change.kind != EXTENSION:
        message = f"there is no {relation}; step `{seen.made.step}` may create it"
        yield Finding(code="JP617", message=message, offset=offset)
    elif seen.state is State.MISSING:
        yield _missing(relation, offset, sight)


def _missing(relation: Relation, offset: int, sight: Sight) -> Finding:
    if relation.schema is not None and sight.schema(relation.schema)[0] is None:
        made = sight.schema(relation.schema)[1]
        if made is None:
            return Finding(code="JP601", message=f"there is no schema {Relation(None, relation.schema)}", offset=offset)
    searched = ", ".join(name for name in sight.around.schemas if name != "pg_catalog")
    where = "" if relation.schema is not None else f" in the schemas that are searched ({searched or 'none'})"
    return Finding(code="JP601", message=f"there is no relation {relation}{where}", offset=offset)


def check_existence(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield relations that are not there when the statement runs."""
    for one in needed(unit.statement):
        seen = sight.relation(one.relation)
        yield from absent(one.relation, one.offset, seen, sight, missing_ok=one.missing_ok)


def check_kind(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield relations of a kind that the command does not work on."""
    for one, facts in there(unit, sight):
        if one.kinds and facts.kind not in one.kinds:
            what = KINDS.get(facts.kind, "something else")
            message = f"{unit.statement.kind} does not work on {one.relation}, which is {what}"
            skips = unit.statement.kind in {StatementKind.VACUUM, StatementKind.ANALYZE}
            message += f": {unit.statement.kind} would skip it with a WARNING" if skips else ""
            severity = skip_severity(unit) if skips else None
            yield Finding(code="JP607", message=message, offset=one.offset, severity=severity)


def skip_severity(unit: Unit) -> Severity | None:
    """Return how grave it is that a maintenance command skips an object: its step fails, unless that is allowed."""
    step = unit.step
    judged = step is not None and step.expect is not None and step.expect.judges_warnings
    allowed = step is not None and step.allow_failure is not None
    return Severity.WARNING if judged or allowed else None


def check_parts(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield columns and constraints that are not there, or are there already."""
    for part in parts(unit.statement):
        seen = sight.relation(part.relation)
        if seen.facts is None:
            continue
        names = seen.facts.columns if part.sort is Sort.COLUMN else seen.facts.constraints
        if part.sort is Sort.CONSTRAINT and not part.exists and part.name in seen.facts.inherited:
            continue  # it merges with the parent's
        made = sight.part(part.sort, part.name, part.relation)
        there = part.name in names if made is None else made.change.action is Action.CREATE
        if part.exists and not there:
            message = f"{part.relation} has no {part.sort.value} {Relation(None, part.name)}"
            yield Finding(code="JP602", message=message, offset=part.offset)
        elif not part.exists and there:
            by = f" ({made.told})" if made is not None else ""
            message = f"{part.relation} has a {part.sort.value} {Relation(None, part.name)} already{by}"
            yield Finding(code="JP608", message=message, offset=part.offset)


def check_attached(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield triggers, rules and policies that are not there, or are there already."""
    for one in attached(unit.statement):
        facts = sight.relation(one.relation).facts
        if facts is None:
            continue
        there_now = (one.sort, one.name) in facts.attached
        if one.exists and not there_now:
            message = f"{one.relation} has no {one.sort} {Relation(None, one.name)}"
            yield Finding(code="JP602", message=message, offset=unit.statement.start)
        elif not one.exists and there_now:
            message = f"{one.relation} has a {one.sort} {Relation(None, one.name)} already"
            yield Finding(code="JP608", message=message, offset=unit.statement.start)


def check_dropped_schemas(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield schemas that are to be dropped and are not there, or are somebody else's."""
    for change in changes(unit.statement):
        if change.sort is not Sort.SCHEMA or change.action is not Action.DROP:
            continue
        facts, made = sight.schema(change.name)
        gone = made is not None and made.change.action is Action.DROP and made.when is When.BEFORE
        if gone and made is not None and not change.guarded:
            message = f"the schema {Relation(None, change.name)} is {made.told}"
            yield Finding(code="JP604", message=message, offset=change.offset)
        elif made is None and facts is None and not change.guarded:
            message = f"there is no schema {Relation(None, change.name)}"
            yield Finding(code="JP601", message=message, offset=change.offset)
        elif made is None and facts is not None and not facts.owned:
            message = f'role "{sight.around.role}" does not own the schema {Relation(None, change.name)}'
            yield Finding(code="JP610", message=message, offset=change.offset)
