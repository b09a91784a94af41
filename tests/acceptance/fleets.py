"""A fleet of real clusters with many databases, for tests of `jobplan fleet`."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner.embedded import EmbeddedServer
from tests.servers import file_copy, start_test_server

#: What each tenant has: a table to write what was executed, and one to work on.
SCHEMA = """
CREATE EXTENSION IF NOT EXISTS pg_background;
CREATE TABLE witness (step text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE audit (id int, at timestamptz);
"""


class Fleet:
    """Clusters c1, c2, … with databases t00, t01, … each."""

    def __init__(self, servers: Sequence[EmbeddedServer], databases: int) -> None:
        self.servers = servers
        self.databases = [f"t{number:02}" for number in range(databases)]
        #: A session in each database that was used: a test looks into all of them several times.
        self._sessions: dict[tuple[int, str], psycopg.Connection[tuple[object, ...]]] = {}
        for server in servers:
            with psycopg.connect(server.dsn, autocommit=True) as admin:
                admin.execute("CREATE DATABASE tenant_template")
                with psycopg.connect(self._dsn(server, "tenant_template"), autocommit=True) as template:
                    template.execute(SCHEMA)
                template_of = f"TEMPLATE tenant_template {file_copy(admin)}"
                for name in self.databases:
                    admin.execute(sql.SQL(f"CREATE DATABASE {{}} {template_of}").format(sql.Identifier(name)))

    @staticmethod
    def _dsn(server: EmbeddedServer, database: str) -> str:
        return make_conninfo(server.dsn, dbname=database)

    def dsn(self, cluster: int, database: str) -> str:
        """Return the connection string of a database; clusters are numbered from 1."""
        return self._dsn(self.servers[cluster - 1], database)

    def run(self, cluster: int, database: str, statement: str) -> list[tuple[object, ...]]:
        """Execute SQL in a database, and return its rows."""
        with psycopg.connect(self.dsn(cluster, database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def everywhere(self, statement: str) -> dict[str, list[tuple[object, ...]]]:
        """Execute SQL in every database, on a session that is kept: rows by `cluster/database`."""
        return {
            f"c{cluster}/{name}": self._on_kept_session(cluster, name, statement)
            for cluster in range(1, len(self.servers) + 1)
            for name in self.databases
        }

    def _on_kept_session(self, cluster: int, database: str, statement: str) -> list[tuple[object, ...]]:
        for _ in range(2):
            session = self._sessions.get((cluster, database))
            if session is None:
                session = psycopg.connect(self.dsn(cluster, database), autocommit=True)
                self._sessions[cluster, database] = session
            try:
                cursor = session.execute(statement.encode())
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:  # a test has restarted the server, or ended all sessions
                session.close()
                del self._sessions[cluster, database]
        raise AssertionError(f"no session lasts in {database} of cluster {cluster}")

    def close(self) -> None:
        """End the kept sessions."""
        for session in self._sessions.values():
            session.close()

    def steps(self) -> dict[str, Counter[str]]:
        """Return how often each step was executed in each database."""
        found = self.everywhere("SELECT step FROM witness")
        return {name: Counter(str(row[0]) for row in rows) for name, rows in found.items()}

    def clear(self) -> None:
        """Forget what was executed, and every change of a test that `audit` shows."""
        self.everywhere(
            "SET client_min_messages = error; TRUNCATE witness;"
            " CREATE TABLE IF NOT EXISTS audit (id int, at timestamptz); DROP SCHEMA IF EXISTS jobplan CASCADE"
        )

    def clusters(self, *, slots: Sequence[int], **more: object) -> str:
        """Return the key `clusters` of a targets file."""
        keys = "".join(f", {name}: {value}" for name, value in more.items())
        lines = []
        for number, (server, count) in enumerate(zip(self.servers, slots, strict=False), 1):
            parts = conninfo_to_dict(server.dsn)
            where = f"{{host: {parts['host']}, port: {parts['port']}, user: {parts['user']}}}"
            lines.append(f"  c{number}: {{connection: {where}, slots: {count}{keys}}}\n")
        return "clusters:\n" + "".join(lines)

    def discover(self, *clusters: int) -> str:
        """Return the key `discover`: every tenant of these clusters, named `cluster-database`."""
        query = (
            "SELECT datname AS database, 'c{0}-' || datname AS name FROM pg_database"
            " WHERE datname ~ '^t[0-9]' ORDER BY 1"
        )
        lines = (f'  - {{cluster: c{number}, sql: "{query.format(number)}"}}\n' for number in clusters)
        return "discover:\n" + "".join(lines)


@contextlib.contextmanager
def started_fleet(clusters: int, databases: int) -> Iterator[Fleet]:
    """Start the clusters, and stop them at the end."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(start_test_server(max_connections="200")) for _ in range(clusters)]
        yield stack.enter_context(contextlib.closing(Fleet(servers, databases)))


def targets_file(folder: Path, *parts: str, file: str = "targets.yaml") -> Path:
    """Write a targets file of these keys."""
    path = folder / file
    path.write_text("version: 1\nname: tenants\n" + "".join(parts), encoding="utf-8")
    return path


class Sampler:
    """Counts the workers of each cluster in a thread, on sessions of its own, until it is left.

    What counts is seen in two looks in a row: one look is not one moment, and workers end and begin during it.
    """

    def __init__(self, fleet: Fleet, *, patient: bool = False) -> None:
        #: Servers are restarted meanwhile: a session that is lost is opened anew.
        self._patient = patient
        self.most: list[int] = [0] * len(fleet.servers)
        self.samples = 0
        self._fleet = fleet
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
            except psycopg.OperationalError:
                if not self._patient:
                    raise
                time.sleep(0.1)

    def _look(self) -> None:
        query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_background'"
        with contextlib.ExitStack() as stack:
            sessions = [
                stack.enter_context(psycopg.connect(server.dsn, autocommit=True)) for server in self._fleet.servers
            ]
            before = [0] * len(sessions)
            while not self._stop.is_set():
                for number, session in enumerate(sessions):
                    row = session.execute(query).fetchone()
                    count = 0 if row is None else int(row[0])
                    self.most[number] = max(self.most[number], min(before[number], count))
                    before[number] = count
                self.samples += 1
                time.sleep(0.005)
