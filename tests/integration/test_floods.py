"""A flood of notifications cannot keep the answers of the server from a run, nor hide a request."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import psycopg
import pytest

from runner.embedded import start_server
from runner.engine.ports import CancelRequest
from runner.errors import GatewayError
from runner.gateway.cancel_requests import CHANNEL, payload_of
from tests.integration.gateway_setups import RealSetup

RUN = "flooded-run"
REQUEST = CancelRequest(run=RUN, step=None, by="alice@laptop", key="1")


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A database of a server whose files are on the disk: in memory it sends faster than a session can read."""
    with start_server(progress=print) as server:
        yield server.dsn


@contextlib.contextmanager
def flood(dsn: str) -> Iterator[threading.Event]:
    """Notify as fast as possible, in transactions of many large notifications, until the event is set."""
    over = threading.Event()

    def send() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not over.is_set():
                connection.execute(
                    "SELECT pg_notify('jobplan', n || repeat('x', 7000)) FROM generate_series(1, 500) AS n"
                )

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield over
    finally:
        over.set()
        thread.join()


async def test_a_session_that_a_flood_keeps_busy_is_replaced_by_one_that_listens_later(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any delay counts here, so that it need not be a long one."""
    monkeypatch.setattr("runner.gateway.session.FLOODED_AFTER", 0.0)
    monkeypatch.setattr("runner.gateway.session.FLOOD", 10)
    monkeypatch.setattr("runner.gateway.monitor.DEAF_FOR", 1.0)
    async with RealSetup(database, RUN) as setup, asyncio.timeout(60):
        monitor = setup.gateway._monitor
        first = monitor._session
        with flood(database):
            while monitor._session is first:
                with contextlib.suppress(GatewayError):
                    await monitor.read("now")
                await asyncio.sleep(0.01)  # while it is lost, the call returns at once
            assert first is not None
            assert first.flooded
            await setup.gateway.look()  # it does not listen now, so it is not delayed
        with psycopg.connect(database, autocommit=True) as asker:
            asked = None
            while asked is None:
                asker.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload_of(REQUEST)))
                asked = setup.gateway.take_cancel(of_run=True)
                await asyncio.sleep(0.05)
        assert asked.key == "1"


async def test_a_request_is_received_during_a_flood_or_when_it_ends(database: str) -> None:
    """With the limits as they are. A session that cannot read as fast as the server sends has it after the flood."""
    async with RealSetup(database, RUN) as setup, asyncio.timeout(120):
        time = asyncio.get_running_loop().time
        with flood(database) as over, psycopg.connect(database, autocommit=True) as asker:
            end = time() + 10
            asked = None
            while asked is None:
                await asyncio.to_thread(asker.execute, "SELECT pg_notify(%s, %s)", (CHANNEL, payload_of(REQUEST)))
                asked = setup.gateway.take_cancel(of_run=True)
                await asyncio.sleep(0.05)
                if time() >= end:
                    over.set()
            assert asked.key == "1"
