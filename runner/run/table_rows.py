"""Estimates how many rows a repeat can change: the rows of the table that its last statement changes, by statistics.

The number is a limit, because a repeat may change only some of the rows. It is read once, before the first iteration.
"""

from __future__ import annotations

from runner.engine.ports import Gateway, LaunchRequest, Query
from runner.errors import GatewayError
from runner.sql.carried_rows import changed_table
from runner.sql.placeholders import quote_literal
from runner.structs import Struct

#: Seconds for the query, and for the lock on a partitioned table that it needs: without an answer nothing is estimated.
_WITHIN, _LOCKED_WITHIN = 1.0, 0.2
#: The rows of a table, or of the partitions of one; none if a part of it was never analyzed.
_ROWS = """
SELECT t.oid::pg_catalog.regclass::pg_catalog.text, pg_catalog.sum(c.reltuples)::pg_catalog.int8
FROM (SELECT pg_catalog.to_regclass({table}) AS oid) AS t,
  LATERAL (SELECT t.oid AS relid UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(t.oid) AS p) AS parts
  JOIN pg_catalog.pg_class AS c ON c.oid = parts.relid AND c.relkind = 'r'
GROUP BY t.oid HAVING pg_catalog.min(c.reltuples) >= 0"""


class TableRows(Struct, frozen=True, kw_only=True):
    """A table, as the server writes its name, and about how many rows it has."""

    table: str
    rows: int


async def estimated_rows(gateway: Gateway, request: LaunchRequest) -> TableRows | None:
    """Return the table whose rows the request changes; None if there is none, or if its size is unknown."""
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
    for name, rows, *_ in (row for row in result.rows if len(row) == 2):
        if name is not None and rows is not None and int(rows) > 0:
            return TableRows(table=name, rows=int(rows))
    return None
