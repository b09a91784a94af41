"""The run as one self-contained HTML page: it needs no network and no server, and has light, dark and print styles.

The page's style and scripts are in `page/`. Its content security policy allows only these, by their hashes: if text
from the server became markup, it could not run or load anything. The scripts get the report as JSON that cannot end its
element, and the layout of the plan's graph.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine.events import ErrorDetails
from runner.engine.state import FINAL, StepState
from runner.plan.graph import topological_order
from runner.reports.messages import (
    COMMITTED,
    blocked_sessions,
    failure_words,
    leftover_words,
    lock_wait_words,
    remains_lines,
    result_words,
    skip_words,
    step_result_words,
    xml_text,
)
from runner.reports.plan_problems import excerpt
from runner.reports.run_report import AttemptReport, RunReport, StepReport, run_end
from runner.structs import Struct, asdict

#: A column with more steps than this is broken into several, side by side.
TALLEST = 40


class Layout(Struct, frozen=True, kw_only=True):
    """The column and row of each name; rows can be halves, because short columns are centred."""

    places: Mapping[str, tuple[int, float]]
    columns: int
    rows: int


def lay_out(needs: Mapping[str, Sequence[str]], last: Sequence[str] = ()) -> Layout:
    """Return the places of all names; those in `last` have their own columns after all others.

    A name stands to the right of everything that it needs, near its vertical middle.
    """
    layers = _layers({name: needed for name, needed in needs.items() if name not in last})
    tail = _layers({name: [need for need in needs[name] if need in last] for name in last})
    columns: list[list[str]] = []
    row_of: dict[str, float] = {}
    for layer in (*layers, *tail):
        ordered = sorted(layer, key=lambda name: _middle(needs[name], row_of))
        parts = [ordered[start : start + TALLEST] for start in range(0, len(ordered), TALLEST)]
        row_of.update((name, row - len(part) / 2) for part in parts for row, name in enumerate(part))
        columns += parts
    rows = max(map(len, columns), default=0)
    places = {
        name: (number, row + (rows - len(column)) / 2)
        for number, column in enumerate(columns)
        for row, name in enumerate(column)
    }
    return Layout(places=places, columns=len(columns), rows=rows)


def _layers(needs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    depth: dict[str, int] = {}
    for name in topological_order(needs):
        depth[name] = 1 + max((depth[need] for need in needs[name] if need in depth), default=-1)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name, at in depth.items():
        layers[at].append(name)
    return layers


def _middle(needed: Sequence[str], row_of: Mapping[str, float]) -> float:
    rows = [row_of[name] for name in needed if name in row_of]
    return sum(rows) / len(rows) if rows else 0.0


#: More lanes than this are only drawn if they were used.
_LANES = 32


def page_json(report: RunReport) -> str:
    """Return the data as JSON without characters that are special in HTML."""
    text = json.dumps(_run(report), ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _run(report: RunReport) -> dict[str, Any]:
    used = 1 + max((lane for step in report.steps for one in step.attempts for lane in one.lanes), default=-1)
    texts: dict[str, int] = {}
    return {
        "run": report.run,
        "started_at": report.started_at,
        "finished_at": report.finished_at,
        "lanes": max(used, min(report.slots, _LANES)),
        "critical": report.critical,
        "steps": [_step(step, texts) for step in report.steps],
        "texts": list(texts),
        "graph": _graph(report),
        "history": [{"run": past.run, "at": past.started_at, "steps": past.steps} for past in report.history],
    }


def _step(step: StepReport, texts: dict[str, int]) -> dict[str, Any]:
    return {
        "key": step.key,
        "state": str(step.state),
        "sql": texts.setdefault(step.sql, len(texts)),
        "description": step.description,
        "tags": step.tags,
        "pools": step.pools,
        "needs": [(need.step, str(need.on)) for need in step.needs],
        "parent": step.parent,
        "instances": step.instances,
        "detaches": step.detaches,
        "slots": step.slots,
        "timeout": step.timeout,
        "started_at": step.started_at,
        "seconds": step.seconds,
        "waited": step.waited,
        "skipped": skip_words(step),
        "error": _error(step.error, step.sql),
        "result_words": step_result_words(step),
        "committed": COMMITTED if step.committed else "",
        "leftovers": list(remains_lines(step)),
        "reason": step.reason,
        "waits": [asdict(wait) for wait in step.waits],
        "attempts": [_attempt(attempt) for attempt in step.attempts],
    }


def _attempt(attempt: AttemptReport) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "iteration": attempt.iteration,
        "launched_at": attempt.launched_at,
        "ended_at": attempt.ended_at,
        "server_started_at": attempt.server_started_at,
        "server_finished_at": attempt.server_finished_at,
        "lanes": attempt.lanes,
        "outcome": attempt.outcome,
        "error": _error(attempt.error, ""),
        "result_words": result_words(attempt),
        "pid": attempt.worker.pid if attempt.worker else None,
        "deadline": attempt.deadline,
        "cancel_reason": attempt.cancel_reason,
        "reason": attempt.reason,
        "blocked": blocked_sessions(attempt.blocked),
        "lost": attempt.lost,
        "lock_waits": [
            {"since": wait.since, "until": wait.until, "words": lock_wait_words(wait)} for wait in attempt.lock_waits
        ],
        "notices": [(notice.severity, notice.message) for notice in attempt.notices],
        "notices_dropped": attempt.notices_dropped,
        "result": asdict(attempt.result) if attempt.result is not None else None,
    }


def _error(error: ErrorDetails | None, sql: str) -> dict[str, Any] | None:
    if error is None:
        return None
    fields = {name: text for name, text in asdict(error).items() if text is not None}
    return fields | {"excerpt": list(excerpt(error, sql))}


def _graph(report: RunReport) -> dict[str, Any]:
    steps = {step.key: step for step in report.steps if step.parent is None}
    needs = {key: [need.step for need in step.needs] for key, step in steps.items()}
    layout = lay_out(needs, last=[key for key, step in steps.items() if step.in_finally])
    return {
        "nodes": [
            {"key": key, "column": column, "row": row, "seconds": report.spans[key]}
            for key, (column, row) in layout.places.items()
        ],
        "edges": [(need.step, key, str(need.on)) for key, step in steps.items() for need in step.needs],
        "columns": layout.columns,
        "rows": layout.rows,
    }


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
    if report.held >= 0.1:
        yield _tile(format_duration(report.held), "held")
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


#: Characters of a message in the table; the step's details have the whole message.
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
        ("Window", report.window),
        ("Began", _moment(report.started_at)),
        ("Ended", _moment(report.finished_at)),
        ("Exit code", "none: the run did not end" if report.exit_code is None else str(report.exit_code)),
        *((f"Parameter {name}", value) for name, value in report.parameters.items()),
    )
    yield from (f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts if value)
