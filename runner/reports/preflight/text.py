"""A dry run as a person reads it in a minute: findings first, worst first, then the steps, then the schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runner.durations import format_duration
from runner.preflight.activity import LockReport
from runner.preflight.result import Coverage, DryRun, StatementReport
from runner.reports.preflight.gantt import schedule_lines
from runner.reports.problems import Lines, Style, problem_lines
from runner.reports.visible import visible

#: Locks that are shown, the largest relations first.
_MAX_LOCKS = 15
_TINTS = {Coverage.CHECKED: "32", Coverage.PARTLY: "33", Coverage.NOT: "2"}
_WIDTH = max(len(one.value) for one in Coverage)


def dry_run_lines(result: DryRun, lines: Lines, style: Style) -> Iterator[str]:
    """Yield the report; the last line sums up."""
    for problem in result.problems:
        yield from problem_lines(problem, lines, style)
    if result.problems:
        yield ""
    yield from _statements(result.statements, style)
    yield ""
    if result.locks:
        yield from _locks(result.locks, style)
        yield ""
    if result.schedule is not None:
        yield from schedule_lines(result.schedule, style)
        yield ""
    yield visible(summary(result))


def _statements(statements: Sequence[StatementReport], style: Style) -> Iterator[str]:
    yield style.bold("Statements")
    width = max((len(_name(one)) for one in statements), default=0)
    for one in statements:
        coverage = style.paint(one.coverage.value.ljust(_WIDTH), _TINTS[one.coverage])
        estimate = (
            f"  (cost {one.cost:,.0f}, {one.rows:,} rows)" if one.cost is not None and one.rows is not None else ""
        )
        yield f"  {coverage}  {_name(one).ljust(width)}  {visible(one.text)}{estimate}".rstrip()
        for remark in (*one.why, *one.notes):
            yield f"  {' ' * _WIDTH}  {' ' * width}  - {visible(remark)}"


def _locks(locks: Sequence[LockReport], style: Style) -> Iterator[str]:
    yield style.bold("Locks that keep others out")
    width = max(len(visible(one.step)) for one in locks[:_MAX_LOCKS])
    for one in locks[:_MAX_LOCKS]:
        yield f"  {visible(one.step).ljust(width)}  {visible(lock_sentence(one))}"
    if len(locks) > _MAX_LOCKS:
        yield f"  and {len(locks) - _MAX_LOCKS} on smaller relations"


def lock_sentence(one: LockReport) -> str:
    """Say what a lock keeps out, of what, and for how long."""
    size = f"{_bytes(one.bytes)}" if one.bytes else "of unknown size"
    partitions = f", {one.partitions} partitions" if one.partitions else ""
    usual = f"for some {format_duration(one.seconds)}" if one.seconds is not None else "for a time that is not known"
    limit = f", {format_duration(one.limit)} at most" if one.limit is not None else ", without any limit"
    return f"{one.command}: {one.mode} on {one.relation} ({size}{partitions}) stops {one.stops} {usual}{limit}"


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
    bad = "would start nothing" if result.refused else "would fail" if result.errors else ""
    verdict = bad or "nothing speaks against it"
    told = ", ".join(filter(None, (verdict, *found)))
    return f"{result.plan} on {where}: {told}; statements: {', '.join(counts) or 'none'}."


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number != 1 else ''}" if number else ""
