"""The top of the HTML page: how the run ended, what went wrong and what to type next, and where the time went.

All of it is HTML that needs no script: a reader without scripts, a search in the page and a printer have it too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine.events import ErrorDetails, SkipReason
from runner.engine.state import FINAL, StepState
from runner.phrases import counted, cut, some
from runner.reports.messages import error_fields, failure_words, remains_lines, state_words, xml_text
from runner.reports.plan_problems import window
from runner.reports.run_report import RunReport, StepReport, TimeSplit
from runner.reports.step_counts import counts_words
from runner.reports.terminal_text import columns, visible
from runner.sql.tokens import Mark, highlights

#: Failures that are shown with their SQL; the others are listed.
_SHOWN = 10
#: The first of them whose SQL is open.
_UNFOLDED = 3
#: Most failures in the list below them; the table has all.
_LISTED = 100
#: Lines of SQL around the line of an error, and without a position from the start.
_BEFORE, _AFTER, _FIRST_LINES = 3, 2, 8
#: Names of skipped steps in one sentence.
_NAMED = 5
_LONG_NAME = 48
#: A longer text is not highlighted.
MOST_HIGHLIGHTED = 20_000


def html_text(text: str) -> str:
    """Escape text for an element or an attribute; control characters, also those of text direction, become visible."""
    return escape(xml_text(visible(text, keep="\n\t")))


def moment(seconds: float) -> str:
    """Return a time in UTC as an element; a script adds the reader's local time to it."""
    text = rfc3339(seconds)[:19]
    return f'<time datetime="{text}Z">{text.replace("T", " ")} UTC</time>'


def state_class(state: StepState) -> str:
    """Return the class of a state's colour."""
    return f"s-{state if state in FINAL else StepState.RUNNING}"


def name_class(key: str) -> str:
    """Return the class of the cell with a step's name: a very long one may be broken."""
    return "name long" if len(key) > _LONG_NAME else "name"


def _step_link(key: str) -> str:
    """Return a link to a step of this page."""
    return f'<a href="#step={quote(key, safe="")}">{html_text(key)}</a>'


def status_line(report: RunReport) -> str:
    """Return one line: the steps by state, the run, its database and its start."""
    began = report.started
    facts = [
        html_text(counts_words(report.tally)),
        f"run <code>{html_text(report.run)}</code>",
        f"<code>{html_text(began.database)}</code> on PostgreSQL {html_text(began.server.partition(' ')[0])}",
        moment(report.started_at),
    ]
    if report.warnings:
        facts.append(counted(report.warnings, "warning"))
    if report.held >= 0.1:
        facts.append(f"held for {format_duration(report.held)}")
    return f'<p class="status">{"".join(f"<span>{fact}</span>" for fact in facts if fact)}</p>'


def tiles(report: RunReport) -> str:
    """Return the four tiles; each filters the table of steps by what it counts."""
    leaves = report.leaves
    wrong = [step for step in leaves if step.bad]
    allowed = sum(step.state is StepState.FAILED_ALLOWED for step in leaves)
    retried = [step for step in leaves if step.retries]
    retries = sum(step.retries for step in retried)
    queued = sum(step.waited + step.held >= 0.001 for step in leaves)
    longest = max(leaves, key=lambda step: step.seconds, default=None)
    split = TimeSplit.of(leaves)
    slowest = f"{longest.key} took {format_duration(longest.seconds)}" if longest is not None else ""
    parts = (
        _tile("slow", format_duration(report.seconds), "duration", slowest if leaves else "", enabled=bool(leaves)),
        _tile(
            "failed",
            f"{len(wrong):,}",
            "failed",
            f"and {allowed:,} allowed to fail" if allowed else "",
            enabled=bool(wrong or allowed),
            style="bad" if wrong else "",
        ),
        _tile(
            "retries",
            f"{retries:,}",
            "retry" if retries == 1 else "retries",
            f"cost {format_duration(split.retry)}" if retries else "",
            enabled=bool(retries),
        ),
        _tile(
            "slots",
            f"{report.slots_used} of {report.slots}",
            "slots used",
            f"{counted(queued, 'step')} waited {format_duration(split.queue)}" if queued else "no step waited",
            enabled=bool(queued),
        ),
    )
    return "".join(parts)


def _tile(name: str, number: str, words: str, more: str, *, enabled: bool, style: str = "") -> str:
    off = "" if enabled else " disabled"
    return (
        f'<button class="tile {style}" type="button" data-tile="{name}" aria-pressed="false"{off}>'
        f"<b>{html_text(number)}</b><span>{html_text(words)}</span><small>{html_text(more)}</small></button>"
    )


#: The parts of a time split: field, class and words.
SPLIT = (("queue", "queue"), ("run", "run"), ("lock_wait", "lock wait"), ("retry", "retry"))


def time_split(report: RunReport) -> str:
    """Return a bar with the time of all steps: waiting for slots, running, waiting for locks, and retries."""
    split = TimeSplit.of(report.leaves)
    if not split.total:
        return ""
    found = [(name, words, getattr(split, name)) for name, words in SPLIT]
    legend = "".join(
        f'<span class="t-{name}"><i></i>{words} {format_duration(seconds)}</span>'
        for name, words, seconds in found
        if seconds
    )
    return (
        f'<div class="split"><span class="soft">Time of all steps</span>'
        f"{split_bar(split, split.total)}<div>{legend}</div></div>"
    )


def split_bar(split: TimeSplit, whole: float) -> str:
    """Return the bar of a split, as wide as its share of `whole`."""
    parts = []
    at = 0.0
    for name, words in SPLIT:
        seconds = getattr(split, name)
        if seconds:
            share = 100 * seconds / whole
            parts.append(
                f'<rect class="t-{name}" x="{at:.2f}%" width="{max(share, 0.4):.2f}%" height="100%">'
                f"<title>{words} {format_duration(seconds)}</title></rect>"
            )
            at += share
    return f'<svg class="split" role="img" aria-label="Split of the time">{"".join(parts)}</svg>'


def went_wrong(report: RunReport) -> str:
    """Return the card with the failures and the command that resumes the run; empty if the run succeeded."""
    if report.exit_code == 0:
        return ""
    by_key = {step.key: step for step in report.steps}
    failed = [by_key[key] for key in report.failures if key in by_key]
    skipped = _skipped_after(report)
    parts = [
        _failure(step, report.failures[step.key], skipped[step.key], folded=number >= _UNFOLDED)
        for number, step in enumerate(failed[:_SHOWN])
    ]
    others = failed[_SHOWN : _SHOWN + _LISTED]
    if others:
        lines = "".join(f"<li>{_step_link(step.key)} {_first_line(report.failures[step.key])}</li>" for step in others)
        more = len(failed) - _SHOWN - len(others)
        rest = f"<li>and {more:,} more: see the table of steps</li>" if more else ""
        parts.append(f'<ul class="others">{lines}{rest}</ul>')
    if not failed:
        parts.append(f"<p>{html_text(_no_failure(report))}</p>")
    drained = [step.key for step in report.leaves if step.skip_reason is SkipReason.DRAINED]
    if drained:
        parts.append(f"<p>Not started, because the run stopped: {_names(drained)}</p>")
    if report.left_over:
        words = f"{counted(report.left_over, 'step')} left over by the window {report.window}"
        parts.append(f"<p>{html_text(words)}</p>")
    if report.resumable and report.resume:
        parts.append(
            f'<div class="resume"><span>Resume</span><code>{html_text(report.resume)}</code>'
            f"{_copy_button(report.resume, 'Copy the command')}</div>"
        )
    return card("What went wrong", f'<div class="body">{"".join(parts)}</div>', style="wrong")


def card(title: str, content: str, *, style: str = "") -> str:
    """Return a part of a page, with a heading."""
    return (
        f'<section class="card {style}" aria-label="{title}"><div class="bar"><h2>{title}</h2></div>{content}</section>'
    )


def _copy_button(text: str, label: str) -> str:
    """Return a button that copies a text. It needs the page's script, which shows it."""
    attributes = f'class="copy tool" type="button" data-copy="{html_text(text)}" aria-label="{label}"'
    return f"<button {attributes} hidden>Copy</button>"


def _no_failure(report: RunReport) -> str:
    if report.exit_code is None:
        return "No step failed. The run has no end: its runner was killed or lost, or it still runs."
    return f"No step failed. The run ended with exit code {report.exit_code} ({report.end})."


def _failure(step: StepReport, message: str, skipped: Sequence[str], *, folded: bool) -> str:
    facts = [state_words(step)]
    if step.started_at is not None and step.attempts:
        facts.append(f"after {format_duration(step.seconds)}")
    if len(step.attempts) > 1:
        facts.append(counted(len(step.attempts), "attempt"))
    place = f"{step.file}:{step.line}" if step.file and step.line is not None else step.file
    head = f'<h3>{_step_link(step.key)}<span class="badge">{html_text(", ".join(facts))}</span>'
    if place:
        head += f'<code class="place">{html_text(place)}</code>{_copy_button(place, "Copy the place")}'
    parts = [f"{head}</h3>"]
    if step.error is not None:
        message = failure_words(step.error.message, committed=step.committed)
    parts.append(f'<p class="message">{html_text(message)}</p>')
    if step.error is not None:
        fields = "".join(f"<dt>{name}</dt><dd>{html_text(text)}</dd>" for name, text in error_fields(step.error))
        parts.append(f'<dl class="fields">{fields}</dl>' if fields else "")
    sql = _sql(step.sql, step.error)
    parts.append(f"<details><summary>SQL</summary>{sql}</details>" if folded and sql else sql)
    parts += (f'<p class="message">{html_text(line)}</p>' for line in remains_lines(step))
    if skipped:
        parts.append(f"<p>Skipped because of it: {_names(skipped)}</p>")
    return f"<article>{''.join(parts)}</article>"


def _names(keys: Sequence[str]) -> str:
    return some([_step_link(key) for key in keys], _NAMED)


def _first_line(message: str) -> str:
    return html_text(cut(message.partition("\n")[0], 200))


def _sql(sql: str, error: ErrorDetails | None) -> str:
    """Return the SQL around an error with a caret under its position; without a position, the start of the SQL."""
    if not sql.strip():
        return ""
    marks = highlights(sql) if len(sql) <= MOST_HIGHLIGHTED else ()
    lines = sql.split("\n")
    at = min(error.position - 1, len(sql)) if error is not None and error.position is not None else None
    wrong = sql.count("\n", 0, at) if at is not None else 0
    first = max(0, wrong - _BEFORE) if at is not None else 0
    last = min(len(lines), wrong + _AFTER + 1 if at is not None else _FIRST_LINES)
    start = sum(len(line) + 1 for line in lines[:first])
    width = len(str(last))
    shown: list[str] = []
    for number in range(first, last):
        line = lines[number]
        column = at - start if at is not None and number == wrong else 0
        part, place = window(line, column)
        offset = start + column - place  # of what the part's first character would be in the SQL
        style = ' class="at"' if at is not None and number == wrong else ""
        shown.append(f"<span{style}><i>{number + 1:>{width}}  </i>{_marked(part, offset, marks)}</span>")
        if style:
            shown.append(f'<span class="caret">{" " * (width + 2 + columns(part[:place]))}^</span>')
        start += len(line) + 1
    if last < len(lines):
        shown.append(f"<span><i>{'…':>{width}}  </i>{len(lines) - last:,} more lines</span>")
    return f'<pre class="sql">{chr(10).join(shown)}</pre>'


def _marked(part: str, offset: int, marks: Sequence[Mark]) -> str:
    """Return a part of a line with its marks as elements; `offset` is the part's place in the SQL."""
    pieces: list[str] = []
    done = 0
    for mark in marks:
        begin, end = max(mark.start - offset, done), min(mark.end - offset, len(part))
        if begin < end and begin < len(part):
            pieces += (html_text(part[done:begin]), f'<b class="q-{mark.kind}">{html_text(part[begin:end])}</b>')
            done = end
    return "".join((*pieces, html_text(part[done:])))


def _skipped_after(report: RunReport) -> dict[str, list[str]]:
    """Return the steps that were skipped because of each failure, the nearest first. Their instances are left out."""
    parents = {step.key: step.parent for step in report.steps}
    needing: dict[str, list[str]] = defaultdict(list)
    skipped = {step.key for step in report.steps if step.skip_reason is SkipReason.UPSTREAM}
    for step in report.steps:
        if step.key in skipped and parents[step.key] not in skipped:
            for need in step.needs:
                needing[need.step].append(step.key)
    found: dict[str, list[str]] = {}
    for key in list(report.failures)[:_SHOWN]:
        waiting: list[str] = []
        above: str | None = key
        while above is not None:
            waiting.append(above)
            above = parents.get(above)
        reached: dict[str, None] = {}
        for cause in waiting:
            for other in needing[cause]:
                if other not in reached:
                    reached[other] = None
                    waiting.append(other)
        found[key] = list(reached)
    return found
