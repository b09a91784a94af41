"""Limits that interrupt a session's first statements: it is prepared anew or refused, never used half prepared."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from runner.errors import JobplanError
from runner.gateway.inspection import Inspector
from runner.gateway.ledger.admin import LedgerAdmin
from runner.gateway.observer import Observer
from runner.gateway.postgres import PgGateway
from runner.gateway.queries import query
from tests.integration.gateway_setups import ask, value

#: Functions of an owner's schema that comes first in the search_path: each leaves a trace of who has called it.
TRAPS = {
    "count(a bigint)": "bigint",
    "pg_is_in_recovery()": "boolean",
    "clock_timestamp()": "timestamptz",
    "pg_postmaster_start_time()": "timestamptz",
    "current_setting(a text)": "text",
    "unnest(a text[])": "text",
}


async def _gateway(dsn: str) -> None:
    gateway = PgGateway(dsn, "trapped")
    try:
        await gateway.open()
    finally:
        await gateway.close()


async def _observer(dsn: str) -> None:
    observer = await Observer.connect(dsn, ledger="jobplan")
    try:
        await observer.look()
        await observer.recorded(["any"])
    finally:
        await observer.close()


async def _inspector(dsn: str) -> None:
    inspector = await Inspector.connect(dsn, "jobplan doctor")
    try:
        await inspector.facts()
    finally:
        await inspector.close()


async def _admin(dsn: str) -> None:
    await asyncio.to_thread(LedgerAdmin(dsn, "jobplan").status)


SESSIONS: dict[str, Callable[[str], Awaitable[None]]] = {
    "run": _gateway,
    "status": _observer,
    "dry run": _inspector,
    "ledger": _admin,
}


@pytest.fixture
def trapped(database: str) -> str:
    """A database whose owner's schema comes first in search_path, with functions that leave a trace."""
    name = value(database, "SELECT current_database()")
    ask(database, "CREATE TABLE public.traces (what text)")
    ask(database, "CREATE SEQUENCE public.called")  # nextval is not undone by a rollback
    ask(database, "CREATE SCHEMA trap")
    for signature, result in TRAPS.items():
        ask(
            database,
            f"CREATE FUNCTION trap.{signature} RETURNS {result} LANGUAGE plpgsql AS $f$ BEGIN"
            " PERFORM pg_catalog.nextval('public.called'); RETURN NULL; END $f$",
        )
    ask(database, f"ALTER DATABASE {name} SET search_path = trap, pg_catalog")
    return database


def calls(dsn: str) -> bool:
    """Say whether a function of the trap was called."""
    return bool(value(quiet(dsn), "SELECT is_called FROM public.called"))


def quiet(dsn: str) -> str:
    """Return a connection that what the database sets does not reach."""
    return make_conninfo(dsn, options="-c statement_timeout=0 -c search_path=pg_catalog")


@pytest.mark.parametrize("kind", SESSIONS)
@pytest.mark.parametrize("fails", ["once", "always"])
async def test_a_session_whose_search_path_could_not_be_pinned_is_not_used(
    trapped: str, monkeypatch: pytest.MonkeyPatch, kind: str, fails: str
) -> None:
    """`statement_timeout = 1ms` can end the statement that pins it; here a division by zero does, once or always."""
    pin = query("pin").decode()
    condition = "nextval('public.pins') > 1" if fails == "once" else "nextval('public.pins') < 0"
    ask(trapped, "CREATE SEQUENCE public.pins")
    broken = pin + f" WHERE 1 / (CASE WHEN pg_catalog.{condition} THEN 1 ELSE 0 END) OPERATOR(pg_catalog.=) 1"

    def replaced(name: str, **keys: Any) -> bytes:
        return broken.encode() if name == "pin" else query(name, **keys)

    for module in ("observer", "inspection", "postgres", "ledger.admin"):
        monkeypatch.setattr(f"runner.gateway.{module}.query", replaced)
    if fails == "once" and kind != "ledger":
        await SESSIONS[kind](trapped)
    else:
        with pytest.raises(JobplanError):
            await SESSIONS[kind](trapped)
    assert not calls(trapped)


@pytest.mark.parametrize("kind", SESSIONS)
async def test_a_limit_of_a_millisecond_calls_nothing_of_the_database_s_owner(trapped: str, kind: str) -> None:
    name = value(trapped, "SELECT pg_catalog.current_database()")
    ask(trapped, f"ALTER DATABASE {name} SET statement_timeout = '1ms'")
    for _ in range(5):
        with contextlib.suppress(JobplanError):
            await SESSIONS[kind](trapped)
    assert not calls(trapped)
