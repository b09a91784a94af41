"""A hot standby: what the extension does there, and what is said of it before anything is started."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from runner.errors import PreflightError
from runner.gateway.ledger.admin import LedgerAdmin
from runner.gateway.observer import Observer
from tests.acceptance.console import Jobplan
from tests.builders import plan, step
from tests.integration.gateway_setups import run_plan
from tests.integration.standby import standby_of, until_replayed
from tests.servers import start_test_server

pytestmark = pytest.mark.pg(">= 15", reason="the standby is made with pg_backup_start()")


@pytest.fixture(scope="module")
def standby() -> Iterator[str]:
    """A standby of a server."""
    with start_test_server() as primary:
        LedgerAdmin(primary.dsn, "jobplan").install("0")
        with standby_of(primary) as dsn:
            until_replayed(primary.dsn, dsn)
            yield dsn


def test_the_extension_can_start_no_worker_there(standby: str) -> None:
    """It gives a worker the settings of its launcher, and transaction_read_only cannot be set while in recovery."""
    with psycopg.connect(standby, autocommit=True) as connection:
        row = connection.execute("SELECT pid, cookie FROM pg_background_launch('SELECT 1', 0, '')").fetchone()
        assert row is not None
        connection.execute("SELECT pg_background_wait(%s, %s, 10000)", row)
        with pytest.raises(psycopg.Error, match="failed to initialize transaction_read_only to 0"):
            connection.execute("SELECT * FROM pg_background_result(%s, %s) AS r(n int)", row)


async def test_a_run_is_refused_before_it_begins(standby: str) -> None:
    with pytest.raises(PreflightError, match="the server is a standby, on which pg_background cannot start a worker"):
        await run_plan(standby, plan(step("a", "SELECT 1")), run_id="on-a-standby", ledger="jobplan")


async def test_what_only_looks_works_there(standby: str) -> None:
    observer = await Observer.connect(standby, ledger="jobplan")
    try:
        async with asyncio.timeout(30):
            while (await observer.look()).runs:  # noqa: ASYNC110 - the server must notice the end of the refused run's session
                await asyncio.sleep(0.05)
        assert await observer.recorded(["any"]) == {}
    finally:
        await observer.close()


def test_the_commands_say_what_is_the_matter(standby: str, tmp_path: Path) -> None:
    jobplan = Jobplan(tmp_path)
    try:
        a_plan = jobplan.plan("- {id: reads, sql: SELECT 1}")
        ran = jobplan("run", a_plan, "--dsn", standby)
        assert (ran.code, ran.out) == (4, "")
        assert "the server is a standby" in ran.err
        assert not list((tmp_path / ".jobplan" / "runs").glob("*/"))
        for command in (("doctor",), ("dry-run", a_plan)):
            reported = jobplan(*command, "--dsn", standby)
            assert reported.code == 4, reported.out + reported.err
            assert "pg_background can start no worker on a standby" in reported.out
        reported = jobplan("status", "--dsn", standby)
        assert reported.code == 0
        assert "no jobplan sessions" in reported.out
        assert "This server is a standby: runs execute on its primary" in reported.out
        for name in ("status", "attach", "cancel"):
            refused = jobplan(name, "260101-abcdef", "--dsn", standby)
            assert refused.code == 2
            assert "This server is a standby: runs execute on its primary" in refused.err
        ledger = jobplan("ledger", "status", "--dsn", standby)
        assert ledger.code == 3
        assert "this server is a standby: runs execute, and write the ledger, on its primary" in ledger.out
        assert "role" not in ledger.out
    finally:
        jobplan.close()
