"""What every test may ask for: a real server with the real extension, and databases of its own on it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import sys
from collections.abc import Callable, Generator, Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner.plan.version_ranges import version_fits
from tests.servers import file_copy, start_test_server

_NUMBERS = itertools.count(1)

# Without compiled files, each process would compile all tests, and each command that a test starts all of jobplan.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# In a job of GitHub Actions or GitLab, commands write annotations and use its paths: each test sets what it needs.
for _name in [name for name in os.environ if name.startswith(("GITHUB_", "CI_PROJECT_DIR"))]:
    del os.environ[_name]

# A busy machine makes no example wrong. The same examples each time, but with `--hypothesis-profile explore`.
settings.register_profile(
    "jobplan", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("jobplan"), derandomize=False)
settings.load_profile("jobplan")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--test-dsn",
        help="libpq connection of a superuser on a PostgreSQL server with pg_background; without it, tests start one",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are collected: ten thousand of them stay until the end, and are no garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def server_dsn(request: pytest.FixtureRequest) -> Iterator[str]:
    """A superuser's connection to a real server with pg_background: the given one, or one of our own."""
    given = request.config.getoption("--test-dsn")
    if given:
        yield given
        return
    server = start_test_server()
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


def unmet(marker: pytest.Mark, version: str) -> str | None:
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
        reason = unmet(marker, version)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _right_version(request: pytest.FixtureRequest) -> None:
    """Skip the tests for other versions than that of the server that the tests have started."""
    for marker in request.node.iter_markers("pg"):
        reason = unmet(marker, request.getfixturevalue("server_version"))
        if reason is not None:
            pytest.skip(reason)


class Databases:
    """Makes empty databases with the extension, and drops them again."""

    def __init__(self, server_dsn: str, *, has_extension: bool) -> None:
        self._dsn = server_dsn
        self._has_extension = has_extension
        self._server = psycopg.connect(server_dsn, autocommit=True)
        self._strategy = file_copy(self._server)
        self._made: list[str] = []

    def make(self) -> str:
        """Return the connection of a new one."""
        name = f"jobplan_test_{os.getpid()}_{next(_NUMBERS)}"  # two test runs may share a given server
        self._drop(name)
        self._server.execute(f"CREATE DATABASE {name} {self._strategy}".encode())
        self._made.append(name)
        dsn = make_conninfo(self._dsn, dbname=name)
        if not self._has_extension:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("CREATE EXTENSION IF NOT EXISTS pg_background")
        return dsn

    def drop(self, dsn: str) -> None:
        """Drop one that `make` has returned. One that is still in use is left to `close`."""
        name = str(conninfo_to_dict(dsn)["dbname"])
        with contextlib.suppress(psycopg.errors.ObjectInUse):
            self._drop(name)
            self._made.remove(name)

    def close(self) -> None:
        """Drop all that are left."""
        for name in self._made:
            self._drop(name)
        self._server.close()

    def _drop(self, name: str) -> None:
        self._server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())


@pytest.fixture(scope="session")
def _databases(server_dsn: str, request: pytest.FixtureRequest) -> Iterator[Databases]:
    given = bool(request.config.getoption("--test-dsn"))
    databases = Databases(server_dsn, has_extension=not given)  # those of our own server have it from their template
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def new_database(_databases: Databases) -> Callable[[], str]:
    """Make an empty database with the extension, for all tests that want it, and return its connection."""
    return _databases.make


@pytest.fixture(scope="session")
def dsn(new_database: Callable[[], str]) -> str:
    """A database that tests share when they leave nothing behind in it."""
    return new_database()


@pytest.fixture
def database(_databases: Databases) -> Iterator[str]:
    """A database of this test's own."""
    dsn = _databases.make()
    yield dsn
    _databases.drop(dsn)
