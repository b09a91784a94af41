"""The run as JUnit XML, which GitLab, Jenkins and GitHub's reporters read: a test case for each step.

The format is that of Jenkins' xunit plugin (junit-10.xsd), the strictest common format in which a test case can have
its own output. A step that failed, timed out or was cancelled is a failure; a step whose outcome is unknown is an
error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from runner.durations import format_duration
from runner.engine.state import StepState
from runner.engine.yielding import blocked_sessions
from runner.reports.messages import (
    error_block,
    failure_words,
    lock_wait_words,
    remains_lines,
    result_words,
    skip_words,
    step_result_words,
    xml_text,
)
from runner.reports.run_report import AttemptReport, RunReport, StepReport

_FAILURES = frozenset({StepState.FAILED, StepState.TIMED_OUT, StepState.CANCELLED})
#: Final states. A step has another state if the run was killed, or if the report was written before its end.
_ENDED = (
    frozenset({StepState.SUCCEEDED, StepState.FAILED_ALLOWED, StepState.DETACHED, StepState.SKIPPED, StepState.UNKNOWN})
    | _FAILURES
)


def junit_xml(report: RunReport) -> str:
    """Write the report as JUnit XML."""
    kinds = Counter(_kind(step) for step in report.leaves)
    counts = {
        "tests": str(len(report.leaves)),
        "failures": str(kinds["failure"]),
        "errors": str(kinds["error"]),
        "time": _seconds(report.seconds),
    }
    root = ET.Element("testsuites", {"name": report.plan, **counts})
    suite = ET.SubElement(
        root,
        "testsuite",
        {
            "name": report.plan,
            **counts,
            "skipped": str(kinds["skipped"]),
            "timestamp": datetime.fromtimestamp(report.started_at, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
            "hostname": xml_text(report.started.host),
            "file": xml_text(report.started.file),
        },
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(report):
        ET.SubElement(properties, "property", {"name": name, "value": xml_text(value)})
    for step in report.leaves:
        suite.append(_case(report, step))
    output = "\n".join(message.text for message in report.messages)
    if output:
        ET.SubElement(suite, "system-out").text = xml_text(output)
    return xml_document(root)


def xml_document(root: ET.Element) -> str:
    """Return an XML document, indented."""
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _properties(report: RunReport) -> Iterator[tuple[str, str]]:
    yield "run", report.run
    yield "file", report.started.file
    yield "database", report.started.database
    yield "server", report.started.server
    yield "pg_background", report.started.extension
    yield "jobplan", report.started.jobplan
    yield "sha256", report.started.sha256
    if report.window:
        yield "window", report.window
    yield from ((f"param.{name}", value) for name, value in report.parameters.items())


def _kind(step: StepReport) -> str:
    if step.state in _FAILURES:
        return "failure"
    if step.state is StepState.SKIPPED:
        return "skipped"
    return "error" if step.state is StepState.UNKNOWN or step.state not in _ENDED else "passed"


def _case(report: RunReport, step: StepReport) -> ET.Element:
    case = ET.Element(
        "testcase",
        {
            "name": xml_text(step.key),
            "classname": report.plan,
            "time": _seconds(step.seconds),
        },
    )
    kind = _kind(step)
    if kind == "skipped":
        ET.SubElement(case, "skipped", {"message": xml_text(skip_words(step))})
    elif kind != "passed":
        case.append(_trouble(step, kind))
    output = "\n".join(_output(step))
    if output:
        ET.SubElement(case, "system-out").text = xml_text(output)
    return case


def _trouble(step: StepReport, kind: str) -> ET.Element:
    error = step.error
    words = step.state.replace("_", " ") if step.state in _ENDED else f"not ended: {step.state}"
    message = f"{words}: {failure_words(error.message, committed=step.committed)}" if error else words
    element = ET.Element(
        kind, {"message": xml_text(message), "type": error.sqlstate if error and error.sqlstate else words}
    )
    lines = [*([error_block(error, step.sql)] if error else [words]), *remains_lines(step)]
    element.text = xml_text("\n".join(lines))
    return element


def _output(step: StepReport) -> Iterator[str]:
    """Yield the result and the messages of each attempt."""
    if step.state is StepState.FAILED_ALLOWED and step.error is not None:
        yield f"failed, which is allowed: {failure_words(step.error.message, committed=step.committed)}"
    if step.iterations:
        yield step_result_words(step)
    yield from remains_lines(step)
    for attempt in step.attempts:
        yield _attempt(attempt)
        yield from map(lock_wait_words, attempt.lock_waits)
        yield from (f"blocked: {words}" for words in [blocked_sessions(attempt.blocked)] if words)
        yield from (f"{notice.severity}:  {notice.message}" for notice in attempt.notices)
        if attempt.notices_dropped:
            yield f"{attempt.notices_dropped:,} more notices were dropped"
        if attempt.result is not None and attempt.result.columns:
            yield " | ".join(attempt.result.columns)
            yield from (" | ".join("NULL" if value is None else value for value in row) for row in attempt.result.rows)


def _attempt(attempt: AttemptReport) -> str:
    iteration = f"iteration {attempt.iteration}, " if attempt.iteration > 1 else ""
    end = attempt.outcome.replace("_", " ") if attempt.outcome else "not ended"
    words = f"{iteration}attempt {attempt.number}: {end} in {format_duration(attempt.seconds)}"
    result = result_words(attempt)
    pid = f" (pid {attempt.worker.pid})" if attempt.worker else ""
    why = f": {attempt.error.message}" if attempt.error else ""
    return f"{words}{pid}{why}{f': {result}' if result else ''}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"
