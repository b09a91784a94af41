"""`jobplan fleet` on three real clusters: waves, budgets, stop rules, resume, and the faults that happen to fleets."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from runner import __version__
from runner.gateway.ledger.admin import LedgerAdmin
from tests.acceptance.console import Jobplan, Ran, clean_environment, until
from tests.acceptance.fleets import Fleet, Sampler, started_fleet, targets_file

ROOT = Path(__file__).parents[2]
#: 3 clusters with 20 databases each.
CLUSTERS, DATABASES = 3, 20
STEPS = """
- {id: first, sql: "INSERT INTO witness VALUES ('first')"}
- {id: wait, sql: "SELECT pg_sleep(0.05)"}
- {id: other, sql: "SELECT pg_sleep(0.05)"}
- id: last
  needs: [first, wait, other]
  sql: INSERT INTO witness SELECT 'last' FROM (SELECT count(*) FROM audit) AS one
"""


@pytest.fixture(scope="module")
def clusters() -> Iterator[Fleet]:
    """The clusters, started once."""
    with started_fleet(CLUSTERS, DATABASES) as fleet:
        yield fleet


@pytest.fixture
def fleet(clusters: Fleet) -> Fleet:
    """The clusters, as if no test had used them."""
    clusters.clear()
    return clusters


def events(jobplan: Jobplan) -> list[dict[str, Any]]:
    """Read the record of the only fleet run."""
    (file,) = (jobplan.folder / ".jobplan" / "fleets").glob("*/fleet.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def states(jobplan: Jobplan) -> dict[str, str]:
    """Return the state of each target of the last fleet run."""
    shown = json.loads(jobplan("fleet", "show", "--format", "json").out)
    return {member["target"]: member["state"] for member in shown["members"]}


def fleet_id(jobplan: Jobplan) -> str:
    """Return the id of the only fleet run."""
    (folder,) = (jobplan.folder / ".jobplan" / "fleets").iterdir()
    return folder.name


def in_flight(jobplan: Jobplan, members: int) -> bool:
    """Return whether at least so many members are under way."""
    found = list((jobplan.folder / ".jobplan" / "fleets").glob("*/runs/*/events.jsonl"))
    return sum(b"attempt_launching" in path.read_bytes() for path in found) >= members


def test_sixty_databases_within_the_slots_of_each_cluster(jobplan: Jobplan, fleet: Fleet) -> None:
    slots = (1, 2, 4)
    targets = targets_file(
        jobplan.folder, fleet.clusters(slots=slots), fleet.discover(1, 2, 3), "rollout: {parallel: 24}\n"
    )
    plan = jobplan.plan(STEPS)
    with Sampler(fleet) as sampler:
        ran = jobplan("fleet", "run", plan, "--targets", targets)
    assert ran.code == 0, ran.err
    assert all(most <= limit for most, limit in zip(sampler.most, slots, strict=True)), sampler.most
    assert sampler.most[0] == 1
    assert sampler.most[2] >= 2
    assert "60 succeeded" in ran.err
    assert set(fleet.steps().values().__iter__().__next__()) == {"first", "last"}
    assert all(dict(found) == {"first": 1, "last": 1} for found in fleet.steps().values())
    assert set(states(jobplan).values()) == {"succeeded"}


def test_a_wave_begins_when_every_target_of_the_wave_before_has_ended(jobplan: Jobplan, fleet: Fleet) -> None:
    rollout = (
        "rollout:\n  parallel: 12\n  waves:\n"
        "    - {name: canary, where: ['name=c1-t0[0-4]']}\n"
        "    - {name: second, where: [cluster=c2], parallel: 3}\n"
        "    - {name: rest}\n"
    )
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4, 4, 4)), fleet.discover(1, 2, 3), rollout)
    ran = jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", targets)
    assert ran.code == 0, ran.err
    seen = events(jobplan)
    wave, running, most = "", set[str](), 0
    order = []
    for event in seen:
        match event["event"]:
            case "wave_started":
                assert not running
                wave, most = event["wave"], 0
                order.append(wave)
            case "member_started":
                assert event["wave"] == wave
                running.add(event["target"])
                most = max(most, len(running))
                assert wave != "second" or most <= 3
            case "member_finished":
                running.remove(event["target"])
    assert order == ["canary", "second", "rest"]


@pytest.mark.parametrize(
    ("rules", "broken", "touched"),
    [
        ("waves: [{name: canary, where: ['name=c1-t00'], max_failures: 0}, {name: rest}]", 20, 1),
        ("parallel: 1\n  stop: {max_failures: 2}", 20, 3),
        ("parallel: 1\n  stop: {max_failure_rate: 5%}", 20, 2),
        ("parallel: 1\n  stop: {max_failures: 2}", 2, 20),
    ],
    ids=["canary", "count", "rate", "not exceeded"],
)
def test_each_stop_rule_stops(jobplan: Jobplan, fleet: Fleet, rules: str, broken: int, touched: int) -> None:
    for name in fleet.databases[:broken]:
        fleet.run(1, name, "DROP TABLE audit")
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4,)), fleet.discover(1), f"rollout:\n  {rules}\n")
    ran = jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", targets)
    assert ran.code == 1, ran.err
    found = fleet.steps()
    assert sum(bool(found[f"c1/{name}"]) for name in fleet.databases) == touched
    assert 'step last: relation "audit" does not exist (42P01)' in ran.err
    assert f"Resume  jobplan fleet resume {fleet_id(jobplan)}" in ran.err


def test_a_target_that_cannot_be_reached_counts_as_failed_and_the_others_run(jobplan: Jobplan, fleet: Fleet) -> None:
    listed = ("{cluster: c1, database: t00}", "{cluster: c1, database: missing}", "{cluster: c2, database: t01}")
    gone = "targets:\n" + "".join(f"  - {one}\n" for one in listed)
    refused = fleet.clusters(slots=(2, 2)) + "  c9: {connection: {host: 127.0.0.1, port: 1}, slots: 1}\n"
    targets = targets_file(jobplan.folder, refused, gone + "  - {cluster: c9, database: away}\n")
    ran = jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", targets)
    assert ran.code == 1, ran.err
    assert states(jobplan) == {"t00": "succeeded", "missing": "unreachable", "t01": "succeeded", "away": "unreachable"}
    stopped = targets_file(
        jobplan.folder, refused, gone, "rollout: {parallel: 1, stop: {max_failures: 0}}\n", file="stop.yaml"
    )
    ran = jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", stopped)
    assert "1 unreachable, 1 succeeded, 1 not started" in ran.err


def test_resume_covers_failed_and_never_tried_targets_and_repeats_nothing(jobplan: Jobplan, fleet: Fleet) -> None:
    fleet.run(1, "t03", "DROP TABLE audit")
    targets = targets_file(
        jobplan.folder,
        fleet.clusters(slots=(4,)),
        fleet.discover(1),
        "rollout: {parallel: 1, stop: {max_failures: 0}}\n",
    )
    ran = jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", targets)
    assert ran.code == 1
    assert list(states(jobplan).values()) == ["succeeded"] * 3 + ["failed"] + ["pending"] * 16
    fleet.run(1, "t03", "CREATE TABLE audit (id int, at timestamptz)")
    ran = jobplan("fleet", "resume", "last")
    assert ran.code == 0, ran.err
    found = fleet.steps()
    assert all(dict(found[f"c1/{name}"]) == {"first": 1, "last": 1} for name in fleet.databases)
    again = jobplan("fleet", "resume", fleet_id(jobplan))
    assert again.code == 0
    assert fleet.steps() == found


@pytest.mark.parametrize("ledger", [True, False], ids=["ledger", "no ledger"])
def test_a_process_that_is_killed_with_members_in_flight_is_resumed(
    jobplan: Jobplan, fleet: Fleet, ledger: bool
) -> None:
    slow = STEPS.replace("pg_sleep(0.05)", "pg_sleep(0.3)")
    if ledger:
        for cluster in (1, 2):
            for name in fleet.databases:
                LedgerAdmin(fleet.dsn(cluster, name), "jobplan").install(__version__)
    targets = targets_file(
        jobplan.folder, fleet.clusters(slots=(20, 20)), fleet.discover(1, 2), "rollout: {parallel: 40}\n"
    )
    started = jobplan.start("fleet", "run", jobplan.plan(slow), "--targets", targets)
    until(lambda: in_flight(jobplan, 10), 60)
    started.send(signal.SIGKILL)
    started.ended()
    counts = re.search(r"has no process: (.*)", jobplan("fleet", "status").out)
    assert counts, "it was killed"
    assert sum(map(int, re.findall(r"\d+", counts[1]))) == 40, counts[1]
    assert "running" in counts[1]
    ran = jobplan("fleet", "resume", "last")
    if not ledger and ran.code == 7:  # without evidence it is a question; here the answer can be looked up
        marks, found = [], fleet.steps()
        for question in re.findall(r"--mark '?([^ ']+)=…", ran.err):
            target, step = question.split(":")
            done = target.replace("-", "/") in found and found[target.replace("-", "/")][step] > 0
            marks += ["--mark", f"{question}={'succeeded' if done or step in ('wait', 'other') else 'failed'}"]
        assert marks, ran.err
        ran = jobplan("fleet", "resume", "last", *marks)
    assert ran.code == 0, ran.err
    found = fleet.steps()
    assert all(
        dict(found[f"c{cluster}/{name}"]) == {"first": 1, "last": 1} for cluster in (1, 2) for name in fleet.databases
    )


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_the_members_and_starts_no_other(jobplan: Jobplan, fleet: Fleet, times: int) -> None:
    steps = """
    - {id: first, sql: "INSERT INTO witness VALUES ('first')"}
    - {id: long, needs: [first], sql: "SELECT pg_sleep(60)", timeout: 90s}
    """
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4,)), fleet.discover(1), "rollout: {parallel: 3}\n")
    started = jobplan.start("fleet", "run", jobplan.plan(steps), "--targets", targets)
    until(lambda: in_flight(jobplan, 3), 60)
    for _ in range(times):
        started.send(signal.SIGINT)
    ran = started.ended()
    assert ran.code == 130, ran.err
    found = list(states(jobplan).values())
    assert found.count("interrupted") == 3
    assert found.count("pending") == 17
    assert "Resume  jobplan fleet resume" in ran.err


def test_cancel_from_another_process(jobplan: Jobplan, fleet: Fleet) -> None:
    steps = """
    - {id: long, sql: "SELECT pg_sleep(60)", timeout: 90s}
    """
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4,)), fleet.discover(1), "rollout: {parallel: 2}\n")
    started = jobplan.start("fleet", "run", jobplan.plan(steps), "--targets", targets)
    until(lambda: in_flight(jobplan, 2), 60)
    assert jobplan("fleet", "cancel").code == 0
    ran = started.ended()
    assert ran.code == 1, ran.err
    assert "cancelled by" in ran.err
    assert list(states(jobplan).values()).count("pending") == 18


def test_a_part_of_a_fleet_run_is_shown_and_cancelled(jobplan: Jobplan, fleet: Fleet) -> None:
    """`--where` with status, show and cancel; the other targets continue."""
    steps = """
    - id: long
      sql: >
        SELECT pg_sleep(CASE WHEN current_database() < 't02' THEN 60 ELSE 0 END)
        FROM (SELECT count(*) FROM audit) AS one
      timeout: 90s
    """
    kept = [psycopg.connect(fleet.dsn(1, name)) for name in ("t02", "t03", "t04")]
    for session in kept:  # their steps wait, and so t05 does not begin
        session.execute("LOCK TABLE audit")
    some = "".join(
        f"  - {{cluster: c1, database: {name}, labels: {{half: {name > 't03'}}}}}\n" for name in fleet.databases[:6]
    )
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4,)), "targets:\n" + some, "rollout: {parallel: 4}\n")
    started = jobplan.start("fleet", "run", jobplan.plan(steps), "--targets", targets, "--fleet-id", "mine")
    until(lambda: in_flight(jobplan, 4), 60)
    status = jobplan("fleet", "status", "--where", "name=t00")
    assert "fleet run mine runs: 1 running" in status.out
    assert "  t00  mine-001  long" in status.out
    assert "t01" not in status.out
    elsewhere = jobplan("fleet", "status", "mine", "--targets", targets, "--where", "name=t01", "--journal", "no/runs")
    assert "  t01  mine-002  long" in elsewhere.out
    assert "t00" not in elsewhere.out
    assert jobplan("fleet", "cancel", "--where", "name=zz").code == 2
    cancelled = jobplan("fleet", "cancel", "mine", "--where", "name=t00")
    assert "request to cancel 1 target" in cancelled.out
    assert jobplan("fleet", "cancel", "mine", "--where", "name=t05").code == 0
    until(lambda: states(jobplan)["t00"] == "failed", 60)
    through_servers = ("--targets", targets, "--where", "name=t01", "--journal", "no/runs")
    assert jobplan("fleet", "cancel", "mine", *through_servers).code == 0
    for session in kept:
        session.close()
    ran = started.ended()
    assert ran.code == 1, ran.err
    assert list(states(jobplan).values()) == ["failed", "failed", "succeeded", "succeeded", "succeeded", "interrupted"]
    assert "before it began" in ran.err
    shown = json.loads(jobplan("fleet", "show", "--where", "half=True", "--format", "json").out)
    assert [member["target"] for member in shown["members"]] == ["t04", "t05"]


def test_a_full_cluster_makes_its_members_wait_or_busy_and_the_others_go_on(jobplan: Jobplan, fleet: Fleet) -> None:
    """max_connections is reached at one cluster while the fleet run works on two."""
    held: list[psycopg.Connection[Any]] = []
    targets = targets_file(
        jobplan.folder, fleet.clusters(slots=(4, 4)), fleet.discover(1, 2), "rollout: {parallel: 10}\n"
    )
    plan = jobplan.plan(STEPS)
    try:
        with psycopg.connect(fleet.servers[0].dsn) as one:
            row = one.execute("SELECT current_setting('max_connections')::int").fetchone()
        assert row is not None
        started = jobplan.start("fleet", "run", plan, "--targets", targets)
        until(lambda: in_flight(jobplan, 1), 60)
        for _ in range(row[0]):
            try:
                held.append(psycopg.connect(fleet.servers[0].dsn))
            except psycopg.OperationalError:
                break
        until(lambda: sum(one == "succeeded" for name, one in states(jobplan).items() if name[:2] == "c2") == 20, 60)
    finally:
        for connection in held:
            connection.close()
    ran = started.ended()
    resumed = ran if ran.code == 0 else jobplan("fleet", "resume", "last")
    assert resumed.code == 0, resumed.err
    found = fleet.steps()
    assert all(dict(found[f"c1/{name}"]) == {"first": 1, "last": 1} for name in fleet.databases)


def test_another_machine_shows_cancels_and_resumes_with_ledgers_only(jobplan: Jobplan, fleet: Fleet) -> None:
    for name in fleet.databases[:6]:
        LedgerAdmin(fleet.dsn(1, name), "jobplan").install(__version__)
    steps = (
        STEPS
        + '- {id: long, needs: [last], sql: "SELECT pg_sleep(CASE WHEN count(*) > 0 THEN 60 ELSE 0 END) FROM audit"}'
    )
    fleet.everywhere("INSERT INTO audit VALUES (1)")
    some = "".join(f"  - {{cluster: c1, database: {name}}}\n" for name in fleet.databases[:6])
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(8,)), "targets:\n" + some, "rollout: {parallel: 3}\n")
    plan = jobplan.plan(steps, defaults="{timeout: 90s, on_finish: wait}")
    started = jobplan.start("fleet", "run", plan, "--targets", targets, "--fleet-id", "mine", "--require-ledger")
    there = ("--targets", targets, "--journal", "elsewhere/runs")
    until(lambda: jobplan("fleet", "status", "mine", *there).out.count("  long") == 3, 60)
    cancelled = jobplan("fleet", "cancel", "mine", *there)
    assert cancelled.code == 0, cancelled.err
    assert "no run is active on any target" in cancelled.out
    ran = started.ended()
    assert ran.code == 1, ran.err
    assert "(the whole fleet run)" in ran.err
    assert list(states(jobplan).values()).count("pending") == 3
    fleet.everywhere("TRUNCATE audit")
    unknown = jobplan("fleet", "resume", "yours", plan, *there)
    assert unknown.code == 4
    assert "no ledger of 6 targets has a run" in unknown.err
    resumed = jobplan("fleet", "resume", "mine", plan, *there)
    assert resumed.code == 0, resumed.err
    assert "the ledgers have the runs of 3 targets" in resumed.err
    found = fleet.steps()
    assert all(dict(found[f"c1/{name}"]) == {"first": 1, "last": 1} for name in fleet.databases[:6])
    fleet.everywhere("TRUNCATE audit")


def test_a_part_of_a_fleet_run_can_be_resumed(jobplan: Jobplan, fleet: Fleet) -> None:
    for name in fleet.databases[:3]:
        fleet.run(1, name, "DROP TABLE audit")
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4,)), fleet.discover(1))
    assert jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", targets).code == 1
    fleet.run(1, "t01", "CREATE TABLE audit (id int, at timestamptz)")
    nothing = jobplan("fleet", "resume", "last", "--where", "name=zz")
    assert nothing.code == 2
    ran = jobplan("fleet", "resume", "last", "--where", "name=c1-t01")
    found = states(jobplan)
    assert {name for name, state in found.items() if state == "failed"} == {"c1-t00", "c1-t02"}
    assert ran.code == 1, "the fleet run as a whole has failures left"
    assert fleet.steps()["c1/t00"] == {"first": 1}


def test_a_report_that_standard_output_does_not_take_changes_the_exit_code(jobplan: Jobplan, fleet: Fleet) -> None:
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4,)), fleet.discover(1))
    run = f"run {jobplan.plan(STEPS)} --targets {targets} --where name=c1-t00"
    for command in (run, "show"):
        done = subprocess.run(
            ["bash", "-c", f"exec {sys.executable} -m runner fleet {command} --report markdown=- >/dev/full"],
            cwd=jobplan.folder,
            env=clean_environment({"PYTHONPATH": str(ROOT)}),
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert "cannot be written: No space left on device" in done.stderr
    assert states(jobplan) == {"c1-t00": "succeeded"}


def test_reports_are_written_at_the_end_and_from_the_record(jobplan: Jobplan, fleet: Fleet) -> None:
    fleet.run(1, "t03", "DROP TABLE audit")
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4,)), fleet.discover(1))
    kinds = ("html", "junit", "markdown", "prometheus")
    wanted = [word for kind in kinds for word in ("--report", f"{kind}=out.{kind}")]
    assert jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", targets, *wanted).code == 1
    texts = {kind: (jobplan.folder / f"out.{kind}").read_text(encoding="utf-8") for kind in kinds}
    assert all("audit" in texts[kind] for kind in ("html", "junit", "markdown"))
    assert texts["junit"].count("<testsuite ") == 20
    assert 'jobplan_fleet_target_success{plan="trial",target="c1-t03"} 0' in texts["prometheus"]
    for kind in kinds:
        assert jobplan("fleet", "show", "--report", f"{kind}=-").out == texts[kind]
    refused = jobplan("fleet", "run", "plan.yaml", "--targets", targets, "--report", "html=plan.yaml")
    assert refused.code == 2
    assert "would overwrite" in refused.err
    assert jobplan("fleet", "show", "--report", "jsonl=x").code == 2


# --- bad input ---


def refusal(jobplan: Jobplan, fleet: Fleet, *parts: str, where: tuple[str, ...] = ()) -> Ran:
    targets = targets_file(jobplan.folder, *parts)
    ran = jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", targets, *where)
    assert not (jobplan.folder / ".jobplan").exists(), "nothing begins"
    assert not any(fleet.steps().values())
    return ran


def test_two_names_for_one_server(jobplan: Jobplan, fleet: Fleet) -> None:
    first = fleet.clusters(slots=(1,))
    again = first.replace("clusters:\n", "").replace("c1:", "c7:")
    ran = refusal(
        jobplan, fleet, first, again, "targets: [{cluster: c1, database: t00}, {cluster: c7, database: t01}]\n"
    )
    assert ran.code == 4
    assert "the clusters c1 and c7 are one server" in ran.err


def test_two_targets_that_are_one_database(jobplan: Jobplan, fleet: Fleet) -> None:
    ran = refusal(
        jobplan,
        fleet,
        fleet.clusters(slots=(1,)),
        "targets: [{cluster: c1, database: t00, name: mine}]\n",
        fleet.discover(1),
    )
    assert ran.code == 4
    assert "two targets are the database t00 on c1" in ran.err


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT datname FROM pg_database", "returns no column named database"),
        ("SELECT datname AS database, 1 AS cluster FROM pg_database", "returns a column `cluster`"),
        ("SELECT nonsense AS database", 'column "nonsense" does not exist'),
        ("SELECT NULL AS database", "row 1 of its query has no database"),
        ("CREATE TABLE harm ()", "read-only transaction"),
        ("SELECT 't00' AS database FROM generate_series(1, 2)", "two targets are called t00"),
        ("SELECT datname AS database FROM pg_database WHERE false", "the fleet has no target"),
    ],
)
def test_a_discovery_that_cannot_be_trusted(jobplan: Jobplan, fleet: Fleet, query: str, says: str) -> None:
    ran = refusal(jobplan, fleet, fleet.clusters(slots=(1,)), f'discover: [{{cluster: c1, sql: "{query}"}}]\n')
    assert ran.code == 4, ran.err
    assert says in ran.err


def test_a_hostile_name_of_a_database_is_only_a_name(jobplan: Jobplan, fleet: Fleet) -> None:
    name = "a' b\\ host=evil \x1b[31m\"; DROP"
    quoted = name.replace('"', '""')
    fleet.run(1, "postgres", f'CREATE DATABASE "{quoted}" TEMPLATE tenant_template')
    try:
        query = "SELECT datname AS database FROM pg_database WHERE datname LIKE '%evil%'"
        targets = targets_file(
            jobplan.folder, fleet.clusters(slots=(1,)), f'discover: [{{cluster: c1, sql: "{query}"}}]\n'
        )
        ran = jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", targets)
        assert ran.code == 0, ran.err
        assert fleet.run(1, name, "SELECT count(*) FROM witness") == [(2,)]
        shown = jobplan("fleet", "show")
        assert "\x1b" not in shown.out + ran.err
    finally:
        fleet.run(1, "postgres", f'DROP DATABASE "{quoted}"')


def test_a_selection_of_nothing_and_a_wave_of_nothing(jobplan: Jobplan, fleet: Fleet) -> None:
    clusters = fleet.clusters(slots=(1,))
    ran = refusal(jobplan, fleet, clusters, fleet.discover(1), where=("--where", "tier=gold"))
    assert ran.code == 2
    assert "selects none of 20 targets" in ran.err
    wave = "rollout: {waves: [{name: canary, where: [canary=true]}, {name: rest}]}\n"
    ran = refusal(jobplan, fleet, clusters, fleet.discover(1), wave)
    assert ran.code == 4
    assert "no target is in the wave canary" in ran.err


def test_parameters_of_targets(jobplan: Jobplan, fleet: Fleet) -> None:
    steps = """
    - {id: keep, sql: "INSERT INTO witness VALUES (:'days')"}
    """
    plan = jobplan.plan(steps, params="{days: {type: integer, maximum: 500}}")
    good = "targets:\n  - {cluster: c1, database: t00, params: {days: 365}}\n  - {cluster: c1, database: t01}\n"
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(1,)), good)
    ran = jobplan("fleet", "run", plan, "--targets", targets)
    assert ran.code == 2
    assert "parameters of t01" in ran.err
    ran = jobplan("fleet", "run", plan, "--targets", targets, "--param", "days=30")
    assert ran.code == 0, ran.err
    assert fleet.run(1, "t00", "SELECT step FROM witness") == [("365",)]
    assert fleet.run(1, "t01", "SELECT step FROM witness") == [("30",)]
    bad = targets_file(jobplan.folder, fleet.clusters(slots=(1,)), good.replace("365", "999"), file="bad.yaml")
    ran = jobplan("fleet", "run", plan, "--targets", bad, "--param", "days=30")
    assert ran.code == 2
    assert "parameters of t00" in ran.err


def test_a_resume_uses_the_recorded_values_of_parameters(jobplan: Jobplan, fleet: Fleet) -> None:
    """Wherever they came from: the environment, a file, or the settings of the project."""
    steps = """
    - {id: keep, sql: "INSERT INTO witness VALUES (:'a' || :'b' || :'c' || :'d')"}
    - {id: canary, needs: [keep], sql: SELECT count(*) FROM audit}
    """
    plan = jobplan.plan(steps, params="{a: {type: string}, b: {type: string}, c: {type: string}, d: {type: string}}")
    waves = "rollout: {waves: [{name: canary, where: [name=t00], max_failures: 0}, {name: rest}]}\n"
    listed = "targets:\n  - {cluster: c1, database: t00}\n  - {cluster: c1, database: t01, params: {d: own}}\n"
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(1,)), listed, waves)
    settings, values = jobplan.folder / "jobplan.toml", jobplan.folder / "values.yaml"
    settings.write_text('[params]\na = "set "\n')
    values.write_text("b: 'file '\n")
    fleet.run(1, "t00", "ALTER TABLE audit RENAME TO away")
    arguments = ("--targets", targets, "--params-file", values, "--param", "d=given")
    ran = jobplan("fleet", "run", plan, *arguments, env={"JOBPLAN_PARAM_C": "env "})
    assert ran.code == 1
    settings.write_text('[params]\na = "other "\n')
    values.unlink()
    fleet.run(1, "t00", "ALTER TABLE away RENAME TO audit")
    ran = jobplan("fleet", "resume", "last", env={"JOBPLAN_PARAM_C": "other "})
    assert ran.code == 0, ran.err
    assert fleet.run(1, "t00", "SELECT step FROM witness") == [("set file env given",)]
    assert fleet.run(1, "t01", "SELECT step FROM witness") == [("set file env own",)]


def command_lines() -> Iterator[bytes]:
    """Yield the command line of each process of the machine; any of them may end meanwhile."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes()


def test_no_password_is_in_the_record_the_output_or_the_process_list(jobplan: Jobplan, fleet: Fleet) -> None:
    parts = conninfo_to_dict(fleet.servers[0].dsn)
    service = jobplan.folder / "service.conf"
    service.write_text(
        f"[c1]\nhost={parts['host']}\nport={parts['port']}\nuser={parts['user']}\npassword=S3cr3tWord\n",
        encoding="utf-8",
    )
    targets = targets_file(
        jobplan.folder,
        "clusters: {c1: {connection: {service: c1}, slots: 2}}\n",
        "targets: [{cluster: c1, database: t00}, {cluster: c1, database: missing}]\n",
    )
    slow = STEPS.replace("pg_sleep(0.05)", "pg_sleep(0.5)")
    env = {"PGSERVICEFILE": str(service)}
    started = jobplan.start("fleet", "run", jobplan.plan(slow), "--targets", targets, env=env)
    until(lambda: in_flight(jobplan, 1), 60)
    lists = b"".join(command_lines())
    ran = started.ended()
    assert ran.code == 1, ran.err
    everything = b"".join(path.read_bytes() for path in (jobplan.folder / ".jobplan").rglob("*") if path.is_file())
    for text in (everything, lists, ran.out.encode(), ran.err.encode()):
        assert b"S3cr3tWord" not in text
    assert states(jobplan) == {"t00": "succeeded", "missing": "unreachable"}


def test_the_dry_run_groups_findings_and_shows_drift(jobplan: Jobplan, fleet: Fleet) -> None:
    fleet.run(1, "t05", "DROP TABLE audit")
    fleet.run(2, "t07", "ALTER TABLE audit ADD COLUMN extra text")
    try:
        targets = targets_file(jobplan.folder, fleet.clusters(slots=(4, 4)), fleet.discover(1, 2))
        ran = jobplan("fleet", "dry-run", jobplan.plan(STEPS), "--targets", targets, "--format", "json")
        assert ran.code == 3, ran.err
        result = json.loads(ran.out)
        (missing,) = [one for one in result["findings"] if one["code"] == "JP601"]
        assert missing["targets"] == ["c1-t05"]
        (drift,) = result["drift"]
        assert drift["agree"] == 38
        assert drift["deviations"] == [
            {"difference": "does not exist", "targets": ["c1-t05"]},
            {"difference": "has column extra text", "targets": ["c2-t07"]},
        ]
        text = jobplan("fleet", "dry-run", jobplan.plan(STEPS), "--targets", targets).out
        assert "1 of 40 targets: c1-t05" in text
        assert not any(fleet.steps().values())
    finally:
        fleet.run(2, "t07", "ALTER TABLE audit DROP COLUMN extra")


def test_a_plan_that_has_changed_is_not_resumed_unasked(jobplan: Jobplan, fleet: Fleet) -> None:
    fleet.run(1, "t00", "DROP TABLE audit")
    targets = targets_file(jobplan.folder, fleet.clusters(slots=(4,)), "targets: [{cluster: c1, database: t00}]\n")
    assert jobplan("fleet", "run", jobplan.plan(STEPS), "--targets", targets).code == 1
    fleet.run(1, "t00", "CREATE TABLE audit (id int, at timestamptz)")
    jobplan.plan(STEPS + "\n- {id: more, sql: SELECT 1}\n")
    ran = jobplan("fleet", "resume", "last")
    assert ran.code == 2
    assert "has changed" in ran.err
    ran = jobplan("fleet", "resume", "last", "--allow-changed")
    assert ran.code == 0, ran.err
