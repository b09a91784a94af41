"""Where benchmarks run: a throwaway server that is started when the first of them asks for it."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg.conninfo import make_conninfo

from runner.embedded import EmbeddedServer, start_server

_DATABASE = "bench"
#: What would come in between at moments of its own choosing; and room for 16 slots beside it.
_SETTINGS = {"autovacuum": "off", "max_connections": "100"}


class Bench:
    """What every benchmark is given. `quick` asks for a rough answer, `folder` is removed at the end."""

    def __init__(self, *, quick: bool, folder: Path) -> None:
        self.quick = quick
        self.folder = folder
        self._server: EmbeddedServer | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def rounds(self, usual: int) -> int:
        """Return how often to repeat: `usual`, and a few if it is to be quick."""
        return min(usual, 3) if self.quick else usual

    @property
    def server(self) -> EmbeddedServer:
        """The server, with an empty database of our own."""
        if self._server is None:
            self._server = self._stack.enter_context(
                start_server(progress=lambda line: print(line, file=sys.stderr), settings=_SETTINGS)
            )
            with psycopg.connect(self._server.dsn, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {_DATABASE}")
        return self._server

    @property
    def server_version(self) -> str | None:
        """The version of the server, if one was needed."""
        return None if self._server is None else self._server.version

    @property
    def dsn(self) -> str:
        """The database in which plans run; sessions that observe them connect to `server.dsn` instead."""
        return make_conninfo(self.server.dsn, dbname=_DATABASE)
