"""A real server with the real extension, a database of each test's own with a ledger, and plans."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.embedded import EmbeddedServer, start_server
from support import PLAN, Database, make_template, new_database, next_number

# Airflow reads it when it is imported: nothing of the caller's own Airflow.
_HOME = tempfile.mkdtemp(prefix="jobplan-airflow-")
os.environ["AIRFLOW_HOME"] = _HOME
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """A server of the tests' own."""
    settings = {"autovacuum_naptime": "1h", "checkpoint_timeout": "1h", "full_page_writes": "off"}
    with start_server(progress=print, settings=settings) as started:
        make_template(started)
        yield started


@pytest.fixture
def database(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database of this test's own, which the Airflow connection `app_db` leads to."""
    made = new_database(server, f"app_{os.getpid()}_{next_number()}")
    monkeypatch.setenv("AIRFLOW_CONN_APP_DB", json.dumps(made.connection))
    return made


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., str]:
    """Write a plan, and return its path."""

    def write(*steps: str, more: str = "", file: str = "plan.yaml") -> str:
        path = tmp_path / file
        path.write_text(PLAN.format(steps="".join(steps), more=more), encoding="utf-8")
        return str(path)

    return write
