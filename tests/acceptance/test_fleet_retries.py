"""`jobplan fleet run --or-resume`, entered again: beside a process that still runs, and after one that was killed."""

from __future__ import annotations

from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.console import Database, Jobplan, until

RUN = ("fleet", "run", "plan.yaml", "--targets", "targets.yaml", "--fleet-id", "f1")
STEPS = """
- id: slow
  sql: |
    DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.02); END LOOP; END $$;
    INSERT INTO done VALUES ('slow')
- {id: last, needs: [slow], sql: INSERT INTO done VALUES ('last')}
"""


def prepare(db: Database, jobplan: Jobplan) -> None:
    """Write a plan, and a targets file that has this database only."""
    db.run("CREATE TABLE done (step text); CREATE TABLE gate (open boolean)")
    jobplan.plan(STEPS)
    parts = conninfo_to_dict(db.dsn)
    where = f"{{host: {parts['host']}, port: {parts['port']}, user: {parts['user']}}}"
    (jobplan.folder / "targets.yaml").write_text(
        f"version: 1\nname: tenants\nclusters: {{c1: {{connection: {where}, slots: 2}}}}\n"
        f"targets: [{{name: here, cluster: c1, database: {parts['dbname']}}}]\n"
    )


def test_a_retry_waits_for_the_process_that_executes_the_fleet_run(db: Database, jobplan: Jobplan) -> None:
    prepare(db, jobplan)
    first = jobplan.start(*RUN, "--or-resume", "--wait-for-runner")
    until(lambda: bool(db.workers()))
    refused = jobplan(*RUN, "--or-resume")
    assert refused.code == 6
    second = jobplan.start(*RUN, "--or-resume", "--wait-for-runner")
    assert "waiting for its end" in second.read_line()
    db.run("INSERT INTO gate VALUES (true)")
    assert first.ended().code == 0
    assert second.ended().code == 0
    assert db.column("SELECT step FROM done ORDER BY step") == ["last", "slow"]


def test_a_fleet_run_whose_process_was_killed_before_it_began_is_begun(db: Database, jobplan: Jobplan) -> None:
    prepare(db, jobplan)
    db.run("INSERT INTO gate VALUES (true)")
    folder: Path = jobplan.folder / ".jobplan" / "fleets" / "f1"
    (folder / "runs").mkdir(parents=True)
    for name in ("targets.json", "fleet.jsonl"):
        (folder / name).touch()
    ran = jobplan(*RUN, "--or-resume")
    assert ran.code == 0, ran.err
    assert db.value("SELECT count(*) FROM done") == 2


def test_waiting_needs_a_fleet_run_that_can_be_resumed(db: Database, jobplan: Jobplan) -> None:
    prepare(db, jobplan)
    ran = jobplan(*RUN, "--wait-for-runner")
    assert ran.code == 2
    assert "--wait-for-runner needs --or-resume" in ran.err
