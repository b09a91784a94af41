"""What tests share: roles of their own, small servers that may be filled up or restarted, and a shop to look at."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner import load_plan, run_plan
from runner.embedded import EmbeddedServer
from tests.acceptance.console import Jobplan
from tests.integration.dry_runs import PLANS, ROLE
from tests.integration.gateway_setups import ask
from tests.servers import file_copy, start_test_server

_NUMBERS = itertools.count(1)


@pytest.fixture
def new_role(database: str) -> Iterator[Callable[..., str]]:
    """Make an ordinary role that may use pg_background and return its connection to this test's own database.

    `options` are those of CREATE ROLE; what follows are settings of ALTER ROLE … SET.
    """
    made: list[str] = []

    def make(options: str = "", *settings: str, grant: bool = True) -> str:
        name = f"jobplan_test_role_{os.getpid()}_{next(_NUMBERS)}"  # two test runs may share a given server
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
    with start_test_server(max_worker_processes="6", max_parallel_workers="0") as server:
        yield server


@pytest.fixture
def frail_server() -> Iterator[EmbeddedServer]:
    """A server that a test may restart and crash."""
    with start_test_server() as server:
        yield server


@pytest.fixture
def jobplan(tmp_path: Path) -> Iterator[Jobplan]:
    """The command, in an empty folder."""
    command = Jobplan(tmp_path)
    yield command
    command.close()


@pytest.fixture(scope="session")
def shop(new_database: Callable[[], str]) -> str:
    """A database in which every plan of the project has run."""
    dsn = new_database()
    ask(dsn, "CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))")
    for name in ("quickstart", "refresh-reports", "partition-rotation", "batched-backfill", "nightly-maintenance"):
        params = {"orders": "500"} if name == "quickstart" else {}
        assert run_plan(load_plan(PLANS / f"{name}.yaml", params=params), dsn=dsn).exit_code == 0
        ask(
            dsn,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE backend_type = 'pg_background' AND datname = current_database()",
        )
    ask(dsn, "ALTER TABLE shop.orders ADD FOREIGN KEY (customer_id) REFERENCES shop.customers")
    return dsn


@pytest.fixture
def copy(shop: str, server_dsn: str) -> Iterator[str]:
    """A copy of the shop that a test may break."""
    name = f"jobplan_test_copy_{os.getpid()}_{next(_NUMBERS)}"
    with psycopg.connect(server_dsn, autocommit=True) as server:
        template = f"TEMPLATE {conninfo_to_dict(shop)['dbname']} {file_copy(server)}"
        server.execute(f"CREATE DATABASE {name} {template}".encode())
        yield make_conninfo(server_dsn, dbname=name)
        server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def reviewed(copy: str) -> Iterator[str]:
    """A connection of a role that may read and change rows of the shop, and nothing else."""
    for sql in (
        f"DROP ROLE IF EXISTS {ROLE}",
        f"CREATE ROLE {ROLE} LOGIN",
        f"GRANT pgbackground_role, pg_read_all_stats TO {ROLE}",
        f"GRANT USAGE ON SCHEMA shop TO {ROLE}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA shop TO {ROLE}",
    ):
        ask(copy, sql)
    yield make_conninfo(copy, user=ROLE)
    ask(copy, f"DROP OWNED BY {ROLE} CASCADE")
    ask(copy, f"DROP ROLE {ROLE}")
