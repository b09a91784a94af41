"""Faults that strike one cluster or one target of a fleet run: the others go on, and a resume finishes what is left."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from runner import __version__
from runner.gateway.ledger.admin import LedgerAdmin
from tests.acceptance.console import Jobplan, Ran, clean_environment, until
from tests.acceptance.fleets import Fleet, started_fleet, targets_file
from tests.acceptance.test_fleet import STEPS, in_flight, states

CLUSTERS, DATABASES = 2, 6
EACH_ONCE = {"first": 1, "last": 1}


@pytest.fixture(scope="module")
def clusters() -> Iterator[Fleet]:
    """The clusters, started once."""
    with started_fleet(CLUSTERS, DATABASES) as fleet:
        yield fleet


@pytest.fixture
def fleet(clusters: Fleet) -> Fleet:
    """The clusters, as if no test had used them; each database has a ledger."""
    clusters.clear()
    for cluster in range(1, CLUSTERS + 1):
        for name in clusters.databases:
            LedgerAdmin(clusters.dsn(cluster, name), "jobplan").install(__version__)
    return clusters


def steps_that_take(seconds: float) -> str:
    """Return the steps, of which two wait so long."""
    return STEPS.replace("pg_sleep(0.05)", f"pg_sleep({seconds})")


def everywhere_once(fleet: Fleet) -> bool:
    """Return whether each step took effect exactly once in each database."""
    return all(dict(found) == EACH_ONCE for found in fleet.steps().values())


# --- one cluster or one target fails ---


def by_password(jobplan: Jobplan, fleet: Fleet, password: str) -> str:
    """Return the key `clusters` of servers that ask for a password; the password file has this one for c2."""
    passfile = jobplan.folder / "passwords"
    passfile.touch(mode=0o600)
    lines, keys = [], ["clusters:\n"]
    for number, server in enumerate(fleet.servers, 1):
        url = urlsplit(server.tcp_dsn)
        lines.append(f"{url.hostname}:{url.port}:*:{url.username}:{url.password if number == 1 else password}\n")
        where = f"host: {url.hostname}, port: {url.port}, user: {url.username}, passfile: {passfile}"
        keys.append(f"  c{number}: {{connection: {{{where}}}, slots: 4}}\n")
    passfile.write_text("".join(lines), encoding="utf-8")
    return "".join(keys)


def test_a_wrong_password_at_one_cluster(jobplan: Jobplan, fleet: Fleet) -> None:
    keys = by_password(jobplan, fleet, "Wr0ngW0rd")
    listed = "".join(
        f"  - {{cluster: c{number}, database: {name}, name: c{number}-{name}}}\n"
        for number in (1, 2)
        for name in fleet.databases
    )
    targets = targets_file(jobplan.folder, keys, f"targets:\n{listed}")
    ran = jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", targets)
    assert ran.code == 1, ran.err
    found = states(jobplan)
    assert {name for name, state in found.items() if state == "succeeded"} == {f"c1-{one}" for one in fleet.databases}
    assert {name for name, state in found.items() if state == "unreachable"} == {f"c2-{one}" for one in fleet.databases}
    assert ran.err.count("password authentication failed") == 8, "for the cluster, each target, and the group"
    assert "6 of 12 targets" in ran.err
    assert "Wr0ngW0rd" not in ran.err
    by_password(jobplan, fleet, urlsplit(fleet.servers[1].tcp_dsn).password or "")
    ran = jobplan("fleet", "resume", "last")
    assert ran.code == 0, ran.err
    assert everywhere_once(fleet)


def test_a_wrong_password_where_targets_are_discovered_begins_nothing(jobplan: Jobplan, fleet: Fleet) -> None:
    targets = targets_file(jobplan.folder, by_password(jobplan, fleet, "Wr0ngW0rd"), fleet.discover(1, 2))
    ran = jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", targets)
    assert ran.code == 4, ran.err
    assert "c2" in ran.err
    assert "password authentication failed" in ran.err
    assert "Wr0ngW0rd" not in ran.err
    assert not any(fleet.steps().values())


@pytest.mark.slow
def test_a_target_that_is_dropped_while_its_steps_run(jobplan: Jobplan, fleet: Fleet) -> None:
    fleet.run(1, "postgres", "CREATE DATABASE t99 TEMPLATE tenant_template")
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(12, 12)), fleet.discover(1, 2))
    started = jobplan.start("fleet", "run", jobplan.plan(steps_that_take(2)), "--targets", targets)
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 't99' AND backend_type = 'pg_background'"
    until(lambda: fleet.run(1, "postgres", query)[0][0] != 0, 60)
    fleet.run(1, "postgres", "DROP DATABASE t99 WITH (FORCE)")
    ran = started.ended(150)  # a lost server gets a minute to come back
    found = states(jobplan)
    assert {name for name, state in found.items() if state != "succeeded"} == {"c1-t99"}
    assert ran.code in (1, 7), ran.err
    assert found["c1-t99"] in ("failed", "unreachable", "unknown")
    assert everywhere_once(fleet)
    assert 'database "t99" does not exist' in ran.err
    again = jobplan("fleet", "resume", "last")
    assert again.code in (1, 7), again.err
    assert 'database "t99" does not exist' in again.err
    assert everywhere_once(fleet)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_one_cluster_restarts_while_its_steps_run(jobplan: Jobplan, fleet: Fleet, mode: str) -> None:
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(12, 12)), fleet.discover(1, 2))
    started = jobplan.start("fleet", "run", jobplan.plan(steps_that_take(2)), "--targets", targets)
    until(lambda: in_flight(jobplan, 12), 60)
    fleet.servers[0].restart("fast" if mode == "fast" else "immediate")
    ran = started.ended()
    assert all(state == "succeeded" for name, state in states(jobplan).items() if name.startswith("c2-")), ran.err
    for _ in range(3):
        if ran.code == 0:
            break
        ran = jobplan("fleet", "resume", "last", *answers(ran, fleet))
    assert ran.code == 0, ran.err
    assert everywhere_once(fleet)


def answers(ran: Ran, fleet: Fleet) -> list[str]:
    """Answer the questions of a fleet run as a user does who looks into the databases."""
    marks = []
    for line in ran.err.splitlines():
        for word in line.split():
            target, colon, step = word.strip("'").removesuffix("=…").partition(":")
            if word.strip("'").endswith("=…") and colon:
                done = fleet.steps()[target.replace("-", "/", 1)][step] > 0 or step in ("wait", "other")
                marks += ["--mark", f"{target}:{step}={'succeeded' if done else 'failed'}"]
    return marks


# --- two fleet runs ---


def test_two_fleet_runs_over_overlapping_targets_both_do_their_work(jobplan: Jobplan, fleet: Fleet) -> None:
    """They do not know of each other: each target gets two ordinary runs."""
    plan = jobplan.plan(steps_that_take(0.5))
    both = targets_file(jobplan.folder, fleet.clusters(slots=(3, 3)), fleet.discover(1, 2))
    one = targets_file(jobplan.folder, fleet.clusters(slots=(3,)), fleet.discover(1), file="one.yaml")
    first = jobplan.start("fleet", "run", plan, "--targets", both, "--fleet-id", "both")
    until(lambda: in_flight(jobplan, 2), 60)
    second = jobplan("fleet", "run", plan, "--targets", one, "--fleet-id", "one")
    assert second.code == 0, second.err
    ended = first.ended()
    assert ended.code == 0, ended.err
    found = fleet.steps()
    assert all(dict(found[f"c1/{name}"]) == {"first": 2, "last": 2} for name in fleet.databases)
    assert all(dict(found[f"c2/{name}"]) == EACH_ONCE for name in fleet.databases)


def test_a_concurrency_group_keeps_two_fleet_runs_apart_on_each_target(jobplan: Jobplan, fleet: Fleet) -> None:
    """A target whose group another run holds is busy: it is tried once more, then fails as busy, and is resumed."""
    plan = jobplan.plan(steps_that_take(1), concurrency="{group: nightly}")
    both = targets_file(jobplan.folder, fleet.clusters(slots=(12, 12)), fleet.discover(1, 2))
    first = jobplan.start("fleet", "run", plan, "--targets", both, "--fleet-id", "first")
    until(lambda: in_flight(jobplan, 12), 60)
    second = jobplan("fleet", "run", plan, "--targets", both, "--fleet-id", "second")
    assert first.ended().code == 0
    if second.code != 0:
        assert second.code == 1, second.err
        assert "busy" in second.err
        second = jobplan("fleet", "resume", "second")
    assert second.code == 0, second.err
    assert all(dict(found) == {"first": 2, "last": 2} for found in fleet.steps().values())


@pytest.mark.parametrize("verb", ["run", "resume"])
def test_a_fleet_run_has_one_process(jobplan: Jobplan, fleet: Fleet, verb: str) -> None:
    plan = jobplan.plan(steps_that_take(2))
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4, 4)), fleet.discover(1, 2))
    first = jobplan.start("fleet", "run", plan, "--targets", targets, "--fleet-id", "mine")
    until(lambda: in_flight(jobplan, 2), 60)
    rival = (
        jobplan("fleet", "resume", "mine")
        if verb == "resume"
        else jobplan("fleet", "run", plan, "--targets", targets, "--fleet-id", "mine", "--or-resume")
    )
    assert rival.code == 6, rival.err
    assert "mine" in rival.err
    assert first.ended().code == 0
    assert everywhere_once(fleet)


def test_a_resume_requires_a_ledger_as_the_fleet_run_did(jobplan: Jobplan, fleet: Fleet) -> None:
    fleet.run(1, "t01", "DROP SCHEMA jobplan CASCADE")
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4,)), fleet.discover(1))
    ran = jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", targets, "--require-ledger")
    assert ran.code == 1, ran.err
    again = jobplan("fleet", "resume", "last")
    assert again.code == 1, again.err
    assert fleet.steps()["c1/t01"] == {}
    LedgerAdmin(fleet.dsn(1, "t01"), "jobplan").install(__version__)
    assert jobplan("fleet", "resume", "last").code == 0
    assert dict(fleet.steps()["c1/t01"]) == EACH_ONCE


# --- the record ---


def limited(jobplan: Jobplan, limit: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process whose files may not become longer than `limit` bytes."""
    return subprocess.run(
        [sys.executable, "-m", "runner", *map(str, arguments)],
        cwd=jobplan.folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=_lower(limit),
    )


def _lower(limit: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


@pytest.mark.parametrize("limit", [1_000, 3_000, 4_500])
def test_a_disk_that_fills_while_the_fleet_run_is_recorded(jobplan: Jobplan, fleet: Fleet, limit: int) -> None:
    """Whichever file becomes too long first: it is said, and a resume with space finishes, each effect once."""
    plan = jobplan.plan(STEPS)
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4, 4)), fleet.discover(1, 2))
    arguments = ("fleet", "run", plan, "--targets", targets, "--fleet-id", "mine")
    ran = limited(jobplan, limit, *arguments)
    assert ran.returncode in (1, 4, 7), ran.stderr
    assert "File too large" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not any(line.endswith(" failed") for line in ran.stderr.splitlines()), "each failure has its reason"
    again = jobplan(*arguments, "--or-resume")
    for _ in range(2):
        if again.code == 7:
            asked = answers(again, fleet)
            assert asked, again.err
            again = jobplan("fleet", "resume", "mine", *asked)
    assert again.code == 0, again.err
    assert everywhere_once(fleet)


def test_a_full_disk_from_the_beginning_begins_nothing(jobplan: Jobplan, fleet: Fleet) -> None:
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4, 4)), fleet.discover(1, 2))
    ran = limited(jobplan, 0, "fleet", "run", jobplan.plan(STEPS), "--targets", targets)
    assert ran.returncode == 4, ran.stderr
    assert "File too large" in ran.stderr
    assert not any(fleet.steps().values())
