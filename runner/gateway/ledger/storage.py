r"""Where a ledger is, whose it is, and how texts are stored in it.

A database in LATIN1, EUC_JP or SQL_ASCII cannot hold every character of an item or a message, and jsonb converts
escapes to it. So there a text that is not ASCII is stored as `U&` and escapes, as in `U&\0416`, which each of them can
hold. A text that begins with `U&` itself is escaped everywhere: what is read is always what was written.

The owner of a table decides what an INSERT, an UPDATE or a SELECT of it executes (triggers, rules, policies, defaults,
constraints), with the rights of the role that runs the statement. So a ledger of a role that is not trusted is
ignored. Trusted are the session's own role, superusers, and the roles that the user names (docs/security.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from runner.gateway.session import Reply, Statement

MARK = "U&"
_TO_ESCAPE = re.compile(r"[^\x00-\x7f]|\\")
_ESCAPE = re.compile(r"\\(?:\\|\+([0-9A-Fa-f]{6})|([0-9A-Fa-f]{4}))")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def stored(text: str, *, unicode: bool) -> str:
    """Return a text as the ledger of a database holds it; `unicode`: its encoding is UTF8."""
    if not text.startswith(MARK) and (unicode or text.isascii()):
        return text
    return MARK + _TO_ESCAPE.sub(lambda found: _escape(found.group()), text)


def read(text: str) -> str:
    """Return the text of which `stored` made this; the inverse of it."""
    return _ESCAPE.sub(_unescape, text[len(MARK) :]) if text.startswith(MARK) else text


def stored_event(event: str, *, unicode: bool) -> str:
    """Return an event, as JSON, with every text in it `stored`."""
    if MARK not in event and (unicode or (event.isascii() and "\\u" not in event)):
        return event
    found = json.loads(event)
    changed = _each_text(found, lambda text: stored(text, unicode=unicode))
    return event if changed == found else json.dumps(changed, ensure_ascii=not unicode)


def read_event(event: Any) -> Any:  # noqa: ANN401 - JSON values have no narrower type
    """Return an event, as JSON values, of which `stored_event` made this."""
    return _each_text(event, read)


def stored_json(text: str, *, unicode: bool) -> str:
    """Return JSON for a column of type json, which keeps escapes as they are."""
    return text if unicode else _NOT_ASCII.sub(lambda found: json.dumps(found.group())[1:-1], text)


def _each_text(value: Any, change: Any) -> Any:  # noqa: ANN401 - as above
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _each_text(item, change) for key, item in value.items()}
    return [_each_text(item, change) for item in value] if isinstance(value, list) else value


def _escape(character: str) -> str:
    code = ord(character)
    if character == "\\":
        return "\\\\"
    return f"\\{code:04X}" if code <= 0xFFFF else f"\\+{code:06X}"


def _unescape(found: re.Match[str]) -> str:
    long, short = found.groups()
    code = int(long or short or "5C", 16)
    return chr(code) if code <= 0x10FFFF else found.group()


#: The version of the ledger that this jobplan writes.
VERSION = 2
#: The column of the tables in what `ledger_found` gives.
_TABLES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class InheritedSettings:
    """What a worker inherits if its step says nothing else, as far as it decides whether it may write a commit row."""

    role: str
    unicode: bool
    read_only: bool
    isolation: str
    lock_timeout: str
    row_security: bool = True
    #: The OIDs of the ledger's tables, as JSON.
    tables: str = "[]"


def surroundings(found: Reply) -> InheritedSettings:
    """Read them from what `ledger_found` gave."""
    *_, role, encoding, read_only, isolation, lock_timeout, row_security = (value or "" for value in found.rows[0])
    return InheritedSettings(
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
