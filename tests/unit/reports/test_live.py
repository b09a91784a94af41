"""The live terminal's frames: they fit, say what matters, and let no text of the server near the cursor."""

from __future__ import annotations

import io
import os
import time
from typing import Any

import pyte
import pytest
from rich.cells import cell_len

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.server_activity import LiveWorker, Other, Progress, ReportedProgress
from runner.engine.simulation import AttemptScript
from runner.engine.state import RunState, initial_state
from runner.identity import worker_name
from runner.plan.model import ForEach, Plan, Repeat, RetryPolicy
from runner.reports.live import Live, View, frame, printable
from runner.reports.worker_activity import WorkerView, about, forwards, worker_view, worker_views
from runner.structs import replace
from tests.unit.report_samples import AT, HOSTILE, RUN, everything
from tests.unit.simulated_runs import plan, simulated, step


def at_second(a_plan: Plan, second: float, **scripts: list[AttemptScript]) -> RunState:
    """Return the state of a run of the plan after some seconds."""
    run = simulated(a_plan, scripts, start=AT, watch=None)
    state = initial_state(a_plan)
    for event in run.events:
        if event.at <= AT + second:
            apply(state, event)
    return state


def lines(state: RunState, width: int = 80, height: int = 24, **seen: WorkerView) -> list[str]:
    view = View(state=state, run_id=RUN, now=AT + 3.0, workers=seen)
    return [line.plain for line in frame(view, width, height)]


SMALL = plan(
    step("runs", timeout=60.0, pools={"io": 1}),
    step("also", timeout=None),
    step("queued", pools={"io": 1}),
    step("over"),
    slots=3,
    pools={"io": 1},
)


def small() -> RunState:
    nine = [AttemptScript(duration=9.0)]
    return at_second(SMALL, 3.0, runs=nine, also=nine, queued=nine)


def test_a_worker_that_is_not_the_steps_own_is_named() -> None:
    p = plan(step("a", retry=RetryPolicy(max_attempts=2), on_retry=step("x").sql), slots=1)
    scripts = [AttemptScript(duration=1.0, outcome=ev.Outcome.FAILED), AttemptScript(duration=1.0, prepares=5.0)]
    assert any(line.startswith("  a ") and "on_retry" in line for line in lines(at_second(p, 3.0, a=scripts)))
    later = lines(at_second(p, 6.5, a=scripts))
    assert not any("on_retry" in line for line in later)


def test_a_frame_says_what_runs_what_waits_and_for_what() -> None:
    assert lines(small()) == [
        f"table  run {RUN}  3.0s  slots 2/3  io 1/1",
        f"{'━' * 26} 1/4 steps done",
        "Running            time/timeout",
        "  runs               3.0s/1m00s      ",
        "  also                     3.0s      ",
        "Waiting",
        "  queued: waits for the pool io (1/1 in use)",
        "Ctrl-C: start no further steps; running ones end as on_runner_exit specifies",
    ]


def test_the_servers_activity_is_shown_and_blocked_steps_come_first() -> None:
    blocked = WorkerView(waits="waits for ShareLock on orders, held by pid 4711 app 'web' for 12 s")
    found = lines(small(), runs=WorkerView(share=0.456, doing="VACUUM orders"), also=blocked)
    assert found[3].split()[0] == "also"
    assert found[4] == f"    {blocked.waits}"
    assert found[5].split()[:3] == ["runs", "3.0s/1m00s", "45%"]
    assert found[5].endswith("VACUUM orders")


def test_the_holder_of_a_lock_is_not_cut_off_where_the_line_ends() -> None:
    waits = "waits for AccessExclusiveLock on orders, held by pid 4711123 app 'web' for 12.0s"
    found = lines(small(), 80, 24, also=WorkerView(waits=waits))
    assert found[4] == "    waits for AccessExclusiveLock on orders, held by pid 4711123 app 'web' for"
    assert found[5] == "      12.0s"


def test_iterations_and_attempts_are_shown() -> None:
    a_plan = plan(step("again", repeat=Repeat(max_iterations=9)))
    state = at_second(a_plan, 2.5, again=[AttemptScript(duration=1.0, row_count=1)])
    assert lines(state)[3].endswith("iteration 3 of at most 9")


def test_a_step_with_items_is_one_step_with_counts_and_its_running_items() -> None:
    each = step("each", for_each=ForEach(as_="t", items=("x", "y", "z"), max_parallel=1))
    found = lines(at_second(plan(each), 1.5, each=[AttemptScript(duration=1.0)]))
    assert found[1].endswith(" 0/1 steps done  1/3 items done")
    assert found[3] == "  each           1/3 done, 1 running, 1 queued"
    assert found[4].split() == ["[y]", "2.0s/1m00s"]


def test_failures_of_items_are_listed_below_the_counts() -> None:
    each = step("each", for_each=ForEach(as_="t", items=tuple("abcdefghij")))
    bad = [AttemptScript(duration=1.0, outcome=ev.Outcome.FAILED, sqlstate="42P01")]
    state = at_second(plan(each, slots=5), 1.5, **{f"each[{item}]": bad for item in "abcde"})
    found = lines(state)
    assert found[1].endswith(" 0/1 steps done  0/10 items done, 5 failed")
    assert found[3] == "  each           0/10 done, 5 failed, 5 running"
    assert [line.partition(":")[0] for line in found[4:8]] == [
        "    [a] failed",
        "    [b] failed",
        "    [c] failed",
        "    and 2 more failed",
    ]


def test_items_that_all_wait_say_for_what() -> None:
    each = step("each", for_each=ForEach(as_="t", items=tuple("abcdefghij")), pools={"io": 1})
    state = at_second(plan(step("first", pools={"io": 1}), each, pools={"io": 1}), 0.5)
    found = lines(state)
    (row,) = [number for number, line in enumerate(found) if line.startswith("  each")]
    assert found[row].endswith(" 0/10 done, 10 queued")
    assert found[row + 1] == "    waits for the pool io (1/1 in use)"


def test_a_step_that_is_tried_again_says_when() -> None:
    again = step("again", retry=RetryPolicy(max_attempts=2, delay=9.0))
    state = at_second(plan(again), 1.5, again=[AttemptScript(duration=1.0, outcome=ev.Outcome.FAILED)])
    assert lines(state)[3] == "  again: next attempt in 7.0s"


def test_the_bar_shows_a_rounded_estimate_while_steps_are_left() -> None:
    view = View(state=small(), run_id=RUN, now=AT + 3.0, workers={}, estimate=27.3)
    assert frame(view, 80, 24)[1].plain.endswith(" 1/4 steps done  about 25 s left")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "a few seconds"),
        (12.4, "about 10 s"),
        (58.0, "about 1 min"),
        (95.0, "about 1.5 min"),
        (400.0, "about 7 min"),
        (1_500.0, "about 25 min"),
        (6_100.0, "about 1 h 40 min"),
        (200_000.0, "about 2 d 8 h"),
    ],
)
def test_estimates_are_rounded(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_after_ctrl_c_the_hint_says_what_the_next_one_does() -> None:
    state = small()
    apply(state, ev.RunInterrupted(at=AT + 3, signal=2))
    assert lines(state)[-1] == "Ctrl-C again: do not wait for the workers that still run"


LONG = "refresh_the_materialized_views_of_the_reporting_schema_every_night"


@pytest.mark.parametrize("width", [80, 160])
def test_no_identifier_is_broken_and_no_count_cut(width: int) -> None:
    keys = [f"measurement_by_sensor_and_day_of_the_year_{number:04d}" for number in range(60)]
    each = step("partitions_of_the_measurements", for_each=ForEach(as_="t", items=tuple(keys)))
    bad = [AttemptScript(duration=0.5, outcome=ev.Outcome.FAILED, sqlstate="42P01")]
    others = [step(f"{LONG}_{number}", pools={"io": 1}) for number in range(3)]
    a_plan = replace(
        plan(*others, each, slots=5, pools={"io": 2}),
        name="nightly_maintenance_of_the_warehouse_and_all_of_its_partitions",
    )
    script = {f"{each.id}[{keys[2]}]": bad}
    state = at_second(a_plan, 0.9, **script)
    seen = {others[0].id: WorkerView(doing="creating the index of the table", more="9,000 rows", waits="")}
    found = lines(state, width, 40 if width == 160 else 24, **seen)
    text = "\n".join(found)
    assert "0/60 done, 1 failed, 3 running, 56 queued" in text
    assert "slots 5/5  io 2/2" in text
    names = [one.id for one in others] + [a_plan.name, *(f"[{key}]" for key in keys[:4])]
    for name in names:
        assert name in text
    assert max(map(cell_len, found)) <= width


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (40, 8), (10, 3), (61, 13)])
@pytest.mark.parametrize("hostile", [False, True])
def test_a_frame_fits_its_terminal(size: tuple[int, int], hostile: bool) -> None:
    names = [f"{'漢字' * 30 if hostile else 'a_step_with_a_long_name_'}{number}" for number in range(500)]
    a_plan = replace(plan(*(step(name) for name in names), slots=60), name=("plan" * 10))
    state = at_second(a_plan, 0.5)
    seen = {name: WorkerView(share=0.5, doing=HOSTILE, waits=HOSTILE * 3) for name in names[::2]}
    width, height = max(size[0], 40), max(size[1], 8)
    found = lines(state, size[0], size[1], **seen)
    assert 3 < len(found) < height
    assert max(map(cell_len, found)) <= width
    assert sum(" more" in line for line in found) == 2 or height < 10
    assert not any("\x1b" in line or "\n" in line for line in found)


def test_nothing_in_a_text_controls_the_terminal() -> None:
    assert printable("a\x1b[2Jb\r\nc\x07\u202ed\x9b") == r"a\x1b[2Jb c\x07\u202ed\x9b"


class _Terminal(io.StringIO):
    """A stream that is a terminal, and the screen that it makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, width: int = 80, height: int = 24) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(width, height, history=1000)
        self.screen.set_mode(pyte.modes.LNM)
        self._stream = pyte.Stream(self.screen)
        self._monkeypatch = monkeypatch
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """Give the terminal another size."""
        self._monkeypatch.delenv("COLUMNS", raising=False)
        self._monkeypatch.delenv("LINES", raising=False)
        self._monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((width, height)))
        self.screen.resize(height, width)

    def write(self, text: str, /) -> int:
        self._stream.feed(text)
        return super().write(text)

    @property
    def shown(self) -> list[str]:
        """The lines on the screen, without those that are empty."""
        return [line.rstrip() for line in self.screen.display if line.strip()]


def test_what_goes_wrong_stays_and_the_drawing_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal(monkeypatch)
    a_plan, events = everything()
    state = initial_state(a_plan)
    live = Live(terminal, RUN, color=True)
    for event in events:
        apply(state, event)
        live.handle(event, state)
        live.flush()
    live.tick(events[-1].at, state)
    assert any(line.startswith("table  run") for line in terminal.shown)
    assert _cursor_is_hidden(terminal)
    live.close()
    assert not _cursor_is_hidden(terminal)
    assert not any(line.startswith(("table  run", "━")) for line in terminal.shown)
    text = "\n".join(terminal.shown)
    assert "late: timed out in 5.0s" in text
    assert "deadlocked: next attempt in 2.0s, after: no: " in " ".join(text.split())
    assert "purge: succeeded" not in text
    assert "\x1b[31m" not in text


def _cursor_is_hidden(terminal: _Terminal) -> bool:
    return bool(terminal.screen.cursor.hidden)


def test_without_colour_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal(monkeypatch)
    a_plan, events = everything()
    state = initial_state(a_plan)
    live = Live(terminal, RUN, color=False)
    for event in events:
        apply(state, event)
        live.handle(event, state)
    live.close()
    assert "\x1b[3" not in terminal.getvalue().replace("\x1b[31m", "")
    assert "\x1b[1;3" not in terminal.getvalue()


def test_another_size_is_drawn_again_and_nothing_is_left_of_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal(monkeypatch, 120, 30)
    state = small()
    live = Live(terminal, RUN, color=False)
    live.handle(_failed(), state)
    live.tick(AT + 3, state)
    terminal.resize(60, 20)
    live.tick(AT + 4, state)
    assert sum("table  run" in line for line in terminal.shown) == 1
    assert sum("over: failed" in line for line in terminal.shown) == 1
    terminal.resize(200, 50)
    live.tick(AT + 5, state)
    assert sum("table  run" in line for line in terminal.shown) == 1
    live.close()


def _failed() -> ev.Event:
    error = ev.ErrorDetails(message="wrong", sqlstate="22012")
    return ev.StepFinished(at=AT + 3, step="over", state="failed", error=error)


def test_a_closed_terminal_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal(monkeypatch)
    state = small()
    live = Live(terminal, RUN, color=False)
    live.tick(AT, state)
    terminal.close()
    live.handle(_failed(), state)
    live.tick(AT + 1, state)
    live.close()
    assert terminal.closed


def test_drawing_five_hundred_steps_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn about once a second: no more than a fiftieth of a second of the processor's time."""
    terminal = _Terminal(monkeypatch, 200, 50)
    terminal.write = io.StringIO.write.__get__(terminal)  # type: ignore[method-assign]  # not the emulator's cost
    names = [f"step_{number}" for number in range(500)]
    state = at_second(plan(*map(step, names), slots=40), 0.5)
    live = Live(
        terminal, RUN, color=True, look=lambda: dict.fromkeys(names, WorkerView(share=0.5, doing="VACUUM", waits="w"))
    )
    live.handle(_started(), state)
    live.tick(AT, state)
    before = time.process_time()
    for second in range(20):
        live.tick(AT + second, state)
    drawing = (time.process_time() - before) / 20
    live.close()
    assert drawing < 0.02


def _started() -> ev.Event:
    return next(event for event in everything()[1] if isinstance(event, ev.RunStarted))


def _seen(step_key: str, **keys: Any) -> LiveWorker:
    worker = ev.Worker(pid=7, backend_start="", application_name=worker_name(RUN, step_key))
    return LiveWorker(worker=worker, run=RUN, database="app", user="u", **keys)


def test_a_sight_is_found_by_the_name_that_a_long_id_is_cut_in() -> None:
    long = "a_very_long_step_" * 4
    found = worker_views(RUN, [_seen(long), _seen("other")], [long, "gone"])
    assert list(found) == [long]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, WorkerView(pid=7)),
        ({"wait": "IO: DataFileRead"}, WorkerView(doing="reading a data file (DataFileRead)", pid=7)),
        (
            {"wait": "IPC: MessageQueuePutMessage"},
            WorkerView(waits="stalled: its output queue is full", pid=7),
        ),
        (
            {"progress": Progress(command="VACUUM", phase="scanning heap", relation="t", done=1, total=4)},
            WorkerView(share=0.25, doing="VACUUM t: scanning heap", pid=7),
        ),
        (
            {
                "progress": Progress(command="COPY TO", phase="pipe", relation="public.t", done=9_000, unit="rows"),
                "wait": "IO: CopyToWrite",
            },
            WorkerView(doing="COPY TO t: pipe", more="9,000 rows, writing the output of COPY (CopyToWrite)", pid=7),
        ),
        (
            {"reported": ReportedProgress(percent=40, message="half")},
            WorkerView(share=0.4, doing="half", own=True, pid=7),
        ),
        (
            {"reported": ReportedProgress(percent=400)},
            WorkerView(share=1.0, doing="as the step reports", own=True, pid=7),
        ),
        (
            {
                "reported": ReportedProgress(percent=40, message="half"),
                "progress": Progress(command="COPY FROM", phase="file"),
            },
            WorkerView(share=0.4, doing="half", more="COPY FROM: file", own=True, pid=7),
        ),
        (
            {
                "wait": "Lock: relation",
                "blocked_by": (Other(pid=4711, name="web", lock="ShareLock on public.orders", seconds=12.0),),
            },
            WorkerView(waits="waits for ShareLock on orders, held by pid 4711 app 'web' for 12.0s", pid=7),
        ),
        (
            {"blocked_by": (Other(pid=3, name=worker_name(RUN, "b")), Other(pid=0))},
            WorkerView(waits="waits, held by pid 3 step b, and by 1 more", pid=7),
        ),
        ({"blocked_by": (Other(pid=0),)}, WorkerView(waits="waits, held by a prepared transaction", pid=7)),
    ],
)
def test_what_a_worker_does_in_words(keys: dict[str, Any], expected: WorkerView) -> None:
    assert worker_view(_seen("a", **keys)) == expected


def test_a_share_never_goes_backwards_in_a_phase_nor_is_it_that_of_the_last_one() -> None:
    def after(before: WorkerView, now: WorkerView) -> float | None:
        return forwards({"a": before}, {"a": now})["a"].share

    assert after(WorkerView(share=0.5, doing="x"), WorkerView(share=0.4, doing="x")) == 0.5
    assert after(WorkerView(share=1.0, doing="x"), WorkerView(share=1.0, doing="y")) is None
    assert after(WorkerView(share=1.0, doing="x"), WorkerView(share=0.1, doing="y")) == 0.1
    assert after(WorkerView(doing="x"), WorkerView(share=0.1, doing="x")) == 0.1
    assert (
        after(WorkerView(share=0.9, doing="table 1", own=True), WorkerView(share=0.0, doing="table 2", own=True)) == 0.0
    )
    assert after(WorkerView(share=0.4, doing="a", own=True), WorkerView(share=0.4, doing="b", own=True)) == 0.4
    assert after(WorkerView(share=0.9, doing="x", pid=1), WorkerView(share=0.1, doing="x", pid=2)) == 0.1
    sorting = Progress(command="CREATE INDEX", phase="building index: sorting live tuples", done=9, total=9)
    assert worker_view(_seen("a", progress=sorting)).share is None


def test_the_items_of_a_group_are_folded_into_its_line() -> None:
    chain = (step("rebuild"), step("log", "rebuild"))
    items = tuple(f"i{number}" for number in range(40))
    group = replace(step("g"), for_each=ForEach(as_="x", items=items, max_parallel=2), steps=chain)
    nine = [AttemptScript(duration=9.0)]
    state = at_second(plan(group), 5.0, **{"g[i2].rebuild": nine, "g[i3].rebuild": nine})
    found = lines(state)
    (row,) = [number for number, line in enumerate(found) if line.startswith("  g ")]
    assert found[row].split(maxsplit=1)[1] == "2/40 done, 2 running, 36 queued"
    assert [line.split()[0] for line in found[row + 1 : row + 3]] == ["[i2].rebuild", "[i3].rebuild"]
    assert not any("[i9]" in line for line in found)
