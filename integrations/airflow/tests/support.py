"""Databases with a ledger, plans, and the context of a task."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner.embedded import EmbeddedServer

#: Seconds after which a condition that should have come true is a failure, not a slow machine.
PATIENCE = 60.0
_NUMBERS = itertools.count(1)


def next_number() -> int:
    """Return a number for the name of a database."""
    return next(_NUMBERS)


def wait_until(condition: Callable[[], object], *, patience: float = PATIENCE) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.05)


@dataclass(frozen=True)
class Database:
    """A database with a ledger, and a table in which steps say that they were executed."""

    dsn: str

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Execute SQL, and return its rows."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def steps(self) -> Counter[str]:
        """Return how often each step has had its effect."""
        return Counter(row[0] for row in self.run("SELECT step FROM witness"))

    def workers(self) -> int:
        """Return the number of workers that run in this database."""
        query = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE backend_type = 'pg_background' AND datname = current_database()"
        )
        return int(self.run(query)[0][0])

    def runs(self) -> list[str]:
        """Return the ids of the runs in the ledger, in the order in which they began."""
        return [row[0] for row in self.run("SELECT run FROM jobplan.runs ORDER BY started_at")]

    @property
    def connection(self) -> dict[str, Any]:
        """Return it as a connection of Airflow."""
        parts = conninfo_to_dict(self.dsn)
        return {
            "conn_type": "postgres",
            "host": parts["host"],
            "port": int(parts["port"] or 5432),
            "login": parts["user"],
            "password": parts["password"],
            "schema": parts["dbname"],
        }


_TEMPLATE = "with_ledger"


def make_template(server: EmbeddedServer) -> None:
    """Create the database that `new_database` copies: with a ledger and the tables of the tests."""
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {_TEMPLATE}".encode())
    dsn = make_conninfo(server.dsn, dbname=_TEMPLATE)
    Database(dsn).run("CREATE TABLE witness (step text NOT NULL); CREATE TABLE gate (open boolean)")
    install = [sys.executable, "-m", "runner", "ledger", "install", "--dsn", dsn]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def new_database(server: EmbeddedServer, name: str) -> Database:
    """Create a database; its connection is over TCP, with a password."""
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}".encode())
    return Database(make_conninfo(server.tcp_dsn, dbname=name))


PLAN = """\
version: 1
name: airflow
budget: {{slots: 2}}
defaults: {{timeout: 10m, on_finish: wait}}
{more}
steps:
{steps}
"""


def closed_window() -> str:
    """Return the key of a plan whose window opens in three days."""
    day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(datetime.now(UTC).weekday() + 3) % 7]
    return f"window: {{timezone: UTC, from: '02:00', to: '03:00', days: [{day}]}}"


def effect(step: str, *, needs: str = "") -> str:
    """Return a step that leaves one row in the witness table."""
    more = f", needs: [{needs}]" if needs else ""
    return f"  - {{id: {step}, sql: INSERT INTO witness VALUES ('{step}'){more}}}\n"


def waits(step: str, *, needs: str = "") -> str:
    """Return a step that waits until the gate is open, and then leaves one row in the witness table."""
    more = f", needs: [{needs}]" if needs else ""
    sql = (
        "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.05); END LOOP; END $$;"
        f" INSERT INTO witness VALUES ('{step}')"
    )
    return f'  - {{id: {step}, sql: "{sql}"{more}}}\n'


@dataclass
class Store:
    """What Airflow's task state store does, for one task instance."""

    values: dict[str, Any] = field(default_factory=dict)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value."""
        return self.values.get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Store a value."""
        self.values[key] = json.loads(json.dumps(value))


@dataclass
class Task:
    """The task instance of a context."""

    task_id: str = "nightly"
    dag_id: str = "dag"
    run_id: str = "manual__2026-11-30"
    map_index: int = -1
    max_tries: int = 3
    try_number: int = 1
    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        """Store an XCom."""
        self.xcoms[key] = json.loads(json.dumps(value))


def context(task: Task, store: Store | None = None) -> Mapping[str, Any]:
    """Return the context of a task, with its state if Airflow has one."""
    made: dict[str, Any] = {"ti": task, "params": SimpleNamespace()}
    return made if store is None else {**made, "task_state_store": store}
