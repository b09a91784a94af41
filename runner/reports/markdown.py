"""The run as Markdown, for a pull request or a step summary: how it ended, failed steps, and every step.

Texts from the plan and the server stand in code spans or code blocks, where they cannot be markup, mention a user or
link to an issue. A comment on GitHub has at most 65,536 characters, so the text ends before that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine.events import Rows
from runner.engine.state import StepState
from runner.engine.yielding import blocked_sessions
from runner.phrases import counted, cut
from runner.reports.messages import (
    SHOWN_WARNINGS,
    error_block,
    lock_wait_words,
    remains_lines,
    skip_words,
    state_words,
    step_result_words,
    warning_texts,
)
from runner.reports.plan_problems import fitting
from runner.reports.run_report import RunReport, StepReport
from runner.reports.terminal_text import visible, without_commands

#: The longest report, and the longest text in a table and in a block, in characters.
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
    """Write the report as GitHub Flavored Markdown, with failures first."""
    parts = [_head(report), *(_trouble(step) for step in report.leaves if _troubled(step))]
    sections = fitting(parts, LIMIT // 2, 2)
    if left_out := len(parts) - len(sections):
        sections.append(f"_{left_out:,} more steps did not succeed._")
    sections += fitting((part for step in report.leaves for part in _warned(step)), LIMIT // 6, 2)
    rows = list(_rows(report))
    shown = fitting(rows, _room(sections), 2)
    table = ["| step | state | time | waited | result |", "|---|---|--:|--:|---|", *shown]
    left_out = len(rows) - len(shown)
    sections.append("\n".join(table) + (f"\n\n_{left_out:,} more steps are not shown._" if left_out else ""))
    sections += fitting((*_lock_waits(report), *_blocked(report)), _room(sections), 2)
    sections += fitting((part for step in report.leaves for part in _captured(step)), _room(sections), 2)
    return "\n\n".join(sections) + "\n"


def _room(sections: list[str]) -> int:
    return LIMIT - sum(len(part) + 2 for part in sections)


def _head(report: RunReport) -> str:
    tally, items = _tally(report.tally.steps), report.tally.all_items
    tally += f" · {counted(items, 'item')}: {_tally(report.tally.items)}" if items else ""
    tally += f" · ⚠️ {counted(report.warnings, 'warning')}" if report.warnings else ""
    good = report.exit_code == 0
    began = report.started
    server = f"PostgreSQL {code(began.server.partition(' ')[0])}, pg_background {code(began.extension)}"
    slots = f"{report.slots_used} of {report.slots} slots used"
    lines = [
        f"### {'✅' if good else '❌'} {code(report.plan)} {report.end} in {format_duration(report.seconds)}",
        "",
        tally,
        "",
        f"Run {code(report.run)} on {code(began.database)} ({server}), {rfc3339(report.started_at)[:19]}Z, {slots}",
    ]
    if report.left_over:
        lines += ["", f"{counted(report.left_over, 'step')} left over by the window {code(report.window)}"]
    lines += [f"- {code(message.text)}" for message in report.messages[:10]]
    return "\n".join(lines)


def _tally(counts: Mapping[StepState, int]) -> str:
    return " · ".join(
        f"{_SIGNS.get(name, '▶️')} {counts[name]} {name.replace('_', ' ')}" for name in StepState if counts.get(name)
    )


def _troubled(step: StepReport) -> bool:
    return step.bad or step.state is StepState.FAILED_ALLOWED or bool(step.leftovers or step.removed)


def _trouble(step: StepReport) -> str:
    words = f"{_SIGNS.get(step.state, '▶️')} **{code(step.key)}** {state_words(step)}"
    if step.started_at is not None:
        words += f" after {format_duration(step.seconds)}"
    if len(step.attempts) > 1:
        words += f", {len(step.attempts)} attempts"
    lines = [error_block(step.error, step.sql)] if step.error else []
    lines += remains_lines(step)
    return "\n\n".join((words, block("\n".join(lines)))) if lines else words


def _warned(step: StepReport) -> Iterator[str]:
    texts = [text for attempt in step.attempts for text in warning_texts(attempt.notices)]
    if texts:
        shown = [f"WARNING: {text}" for text in texts[:SHOWN_WARNINGS]]
        shown += ["…"] if len(texts) > SHOWN_WARNINGS else []
        words = f"⚠️ {counted(step.warnings, 'warning')} of {code(step.key)}"
        yield "\n\n".join((words, block("\n".join(shown))))


def _rows(report: RunReport) -> Iterator[str]:
    """Yield a row for each step: those that did not succeed first, then the others in the plan's order.

    A folded step has one row with its counts, and rows for the instances that did not succeed.
    """
    for step in sorted(_listed(report), key=lambda step: not step.bad):
        state = f"{_SIGNS.get(step.state, '▶️')} {step.state.replace('_', ' ')}{', committed' if step.committed else ''}"
        seconds = report.spans.get(step.key, step.seconds) if step.instances else step.seconds
        time = format_duration(seconds) if step.attempts or step.instances else ""
        waited = format_duration(step.waited) if step.waited >= 0.1 else ""
        counts = report.fan_outs.get(step.key)
        result = code(counts.words(), table=True) if counts is not None else _result(step)
        yield f"| {code(step.key, table=True)} | {state} | {time} | {waited} | {result} |"


def _listed(report: RunReport) -> Iterator[StepReport]:
    """Yield the steps that have a row: with a folded step, and without its instances that succeeded or were skipped."""
    folded: set[str] = set()
    unfolded = {key for found in report.fan_outs.values() for key in found.unfolded}
    for step in report.steps:
        found = report.fan_outs.get(step.key)
        if step.parent in folded or (found is not None and found.folded):
            folded.add(step.key)
        if found is not None or (step.key in unfolded if step.parent in folded else not step.instances):
            yield step


def _result(step: StepReport) -> str:
    if step.error is not None:
        return code(step.error.message, table=True)
    if step.state is StepState.SKIPPED:
        return code(skip_words(step), table=True)
    return code(step_result_words(step), table=True)


def _lock_waits(report: RunReport) -> Iterator[str]:
    """Yield a list of the longest lock waits, if there are any."""
    waits = [(step, wait) for step in report.leaves for attempt in step.attempts for wait in attempt.lock_waits]
    if not waits:
        return
    waits.sort(key=lambda found: -found[1].seconds)
    lines = [f"- {code(step.key)} {code(lock_wait_words(wait))}" for step, wait in waits[:_WAITS]]
    left_out = [f"- _and {len(waits) - _WAITS} shorter waits_"] if len(waits) > _WAITS else []
    yield "\n".join(["Lock waits:", "", *lines, *left_out])


def _blocked(report: RunReport) -> Iterator[str]:
    """Yield a list of the sessions that steps with `yield_after` blocked, if there are any."""
    found = [(step, attempt) for step in report.leaves for attempt in step.attempts if attempt.blocked]
    if found:
        lines = (
            f"- {code(step.key)} attempt {one.number}: {code(blocked_sessions(one.blocked))}"
            for step, one in found[:_WAITS]
        )
        left_out = [f"- _and {len(found) - _WAITS:,} more attempts_"] if len(found) > _WAITS else []
        yield "\n".join(["Blocked sessions:", "", *lines, *left_out])


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


def code(text: str, *, table: bool = False, whole: bool = False) -> str:
    """Write text as a code span of one line, shortened if it is long and not `whole`; in a table, pipes are escaped."""
    line = visible(" ".join(text.split()))
    if not line:
        return ""
    line = line if whole else cut(line, CELL)
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    span = f"{fence}{pad}{line}{pad}{fence}"
    return span.replace("|", "\\|") if table else span


def block(text: str) -> str:
    """Write text as a code block, shortened if it is long, with a fence that the text does not contain."""
    text = cut(without_commands(visible(text, keep="\n\t")), BLOCK)  # GitHub's runner reads standard output
    fence = "`" * max(3, _longest_run(text) + 1)
    return "\n".join((f"{fence}text", *(text.splitlines() or [""]), fence))


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
