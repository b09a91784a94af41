"""The scanner: tokens of SQL text, its comments, and its psql meta-commands.

PostgreSQL's own scanner returns byte offsets, while editors and plans count characters; all other modules count
characters only. Only this module knows the scanner's token names.

Comments are replaced by white space of the same length before a text is scanned: libpg_query hands them to its grammar
as tokens, so a comment inside a token of two words (`NOT -- why` and `IN` on the next line), or between two parts of a
string constant, is a syntax error for the parser but not for a server. The parser's time for nested comments also
grows with the square of the depth; here they are found in linear time, as scan.l does: not in strings, quoted
identifiers and dollar quotes.

A worker runs SQL without psql, so neither psql's commands nor the data behind `COPY … FROM stdin` can run. All of them
are found at once, and the SQL around them is read as if they were absent.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from postgast import PgQueryError, pg_query_pb2, scan

from runner.structs import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


#: A text with more comment starts than this is parsed without its comments.
MANY_COMMENTS = 200

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
_NO_BREAK = re.compile(r"[^\n\r]")


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
            parts += (text[done : piece.start], _NO_BREAK.sub(" ", text[piece.start : position]))
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


def pieces(text: str, position: int = 0, before: int | None = None) -> Iterator[Piece]:
    """Yield the pieces that begin between two places, one after the other."""
    last = len(text) if before is None else before
    while (found := _PIECE.search(text, position)) is not None and found.start() < last:
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


_COMMAND = re.compile(r"\\(?:[A-Za-z]+\+?|[?!;.\\])")
#: Commands whose argument is the rest of the line, backslashes included.
_WHOLE_LINE = frozenset({"\\copy", "\\!", "\\w", "\\write", "\\o", "\\out", "\\echo", "\\qecho", "\\warn", "\\prompt"})
#: Commands that send the query before them, as a semicolon does.
_SENDS = frozenset({"\\g", "\\gx", "\\gexec", "\\gset", "\\gdesc", "\\watch", "\\crosstabview", "\\;"})
_LINE_END = re.compile(r"[\n\r]|\Z")
_DATA_END = re.compile(r"^\\\.[ \t]*$", re.MULTILINE)
_FROM_STDIN = re.compile(r"\s*COPY\b.*\bFROM\s+STDIN\b", re.IGNORECASE | re.DOTALL)
_AFTER_STATEMENT = re.compile(r"[ \t]*\r?\n")

_VARIABLE = "declare it in `params`, and write :'name', :\"name\" or :name"
_FORMAT = "leave it out: nothing is printed; `capture` keeps rows for the report"
_FILE = "use `sql_file`, in a step of its own for each file, or `include` for a file with steps"
_CONDITION = "give a step of its own an `if: SELECT …`"
_CATALOG = "query the catalog: `psql -E` shows the query behind the command"
_SAY = "leave it out, or RAISE NOTICE in a DO block: the report shows the step's `description` and its notices"
_DATABASE = "a run works in one database: name it with --dsn, and make other databases plans of their own"
#: What the plan language has instead, by command.
_INSTEAD: Final[Mapping[str, str]] = {
    **dict.fromkeys(("\\set", "\\unset", "\\prompt", "\\bind", "\\bind_named", "\\parse"), _VARIABLE),
    "\\gset": "use `for_each: {sql: <this query>, as: x}`: its columns are :'x.column' in the step's `sql`",
    "\\gexec": (
        "use `for_each: {sql: <a query for the names>, as: x}`, and write the statement that it builds in `sql`, with "
        ':"x" or :"x.column" for a name'
    ),
    "\\copy": "COPY with a file or PROGRAM of the server; a file of the client is loaded with psql before the run",
    **dict.fromkeys(("\\i", "\\ir", "\\include", "\\include_relative"), _FILE),
    **dict.fromkeys(("\\if", "\\elif", "\\else", "\\endif"), _CONDITION),
    "\\watch": "use `repeat: {until: …, pause: …, max_iterations: …}`",
    **dict.fromkeys(("\\c", "\\connect"), _DATABASE),
    **dict.fromkeys(("\\g", "\\gx"), "write a semicolon; `capture` keeps rows for the report"),
    **dict.fromkeys(("\\gdesc", "\\crosstabview", "\\;"), "write a semicolon"),
    **dict.fromkeys(("\\o", "\\out"), "use `capture`, which keeps rows for the report"),
    **dict.fromkeys(("\\echo", "\\qecho", "\\warn"), _SAY),
    "\\!": "run the command outside of the plan; COPY … PROGRAM runs one on the server",
    **dict.fromkeys(("\\q", "\\quit"), "leave it out: a step ends with its text"),
    "\\timing": "leave it out: the report has the time of every step",
    **dict.fromkeys(("\\x", "\\a", "\\t", "\\f", "\\pset"), _FORMAT),
    "\\encoding": "leave it out: a plan and its files are UTF-8",
    "\\password": "ALTER ROLE … PASSWORD with a hash, outside of the plan",
    "\\.": "it ends the data of a COPY … FROM stdin, which a worker cannot read",
}
_OTHERWISE = "leave it out, or write the SQL that it stands for"
_OF_PSQL = "leave it out: a step is one transaction, which ends at its first error"


class ClientPart(Struct, frozen=True, kw_only=True):
    """A part of a text that is for psql: a command with its arguments, or the data of a COPY if `command` is None.

    `start` and `end` count characters, `hint` says what a plan has instead.
    """

    command: str | None
    start: int
    end: int
    hint: str


def client_parts(text: str) -> tuple[ClientPart, ...]:
    """Return the psql meta-commands, in the order of the text."""
    return _parts(text) if "\\" in text else ()


def without_client_parts(text: str) -> str:
    """Return the text with psql meta-commands replaced by spaces; one that sends a query becomes a semicolon."""
    done = 0
    kept: list[str] = []
    for part in client_parts(text):
        blank = _NO_BREAK.sub(" ", text[part.start : part.end])
        if part.command in _SENDS:
            blank = f";{blank[1:]}"
        kept += (text[done : part.start], blank)
        done = part.end
    return "".join(kept) + text[done:] if kept else text


@lru_cache(maxsize=256)
def _parts(text: str) -> tuple[ClientPart, ...]:
    return tuple(_find(text))


def _find(text: str) -> Iterator[ClientPart]:
    """Go through the text once: each string and comment is looked for once, and each semicolon or backslash."""
    position = statement = 0
    piece: Piece | None = None
    looked_from = -1
    last_data_end = text.rfind("\\.")
    while (mark := _MARK.search(text, position)) is not None:
        at = mark.start()
        if looked_from < 0 or (piece is not None and piece.start < position):
            piece, looked_from = next(pieces(text, position), None), position
        if piece is not None and piece.start < at:
            position = piece.end
            continue
        if text[at] == ";":
            position = at + 1
            if position < last_data_end and _FROM_STDIN.match(without_comments(text[statement:at])):
                data = _data(text, position)
                if data is not None:
                    yield ClientPart(command=None, start=data[0], end=data[1], hint="")
                    position = data[1]
            statement = position
            continue
        part = _command(text, at)
        position = at + 1 if part is None else part.end
        if part is not None and part.command != "\\\\":
            yield part
            statement = position if part.command in _SENDS else statement


_MARK = re.compile(r"[;\\]")


def _command(text: str, at: int) -> ClientPart | None:
    """Return the command at a backslash, with its arguments: to the next command or the end of the line."""
    found = _COMMAND.match(text, at)
    if found is None:
        return None
    name = found.group().removesuffix("+")
    line_end = _line_end(text, found.end())
    end = line_end
    if name in {"\\;", "\\\\"}:
        end = found.end()
    elif name not in _WHOLE_LINE:
        following = re.compile(r"(?<=\s)\\[A-Za-z]+|\\\\").search(text, found.end(), line_end)
        end = following.start() if following is not None else line_end
    hint = _INSTEAD.get(name) or (_CATALOG if name.startswith(("\\d", "\\l", "\\s", "\\z")) else _OTHERWISE)
    if name in {"\\set", "\\unset"} and re.match(r"\s+[A-Z_]+\b", text[found.end() : end]):
        hint = _OF_PSQL
    return ClientPart(command=name, start=at, end=end, hint=hint)


def _line_end(text: str, position: int) -> int:
    found = _LINE_END.search(text, position)
    return found.start() if found is not None else len(text)


def _data(text: str, position: int) -> tuple[int, int] | None:
    r"""Return where the data of a COPY begins and ends, the line `\.` included; None if there are none."""
    line = _AFTER_STATEMENT.match(text, position)
    if line is None:
        return None
    end = _DATA_END.search(text, line.end())
    return (line.end(), end.end()) if end is not None else None


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


def error_offset(error: PgQueryError, text: str) -> int:
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
        raise ScanError(error.message, error_offset(error, text)) from None
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
