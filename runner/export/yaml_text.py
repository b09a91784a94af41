"""Plain YAML of nested mappings, lists and scalars, with comments that say why a value is as it is.

Only what manifests need: no anchors, no tags. Every text that a YAML parser could read as another type is quoted.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Final

from runner.structs import Struct

#: Texts that mean the same without quotes in YAML 1.1 and 1.2.
_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*")
#: Plain words that are no texts in YAML 1.1.
_OTHER_TYPES: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
#: Characters of a line with a comment.
_WIDTH: Final = 110


class Commented(Struct, frozen=True):
    """A value with a comment, which stands in the lines before its key or its dash."""

    value: object
    comment: str


def yaml_documents(documents: Iterable[Mapping[str, object]]) -> str:
    """Return several documents as one text."""
    return "---\n".join("".join(f"{line}\n" for line in _mapping(document, "")) for document in documents)


def _mapping(mapping: Mapping[str, object], indent: str) -> Iterator[str]:
    for key, given in mapping.items():
        value = yield from _comment(given, indent)
        yield from _entry(f"{indent}{_scalar(key)}:", value, indent)


def _entry(head: str, value: object, indent: str) -> Iterator[str]:
    """Yield a key and its value; a list is not indented more than its key."""
    if isinstance(value, Mapping) and value:
        yield head
        yield from _mapping(value, f"{indent}  ")
    elif _is_list(value) and value and not _is_short(value):
        yield head
        yield from _items(value, indent)
    elif isinstance(value, str) and _fits_block(value):
        yield f"{head} {_block_head(value)}"
        yield from (f"{indent}  {line}" if line else "" for line in value.rstrip("\n").split("\n"))
        yield from [""] * (len(value) - len(value.rstrip("\n")) - 1)
    else:
        yield f"{head} {_scalar(value)}"


def _items(items: object, indent: str) -> Iterator[str]:
    for given in items if isinstance(items, Sequence) else ():
        value = yield from _comment(given, indent)
        if isinstance(value, Mapping) and value:
            inner = [*_mapping(value, f"{indent}  ")]
            first = next(number for number, line in enumerate(inner) if not line.lstrip().startswith("#"))
            yield from (f"{indent}{line.strip()}" for line in inner[:first])
            yield f"{indent}- {inner[first][len(indent) + 2 :]}"
            yield from inner[first + 1 :]
        elif _is_list(value) and value and not _is_short(value):
            inner = [*_items(value, f"{indent}  ")]
            yield f"{indent}- {inner[0][len(indent) + 2 :]}"
            yield from inner[1:]
        else:
            yield from _entry(f"{indent}-", value, indent)


def _comment(given: object, indent: str) -> Generator[str, None, object]:
    if not isinstance(given, Commented):
        return given
    for line in textwrap.wrap(given.comment, _WIDTH - len(indent)):
        yield f"{indent}# {line}"
    return given.value


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_short(value: object) -> bool:
    """Return whether a list is written in one line: numbers only."""
    return isinstance(value, Sequence) and all(isinstance(item, int) for item in value)


def _fits_block(text: str) -> bool:
    """Return whether a text is the same as a literal block: several printable lines, the first not indented."""
    first = text[:1]
    lines = text.split("\n")
    return "\n" in text.rstrip("\n") and first not in ("", " ", "\t", "\n") and all(map(_is_printable, lines))


def _is_printable(line: str) -> bool:
    return line.replace("\t", "").isprintable() and "\ufeff" not in line


def _block_head(text: str) -> str:
    ends = len(text) - len(text.rstrip("\n"))
    return "|-" if ends == 0 else "|" if ends == 1 else "|+"


def _scalar(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            plain = _PLAIN.fullmatch(value) and value.lower() not in _OTHER_TYPES
            return value if plain else f'"{"".join(map(_escaped, value))}"'
        case Mapping():
            return "{}"
        case Sequence():
            return f"[{', '.join(map(_scalar, value))}]"
        case _:
            raise TypeError(f"{type(value).__name__} is no value of a manifest")


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
