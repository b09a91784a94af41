"""Which relation a name in a step's SQL means: as schema and name, so that two steps can be compared.

A name without a schema is taken to be in the first schema of the step's search_path, in `public` if it has none: what
comes later in the path only the server can tell. Names that a for_each's query gives are unknown; parameters without a
value are not, because they are the same all over the plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from runner.lint.locking.held import Lockable
from runner.plan.model import Step
from runner.sql.parse import placeholder
from runner.sql.relations import Relation

_IDENTIFIER = re.compile(r'"(?:[^"]|"")+"|[^\s",.]+')
_NOT_SEARCHED_FIRST = frozenset({"$user", "pg_catalog", "pg_temp"})
_DEFAULT = "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An item of a for_each; `values` are what the parameters of its own stand for."""

    number: int
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A relation as one item of the step names it; `item` is None if all items, or a step without any, name it so."""

    item: int | None
    relation: Relation
    on: Lockable


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How names are read in one step. `schema` is where names without one are, None if nothing is known of it."""

    schema: str | None
    as_: str | None = None
    items: tuple[Item, ...] = ()

    def unsettled(self) -> Naming:
        """Return how names are read after a SET search_path."""
        return replace(self, schema=None)

    def read(self, relation: Relation) -> Iterator[Named]:
        """Yield the relation as each item names it, once if it is the same for all, never if it is not known."""
        if not self._varies(relation):
            yield from self._named(None, relation)
            return
        for item in self.items:
            named = Relation(_filled_in(relation.schema, item), _filled_in(relation.name, item) or "")
            if not self._varies(named):
                yield from self._named(item.number, named)

    def _named(self, item: int | None, relation: Relation) -> Iterator[Named]:
        schema = relation.schema or self.schema
        if schema is not None and not schema.startswith("pg_temp"):  # which no other session sees
            yield Named(item=item, relation=relation, on=Lockable(schema, relation.name))

    def _varies(self, relation: Relation) -> bool:
        return any(self._is_item(part) for part in (relation.schema, relation.name))

    def _is_item(self, part: str | None) -> bool:
        parameter = placeholder(part) if part is not None and self.as_ is not None else None
        return parameter is not None and parameter.partition(".")[0] == self.as_


def naming_of(step: Step) -> Naming:
    """Return how names are read in a step's SQL."""
    path = (name for name in identifiers(step.search_path or "") if name not in _NOT_SEARCHED_FIRST)
    schema = next(path, _DEFAULT)
    if step.for_each is None:
        return Naming(schema=schema)
    items = tuple(_item(step.for_each.as_, number, given) for number, given in enumerate(step.for_each.items))
    return Naming(schema=schema, as_=step.for_each.as_, items=items)


@lru_cache(maxsize=256)
def identifiers(text: str) -> tuple[str, ...]:
    """Return the identifiers of a dotted or comma-separated list, folded as PostgreSQL folds them."""
    return tuple(_folded(found) for found in _IDENTIFIER.findall(text))


def relation_in(text: str) -> Relation | None:
    """Return the relation of `orders` or `app."Orders"`, None if the text names none."""
    parts = identifiers(text)
    return Relation(parts[-2] if len(parts) > 1 else None, parts[-1]) if parts else None


def _folded(found: str) -> str:
    return found[1:-1].replace('""', '"') if found.startswith('"') else found.lower()


def _item(as_: str, number: int, given: object) -> Item:
    if not isinstance(given, Mapping):
        return Item(number=number, values={as_: str(given)})
    values = {f"{as_}.{column}": str(value) for column, value in given.items()}
    if len(values) == 1:
        values[as_] = next(iter(values.values()))
    return Item(number=number, values=values)


def _filled_in(part: str | None, item: Item) -> str | None:
    parameter = placeholder(part) if part is not None else None
    return part if parameter is None else item.values.get(parameter, part)
