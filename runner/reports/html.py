"""The run as one self-contained HTML page: it needs no network and no server, and has light, dark and print styles.

The page's style and scripts are in `page/`. Its content security policy allows only these, by their hashes: if text
from the server became markup, it could not run or load anything. The scripts get the report as JSON that cannot end its
element, and the layout of the plan's graph.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from runner.durations import format_duration
from runner.engine.events import ErrorDetails
from runner.engine.state import StepState
from runner.engine.yielding import blocked_sessions
from runner.phrases import counted
from runner.plan.graph import topological_order
from runner.reports.messages import (
    COMMITTED,
    failure_words,
    leftover_words,
    lock_wait_words,
    remains_lines,
    result_words,
    skip_words,
    step_result_words,
)
from runner.reports.page_summary import (
    MOST_HIGHLIGHTED,
    SPLIT,
    html_text,
    moment,
    name_class,
    split_bar,
    state_class,
    status_line,
    tiles,
    time_split,
    went_wrong,
)
from runner.reports.plan_problems import excerpt
from runner.reports.run_report import AttemptReport, RunReport, StepReport
from runner.sql.tokens import highlights
from runner.structs import Struct, asdict, picked

#: A column with more steps than this is broken into several, side by side.
TALLEST = 40


class Layout(Struct, frozen=True, kw_only=True):
    """The column and row of each name; rows can be halves, because short columns are centred."""

    places: Mapping[str, tuple[int, float]]
    columns: int
    rows: int


def lay_out(needs: Mapping[str, Sequence[str]], last: Sequence[str]) -> Layout:
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
    numbers = {step.key: number for number, step in enumerate(report.steps)}
    return {
        **picked(report, "run", "started_at", "finished_at", "critical", "gaps"),
        "lanes": max(used, min(report.slots, _LANES)),
        "failed": report.exit_code != 0,
        "steps": [_step(step, texts) | {"above": numbers.get(step.parent or "")} for step in report.steps],
        "texts": list(texts),
        "marks": list(_marks(texts)),
        "graph": _graph(report),
        "history": [{"run": past.run, "at": past.started_at, "steps": past.steps} for past in report.history],
    }


#: Most characters of SQL that are highlighted in one page.
_MOST_HIGHLIGHTED = 400_000


def _marks(texts: Iterable[str]) -> Iterator[list[int]]:
    """Yield what to highlight in each SQL text: for each mark its distance from the last one, its length and kind."""
    room = _MOST_HIGHLIGHTED
    for text in texts:
        found: list[int] = []
        if len(text) <= min(room, MOST_HIGHLIGHTED):
            room -= len(text)
            done = 0
            for mark in highlights(text):
                found += (mark.start - done, mark.end - mark.start, _KINDS.index(mark.kind))
                done = mark.end
        yield found


#: The kinds of marks, by their number in the page's data; `base.js` has the same.
_KINDS = ("keyword", "string", "number", "comment", "name")


def _step(step: StepReport, texts: dict[str, int]) -> dict[str, Any]:
    return {
        **picked(step, "key", "state", "description", "tags", "pools", "parent", "instances", "detaches", "slots"),
        **picked(step, "timeout", "started_at", "seconds", "waited", "retries", "reason"),
        "sql": texts.setdefault(step.sql, len(texts)),
        "needs": [(need.step, str(need.on)) for need in step.needs],
        "place": f"{step.file}:{step.line}" if step.file and step.line is not None else step.file,
        "split": [[words, getattr(step.time_split, name)] for name, words in SPLIT],
        "skipped": skip_words(step),
        "error": _error(step.error, step.sql),
        "result_words": step_result_words(step),
        "committed": COMMITTED if step.committed else "",
        "leftovers": list(remains_lines(step)),
        "waits": [asdict(wait) for wait in step.waits],
        "attempts": [_attempt(attempt) for attempt in step.attempts],
    }


def _attempt(attempt: AttemptReport) -> dict[str, Any]:
    return {
        **picked(attempt, "number", "iteration", "launched_at", "ended_at", "server_started_at", "server_finished_at"),
        **picked(attempt, "lanes", "outcome", "deadline", "cancel_reason", "reason", "lost", "notices_dropped"),
        **picked(attempt.worker, "pid"),
        "error": _error(attempt.error, ""),
        "result_words": result_words(attempt),
        "blocked": blocked_sessions(attempt.blocked),
        "lock_waits": [
            {"since": wait.since, "until": wait.until, "words": lock_wait_words(wait)} for wait in attempt.lock_waits
        ],
        "notices": [(notice.severity, notice.message) for notice in attempt.notices],
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
    last = [key for key, step in steps.items() if step.in_finally]
    layout = lay_out(needs, last=last)
    return {
        "finally": min((layout.places[key][0] for key in last), default=None),
        "nodes": [
            {
                "key": key,
                "column": column,
                "row": row,
                "seconds": report.spans[key],
                "words": report.fan_outs[key].words() if key in report.fan_outs else "",
            }
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
    ("Split", "split", "wide"),
    ("Attempts", "attempts", "number wide"),
    ("Result", "result", "result"),
)


def html_page(report: RunReport) -> str:
    """Write the report as a page."""
    counts = report.counts()
    most = max((step.time_split.total for step in report.leaves), default=0.0)
    rows = [_row(report, index, step, most) for index, step in enumerate(report.steps)]
    return self_contained(
        "page.html",
        styles=("report.css",),
        scripts=_SCRIPTS,
        jobplan=html_text(report.started.jobplan),
        title=html_text(f"{report.plan} {report.end}, run {report.run}"),
        plan=html_text(report.plan),
        end=html_text(report.end),
        end_class="good" if report.exit_code == 0 else "bad",
        description=f'<p class="soft">{html_text(report.description)}</p>' if report.description else "",
        status=status_line(report),
        tiles=tiles(report),
        split=time_split(report),
        wrong=went_wrong(report),
        messages=_messages(report),
        legend=_legend(report),
        critical=_critical(report),
        chips="".join(_chip(state, counts[state]) for state in StepState if counts[state]),
        headers="".join(_header(*column) for column in _COLUMNS),
        rows="\n".join(rows),
        about="".join(_about(report)),
        data=page_json(report),
    )


def self_contained(template: str, *, styles: Sequence[str], scripts: Sequence[str], **fields: str) -> str:
    """Return a page with its styles and scripts inside, which its policy allows by their hashes, and nothing else."""
    style, script = ("".join(map(_asset, names)) for names in (styles, scripts))
    return Template(_asset(template)).substitute(
        style=style, style_hash=_hash(style), script=script, script_hash=_hash(script), **fields
    )


@cache
def _asset(name: str) -> str:
    return files("runner.reports").joinpath("page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _messages(report: RunReport) -> str:
    if not report.messages:
        return ""
    lines = (
        f"<li>+{format_duration(max(0.0, message.at - report.started_at))} {html_text(message.text)}</li>"
        for message in report.messages
    )
    return f'<section class="card body" aria-label="Messages"><ul class="messages">{"".join(lines)}</ul></section>'


def _legend(report: RunReport) -> str:
    seen = {one.outcome or StepState.RUNNING for step in report.steps for one in step.attempts}
    states = [state for state in StepState if state in seen]
    words = (f'<span class="{state_class(state)}"><i></i>{state.replace("_", " ")}</span>' for state in states)
    locked = any(one.lock_waits for step in report.steps for one in step.attempts)
    locks = '<span class="blocked"><i></i>waiting for a lock</span>' if locked else ""
    hint = '<span class="hint">ctrl + wheel zooms, drag moves</span>'
    return f'{"".join(words)}<span class="hatched"><i></i>waiting</span>{locks}{hint}'


def _critical(report: RunReport) -> str:
    """Return a button that shows the critical path; it is off if the run failed: then the failures are what counts."""
    seconds = sum(report.spans[key] for key in report.critical)
    if not seconds:
        return ""
    on = "true" if report.exit_code == 0 else "false"
    words = f"critical path: {counted(len(report.critical), 'step')}, {format_duration(seconds)}"
    return f'<button class="tool" id="dag-path" type="button" aria-pressed="{on}">{words}</button>'


def _chip(state: StepState, count: int) -> str:
    return (
        f'<button class="tool" type="button" data-state="{state}" aria-pressed="false">'
        f"{state.replace('_', ' ')} {count}</button>"
    )


def _header(words: str, key: str, style: str) -> str:
    return f'<th class="{style}" data-key="{key}" scope="col"><button type="button">{words}</button></th>'


def _row(report: RunReport, index: int, step: StepReport, most: float) -> str:
    """Return the row of a step; `most` is the longest time of a step, to which the bars of the splits are scaled."""
    ran = bool(step.attempts)
    start = f"+{format_duration(step.started_at - report.started_at)}" if ran and step.started_at is not None else ""
    split = split_bar(step.time_split, most) if ran and step.time_split.total else ""
    time = format_duration(step.seconds) if ran else ""
    if step.instances:
        span = report.spans.get(step.key, 0.0)
        time = format_duration(span) if span else ""
    style = name_class(step.key)
    cells = (
        f'<td class="{style}"><button type="button" aria-expanded="false">{html_text(step.key)}</button></td>',
        f'<td class="state {state_class(step.state)}"><span>{step.state.replace("_", " ")}</span></td>',
        f'<td class="number wide">{start}</td>',
        f'<td class="number">{time}</td>',
        f'<td class="number wide">{format_duration(step.waited) if step.waited >= 0.001 else ""}</td>',
        f'<td class="wide split">{split}</td>',
        f'<td class="number wide">{len(step.attempts) or ""}</td>',
        f'<td class="result"><div>{html_text(_folded(report, step) if step.instances else _result(step))}</div></td>',
    )
    kind = f"step{' bad' if step.bad and not step.instances else ''}{' fold' if step.instances else ''}"
    return f'<tr class="{kind}" data-index="{index}">{"".join(cells)}</tr>'


def _folded(report: RunReport, step: StepReport) -> str:
    """Return the counts of a step with instances; of an item of a group, the number of its steps."""
    fan_out = report.fan_outs.get(step.key)
    return fan_out.words() if fan_out is not None else counted(step.instances, "step")


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
        ("Plan", report.started.file),
        ("Owner", report.owner),
        ("Plan's SHA-256", report.started.sha256),
        ("Database", f"{report.started.database}, as {report.started.user}"),
        ("Server", f"PostgreSQL {report.started.server}, pg_background {report.started.extension}"),
        ("Runner", f"jobplan {report.started.jobplan} on {report.started.host}"),
        ("Window", report.window),
        ("Exit code", "none: the run did not end" if report.exit_code is None else str(report.exit_code)),
        *((f"Parameter {name}", value) for name, value in report.parameters.items()),
    )
    yield from (f"<dt>{html_text(name)}</dt><dd>{html_text(value)}</dd>" for name, value in facts if value)
    yield f"<dt>Began</dt><dd>{moment(report.started_at)}</dd><dt>Ended</dt><dd>{moment(report.finished_at)}</dd>"
