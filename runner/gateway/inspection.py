"""A session that only looks at a server: every transaction is READ ONLY, has limits, and is rolled back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runner.errors import ConnectionFailedError, PreflightError
from runner.gateway.base import QueryResult
from runner.gateway.catalog import (
    FunctionFacts,
    HeldLock,
    RelationFacts,
    SchemaFacts,
    read_function,
    read_lock,
    read_relation,
    read_schema,
)
from runner.gateway.conninfo import with_keepalives
from runner.gateway.facts import Capacity, InvalidIndex, OldTransaction, PreparedTransaction, ServerFacts
from runner.gateway.queries import query
from runner.gateway.replies import Reply, Row
from runner.gateway.session import Session
from runner.sql.params import quote_identifier
from runner.sql.relations import Relation

#: Milliseconds: nobody waits long for one who only looks, and it keeps nobody waiting.
STATEMENT_TIMEOUT = "10000"
LOCK_TIMEOUT = "1000"
_LIMITS = {"statement_timeout": STATEMENT_TIMEOUT, "lock_timeout": LOCK_TIMEOUT}
#: Seconds after which a transaction is old enough to be told about.
OLD = 300


#: The OID of pg_catalog.bool.
BOOLEAN = 16

#: Names and values, in the order in which they are to be set.
Settings = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the server says of a statement that it has not run.

    `parse` has the columns of its result, or the error of Parse or Describe; `locks` are rows of schema, name, mode and
    kind, none if there was an error.
    """

    setting: Reply
    parse: Reply
    explain: Reply | None
    locks: tuple[Row, ...]


class Inspector:
    """Looks at a server. Make it with `connect`."""

    def __init__(self, session: Session, schema: list[str]) -> None:
        self._session = session
        #: The schemas of pg_background and of the ledger, quoted, which the named blocks are given once they are known.
        self._schema = schema
        #: What the login role has; the session's own is pinned.
        self.search_path = ""

    @classmethod
    async def connect(cls, conninfo: str, application_name: str) -> Inspector:
        """Open the session. ConnectionFailedError, with the server's own words, if it cannot be."""
        schema = ["", ""]
        session = await Session.connect(
            with_keepalives(conninfo),
            application_name=application_name,
            queries=lambda name: query(name, extension_schema=schema[0], ledger=schema[1]),
        )
        inspector = cls(session, schema)
        replies = await session.run(("path", ()), ("pin", ()), ("unlimit", ()))
        if replies[0].error is not None:
            session.discard()
            raise ConnectionFailedError(f"the server refuses to be used by jobplan: {replies[0].error.message}")
        inspector.search_path = replies[0].rows[0][0] or ""
        return inspector

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()

    async def rows(self, name: str, *parameters: str) -> tuple[Row, ...]:
        """Return the rows of a named block. PreflightError if the server refuses to tell."""
        reply = await self.reply(name, *parameters)
        if reply.error is not None:
            raise PreflightError(f"the server refuses to tell about itself ({name}): {reply.error.message}")
        return reply.rows

    async def reply(self, name: str, *parameters: str) -> Reply:
        """Run a named block in a transaction of its own, and return its rows or the error."""
        replies = await self._session.run(
            ("look", ()), ("settings", (json.dumps(_LIMITS),)), (name, parameters), ("rollback", ())
        )
        return replies[2]

    async def probe(self, settings: Settings, sql: str, *, explain: bool) -> Probe:
        """Have the server look at one statement of the plan's in the settings of its step, without running it."""
        replies = await self._session.probe(_json(settings), sql, explain=explain)
        setting, parse, describe = replies[:3]
        return Probe(
            setting=setting,
            parse=parse if parse.error is not None else describe,
            explain=replies[3] if explain else None,
            locks=replies[-1].rows,
        )

    async def read(self, settings: Settings, sql: str) -> QueryResult:
        """Run one statement of the plan's that only reads, in the settings of its step."""
        reply = await self._session.read(_json(settings), sql)
        return QueryResult(
            columns=tuple(column.name for column in reply.columns),
            rows=reply.rows,
            boolean=len(reply.columns) == 1 and reply.columns[0].type == BOOLEAN,
            error=reply.error,
        )

    async def surroundings(self, settings: Settings) -> Reply:
        """Return who a step runs as and the schemas that are searched for it, or why its settings are refused."""
        return await self._session.read(_json(settings), query("surroundings").decode())

    async def relations(
        self, wanted: Sequence[Relation], schemas: Sequence[str], role: str
    ) -> dict[Relation, RelationFacts]:
        """Return what the catalog says of those relations that exist."""
        names = json.dumps([[one.schema, one.name] for one in wanted])
        rows = await self.rows("relations", names, json.dumps(list(schemas)), role) if wanted else ()
        return {wanted[int(row[0] or 0)]: read_relation(row[1] or "") for row in rows}

    async def schemas(self, names: Sequence[str], role: str) -> dict[str, SchemaFacts]:
        """Return what the catalog says of those schemas that exist."""
        rows = await self.rows("schemas", json.dumps(list(names)), role) if names else ()
        return {facts.name: facts for facts in map(read_schema, rows)}

    async def functions(self, names: Sequence[str]) -> tuple[FunctionFacts, ...]:
        """Return the functions of these names that PostgreSQL does not bring itself."""
        rows = await self.rows("functions", json.dumps(list(names))) if names else ()
        return tuple(map(read_function, rows))

    async def activity(self) -> tuple[HeldLock, ...]:
        """Return the table locks that others hold or wait for, those of the oldest transactions first."""
        return tuple(map(read_lock, await self.rows("activity")))

    async def snapshots(self, older_than: float) -> tuple[OldTransaction, ...]:
        """Return the transactions whose snapshot a build CONCURRENTLY would wait for; `older_than` is seconds."""
        return tuple(map(_old, await self.rows("snapshots", str(older_than))))

    async def recorded(self, plan: str) -> dict[str, tuple[int, float, float]]:
        """Return what a ledger in this database says of a plan's steps: runs, median and 95th percentile in seconds."""
        place = await self.rows("ledger_place")
        if not place:
            return {}
        self._schema[1] = quote_identifier(place[0][0] or "")
        found = await self.reply("ledger_durations", plan)  # one of another version says nothing
        return {row[0] or "": (int(row[1] or 0), float(row[2] or 0), float(row[3] or 0)) for row in found.rows}

    @property
    def host(self) -> str:
        """The host that the session leads to: a folder if it is a socket."""
        return self._session.target["host"]

    async def facts(self) -> ServerFacts:
        """Ask for everything that there is to know about the server itself."""
        (row,) = await self.rows("facts_server")
        load_error = None
        if row[7] is not None and row[9] == "t" and row[10] == "t":
            self._schema[0] = quote_identifier(row[7])
            loaded = await self.reply("load")
            load_error = loaded.error.message if loaded.error is not None else None
        (counts,) = await self.rows("facts_capacity")
        facts = _server(row, _capacity(counts), self._session.backend_pid)
        return replace(
            facts,
            load_error=load_error,
            old_transactions=tuple(map(_old, await self.rows("facts_old", str(OLD)))),
            prepared=tuple(map(_prepared, await self.rows("facts_prepared"))),
            invalid_indexes=tuple(map(_invalid, await self.rows("facts_invalid"))),
        )


def _json(settings: Settings) -> str:
    """The limits come last but for the role: a step has no say in them, and who has taken a role may not set them."""
    given = dict(settings)
    role = given.pop("role", None)
    return json.dumps({**given, **_LIMITS, **({} if role is None else {"role": role})})


def _server(row: Row, capacity: Capacity, announced_pid: int) -> ServerFacts:
    return ServerFacts(
        version=row[0] or "",
        version_number=int(row[1] or 0),
        database=row[2] or "",
        user=row[3] or "",
        standby=row[4] == "t",
        backend_pid=int(row[5] or 0),
        announced_pid=announced_pid,
        extension_version=row[6],
        extension_schema=row[7],
        available_version=row[8],
        schema_usage=row[9] == "t",
        may_launch=row[10] == "t",
        sees_all=row[11] == "t",
        read_only=row[12] == "on",
        read_only_source=row[13] or "",
        capacity=capacity,
    )


def _capacity(row: Row) -> Capacity:
    numbers = [int(value or 0) for value in (*row[:8], *row[9:13])]
    return Capacity(
        max_worker_processes=numbers[0],
        workers=numbers[1],
        of_pg_background=numbers[2],
        unseen=numbers[3],
        max_parallel_workers=numbers[4],
        max_connections=numbers[5],
        reserved_connections=numbers[6],
        connections=numbers[7],
        superuser=row[8] == "t",
        role_limit=numbers[8],
        role_connections=numbers[9],
        database_limit=numbers[10],
        database_connections=numbers[11],
        max_workers=int(row[13]) if row[13] else None,
    )


def _old(row: Row) -> OldTransaction:
    pid, user, application_name, state, seconds, here = (value or "" for value in row)
    return OldTransaction(
        pid=int(pid),
        user=user,
        application_name=application_name,
        state=state,
        seconds=int(seconds),
        here=here == "t",
    )


def _prepared(row: Row) -> PreparedTransaction:
    gid, owner, seconds = (value or "" for value in row)
    return PreparedTransaction(gid=gid, owner=owner, seconds=int(seconds))


def _invalid(row: Row) -> InvalidIndex:
    schema, name, table = (value or "" for value in row)
    return InvalidIndex(schema=schema, name=name, table=table)
