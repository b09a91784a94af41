"""`jobplan run --report otlp`: the trace of a run, as a receiver of OTLP over HTTP gets it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.acceptance.console import Database, Jobplan, clean_environment, until
from tests.unit.reports.test_notify import silent

PLAN = """
    - {id: first, sql: "LOCK TABLE gate; SELECT 'confidential'"}
    - {id: second, needs: [first], sql: SELECT 1/0}
"""
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Keeps the spans that it gets."""

    def __init__(self, code: int = 200, reason: str | None = None) -> None:
        self.requests: list[tuple[str, ExportTraceServiceRequest]] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            """Receives requests of OTLP."""

            def do_POST(self) -> None:
                """Keep the request."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                data = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
                requests.append((self.path, ExportTraceServiceRequest.FromString(data)))
                self.send_response(code, reason)
                if 300 <= code < 400:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def spans(self) -> dict[str, Any]:
        """Return the spans by name."""
        groups = [
            scope for _, one in self.requests for resource in one.resource_spans for scope in resource.scope_spans
        ]
        return {span.name: span for group in groups for span in group.spans}

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def collector(code: int = 200, reason: str | None = None) -> Iterator[Collector]:
    """Start a receiver that answers with this code, and stop it."""
    server = Collector(code, reason)
    try:
        yield server
    finally:
        server.close()


def attributes(span: Any) -> dict[str, Any]:
    """Return the attributes of a span or an event."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_run_is_a_trace_of_run_steps_and_attempts(db: Database, jobplan: Jobplan) -> None:
    db.run("CREATE TABLE gate ()")
    plan = jobplan.plan(PLAN)
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "TRACEPARENT": f"00-{TRACE}-{PARENT}-01"}
    with collector() as server:
        arguments = ("run", plan, "--dsn", db.dsn, "--report", f"otlp={server.url}", "--report", "jsonl=events.jsonl")
        with db.elsewhere() as blocker:
            blocker.execute("LOCK TABLE gate")
            started = jobplan.start(*arguments, env=env)
            until(lambda: jobplan.happened("attempt_blocked"), seconds=60)
        ran = started.ended()
        assert ran.code == 1, ran.err
        assert {path for path, _ in server.requests} == {"/v1/traces"}
        spans = server.spans()
        texts = str(server.requests)
    run, first = spans["run trial"], spans["attempt first"]
    assert run.trace_id.hex() == TRACE
    assert run.parent_span_id.hex() == PARENT
    assert spans["step first"].parent_span_id == run.span_id
    assert first.parent_span_id == spans["step first"].span_id
    assert all(span.trace_id == run.trace_id for span in spans.values())
    assert run.start_time_unix_nano <= first.start_time_unix_nano <= first.end_time_unix_nano <= run.end_time_unix_nano
    assert attributes(run)["jobplan.exit_code"] == 1
    assert attributes(first)["db.system.name"] == "postgresql"
    assert attributes(first)["db.namespace"] == db.value("SELECT current_database()")
    assert first.events[0].name == "lock wait"
    assert attributes(first.events[0])["db.collection.name"] == "public.gate"
    failed = spans["attempt second"]
    assert attributes(failed)["db.response.status_code"] == "22012"
    assert attributes(failed)["error.type"] == "22012"
    assert failed.status.code == 2
    assert first.status.code == 0
    assert "confidential" not in texts
    assert "SELECT" not in texts.replace('"SELECT"', "")


def test_the_environment_asks_for_a_trace(db: Database, jobplan: Jobplan) -> None:
    plan = jobplan.plan("- {id: work, sql: SELECT 1}")
    with collector() as server:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": server.url, "OTEL_SERVICE_NAME": "nightly"}
        assert jobplan("run", plan, "--dsn", db.dsn, env=env).code == 0
        assert "attempt work" in server.spans()
        (resource,) = (one.resource for _, request in server.requests for one in request.resource_spans)
        assert attributes(resource)["service.name"] == "nightly"
        server.requests.clear()
        for more in ({"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}):
            assert jobplan("run", plan, "--dsn", db.dsn, env={**env, **more}).code == 0
        assert server.requests == []


def test_a_collector_that_does_not_answer_is_a_warning(db: Database, jobplan: Jobplan) -> None:
    with silent() as url:
        ran = jobplan("run", jobplan.plan("- {id: work, sql: SELECT 1}"), "--dsn", db.dsn, "--report", f"otlp={url}")
    assert ran.code == 0
    assert "the trace was not sent" in ran.err


@pytest.mark.parametrize("code", [301, 302, 307, 404, 400])
def test_a_collector_that_does_not_take_the_trace_is_one_warning(db: Database, jobplan: Jobplan, code: int) -> None:
    """A redirect too: the spans are not sent to where it leads. What the collector says is not repeated."""
    plan = jobplan.plan("- {id: work, sql: SELECT 1}")
    with collector(code, "Reason \x1b[31m") as server:
        ran = jobplan("run", plan, "--dsn", db.dsn, "--report", f"otlp={server.url}/secret", "--format", "json")
    assert ran.code == 0
    lines = [json.loads(line) for line in ran.err.splitlines()]
    warnings = [line["message"] for line in lines if line["event"] == "warning"]
    assert warnings == ["jobplan: the trace was not sent: the collector refused it, or did not answer."]
    assert "secret" not in ran.err
    assert len(server.requests) == 1


def test_wrong_reports_are_refused(db: Database, jobplan: Jobplan) -> None:
    for more in (
        ["--report", "otlp=ftp://x"],
        ["--report", "otlp=http://"],
        ["--report", "otlp=http://h:port"],
        ["--report", "otlp", "--report", "otlp"],
    ):
        assert jobplan("run", jobplan.plan("- {id: work, sql: SELECT 1}"), "--dsn", db.dsn, *more).code == 2


def test_without_the_sdk_only_the_option_is_an_error(db: Database, jobplan: Jobplan) -> None:
    (jobplan.folder / "opentelemetry.py").write_text("raise ImportError('not installed')\n")
    plan = jobplan.plan("- {id: work, sql: SELECT 1}")
    env = {"PYTHONPATH": str(jobplan.folder), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    program = [sys.executable, "-m", "runner", "run", str(plan), "--dsn", db.dsn]
    for more, code in (([], 0), (["--report", "otlp"], 2)):
        ran = subprocess.run(
            [*program, *more],
            cwd=Path(__file__).parents[2],
            env={**clean_environment(env), "JOBPLAN_JOURNAL": str(jobplan.folder / "runs")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == code, ran.stderr
        assert ("needs OpenTelemetry" in ran.stderr) is bool(more)


def test_a_resume_is_a_trace_of_its_own_part(db: Database, jobplan: Jobplan) -> None:
    plan = jobplan.plan("- {id: first, sql: SELECT 1}\n- {id: second, needs: first, sql: SELECT * FROM gate}")
    assert jobplan("run", plan, "--dsn", db.dsn, "--run-id", "r1").code == 1
    db.run("CREATE TABLE gate ()")
    with collector() as server:
        env = {"TRACEPARENT": f"00-{TRACE}-{PARENT}-01"}
        resumed = jobplan("resume", "r1", "--report", f"otlp={server.url}", env=env)
        assert resumed.code == 0, resumed.err
        spans = server.spans()
    run = spans["run trial"]
    assert (run.trace_id.hex(), run.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(run)["jobplan.resumed"] is True
    assert attributes(run)["db.namespace"] == db.value("SELECT current_database()")
    assert attributes(run)["jobplan.run"] == "r1"
    assert "attempt second" in spans
    assert "attempt first" not in spans
