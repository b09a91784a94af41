"""What tests of the gateway share: roles of their own, and small servers that may be filled up or restarted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from psycopg.conninfo import make_conninfo

from runner.embedded import EmbeddedServer, start_server
from tests.integration.houses import ask

_NUMBERS = itertools.count(1)


@pytest.fixture
def new_role(database: str) -> Iterator[Callable[..., str]]:
    """Make an ordinary role that may use pg_background and return its connection to this test's own database.

    `options` are those of CREATE ROLE; what follows are settings of ALTER ROLE … SET.
    """
    made: list[str] = []

    def make(options: str = "", *settings: str, grant: bool = True) -> str:
        name = f"jobplan_test_role_{next(_NUMBERS)}"
        ask(database, f"DROP ROLE IF EXISTS {name}")
        ask(database, f"CREATE ROLE {name} LOGIN {options}")
        made.append(name)
        if grant:
            ask(database, f"GRANT pgbackground_role TO {name}")
        ask(database, f"GRANT CREATE ON SCHEMA public TO {name}")
        for setting in settings:
            ask(database, f"ALTER ROLE {name} SET {setting}")
        return make_conninfo(database, user=name)

    yield make
    for name in made:
        ask(database, f"DROP OWNED BY {name} CASCADE")
        ask(database, f"DROP ROLE {name}")


@pytest.fixture(scope="session")
def small_server() -> Iterator[EmbeddedServer]:
    """A server of six workers, one of which is the logical replication launcher."""
    with start_server(progress=print, settings={"max_worker_processes": "6", "max_parallel_workers": "0"}) as server:
        yield server


@pytest.fixture
def frail_server() -> Iterator[EmbeddedServer]:
    """A server that a test may restart and crash."""
    with start_server(progress=print) as server:
        yield server
