"""A path that delivers nothing in mid-session: what asks for the ledger, and what only looks, gives up in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import psycopg
import pytest

from runner.errors import JobplanError
from runner.gateway.inspection import Inspector
from runner.gateway.ledger.admin import LedgerAdmin
from runner.gateway.observer import Observer
from tests.integration.gateway_setups import ask, until
from tests.tunnel import Tunnel

ADMIN: dict[str, Callable[[LedgerAdmin], object]] = {
    "status": lambda admin: admin.status(),
    "install": lambda admin: admin.install("0"),
    "upgrade": lambda admin: admin.upgrade("0"),
    "purge": lambda admin: admin.purge(0.0),
    "read": lambda admin: admin.read("last"),
    "remove": lambda admin: admin.remove(),
}
WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def tunnel(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tunnel]:
    """A tunnel to a database with a ledger; a second or two of silence is too long."""
    monkeypatch.setattr("runner.gateway.session.ANSWER_WITHIN", 1.0)
    monkeypatch.setattr("runner.gateway.inspection.LONG_ANSWER_WITHIN", 1.0)
    monkeypatch.setattr("runner.gateway.session.RECONNECT_FOR", 2.0)
    monkeypatch.setattr("runner.gateway.ledger.admin.ANSWER_WITHIN", 2.0)
    monkeypatch.setattr("runner.gateway.ledger.admin.LONG_ANSWER_WITHIN", 2.0)
    LedgerAdmin(database, "jobplan").install("0")
    made = Tunnel(database)
    yield made
    made.close()


@pytest.mark.parametrize("what", ADMIN)
async def test_a_path_that_stalls_keeps_no_ledger_command_waiting(database: str, tunnel: Tunnel, what: str) -> None:
    with psycopg.connect(database) as keeper:
        keeper.execute("SELECT pg_advisory_xact_lock(hashtextextended('jobplan:ledger', 0))")
        task = asyncio.create_task(asyncio.to_thread(ADMIN[what], LedgerAdmin(tunnel.dsn, "jobplan")))
        await until(lambda: ask(database, WAITING))
        tunnel.stall()
        with pytest.raises(JobplanError, match="has not answered for 2 seconds"):
            await asyncio.wait_for(task, 20)


@pytest.mark.parametrize("what", ["dry run", "status"])
async def test_a_stalled_path_does_not_block_commands_that_only_read(tunnel: Tunnel, what: str) -> None:
    if what == "dry run":
        inspector = await Inspector.connect(tunnel.dsn, "jobplan doctor")
        tunnel.stall()
        with pytest.raises(JobplanError, match="has not answered for 1 seconds"):
            await asyncio.wait_for(inspector.facts(), 20)
        await inspector.close()
        return
    observer = await Observer.connect(tunnel.dsn, ledger="jobplan")
    tunnel.stall()
    with pytest.raises(JobplanError):
        await asyncio.wait_for(observer.look(), 40)
    assert await asyncio.wait_for(observer.recorded(["any"]), 20) == {}
    await observer.close()
