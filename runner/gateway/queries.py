"""Reads `queries.sql`: named, described blocks, so that what jobplan asks of a server can be read in one place."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def _blocks() -> dict[str, str]:
    text = resources.files("runner.gateway").joinpath("queries.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    return {name: _strip_comments(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}


def _strip_comments(body: str) -> str:
    """Drop the description: a DBA who looks at pg_stat_activity sees the query at once."""
    return "\n".join(line for line in body.splitlines() if line and not line.startswith("--"))


def query(name: str, *, extension_schema: str = "") -> bytes:
    """Return the named block; `extension_schema` is already quoted. KeyError if there is none of that name.

    What follows a colon in the name stands for "{columns}": a column definition list, as the server wrote it.
    """
    block, _, columns = name.partition(":")
    return _blocks()[block].replace("{ext}", extension_schema).replace("{columns}", columns).encode()
