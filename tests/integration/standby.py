"""A hot standby of an embedded server, in a temporary folder, for tests: the base backup is taken by its own functions.

pg_basebackup would need a library of the host's for the programs that were unpacked; a copy of the files between
pg_backup_start and pg_backup_stop is what it makes, too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner.embedded import EmbeddedServer, watchdog
from runner.embedded.cluster import SETTINGS_FILE
from runner.embedded.programs import server_account
from runner.embedded.server import Postmaster

#: What a running server has that its backup must not.
_LEFT_OUT = shutil.ignore_patterns("postmaster.pid", "postmaster.opts", "pg_internal.init", "pgsql_tmp*")


@contextlib.contextmanager
def standby_of(primary: EmbeddedServer) -> Iterator[str]:
    """Start a standby of the server, and yield a superuser's connection to it."""
    account = server_account()
    with tempfile.TemporaryDirectory(prefix="jps", dir="/tmp") as name:  # a socket may have no long path
        folder, sockets = Path(name), Path(name) / "s"
        sockets.mkdir()
        data = _base_backup(primary, folder / "data")
        for place in (folder, sockets, data, *data.rglob("*")):
            os.chown(place, account.uid, account.gid)
        postmaster = Postmaster(bin_dir=primary.bin_dir, data_dir=data, log_file=folder / "log", account=account)
        try:
            port = postmaster.start_on_free_port(sockets, {"hot_standby": "on"})
            dsn = make_conninfo(host=str(sockets), port=port, user="postgres", dbname="postgres")
            yield dsn
        finally:
            watchdog.stop_postmaster(data, fast=False)


def _base_backup(primary: EmbeddedServer, to: Path) -> Path:
    with psycopg.connect(primary.dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_backup_start('standby', true)")
        shutil.copytree(primary.data_dir, to, ignore=_LEFT_OUT)
        row = connection.execute("SELECT labelfile FROM pg_backup_stop(false)").fetchone()
    assert row is not None
    to.chmod(0o700)
    (to / "backup_label").write_text(row[0], encoding="utf-8")
    (to / "standby.signal").touch()
    where = conninfo_to_dict(primary.dsn)
    source = make_conninfo(host=str(where["host"]), port=str(where["port"]), user="postgres")
    with (to / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
        settings.write(f"primary_conninfo = '{source}'\n")
    assert (to / SETTINGS_FILE).exists()
    return to


def until_replayed(primary: str, standby: str) -> None:
    """Wait until the standby has all that the primary has now."""
    with psycopg.connect(primary, autocommit=True) as one, psycopg.connect(standby, autocommit=True) as other:
        row = one.execute("SELECT pg_current_wal_lsn()").fetchone()
        assert row is not None
        end = time.monotonic() + 60
        while other.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", row).fetchone() != (True,):
            assert time.monotonic() < end
            time.sleep(0.05)
