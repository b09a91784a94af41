"""The HTML report in a real browser: charts, table, themes and widths, hostile text, and a thousand steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from runner.engine import events as ev
from runner.engine.previous_runs import PreviousRun
from runner.plan.model import ForEach
from runner.reports.html import html_page
from runner.reports.report_builder import run_report
from runner.structs import replace
from tests.chromium import chromium
from tests.unit.report_samples import AT, HOSTILE, HOSTILE_ITEM, LONG, RUN, everything, reported, sql
from tests.unit.simulated_runs import plan, script, simulated, step


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; as root it has no sandbox."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run in which something of everything happened."""
    a_plan, events = everything()
    past = tuple(
        PreviousRun(run=f"past-{n}", started_at=AT - n, steps={"late": (n, "succeeded")}) for n in (1.0, 4.0, 2.0)
    )
    made = replace(run_report(a_plan, RUN, events), history=past, resume=f"jobplan resume {RUN}")
    return _written(tmp_path_factory, html_page(made))


@pytest.fixture(scope="module")
def big_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of a thousand steps."""
    steps = [step(f"step_{at}", *([f"step_{at - 7}"] if at % 3 and at > 7 else [])) for at in range(1000)]
    scripts = {one.id: [script(ev.Outcome.FAILED, "23505")] for one in steps[10::100]}
    run = simulated(plan(*steps, slots=16), scripts, watch=None)
    return _written(tmp_path_factory, html_page(run_report(run.state.plan, RUN, run.events)))


def _written(factory: pytest.TempPathFactory, text: str) -> Path:
    path = factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


class Opened:
    """A page, and what it complained of or asked the network for."""

    def __init__(self, browser: Browser, file: Path, **keys: Any) -> None:
        self.page: Page = browser.new_page(**keys)
        self.trouble: list[str] = []
        self.page.on("console", lambda said: self.trouble.append(said.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: self.trouble.append(dialog.message))
        self.page.on("request", lambda request: self.trouble.append(request.url))
        self.page.goto(file.as_uri())
        assert self.trouble.pop(0) == file.as_uri()

    def names(self) -> list[str]:
        """The steps that the table shows, in its order."""
        return self.page.locator("tr.step:not([hidden]) td.name").all_inner_texts()


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Opened]:
    """The small report, opened; nothing may have gone wrong at the end of the test."""
    one = Opened(browser, report, viewport={"width": 1280, "height": 900})
    yield one
    assert one.trouble == []
    one.page.close()


def test_every_attempt_has_a_bar_and_every_step_a_row_and_a_node(opened: Opened) -> None:
    a_plan, events = everything()
    report = run_report(a_plan, RUN, events)
    bars = opened.page.locator("#gantt g[data-attempt]").evaluate_all(
        "all => all.map(bar => [bar.dataset.step, +bar.dataset.attempt])"
    )
    assert sorted(map(tuple, bars)) == sorted((one.key, it.number) for one in report.leaves for it in one.attempts)
    assert opened.names() == [one.key for one in report.steps if one.parent is None]  # instances are folded
    nodes = opened.page.locator("#dag [data-node]").evaluate_all("all => all.map(node => node.dataset.node)")
    assert sorted(nodes) == sorted(one.key for one in report.steps if one.parent is None)
    assert opened.page.locator("#dag .node.critical").count() == 3
    assert opened.page.locator("#dag .edge.critical").count() == 2


def test_the_table_is_sorted_by_its_headings(opened: Opened) -> None:
    heading = opened.page.get_by_role("button", name="Time", exact=True)
    heading.click()
    assert opened.names()[0] in {"wide", "left", "vacuum"}
    heading.click()
    assert opened.names()[0] == "after_late"
    opened.page.get_by_role("button", name="Step", exact=True).click()
    assert opened.names() == sorted(opened.names())


def test_the_table_is_filtered_by_words_and_states(opened: Opened) -> None:
    opened.page.locator("#search").fill("delete AUDIT")
    assert opened.names() == ["purge"]
    assert opened.page.locator("#shown").inner_text() == "1 of 13"
    opened.page.locator("#search").fill("nothing like this")
    assert opened.names() == []
    assert opened.page.get_by_text("No step matches the filter.").is_visible()
    opened.page.locator("#search").fill("")
    opened.page.locator('[data-state="timed_out"]').click()
    opened.page.locator('[data-state="unknown"]').click()
    assert opened.names() == ["late", "lost"]
    opened.page.locator('[data-state="timed_out"]').click()
    assert opened.names() == ["lost"]


def test_a_step_opens_with_all_that_is_known_of_it(opened: Opened) -> None:
    opened.page.get_by_role("button", name="deadlocked", exact=True).click()
    more = opened.page.locator("tr.more")
    assert more.locator("table.data").count() == 3
    text = more.inner_text()
    assert "retrying" in text
    assert "SQLSTATE: 40P01" in text
    assert f"NOTICE:  of deadlocked {HOSTILE.replace(chr(0x2028), chr(10))}"[:60] in text
    assert more.locator("td.null").inner_text() == "NULL"
    opened.page.get_by_role("button", name="deadlocked", exact=True).click()
    assert more.count() == 0


def test_a_step_shows_its_durations_over_past_runs(opened: Opened) -> None:
    opened.page.get_by_role("button", name="late", exact=True).click()
    assert opened.page.locator("tr.more svg.past rect").count() == 4
    assert "median of past runs 2.0s" in opened.page.locator("tr.more").inner_text()
    opened.page.get_by_role("button", name="purge", exact=True).click()
    assert opened.page.locator("svg.past").count() == 1


def test_hostile_and_long_text_is_only_text(opened: Opened) -> None:
    for button in opened.page.locator("td.name button").all():
        button.click()
    assert opened.page.locator("tr.more").count() == 14  # 13 steps, and the step that three of them are instances of
    assert opened.page.locator("img, script[src], iframe, tr.more script, td.name b").count() == 0
    assert opened.page.locator("pre.sql", has_text=LONG).count() == 1
    assert opened.page.get_by_role("button", name=f"vacuum[{HOSTILE_ITEM}]", exact=True).count() == 1
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_timeline_zooms_and_describes_what_is_under_the_pointer(opened: Opened) -> None:
    bar = opened.page.locator('#gantt g[data-step="wide"] rect').first
    before = _width(bar)
    opened.page.get_by_role("button", name="Zoom in").click()
    opened.page.locator("#gantt").press("ArrowRight")
    bar = opened.page.locator('#gantt g[data-step="wide"] rect').first
    assert _width(bar) == pytest.approx(2 * before, rel=0.05)
    bar.hover()
    assert opened.page.locator(".tip").inner_text().startswith("wide\nsucceeded in 6.0s")
    bar.click()
    assert opened.page.locator("tr.more").inner_text().startswith("Takes two slots.")
    opened.page.get_by_role("button", name="All", exact=True).click()
    assert _width(opened.page.locator('#gantt g[data-step="wide"] rect').first) == pytest.approx(before, rel=0.01)


def _width(locator: Any) -> float:
    return float(locator.get_attribute("width"))


def test_the_timeline_shows_waits_by_step_and_the_queue_by_slot(opened: Opened) -> None:
    assert opened.page.locator("#gantt path.queue").count() == 1
    opened.page.get_by_role("button", name="Steps", exact=True).click()
    assert opened.page.locator("#gantt rect.wait").count() >= 3
    assert opened.page.locator("#gantt g[data-attempt]").count() == 14
    opened.page.locator("#gantt rect.wait").last.hover()
    assert " for " in opened.page.locator(".tip").inner_text()


def test_a_node_leads_to_its_step(opened: Opened) -> None:
    opened.page.locator('#dag [data-node="late"]').click()
    assert "timeout 5.0s" in opened.page.locator("tr.more").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_text_can_be_read_in_both_themes_and_nothing_is_wider_than_a_phone(
    browser: Browser, report: Path, scheme: Literal["light", "dark"], width: int
) -> None:
    one = Opened(browser, report, viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert one.page.evaluate("document.documentElement.scrollWidth") <= width
    ink, page = one.page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert _contrast(ink, page) > 7
    one.page.locator("#theme").click()
    other = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert other != page
    assert one.trouble == []
    one.page.close()


def _contrast(one: str, other: str) -> float:
    """Return the contrast of two colours. Source: https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio"""

    def luminance(color: str) -> float:
        channels = [int(part) / 255 for part in color[4:-1].split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_on_paper_the_failures_come_first_and_nothing_is_wider_than_the_page(opened: Opened) -> None:
    opened.page.emulate_media(media="print")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    opened.page.set_viewport_size({"width": 718, "height": 1000})  # A4 without its margins
    tops = [opened.page.locator(one).bounding_box() for one in (".wrong", "#dag svg", "#gantt svg", "#steps")]
    places = [box["y"] for box in tops if box is not None]
    assert places == sorted(places)
    assert len(places) == 4
    assert not opened.page.locator("#search").is_visible()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 718
    assert opened.page.pdf().startswith(b"%PDF")


def test_a_hundred_steps_take_three_pages_of_paper_and_no_name_is_broken(browser: Browser, tmp_path: Path) -> None:
    names = [
        f"{verb}_customer_addresses_of_{at:02}" for at in range(25) for verb in ("vacuum", "reindex", "purge", "x")
    ]
    steps = [step(name, *([names[at - 10]] if at >= 10 else [])) for at, name in enumerate(names)]
    scripts = {names[at]: [script(ev.Outcome.FAILED, "23505", duration=9.0)] for at in (5, 33, 47, 58)}
    run = simulated(plan(*steps, slots=6), scripts)
    page = tmp_path / "report.html"
    page.write_text(html_page(run_report(run.state.plan, RUN, run.events)), encoding="utf-8")
    one = Opened(browser, page, viewport={"width": 1280, "height": 900})
    pdf = one.page.pdf(prefer_css_page_size=True, format="A4")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 3
    one.page.emulate_media(media="print")
    one.page.set_viewport_size({"width": 718, "height": 1000})
    heights = one.page.locator("td.name button").evaluate_all("all => all.map(one => one.getClientRects()[0].height)")
    assert len(heights) == 100
    assert max(heights) < 1.5 * min(heights)  # each on one line
    assert one.trouble == []
    one.page.close()


def test_a_thousand_steps_open_in_less_than_two_seconds(browser: Browser, big_report: Path) -> None:
    """What counts is the processor's time until the page is loaded: what else the machine does is not its doing."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(big_report.as_uri())
    measured = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    assert page.locator("td.name").count() == 1000
    assert page.locator("#gantt g[data-attempt]").count() > 950  # the others were skipped
    assert 0.0 < measured["TaskDuration"] < 2.0
    page.close()


def test_what_went_wrong_is_on_top_with_the_command_that_resumes(opened: Opened) -> None:
    card = opened.page.get_by_role("region", name="What went wrong")
    assert card.locator("article h3 a").all_inner_texts() == ["lost", "late"]
    assert card.locator("article", has_text="Skipped because of it: after_late").count() == 1
    opened.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    card.get_by_role("button", name="Copy the command").click()
    card.get_by_text("Copied").wait_for()
    assert opened.page.evaluate("navigator.clipboard.readText()") == f"jobplan resume {RUN}"
    card.get_by_role("link", name="after_late").click()
    assert "upstream: late timed_out" in opened.page.locator("tr.more").inner_text()


def test_a_step_is_addressed_by_the_end_of_the_url(browser: Browser, report: Path, opened: Opened) -> None:
    opened.page.get_by_role("button", name="wide", exact=True).click()
    assert opened.page.evaluate("location.hash") == "#step=wide"
    page = browser.new_page()
    for fragment in ("#step=vacuum%5Bb%5D", "#vacuum%5Bb%5D"):
        page.goto(f"{report.as_uri()}{fragment}")
        page.reload()
        assert page.locator("tr.more").count() == 1
        assert page.locator("tr.step:has(+ tr.more) td.name").inner_text() == "vacuum[b]"
    page.goto(f"{report.as_uri()}#step=no%such")
    page.reload()
    assert page.locator("tr.step:not([hidden])").count() == 11
    page.close()


def test_the_four_tiles_filter_the_table(opened: Opened) -> None:
    tiles = opened.page.locator("button.tile")
    assert tiles.locator("b").all_inner_texts() == ["17.5s", "2", "1", "3 of 3"]
    shown = []
    for tile in tiles.all():
        tile.click()
        shown.append(opened.names())
    assert shown[0][0] in {"wide", "left"}
    assert shown[1:] == [
        ["late", "allowed", "lost"],
        ["deadlocked"],
        ["vacuum[</b>'\"&`|\\@all]", "vacuum[b]", *shown[3][2:]],
    ]
    assert sorted(shown[3][2:]) == ["lost", "vacuum[a]"]
    opened.page.get_by_role("button", name="Show all").click()
    assert len(opened.names()) == 11


def test_instances_are_folded_and_those_that_failed_are_shown(browser: Browser, tmp_path: Path) -> None:
    each = step("vacuum", for_each=ForEach(as_="t", sql=sql("SELECT t")))
    items = [f"p{at:02}" for at in range(60)]
    scripts = {f"vacuum[{name}]": [script(ev.Outcome.FAILED, "55P03")] for name in ("p07", "p31")}
    run = reported(plan(each, slots=6), scripts, items=items)
    page = tmp_path / "report.html"
    page.write_text(html_page(run_report(run.state.plan, RUN, run.events)), encoding="utf-8")
    one = Opened(browser, page, viewport={"width": 1280, "height": 900})
    assert one.names() == ["vacuum", "vacuum[p07]", "vacuum[p31]"]
    assert "58/60 done, 2 failed" in one.page.locator("tr.fold").inner_text()
    assert "58/60 done, 2 failed" in one.page.locator("#dag").inner_text()
    one.page.get_by_role("button", name="vacuum", exact=True).click()
    assert len(one.names()) == 61
    one.page.get_by_role("button", name="vacuum", exact=True).click()
    assert len(one.names()) == 3
    one.page.get_by_role("button", name="Steps", exact=True).click()
    assert one.page.locator("#gantt text.soft", has_text="vacuum").all_text_contents() == one.names()
    assert one.trouble == []
    one.page.close()


def test_the_critical_path_is_off_while_a_failure_is_what_counts(opened: Opened) -> None:
    toggle = opened.page.get_by_role("button", name=re.compile("critical path: 3 steps"))
    assert toggle.get_attribute("aria-pressed") == "false"
    box = opened.page.locator('#dag [data-node="purge"] rect.box')
    plain = box.evaluate("one => getComputedStyle(one).stroke")
    toggle.click()
    ink = opened.page.evaluate("getComputedStyle(document.body).color")
    assert plain != ink
    assert box.evaluate("one => getComputedStyle(one).stroke") == ink


def test_sql_is_highlighted_as_postgresql_reads_it(opened: Opened) -> None:
    opened.page.get_by_role("button", name="purge", exact=True).click()
    marks = opened.page.locator("tr.more pre.sql b")
    assert marks.all_inner_texts() == ["DELETE", "FROM", "WHERE", "9"]
    assert marks.first.evaluate("one => getComputedStyle(one).color") != opened.page.evaluate(
        "getComputedStyle(document.body).color"
    )


def test_the_readers_local_time_stands_beside_utc(browser: Browser, report: Path) -> None:
    one = Opened(browser, report, timezone_id="Africa/Nairobi")
    began = one.page.locator("header time").inner_text()
    assert began == "2026-01-01 00:00:00 UTC (2026-01-01 03:00:00 Africa/Nairobi)"
    one.page.locator('#gantt g[data-step="wide"] rect').first.hover()
    assert "03:00:10 Africa/Nairobi" in one.page.locator(".tip").inner_text()
    assert one.trouble == []
    one.page.close()


def test_the_time_between_two_runners_is_cut_out_of_the_axis(browser: Browser, tmp_path: Path) -> None:
    a_plan = plan(step("first"), step("second", "first"), step("third", "second"))
    run = simulated(a_plan, {"second": [script(ev.Outcome.FAILED, "57014")]}, start=AT)
    ended = run.events[-1].at
    resumed = ev.RunResumed(at=ended + 28_800, jobplan="1", file="", sha256="", host="h", os_pid=1, slots=4, steps=3)
    again = simulated(a_plan, start=resumed.at)
    later = [event for event in again.events if isinstance(event, ev.StepEvent) and event.step != "first"]
    made = run_report(a_plan, RUN, [*run.events, resumed, *later, again.events[-1]])
    assert made.gaps == ((ended, ended + 28_800),)
    page = tmp_path / "report.html"
    page.write_text(html_page(made), encoding="utf-8")
    one = Opened(browser, page, viewport={"width": 1280, "height": 900})
    assert one.page.locator("#gantt g.cut text").text_content() == "8h00m"
    assert one.page.locator("#gantt g.cut title").text_content() == "8h00m between two runners are left out"
    labels = one.page.locator("#gantt text.soft").all_text_contents()
    assert {"+1s", "+8h00m03s"} <= set(labels)
    assert len(labels) == len(set(labels))
    widths = [_width(one.page.locator(f'#gantt g[data-step="{key}"] rect').last) for key in ("first", "third")]
    assert min(widths) > 100  # a second of each, although the run spans eight hours
    assert one.trouble == []
    one.page.close()


def test_a_group_is_folded_at_each_of_its_levels(browser: Browser, tmp_path: Path) -> None:
    chain = (step("rebuild"), step("log", "rebuild"))
    group = replace(step("g"), for_each=ForEach(as_="x", items=tuple(f"i{at}" for at in range(9))), steps=chain)
    a_plan = plan(group)
    run = simulated(a_plan, {"g[i3].log": [script(ev.Outcome.FAILED, "42P01")]}, watch=None)
    page = tmp_path / "report.html"
    page.write_text(html_page(run_report(a_plan, RUN, run.events)), encoding="utf-8")
    one = Opened(browser, page)
    assert one.names() == ["g", "g[i3].log"]
    one.page.get_by_role("button", name="g", exact=True).click()
    assert one.names() == ["g", *(f"g[i{at}]" for at in range(4)), "g[i3].log", *(f"g[i{at}]" for at in range(4, 9))]
    one.page.get_by_role("button", name="g[i0]", exact=True).click()
    assert one.names()[1:4] == ["g[i0]", "g[i0].rebuild", "g[i0].log"]
    one.page.locator("article h3 a", has_text="g[i3].log").click()
    assert "rebuild" in one.page.locator("tr.step:has(button:text-is('g[i3].log')) + tr.more").inner_text()
    assert one.trouble == []
    one.page.close()
