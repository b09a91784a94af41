"""The relation that a name in a step's SQL means, as schema and name, so that steps can be compared.

A name without a schema is taken to be in the first schema of the step's search_path, in `public` if it has none: only
the server knows what later schemas of the path hold. Names that the query of a for_each returns are unknown. A
parameter without a value counts as a known name, because it has the same value everywhere in the plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from runner.locks.conflicts import Lockable
from runner.plan.groups import bound_to_items, constants
from runner.plan.model import ForEach, ParamType, Step, Value
from runner.sql.placeholders import TemplateError
from runner.sql.qualified_names import QualifiedName, qualified_name, without_double_quotes
from runner.sql.relations import Relation
from runner.sql.session_settings import SettingPlace, named_in, render_names
from runner.sql.statements import PLACEHOLDER, placeholder
from runner.structs import Struct, replace

_PART = re.compile(r'"(?:[^"]|"")+"|[^\s",.]+')
_LISTED = re.compile(r'"(?:[^"]|"")+"|[^\s",]+')
_NOT_SEARCHED_FIRST = frozenset({"$user", "pg_catalog", "pg_temp"})
_DEFAULT = "public"


class ItemNames(Struct, frozen=True, kw_only=True):
    """An item of a for_each; `values` are the values of its parameters."""

    number: int
    values: Mapping[str, str]


class NamedRelation(Struct, frozen=True, kw_only=True):
    """A relation as one item of the step names it; `item` is None if it is the same for all items, or without items."""

    item: int | None
    relation: Relation
    on: Lockable


class Naming(Struct, frozen=True, kw_only=True):
    """How names are resolved in one step. `schema` is that of unqualified names, None if unknown."""

    schema: str | None
    as_: str | None = None
    items: tuple[ItemNames, ...] = ()
    #: Parameters that are bound to values of the item.
    bound: frozenset[str] = frozenset()

    def unsettled(self) -> Naming:
        """Return how names are resolved after a SET search_path."""
        return replace(self, schema=None)

    def read(self, relation: Relation) -> Iterator[NamedRelation]:
        """Yield the relation as each item names it, once if it is the same for all, never if it is unknown."""
        if not self._varies(relation):
            yield from self._named(None, relation)
            return
        for item in self.items:
            named = _named_by(relation, item)
            if not self._varies(named, item):
                yield from self._named(item, named)

    def _named(self, item: ItemNames | None, relation: Relation) -> Iterator[NamedRelation]:
        schema = relation.schema or self._first(item)
        if schema is not None and not schema.startswith("pg_temp"):  # not visible to other sessions
            yield NamedRelation(
                item=None if item is None else item.number, relation=relation, on=Lockable(schema, relation.name)
            )

    def _first(self, item: ItemNames | None) -> str | None:
        return self.schema if item is None else _filled_in(self.schema, item)

    def _varies(self, relation: Relation, item: ItemNames | None = None) -> bool:
        return any(self._is_item(part) for part in (relation.schema or self._first(item), relation.name))

    def _is_item(self, part: str | None) -> bool:
        parameter = placeholder(part) if part is not None and self.as_ is not None else None
        return parameter is not None and (parameter.partition(".")[0] == self.as_ or parameter in self.bound)


def naming_of(step: Step, known: Mapping[str, Value]) -> Naming:
    """Return how names are resolved in a step's SQL; `known` are values of parameters."""
    known = {**known, **constants(step)} if step.bound else known
    path = _stand_in(step.search_path or "", SettingPlace.SEARCH_PATH, known)
    names = () if path is None else (name for name in listed_names(path) if name not in _NOT_SEARCHED_FIRST)
    schema = next(iter(names), None if path is None else _DEFAULT)
    if step.for_each is None:
        return Naming(schema=schema)
    items = tuple(_item(step, step.for_each, number, given) for number, given in enumerate(step.for_each.items))
    return Naming(schema=schema, as_=step.for_each.as_, items=items, bound=frozenset(bound_to_items(step)))


def touched_by(step: Step, known: Mapping[str, Value]) -> Iterator[Relation]:
    """Yield the relations that `touches` names; names of an item are placeholders, as in the step's SQL."""
    known = {**known, **constants(step)} if step.bound else known
    for text in step.touches:
        names = _stand_in(text, SettingPlace.TOUCHES, known)
        relation = None if names is None else relation_in(names)
        if relation is not None:
            yield relation


def _stand_in(text: str, place: SettingPlace, known: Mapping[str, Value]) -> str | None:
    """Return a list of names with its parameters as in a parsed text; None if one of them cannot be a name."""
    try:
        named = named_in(text, place, lambda name: name in known)
        values = {found.name: known.get(found.name, PLACEHOLDER + found.name) for found in named}
        return render_names(text, place, values)
    except TemplateError:
        return None


@lru_cache(maxsize=256)
def listed_names(text: str) -> tuple[str, ...]:
    """Return the names of a list such as search_path, as PostgreSQL folds them. A dot is a part of a name."""
    return tuple(map(_folded, _LISTED.findall(text)))


def relation_in(text: str) -> Relation | None:
    """Return the relation of `orders` or `app."Orders"`, None if the text names none."""
    parts = tuple(map(_folded, _PART.findall(text)))
    return Relation(parts[-2] if len(parts) > 1 else None, parts[-1]) if parts else None


def _folded(found: str) -> str:
    return without_double_quotes(found) if found.startswith('"') else found.lower()


def _item(step: Step, for_each: ForEach, number: int, given: object) -> ItemNames:
    as_ = for_each.as_
    read = qualified_name if for_each.type is ParamType.RELATION else str
    if isinstance(given, Mapping):
        values = {f"{as_}.{column}": read(str(value)) for column, value in given.items()}
        if len(values) == 1:
            values[as_] = next(iter(values.values()))
    else:
        values = {as_: read(str(given))}
    for name, bound in bound_to_items(step).items():
        if bound.source in values:
            is_relation = bound.param.type is ParamType.RELATION
            values[name] = qualified_name(values[bound.source]) if is_relation else values[bound.source]
    return ItemNames(number=number, values=values)


def _filled_in(part: str | None, item: ItemNames) -> str | None:
    parameter = placeholder(part) if part is not None else None
    return part if parameter is None else item.values.get(parameter, part)


def _named_by(relation: Relation, item: ItemNames) -> Relation:
    """Return the relation with an item's names in it; a name of type relation can include its schema."""
    name = _filled_in(relation.name, item) or ""
    if relation.schema is None and isinstance(name, QualifiedName):
        return Relation(name.parts[-2] if len(name.parts) > 1 else None, name.parts[-1])
    return Relation(_filled_in(relation.schema, item), name)
