"""Whose ledger it is: nothing is read from a ledger, or written to it, before its owners are known to be trusted.

The owner of a table decides what an INSERT, an UPDATE or a SELECT of it executes (triggers, rules, policies, defaults,
constraints), with the rights of the role that runs the statement. So a ledger of a role that is not trusted is ignored.
Trusted are the session's own role, superusers, and the roles that the user names (docs/security.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runner.gateway.replies import Reply
from runner.gateway.session import Statement

#: How a user says that a role is trusted.
OPTION = "--trust-ledger-role"


@dataclass(frozen=True, slots=True, kw_only=True)
class Distrust:
    """An object that belongs to a role which is not trusted."""

    what: str
    owner: str


def distrust_statement(schema: str, trusted: Iterable[str]) -> Statement:
    """Return the statement that finds what is not trusted in a schema; `trusted` are roles that the user trusts."""
    return "ledger_distrust", (schema, json.dumps(sorted(trusted)))


def distrusted(rows: Iterable[Sequence[str | None]]) -> Distrust | None:
    """Return the first object of an untrusted role that `ledger_distrust` gave; None if all owners are trusted."""
    return next((Distrust(what=row[0] or "", owner=row[1] or "") for row in rows), None)


def why_ignored(reply: Reply, schema: str) -> str | None:
    """Say why the ledger in a schema is ignored, by what `ledger_distrust` gave; None if its owners are trusted."""
    if reply.error is not None:
        return f"the ledger in schema {schema} is ignored: its owners could not be read ({reply.error.message})"
    found = distrusted(reply.rows)
    return None if found is None else ignored(schema, found)


def ignored(schema: str, found: Distrust) -> str:
    """Return the sentence for a ledger that is ignored because of its owner."""
    return (
        f"the ledger in schema {schema} is ignored: {found.what} belongs to role {found.owner}, which is neither this"
        f" session's role nor a superuser (to trust it: {OPTION})"
    )


def remedy(found: Distrust) -> str:
    """Return what to do about a ledger of a role that is not trusted."""
    return (
        f"Its owner could execute any SQL with your rights. If you trust role {found.owner}: {OPTION} {found.owner}."
        " Else use another schema (--schema, JOBPLAN_LEDGER_SCHEMA), or have a superuser drop this one."
    )
