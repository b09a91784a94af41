"""What a report of a large run takes: to be written, and to be opened in a browser, from the click to the picture.

What the test of the page holds it to is the processor's time; what a person waits for is this.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from benchmarks import plans
from benchmarks.bench import Bench
from benchmarks.figures import Figure, below
from runner.engine import events as ev
from runner.engine.simulation import AttemptScript, simulate
from runner.plan.model import Budget, Plan, Step
from runner.reports.report_kinds import report_text
from tests.chromium import chromium

_NAME = "report"
_SIZES = (100, 1_000, 5_000)
#: Seconds.
_OPENED = {1_000: below(2.0)}
#: Answers when the picture after the next one is about to be made: then this one has been.
_PAINTED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def measure(bench: Bench) -> Iterator[Figure]:
    """Write and open the pages of runs of several sizes; no server is needed."""
    pages = {}
    for steps in _SIZES:
        pages[steps] = bench.folder / f"{steps}.html"
        taken = _write(pages[steps], _plan(steps))
        megabytes = pages[steps].stat().st_size / 1e6
        yield Figure(benchmark=_NAME, what=f"{steps:,} steps: written", value=taken, unit="s")
        yield Figure(benchmark=_NAME, what=f"{steps:,} steps: size", value=megabytes, unit="MB")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        _open(browser, pages[_SIZES[0]])  # what the browser itself reads at first is read
        for steps, page in pages.items():
            opened = [_open(browser, page) for _ in range(bench.rounds(7))]
            yield Figure.median(_NAME, f"{steps:,} steps: opened and drawn", opened, "s", _OPENED.get(steps))
        browser.close()


def _plan(count: int) -> Plan:
    """Return a plan with chains and with steps that stand alone, like that of the page's own test."""
    steps = [
        plans.step(f"step_{at}", f"SELECT {at}", needs=[f"step_{at - 7}"] if at % 3 and at > 7 else [])
        for at in range(count)
    ]
    return Plan(name="large", budget=Budget(slots=16), steps=tuple(steps))


def _script(step: Step, _: int) -> AttemptScript:
    fails = step.id.endswith("00")
    return AttemptScript(duration=1.0, outcome=ev.Outcome.FAILED if fails else ev.Outcome.SUCCEEDED)


def _write(path: Path, plan: Plan) -> float:
    """Write the page of a run of the plan, and return the seconds that it took without the run."""
    events = simulate(plan, durations=_script).events
    start = time.perf_counter()
    path.write_text(report_text("html", plan, "260101-abcdef", events), encoding="utf-8")
    return time.perf_counter() - start


def _open(browser: Browser, path: Path) -> float:
    """Return the seconds on the clock until the page stands there."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    start = time.perf_counter()
    page.goto(path.as_uri())
    page.evaluate(_PAINTED)
    taken = time.perf_counter() - start
    page.close()
    return taken
