"""The run as Markdown, for a pull request or a step summary: how it ended, what went wrong, and every step.

Whatever comes from the plan or the server stands in code spans or code blocks: there it can neither be markup, nor
mention somebody, nor link to an issue. A comment on GitHub holds 65,536 characters, so the text ends before that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine.events import Rows
from runner.engine.state import StepState
from runner.reports.messages import (
    SHOWN_WARNINGS,
    counted,
    error_block,
    leftover_lines,
    lock_wait_words,
    skip_words,
    state_words,
    step_result_words,
    warning_texts,
)
from runner.reports.run_report import RunReport, StepReport, run_end
from runner.reports.terminal_text import visible

#: Characters after which nothing more is told, and how long one text may be in a table and in a block.
LIMIT = 60_000
CELL = 160
BLOCK = 2_000
#: Waits for locks that are listed.
_WAITS = 10

_SIGNS = {
    StepState.SUCCEEDED: "✅",
    StepState.FAILED: "❌",
    StepState.TIMED_OUT: "⏱️",
    StepState.CANCELLED: "🛑",
    StepState.DETACHED: "↗️",
    StepState.UNKNOWN: "❓",
    StepState.SKIPPED: "⏭️",
    StepState.FAILED_ALLOWED: "⚠️",
}


def markdown_text(report: RunReport) -> str:
    """Write the report as GitHub Flavored Markdown, what matters most first."""
    parts = [_head(report), *(_trouble(step) for step in report.leaves if _troubled(step))]
    told, left_out = _fitting(parts, LIMIT // 2)
    if left_out:
        told.append(f"_{left_out} more steps did not succeed._")
    told += _fitting([part for step in report.leaves for part in _warned(step)], LIMIT // 6)[0]
    rows = list(_rows(report))
    room = LIMIT - sum(len(part) + 2 for part in told)
    shown, left_out = _fitting(rows, room)
    table = ["| step | state | time | waited | result |", "|---|---|--:|--:|---|", *shown]
    told.append("\n".join(table) + (f"\n\n_{left_out} more steps are not shown._" if left_out else ""))
    waited = list(_lock_waits(report))
    told += _fitting(waited, LIMIT - sum(len(part) + 2 for part in told))[0]
    captured = [part for step in report.leaves for part in _captured(step)]
    told += _fitting(captured, LIMIT - sum(len(part) + 2 for part in told))[0]
    return "\n\n".join(told) + "\n"


def _fitting(parts: list[str], room: int) -> tuple[list[str], int]:
    """Return the first parts, as many as there is room for, and how many are left."""
    shown: list[str] = []
    for part in parts:
        room -= len(part) + 2
        if room < 0:
            break
        shown.append(part)
    return shown, len(parts) - len(shown)


def _head(report: RunReport) -> str:
    counts = report.counts()
    tally = " · ".join(
        f"{_SIGNS.get(name, '▶️')} {counts[name]} {name.replace('_', ' ')}" for name in StepState if counts[name]
    )
    tally += f" · ⚠️ {counted(report.warnings, 'warning')}" if report.warnings else ""
    good = report.exit_code == 0
    server = f"PostgreSQL {code(report.server.partition(' ')[0])}, pg_background {code(report.extension)}"
    slots = f"{report.slots_used} of {report.slots} slots used"
    lines = [
        f"### {'✅' if good else '❌'} {code(report.plan)} {run_end(report)} in {format_duration(report.seconds)}",
        "",
        tally,
        "",
        f"Run {code(report.run)} on {code(report.database)} ({server}), {rfc3339(report.started_at)[:19]}Z, {slots}",
    ]
    lines += [f"- {code(message.text)}" for message in report.messages[:10]]
    return "\n".join(lines)


def _troubled(step: StepReport) -> bool:
    return step.bad or step.state is StepState.FAILED_ALLOWED or bool(step.leftovers)


def _trouble(step: StepReport) -> str:
    words = f"{_SIGNS.get(step.state, '▶️')} **{code(step.key)}** {state_words(step)}"
    if step.started_at is not None:
        words += f" after {format_duration(step.seconds)}"
    if len(step.attempts) > 1:
        words += f", {len(step.attempts)} attempts"
    lines = [error_block(step.error, step.sql)] if step.error else []
    lines += leftover_lines(step.leftovers)
    return f"{words}\n\n{block(_lines(lines))}" if lines else words


def _warned(step: StepReport) -> Iterator[str]:
    texts = [text for attempt in step.attempts for text in warning_texts(attempt.notices)]
    if texts:
        shown = [f"WARNING: {text}" for text in texts[:SHOWN_WARNINGS]]
        shown += ["…"] if len(texts) > SHOWN_WARNINGS else []
        yield f"⚠️ {counted(step.warnings, 'warning')} of {code(step.key)}\n\n{block(_lines(shown))}"


def _rows(report: RunReport) -> Iterator[str]:
    """Yield a row for each step: first those that did not succeed, then the others in the plan's order."""
    for step in sorted(report.leaves, key=lambda step: not step.bad):
        state = f"{_SIGNS.get(step.state, '▶️')} {step.state.replace('_', ' ')}{', committed' if step.committed else ''}"
        time = format_duration(step.seconds) if step.attempts else ""
        waited = format_duration(step.waited) if step.waited >= 0.1 else ""
        yield f"| {code(step.key, table=True)} | {state} | {time} | {waited} | {_result(step)} |"


def _result(step: StepReport) -> str:
    if step.error is not None:
        return code(step.error.message, table=True)
    if step.state is StepState.SKIPPED:
        return code(skip_words(step), table=True)
    return code(step_result_words(step), table=True)


def _lock_waits(report: RunReport) -> Iterator[str]:
    """Yield a list of the longest waits for locks, if there was any."""
    waits = [(step, wait) for step in report.leaves for attempt in step.attempts for wait in attempt.lock_waits]
    if not waits:
        return
    waits.sort(key=lambda found: -found[1].seconds)
    lines = [f"- {code(step.key)} {code(lock_wait_words(wait))}" for step, wait in waits[:_WAITS]]
    left_out = [f"- _and {len(waits) - _WAITS} shorter waits_"] if len(waits) > _WAITS else []
    yield "\n".join(["Waits for locks:", "", *lines, *left_out])


def _captured(step: StepReport) -> Iterator[str]:
    result = step.attempts[-1].result if step.attempts else None
    if result is not None and result.columns:
        yield f"Rows of {code(step.key)}:\n\n{_table(result)}"


def _table(result: Rows) -> str:
    width = range(len(result.columns))
    lines = [result.columns, tuple("---" for _ in width), *result.rows]
    cells = ([_cell(value, rule=number == 1) for value in line] for number, line in enumerate(lines))
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _cell(value: str | None, *, rule: bool) -> str:
    if rule or value is None:
        return value or "NULL"
    return code(value, table=True)


def code(text: str, *, table: bool = False) -> str:
    """Write text as a code span of one line, cut if it is long; in a table a pipe needs a backslash even there."""
    line = visible(" ".join(text.split()))
    if not line:
        return ""
    line = line if len(line) <= CELL else f"{line[: CELL - 1]}…"
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    span = f"{fence}{pad}{line}{pad}{fence}"
    return span.replace("|", "\\|") if table else span


def block(text: str) -> str:
    """Write text as a code block, cut if it is long, behind a fence that it does not contain."""
    text = visible(text, keep="\n\t")
    text = text if len(text) <= BLOCK else f"{text[: BLOCK - 1]}…"
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}text\n{_lines(text.splitlines())}\n{fence}"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
