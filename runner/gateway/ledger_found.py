"""Whether there is a ledger that a run can write to, and what its workers inherit that has to do with it."""

from __future__ import annotations

from dataclasses import dataclass

from runner.gateway.replies import Reply

#: The version of the ledger that this jobplan writes.
VERSION = 2
#: The column of the tables in what `ledger_found` gives.
_TABLES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a worker inherits if its step says nothing else, as far as it decides whether it may write a commit row."""

    role: str
    unicode: bool
    read_only: bool
    isolation: str
    lock_timeout: str
    row_security: bool = True
    #: The OIDs of the ledger's tables, as JSON.
    tables: str = "[]"


def surroundings(found: Reply) -> Surroundings:
    """Read them from what `ledger_found` gave."""
    *_, role, encoding, read_only, isolation, lock_timeout, row_security = (value or "" for value in found.rows[0])
    return Surroundings(
        role=role,
        unicode=encoding == "UTF8",
        read_only=read_only != "off",
        isolation=isolation,
        lock_timeout=lock_timeout,
        row_security=row_security == "on",
        tables=found.rows[0][_TABLES] or "[]",
    )


def why_not(found: Reply, schema: str) -> str | None:
    """Say why a run cannot write to the ledger that `ledger_found` was to find; None if it can."""
    if found.error is not None or not found.rows:
        return f"the ledger could not be looked for: {found.error.message if found.error else 'no answer'}"
    exists, installed, recovering, writable, *_ = found.rows[0]
    if installed != "t":
        return f"there is none in schema {schema}" if exists == "t" else f"there is no schema {schema}"
    if recovering == "t":
        return "the server is a standby, in which nothing can be written"
    return None if writable == "t" else f"this role may not write to the one in schema {schema}"


def unfit(reply: Reply, schema: str) -> str | None:
    """Say why it cannot, from the version that `ledger_version` gave; None if it can."""
    if reply.error is not None or not reply.rows:
        return f"the one in schema {schema} cannot be read: {reply.error.message if reply.error else 'no answer'}"
    if reply.rows[0][0] is None:
        return f"the one in schema {schema} has no version: its table meta is empty"
    version = int(reply.rows[0][0])
    if version == VERSION:
        return None
    remedy = "jobplan ledger upgrade" if version < VERSION else "a newer jobplan"
    return f"the one in schema {schema} is of version {version}, and this jobplan writes {VERSION}: use {remedy}"
