"""One address that leads to another cluster later, as a virtual IP, a DNS name or a proxy does after a failover."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner.embedded import EmbeddedServer
from runner.engine import events as ev
from runner.plan.model import Need
from tests.acceptance.console import Jobplan
from tests.acceptance.console import until as wait_until
from tests.builders import plan, step
from tests.integration.gateway_setups import ask, real_run, until, value
from tests.servers import start_test_server
from tests.tunnel import Tunnel

WITNESS = "CREATE TABLE IF NOT EXISTS witness (n int)"


@pytest.fixture
def second() -> Iterator[EmbeddedServer]:
    """A copy of the first cluster, which has the same system identifier: the hardest case of another cluster."""
    with start_test_server() as server:
        yield server


@pytest.fixture
def first(second: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """The cluster on which runs begin; it was started after the other one."""
    assert second.pid
    with start_test_server() as server:
        yield server


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_run_does_not_continue_on_another_server_that_has_taken_its_address(
    first: EmbeddedServer, second: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, idempotent: bool
) -> None:
    """Also an idempotent step ends as unknown: its worker may still be running on the first cluster."""
    monkeypatch.setattr("runner.gateway.session.RECONNECT_FOR", 4.0)
    for server in (first, second):
        ask(server.dsn, WITNESS)
    tunnel = Tunnel(first.dsn)
    try:
        steps = (
            step("long", "SELECT pg_sleep(60)", idempotent=idempotent),
            step("after", "INSERT INTO witness VALUES (1)", needs=[Need(step="long")]),
        )
        run, record = real_run(tunnel.dsn, plan(*steps))
        task = asyncio.create_task(run.execute())
        await until(lambda: record.of(ev.AttemptRunning))
        tunnel.switch(second.dsn)
        result = await task
    finally:
        tunnel.close()
    assert result.exit_code == 7
    (end,) = record.ends("long")
    assert (end.outcome, end.unobserved) == (ev.Outcome.UNKNOWN, True)
    assert value(second.dsn, "SELECT count(*) FROM witness") == 0
    assert not ask(second.dsn, "SELECT FROM pg_stat_activity WHERE application_name LIKE 'jobplan:%'")
    ask(first.dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_background'")


@pytest.mark.parametrize("by", ["--dsn", "address"])
def test_a_resume_that_is_led_to_another_cluster_executes_nothing_there(
    first: EmbeddedServer, second: EmbeddedServer, jobplan: Jobplan, by: str
) -> None:
    for server in (first, second):
        ask(server.dsn, WITNESS)
    tunnel = Tunnel(first.dsn)
    try:
        written = jobplan.plan("- {id: slow, sql: INSERT INTO witness SELECT 1 FROM pg_sleep(60), idempotent: true}")
        started = jobplan.start("run", written, "--dsn", tunnel.dsn, "--report", "jsonl=events.jsonl")
        wait_until(lambda: jobplan.happened("attempt_running"))
        started.send(signal.SIGKILL)
        started.ended()
        ask(first.dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_background'")
        if by == "address":
            tunnel.switch(second.dsn)
        to = second.dsn if by == "--dsn" else tunnel.dsn
        resumed = jobplan("resume", "last", "--dsn", to)
        assert resumed.code == 4, resumed.err
        assert "another server" in resumed.err
        assert value(second.dsn, "SELECT count(*) FROM witness") == 0
    finally:
        tunnel.close()


async def test_every_session_of_a_run_is_on_one_server_although_a_name_has_two_addresses(
    first: EmbeddedServer, second: EmbeddedServer
) -> None:
    """libpq tries the addresses of a name as it tries several hosts; load_balance_hosts shuffles both."""
    for server in (first, second):
        ask(server.dsn, WITNESS)
    one, other = Tunnel(first.dsn), Tunnel(second.dsn)
    try:
        ports = [str(conninfo_to_dict(tunnel.dsn)["port"]) for tunnel in (one, other)]
        both = make_conninfo(
            first.dsn,
            host="db.invalid,db.invalid",
            hostaddr="127.0.0.1,127.0.0.1",
            port=",".join(ports),
            load_balance_hosts="random",
        )
        steps = [step(f"s{n}", f"INSERT INTO witness SELECT {n} FROM pg_sleep(0.05)") for n in range(12)]
        run, record = real_run(both, plan(*steps, slots=6))
        assert (await run.execute()).exit_code == 0, record.outcomes()
    finally:
        one.close()
        other.close()
    counts = sorted(value(server.dsn, "SELECT count(*) FROM witness") for server in (first, second))
    assert counts == [0, 12]
