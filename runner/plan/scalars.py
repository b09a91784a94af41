"""Decide which plain scalars are numbers, booleans or null: the YAML 1.2 core schema with some restrictions.

Narrower than the core schema on purpose, because a plan is read by people: only `true` and `false` are booleans, only
`null`, `~` and nothing are null, integers are decimal and have no leading zero (`007` and `0o17` stay text), there is
no infinity, and neither `yes`, `12:30` nor `2026-01-02` is anything but text.
"""

from __future__ import annotations

import math
import re

#: The longest integer or number that is read as a number (characters); a longer one is text.
MAX_DIGITS = 100

_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_NUMBER_STARTS = frozenset("+-.0123456789")
#: First characters of plain scalars that may be something else than text; "" stands for an empty scalar.
NOT_ALWAYS_TEXT = _NUMBER_STARTS | {word[:1] for word in _WORDS}
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def is_long_integer(text: str) -> bool:
    """Return whether a text is a whole number that is too long to be read as a number."""
    return len(text) > MAX_DIGITS and _INTEGER.fullmatch(text) is not None


def read_otherwise(value: object, text: str) -> str | None:
    """Return the form in which a number is used if the file has another: `1.10` becomes 1.1, `1e3` 1000.0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or str(value) == text:
        return None
    return str(value)


def resolve_plain(text: str) -> str | int | float | bool | None:
    """Return the value of a plain (unquoted) scalar."""
    if text[:1] in _NUMBER_STARTS and len(text) <= MAX_DIGITS:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
            return number
        return text
    return _WORDS.get(text, text)
