"""SQL that catches every cancel: the run names its worker, exits with 7, and the record still knows it."""

from __future__ import annotations

import json
import signal

import pytest

from tests.acceptance.console import Database, Jobplan, Started, until

CATCHES = """
    - id: {name}
      sql: |
        DO $$ BEGIN
          LOOP
            BEGIN
              EXIT WHEN EXISTS (SELECT FROM switch);
              PERFORM pg_sleep(0.2);
            EXCEPTION WHEN query_canceled THEN NULL;
            END;
          END LOOP;
        END $$
      timeout: {timeout}
    - {{id: later, needs: [{name}], sql: CREATE TABLE later ()}}
    """
#: What ends the runs: the timeout of the step, that of the run, a signal, `jobplan cancel`.
ENDS = ("timeout", "run_timeout", "signal", "cancel")


class Stubborn:
    """One run of such SQL."""

    def __init__(self, jobplan: Jobplan, db: Database, ends: str) -> None:
        self._jobplan = jobplan
        self.ends = ends
        keys = {"run_timeout": "2s"} if ends == "run_timeout" else {}
        steps = CATCHES.format(name=ends, timeout="2s" if ends == "timeout" else "10m")
        self.plan = jobplan.plan(steps, file=f"{ends}.yaml", **keys)
        command = ("run", self.plan, "--dsn", db.dsn, "--report", f"jsonl={ends}.jsonl")
        self.started: Started = jobplan.start(*command)

    def has(self, event: str) -> bool:
        """Return whether the run has written such an event."""
        path = self._jobplan.folder / f"{self.ends}.jsonl"
        return path.exists() and f'"event": "{event}"' in path.read_text(encoding="utf-8")

    @property
    def run(self) -> str:
        """The id of the run."""
        return str(self._jobplan.events(f"{self.ends}.jsonl")[0]["run"])


@pytest.mark.slow
def test_sql_that_catches_query_canceled_ends_the_run_with_7_and_the_pid_whatever_ends_it(
    jobplan: Jobplan, db: Database
) -> None:
    """The four runs wait for their 30 seconds at the same time."""
    db.run("CREATE TABLE switch (off int)")
    runs = [Stubborn(jobplan, db, ends) for ends in ENDS]
    try:
        warned = jobplan("validate", runs[0].plan)
        assert "query_canceled" in warned.out + warned.err
        for one in runs:
            until(lambda one=one: one.has("attempt_running"))  # type: ignore[misc]
        pids = {one.ends: db.pid(one.ends) for one in runs}
        runs[2].started.send(signal.SIGTERM)
        cancelled = jobplan("cancel", runs[3].run, "--dsn", db.dsn, "--timeout", "1s")
        assert cancelled.code == 7, cancelled.out
        assert str(pids["cancel"]) in cancelled.out
        for one in runs:
            ran = one.started.ended(120.0)
            assert ran.code == 7, (one.ends, ran.err)
            assert f"{one.ends}: cannot be stopped: its worker (pid {pids[one.ends]}) still runs" in ran.err
            assert one.has("attempt_unstoppable")
        assert db.workers() == sorted(ENDS)
        seen = json.loads(jobplan("status", "--dsn", db.dsn, "--format", "json").out)
        own = [run for run in seen["runs"] if run["run"] in {one.run for one in runs}]  # tests may share the server
        assert {worker["pid"] for run in own for worker in run["workers"]} == set(pids.values())
    finally:
        db.run("INSERT INTO switch VALUES (1)")
    until(lambda: db.workers() == [])
    assert db.value("SELECT count(*) FROM pg_class WHERE relname = 'later'") == 0
