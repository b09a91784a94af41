"""A dry run as text, as JSON and as Markdown: findings first, worst first, then the steps, then the schedule.

The schedule has a bar for each step, the critical path, and the makespan with other numbers of slots.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from runner.clock import rfc3339
from runner.codes import with_slug
from runner.durations import format_duration
from runner.errors import Problem, Severity
from runner.phrases import counted, counts, cut, few, some
from runner.plan.model import Outside
from runner.plan.window import local_words, window_words
from runner.preflight.current_activity import LockReport
from runner.preflight.dry_run_result import Coverage, DryRun, HoldNow, StatementReport
from runner.preflight.schedule_forecast import Bar, Schedule, WindowForecast
from runner.reports.doctor_report import checks_data
from runner.reports.plan_problems import (
    MARKDOWN_HEAD,
    Lines,
    Style,
    fitting,
    legend,
    markdown_rows,
    plain_markdown,
    problem_lines,
    problem_object,
)
from runner.reports.terminal_text import visible
from runner.reports.worker_activity import about
from runner.structs import Struct, asdict, picked, replace

#: Most and fewest columns of the chart, and its most bars.
_WIDEST, _NARROWEST = 60, 20
_MAX_BARS = 40
_MAX_NAME = 28
#: Columns for a duration beside a bar.
_DURATION = 12
#: Steps of the critical path that are named.
_MAX_PATH = 20
_KNOWN, _UNKNOWN, _WAITING = "█", "▒", "·"


def schedule_lines(schedule: Schedule, style: Style, *, width: int = 100) -> Iterator[str]:
    """Yield the chart, `width` columns wide, and its summary; nothing for a plan without steps."""
    if not schedule.bars:
        return
    yield style.bold("Schedule")
    shown = _shown(schedule)
    column = max(len(_bar_name(bar)) for bar in shown)
    chart = min(max(width - column - _DURATION - 6, _NARROWEST), _WIDEST)
    scale = max(schedule.makespan, 0.001)
    critical = set(schedule.critical)
    for bar in shown:
        name = _bar_name(bar).ljust(column)
        duration = f"{format_duration(bar.seconds)}{'' if bar.known else ' ?'}" if not schedule.nothing_known else "?"
        duration = "detached" if bar.detached else duration
        row = _row(bar, scale, chart)
        yield f"  {style.bold(name) if bar.step in critical else name}  {row}  {duration}"
    if len(shown) < len(schedule.bars):
        yield f"  and {len(schedule.bars) - len(shown)} shorter ones"
    yield ""
    for line in map(visible, _conclusions(schedule)):
        yield from _wrapped(line, width, first="  ", rest="    ")
    yield from _other_slots(schedule)


def _shown(schedule: Schedule) -> tuple[Bar, ...]:
    """Return the bars of the critical path and the longest others, in order."""
    if len(schedule.bars) <= _MAX_BARS:
        return schedule.bars
    critical = set(schedule.critical)
    ranked = sorted(schedule.bars, key=lambda bar: (bar.step not in critical, -bar.seconds))
    kept = {bar.step for bar in ranked[:_MAX_BARS]}
    return tuple(bar for bar in schedule.bars if bar.step in kept)


def _bar_name(bar: Bar) -> str:
    name = visible(bar.step)
    return cut(name, _MAX_NAME)


def _row(bar: Bar, scale: float, width: int) -> str:
    ready, start, end = (round(moment / scale * width) for moment in (bar.ready, bar.start, bar.end))
    end = min(max(end, start + 1), width) if start < width else width
    start = min(start, width - 1)
    fill = (_KNOWN if bar.known else _UNKNOWN) * (end - start)
    return f"{' ' * min(ready, start)}{_WAITING * (start - min(ready, start))}{fill}".ljust(width)


def _conclusions(schedule: Schedule) -> Iterator[str]:
    path = " → ".join(schedule.critical[:_MAX_PATH])
    more = len(schedule.critical) - _MAX_PATH
    path += f" → and {more:,} more" if more > 0 else ""
    if schedule.nothing_known:
        yield "No durations are known: the bars only show the order. Give durations with --assume STEP=DURATION."
        yield f"Longest chain: {path}"
        return
    usual, late, least = map(format_duration, (schedule.makespan, schedule.makespan_p95, schedule.lower_bound))
    at_worst = f", {late} at the 95th percentiles" if late != usual else ""
    yield f"Makespan: {usual}{at_worst}; with any number of slots it is at least {least}."
    yield f"Critical path: {path}"
    if schedule.unknown:
        unknown = f"{len(schedule.unknown)} of unknown duration, drawn with the median of the others"
        yield f"{_UNKNOWN} {unknown}: {few(schedule.unknown, 5)}"


def _other_slots(schedule: Schedule) -> Iterator[str]:
    if not schedule.tried:
        return
    longest = max(one.makespan for one in schedule.tried) or 1.0
    yield ""
    yield "  Slots  makespan"
    for one in schedule.tried:
        makespan = "?" if schedule.nothing_known else format_duration(one.makespan)
        yield f"  {one.slots:>5}  {makespan:>8}  {_KNOWN * max(round(one.makespan / longest * 40), 1)}"
    if schedule.enough is not None:
        yield f"  More than {schedule.enough} slots do not help."
    else:
        yield f"  More than {schedule.tried[-1].slots} slots may shorten it further."


#: Locks that are shown, the largest relations first.
_MAX_LOCKS = 12
#: With more statements than this, those without remarks are left out.
_MAX_STATEMENTS = 30
_TINTS = {Coverage.CHECKED: "32", Coverage.PARTLY: "33", Coverage.NOT: "2"}
_COVERAGE = max(len(one.value) for one in Coverage)
#: Columns of a step's name beyond which its statement goes to the next line.
_NAME = 28
#: Columns of a statement that are worth showing.
_TEXT = 24


def dry_run_lines(result: DryRun, lines: Lines, style: Style, *, width: int, note: str | None = None) -> Iterator[str]:
    """Yield the report, `width` columns wide; the last lines are the note and the verdict.

    Conditions without remarks are only counted; in a long plan also statements without remarks.
    """
    for problem in result.problems:
        yield from _problem(problem, lines, style)
    explained = legend(problem.code for problem in result.problems)
    if explained is not None:
        yield from _wrapped(explained, width, first="", rest="  ") if style.excerpt else (explained,)
        yield ""
    yield from _statements(result.statements, style, width)
    yield ""
    if result.locks:
        yield from _locks(result.locks, style, width)
        yield ""
    for title, sentences in (("Holds", tuple(map(_hold_sentence, result.holds))), ("Iterations", result.iterations)):
        if sentences:
            yield style.bold(title)
            for sentence in sentences:
                yield from _wrapped(visible(sentence), width, first="  ", rest="    ")
            yield ""
    if result.schedule is not None:
        yield from schedule_lines(result.schedule, style, width=width)
        if result.holds and result.schedule.bars:
            yield from _wrapped(visible(_unknown_wait(result.holds)), width, first="  ", rest="    ")
        yield ""
    if result.window is not None:
        yield style.bold("Window")
        for line in _window_lines(result.window):
            yield from _wrapped(visible(line), width, first="  ", rest="    ")
        yield ""
    # In a file or a job's log each is one line, so that it can be found.
    for last in filter(None, (note, visible(summary(result)))):
        yield from _wrapped(last, width, first="", rest="") if style.excerpt else (last,)


def _window_lines(found: WindowForecast) -> Iterator[str]:
    """Yield when the window opens and closes, and what of the schedule fits into it."""
    window, now = found.window, found.server_time
    length = format_duration(found.closes - found.opens)
    closes = local_words(window, found.closes, seen_at=now)
    if found.open_now:
        yield f"{window_words(window)}: open now; it closes at {closes}, in {format_duration(found.closes - now)}."
    else:
        opens = local_words(window, found.opens, seen_at=now)
        then = f"in {format_duration(found.opens - now)}, for {length}"
        yield f"{window_words(window)}: closed now; it opens at {opens}, {then}, and closes at {closes}."
        waits = window.outside is Outside.WAIT
        yield f"A run that begins now {'waits until then' if waits else 'is refused (exit code 8)'}."
    begun = "A run that begins now" if found.open_now else "A run in this opening"
    if not found.known:
        yield "No durations are known, so this forecast cannot say which steps fit into it."
    elif found.left_over:
        yield f"{begun} leaves steps over: {some(found.left_over)}."
    else:
        rest = format_duration(max(0.0, found.closes - found.ends_at))
        yield f"{begun} ends at {local_words(window, found.ends_at, seen_at=now)}, {rest} before the window closes."
        if found.left_over_late:
            yield f"At the 95th percentiles of the durations it leaves steps over: {some(found.left_over_late)}."


def _window(found: WindowForecast) -> dict[str, Any]:
    return {
        "timezone": found.window.timezone,
        "open": found.open_now,
        "opens_at": rfc3339(found.opens),
        "closes_at": rfc3339(found.closes),
        "known": found.known,
        "ends_at": rfc3339(found.ends_at),
        "left_over": list(found.left_over),
        "left_over_p95": list(found.left_over_late),
    }


def _problem(problem: Problem, lines: Lines, style: Style) -> Iterator[str]:
    """Yield one problem. Problems of the server have no place in the plan, except a budget that is too large."""
    if not problem.code.startswith("JP5") or problem.position.line > 1:
        yield from problem_lines(problem, lines, style)
        return
    tint = "1;31" if problem.severity is Severity.ERROR else "1;33"
    hint = f" ({problem.hint})" if problem.hint and not style.excerpt else ""
    name = with_slug(problem.code) if style.excerpt else problem.code
    head = style.paint(f"{problem.severity} {name}", tint)
    yield f"{style.bold('server:')} {head}: {visible(' '.join(problem.message.split()))}{visible(hint)}"
    if problem.hint and style.excerpt:
        yield f"  {style.paint('help:', '36')} {visible(problem.hint)}"


def _statements(statements: Sequence[StatementReport], style: Style, width: int) -> Iterator[str]:
    yield style.bold("Statements")
    long = len(statements) > _MAX_STATEMENTS
    shown = [one for one in statements if not (_is_plain(one) and (long or one.key != "sql"))]
    folded = [one for one in shown if one.of_plan]
    folded = folded if len({one.step for one in folded}) > 1 else []
    shown = [one for one in shown if one not in folded]
    column = min(max((len(_name(one)) for one in shown), default=0), _NAME, width - _COVERAGE - _TEXT - 6)
    for _, alike in groupby(shown, key=_kind):
        yield from _statement(list(alike), column, style, width)
    if folded:
        names = list(dict.fromkeys(visible(one.step) for one in folded))
        words = f"{len(names):,} steps depend on tables that this plan creates: {some(names)}"
        mark = f"  {Coverage.NOT.value}"
        first, *more = _wrapped(words, width, first=f"{mark}: ", rest=" " * (_COVERAGE + 4))
        yield style.paint(mark, _TINTS[Coverage.NOT]) + first.removeprefix(mark)
        yield from more
    left_out = len(statements) - len(shown) - len(folded)
    if left_out:
        yield f"  {style.paint('checked', _TINTS[Coverage.CHECKED])}: {left_out:,} more without remarks"


def _kind(one: StatementReport) -> object:
    """Return the key by which statements are grouped: instances of one step with the same remarks."""
    item = (one.step, one.key, one.coverage, one.why, one.notes, one.codes)
    return item if one.instance != one.step else id(one)


def _is_plain(one: StatementReport) -> bool:
    return one.coverage is Coverage.CHECKED and not (one.why or one.notes or one.codes)


def _statement(group: Sequence[StatementReport], column: int, style: Style, width: int) -> Iterator[str]:
    one = group[0]
    coverage = style.paint(one.coverage.value.ljust(_COVERAGE), _TINTS[one.coverage])
    margin = _COVERAGE + column + 6
    name = _name(one)
    estimate = f"cost {one.cost:,.0f}, {one.rows:,} rows" if one.cost is not None and one.rows is not None else ""
    text, room = visible(one.text), max(width - margin, _TEXT)
    if estimate and len(text) + len(estimate) + 4 <= room:
        text, estimate = f"{text}  ({estimate})", ""
    text = cut(text, room)
    if len(name) <= column:
        yield f"  {coverage}  {name.ljust(column)}  {text}".rstrip()
    else:
        yield f"  {coverage}  {name}"
        yield from [f"{' ' * margin}{text}"] if text else []
    remarks = [*([f"{', '.join(one.codes)}, above"] if one.codes else []), *one.why, *one.notes]
    remarks += [estimate] if estimate else []
    more = len(group) - 1
    remarks += [f"{counted(more, 'more instance')} {'is' if more == 1 else 'are'} the same"] if more else []
    for remark in remarks:
        yield from _wrapped(visible(remark), width, first=f"{' ' * (_COVERAGE + 4)}- ", rest=" " * (_COVERAGE + 6))


def _wrapped(text: str, width: int, *, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, len(rest) + 20),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _locks(locks: Sequence[LockReport], style: Style, width: int) -> Iterator[str]:
    yield style.bold("Locks that block other sessions")
    shown = locks[:_MAX_LOCKS]
    column = min(max(len(visible(one.step)) for one in shown), _NAME)
    for one in shown:
        first = f"  {visible(one.step).ljust(column)}  "
        yield from _wrapped(visible(_lock_sentence(one)), width, first=first, rest=" " * (column + 4))
    if len(locks) > _MAX_LOCKS:
        yield f"  and {len(locks) - _MAX_LOCKS} on smaller relations"


def _lock_sentence(one: LockReport) -> str:
    """Return what a lock blocks, on which relation, and for how long."""
    size = _bytes(one.bytes) if one.bytes is not None else "of unknown size"
    partitions = f", {counted(one.partitions, 'partition')}" if one.partitions else ""
    usual = f"for {about(one.seconds)}" if one.seconds is not None else "for an unknown time"
    limit = f"at most {format_duration(one.limit)}" if one.limit is not None else "without a limit"
    return f"{one.relation} ({size}{partitions}): {one.command} blocks {one.stops} {usual}, {limit} ({one.mode})"


def _hold_sentence(hold: HoldNow) -> str:
    """Return whether a hold is on now, and the measured value."""
    state = {True: "on now", False: "not on now", None: "not known"}[hold.on]
    return f"{hold.name}: {state}{f' ({hold.value})' if hold.value else ''}"


def _unknown_wait(holds: Sequence[HoldNow]) -> str:
    names = ", ".join(hold.name for hold in holds)
    return f"Unknown wait: the schedule leaves out how long steps wait for the holds ({names})."


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 10_240:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} TB"


def _name(one: StatementReport) -> str:
    return visible(one.instance if one.key == "sql" else f"{one.instance} ({one.key})")


def summary(result: DryRun) -> str:
    """Return the verdict on the plan on this server in one line."""
    facts = result.facts
    where = f'PostgreSQL {facts.version}, database "{facts.database}", role "{facts.user}"'
    coverages = [f"{result.count(coverage):,} {coverage.value}" for coverage in Coverage if result.count(coverage)]
    found = counts({"error": result.errors, "warning": result.warnings})
    bad = (
        "would be skipped"
        if result.skipped
        else "would not start"
        if result.refused
        else "would fail"
        if result.errors
        else ""
    )
    verdict = bad or "no problem found"
    words = ", ".join(filter(None, (verdict, found)))
    return f"{result.plan} on {where}: {words}; statements: {', '.join(coverages) or 'none'}."


def dry_run_json(result: DryRun) -> str:
    """Return the JSON object; every key is always present."""
    return json.dumps(_object(result), indent=2, ensure_ascii=False)


def _object(result: DryRun) -> dict[str, Any]:
    facts = result.facts
    return {
        "plan": result.plan,
        "file": result.file,
        "server": {
            "version": facts.version,
            "extension": facts.extension_version,
            "database": facts.database,
            "role": facts.user,
        },
        "would_start": not result.refused,
        "would_skip": result.skipped,
        "errors": result.errors,
        "warnings": result.warnings,
        "findings": [problem_object(problem) for problem in result.problems],
        "checks": checks_data(result.server),
        "statements": [_statement_data(one) for one in result.statements],
        "locks": [asdict(one) for one in result.locks],
        "holds": [asdict(one) for one in result.holds],
        "schedule": None if result.schedule is None else _schedule(result.schedule),
        "window": None if result.window is None else _window(result.window),
    }


def _schedule(schedule: Schedule) -> dict[str, Any]:
    """Return the schedule as JSON values; times are seconds, and only show the order if no duration is known."""
    return {
        "known": not schedule.nothing_known,
        **picked(schedule, "makespan", "makespan_p95", "lower_bound"),
        "critical_path": schedule.critical,
        "unknown": schedule.unknown,
        "steps": [picked(bar, "step", "ready", "start", "end", "known") for bar in schedule.bars],
        "what_if": [picked(one, "slots", "makespan") for one in schedule.tried],
        "enough_slots": schedule.enough,
    }


def _statement_data(one: StatementReport) -> dict[str, Any]:
    return {
        **picked(one, "step", "instance", "key", "command", "text"),
        "coverage": one.coverage.value,
        **picked(one, "why", "notes", "codes", "cost", "rows"),
        "locks": [{"relation": relation, "mode": mode} for relation, mode in one.locks],
    }


_MARKS = {Coverage.CHECKED: "✅", Coverage.PARTLY: "🟡", Coverage.NOT: "⚪"}


#: Characters of the Markdown: a comment on GitHub has at most 65,536, and the action adds a few.
MARKDOWN_LIMIT = 60_000


def dry_run_markdown(result: DryRun) -> Iterator[str]:
    """Yield at most `MARKDOWN_LIMIT` characters: findings first, then folded tables; at the end what is missing.

    A table that is too long ends early, and half of the room is for the findings.
    """
    head = [f"## Dry run of {plain_markdown(result.plan)}", "", plain_markdown(summary(result))]
    yield from head
    room = MARKDOWN_LIMIT - sum(len(line) + 1 for line in head) - _ROOM_FOR_REMARK
    missing = []
    for section in _markdown_sections(result):
        around = sum(len(line) + 1 for line in (*section.head, *section.tail))
        rows = fitting(section.lines, (room // 2 if section.what == _FINDINGS else room) - around)
        if len(rows) < len(section.lines):
            missing.append(f"{len(section.lines) - len(rows)} of {section.what}")
        shown = [*section.head, *rows, *section.tail] if rows else []
        yield from shown
        room -= sum(len(line) + 1 for line in shown)
    if missing:
        yield ""
        yield f"_Left out, because a comment on GitHub has a limit: {', '.join(missing)}._"


class _Section(Struct, frozen=True, kw_only=True):
    """A part of the Markdown: `lines` between `head` and `tail`, and `what` they are."""

    what: str
    head: tuple[str, ...]
    lines: tuple[str, ...]
    tail: tuple[str, ...] = ()


#: Characters that are kept for the line that says what is missing.
_ROOM_FOR_REMARK = 300
_FINDINGS = "the findings"


def _folded(what: str, title: str, lines: Iterable[str], *table: str) -> _Section:
    head = ("", f"<details><summary>{title}</summary>", "", *table)
    return _Section(what=what, head=head, lines=tuple(lines), tail=("", "</details>"))


def _markdown_sections(result: DryRun) -> Iterator[_Section]:
    if result.problems:
        rows = tuple(markdown_rows(result.problems))
        yield _Section(what=_FINDINGS, head=("", *MARKDOWN_HEAD), lines=rows)
    statements = map(_markdown_statement, result.statements)
    yield _folded("the statements", "Statements", statements, "| | step | statement | remarks |", "|---|---|---|---|")
    if result.locks:
        locks = (f"| {plain_markdown(one.step)} | {plain_markdown(_lock_sentence(one))} |" for one in result.locks)
        yield _folded("the locks", "Locks that block other sessions", locks, "| step | lock |", "|---|---|")
    if result.holds:
        yield _folded("the holds", "Holds", (f"- {plain_markdown(_hold_sentence(hold))}" for hold in result.holds))
    if result.schedule is not None and result.schedule.bars:
        chart = [*schedule_lines(result.schedule, Style()), *([_unknown_wait(result.holds)] if result.holds else [])]
        section = _folded("the lines of the schedule", "Schedule", chart, "```text")
        yield replace(section, tail=("```", *section.tail))
    if result.window is not None:
        words = " ".join(("**Window:**", *map(plain_markdown, _window_lines(result.window))))
        yield _Section(what="the window", head=("",), lines=(words,))


def _markdown_statement(one: StatementReport) -> str:
    key = "" if one.key == "sql" else f" ({one.key})"
    estimate = (f"cost {one.cost:,.0f}, {one.rows:,} rows",) if one.cost is not None and one.rows is not None else ()
    codes = (", ".join(one.codes),) if one.codes else ()
    remarks = "<br>".join(map(plain_markdown, (*codes, *one.why, *one.notes, *estimate)))
    code = f"<code>{plain_markdown(one.text)}</code>" if one.text else ""
    return f"| {_MARKS[one.coverage]} {one.coverage.value} | {plain_markdown(one.instance)}{key} | {code} | {remarks} |"
