"""What the server's own description lets a run do, and the sentence for each thing that keeps it from running."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from runner.errors import PreflightError
from runner.gateway.connecting import recorded, with_keepalives, without_password
from runner.gateway.replies import Reply, Row
from runner.gateway.server_refusals import check_server, describe_server

GOOD: Row = ("18.1", "180001", "2.0", "ext", "app", "deploy", "64", "t", "t")


def changed(**columns: str | None) -> Row:
    """Return the good row with some columns changed."""
    names = ("version", "number", "extension", "schema", "database", "user", "workers", "allowed", "available")
    return tuple(columns.get(name, value) for name, value in zip(names, GOOD, strict=True))


def test_a_server_that_is_ready_is_described() -> None:
    check_server(GOOD)
    info = describe_server(GOOD, Reply(rows=(("f",),)))
    assert (info.version, info.version_number, info.extension_version) == ("18.1", 180_001, "2.0")
    assert (info.extension_schema, info.database, info.user, info.max_worker_processes) == ("ext", "app", "deploy", 64)


@pytest.mark.parametrize(
    ("row", "says", "hint"),
    [
        (changed(version="13.20", number="130020"), "13.20 is too old", None),
        (changed(extension=None, schema=None, allowed=None), 'not in database "app"', "CREATE EXTENSION pg_background"),
        (
            changed(extension=None, schema=None, allowed=None, available="f"),
            'not in database "app"',
            "Install pg_background",
        ),
        (changed(extension="1.6"), "1.6 is too old", "ALTER EXTENSION pg_background UPDATE"),
        (changed(extension="1.10"), "1.10 is too old", "ALTER EXTENSION"),
        (changed(allowed="f"), 'the role "deploy" may not use', 'GRANT pgbackground_role TO "deploy"'),
        (changed(allowed=None), "may not use", "GRANT"),
        (changed(user='odd"name', allowed="f"), "may not use", 'TO "odd""name"'),
    ],
)
def test_a_server_that_is_not_ready_says_what_to_do(row: Row, says: str, hint: str | None) -> None:
    with pytest.raises(PreflightError) as refused:
        check_server(row)
    assert says in refused.value.message
    if hint is not None:
        assert hint in (refused.value.hint or "")


def test_a_dead_network_is_noticed_unless_the_connection_says_how() -> None:
    assert "tcp_user_timeout=60000" in with_keepalives("host=db")
    assert "tcp_user_timeout=5" in with_keepalives("postgresql://db/app?tcp_user_timeout=5")
    assert "connect_timeout=3" in with_keepalives("host=db connect_timeout=3")


def test_a_connection_is_shown_without_its_password() -> None:
    shown = without_password("postgresql://me:hush@db/app")
    assert "hush" not in shown
    assert "host=db" in shown
    assert without_password("password=hush") == ""


TARGET = {"host": "10.0.0.7", "port": "5433", "user": "deploy", "database": "app"}


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("", "host=10.0.0.7 port=5433 user=deploy dbname=app"),
        ("host=a,b password=hush", "host=a,b port=5433 user=deploy dbname=app"),
        ("postgresql://me:hush@db/shop?sslmode=require", "host=db port=5433 user=me dbname=shop sslmode=require"),
        ("service=prod sslpassword=hush", "user=deploy dbname=app service=prod"),
        ("hostaddr=10.0.0.8 passfile=/x", "user=deploy dbname=app hostaddr=10.0.0.8 passfile=/x"),
    ],
)
def test_what_is_recorded_leads_there_again_and_holds_no_secret(asked: str, kept: str) -> None:
    assert conninfo_to_dict(recorded(asked, **TARGET)) == conninfo_to_dict(kept)
    assert "hush" not in recorded(asked, **TARGET)
    assert "hush" not in without_password(asked)
