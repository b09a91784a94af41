"""A real PgBouncer before the server: what shares sessions is refused before it is touched, what keeps them is not."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner.embedded.programs import make_folder, server_account, write_file
from runner.errors import PreflightError
from runner.gateway.inspection import Inspector
from runner.gateway.postgres import PgGateway
from runner.plan.model import Plan
from runner.preflight.doctor import Demand, Level, examine
from tests.builders import plan, step
from tests.fetched import fetch_program
from tests.integration.gateway_setups import PATIENCE, ask, run_plan, value

_CONFIGURATION = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
server_round_robin = {robin}
max_prepared_statements = {prepared}
pidfile = {folder}/pid
logfile = {folder}/log
"""

Pool = Callable[..., str]


def steps() -> Plan:
    return plan(step("a", "INSERT INTO done VALUES ('a')"), step("b", "SELECT 1", needs=["a"]), slots=2)


@pytest.fixture
def pool(database: str) -> Iterator[Pool]:
    """Start a PgBouncer of a pool_mode before the test's server, and return the connection that goes through it."""
    with contextlib.ExitStack() as started:

        def start(mode: str, size: int = 8, robin: int = 0, prepared: int = 200) -> str:
            return started.enter_context(_pgbouncer(database, mode=mode, size=size, robin=robin, prepared=prepared))

        yield start


@contextlib.contextmanager
def _pgbouncer(dsn: str, **settings: object) -> Iterator[str]:
    target = conninfo_to_dict(dsn)
    account = server_account()
    folder = Path(tempfile.mkdtemp(prefix="jobplan-pool-", dir="/tmp"))
    make_folder(folder, account)
    where = {name: target[name] for name in ("host", "port", "user")}
    text = _CONFIGURATION.format(**where, folder=folder, **settings)
    write_file(folder / "pgbouncer.ini", text, account)
    process = subprocess.Popen(
        [*fetch_program("pgbouncer", "usr/sbin/pgbouncer"), "--quiet", str(folder / "pgbouncer.ini")],
        cwd="/",
        user=account.uid if account.drop else None,
        group=account.gid if account.drop else None,
        extra_groups=[] if account.drop else None,
    )
    try:
        _until_listening(folder / ".s.PGSQL.6432", process)
        yield make_conninfo(dsn, host=str(folder), port=6432)
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)
        shutil.rmtree(folder)


def _until_listening(path: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
        except OSError:
            assert process.poll() is None, "pgbouncer has ended"
            assert time.monotonic() < end
            time.sleep(0.02)
        else:
            return


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("how", [{}, {"prepared": 0}, {"robin": 1}])
async def test_a_pool_that_shares_sessions_is_refused_and_left_as_it_was(
    pool: Pool, mode: str, how: dict[str, int]
) -> None:
    through = pool(mode, **how)
    with psycopg.connect(through, autocommit=True) as mine:
        before = mine.execute("SHOW search_path").fetchone()
    gateway = PgGateway(through, "pooled")
    with pytest.raises(PreflightError, match="assigns each transaction to another session") as refused:
        await gateway.open()
    await gateway.close()
    assert "Connect to PostgreSQL directly" in str(refused.value)
    with psycopg.connect(through, autocommit=True) as mine:
        assert mine.execute("SHOW search_path", prepare=False).fetchone() == before
        assert mine.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False).fetchone() == (0,)


async def test_an_inspection_leaves_nothing_in_pooled_sessions_either(pool: Pool) -> None:
    through = pool("transaction")
    with pytest.raises(PreflightError, match="assigns each transaction to another session"):
        await Inspector.connect(through, "pooled-look")
    with psycopg.connect(through, autocommit=True) as mine:
        assert mine.execute("SHOW search_path", prepare=False).fetchone() != ("pg_catalog, pg_temp",)
        assert mine.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False).fetchone() == (0,)


async def test_an_inspection_reports_a_pool_that_keeps_sessions(pool: Pool) -> None:
    inspector = await Inspector.connect(pool("session"), "pooled-look")
    examined = {one.check.code: one.outcome.level for one in examine(await inspector.facts(), Demand())}
    await inspector.close()
    assert examined["JP502"] is Level.WARNING
    assert examined["JP501"] is Level.OK


async def test_a_pool_that_has_many_sessions_in_use_is_refused_all_the_same(pool: Pool) -> None:
    through = pool("transaction", robin=1)
    with contextlib.ExitStack() as others:
        for _ in range(3):
            other = others.enter_context(psycopg.connect(through))
            other.execute("SELECT 1")  # holds a session of the pool in a transaction
        with pytest.raises(PreflightError, match="assigns each transaction to another session"):
            await PgGateway(through, "pooled-busy").open()


async def test_a_plan_is_not_begun_behind_a_pool_that_shares_sessions(pool: Pool, database: str) -> None:
    ask(database, "CREATE TABLE done (step text)")
    with pytest.raises(PreflightError):
        await run_plan(pool("transaction"), steps())
    assert value(database, "SELECT count(*) FROM done") == 0


async def test_a_pool_that_keeps_sessions_runs_plans(pool: Pool, database: str) -> None:
    ask(database, "CREATE TABLE done (step text)")
    result, record = await run_plan(pool("session"), steps())
    assert result.exit_code == 0
    assert [end.command_tag for end in (*record.ends("a"), *record.ends("b"))] == ["INSERT", "SELECT"]
    assert value(database, "SELECT count(*) FROM done") == 1


async def test_a_pool_of_one_session_is_refused(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.gateway.server_refusals.PATIENCE", 1.0)
    with pytest.raises(PreflightError, match="gives no second session: it did not answer within 1 s"):
        await PgGateway(pool("session", size=1), "pooled-one").open()
