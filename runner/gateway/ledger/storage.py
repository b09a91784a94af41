r"""The location of a ledger, the trust in its owners, and the storage format of its texts.

A database in LATIN1, EUC_JP or SQL_ASCII cannot store every character of an item or a message, and jsonb converts
escapes to its encoding. So there a text that is not ASCII is stored as `U&` and escapes, as in `U&\0416`. A text that
begins with `U&` itself is escaped in every database: reading returns exactly what was written.

The owner of a table decides what an INSERT, an UPDATE or a SELECT of it executes (triggers, rules, policies, defaults,
constraints), with the privileges of the role that runs the statement. So a ledger of an untrusted role is ignored.
Trusted are the session's own role, superusers, and the roles that the user names (docs/security.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from runner.gateway.replies import Reply
from runner.gateway.session import Statement
from runner.structs import Struct

MARK = "U&"
_TO_ESCAPE = re.compile(r"[^\x00-\x7f]|\\")
_ESCAPE = re.compile(r"\\(?:\\|\+([0-9A-Fa-f]{6})|([0-9A-Fa-f]{4}))")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def stored(text: str, *, unicode: bool) -> str:
    """Return a text in the storage format of a database's ledger; `unicode`: its encoding is UTF8."""
    if not text.startswith(MARK) and (unicode or text.isascii()):
        return text
    return MARK + _TO_ESCAPE.sub(lambda found: _escape(found.group()), text)


def read(text: str) -> str:
    """Return the original of a text that `stored` returned."""
    return _ESCAPE.sub(_unescape, text[len(MARK) :]) if text.startswith(MARK) else text


def stored_event(event: str, *, unicode: bool) -> str:
    """Return an event, as JSON, with every text in it in the storage format."""
    if MARK not in event and (unicode or (event.isascii() and "\\u" not in event)):
        return event
    found = json.loads(event)
    changed = _each_text(found, lambda text: stored(text, unicode=unicode))
    return event if changed == found else json.dumps(changed, ensure_ascii=not unicode)


def read_event(event: Any) -> Any:  # noqa: ANN401 - JSON values have no narrower type
    """Return the original of an event that `stored_event` returned, as JSON values."""
    return _each_text(event, read)


def stored_json(text: str, *, unicode: bool) -> str:
    """Return JSON for a column of type json, which does not convert escapes."""
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


#: The version of the ledger that this jobplan writes, and the oldest one that a run can use: version 2 lacks a place
#: for carried values.
VERSION = 3
OLDEST = 2
#: The column with the tables in the row of `ledger_found`.
_TABLES = 4


class InheritedSettings(Struct, frozen=True, kw_only=True):
    """The settings that a worker inherits, as far as they decide whether it may write a commit row."""

    role: str
    unicode: bool
    read_only: bool
    isolation: str
    lock_timeout: str
    row_security: bool = True
    #: The OIDs of the ledger's tables, as JSON.
    tables: str = "[]"


def surroundings(found: Reply) -> InheritedSettings:
    """Parse the row of `ledger_found`."""
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
    """Return why a run cannot write to the ledger, from the row of `ledger_found`; None if it can."""
    if found.error is not None or not found.rows:
        return f"the search for the ledger failed: {found.error.message if found.error else 'no answer'}"
    exists, installed, recovering, writable, *_ = found.rows[0]
    if installed != "t":
        return f"there is none in schema {schema}" if exists == "t" else f"there is no schema {schema}"
    if recovering == "t":
        return "the server is a standby, which is read-only"
    return None if writable == "t" else f"this role may not write to the one in schema {schema}"


def unfit(reply: Reply, schema: str) -> str | None:
    """Return why it cannot, from the row of `ledger_version`; None if it can."""
    if reply.error is not None or not reply.rows:
        return f"the one in schema {schema} cannot be read: {reply.error.message if reply.error else 'no answer'}"
    if reply.rows[0][0] is None:
        return f"the one in schema {schema} has no version: its table meta is empty"
    version = int(reply.rows[0][0])
    if OLDEST <= version <= VERSION:
        return None
    remedy = "jobplan ledger upgrade" if version < VERSION else "a newer jobplan"
    return f"the one in schema {schema} is of version {version}, and this jobplan writes {VERSION}: use {remedy}"


#: The option by which a user trusts a role.
OPTION = "--trust-ledger-role"


class Distrust(Struct, frozen=True, kw_only=True):
    """An object that an untrusted role owns."""

    what: str
    owner: str


def distrust_statement(schema: str, trusted: Iterable[str]) -> Statement:
    """Return the statement that finds untrusted objects in a schema; `trusted` are roles that the user trusts."""
    return "ledger_distrust", (schema, json.dumps(sorted(trusted)))


def distrusted(rows: Iterable[Sequence[str | None]]) -> Distrust | None:
    """Return the first object of an untrusted role in the rows of `ledger_distrust`; None if all owners are trusted."""
    return next((Distrust(what=row[0] or "", owner=row[1] or "") for row in rows), None)


def why_ignored(reply: Reply, schema: str) -> str | None:
    """Return why the ledger in a schema is ignored, from the reply to `ledger_distrust`; None if it is trusted."""
    if reply.error is not None:
        return f"the ledger in schema {schema} is ignored: its owners could not be read ({reply.error.message})"
    found = distrusted(reply.rows)
    return None if found is None else ignored(schema, found)


def ignored(schema: str, found: Distrust) -> str:
    """Return the message about a ledger that is ignored because of its owner."""
    return (
        f"the ledger in schema {schema} is ignored: {found.what} belongs to role {found.owner}, which is neither this"
        f" session's role nor a superuser (to trust it: {OPTION})"
    )


def remedy(found: Distrust) -> str:
    """Return the hint for a ledger of an untrusted role."""
    return (
        f"Its owner could execute any SQL with your privileges. If you trust role {found.owner}: {OPTION} "
        f"{found.owner}."
        " Otherwise use another schema (--schema, JOBPLAN_LEDGER_SCHEMA), or ask a superuser to drop this one."
    )
