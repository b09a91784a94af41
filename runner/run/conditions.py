"""Queries about a step besides its own SQL: its items, its conditions, its result, the rows of its table.

The result of a condition becomes an event here; the scheduler decides what follows from it. For a repeat, the rows of
the table that its last statement changes are estimated, once before the first iteration.
"""

from __future__ import annotations

from runner.engine import events as ev
from runner.engine.for_each_items import queried_items, refused_rows
from runner.engine.ports import Gateway, LaunchRequest, Query, QueryResult
from runner.engine.state import StepRecord
from runner.engine.step_sql import for_list, with_values
from runner.errors import GatewayError
from runner.phrases import cut
from runner.plan.model import ItemValues, Sql, Step
from runner.sql.carried_rows import changed_table
from runner.sql.placeholders import TemplateError, quote_literal, render


class ConditionError(Exception):
    """A condition cannot be evaluated; `details` is the error."""

    def __init__(self, details: ev.ErrorDetails) -> None:
        super().__init__(details.message)
        self.details = details


class Conditions:
    """The conditions of one step or instance, with the values that its SQL may name."""

    def __init__(self, gateway: Gateway, record: StepRecord, values: ItemValues) -> None:
        self._gateway = gateway
        self._record = record
        self._step: Step = record.step
        self._values = values

    async def evaluate(self, phase: ev.CheckPhase, at: float) -> ev.StepChecked | ev.StepExpanded:
        """Return the result of this phase's conditions; `at` is a preliminary time that the caller replaces."""
        key = self._record.key
        try:
            if phase is ev.CheckPhase.ITEMS:
                return ev.StepExpanded(at=at, step=key, items=await self._items())
            before = phase is ev.CheckPhase.BEFORE
            verdict, error = await (self._before() if before else self._after())
        except ConditionError as failure:
            verdict, error = ev.Verdict.ERROR, failure.details
        except GatewayError as failure:
            verdict, error = ev.Verdict.ERROR, ev.ErrorDetails(message=failure.message)
        return ev.StepChecked(at=at, step=key, phase=phase, verdict=verdict, error=error)

    async def verify(self) -> bool | None:
        """Return whether `verify` is true; None if there is none or it cannot be evaluated."""
        if self._step.verify is None:
            return None
        try:
            return await self._holds(self._step.verify, "verify")
        except (ConditionError, GatewayError):
            return None

    async def _items(self) -> tuple[ev.Item, ...]:
        for_each = self._step.for_each
        if for_each is None or for_each.sql is None:
            return ()
        result = await self._query(for_each.sql, "for_each")
        refused = refused_rows(result.columns, len(result.rows))
        if refused is not None:
            raise ConditionError(ev.ErrorDetails(message=f"for_each: {refused}"))
        try:
            return queried_items(self._step, result.columns, result.rows)
        except ValueError as error:
            raise ConditionError(ev.ErrorDetails(message=f"for_each: an item {error}")) from error

    async def _before(self) -> tuple[ev.Verdict, ev.ErrorDetails | None]:
        if self._step.if_ is not None and not await self._holds(self._step.if_, "if", before_launch=True):
            return ev.Verdict.SKIP, None
        for check in self._step.preconditions:
            if not await self._holds(check.sql, "preconditions", before_launch=True):
                return ev.Verdict.FAIL, ev.ErrorDetails(message=check.message)
        return ev.Verdict.PROCEED, None

    async def _after(self) -> tuple[ev.Verdict, ev.ErrorDetails | None]:
        """Evaluate the conditions of the end; after an unknown outcome only `verify`: the others assume success."""
        last = self._record.last
        unknown = last is not None and last.outcome is ev.Outcome.UNKNOWN
        wanted = ("verify",) if unknown else ("repeat.until", "expect.sql", "verify")
        for name, sql in self._step.texts():
            if name not in wanted or await self._holds(sql, name):
                continue
            if name == "repeat.until":
                return ev.Verdict.AGAIN, None
            return ev.Verdict.FAIL, ev.ErrorDetails(message=f"{name} is false: {_one_line(sql.text)}")
        return ev.Verdict.PROCEED, None

    async def _holds(self, sql: Sql, name: str, *, before_launch: bool = False) -> bool:
        """Return whether the condition is true; NULL and an empty result are not."""
        answer = (await self._query(sql, name, before_launch=before_launch)).truth(name)
        if isinstance(answer, str):
            raise ConditionError(ev.ErrorDetails(message=answer))
        return answer

    async def _query(self, sql: Sql, name: str, *, before_launch: bool = False) -> QueryResult:
        try:
            text = render(sql.text, self._values)
            step = with_values(for_list(self._step), self._values)
        except TemplateError as error:
            raise ConditionError(ev.ErrorDetails(message=f"{name}: {error.message}")) from error
        query = Query(sql=text, role=step.role, search_path=step.search_path, before_launch=before_launch)
        result = await self._gateway.query(query)
        if result.error is not None:
            raise ConditionError(_named(result.error, name))
        return result


def _named(error: ev.ErrorDetails, name: str) -> ev.ErrorDetails:
    return ev.ErrorDetails(
        message=f"{name}: {error.message}", sqlstate=error.sqlstate, detail=error.detail, hint=error.hint
    )


def _one_line(text: str, limit: int = 200) -> str:
    flat = " ".join(text.split())
    return cut(flat, limit)


#: Seconds for the query, and for its lock on a partitioned table. After that, nothing is estimated.
_WITHIN, _LOCKED_WITHIN = 1.0, 0.2
#: The rows of a table, or of the partitions of one; none if a part of it was never analyzed.
_ROWS = """
SELECT t.oid::pg_catalog.regclass::pg_catalog.text, pg_catalog.sum(c.reltuples)::pg_catalog.int8
FROM (SELECT pg_catalog.to_regclass({table}) AS oid) AS t,
  LATERAL (SELECT t.oid AS relid UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(t.oid) AS p) AS parts
  JOIN pg_catalog.pg_class AS c ON c.oid = parts.relid AND c.relkind = 'r'
GROUP BY t.oid HAVING pg_catalog.min(c.reltuples) >= 0"""


async def estimated_rows(gateway: Gateway, request: LaunchRequest) -> tuple[str, int] | None:
    """Return the table whose rows the request changes, as the server writes its name, and about how many it has.

    The number is a limit, because a repeat may change only some of the rows. None if there is no table, or if its size
    is unknown.
    """
    table = changed_table(request.sql)
    if table is None:
        return None
    query = Query(
        sql=_ROWS.format(table=quote_literal(table)),
        role=request.role,
        search_path=request.search_path,
        timeout=_WITHIN,
        lock_timeout=_LOCKED_WITHIN,
        before_launch=True,
    )
    try:
        result = await gateway.query(query)
    except GatewayError:
        return None
    found = [(name, int(rows)) for name, rows in result.rows if name is not None and rows is not None]
    return found[0] if found and found[0][1] > 0 else None
