"""A read-only session to inspect a server: every transaction is READ ONLY, has limits, and is rolled back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar

from runner.engine.ports import QueryResult
from runner.errors import PreflightError
from runner.gateway.catalog import (
    FunctionFacts,
    HeldLock,
    NamedFacts,
    RelationFacts,
    SchemaFacts,
    Size,
    read_relation,
)
from runner.gateway.connecting import with_keepalives
from runner.gateway.ledger.storage import distrust_statement, distrusted, read, remedy, why_ignored
from runner.gateway.queries import query
from runner.gateway.replies import Reply, Row, query_result, read_row
from runner.gateway.server_facts import (
    Capacity,
    InvalidIndex,
    LedgerFacts,
    OldTransaction,
    PreparedTransaction,
    RecordedDuration,
    ServerFacts,
)
from runner.gateway.server_refusals import discarded_on_failure, prepare_session, refuse_shared_sessions
from runner.gateway.session import LONG_ANSWER_WITHIN, Session, SessionUser
from runner.plan.sqlstates import LOCK_NOT_AVAILABLE, QUERY_CANCELED
from runner.sql.catalog_needs import Mention, ObjectSort
from runner.sql.placeholders import quote_identifier
from runner.sql.relations import Relation
from runner.structs import Struct

#: Milliseconds, for each statement of an inspection: it neither waits long nor blocks other sessions for long.
LIMITS = {"statement_timeout": 10_000, "lock_timeout": 1_000}
#: Queries of the catalogs are estimated high and have few rows: to compile them would take most of their time.
_PLANNING = ("jit", "off")
#: The limits, in milliseconds, after a limit was reached: a plan may have hundreds of statements like that one.
_SHORTER_LIMITS = {QUERY_CANCELED: ("statement_timeout", 1_000), LOCK_NOT_AVAILABLE: ("lock_timeout", 100)}
#: The age in seconds from which a transaction is reported.
OLD = 300


_Facts = TypeVar("_Facts", bound=Struct)

#: Names and values, in the order in which they are to be set.
Settings = Sequence[tuple[str, str]]


class Probe(Struct, frozen=True, kw_only=True):
    """The server's result for a statement that was not executed.

    `parse` has the columns of its result, or the error of Parse or Describe; `locks` are rows of schema, name, mode and
    kind, none after an error.
    """

    setting: Reply
    parse: Reply
    explain: Reply | None
    locks: tuple[Row, ...]


class Inspector(SessionUser):
    """Inspects a server. Open it with `connect`."""

    def __init__(self, session: Session, schema: list[str]) -> None:
        self._session = session
        #: The quoted schemas of pg_background and of the ledger, which the named blocks get as soon as they are known.
        self._schema = schema
        self._limits = dict(LIMITS)
        #: The search_path of the login role; the session's own is pinned.
        self.search_path = ""
        #: Why ledgers that this role could read are not read.
        self.ignored_ledgers: list[str] = []

    @classmethod
    async def connect(cls, conninfo: str, application_name: str) -> Inspector:
        """Open the session. ConnectionFailedError, with the server's message, if that fails.

        PreflightError behind a pooler that would share this session's settings with other clients.
        """
        schema = ["", ""]
        session = await Session.connect(
            with_keepalives(conninfo),
            application_name=application_name,
            queries=lambda name: query(name, extension_schema=schema[0], ledger=schema[1]),
            check=lambda connection: refuse_shared_sessions(connection, conninfo),
            answer_within=LONG_ANSWER_WITHIN,
        )
        inspector = cls(session, schema)
        async with discarded_on_failure(session):
            path, _ = await prepare_session(session)
        inspector.search_path = path[0] or ""
        return inspector

    @property
    def version(self) -> int:
        """The server's version as a number: 160004."""
        return self._session.server_version

    async def rows(self, name: str, *parameters: str) -> tuple[Row, ...]:
        """Return the rows of a named block. PreflightError if the server refuses it."""
        reply = await self.reply(name, *parameters)
        if reply.error is not None:
            raise PreflightError(f"the server refuses a query about itself ({name}): {reply.error.message}")
        return reply.rows

    async def reply(self, name: str, *parameters: str) -> Reply:
        """Execute a named block in a separate transaction, and return its rows or the error."""
        replies = await self._session.run(
            ("look", ()), ("settings", (self._limited(()),)), (name, parameters), ("rollback", ())
        )
        return replies[2]

    async def probe(self, settings: Settings, sql: str, *, explain: bool) -> Probe:
        """Parse and describe one statement of the plan with the settings of its step, without executing it."""
        replies = await self._session.probe(self._limited(settings), sql, explain=explain)
        for reply in replies:
            self._shorten_limit(reply)
        setting, parse, describe = replies[:3]
        return Probe(
            setting=setting,
            parse=parse if parse.error is not None else describe,
            explain=replies[3] if explain else None,
            locks=replies[-1].rows,
        )

    async def read(self, settings: Settings, sql: str) -> QueryResult:
        """Execute one read-only statement of the plan with the settings of its step."""
        reply = await self._session.read(self._limited(settings), sql)
        self._shorten_limit(reply)
        return query_result(reply)

    async def surroundings(self, settings: Settings) -> Reply:
        """Return the role of a step and its search_path, or the error of its settings."""
        return await self._session.read(self._limited(settings), query("surroundings").decode())

    def _limited(self, settings: Settings) -> str:
        """Return the settings as a JSON object; a name may occur twice: all are set, the last one counts.

        The limits come last except for the role: a step cannot change them, and its role may lack the privilege for
        them.
        """
        roles = [(name, setting) for name, setting in settings if name.lower() == "role"]
        given = [one for one in settings if one not in roles]
        limits = [(name, str(limit)) for name, limit in self._limits.items()]
        pairs = (f"{json.dumps(name)}: {json.dumps(setting)}" for name, setting in (_PLANNING, *given, *limits, *roles))
        return f"{{{', '.join(pairs)}}}"

    def _shorten_limit(self, reply: Reply) -> None:
        limit = _SHORTER_LIMITS.get(reply.error.sqlstate or "") if reply.error is not None else None
        if limit is not None:
            self._limits[limit[0]] = limit[1]

    async def relations(
        self, wanted: Sequence[Relation], schemas: Sequence[str], role: str
    ) -> dict[Relation, RelationFacts]:
        """Return the catalog's facts about the existing ones of these relations."""
        names = json.dumps([[one.schema, one.name] for one in wanted])
        rows = await self.rows("relations", names, json.dumps(list(schemas)), role) if wanted else ()
        return {wanted[int(row[0] or 0)]: read_relation(row[1] or "") for row in rows}

    async def sizes(self, relations: Sequence[RelationFacts]) -> dict[int, Size]:
        """Return the present bytes of relations, by OID, except of those that another session has locked."""
        reply = await self.reply("sizes", json.dumps([one.oid for one in relations]))
        return {int(row[0] or 0): read_row(Size, row[1:]) for row in reply.rows}

    async def mentioned(
        self, wanted: Sequence[Mention], schemas: Sequence[str], role: str
    ) -> dict[tuple[ObjectSort, Relation], NamedFacts]:
        """Return the existing objects among those that statements name, other than relations."""
        names = [[one.sort.value, one.name.schema, one.name.name] for one in wanted]
        rows = await self.rows("mentioned", json.dumps(names), json.dumps(list(schemas)), role) if wanted else ()
        found = ((wanted[int(row[0] or 0)], row) for row in rows)
        return {(one.sort, one.name): read_row(NamedFacts, row[1:]) for one, row in found}

    async def schemas(self, names: Sequence[str], role: str) -> dict[str, SchemaFacts]:
        """Return the catalog's facts about the existing ones of these schemas."""
        rows = await self.rows("schemas", json.dumps(list(names)), role) if names else ()
        return {facts.name: facts for facts in (read_row(SchemaFacts, row) for row in rows)}

    async def labels(self, enums: Sequence[str]) -> set[tuple[str, str]]:
        """Return the labels of enums with these names, each with the enum's name."""
        rows = await self.rows("labels", json.dumps(list(enums))) if enums else ()
        return {(row[0] or "", row[1] or "") for row in rows}

    async def functions(self, names: Sequence[str]) -> tuple[FunctionFacts, ...]:
        """Return the functions with these names, including PostgreSQL's own."""
        rows = await self.rows("functions", json.dumps(list(names))) if names else ()
        return tuple(read_row(FunctionFacts, row) for row in rows)

    async def activity(self) -> tuple[HeldLock, ...]:
        """Return the table locks that other sessions hold or wait for, those of the oldest transactions first."""
        rows = await self.rows("activity")
        return tuple(read_row(HeldLock, rest, relation=Relation(schema, name or "")) for schema, name, *rest in rows)

    async def snapshots(self, older_than: float) -> tuple[OldTransaction, ...]:
        """Return the transactions whose snapshot CONCURRENTLY would wait for; `older_than` is in seconds."""
        return await self._facts(OldTransaction, "snapshots", str(older_than))

    async def recorded(self, plan: str, runs: int, trusted_roles: Sequence[str] = ()) -> dict[str, RecordedDuration]:
        """Return the times of a plan's steps in its latest runs, from a ledger in this database.

        The first ledger with trusted owners is read; others are listed in `ignored_ledgers`.
        """
        for (name,) in await self.rows("ledger_place"):
            ledger = await self._ledger(name or "", trusted_roles)
            if ledger.ignored:
                self.ignored_ledgers.append(ledger.ignored)
                continue
            self._schema[1] = quote_identifier(ledger.schema)
            found = await self.reply("ledger_durations", plan, str(runs))  # a ledger of another version gives an error
            return {read(row[0] or ""): read_row(RecordedDuration, row[1:]) for row in found.rows}
        return {}

    async def ledgers(self, schema: str, trusted_roles: Sequence[str]) -> tuple[LedgerFacts, ...]:
        """Return the ledgers of this database that this role may read, and what is in `schema`, where a run looks.

        Only catalogs are read, and nothing of a ledger.
        """
        places = [name or "" for (name,) in await self.rows("ledger_place")]
        found = [await self._ledger(place, trusted_roles) for place in places]
        if schema not in places:
            found += [one for one in [await self._ledger(schema, trusted_roles)] if one.ignored]
        return tuple(found)

    async def _ledger(self, schema: str, trusted_roles: Sequence[str]) -> LedgerFacts:
        statement, parameters = distrust_statement(schema, trusted_roles)
        reply = await self.reply(statement, *parameters)
        owner = distrusted(reply.rows)
        return LedgerFacts(
            schema=schema,
            ignored=why_ignored(reply, schema) or "",
            remedy="" if owner is None else remedy(owner),
        )

    @property
    def host(self) -> str:
        """The host of the session: a folder for a Unix socket."""
        return self._session.target["host"]

    async def facts(self) -> ServerFacts:
        """Return the facts about the server itself."""
        (row,) = await self.rows("facts_server")
        load_error = None
        if row[7] is not None and row[9] == "t" and row[10] == "t":
            self._schema[0] = quote_identifier(row[7])
            loaded = await self.reply("load")
            load_error = loaded.error.message if loaded.error is not None else None
        (capacity,) = await self._facts(Capacity, "facts_capacity")
        return read_row(
            ServerFacts,
            row,
            announced_pid=self._session.backend_pid,
            capacity=capacity,
            load_error=load_error,
            old_transactions=await self._facts(OldTransaction, "facts_old", str(OLD)),
            prepared=await self._facts(PreparedTransaction, "facts_prepared"),
            invalid_indexes=await self._facts(InvalidIndex, "facts_invalid"),
        )

    async def _facts(self, kind: type[_Facts], name: str, *parameters: str) -> tuple[_Facts, ...]:
        return tuple(read_row(kind, row) for row in await self.rows(name, *parameters))
