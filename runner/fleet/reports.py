"""Reports on a fleet run: one page, JUnit with a suite for each target, Markdown, and a textfile for Prometheus.

Each begins with what went wrong: failures grouped by step, SQLSTATE and message, with how often and where, and the
command that continues the fleet run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

from runner import __version__
from runner.clock import rfc3339
from runner.durations import format_duration
from runner.exit_codes import end_words
from runner.fleet.events import FAILURES, Failure, MemberState
from runner.fleet.messages import (
    FailureGroup,
    count_words,
    failure_groups,
    group_words,
    groups_of,
    is_unfinished,
    listed_targets,
    member_words,
    resume_command,
)
from runner.fleet.rollout import FleetState, Member
from runner.phrases import counted
from runner.reports.destinations import Destination
from runner.reports.html import self_contained
from runner.reports.junit import xml_document
from runner.reports.markdown import code
from runner.reports.messages import xml_text
from runner.reports.page_summary import card, html_text
from runner.reports.plan_problems import plain_markdown
from runner.reports.prometheus import Gauge, gauges_text
from runner.structs import to_values

#: Marks of step states in the matrix, with the state as their title.
_MARKS = {
    "succeeded": "✓",
    "failed": "✗",
    "timed_out": "✗",
    "cancelled": "✗",
    "unknown": "?",
    "skipped": "-",
    "detached": "→",
    "failed_allowed": "!",
}
#: Groups of failures in the Markdown report: a summary of GitHub has at most 1 MiB.
_MOST_GROUPS = 100
_BAD = frozenset({*FAILURES, MemberState.UNKNOWN, MemberState.INTERRUPTED})


def write_reports(reports: tuple[tuple[str, Path], ...], state: FleetState) -> dict[Path, str]:
    """Write the reports; return why some could not be written, by path."""
    problems = {}
    for kind, path in reports:
        try:
            Destination.of(path).write(KINDS[kind](state))
        except OSError as error:
            problems[path] = f"the {kind} report {path} cannot be written: {error.strerror}"
    return problems


def _end(state: FleetState) -> str:
    if state.finished is None:
        return "not ended"
    if state.stopping is not None:
        return "stopped"
    return end_words(state.finished.exit_code)


# --- Markdown ---


def markdown_text(state: FleetState) -> str:
    """Write the fleet run as Markdown, for the summary of a CI job."""
    return "\n".join(_markdown(state)) + "\n"


def _markdown(state: FleetState) -> Iterator[str]:
    plan = state.started.plan if state.started is not None else ""
    yield f"## {plain_markdown(plan)}: {_end(state)}"
    yield ""
    yield f"Fleet run `{state.fleet}`: {count_words(state.counts())} in {format_duration(state.seconds)}."
    if state.stopping is not None:
        yield f"Stopped: {plain_markdown(state.stopping.reason)}."
    groups = groups_of(state)
    if groups:
        yield ""
        yield "| What went wrong | Targets |"
        yield "|---|---|"
        for group in groups[:_MOST_GROUPS]:
            where = f"{len(group.targets):,}: {plain_markdown(listed_targets(group.targets))}"
            yield f"| {plain_markdown(group_words(group))} | {where} |"
        if len(groups) > _MOST_GROUPS:
            yield ""
            yield f"_{counted(len(groups) - _MOST_GROUPS, 'more group')} of failures: `jobplan fleet show`._"
    if is_unfinished(state):
        yield ""
        yield f"To continue: {code(resume_command(state), whole=True)}"
    yield ""
    yield "| Wave | Targets | |"
    yield "|---|---|---|"
    for wave in state.waves:
        found = Counter(member.state for member in state.members.values() if member.wave == wave.name)
        yield f"| {plain_markdown(wave.name)} | {found.total():,} | {count_words(found)} |"


# --- JUnit ---


def junit_xml(state: FleetState) -> str:
    """Write the fleet run as JUnit XML: a suite for each target, with its steps as cases."""
    root = ET.Element("testsuites", {"name": state.started.plan if state.started is not None else state.fleet})
    for member in state.members.values():
        root.append(_suite(member))
    return xml_document(root)


def _suite(member: Member) -> ET.Element:
    last = member.last
    steps = dict(last.steps) if last is not None else {}
    cases = [_case(member, step, found) for step, found in steps.items()]
    if not cases:
        cases = [_case_without_steps(member)]
    kinds = [child.tag for case in cases for child in case]
    suite = ET.Element(
        "testsuite",
        {
            "name": xml_text(member.target.name),
            "tests": str(len(cases)),
            "failures": str(kinds.count("failure")),
            "errors": str(kinds.count("error")),
            "skipped": str(kinds.count("skipped")),
            "time": f"{last.seconds if last is not None else 0.0:.3f}",
            "hostname": xml_text(member.target.cluster),
        },
    )
    properties = ET.SubElement(suite, "properties")
    facts = {"run": member.run, "wave": member.wave, **member.target.facts}
    for name, value in facts.items():
        ET.SubElement(properties, "property", {"name": xml_text(name), "value": xml_text(value)})
    suite.extend(cases)
    return suite


def _case(member: Member, step: str, found: str) -> ET.Element:
    case = ET.Element("testcase", {"name": xml_text(step), "classname": xml_text(member.target.name)})
    failures = _failures_of(member, step)
    first = failures[0] if failures else Failure(message=found.replace("_", " "))
    more = f" (and {len(failures) - 1:,} more)" if len(failures) > 1 else ""
    message = xml_text(f"{first.message}{more}")
    if found in {"failed", "timed_out", "cancelled"}:
        failure = ET.SubElement(case, "failure", {"message": message, "type": xml_text(first.sqlstate or found)})
        failure.text = xml_text("\n".join(f"{one.step}: {one.message}" for one in failures)) or None
    elif found == "unknown" or found not in _MARKS:
        ET.SubElement(case, "error", {"message": message, "type": found})
    elif found == "skipped":
        ET.SubElement(case, "skipped")
    return case


def _failures_of(member: Member, step: str) -> tuple[Failure, ...]:
    """Return the failures of a step of the plan: its own, or those of its items."""
    failures = () if member.last is None else member.last.failures
    return tuple(one for one in failures if one.step is not None and one.step.partition("[")[0] == step)


def _case_without_steps(member: Member) -> ET.Element:
    """Return the case of a member whose plan did not begin."""
    case = ET.Element("testcase", {"name": "begin", "classname": xml_text(member.target.name)})
    why = member.last.failures[0].message if member.last is not None and member.last.failures else ""
    if member.state in FAILURES:
        ET.SubElement(case, "failure", {"message": xml_text(why), "type": str(member.state)})
    elif member.state is MemberState.UNKNOWN:
        ET.SubElement(case, "error", {"message": xml_text(why), "type": str(member.state)})
    elif member.state is not MemberState.SUCCEEDED:
        ET.SubElement(case, "skipped", {"message": xml_text(why or member_words(member.state))})
    return case


# --- Prometheus ---


def prometheus_text(state: FleetState) -> str:
    """Write the fleet run in the text format 0.0.4: the whole, and each target."""
    plan = state.started.plan if state.started is not None else ""
    return gauges_text("jobplan_fleet", {"plan": plan}, _gauges(state))


def _gauges(state: FleetState) -> Iterator[Gauge]:
    code = -1 if state.finished is None else state.finished.exit_code
    counts, members = state.counts(), state.members.items()
    yield "run_exit_code", "The exit code of the fleet run; -1 if it did not end.", [({}, code)]
    yield "run_success", "1 if the fleet run ended with exit code 0, else 0.", [({}, float(code == 0))]
    yield "run_start_timestamp_seconds", "When the fleet run began.", [({}, state.started_at or 0.0)]
    yield "run_duration_seconds", "How long the fleet run took.", [({}, state.seconds)]
    yield "run_targets", "Targets by their state.", [({"state": str(one)}, counts[one]) for one in MemberState]
    good = [({"target": name}, float(member.state is MemberState.SUCCEEDED)) for name, member in members]
    yield "target_success", "1 if the plan succeeded on the target, else 0.", good
    took = [({"target": name}, member.last.seconds) for name, member in members if member.last is not None]
    yield "target_duration_seconds", "How long the last try of the target took.", took


# --- HTML ---


def html_page(state: FleetState) -> str:
    """Write the fleet run as one self-contained page without scripts."""
    steps = list(dict.fromkeys(step for one in state.members.values() if one.last for step in one.last.steps))
    plan = state.started.plan if state.started is not None else state.fleet
    end = _end(state)
    return self_contained(
        "fleet.html",
        styles=("report.css", "fleet.css"),
        scripts=(),
        jobplan=html_text(__version__),
        title=html_text(f"{plan}: {end}"),
        plan=html_text(plan),
        end=html_text(end),
        end_class="good" if end == "succeeded" else "bad",
        meta="".join(_meta(state)),
        tiles="".join(_tiles(state)),
        wrong=_wrong(state),
        legend=html_text("✓ succeeded  ✗ failed  ? unknown  - skipped"),
        headers="".join(f'<th scope="col">{html_text(name)}</th>' for name in ("Target", "State", "Time", *steps)),
        rows="\n".join(_rows(state, steps)),
    )


def _meta(state: FleetState) -> Iterator[str]:
    began = "" if state.started_at is None else f", {rfc3339(state.started_at)[:19].replace('T', ' ')} UTC"
    yield f"<p>fleet run <code>{html_text(state.fleet)}</code>{began}</p>"
    if state.stopping is not None:
        yield f"<p><b>Stopped:</b> {html_text(state.stopping.reason)}</p>"


def _tiles(state: FleetState) -> Iterator[str]:
    yield _tile(format_duration(state.seconds), "duration")
    yield _tile(f"{len(state.members):,}", "targets")
    counts = state.counts()
    for one in MemberState:
        if counts[one]:
            yield _tile(f"{counts[one]:,}", member_words(one), f"s-{one}")


def _tile(number: str, words: str, style: str = "") -> str:
    return f'<div class="tile"><b class="{style}">{html_text(number)}</b><span>{html_text(words)}</span></div>'


def _wrong(state: FleetState) -> str:
    groups = groups_of(state)
    following = (
        f'<div class="next">To continue:<pre>{html_text(resume_command(state))}</pre></div>'
        if is_unfinished(state)
        else ""
    )
    if not groups:
        return f'<section class="card" aria-label="What is left">{following}</section>' if following else ""
    items = "".join(
        f'<li><span class="often">{len(group.targets):,} of {counted(len(state.members), "target")}</span>'
        f"{html_text(group_words(group))}"
        f'<div class="where">{html_text(listed_targets(group.targets))}{_place(group)}</div></li>'
        for group in groups
    )
    return card("What went wrong", f"{following}<ol>{items}</ol>", style="wrong")


def _place(group: FailureGroup) -> str:
    return f" · <code>{html_text(group.place)}</code>" if group.place else ""


def _rows(state: FleetState, steps: list[str]) -> Iterator[str]:
    for wave in state.waves:
        members = [member for member in state.members.values() if member.wave == wave.name]
        yield f'<tr class="wave"><td colspan="{len(steps) + 3}">wave {html_text(wave.name)}, {len(members):,}</td></tr>'
        for member in sorted(members, key=lambda one: one.state not in _BAD):
            found = member.last.steps if member.last is not None else {}
            took = "" if member.last is None else format_duration(member.last.seconds)
            cells = "".join(_cell_of(found.get(step, "")) for step in steps)
            bad = ' class="bad"' if member.state in _BAD else ""
            name = html_text(member.target.name)
            yield (
                f'<tr{bad}><td title="{name}, run {html_text(member.run)}">{name}</td>'
                f'<td class="state s-{member.state}"><span>{html_text(member_words(member.state))}</span></td>'
                f"<td>{html_text(took)}</td>{cells}</tr>"
            )


def _cell_of(found: str) -> str:
    words = found.replace("_", " ")
    return f'<td class="cell s-{found or "pending"}" title="{html_text(words)}">{_MARKS.get(found, "")}</td>'


# --- JSON ---


def report_data(state: FleetState, code: int) -> dict[str, object]:
    """Return the fleet run as JSON values; `code` is its exit code."""
    members = [
        {
            "target": member.target.name,
            "cluster": member.target.cluster,
            "database": member.target.database,
            "labels": dict(member.target.labels),
            "wave": member.wave,
            "run": member.run,
            "state": str(member.state),
            **({} if member.last is None else {"exit_code": member.last.exit_code, "seconds": member.last.seconds}),
            "failures": [to_values(one) for one in (() if member.last is None else member.last.failures)],
        }
        for member in state.members.values()
    ]
    counts = {str(one): number for one, number in state.counts().items()}
    groups = [to_values(group) for group in failure_groups(list(state.members.values()))]
    return {"fleet": state.fleet, "exit_code": code, "counts": counts, "groups": groups, "members": members}


#: The kinds of report of `jobplan fleet run --report KIND=PATH`.
KINDS: Mapping[str, Callable[[FleetState], str]] = {
    "html": html_page,
    "junit": junit_xml,
    "markdown": markdown_text,
    "prometheus": prometheus_text,
}
