"""Reads the .sql files beside it: named, described blocks, so that all that is asked of a server can be read there."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)

#: Stands for the block `trusted` in other blocks.
_TRUSTED = "{trusted}"


@cache
def _blocks() -> dict[str, str]:
    files = (file for file in resources.files("runner.gateway").iterdir() if file.name.endswith(".sql"))
    blocks: dict[str, str] = {}
    for file in files:
        parts = _NAME.split(file.read_text(encoding="utf-8"))[1:]
        blocks |= {name: _strip_comments(body) for name, body in zip(parts[::2], parts[1::2], strict=True)}
    return blocks


def _strip_comments(body: str) -> str:
    """Drop the description: a DBA who looks at pg_stat_activity sees the query at once."""
    return "\n".join(line for line in body.splitlines() if line and not line.startswith("--"))


def query(name: str, *, extension_schema: str = "", ledger: str = "") -> bytes:
    """Return the named block; the extension's schema and the `ledger`'s are already quoted.

    KeyError if there is none of that name.

    What follows a colon in the name stands for "{columns}": a column definition list, as the server wrote it.
    """
    block, _, columns = name.partition(":")
    text = _blocks()[block].replace("{ext}", extension_schema).replace("{columns}", columns)
    if _TRUSTED in text:
        text = text.replace(_TRUSTED, _blocks()["trusted"])
    return text.replace("{ledger}", ledger).encode()
