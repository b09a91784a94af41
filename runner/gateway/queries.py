"""Reads the .sql files in this folder: named blocks with a comment, so that all statements can be read in one place."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

from runner.engine.size_limits import VALUE_BYTES
from runner.plan.model import Hold
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


#: The search_path of measurements without a name of the plan.
PINNED_PATH = "pg_catalog, pg_temp"


def hold_text(hold: Hold) -> tuple[str, str | None]:
    """Return the SQL that measures a hold without SQL of its own, and its search_path; None: that of the session."""
    if hold.autovacuum_on:
        return _of_tables("hold_autovacuum_on", hold), None
    name = "active_sessions"
    if hold.replication_lag is not None:
        name = "replication_lag"
    elif hold.wal_to_archive is not None:
        name = "wal_to_archive"
    return _blocks()[f"hold_{name}"].strip(), PINNED_PATH


def missing_tables(hold: Hold) -> str:
    """Return the SQL that finds those tables of a hold that do not exist, with the search_path of the session."""
    return _of_tables("hold_missing_tables", hold)


def _of_tables(block: str, hold: Hold) -> str:
    return _blocks()[block].strip().replace("{tables}", quote_literal(json.dumps(hold.autovacuum_on)))


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
