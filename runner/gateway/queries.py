"""Reads the .sql files in this folder: named blocks with a comment, so that all statements can be read in one place."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

from runner.engine.size_limits import VALUE_BYTES
from runner.sql.placeholders import quote_literal

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)

#: Replaced by the block `trusted` in other blocks.
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
    """Remove the comments, so that pg_stat_activity shows the query itself."""
    return "\n".join(line for line in body.splitlines() if line and not line.startswith("--"))


def query(name: str, *, extension_schema: str = "", ledger: str = "", trusted: Sequence[str] = ()) -> bytes:
    """Return the named block with its placeholders replaced; the names of schemas are quoted already.

    "{writers}" becomes the roles whose ledger rows are trusted: the session's own, superusers and those in `trusted`.
    The part of the name after a colon replaces "{columns}": a column definition list, as the server wrote it. KeyError
    if no block has that name.
    """
    block, _, columns = name.partition(":")
    text = _blocks()[block].replace("{ext}", extension_schema).replace("{columns}", columns)
    if "{outputs}" in text:
        text = text.replace("{outputs}", _outputs(columns))
    if _TRUSTED in text:
        text = text.replace(_TRUSTED, _blocks()["trusted"])
    text = text.replace("{ledger}", ledger)
    return text.replace("{writers}", _writers(trusted)).encode() if "{writers}" in text else text.encode()


def _outputs(columns: str) -> str:
    """Return expressions that write the columns of a definition list `c0 …, c1 …` as text, without trailing ones.

    The last expression counts the bytes that were cut. `num_nulls` is used because IS NULL is also true for a row whose
    columns are all null.
    """
    first = 0 if columns.startswith("c0 ") else 1
    names: list[str] = []
    while re.search(rf"(?:^|, )c{first + len(names)} ", columns):
        names.append(f"r.c{first + len(names)}")
    written = [f"CASE WHEN num_nulls({name}) = 0 THEN left(format('%s', {name}), {VALUE_BYTES}) END" for name in names]
    cut = (
        f"octet_length(format('%s', {name})) - octet_length(left(format('%s', {name}), {VALUE_BYTES}))"
        for name in names
    )
    return ", ".join([*written, " + ".join(cut) or "0"])


def _writers(trusted: Sequence[str]) -> str:
    return _blocks()["ledger_trusted_writers"].strip().replace("{roles}", quote_literal(json.dumps(sorted(trusted))))
