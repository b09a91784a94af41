"""What every test may ask for: a real server with the real extension, and databases of its own on it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg.conninfo import make_conninfo

from runner.embedded import start_server
from runner.plan.version_ranges import version_fits

_NUMBERS = itertools.count(1)

# A busy machine makes no example wrong.
settings.register_profile("jobplan", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("jobplan")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--test-dsn",
        help="libpq connection of a superuser on a PostgreSQL server with pg_background; without it, tests start one",
    )


@pytest.fixture(scope="session")
def server_dsn(request: pytest.FixtureRequest) -> Iterator[str]:
    """A superuser's connection to a real server with pg_background: the given one, or one of our own."""
    given = request.config.getoption("--test-dsn")
    if given:
        yield given
        return
    # Each test that changes something has a database of its own, and autovacuum would visit all of them every minute.
    server = start_server(progress=print, settings={"autovacuum_naptime": "1h"})
    yield server.dsn
    server.stop("immediate")  # without a checkpoint of all databases, which are removed now


@pytest.fixture(scope="session")
def server_version(server_dsn: str) -> str:
    """The version of the server that the tests use, such as `18.1`."""
    return _version_of(server_dsn)


def _version_of(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    assert row is not None
    return str(row[0])


def _unmet(marker: pytest.Mark, version: str) -> str | None:
    """Return why a test with this mark cannot run on a server of a version, None if it can."""
    (versions,) = marker.args
    reason = marker.kwargs["reason"]
    return None if version_fits(version, versions) else f"needs PostgreSQL {versions}: {reason} (this is {version})"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put files with slow tests first, so that no process works on one of them alone at the end.

    Skip the tests for other versions than that of the given server, before their fixtures ask anything of it.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    marked = [(item, marker) for item in items for marker in item.iter_markers("pg")]
    given = config.getoption("--test-dsn")
    if not given or not marked:
        return
    version = _version_of(given)
    for item, marker in marked:
        reason = _unmet(marker, version)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _right_version(request: pytest.FixtureRequest) -> None:
    """Skip the tests for other versions than that of the server that the tests have started."""
    for marker in request.node.iter_markers("pg"):
        reason = _unmet(marker, request.getfixturevalue("server_version"))
        if reason is not None:
            pytest.skip(reason)


@pytest.fixture(scope="session")
def new_database(server_dsn: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """Make an empty database with the extension and return its connection.

    On a given server all are dropped at the end; a server that the tests have started is removed with them.
    """
    made: list[str] = []

    def make() -> str:
        name = f"jobplan_test_{os.getpid()}_{next(_NUMBERS)}"  # two test runs may share a given server
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}")
        made.append(name)
        dsn = make_conninfo(server_dsn, dbname=name)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_background")
        return dsn

    yield make
    if not request.config.getoption("--test-dsn"):
        return
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def dsn(new_database: Callable[[], str]) -> str:
    """A database that tests share when they leave nothing behind in it."""
    return new_database()


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    """A database of this test's own."""
    return new_database()
