"""In what a statement runs: its settings, its role, the schemas that are searched, and what the catalog says there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from runner.gateway.catalog import FunctionFacts, NamedFacts, RelationFacts, SchemaFacts
from runner.gateway.inspection import Inspector, Settings
from runner.plan.model import Step
from runner.preflight.texts import Unit
from runner.sql.mentions import Named
from runner.sql.relations import Relation

#: Settings of the transaction itself: a look keeps its own.
_OF_TRANSACTION = "transaction_"


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """In what a statement runs, and the catalog that it sees. `error` says why the server refuses the settings."""

    settings: Settings
    #: Of the server: 160004.
    version: int
    role: str = ""
    database: str = ""
    #: What the role can do that is no privilege on an object: superuser, creates_roles, owns_database and the like.
    abilities: frozenset[str] = frozenset()
    abilities_known: bool = False
    schemas: Sequence[str] = ()
    error: str | None = None
    #: Which of PostgreSQL's roles it has that may use the server's files and programs.
    outside: frozenset[str] = frozenset()
    relations: dict[Relation, RelationFacts] = field(default_factory=dict)
    known_schemas: dict[str, SchemaFacts] = field(default_factory=dict)
    #: By name: one's own and those of extensions, and PostgreSQL's.
    functions: dict[str, Sequence[FunctionFacts]] = field(default_factory=dict)
    builtin: dict[str, Sequence[FunctionFacts]] = field(default_factory=dict)
    #: Labels that enums have now, of those to which the plan adds one: the enum's name and the label.
    labels: set[tuple[str, str]] = field(default_factory=set)
    named: dict[tuple[Named, Relation], NamedFacts] = field(default_factory=dict)

    @property
    def superuser(self) -> bool:
        """Whether the role is a superuser."""
        return "superuser" in self.abilities

    def placed(self, relation: Relation) -> Relation:
        """Return the relation with its schema: where it is found, else where it would be created."""
        if relation.schema is not None:
            return relation
        found = self.relations.get(relation)
        if found is not None:
            return found.relation
        first = next((name for name in self.schemas if not name.startswith("pg_")), None)
        return Relation(first, relation.name)


class Rooms:
    """The surroundings of every statement of a plan; those with the same settings share them."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._rooms: dict[str, Surroundings] = {}

    async def of_step(self, step: Step | None, *, condition: bool = False) -> Surroundings:
        """Return in what a step's SQL begins, or in what jobplan asks its conditions; without a step, the plan's."""
        return await self._enter(self._settings(step, condition=condition))

    async def of(self, unit: Unit) -> Surroundings:
        """Return in what a statement runs, with what the statements before it in its text have set."""
        return await self._enter(self._with(unit, unit.settings))

    async def after(self, unit: Unit) -> Surroundings:
        """Return in what the next statement of the text runs."""
        return await self._enter(self._with(unit, unit.settings_after))

    def known(self, unit: Unit) -> Surroundings:
        """Return in what a statement runs, once it has been asked for."""
        return self._rooms[json.dumps(self._with(unit, unit.settings))]

    def _with(self, unit: Unit, assigned: Settings) -> Settings:
        settings = dict(self._settings(unit.step, condition=unit.is_condition))
        settings.update((name, value) for name, value in assigned if not name.startswith(_OF_TRANSACTION))
        return tuple(settings.items())

    def _settings(self, step: Step | None, *, condition: bool) -> Settings:
        path = self._inspector.search_path
        if step is None:
            return (("search_path", path),)
        settings = {"search_path": path if step.search_path is None else step.search_path}
        settings |= {} if condition else step.settings
        if step.role is not None:
            settings["role"] = step.role
        return tuple(settings.items())

    async def _enter(self, settings: Settings) -> Surroundings:
        name = json.dumps(settings)
        if name not in self._rooms:
            room = self._rooms[name] = Surroundings(settings=settings, version=self._inspector.version)
            reply = await self._inspector.surroundings(settings)
            if reply.error is not None:
                room.error = reply.error.message
            else:
                role, schemas, outside, database, abilities = reply.rows[0]
                room.database = database or ""
                room.abilities = frozenset(json.loads(abilities or "[]")) | frozenset(json.loads(outside or "[]"))
                room.abilities_known = True
                room.role, room.schemas = role or "", json.loads(schemas or "[]")
                room.outside = frozenset(json.loads(outside or "[]"))
        return self._rooms[name]
