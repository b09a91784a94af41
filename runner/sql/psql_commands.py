"""Commands of psql in SQL text, the data of COPY … FROM stdin, and what a plan has instead of each command.

A worker runs SQL without psql, so neither psql's commands nor the data behind `COPY … FROM stdin` can run. All of them
are found at once, and the SQL around them is read as if they were absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

from runner.sql.comments import NO_BREAK, Piece, pieces, without_comments
from runner.structs import Struct

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


@lru_cache(maxsize=256)
def client_parts(text: str) -> tuple[ClientPart, ...]:
    """Return the psql meta-commands, in the order of the text."""
    return tuple(_find(text)) if "\\" in text else ()


def without_client_parts(text: str) -> str:
    """Return the text with psql meta-commands replaced by spaces; one that sends a query becomes a semicolon."""
    done = 0
    kept: list[str] = []
    for part in client_parts(text):
        blank = NO_BREAK.sub(" ", text[part.start : part.end])
        if part.command in _SENDS:
            blank = f";{blank[1:]}"
        kept += (text[done : part.start], blank)
        done = part.end
    return "".join(kept) + text[done:] if kept else text


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
