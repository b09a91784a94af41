"""The run as one HTML page that needs nothing else: no network, no server, light and dark, on paper too.

The page's own style and scripts lie in `page/`. Its content security policy allows these, by their hashes, and nothing
else: should text from the server ever become markup, it could still neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine.state import FINAL, StepState
from runner.reports.html_data import page_json
from runner.reports.outcomes import failure_words, leftover_words
from runner.reports.report import RunReport, StepReport, run_end
from runner.reports.text import skip_words, step_result_words, xml_text

_SCRIPTS = ("base.js", "steps.js", "gantt.js", "dag.js")
#: Heading, what it sorts by, and the classes of its column.
_COLUMNS = (
    ("Step", "name", ""),
    ("State", "state", ""),
    ("Start", "start", "number wide"),
    ("Time", "time", "number"),
    ("Waited", "waited", "number wide"),
    ("Attempts", "attempts", "number wide"),
    ("Result", "result", "result"),
)


def html_page(report: RunReport) -> str:
    """Write the report as a page."""
    style, script = _asset("report.css"), "".join(_asset(name) for name in _SCRIPTS)
    counts = report.counts()
    return Template(_asset("page.html")).substitute(
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        jobplan=_text(report.jobplan),
        title=_text(f"{report.plan} {run_end(report)}, run {report.run}"),
        plan=_text(report.plan),
        end=_text(run_end(report)),
        end_class=_state_class(StepState.SUCCEEDED if report.exit_code == 0 else StepState.FAILED),
        meta="".join(_meta(report)),
        tiles="".join(_tiles(report)),
        messages=_messages(report),
        legend=_legend(report),
        critical=_critical(report),
        chips="".join(_chip(state, counts[state]) for state in StepState if counts[state]),
        headers="".join(_header(*column) for column in _COLUMNS),
        rows="\n".join(_row(report, index, step) for index, step in enumerate(report.steps) if not step.instances),
        about="".join(_about(report)),
        data=page_json(report),
    )


@cache
def _asset(name: str) -> str:
    return files("runner.reports").joinpath("page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _text(text: str) -> str:
    return escape(xml_text(text))


def _state_class(state: StepState) -> str:
    return f"s-{state if state in FINAL else StepState.RUNNING}"


def _meta(report: RunReport) -> Iterator[str]:
    if report.description:
        yield f"<p>{_text(report.description)}</p>"
    server = report.server.partition(" ")[0]
    yield (
        f"<p>run <code>{_text(report.run)}</code> on <code>{_text(report.database)}</code> "
        f"(PostgreSQL {_text(server)}), {_moment(report.started_at)}</p>"
    )


def _moment(seconds: float) -> str:
    return f"{rfc3339(seconds)[:19].replace('T', ' ')} UTC"


def _tiles(report: RunReport) -> Iterator[str]:
    yield _tile(format_duration(report.seconds), "duration")
    counts = report.counts()
    yield from (
        _tile(str(counts[state]), state.replace("_", " "), _state_class(state)) for state in StepState if counts[state]
    )
    yield _tile(f"{report.slots_used} of {report.slots}", "slots used")
    retries = sum(step.retries for step in report.leaves)
    if retries:
        yield _tile(str(retries), "retries" if retries > 1 else "retry")
    if report.warnings:
        yield _tile(f"{report.warnings:,}", "warnings" if report.warnings > 1 else "warning")
    waited = sum(step.waited for step in report.leaves)
    if waited >= 0.1:
        yield _tile(format_duration(waited), "waiting for slots")
    blocked = sum(step.blocked for step in report.leaves)
    if blocked:
        yield _tile(format_duration(blocked), "waiting for locks")


def _tile(number: str, words: str, style: str = "") -> str:
    return f'<div class="tile"><b class="{style}">{_text(number)}</b><span>{_text(words)}</span></div>'


def _messages(report: RunReport) -> str:
    if not report.messages:
        return ""
    lines = (
        f"<li>+{format_duration(max(0.0, message.at - report.started_at))} {_text(message.text)}</li>"
        for message in report.messages
    )
    return f'<section class="card body" aria-label="Messages"><ul class="messages">{"".join(lines)}</ul></section>'


def _legend(report: RunReport) -> str:
    seen = {one.outcome or StepState.RUNNING for step in report.steps for one in step.attempts}
    states = [state for state in StepState if state in seen]
    words = (f'<span class="{_state_class(state)}"><i></i>{state.replace("_", " ")}</span>' for state in states)
    locked = any(one.lock_waits for step in report.steps for one in step.attempts)
    locks = '<span class="blocked"><i></i>waiting for a lock</span>' if locked else ""
    hint = '<span class="hint">ctrl + wheel zooms, drag moves</span>'
    return f'{"".join(words)}<span class="hatched"><i></i>waiting</span>{locks}{hint}'


def _critical(report: RunReport) -> str:
    seconds = sum(report.spans[key] for key in report.critical)
    if not seconds:
        return ""
    count = f"{len(report.critical)} step{'s' if len(report.critical) > 1 else ''}"
    return f'<span class="s-critical">critical path</span> {count}, {format_duration(seconds)}'


def _chip(state: StepState, count: int) -> str:
    return (
        f'<button class="tool" type="button" data-state="{state}" aria-pressed="false">'
        f"{state.replace('_', ' ')} {count}</button>"
    )


def _header(words: str, key: str, style: str) -> str:
    return f'<th class="{style}" data-key="{key}" scope="col"><button type="button">{words}</button></th>'


def _row(report: RunReport, index: int, step: StepReport) -> str:
    ran = bool(step.attempts)
    start = f"+{format_duration(step.started_at - report.started_at)}" if ran and step.started_at is not None else ""
    cells = (
        f'<td class="name"><button type="button" aria-expanded="false">{_text(step.key)}</button></td>',
        f'<td class="state {_state_class(step.state)}"><span>{step.state.replace("_", " ")}</span></td>',
        f'<td class="number wide">{start}</td>',
        f'<td class="number">{format_duration(step.seconds) if ran else ""}</td>',
        f'<td class="number wide">{format_duration(step.waited) if step.waited >= 0.001 else ""}</td>',
        f'<td class="number wide">{len(step.attempts) or ""}</td>',
        f'<td class="result"><div>{_text(_result(step))}</div></td>',
    )
    return f'<tr class="step" data-index="{index}">{"".join(cells)}</tr>'


#: Characters of a message that the table shows; all of it stands in the step's details.
_SHOWN = 400


def _result(step: StepReport) -> str:
    if step.error is not None:
        message = step.error.message
        text = message if step.error.sqlstate is None else f"{message} (SQLSTATE {step.error.sqlstate})"
        text = failure_words(text, committed=step.committed)
    elif step.state is StepState.SKIPPED:
        text = skip_words(step)
    else:
        text = step_result_words(step)
    if step.leftovers:
        text += f"; left behind: {leftover_words(step.leftovers)}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _about(report: RunReport) -> Iterator[str]:
    facts = (
        ("Plan", report.file),
        ("Owner", report.owner),
        ("Plan's SHA-256", report.sha256),
        ("Database", f"{report.database}, as {report.user}"),
        ("Server", f"PostgreSQL {report.server}, pg_background {report.extension}"),
        ("Runner", f"jobplan {report.jobplan} on {report.host}"),
        ("Began", _moment(report.started_at)),
        ("Ended", _moment(report.finished_at)),
        ("Exit code", "none: the run did not end" if report.exit_code is None else str(report.exit_code)),
        *((f"Parameter {name}", value) for name, value in report.parameters.items()),
    )
    yield from (f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts if value)
