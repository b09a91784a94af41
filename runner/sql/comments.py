"""Comments, strings, quoted names and dollar quotes of SQL text, found without PostgreSQL's scanner.

Comments are replaced by white space of the same length before a text is scanned: libpg_query hands them to its grammar
as tokens, so a comment inside a token of two words (`NOT -- why` and `IN` on the next line), or between two parts of a
string constant, is a syntax error for the parser but not for a server. The parser's time for nested comments also
grows with the square of the depth; here they are found in linear time, as scan.l does: not in strings, quoted
identifiers and dollar quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from runner.structs import Struct

_PIECE = re.compile(
    r"""
      (?P<line>--[^\n\r]*)
    | (?P<block>/\*)
    | (?P<escape>(?<![\w$])[eE]'(?:[^'\\]*(?:(?:\\.|'')[^'\\]*)*)'?)
    | (?P<string>'[^']*(?:''[^']*)*'?)
    | (?P<name>"[^"]*(?:""[^"]*)*"?)
    | (?P<dollar>(?<![\w$])\$(?:[^\W\d]\w*)?\$)
    """,
    re.VERBOSE | re.DOTALL,
)
_EDGE = re.compile(r"/\*|\*/")
NO_BREAK = re.compile(r"[^\n\r]")


def has_comments(text: str) -> bool:
    """Return whether the text may have a comment; a string that looks like one counts."""
    return "--" in text or "/*" in text


def without_comments(text: str) -> str:
    """Return the text with spaces in place of comments, so that every offset in characters stays the same.

    A block comment between two string constants stays: PostgreSQL joins strings over line comments only. So does one
    that is never closed.
    """
    return strip_comments(text)[0]


def strip_comments(text: str) -> tuple[str, int | None]:
    """Return what `without_comments` does, and where a block comment begins that is never closed."""
    parts: list[str] = []
    done = position = 0
    after_string = False
    for piece in pieces(text):
        if text[position : piece.start].strip():
            after_string = False
        position = piece.end
        if piece.kind == "open":
            return "".join(parts) + text[done:], piece.start
        if piece.kind == "line" or (piece.kind == "block" and not (after_string and _string_follows(text, position))):
            parts += (text[done : piece.start], NO_BREAK.sub(" ", text[piece.start : position]))
            done = position
        elif piece.kind != "block":
            after_string = piece.kind in {"string", "escape"}
    return "".join(parts) + text[done:], None


class Piece(Struct, frozen=True):
    """A part of a text whose characters are not SQL's own: a comment, a string, a quoted name, a dollar quote.

    `kind` is `line`, `block`, `open` for a comment that is never closed, `escape`, `string`, `name` or `dollar`.
    """

    kind: str
    start: int
    end: int


def pieces(text: str, position: int = 0) -> Iterator[Piece]:
    """Yield the pieces that begin at a place or after it, one after the other."""
    while (found := _PIECE.search(text, position)) is not None:
        kind, position = found.lastgroup or "", found.end()
        if kind == "dollar":
            closing = text.find(found.group(), position)
            position = len(text) if closing < 0 else closing + len(found.group())
        elif kind == "block":
            end = _block_end(text, position)
            kind, position = ("open", len(text)) if end is None else (kind, end)
        yield Piece(kind, found.start(), position)


def _block_end(text: str, position: int) -> int | None:
    """Return where the comment ends whose opening is before `position`; comments can be nested."""
    depth = 1
    while depth:
        edge = _EDGE.search(text, position)
        if edge is None:
            return None
        depth += 1 if edge.group() == "/*" else -1
        position = edge.end()
    return position


def _string_follows(text: str, position: int) -> bool:
    return text[position : position + 1_000].lstrip().startswith("'")
