"""A fleet run as a trace of OpenTelemetry: its span, and below it the run of each target with its steps and attempts.

The spans of a target are sent when its run has ended, by a thread; that of the fleet run at the end. So the memory does
not depend on the number of targets, and a collector that does not answer delays only the end, by a few seconds.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span, set_span_in_context

from runner.engine.events import Event
from runner.engine.ports import Sink
from runner.engine.state import RunState
from runner.fleet import events as ev
from runner.fleet.coordinator import FleetSink
from runner.fleet.rollout import FleetState, Member
from runner.reports.otlp import PATIENCE, RunSpans, end_span, export, nanoseconds, parent_of, provider_of

#: Targets whose spans wait for the collector; those of further ones are left out.
_MOST_WAITING: Final = 200


class FleetTrace(FleetSink):
    """A sink of a fleet run that sends its trace. `warn` gets what went wrong, in words, once."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        environment: Mapping[str, str],
        warn: Callable[[str], None],
    ) -> None:
        self._exporter = exporter
        self._warn = warn
        self._warned = False
        self._kept = InMemorySpanExporter()
        self._tracer = provider_of(self._kept, environment).get_tracer("jobplan")
        self._parent = parent_of(environment)
        self._span: Span | None = None
        self._plan = ""
        self._last = 0.0
        #: When the members that run began, without those whose run has made its spans.
        self._began: dict[str, float] = {}
        self._waiting: queue.Queue[Sequence[ReadableSpan] | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="jobplan-otlp", daemon=True)

    def member(self, member: Member) -> MemberTrace:
        """Return the sink for the run of a target."""
        return MemberTrace(self, member)

    def handle(self, event: ev.FleetEvent, state: FleetState) -> None:
        """Begin and end spans as the event says."""
        self._last = event.at
        match event:
            case ev.FleetStarted() | ev.FleetResumed():
                self._begin(event, state)
            case ev.MemberStarted():
                self._began[event.target] = event.at
            case ev.MemberFinished():
                began = self._began.pop(event.target, None)
                if began is not None:  # its run never began
                    self._not_begun(event, state.members[event.target], began)
            case ev.FleetFinished():
                self._end(event, state)

    def add(self, member: Member, events: Sequence[Event]) -> None:
        """Make and send the spans of a run that has ended."""
        if not events:
            return
        self._began.pop(member.target.name, None)
        attributes = {**self._about(member), "db.namespace": member.target.database}
        RunSpans(self._tracer, member.run, self._context(), plan=self._plan, attributes=attributes).build(events)
        self._enqueue()

    def close(self) -> None:
        """Send the span of the fleet run, and wait for a short time until everything is sent."""
        if self._span is not None:  # an error ended the command
            self._span.set_attribute("jobplan.unfinished", value=True)
            self._span.end(nanoseconds(self._last))
            self._span = None
            self._enqueue()
        if not self._thread.is_alive():
            return
        try:
            self._waiting.put(None, timeout=PATIENCE)
        except queue.Full:
            pass
        else:
            self._thread.join(PATIENCE)
        if self._thread.is_alive():  # the process ends without it
            self._report(f"the trace was not sent: the collector did not answer within {PATIENCE:g} s")

    def _begin(self, event: ev.FleetStarted | ev.FleetResumed, state: FleetState) -> None:
        self._plan = "" if state.started is None else state.started.plan
        attributes: dict[str, str | bool | int] = {
            "jobplan.fleet": state.fleet,
            "jobplan.plan": self._plan,
            "jobplan.targets": len(state.members),
            "process.pid": event.os_pid,
        }
        if isinstance(event, ev.FleetResumed):
            attributes["jobplan.resumed"] = True
        start = nanoseconds(event.at)
        self._span = self._tracer.start_span(
            f"fleet {self._plan}", self._parent, attributes=attributes, start_time=start
        )
        self._thread.start()

    def _end(self, event: ev.FleetFinished, state: FleetState) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        span.set_attribute("jobplan.exit_code", event.exit_code)
        for kind, number in state.counts().items():
            span.set_attribute(f"jobplan.targets.{kind}", number)
        end_span(span, event.at, f"exit_code_{event.exit_code}" if event.exit_code else None)
        self._enqueue()

    def _not_begun(self, event: ev.MemberFinished, member: Member, began: float) -> None:
        attributes: dict[str, str | int] = {**self._about(member), "jobplan.exit_code": event.exit_code}
        start = nanoseconds(began)
        span = self._tracer.start_span(f"run {self._plan}", self._context(), attributes=attributes, start_time=start)
        span.set_attribute("jobplan.state", str(event.state))
        end_span(span, event.at, str(event.state) if event.exit_code else None)
        self._enqueue()

    def _about(self, member: Member) -> dict[str, str]:
        return {
            "jobplan.target": member.target.name,
            "jobplan.cluster": member.target.cluster,
            "jobplan.wave": member.wave,
            "jobplan.run": member.run,
        }

    def _context(self) -> Context:
        return self._parent if self._span is None else set_span_in_context(self._span, self._parent)

    def _enqueue(self) -> None:
        """Hand over the spans that have ended; if too many wait, they are left out."""
        spans = self._kept.get_finished_spans()
        self._kept.clear()
        try:
            self._waiting.put_nowait(spans)
        except queue.Full:
            self._report("the trace is not complete: the collector is too slow")

    def _work(self) -> None:
        while (spans := self._waiting.get()) is not None:
            if not export(self._exporter, spans):
                self._report("the trace was not sent: the collector refused it, or did not answer")

    def _report(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(text)


class MemberTrace(Sink):
    """The sink for the run of one target: it keeps the events until the run has ended."""

    def __init__(self, trace: FleetTrace, member: Member) -> None:
        self._trace = trace
        self._member = member
        self._events: list[Event] = []

    def handle(self, event: Event, state: RunState) -> None:  # noqa: ARG002 - the protocol's
        """Keep the event."""
        self._events.append(event)

    def close(self) -> None:
        """Make the spans; a thread sends them."""
        events, self._events = self._events, []
        self._trace.add(self._member, events)
