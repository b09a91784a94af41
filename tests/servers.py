"""Servers for tests: in memory if the machine has a file system for that, and with settings for many small databases.

A test may need a dozen databases, and each is three hundred files: on a disk, their creation and removal would be a
third of the processor time of all tests.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from runner.embedded import EmbeddedServer, start_server

_MEMORY = Path("/dev/shm")  # noqa: S108 - each server makes a private folder in it
#: Bytes that the servers of one process need at most, with their databases and WAL: twice what was measured.
_ROOM = 1 << 29
_SETTINGS = {
    "autovacuum_naptime": "1h",  # it would visit the databases of all tests every minute
    "checkpoint_timeout": "1h",
    "full_page_writes": "off",  # it would be for a crash of the machine
    "max_wal_size": "128MB",
    "wal_init_zero": "off",
}


def file_copy(connection: psycopg.Connection[Any]) -> str:
    """Return the option of CREATE DATABASE that copies files: faster than WAL for each page, and new in version 15."""
    return "STRATEGY file_copy" if connection.info.server_version >= 150000 else ""


def start_test_server(**settings: str) -> EmbeddedServer:
    """Start a server; `settings` are PostgreSQL's. Stop it, or use it as a context manager."""
    with _in_memory():
        return start_server(progress=print, settings={**_SETTINGS, **settings})


@contextlib.contextmanager
def _in_memory() -> Iterator[None]:
    """Have temporary folders in memory, if there is enough room for all processes of this test run."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < processes * _ROOM:
        yield
        return
    previous, tempfile.tempdir = tempfile.tempdir, str(_MEMORY)
    try:
        yield
    finally:
        tempfile.tempdir = previous
