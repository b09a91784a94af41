"""Texts in the ledger that every server encoding has: PostgreSQL's own notation for characters that it may lack.

A database in LATIN1, EUC_JP or SQL_ASCII cannot hold every character of an item or a message, and jsonb converts
escapes to it. So there a text that is not ASCII is stored as `U&` and escapes, as in `U&\\0416`, which each of them can
hold. A text that begins with `U&` itself is escaped everywhere: what comes back is always what was written.
"""

from __future__ import annotations

import json
import re
from typing import Any

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
