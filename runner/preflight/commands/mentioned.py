"""What a command names beside relations is there: types, functions, roles, tablespaces, extensions, languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.preflight.finding import Finding
from runner.preflight.made import Made, When
from runner.preflight.seen import Sight, State
from runner.preflight.texts import Unit
from runner.sql.mentions import Mention, Named, mentions
from runner.sql.objects import Action, Sort
from runner.sql.params import quote_identifier

#: The code of what is not there, and what to call it.
_CODES: Mapping[Named, tuple[str, str]] = {
    Named.TYPE: ("JP603", "type"),
    Named.FUNCTION: ("JP603", "function"),
    Named.ROLE: ("JP621", "role"),
    Named.TABLESPACE: ("JP622", "tablespace"),
    Named.AVAILABLE_EXTENSION: ("JP623", "extension that could be installed"),
    Named.EXTENSION: ("JP623", "extension installed"),
    Named.LANGUAGE: ("JP623", "language"),
    Named.ACCESS_METHOD: ("JP623", "access method"),
}
#: What an earlier statement may have made.
_SORTS: Mapping[Named, Sort] = {Named.TYPE: Sort.TYPE, Named.FUNCTION: Sort.FUNCTION, Named.ROLE: Sort.ROLE}


def check_mentioned(unit: Unit, sight: Sight) -> Iterator[Finding]:
    """Yield the names of things that are not there, or that the role may not use."""
    for one in mentions(unit.statement):
        facts, made = sight.named(one.sort, one.name), _made(one, sight)
        if made is not None and made.change.action is Action.DROP and made.when is When.BEFORE:
            message = f"the {_CODES[one.sort][1]} {one.name} is {made.told}"
            yield Finding(code="JP604", message=message, offset=one.offset)
        elif facts is None:
            yield from _absent(one, made, sight)
        elif not facts.open:
            role = quote_identifier(sight.around.role)
            message = f'role "{sight.around.role}" may not put anything into the tablespace {one.name}'
            hint = f"GRANT CREATE ON TABLESPACE {quote_identifier(one.name.name)} TO {role};"
            yield Finding(code="JP610", message=message, offset=one.offset, hint=hint)


def _made(one: Mention, sight: Sight) -> Made | None:
    sort = _SORTS.get(one.sort)
    return sight.part(sort, one.name.name) if sort is not None else None


def _absent(one: Mention, made: Made | None, sight: Sight) -> Iterator[Finding]:
    code, what = _CODES[one.sort]
    if made is not None and made.change.action is Action.CREATE:
        if made.when is When.PERHAPS:
            message = f"{one.name} is {made.told}, which need not come first"
            yield Finding(code="JP612", message=message, offset=one.offset, hint=f"add `needs: [{made.step}]`")
        return
    # Every table has a type of its own name.
    if one.sort is Named.TYPE and sight.relation(one.name).state in {State.THERE, State.NEW, State.PERHAPS}:
        return
    yield Finding(code=code, message=f"there is no {what} {one.name}", offset=one.offset)
