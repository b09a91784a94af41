"""Limits in bytes for what is kept of a server's output: people read records, and a journal must stay small.

Each cut is reported: at the end of a text, and for rows in a separate number.
"""

from __future__ import annotations

from runner.engine.events import ErrorDetails, Rows
from runner.structs import replace

#: Bytes of the message, the detail and the context of an error, each.
TEXT_BYTES = 16_384
#: Bytes of one value of a captured row, and of all values together.
VALUE_BYTES = 65_536
ROWS_BYTES = 1_048_576


def limited_text(text: str, limit: int = TEXT_BYTES) -> str:
    """Return a text, or its beginning and the number of bytes that were left out."""
    if len(text) <= limit // 4:
        return text
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= limit:
        return text
    kept = data[:limit].decode("utf-8", "ignore")
    return f"{kept}… ({len(data) - len(kept.encode()):,} more bytes were left out)"


def limited_error(error: ErrorDetails) -> ErrorDetails:
    """Return an error with no text longer than `TEXT_BYTES`."""

    def cut(text: str | None) -> str | None:
        return None if text is None else limited_text(text)

    return replace(
        error,
        message=limited_text(error.message),
        detail=cut(error.detail),
        hint=cut(error.hint),
        context=cut(error.context),
    )


def limited_rows(rows: Rows) -> Rows:
    """Return rows with no value longer than `VALUE_BYTES`, and no more than `ROWS_BYTES` in total."""
    left, cut = ROWS_BYTES, rows.cut or 0
    kept: list[tuple[str | None, ...]] = []
    for row in rows.rows:
        values: list[str | None] = []
        for value in row:
            size = 0 if value is None else len(value.encode("utf-8", "surrogatepass"))
            room = min(VALUE_BYTES, left)
            if value is None or size <= room:
                values.append(value)
                left -= size
                continue
            beginning = value.encode("utf-8", "surrogatepass")[:room].decode("utf-8", "ignore")
            values.append(beginning)
            left -= len(beginning.encode())
            cut += size - len(beginning.encode())
        kept.append(tuple(values))
    return replace(rows, rows=tuple(kept), cut=cut or None)
