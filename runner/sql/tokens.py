"""The scanner: tokens of SQL text, invisible characters in it, and what to highlight.

PostgreSQL's own scanner returns byte offsets, while editors and plans count characters; all other modules count
characters only. Only this module knows the scanner's token names.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, Final, NamedTuple

from postgast import PgQueryError, pg_query_pb2, scan

from runner.sql.comments import pieces, strip_comments
from runner.sql.psql_commands import without_client_parts

#: A text with more comment starts than this is parsed without its comments.
MANY_COMMENTS = 200
_STRINGS = frozenset({"SCONST", "USCONST", "BCONST", "XCONST"})
_NO_KEYWORD = pg_query_pb2.NO_KEYWORD
_COLON = pg_query_pb2.ASCII_58
_SEMICOLON = pg_query_pb2.ASCII_59
_LINE_COMMENT = pg_query_pb2.SQL_COMMENT
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_COLONS = re.compile(b":")
_START = attrgetter("start")


class TokenKind(enum.Enum):
    """What a token is, as far as parameters and meta-commands are concerned."""

    STRING = "string constant"
    QUOTED_IDENTIFIER = "quoted identifier"
    WORD = "identifier or keyword"
    NUMBER = "number"
    LINE_COMMENT = "-- comment"
    BLOCK_COMMENT = "/* */ comment"
    OTHER = "other"


_WORD = TokenKind.WORD
_BODY = re.compile(r"(?P<quote>\$\w*\$)(?P<text>.*\n.*)(?P=quote)", re.DOTALL)
COMMENTS: Final = frozenset({TokenKind.LINE_COMMENT, TokenKind.BLOCK_COMMENT})
_MARKS: Final[Mapping[TokenKind, str]] = {
    TokenKind.STRING: "string",
    TokenKind.NUMBER: "number",
    TokenKind.LINE_COMMENT: "comment",
    TokenKind.BLOCK_COMMENT: "comment",
}


class Token(NamedTuple):
    """One token of a SQL text; `start` and `end` count characters from 0, `end` is past the last one.

    A named tuple, because a text has many and a frozen dataclass takes several times as long to make.
    """

    kind: TokenKind
    text: str
    start: int
    end: int


class ScanError(Exception):
    """The scanner refuses the text: an unterminated string, a character that cannot be sent.

    `offset` counts characters from 0. It is not raised outside runner.sql: its users convert it.
    """

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = " ".join(message.split())  # it may quote a piece of the text, with its line breaks
        self.offset = offset


#: White space to a reader, and a letter of a name to PostgreSQL: spaces that are not ASCII, and characters of no width.
INVISIBLE = re.compile(
    "[\\x85\\xa0\\xad\\u034f\\u115f\\u1160\\u1680\\u180e\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f"
    "\\u2800\\u3000\\u3164\\ufeff\\uffa0]"
)


def name_of(character: str) -> str:
    """Return a character's code point and name: `U+00A0 (NO-BREAK SPACE)`."""
    name = unicodedata.name(character, "")
    return f"U+{ord(character):04X} ({name})" if name else f"U+{ord(character):04X}"


def invisible_characters(text: str) -> tuple[int, ...]:
    """Return where invisible characters stand outside of strings, quoted names and comments."""
    if text.isascii() or not INVISIBLE.search(text):
        return ()
    hidden = iter(pieces(text))
    piece = next(hidden, None)
    found: list[int] = []
    for place in INVISIBLE.finditer(text):
        while piece is not None and piece.end <= place.start():
            piece = next(hidden, None)
        if piece is None or place.start() < piece.start:
            found.append(place.start())
    return tuple(found)


def check_characters(text: str) -> None:
    """Raise ScanError for what no PostgreSQL text can hold: NUL (the scanner would stop there) and lone surrogates."""
    nul = text.find("\0")
    if nul >= 0:
        raise ScanError("the text contains a NUL character, which PostgreSQL cannot hold", nul)
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ScanError("the text contains half of a surrogate pair, which is no character", error.start) from None


def character_offsets(text: str) -> Callable[[int], int]:
    """Return a function from an offset in the UTF-8 form of `text` to the offset of the same character in `text`."""
    if text.isascii():
        return lambda byte_offset: byte_offset
    # Only the characters that take more than a byte count; mostly there are few, and each is a marker of `parse`.
    ends: list[int] = []
    surplus = [0]
    for wide in _NOT_ASCII.finditer(text):
        extra = len(wide.group().encode()) - 1
        surplus.append(surplus[-1] + extra)
        ends.append(wide.end() + surplus[-1])

    def offset(byte_offset: int) -> int:
        index = bisect_right(ends, byte_offset)
        # Within a wide character, what counts is where it begins.
        start = ends[index] - (surplus[index + 1] - surplus[index]) - 1 if index < len(ends) else byte_offset
        return min(byte_offset, start) - surplus[index]

    return offset


def _error_offset(error: PgQueryError, text: str) -> int:
    """Return where in `text` the parser stopped; its cursor counts characters from 1, and 0 means "unknown"."""
    cursor: int = error.cursorpos
    return min(max(cursor - 1, 0), len(text))


def tokenize(text: str) -> tuple[Token, ...]:
    """Return the tokens of `text`, comments included.

    ScanError if it cannot be scanned.
    """
    text = readable(text)
    at = character_offsets(text)
    return tuple(_token(token, text, at) for token in _scan(text))


class Mark(NamedTuple):
    """A part of a SQL text to write in a colour; `kind` is `keyword`, `string`, `number`, `comment` or `name`."""

    start: int
    end: int
    kind: str


def highlights(text: str, *, bodies: bool = True) -> tuple[Mark, ...]:
    """Return what to highlight in a text, in order; nothing if it cannot be scanned.

    A word that can also be a name, such as `data`, counts as a keyword in capitals and at the start of a statement.
    With `bodies`, dollar-quoted text of several lines, such as the body of a DO block, is highlighted as SQL.
    """
    try:
        text = readable(text)
        scanned = _scan(text)
    except ScanError:
        return ()
    at = character_offsets(text)
    found: list[Mark] = []
    first = True
    for token in scanned:
        start, end = at(token.start), at(token.end)
        kind = _kind(token.token, token.keyword_kind)
        mark = _MARKS.get(kind)
        if kind is _WORD:
            mark = _mark_of_word(text[start:end], token.keyword_kind, first=first)
        body = _BODY.fullmatch(text, start, end) if bodies and mark == "string" else None
        if body is not None:
            inner = highlights(body["text"], bodies=False)
            found += (Mark(body.start("text") + one.start, body.start("text") + one.end, one.kind) for one in inner)
        elif mark is not None:
            found.append(Mark(start, end, mark))
        if kind not in COMMENTS:
            first = token.token == _SEMICOLON
    return tuple(found)


def _mark_of_word(word: str, keyword: int, *, first: bool) -> str | None:
    if word.startswith('"'):
        return "name"
    free = keyword == pg_query_pb2.UNRESERVED_KEYWORD and not first and not word.isupper()
    return None if keyword == _NO_KEYWORD or free else "keyword"


def readable(text: str) -> str:
    """Return what scanner and parser are given: without what is for psql, and without comments if there are many.

    They take too long for nested ones. ScanError for what no text can hold, and for a comment among many that is never
    closed.
    """
    check_characters(text)
    text = without_client_parts(text)
    if text.count("/*") <= MANY_COMMENTS:
        return text
    bare, unclosed = strip_comments(text)
    if unclosed is not None:
        raise ScanError("unterminated /* comment", unclosed)
    return bare


class AroundColon(NamedTuple):
    """A colon, as its offset, and what follows it without a space; `quoted` if a quote stands before or after the two.

    Before and after are the tokens there, whatever white space is in between.
    """

    colon: int
    name: Token
    quoted: bool


def around_colons(text: str) -> Iterator[AroundColon]:
    """Yield every colon that something follows without a space, in order; not `::` and `:=`, which are other tokens.

    Line comments are left out: to PostgreSQL they are white space, also within a string constant. ScanError as
    `tokenize` raises it. Only these tokens are looked at, because most texts have a hundred others.
    """
    text = readable(text)
    scanned = _scan(text)
    if "--" in text:
        scanned = [token for token in scanned if token.token != _LINE_COMMENT]
    at = character_offsets(text)
    last = len(scanned) - 1
    for found in _COLONS.finditer(text.encode()):
        index = bisect_left(scanned, found.start(), hi=last, key=_START)
        if index >= last:
            break
        colon, name = scanned[index], scanned[index + 1]
        if colon.token == _COLON and colon.start == found.start() and name.start == colon.end:
            before = index > 0 and text[at(scanned[index - 1].end) - 1] == "'"
            after = index + 1 < last and text[at(scanned[index + 2].start)] == "'"
            yield AroundColon(colon=at(colon.start), name=_token(name, text, at), quoted=before or after)


def _scan(text: str) -> Sequence[Any]:
    try:
        tokens: Sequence[Any] = scan(text).tokens
    except PgQueryError as error:
        raise ScanError(error.message, _error_offset(error, text)) from None
    return tokens


def _token(token: Any, text: str, at: Callable[[int], int]) -> Token:  # noqa: ANN401 - the parser has no usable types
    start, end = at(token.start), at(token.end)
    kind = _kind(token.token, token.keyword_kind)
    if kind is _WORD and text[start] == '"':
        kind = TokenKind.QUOTED_IDENTIFIER
    return Token(kind=kind, text=text[start:end], start=start, end=end)


@cache
def _kind(number: int, keyword: int) -> TokenKind:
    """Return what a token of the scanner's is; a quoted identifier is a word to the scanner.

    A character that stands for itself and that the grammar does not use, such as a brace, has no name there.
    """
    known = pg_query_pb2.Token.DESCRIPTOR.values_by_number.get(number)
    name = "" if known is None else known.name
    if name in _STRINGS:
        return TokenKind.STRING
    if name == "IDENT" or keyword != _NO_KEYWORD:
        return _WORD
    if name in {"ICONST", "FCONST"}:
        return TokenKind.NUMBER
    return {"SQL_COMMENT": TokenKind.LINE_COMMENT, "C_COMMENT": TokenKind.BLOCK_COMMENT}.get(name, TokenKind.OTHER)
