"""Catalogs and TOAST tables: the commands on them that a dry run refuses are those that the server refuses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import psycopg
import pytest

from runner.cli.dry_run import look, read_to_look
from runner.cli.options import ParameterValues
from runner.preflight.dry_run import DryRunOptions
from runner.run.api import run_plan
from tests.integration.dry_runs import errors

HEAD = "version: 1\nname: p\nbudget: {slots: 1}\ndefaults: {timeout: 1m, lock_timeout: 5s, on_finish: wait}\nsteps:\n"


@pytest.fixture
def toast(database: str) -> str:
    """The name of the TOAST table of a table `t`."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int, c text)")
        row = connection.execute("SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 't'").fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.parametrize(
    ("sql", "settings", "fails"),
    [
        ("REINDEX TABLE CONCURRENTLY {toast}", {}, False),
        ("REINDEX INDEX CONCURRENTLY {toast}_index", {}, False),
        ("VACUUM {toast}", {}, False),
        ("REINDEX TABLE CONCURRENTLY pg_class", {}, True),
        ("REINDEX TABLE CONCURRENTLY pg_toast.pg_toast_1255", {}, True),
        ("REINDEX TABLE pg_class", {}, False),
        ("VACUUM pg_class", {}, False),
        ("ANALYZE pg_class", {}, False),
        ("CREATE INDEX ON pg_description (description)", {}, True),
        ("ALTER TABLE pg_description SET (fillfactor = 90)", {}, True),
        ("ALTER TABLE pg_description SET (fillfactor = 90)", {"allow_system_table_mods": "on"}, False),
        ("TRUNCATE pg_description", {}, True),
        ("DROP TABLE pg_description", {}, True),
        ("ALTER TABLE pg_description RENAME TO d", {}, True),
        ("ALTER TABLE information_schema.sql_features SET (fillfactor = 90)", {}, False),
    ],
)
def test_what_catalogs_refuse_is_an_error_and_nothing_else(
    tmp_path: Path, database: str, toast: str, sql: str, settings: dict[str, str], fails: bool
) -> None:
    path = tmp_path / "plan.yaml"
    step = {"id": "a", "sql": sql.format(toast=toast), **({"settings": settings} if settings else {})}
    path.write_text(f"{HEAD}  - {json.dumps(step)}\n", encoding="utf-8")
    readable = read_to_look(path, ParameterValues(given={}, params_file=None, environment={}))
    dry = asyncio.run(look(readable.plan, database, DryRunOptions(found=readable.found)))
    assert bool(errors(dry)) is fails
    assert (run_plan(readable.plan, dsn=database, sinks=[], ledger=None).exit_code != 0) is fails
