"""A fleet run sends one message at its end, and is one trace: with the real receivers of the tests of runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.console import Jobplan, until
from tests.acceptance.fleets import Fleet, started_fleet, targets_file
from tests.acceptance.test_otlp import PARENT, TRACE, attributes, collector
from tests.unit.reports.test_notify import PATH_OF_URL, receiver, silent

PLAN = "- {id: work, sql: INSERT INTO audit VALUES (1)}\n- {id: more, needs: work, sql: SELECT 1}"


@pytest.fixture(scope="module")
def clusters() -> Iterator[Fleet]:
    """One cluster with three databases."""
    with started_fleet(1, 3) as fleet:
        yield fleet


@pytest.fixture
def fleet(clusters: Fleet) -> Fleet:
    """The cluster, as if no test had used it."""
    clusters.clear()
    return clusters


@pytest.fixture
def command(jobplan: Jobplan, fleet: Fleet, tmp_path: Path) -> list[str | Path]:
    """A fleet run of the three databases, one at a time."""
    targets = targets_file(tmp_path, fleet.clusters(slots=[1], parallel=1), fleet.discover(1))
    return ["fleet", "run", jobplan.plan(PLAN), "--targets", targets]


def break_one(fleet: Fleet) -> None:
    fleet.run(1, "t01", "DROP TABLE audit")


def mend(fleet: Fleet) -> None:
    fleet.run(1, "t01", "CREATE TABLE audit (id int, at timestamptz)")


def test_a_fleet_run_sends_one_message_with_counts_and_one_when_it_has_recovered(
    jobplan: Jobplan, fleet: Fleet, command: list[str | Path]
) -> None:
    break_one(fleet)
    with receiver(200) as server:
        env = {"JOBPLAN_NOTIFY": server.url}
        assert jobplan(*command, "--fleet-id", "f1", env=env).code == 1
        (message,) = server.got
        assert (message["event"], message["fleet"], message["plan"], message["exit_code"]) == (
            "failure",
            "f1",
            "trial",
            1,
        )
        assert message["counts"] == {"failed": 1, "succeeded": 2}
        assert message["targets"] == [{"target": "c1-t01", "state": "failed"}]
        assert "1 failed, 2 succeeded (c1-t01)" in message["text"]
        assert "audit" not in str(server.got)
        mend(fleet)
        resumed = jobplan("fleet", "resume", "f1", env=env)
        assert resumed.code == 0, resumed.err
        assert [one["event"] for one in server.got] == ["failure", "recovery"]
        assert "succeeded after a failure: 3 succeeded" in server.got[1]["text"]
        assert jobplan(*command, "--fleet-id", "f2", env=env).code == 0  # the one before succeeded: nothing to say
        assert len(server.got) == 2
    written = [file for file in jobplan.folder.rglob("*") if file.is_file()]
    assert not [file for file in written if PATH_OF_URL in file.read_text("latin-1")]


def test_the_next_fleet_run_of_the_plan_reports_the_recovery(
    jobplan: Jobplan, fleet: Fleet, command: list[str | Path]
) -> None:
    break_one(fleet)
    assert jobplan(*command).code == 1
    mend(fleet)
    with receiver(200) as server:
        assert jobplan(*command, "--notify", server.url).code == 0
        assert [one["event"] for one in server.got] == ["recovery"]


def test_on_request_each_target_that_fails_has_a_message(
    jobplan: Jobplan, fleet: Fleet, command: list[str | Path]
) -> None:
    break_one(fleet)
    with receiver(200) as server:
        ran = jobplan(*command, "--notify", server.url, "--notify-each")
        assert ran.code == 1
        assert [one.get("target") for one in server.got] == ["c1-t01", None]
        assert server.got[0]["steps"] == [{"step": "work", "sqlstate": "42P01"}]
        assert server.got[0]["event"] == "failure"
        assert PATH_OF_URL not in ran.out + ran.err


def test_a_target_that_is_blocked_for_too_long_has_a_message(
    jobplan: Jobplan, fleet: Fleet, command: list[str | Path]
) -> None:
    with receiver(200) as server, psycopg.connect(fleet.dsn(1, "t02")) as blocker:
        blocker.execute("LOCK TABLE audit")
        started = jobplan.start(*command, "--notify", server.url, "--notify-blocked", "1s")
        until(lambda: bool(server.got), seconds=60)
        blocker.rollback()
        assert started.ended().code == 0
        (message,) = server.got
    assert (message["event"], message["step"], message["database"]) == ("blocked", "work", "t02")
    assert message["relation"] == "public.audit"


def test_a_fleet_run_that_cannot_begin_is_a_failure(jobplan: Jobplan, command: list[str | Path]) -> None:
    jobplan.plan("- {id: work, sql: SELECT :missing}")
    with receiver(200) as server:
        env = {"JOBPLAN_NOTIFY": server.url}
        assert jobplan(*command, env=env).code == 3
        assert jobplan("fleet", "resume", "nothing", env=env).code == 4
        assert [(one["event"], one["exit_code"]) for one in server.got] == [("failure", 3), ("failure", 4)]


def test_a_fleet_run_is_one_trace(jobplan: Jobplan, fleet: Fleet, command: list[str | Path]) -> None:
    break_one(fleet)
    env = {"TRACEPARENT": f"00-{TRACE}-{PARENT}-01"}
    with collector() as server:
        ran = jobplan(*command, "--fleet-id", "f1", "--report", f"otlp={server.url}", env=env)
        assert ran.code == 1, ran.err
        spans = all_spans(server)
        texts = str(server.requests)
        (whole,) = [span for span in spans if span.name == "fleet trial"]
        assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
        assert attributes(whole)["jobplan.fleet"] == "f1"
        assert attributes(whole)["jobplan.targets.failed"] == 1
        assert attributes(whole)["jobplan.exit_code"] == 1
        assert whole.status.code == 2
        runs = {attributes(span)["jobplan.target"]: span for span in spans if span.name == "run trial"}
        assert sorted(runs) == ["c1-t00", "c1-t01", "c1-t02"]
        for target, run in runs.items():
            assert run.parent_span_id == whole.span_id
            assert run.trace_id == whole.trace_id
            assert attributes(run)["db.namespace"] == target.removeprefix("c1-")
            assert whole.start_time_unix_nano <= run.start_time_unix_nano <= run.end_time_unix_nano
            assert run.end_time_unix_nano <= whole.end_time_unix_nano
            steps = {span.name for span in spans if span.parent_span_id == run.span_id}
            assert "step work" in steps
        assert "INSERT INTO" not in texts
        mend(fleet)
        server.requests.clear()
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": server.url}  # the environment asks for it
        assert jobplan("fleet", "resume", "f1", env=env).code == 0
        spans = all_spans(server)
    (whole,) = [span for span in spans if span.name == "fleet trial"]
    assert attributes(whole)["jobplan.resumed"] is True
    (run,) = [span for span in spans if span.name == "run trial"]
    assert attributes(run)["jobplan.target"] == "c1-t01"
    assert attributes(run)["jobplan.resumed"] is True
    assert run.parent_span_id == whole.span_id


def test_a_target_that_cannot_be_reached_is_in_the_trace(jobplan: Jobplan, fleet: Fleet, tmp_path: Path) -> None:
    targets = targets_file(
        tmp_path,
        fleet.clusters(slots=[1]),
        "targets:\n  - {cluster: c1, database: t00}\n  - {cluster: c1, database: absent}\n",
    )
    with collector() as server:
        plan = jobplan.plan(PLAN)
        assert jobplan("fleet", "run", plan, "--targets", targets, "--report", f"otlp={server.url}").code != 0
        spans = {attributes(span).get("jobplan.target"): span for span in all_spans(server) if span.name == "run trial"}
    assert spans.keys() == {"absent", "t00"}
    assert "error.type" in attributes(spans["absent"])
    assert spans["absent"].parent_span_id == spans["t00"].parent_span_id


def test_silent_receivers_change_neither_the_fleet_run_nor_its_exit_code(
    jobplan: Jobplan, fleet: Fleet, command: list[str | Path]
) -> None:
    break_one(fleet)
    with silent() as url:
        ran = jobplan(*command, "--notify", url, "--report", f"otlp={url.rpartition('/services')[0]}")
    assert ran.code == 1
    assert "a notification to 127.0.0.1 was not sent" in ran.err
    assert "the trace was not sent" in ran.err
    assert PATH_OF_URL not in ran.err


def test_wrong_options_are_refused(jobplan: Jobplan, command: list[str | Path]) -> None:
    for more in (["--notify-each"], ["--notify-blocked", "5m"], ["--notify", "ftp://x"], ["--report", "otlp=ftp://x"]):
        assert jobplan(*command, *more).code == 2, more


def all_spans(server: Any) -> list[Any]:
    return [
        span
        for _, request in server.requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
