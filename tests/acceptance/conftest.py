"""What acceptance tests ask for: the command, a database of their own, and a server with little room."""

from __future__ import annotations

import os
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


@pytest.fixture
def done(db: Database) -> Database:
    """A database with a table that steps write to, and a table that keeps them waiting while it is locked."""
    db.run("CREATE TABLE done (step text); CREATE TABLE gate ()")
    return db


@pytest.fixture
def mallory(db: Database) -> Iterator[str]:
    """The name of a role that may create schemas in the database and use pg_background."""
    name = f"mallory_{os.getpid()}"
    db.run(f"DROP ROLE IF EXISTS {name}")
    db.run(f"CREATE ROLE {name} LOGIN")
    db.run(f"GRANT CREATE ON DATABASE {db.value('SELECT current_database()')} TO {name}")
    db.run(f"GRANT pgbackground_role TO {name}")
    yield name
    db.run(f"ALTER ROLE {name} NOSUPERUSER")
    db.run(f"DROP OWNED BY {name} CASCADE")
    db.run(f"DROP ROLE {name}")


@pytest.fixture(scope="session")
def small_server() -> Iterator[str]:
    """A superuser's connection, over TCP and with its password, to a server with room for three workers."""
    with start_test_server(max_worker_processes="4") as server:
        yield server.tcp_dsn
