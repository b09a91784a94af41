"""The top of the HTML page without a browser: the card of failures, the tiles, and the split of the time."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from runner.engine import events as ev
from runner.engine.previous_runs import PreviousRun
from runner.engine.state import StepState
from runner.plan.model import RetryPolicy
from runner.reports.html import html_page
from runner.reports.page_summary import time_split, went_wrong
from runner.reports.report_builder import run_report
from runner.reports.run_report import AttemptReport, LockWaitReport, RunReport, StepReport, TimeSplit, Wait, Waiting
from runner.structs import replace
from tests.unit.report_samples import HOSTILE, RUN, everything, sql
from tests.unit.simulated_runs import plan, script, simulated, step

SQL = "-- 日本語\nCREATE INDEX i\n    ON orders (customer, '日本', broken)\n WHERE status = 'new'"


def _failed(text: str = SQL, position: int | None = None, **keys: str) -> RunReport:
    a_plan = plan(step("index", sql=sql(text)), step("after", "index"), step("last", "after"), step("free"))
    run = simulated(a_plan, {"index": [script(ev.Outcome.FAILED, "42703")]})
    events = [
        replace(event, error=replace(event.error, position=position, **keys), file="nightly.yaml", line=57)
        if isinstance(event, ev.StepFinished) and event.error is not None
        else event
        for event in run.events
    ]
    return replace(run_report(a_plan, RUN, events), resume=f"jobplan resume {RUN}")


def _text(html: str) -> str:
    """Return the text of some HTML, as a reader has it."""
    parser = _Reader()
    parser.feed(html)
    return "".join(parser.found)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def test_the_card_has_the_step_its_place_the_dependents_and_the_command() -> None:
    card = _text(went_wrong(_failed(message='column "broken" does not exist')))
    assert card.startswith("What went wrongindexfailed, after 1.0snightly.yaml:57")
    assert 'column "broken" does not exist' in card
    assert "Skipped because of it: after, last" in card
    assert f"Resumejobplan resume {RUN}" in card


def test_the_caret_stands_under_the_position_of_the_error_also_behind_wide_characters() -> None:
    card = _text(went_wrong(_failed(position=SQL.index("broken") + 1)))
    lines = card.split("\n")
    at = next(number for number, line in enumerate(lines) if "broken" in line)
    before = lines[at][: lines[at].index("broken")]
    assert lines[at + 1] == " " * (len(before) + 2) + "^"  # two characters before it take two columns each


def test_an_error_far_behind_in_a_long_line_is_shown_with_what_is_around_it() -> None:
    text = f"SELECT {', '.join(f'column_{at}' for at in range(400))}, broken FROM t"
    card = _text(went_wrong(_failed(text, position=text.index("broken") + 1)).partition('<pre class="sql">')[2])
    line = next(line for line in card.split("\n") if "broken" in line)
    caret = card.split("\n")[card.split("\n").index(line) + 1]
    assert len(line) < 140
    assert caret.index("^") == line.index("broken")


def test_a_position_behind_the_text_and_an_empty_text_are_no_trouble() -> None:
    assert "^" in went_wrong(_failed(position=10_000))
    assert "<pre" not in went_wrong(_failed(" "))


def test_a_run_that_succeeded_has_no_card_and_one_without_an_end_says_so() -> None:
    a_plan = plan(step("a"))
    run = simulated(a_plan)
    assert went_wrong(run_report(a_plan, RUN, run.events)) == ""
    cut = run_report(a_plan, RUN, run.events[:-1])
    assert "The run has no end" in went_wrong(cut)


def test_a_run_that_cannot_be_resumed_offers_no_command() -> None:
    report = replace(_failed(), resumable=False)
    assert "Resume" not in went_wrong(report)
    assert "Resume" not in went_wrong(replace(_failed(), resume=""))


def test_hundreds_of_failures_are_listed_within_limits() -> None:
    a_plan = plan(*(step(f"s{at}") for at in range(150)), slots=150)
    run = simulated(a_plan, {f"s{at}": [script(ev.Outcome.FAILED, "23505")] for at in range(150)}, watch=None)
    card = went_wrong(run_report(a_plan, RUN, run.events))
    assert card.count("<article>") == 10
    assert card.count("<details>") == 7
    assert "and 40 more: see the table of steps" in card


def test_hostile_text_in_the_card_is_only_text() -> None:
    a_plan, events = everything()
    report = replace(run_report(a_plan, RUN, events), resume=f"jobplan resume {HOSTILE}")
    report = replace(report, started=replace(report.started, database=HOSTILE))
    page = html_page(report)
    assert page.count("<script") == 2
    assert "<img" not in page
    assert page.count("</script>") == 2


def _step(key: str = "a", **keys: object) -> StepReport:
    return StepReport(key=key, state=StepState.SUCCEEDED, sql="", **keys)  # type: ignore[arg-type] # any field


def _attempt(number: int, since: float, until: float, *locks: tuple[float, float], iteration: int = 1) -> AttemptReport:
    waits = tuple(LockWaitReport(since=at, until=end, mode="ShareLock", lock="relation") for at, end in locks)
    return AttemptReport(number=number, iteration=iteration, launched_at=since, ended_at=until, lock_waits=waits)


def test_the_time_of_a_step_is_split_and_no_second_is_counted_twice() -> None:
    made = _step(
        attempts=(_attempt(1, 2.0, 5.0, (3.0, 4.0)), _attempt(2, 9.0, 19.0, (10.0, 13.0))),
        waits=(
            Wait(kind=Waiting.QUEUED, since=0.0, until=2.0),
            Wait(kind=Waiting.RETRYING, since=5.0, until=8.0),
            Wait(kind=Waiting.HELD, since=8.0, until=9.0),
        ),
    )
    assert made.time_split == TimeSplit(queue=3.0, run=7.0, lock_wait=3.0, retry=6.0)
    assert made.time_split.total == 19.0


def test_the_iterations_of_a_repeat_are_no_retries() -> None:
    made = _step(attempts=(_attempt(1, 0.0, 2.0), _attempt(2, 2.0, 5.0, iteration=2)))
    assert made.time_split == TimeSplit(run=5.0)


def test_a_lock_wait_longer_than_its_attempt_leaves_no_negative_time() -> None:
    assert _step(attempts=(_attempt(1, 1.0, 2.0, (0.0, 9.0)),)).time_split == TimeSplit(lock_wait=1.0)


def test_the_split_of_a_run_is_that_of_all_steps() -> None:
    retried = step("a", retry=RetryPolicy(max_attempts=2, delay=4.0))
    a_plan = plan(retried, step("b"), slots=1)
    run = simulated(a_plan, {"a": [script(ev.Outcome.FAILED, "40P01"), script(ev.Outcome.SUCCEEDED)]})
    report = run_report(a_plan, RUN, run.events)
    assert TimeSplit.of(report.leaves) == TimeSplit(queue=1.0, run=2.0, retry=5.0)
    assert _text(time_split(report)).endswith("queue 1.0srun 2.0sretry 5.0s")
    widths = [
        float(width) for width in re.findall(r'<rect class="t-\w+" x="[\d.]+%" width="([\d.]+)%"', time_split(report))
    ]
    assert sum(widths) == 100.0


def test_a_page_without_steps_that_ran_and_with_history_is_made() -> None:
    report = run_report(plan(step("a")), RUN, simulated(plan(step("a"))).events[:1])
    past = PreviousRun(run="x", started_at=0.0, steps={})
    assert "not finished" in html_page(replace(report, history=(past,)))
