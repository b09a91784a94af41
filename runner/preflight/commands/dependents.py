"""Who depends on what a command drops or empties."""

from __future__ import annotations

from collections.abc import Iterator

from runner.gateway.catalog import DependentFacts, KeyFacts
from runner.preflight.commands.existence import there
from runner.preflight.finding import Finding
from runner.preflight.seen import Sight, State
from runner.preflight.texts import Unit
from runner.sql.alterations import Aspect
from runner.sql.facts import is_cascading
from runner.sql.kinds import StatementKind
from runner.sql.objects import Action, Sort
from runner.sql.relations import Relation

_K = StatementKind


def check_dependents(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield what depends on what is dropped or emptied, and is not dropped with it."""
    statement = unit.statement
    if statement.kind not in {_K.TRUNCATE, _K.DROP_TABLE, _K.DROP_VIEW, _K.DROP_MATERIALIZED_VIEW, _K.DROP_INDEX}:
        return
    together = {facts.relation for _, facts in there(unit, sight)}
    for one, facts in there(unit, sight):
        if facts.index_of is not None and facts.index_of.constraint is not None:
            message = (
                f"{one.relation} belongs to the constraint {facts.index_of.constraint} of {facts.index_of.relation}"
            )
            yield Finding(code="JP609", message=message, offset=one.offset)
        if is_cascading(statement):
            continue
        others = (key for key in facts.referenced_by if key.relation not in together)
        keys = [key for key in others if _stays(key.relation, sight) and not _is_dropped(key, sight)]
        for key in keys:
            message = f"{key.relation} refers to {one.relation} by its foreign key {key.constraint}"
            yield Finding(code="JP609", message=message, offset=one.offset)
        left = () if statement.kind is _K.TRUNCATE else facts.views
        views = [str(view) for view in left if view not in together and _stays(view, sight)]
        if views:
            message = f"{', '.join(views)} depend{'s' if len(views) == 1 else ''} on {one.relation}"
            yield Finding(code="JP609", message=message, offset=one.offset)
        others_left = () if statement.kind is _K.TRUNCATE else facts.dependents
        stay = [each.what for each in others_left if each.relation not in together and _remains(each, sight)]
        if stay:
            message = f"{', '.join(stay)} depend{'s' if len(stay) == 1 else ''} on {one.relation}"
            yield Finding(code="JP609", message=message, offset=one.offset)


def _remains(one: DependentFacts, sight: Sight) -> bool:
    """Return whether it is still there, as far as earlier steps tell."""
    altered = [each.alteration for each in sight.altered([] if one.relation is None else [one.relation])]
    if one.function is not None:
        made = sight.part(Sort.FUNCTION, one.function)
        dropped = made is not None and made.change.action is Action.DROP
        removed = any(each.aspect is Aspect.FUNCTION and one.function in {each.name, each.old, ""} for each in altered)
        return not (dropped or removed)
    if one.relation is None or not _stays(one.relation, sight):
        return False
    return not any(each.aspect is Aspect.ATTACHED and each.removes for each in altered)


def _stays(relation: Relation, sight: Sight) -> bool:
    seen = sight.relation(relation)
    renamed = seen.state is State.GONE and seen.made is not None and seen.made.change.kind == "renamed"
    return renamed or seen.state in {State.THERE, State.MISSING}


def _is_dropped(key: KeyFacts, sight: Sight) -> bool:
    made = sight.part(Sort.CONSTRAINT, key.constraint, key.relation)
    return made is not None and made.change.action is Action.DROP
