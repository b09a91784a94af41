"""A dry run as a person reads it in a minute: findings first, worst first, then the steps, then the schedule."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from runner.durations import format_duration
from runner.errors import Problem, Severity
from runner.preflight.activity import LockReport
from runner.preflight.result import Coverage, DryRun, StatementReport
from runner.reports.preflight.gantt import schedule_lines
from runner.reports.problems import Lines, Style, legend, problem_lines
from runner.reports.visible import visible
from runner.slugs import with_slug

#: Locks that are shown, the largest relations first.
_MAX_LOCKS = 12
#: Statements beyond which those are left out of which there is nothing to say.
_MAX_STATEMENTS = 30
_TINTS = {Coverage.CHECKED: "32", Coverage.PARTLY: "33", Coverage.NOT: "2"}
_COVERAGE = max(len(one.value) for one in Coverage)
#: Columns of a step's name beyond which its statement goes to the next line.
_NAME = 28
#: Columns of a statement that are worth showing.
_TEXT = 24


def dry_run_lines(result: DryRun, lines: Lines, style: Style, *, width: int = 100) -> Iterator[str]:
    """Yield the report, for so many columns; the last lines sum up.

    Conditions of which there is nothing to say are only counted, and of a long plan also statements.
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
    if result.schedule is not None:
        yield from schedule_lines(result.schedule, style, width=width)
        yield ""
    last = visible(summary(result))
    # In a file or a job's log it is one line, to be found by.
    yield from _wrapped(last, width, first="", rest="") if style.excerpt else (last,)


def _problem(problem: Problem, lines: Lines, style: Style) -> Iterator[str]:
    """What is about the server has no line in the plan, but for the budget that it may not hold."""
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
    column = min(max((len(_name(one)) for one in shown), default=0), _NAME, width - _COVERAGE - _TEXT - 6)
    for _, alike in groupby(shown, key=_kind):
        yield from _statement(list(alike), column, style, width)
    left_out = len(statements) - len(shown)
    if left_out:
        yield f"  {style.paint('checked', _TINTS[Coverage.CHECKED])}: {left_out} more, with nothing to say of them"


def _kind(one: StatementReport) -> object:
    """What makes two statements alike enough to be told of once: instances of a step, with the same remarks."""
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
    text = text if len(text) <= room else text[: room - 1] + "…"
    if len(name) <= column:
        yield f"  {coverage}  {name.ljust(column)}  {text}".rstrip()
    else:
        yield f"  {coverage}  {name}"
        yield from [f"{' ' * margin}{text}"] if text else []
    remarks = [*([f"{', '.join(one.codes)}, above"] if one.codes else []), *one.why, *one.notes]
    remarks += [estimate] if estimate else []
    remarks += [f"{len(group) - 1} more like it"] if len(group) > 1 else []
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
    yield style.bold("Locks that keep others out")
    shown = locks[:_MAX_LOCKS]
    column = min(max(len(visible(one.step)) for one in shown), _NAME)
    for one in shown:
        first = f"  {visible(one.step).ljust(column)}  "
        yield from _wrapped(visible(lock_sentence(one)), width, first=first, rest=" " * (column + 4))
    if len(locks) > _MAX_LOCKS:
        yield f"  and {len(locks) - _MAX_LOCKS} on smaller relations"


def lock_sentence(one: LockReport) -> str:
    """Say what a lock keeps out, of what, and for how long."""
    size = _bytes(one.bytes) if one.bytes is not None else "of unknown size"
    partitions = f", {one.partitions} partition{'s' if one.partitions > 1 else ''}" if one.partitions else ""
    usual = f"some {format_duration(one.seconds)}" if one.seconds is not None else "nobody knows how long"
    limit = f"{format_duration(one.limit)} at most" if one.limit is not None else "without any limit"
    return f"{one.relation} ({size}{partitions}): {one.command} stops {one.stops}, {usual}, {limit} ({one.mode})"


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 10_240:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} TB"


def _name(one: StatementReport) -> str:
    return visible(one.instance if one.key == "sql" else f"{one.instance} ({one.key})")


def summary(result: DryRun) -> str:
    """Say in one line what is to be thought of the plan on this server."""
    facts = result.facts
    where = f'PostgreSQL {facts.version}, database "{facts.database}", role "{facts.user}"'
    counts = [f"{result.count(coverage)} {coverage.value}" for coverage in Coverage if result.count(coverage)]
    found = [_count(result.errors, "error"), _count(result.warnings, "warning")]
    bad = (
        "would be skipped"
        if result.skipped
        else "would start nothing"
        if result.refused
        else "would fail"
        if result.errors
        else ""
    )
    verdict = bad or "nothing speaks against it"
    told = ", ".join(filter(None, (verdict, *found)))
    return f"{result.plan} on {where}: {told}; statements: {', '.join(counts) or 'none'}."


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number != 1 else ''}" if number else ""
