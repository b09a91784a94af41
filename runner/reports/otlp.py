"""A run as a trace of OpenTelemetry: run, steps and attempts as spans, waits for locks as events of a span.

The spans are made from the run's events when it has ended, and sent with OTLP over HTTP. What sends is the SDK of
OpenTelemetry (`pip install 'jobplan[otel]'`), which reads the OTEL_* variables. No span has SQL, values or messages of
the server. The end of a run waits for the collector a few seconds at most; a trace that was not sent is a warning.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from requests import Response, Session, TooManyRedirects

from runner.engine.events import (
    AttemptBlocked,
    AttemptFinished,
    AttemptLaunching,
    AttemptUnblocked,
    Event,
    Outcome,
    RunFinished,
    RunResumed,
    RunStarted,
    StepFinished,
    StepReady,
    beginning,
)
from runner.engine.ports import Sink
from runner.engine.state import BAD, RunState

#: Seconds that the end of a run waits for the collector.
PATIENCE: Final = 5.0
#: Variables with which the SDK makes its own session.
_CREDENTIALS: Final = frozenset(
    {"OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER", "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER"}
)
#: Spans in one request.
_BATCH: Final = 500
_GOOD: Final = frozenset({Outcome.SUCCEEDED, Outcome.DETACHED})


def span_exporter(endpoint: str | None) -> SpanExporter:
    """Return what sends spans to a collector, that of the environment if `endpoint` is None."""
    # The SDK's log has texts of the collector, perhaps with control characters, and parts of the URL.
    log = logging.getLogger("opentelemetry")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    session = None if _CREDENTIALS.intersection(os.environ) else _session()
    if endpoint is None:
        return OTLPSpanExporter(timeout=PATIENCE, session=session)
    path = "" if endpoint.rstrip("/").endswith("/v1/traces") else "/v1/traces"
    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}{path}", timeout=PATIENCE, session=session)


def _session() -> Session:
    """Return a session for which a redirect is an error: the SDK would take it as a success."""
    session = Session()
    session.hooks["response"].append(_refuse_redirect)
    return session


def _refuse_redirect(response: Response, *_: object, **__: object) -> None:
    if 300 <= response.status_code < 400:
        response.close()
        raise TooManyRedirects(f"the answer was {response.status_code}")


class Trace(Sink):
    """A sink that keeps the run's events and sends its trace at the end. `warn` gets what went wrong, in words."""

    def __init__(
        self,
        exporter: SpanExporter,
        run_id: str,
        *,
        environment: Mapping[str, str],
        warn: Callable[[str], None],
        history: Sequence[Event] = (),
    ) -> None:
        self._began = beginning(history)
        self._exporter = exporter
        self._run_id = run_id
        self._environment = environment
        self._warn = warn
        self._events: list[Event] = []

    def handle(self, event: Event, state: RunState) -> None:  # noqa: ARG002 - the protocol's
        """Keep the event."""
        self._events.append(event)

    def close(self) -> None:
        """Send the trace, and wait for a short time until that is done."""
        spans = _trace_of(self._events, self._run_id, self._environment, began=self._began)
        if not spans:
            return
        thread = threading.Thread(target=self._send, args=(spans,), name="jobplan-otlp", daemon=True)
        thread.start()
        thread.join(PATIENCE)
        if thread.is_alive():  # the process ends without it
            self._warn(f"the trace was not sent: the collector did not answer within {PATIENCE:g} s")

    def _send(self, spans: Sequence[ReadableSpan]) -> None:
        if not export(self._exporter, spans):
            self._warn("the trace was not sent: the collector refused it, or did not answer")


def export(exporter: SpanExporter, spans: Sequence[ReadableSpan]) -> bool:
    """Send spans, some at a time, and return whether the collector has accepted all of them."""
    batches = (spans[first : first + _BATCH] for first in range(0, len(spans), _BATCH))
    return all(exporter.export(batch) is SpanExportResult.SUCCESS for batch in batches)


def _trace_of(
    events: Sequence[Event], run_id: str, environment: Mapping[str, str], *, began: RunStarted | None
) -> Sequence[ReadableSpan]:
    """Return the spans of a run; none if it never began. Its parent is that of TRACEPARENT.

    `began` is the beginning of a run that is resumed.
    """
    if not any(isinstance(event, RunStarted | RunResumed) for event in events):
        return ()
    kept = InMemorySpanExporter()
    provider = provider_of(kept, environment)
    RunSpans(provider.get_tracer("jobplan"), run_id, parent_of(environment), began=began).build(events)
    return kept.get_finished_spans()


def provider_of(kept: SpanExporter, environment: Mapping[str, str]) -> TracerProvider:
    """Return what makes spans, which `kept` gets when they have ended."""
    named = "OTEL_SERVICE_NAME" in environment or "service.name" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(
        resource=Resource.create({} if named else {"service.name": "jobplan"}), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return provider


def parent_of(environment: Mapping[str, str]) -> Context:
    """Return the context that TRACEPARENT and TRACESTATE name."""
    names = {"traceparent": "TRACEPARENT", "tracestate": "TRACESTATE"}
    carrier = {key: environment[name] for key, name in names.items() if name in environment}
    return TraceContextTextMapPropagator().extract(carrier, Context())


class RunSpans:
    """Makes the spans of a run, event by event. `plan` is its name, for a run that is resumed; see `_trace_of`."""

    def __init__(
        self,
        tracer: Tracer,
        run_id: str,
        parent: Context,
        *,
        began: RunStarted | None = None,
        plan: str = "",
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        self._plan = plan
        self._attributes = attributes or {}
        self._began = began
        self._tracer = tracer
        self._run_id = run_id
        self._parent = parent
        self._run: Span | None = None
        self._steps: dict[str, Span] = {}
        self._attempts: dict[str, Span] = {}
        self._database: dict[str, str] = {"db.system.name": "postgresql"}

    def build(self, events: Sequence[Event]) -> None:
        """Make the spans of these events; what has no end ends with the last event."""
        for event in events:
            self._add(event)
        last = nanoseconds(events[-1].at)
        for span in (*self._attempts.values(), *self._steps.values(), *([] if self._run is None else [self._run])):
            span.set_attribute("jobplan.unfinished", value=True)
            span.end(last)

    def _add(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._begin_run(event, event)
            case RunResumed() if self._run is None:
                self._begin_run(event, self._began)
            case StepReady():
                self._step(event.step, event.at)
            case AttemptLaunching():
                self._begin_attempt(event)
            case AttemptBlocked() | AttemptUnblocked():
                self._lock_wait(event)
            case AttemptFinished():
                self._end_attempt(event)
            case StepFinished():
                self._end_step(event)
            case RunFinished() if self._run is not None:
                self._run.set_attribute("jobplan.exit_code", event.exit_code)
                end_span(self._run, event.at, None if event.exit_code == 0 else f"exit_code_{event.exit_code}")
                self._run = None

    def _begin_run(self, event: RunStarted | RunResumed, began: RunStarted | None) -> None:
        more: dict[str, str | bool | int | float] = {"jobplan.run": self._run_id, "process.pid": event.os_pid}
        more |= self._attributes
        if began is not None:
            self._database |= {"db.namespace": began.database}
            more |= {"jobplan.plan": began.plan, "db.user": event.user or began.user}
        if isinstance(event, RunResumed):
            more["jobplan.resumed"] = True
        name = f"run {self._plan or self._run_id}" if began is None else f"run {began.plan}"
        self._run = self._start(name, event.at, None, {**self._database, **more})

    def _step(self, step: str, at: float) -> Span:
        if step not in self._steps:
            self._steps[step] = self._start(f"step {step}", at, self._run, {"jobplan.step": step})
        return self._steps[step]

    def _begin_attempt(self, event: AttemptLaunching) -> None:
        attributes: dict[str, str | bool | int | float] = {**self._database, "jobplan.step": event.step}
        attributes["jobplan.attempt"] = event.attempt
        parent = self._step(event.step, event.at)
        self._attempts[event.step] = self._start(f"attempt {event.step}", event.at, parent, attributes)

    def _lock_wait(self, event: AttemptBlocked | AttemptUnblocked) -> None:
        span = self._attempts.get(event.step)
        if span is None:
            return
        attributes: dict[str, str | float] = {
            "jobplan.lock.mode": event.mode,
            "jobplan.lock.type": event.lock,
            "jobplan.lock.seconds": event.seconds,
        }
        if isinstance(event, AttemptBlocked):
            attributes["jobplan.lock.blockers"] = ", ".join(str(one.pid) for one in event.by)
            if event.relation is not None:
                attributes["db.collection.name"] = event.relation
        name = "lock wait" if isinstance(event, AttemptBlocked) else "lock wait ended"
        span.add_event(name, attributes, nanoseconds(event.at))

    def _end_attempt(self, event: AttemptFinished) -> None:
        span = self._attempts.pop(event.step, None)
        if span is None:
            return
        span.set_attribute("jobplan.outcome", str(event.outcome))
        if event.command_tag:
            span.set_attribute("db.operation.name", event.command_tag.rstrip("0123456789 "))
        if event.row_count is not None:
            span.set_attribute("db.response.returned_rows", event.row_count)
        state = None if event.error is None else event.error.sqlstate
        if state is not None:
            span.set_attribute("db.response.status_code", state)
        end_span(span, event.at, None if event.outcome in _GOOD else state or str(event.outcome))

    def _end_step(self, event: StepFinished) -> None:
        span = self._step(event.step, event.at)
        del self._steps[event.step]
        span.set_attribute("jobplan.state", event.state)
        end_span(span, event.at, event.state if event.state in BAD else None)

    def _start(
        self, name: str, at: float, parent: Span | None, attributes: Mapping[str, str | bool | int | float]
    ) -> Span:
        context = self._parent if parent is None else set_span_in_context(parent, self._parent)
        kind = SpanKind.CLIENT if name.startswith("attempt ") else SpanKind.INTERNAL
        return self._tracer.start_span(name, context, kind, attributes, start_time=nanoseconds(at))


def end_span(span: Span, at: float, error: str | None) -> None:
    """End a span. `error` is the kind of error, or None."""
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR)
    span.end(nanoseconds(at))


def nanoseconds(seconds: float) -> int:
    """Return a moment as spans have it."""
    return round(seconds * 1e9)
