"""What acceptance tests ask for: the command, a database of their own, and a server with little room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.console import Database, Jobplan
from tests.servers import start_test_server


@pytest.fixture
def jobplan(tmp_path: Path) -> Iterator[Jobplan]:
    """The command, in an empty folder."""
    command = Jobplan(tmp_path)
    yield command
    command.close()


@pytest.fixture
def db(database: str) -> Iterator[Database]:
    """A database of the test's own."""
    connected = Database(database)
    yield connected
    connected.close()


@pytest.fixture(scope="session")
def small_server() -> Iterator[str]:
    """A superuser's connection, over TCP and with its password, to a server with room for three workers."""
    with start_test_server(max_worker_processes="4") as server:
        yield server.tcp_dsn
