"""Reports on a fleet run: what went wrong comes first, each format is valid, and no text of a server is markup."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from runner.cli.fleet_progress import live_lines
from runner.fleet import events as ev
from runner.fleet.events import Failure, MemberState
from runner.fleet.messages import FleetEnd, failure_groups, normalised, resume_command, summary_lines
from runner.fleet.reports import html_page, junit_xml, markdown_text, prometheus_text
from runner.fleet.rollout import FleetState, apply, initial_state
from runner.fleet.targets import Cluster, Rollout, Target, Wave, parse_selectors, place
from runner.reports.terminal_text import columns

HOSTILE = "<script>alert('x')</script> | `rm` \x1b[31m ]]> \"q\" &"


def finished(target: str, state: MemberState, *failures: Failure, steps: dict[str, str] | None = None) -> ev.FleetEvent:
    codes = {MemberState.SUCCEEDED: 0, MemberState.FAILED: 1, MemberState.UNREACHABLE: 4, MemberState.UNKNOWN: 7}
    return ev.MemberFinished(
        at=5.0,
        target=target,
        state=state,
        exit_code=codes[state],
        seconds=2.5,
        failures=failures,
        steps=steps or {},
    )


def sample() -> FleetState:
    """A fleet of seven: two groups of failures, an unknown outcome, a hostile name, one that was not started."""
    names = ["acme", "t1", "t2", "t3", "t4", HOSTILE, "last"]
    targets = [
        Target(name=name, cluster="c1", database="d", labels={"w": "b" if name == "last" else "a"}) for name in names
    ]
    waves = (Wave(name="first", where=parse_selectors(["w=a"])), Wave(name="rest"))
    state = initial_state("f-1", place(targets, waves), Rollout(), {"c1": Cluster(name="c1", connection={}, slots=1)})
    started = ev.FleetStarted(
        at=0.0, jobplan="1", plan="purge", file="p.yaml", sources="x", targets=7, host="h", os_pid=1
    )
    apply(state, started)
    for name in names[:-1]:
        apply(state, ev.MemberStarted(at=1.0, target=name, run="f-1-001", wave="first"))
    missing = 'relation "{}" does not exist'
    events = [
        finished("acme", MemberState.SUCCEEDED, steps={"a": "succeeded", "b": "succeeded"}),
        *(
            finished(
                name,
                MemberState.FAILED,
                Failure(step="b", sqlstate="42P01", message=missing.format(f"audit_{name}"), place="p.yaml:7:10"),
                steps={"a": "succeeded", "b": "failed"},
            )
            for name in ("t1", "t2")
        ),
        finished("t3", MemberState.UNREACHABLE, Failure(message="Connection refused")),
        finished(
            "t4",
            MemberState.UNKNOWN,
            Failure(step="a", message="its connection was lost"),
            steps={"a": "unknown", "b": "skipped"},
        ),
        finished(HOSTILE, MemberState.FAILED, Failure(step=HOSTILE, sqlstate="P0001", message=HOSTILE)),
        ev.FleetStopping(at=6.0, reason=f"wave first: {HOSTILE}"),
        ev.FleetFinished(at=9.0, exit_code=7),
    ]
    for event in events:
        apply(state, event)
    return state


def test_failures_are_grouped_by_step_sqlstate_and_normalised_message() -> None:
    groups = failure_groups(list(sample().members.values()))
    assert (groups[0].step, groups[0].sqlstate, len(groups[0].targets)) == ("b", "42P01", 2)
    assert groups[0].message == "relation … does not exist"
    assert groups[0].targets == ("t1", "t2")
    assert normalised("row 17 of 'x' in \"y\" took 1.5 s") == "row … of … in … took … s"


def test_the_end_says_what_went_wrong_first_and_what_to_type_last() -> None:
    lines = list(summary_lines(sample()))
    assert lines[0] == "What went wrong:"
    assert "2 of 7 targets: t1, t2" in lines[2]
    assert lines[-1] == "Resume  jobplan fleet resume f-1 --mark 't4:a=…'"


def test_the_page_has_what_went_wrong_before_the_matrix_and_no_markup_of_a_server() -> None:
    page = html_page(sample())
    assert page.index("What went wrong") < page.index("<table")
    assert "jobplan fleet resume f-1" in page
    assert "<script" not in page
    assert "\x1b" not in page
    assert page.count('<tr class="bad">') == 5
    policy = re.search(r"style-src 'sha256-[A-Za-z0-9+/=]+'", page)
    assert policy is not None


def test_junit_has_a_suite_for_each_target() -> None:
    root = ET.fromstring(junit_xml(sample()))  # noqa: S314 - our own text
    suites = {suite.get("name"): suite for suite in root}
    assert len(suites) == 7
    counts = {name: (suite.get("tests"), suite.get("failures"), suite.get("errors")) for name, suite in suites.items()}
    assert counts["acme"] == ("2", "0", "0")
    assert counts["t1"] == ("2", "1", "0")
    assert counts["t3"] == ("1", "1", "0")
    assert counts["t4"] == ("2", "0", "1")
    assert counts["last"] == ("1", "0", "0")


def test_markdown_and_prometheus() -> None:
    text = markdown_text(sample())
    assert text.startswith("## purge: stopped")
    assert "| step b: relation … does not exist (42P01) | 2: t1, t2 |" in text
    assert "`jobplan fleet resume f-1 --mark 't4:a=…'`" in text
    metrics = prometheus_text(sample())
    assert 'jobplan_fleet_run_targets{plan="purge",state="failed"} 3' in metrics
    assert 'jobplan_fleet_target_success{plan="purge",target="acme"} 1' in metrics
    assert metrics.count("# TYPE") == metrics.count("# HELP") == 7


#: A name that is markup, reverses text, and ends a code span.
ODD = "[x](http://e) \x1b[31m \u202egnp.exe ~~`a``b` | @team\n# head"


def odd() -> FleetState:
    """A fleet with one target of that name, of which two items of a step have failed."""
    targets = [Target(name=ODD, cluster="c1", database="d")]
    waves = (Wave(name="all"),)
    state = initial_state("f", place(targets, waves), Rollout(), {"c1": Cluster(name="c1", connection={}, slots=1)})
    failures = [Failure(step=f"many[{item}]", sqlstate="22012", message=f"{item}: {ODD}") for item in ("x", "y")]
    steps = {"a": "unknown", "many": "failed"}
    end = finished(ODD, MemberState.UNKNOWN, Failure(step="a", message="lost"), *failures, steps=steps)
    for event in (ev.MemberStarted(at=1.0, target=ODD, run="f-001", wave="all"), end):
        apply(state, event)
    return state


def test_markdown_has_no_markup_and_no_control_character_of_a_name() -> None:
    text = markdown_text(odd())
    assert "\x1b" not in text
    assert "\u202e" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert not any(mark in row for row in rows for mark in ("[x]", "`", "~~", "@team"))
    (command,) = [line for line in text.splitlines() if line.startswith("To continue")]
    assert command.startswith("To continue: ```jobplan fleet resume f --mark ")
    assert command.endswith("```")
    assert resume_command(odd()).splitlines()[0][:40] in command


def test_junit_has_the_failures_of_items_in_the_case_of_their_step() -> None:
    root = ET.fromstring(junit_xml(odd()))  # noqa: S314 - our own text
    failure = root.find("testsuite/testcase[@name='many']/failure")
    assert failure is not None
    assert failure.get("type") == "22012"
    assert (failure.get("message") or "").startswith("x: [x]")
    assert (failure.get("message") or "").endswith(" (and 1 more)")
    assert "many[y]: y: [x]" in (failure.text or "")


def test_the_page_shows_what_would_reverse_its_text() -> None:
    page = html_page(odd())
    assert "\u202e" not in page
    assert "\\u202egnp.exe" in page
    assert "\\x1b[31m" in page


def test_many_groups_of_failures_are_not_all_listed_at_the_end() -> None:
    targets = [Target(name=f"t{number}", cluster="c1", database=f"d{number}") for number in range(300)]
    clusters = {name: Cluster(name=name, connection={}, slots=1) for name in ("c1", "idle")}
    state = initial_state("f", place(targets, (Wave(name="all"),)), Rollout(), clusters)
    for target in targets:
        apply(state, ev.MemberStarted(at=1.0, target=target.name, run="f-001", wave="all"))
        apply(state, finished(target.name, MemberState.FAILED, Failure(step="a", message=f"no {target.name}")))
    lines = list(FleetEnd(state=state, options=" --journal x", record="r", reports=()).lines())
    assert "  and 290 more groups of failures: jobplan fleet show f --journal x" in lines
    assert len(lines) < 40
    assert sum("no t" in line for line in summary_lines(state)) == 300
    text = markdown_text(state)
    assert text.count("| step a: ") == 100
    assert "_200 more groups of failures: `jobplan fleet show`._" in text


def test_a_drawing_fits_the_terminal_and_cuts_no_count() -> None:
    state = odd()
    state.clusters = {"c1": state.clusters["c1"], "idle": Cluster(name="idle", connection={}, slots=1)}
    apply(state, ev.MemberStarted(at=1.0, target=ODD, run="f-001", wave="all"))
    for width in (20, 40, 80, 160):
        lines = live_lines(state, {}, 10.0, width)
        assert all(columns(line) <= width for line in lines)
        assert "0 workers" in " ".join(" ".join(lines).split())
        assert not any("idle" in line for line in lines)
        assert not any("\x1b" in line for line in lines)
