"""Names of relations as one value: `schema.table`, or what PostgreSQL writes for a regclass.

Split like the input of regclass, with one difference: parts without quotes keep their case, so that `Sales.Orders` is
that very name. Written again, each part has the quotes that regclass needs.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

#: The longest name that PostgreSQL keeps (NAMEDATALEN - 1, bytes); it cuts a longer one without an error.
MAX_NAME_BYTES: Final = 63
_PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^".\s]*))\s*(\.|$)', re.DOTALL)
_NEEDS_NO_QUOTES = re.compile(r"[a-z_][a-z0-9_$]*")


class QualifiedName(str):
    """A relation's name as regclass reads it, made by `qualified_name`: `public.orders`, `"Sales"."Line-Items"`."""

    __slots__ = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The name without quotes, and before it its schema if it has one."""
        return _parts(self)

    @property
    def label(self) -> str:
        """The name as people write it."""
        return ".".join(self.parts)


def qualified_name(text: str) -> QualifiedName:
    """Return the name of a relation. ValueError, with a sentence that begins after "the value", if it is none."""
    written = (part if _NEEDS_NO_QUOTES.fullmatch(part) else in_double_quotes(part) for part in _parts(str(text)))
    return QualifiedName(".".join(written))


def in_double_quotes(part: str) -> str:
    """Return a name in double quotes, with those in it doubled; any text can be one."""
    doubled = part.replace('"', '""')
    return f'"{doubled}"'


def without_double_quotes(name: str) -> str:
    """Return the name that a quoted identifier stands for."""
    return name[1:-1].replace('""', '"')


@lru_cache(maxsize=4096)
def _parts(text: str) -> tuple[str, ...]:
    parts: list[str] = []
    done = 0
    while True:
        found = _PART.match(text, done)
        if found is None:
            raise ValueError(f"is `{text}`, {_what_is_wrong(text)}")
        parts.append(found[2] if found[1] is None else found[1].replace('""', '"'))
        done = found.end()
        if not found[3]:
            break
    _check(text, parts)
    return tuple(parts)


def _what_is_wrong(text: str) -> str:
    if '"' in text:
        return "in which a double quote is not closed, or stands inside a name: a quoted part is quoted whole"
    return "in which a name has white space: put it in double quotes"


def _check(text: str, parts: list[str]) -> None:
    if not any(parts):
        raise ValueError("is empty, which no relation's name is")
    if not all(parts):
        raise ValueError(f"is `{text}`, in which a part of the name is empty")
    if len(parts) > 2:
        raise ValueError(f"is `{text}`, which has {len(parts)} parts; a relation is `table` or `schema.table`")
    if len(parts) == 1 and text.strip().isdecimal():
        raise ValueError(f"is `{text}`, a number; the name of an oid is `oid::regclass`")
    for part in parts:
        if (size := len(part.encode(errors="replace"))) > MAX_NAME_BYTES:
            raise ValueError(f"has a part of {size} bytes; PostgreSQL cuts names to {MAX_NAME_BYTES}")
        if "\0" in part:
            raise ValueError("contains a NUL character, which PostgreSQL cannot hold")
