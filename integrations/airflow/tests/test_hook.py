"""Airflow's connections as libpq reads them, and the password file."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from airflow.sdk import Connection
from psycopg.conninfo import conninfo_to_dict

from airflow_provider_jobplan.hook import JobplanHook, PasswordFile, conninfo, password_line, remove_unused
from runner.errors import UsageError
from support import Database, wait_until


def connection(**values: object) -> Connection:
    """Return a connection of the type Postgres."""
    extra = values.pop("extra", None)
    given = {"conn_id": "app_db", "conn_type": "postgres", **values}
    return Connection(**given, extra=None if extra is None else json.dumps(extra))


ODD = ["plain", "with space", "quote'quote", "back\\slash", "=", "ü", "%s", "'", "\\'", "a\tb"]


@pytest.mark.parametrize("text", ODD)
def test_libpq_reads_what_the_connection_has(text: str) -> None:
    made = conninfo(connection(host="db1", port=5433, login=text, schema=text, password="secret"))  # noqa: S106
    assert conninfo_to_dict(made) == {"host": "db1", "port": "5433", "user": text, "dbname": text}


def test_a_database_of_the_task_replaces_that_of_the_connection() -> None:
    assert conninfo_to_dict(conninfo(connection(schema="app"), "other"))["dbname"] == "other"


def test_an_empty_connection_leaves_all_to_the_environment() -> None:
    assert conninfo(connection()) == ""


def test_what_libpq_does_not_know_is_left_out() -> None:
    extra = {"sslmode": "require", "cursor": "dictcursor", "iam": True, "password": "x", "connect_timeout": 5}
    made = conninfo_to_dict(conninfo(connection(host="db1", extra=extra)))
    assert made == {"host": "db1", "sslmode": "require", "connect_timeout": "5"}


@pytest.mark.parametrize(("values", "words"), [({"conn_type": "mysql"}, "not postgres"), ({"login": "a\0"}, "NUL")])
def test_a_connection_that_cannot_be_used_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        conninfo(connection(**values))


@pytest.mark.parametrize("break_", ["\n", "\r", "\0"])
def test_a_password_that_no_file_can_have_is_refused(break_: str) -> None:
    with pytest.raises(UsageError, match="line break"):
        password_line(connection(password=f"a{break_}b"), any_host=True)


def test_a_line_for_one_server_names_it() -> None:
    line = password_line(connection(host="db1", port=5433, login="a:b", password="p:\\w"), any_host=False)  # noqa: S106
    assert line == "db1:5433:*:a\\:b:p\\:\\\\w"
    assert password_line(connection(host="db1"), any_host=False) is None


def test_the_server_accepts_the_password_of_the_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = JobplanHook("app_db")
    monkeypatch.delenv("PGPASSFILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(hook.get_conn())
    file = PasswordFile(tmp_path / "passwords", [hook.password_line(any_host=True) or ""])
    try:
        with psycopg.connect(hook.get_conn(), passfile=str(file.path)) as session:
            assert session.execute("SELECT 1").fetchone() == (1,)
    finally:
        file.remove()
    assert list((tmp_path / "passwords").iterdir()) == []


@pytest.mark.parametrize("password", [*ODD, ":", "a:b\\c", "*", "x" * 900])
def test_libpq_reads_every_password(password: str, database: Database, tmp_path: Path) -> None:
    role = f"role_{abs(hash(password)) % 10**9}"
    database.run(f"CREATE ROLE {role} LOGIN PASSWORD " + psycopg.sql.Literal(password).as_string())
    made = connection(**{**database.connection, "login": role, "password": password})
    for any_host in (True, False):
        file = PasswordFile(tmp_path, [password_line(made, any_host=any_host) or ""])
        with psycopg.connect(conninfo(made), passfile=str(file.path)) as session:
            assert session.execute("SELECT current_user").fetchone() == (role,)
        file.remove()


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    file = PasswordFile(tmp_path / "made" / "passwords", ["*:*:*:*:secret"])
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert file.path.read_text(encoding="utf-8") == "*:*:*:*:secret\n"
    file.remove()


def test_a_file_stays_as_long_as_a_child_has_its_lock_and_is_then_removed(tmp_path: Path) -> None:
    file = PasswordFile(tmp_path, ["*:*:*:*:secret"])
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(file.descriptor,), text=True
    )
    file.close()  # as a task that is killed
    remove_unused(tmp_path)
    assert file.path.exists()
    child.communicate("\n")
    remove_unused(tmp_path)
    assert not file.path.exists()


def test_a_new_file_is_locked_before_another_task_can_take_it_for_an_unused_one(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    code = (
        "import sys; from pathlib import Path; from airflow_provider_jobplan.hook import PasswordFile;"
        "print('ready', flush=True); PasswordFile(Path(sys.argv[1]), []); print('made', flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert list(tmp_path.iterdir()) == []
    os.close(folder)
    assert child.stdout.readline() == "made\n"
    remove_unused(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    child.communicate("\n")
    wait_until(lambda: child.poll() is not None)
