"""Static pages of all recorded runs: an index of plans, targets and runs, and a page for each plan with its trends.

The pages open from a disk and load nothing. `site_pages` is a pure function; `write_site` replaces each file in one go,
the index last, so that its links lead to pages that exist.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from runner.clock import rfc3339
from runner.durations import format_duration
from runner.engine.previous_runs import PastRun
from runner.engine.state import BAD, StepState
from runner.errors import RecordError
from runner.exit_codes import end_words, is_failure
from runner.phrases import counted, cut
from runner.reports.destinations import Destination
from runner.reports.html import self_contained
from runner.reports.page_summary import card, html_text, moment, name_class, state_class
from runner.structs import Struct

INDEX = "index.html"
#: Bars of a trend, rows of a list of runs, of failures and of steps; a page says what it leaves out.
_BARS = 40
_RUNS = 200
_LATEST = 50
_FAILURES = 50
_STEPS = 500
#: A last duration counts as unusual from this multiple of the median on, if there are so many previous ones.
_SLOWER = 1.5
_ENOUGH = 4
_MESSAGE = 300
#: A name that is never broken.
_SHORT = 40


class _Bar(Struct, frozen=True, kw_only=True):
    """One value of a trend."""

    seconds: float
    style: str
    words: str


class _Trend(Struct, frozen=True, kw_only=True):
    """The durations of a step, or of a plan's runs: the oldest first."""

    bars: tuple[_Bar, ...]
    last: float | None
    middle: float | None
    longest: float | None

    @property
    def slower(self) -> float | None:
        """How many times the median the last one took, if that is unusual."""
        if self.last is None or not self.middle or len(self.bars) <= _ENOUGH or self.last < _SLOWER * self.middle:
            return None
        return self.last / self.middle


def site_pages(runs: Iterable[PastRun], *, sources: Sequence[str], now: float, jobplan: str) -> dict[str, str]:
    """Return the pages by file name. Of runs with the same id the first counts; `sources` are where they were read."""
    known: dict[str, PastRun] = {}
    for run in runs:
        known.setdefault(run.run, run)
    latest = sorted(known.values(), key=lambda run: (run.started_at or 0.0, run.run), reverse=True)
    by_plan: dict[str, list[PastRun]] = defaultdict(list)
    for run in latest:
        if run.plan:
            by_plan[run.plan].append(run)
    made = f"{moment(now)} from {', '.join(html_text(source) for source in sources)}"
    pages = {
        page_name(plan): _page(f"{plan}: recorded runs", _plan_body(plan, found, made), jobplan)
        for plan, found in by_plan.items()
    }
    return {**pages, INDEX: _page("Recorded runs", _index_body(latest, by_plan, made), jobplan)}


def write_site(folder: Path, pages: Mapping[str, str]) -> None:
    """Write the pages, the index last. RecordError if one cannot be written: its file then keeps its content."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(pages, key=lambda name: name == INDEX):
            Destination.of(folder / name).write(pages[name])
    except OSError as error:
        raise RecordError(
            f"the pages in {folder} cannot be written: {error.strerror or error}.",
            hint="Name a folder that can be written, on a disk with free space.",
        ) from error


def page_name(plan: str) -> str:
    """Return the file name of a plan's page: readable, without special characters, and unique."""
    readable = re.sub(r"[^a-z0-9]+", "-", plan.lower()).strip("-")[:40]
    digest = hashlib.sha256(plan.encode("utf-8", errors="surrogatepass")).hexdigest()[:8]
    return f"plan-{readable}-{digest}.html" if readable else f"plan-{digest}.html"


def _page(title: str, body: str, jobplan: str) -> str:
    return self_contained(
        "site.html",
        styles=("report.css", "site.css"),
        scripts=("site.js",),
        title=html_text(title),
        jobplan=html_text(jobplan),
        body=body,
    )


# --- the index --------------------------------------------------------------------------------------------------------


def _index_body(latest: Sequence[PastRun], by_plan: Mapping[str, Sequence[PastRun]], made: str) -> str:
    damaged = [run for run in latest if run.standing == "unreadable"]
    failed = [runs[0] for runs in _by_place(latest).values() if _failed(runs[0])]
    status = [counted(len(latest), "run"), f"{counted(len(by_plan), 'plan')}"]
    if failed:
        status.append(f"{len(failed):,} failed in the last run")
    if damaged:
        status.append(f"{len(damaged):,} damaged")
    parts = [
        _header("Recorded runs", status, made),
        _last_failures(failed),
        _plans(by_plan),
        _targets(_by_place(latest)),
        _damaged(damaged),
        _runs([run for run in latest if run.standing != "unreadable"], with_plan=True, most=_LATEST),
    ]
    return "".join(parts)


def _header(title: str, facts: Sequence[str], made: str, *, back: bool = False) -> str:
    link = f'<p><a href="{INDEX}">All plans</a></p>' if back else ""
    spans = "".join(f"<span>{html_text(fact)}</span>" for fact in facts)
    return (
        f'<header>{link}<div class="head"><h1>{html_text(title)}</h1>'
        '<button class="theme tool" id="theme" type="button">Light / dark</button></div>'
        f'<p class="status">{spans}<span>written {made}</span></p></header>'
    )


def _by_place(latest: Iterable[PastRun]) -> dict[tuple[str, str], list[PastRun]]:
    """Return the runs of each plan on each target, or database, the last one first."""
    found: dict[tuple[str, str], list[PastRun]] = defaultdict(list)
    for run in latest:
        if run.plan:
            found[run.plan, run.target or run.database].append(run)
    return found


def _last_failures(failed: Sequence[PastRun]) -> str:
    """Return the card of the plans and targets whose last run failed."""
    if not failed:
        return ""
    shown = "".join(
        f'<article><h3>{_plan_link(run.plan)}<span class="badge">{html_text(_ended(run))}</span>'
        f'<span class="place">{html_text(run.target or run.database)}</span>{_started(run)}</h3>'
        f"{_first_failures(run)}</article>"
        for run in failed[:_FAILURES]
    )
    more = f"<p>and {len(failed) - _FAILURES:,} more: see the targets</p>" if len(failed) > _FAILURES else ""
    return card("Failed in the last run", f'<div class="body">{shown}{more}</div>', style="wrong")


def _first_failures(run: PastRun) -> str:
    shown = [
        f'<p class="message"><code>{html_text(step)}</code> {html_text(_line(text or state.replace("_", " ")))}</p>'
        for step, (state, text) in list(run.failures.items())[:3]
    ]
    more = len(run.failures) - len(shown)
    return "".join(shown) + (f"<p>and {counted(more, 'more failed step')}</p>" if more > 0 else "")


def _plans(by_plan: Mapping[str, Sequence[PastRun]]) -> str:
    if not by_plan:
        return card("Plans", '<p class="none">No run is recorded here.</p>')
    rows = []
    for plan, runs in by_plan.items():
        trend = _run_trend(runs)
        failed = sum(map(_failed, runs))
        rows.append(
            _tr(
                f"<td>{_plan_link(plan)}</td>{_status_cell(runs[0])}<td>{_started(runs[0])}</td>"
                f"{_took_cells(trend)}<td class='number'>{len(runs):,}</td>{_failed_cell(failed)}"
                f"<td>{_svg(trend)}</td>",
                bad=_failed(runs[0]),
            )
        )
    heads = ("Plan", "Last run", "Started", "#Took", "#Median", "#Runs", "#Failed", "Trend")
    return card("Plans", _table(heads, rows))


def _targets(by_place: Mapping[tuple[str, str], Sequence[PastRun]]) -> str:
    if not by_place:
        return ""
    rows = []
    for (plan, place), runs in by_place.items():
        done = next((run for run in runs if run.exit_code == 0), None)
        rows.append(
            _tr(
                f"<td>{html_text(place)}</td><td>{_plan_link(plan)}</td>{_status_cell(runs[0])}<td>{_started(runs[0])}</td>"
                f"<td>{_started(done) if done is not None else 'never'}</td>"
                f"<td class='number'>{len(runs):,}</td>{_failed_cell(sum(map(_failed, runs)))}",
                bad=_failed(runs[0]),
            )
        )
    heads = ("Target", "Plan", "Last run", "Started", "Last success", "#Runs", "#Failed")
    return card("Targets", _table(heads, rows))


def _damaged(damaged: Sequence[PastRun]) -> str:
    if not damaged:
        return ""
    rows = [
        _tr(f"<td><code>{html_text(run.run)}</code></td><td>{html_text(run.problem)}</td>") for run in damaged[:_RUNS]
    ]
    return card("Damaged records", _table(("Run", "Problem"), rows) + _left_out(len(damaged), _RUNS, "damaged record"))


# --- the page of a plan -----------------------------------------------------------------------------------------------


def _plan_body(plan: str, runs: Sequence[PastRun], made: str) -> str:
    trend = _run_trend(runs)
    failed = sum(map(_failed, runs))
    facts = [f"last run {_ended(runs[0])}", counted(len(runs), "run"), f"{failed:,} failed"]
    if trend.middle is not None:
        facts.append(f"median {format_duration(trend.middle)}")
    last = [group[0] for group in _by_place(runs).values() if _failed(group[0])]
    chart = f'<div class="body trend">{_svg(trend, tall=90, wide=16)}</div>' if trend.bars else ""
    parts = [
        _header(plan, facts, made, back=True),
        _last_failures(last),
        card("Duration of the runs", chart) if chart else "",
        _steps(runs),
        _targets(_by_place(runs)),
        _failures(runs),
        _runs(runs, with_plan=False, most=_RUNS),
    ]
    return "".join(parts)


def _steps(runs: Sequence[PastRun]) -> str:
    """Return the table of steps with their trends; the instances of a step are added up, and listed under it."""
    found: dict[str, dict[str, list[tuple[PastRun, float, str]]]] = defaultdict(lambda: defaultdict(list))
    for run in reversed(runs):
        for key, (seconds, state) in run.steps.items():
            found[key.partition("[")[0]][key].append((run, seconds, state))
    if not found:
        return ""
    rows: list[str] = []
    for step, keys in found.items():
        folded = len(keys) > 1 or step not in keys
        rows.append(
            _step_row(step, _added(keys.values()) if folded else keys[step], instances=len(keys) if folded else 0)
        )
        if folded:
            rows += (_step_row(key, values, inner=True) for key, values in keys.items())
        if len(rows) >= _STEPS:
            break
    total = sum(len(keys) + (len(keys) > 1) for keys in found.values())
    heads = ("Step", "Last state", "#Last", "#Median", "#Longest", "#Runs", "#Failed", "Trend")
    return card("Steps", _table(heads, rows[:_STEPS]) + _left_out(total, _STEPS, "row"))


def _added(parts: Iterable[Sequence[tuple[PastRun, float, str]]]) -> list[tuple[PastRun, float, str]]:
    """Add up the instances of a step for each run; a run in which one went wrong has its state."""
    runs: dict[str, tuple[PastRun, float, str]] = {}
    for part in parts:
        for run, seconds, state in part:
            _, before, worst = runs.get(run.run, (run, 0.0, state))
            runs[run.run] = (run, before + seconds, worst if worst in BAD else state)
    return sorted(runs.values(), key=lambda one: (one[0].started_at or 0.0, one[0].run))


def _step_row(
    key: str, values: Sequence[tuple[PastRun, float, str]], *, instances: int = 0, inner: bool = False
) -> str:
    bars = [
        _Bar(seconds=seconds, style=_style_of(state), words=_bar_words(run, state, seconds))
        for run, seconds, state in values
    ]
    trend = _trend(bars, [seconds for _, seconds, state in values if state not in BAD])
    state = values[-1][2]
    items = f' <span class="soft">{counted(instances, "instance")}, added up</span>' if instances else ""
    failed = sum(one in BAD for _, _, one in values)
    longest = format_duration(trend.longest) if trend.longest is not None else ""
    return _tr(
        f'<td class="{name_class(key)}"><code>{html_text(key)}</code>{items}</td>'
        f'<td class="state {_style_of(state)}"><span>{html_text(state.replace("_", " "))}</span></td>'
        f"{_took_cells(trend)}<td class='number'>{longest}</td><td class='number'>{len(values):,}</td>"
        f"{_failed_cell(failed)}<td>{_svg(trend)}</td>",
        bad=state in BAD,
        inner=inner,
    )


def _failures(runs: Sequence[PastRun]) -> str:
    found = [(run, step, state, text) for run in runs for step, (state, text) in run.failures.items()]
    if not found:
        return ""
    rows = [
        _tr(
            f"<td>{_started(run)}</td>{_id_cell(run)}<td><code>{html_text(step)}</code></td>"
            f"<td>{html_text(state.replace('_', ' '))}</td><td>{html_text(_line(text))}</td>"
        )
        for run, step, state, text in found[:_FAILURES]
    ]
    heads = ("Started", "Run", "Step", "State", "Message")
    return card("Failures", _table(heads, rows) + _left_out(len(found), _FAILURES, "failure"))


def _runs(runs: Sequence[PastRun], *, with_plan: bool, most: int) -> str:
    if not runs:
        return ""
    rows = []
    for run in runs[:most]:
        first = next(iter(run.failures.items()), None)
        result = run.problem or ("" if first is None else f"{first[0]}: {first[1][1] or first[1][0]}")
        rows.append(
            _tr(
                f"{_id_cell(run)}{f'<td>{_plan_link(run.plan)}</td>' if with_plan else ''}"
                f"<td>{html_text(run.target or run.database)}</td>{_status_cell(run)}<td>{_started(run)}</td>"
                f"<td class='number'>{format_duration(run.seconds) if run.seconds is not None else ''}</td>"
                f"<td>{html_text(_line(result))}</td>",
                bad=_failed(run),
            )
        )
    heads = ("Run", *(("Plan",) if with_plan else ()), "Target", "End", "Started", "#Took", "Result")
    return card("Runs", _table(heads, rows) + _left_out(len(runs), most, "run"))


# --- parts of both ----------------------------------------------------------------------------------------------------


def _failed(run: PastRun) -> bool:
    """Return whether the run needs attention: it failed, or its runner was lost."""
    return run.standing == "broken_off" if run.exit_code is None else is_failure(run.exit_code)


def _ended(run: PastRun) -> str:
    if run.exit_code is not None:
        return "succeeded" if run.exit_code == 0 else end_words(run.exit_code)
    return "has no end" if run.standing == "broken_off" else run.standing.replace("_", " ")


def _style(run: PastRun) -> str:
    if _failed(run):
        return state_class(StepState.FAILED)
    if run.exit_code is None:
        return state_class(StepState.RUNNING)
    return state_class(StepState.SUCCEEDED if run.exit_code == 0 else StepState.CANCELLED)


def _style_of(state: str) -> str:
    return state_class(StepState(state)) if state in frozenset(StepState) else state_class(StepState.UNKNOWN)


def _run_trend(runs: Sequence[PastRun]) -> _Trend:
    timed = [(run, run.seconds) for run in reversed(runs) if run.seconds is not None]
    bars = [
        _Bar(seconds=seconds, style=_style(run), words=_bar_words(run, _ended(run), seconds)) for run, seconds in timed
    ]
    return _trend(bars, [seconds for run, seconds in timed if run.exit_code == 0])


def _trend(bars: Sequence[_Bar], usual: Sequence[float]) -> _Trend:
    """Return a trend; the median and the longest are those of `usual`, which went well."""
    return _Trend(
        bars=tuple(bars[-_BARS:]),
        last=bars[-1].seconds if bars else None,
        middle=median(usual) if usual else None,
        longest=max(usual, default=None),
    )


def _bar_words(run: PastRun, end: str, seconds: float) -> str:
    at = f"{rfc3339(run.started_at)[:16].replace('T', ' ')} UTC" if run.started_at is not None else ""
    return f"{run.run}, {at}: {end.replace('_', ' ')} in {format_duration(seconds)}"


def _svg(trend: _Trend, *, tall: int = 22, wide: int = 5) -> str:
    """Return the bars of a trend; a line marks the median."""
    most = max((bar.seconds for bar in trend.bars), default=0.0)
    if not most:
        return ""
    parts = []
    for number, bar in enumerate(trend.bars):
        height = max(1.5, bar.seconds / most * tall)
        parts.append(
            f'<rect class="{bar.style}" x="{number * wide}" y="{tall - height:.1f}" '
            f'width="{wide - 1}" height="{height:.1f}">'
            f"<title>{html_text(bar.words)}</title></rect>"
        )
    width = len(trend.bars) * wide
    if trend.middle is not None and trend.middle <= most:
        y = tall - trend.middle / most * tall
        parts.append(f'<line class="middle" x1="0" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"></line>')
    label = f"The last {counted(len(trend.bars), 'duration')}"
    return f'<svg width="{width}" height="{tall}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _took_cells(trend: _Trend) -> str:
    """Return the cells of the last duration and of the median; one that is much longer is marked."""
    last = format_duration(trend.last) if trend.last is not None else ""
    if trend.slower is not None:
        last = f'<b class="slower">{last}</b> <span class="soft">{trend.slower:.1f} times the median</span>'
    middle = format_duration(trend.middle) if trend.middle is not None else ""
    return f"<td class='number'>{last}</td><td class='number'>{middle}</td>"


def _id_cell(run: PastRun) -> str:
    return f'<td class="id"><code>{html_text(run.run)}</code></td>'


def _status_cell(run: PastRun) -> str:
    return f'<td class="state {_style(run)}"><span>{html_text(_ended(run))}</span></td>'


def _failed_cell(number: int) -> str:
    return f'<td class="number{" s-failed" if number else ""}">{number:,}</td>'


def _started(run: PastRun) -> str:
    return moment(run.started_at) if run.started_at is not None else ""


def _plan_link(plan: str) -> str:
    style = ' class="short"' if len(plan) <= _SHORT else ""
    return f'<a href="{page_name(plan)}"{style}>{html_text(plan)}</a>'


def _line(text: str) -> str:
    return cut(text.partition("\n")[0], _MESSAGE)


def _left_out(total: int, shown: int, thing: str) -> str:
    return f'<p class="none">{counted(total - shown, f"more {thing}")}</p>' if total > shown else ""


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    """Return a table; a heading with a leading `#` is one of numbers."""
    cells = "".join(
        f'<th scope="col" class="number">{head[1:]}</th>' if head.startswith("#") else f'<th scope="col">{head}</th>'
        for head in heads
    )
    table = f'<table class="steps list"><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _tr(cells: str, *, bad: bool = False, inner: bool = False) -> str:
    style = " ".join(word for word, wanted in (("bad", bad), ("inner", inner)) if wanted)
    return f'<tr class="{style}">{cells}</tr>' if style else f"<tr>{cells}</tr>"
