"""`window` on a real server: nothing starts outside it by the server's clock, and what is left over can be resumed."""

from __future__ import annotations

import json
import re
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.acceptance.console import Database, Jobplan, until

HOUR = 3600.0
#: Seconds that a window stays open in tests that look at its end: enough for a slow machine to begin the run.
SHORT = 15.0


@pytest.fixture
def done(db: Database) -> Database:
    """A database with a table in which each step notes its worker's start, and a table that steps wait for."""
    db.run("CREATE TABLE done (step text, started timestamptz); CREATE TABLE gate ()")
    db.run(
        "CREATE FUNCTION note(text) RETURNS void LANGUAGE sql AS $$ INSERT INTO done"
        " SELECT $1, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid() $$"
    )
    return db


def now(done: Database) -> datetime:
    """Return the time by the server's clock."""
    return datetime.fromtimestamp(float(done.value("SELECT extract(epoch FROM clock_timestamp())")), UTC)


def window(opens: datetime, closes: datetime, **keys: str) -> str:
    """Return a window in YAML that is open between these times, every day."""
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return f'{{timezone: UTC, from: "{opens:%H:%M:%S}", to: "{closes:%H:%M:%S}"{more}}}'


def seconds_from_now(done: Database, seconds: float) -> datetime:
    """Return the second in so many seconds, or the next one at a full minute, which is written without seconds."""
    moment = (now(done) + timedelta(seconds=seconds)).replace(microsecond=0)
    return moment + timedelta(seconds=moment.second == 0)


def until_closed(done: Database, seconds: float, **keys: str) -> tuple[str, datetime]:
    """Return a window that closes in so many seconds, and when that is."""
    closes = seconds_from_now(done, seconds)
    return window(now(done) - timedelta(hours=1), closes, **keys), closes


def far_away(done: Database, **keys: str) -> str:
    """Return a window that opens in about ten hours."""
    opens = now(done) + timedelta(hours=10)
    return window(opens, opens + timedelta(hours=1), **keys)


def steps_done(done: Database) -> list[str]:
    return done.column("SELECT step FROM done ORDER BY step")


def only_run(jobplan: Jobplan) -> str:
    (journal,) = (jobplan.folder / ".jobplan" / "runs").glob("*/events.jsonl")
    return journal.parent.name


ONE = "- {id: a, sql: \"SELECT note('a')\"}\n"
#: A step that waits for a lock until the test lets it, one that needs it, and one that ignores the window.
GATED = """
- {id: slow, timeout: 5m, sql: "LOCK TABLE gate; SELECT note('slow')"}
- {id: after, needs: [slow], sql: "SELECT note('after')"}
- {id: free, needs: [slow], window: ignore, sql: "SELECT note('free')"}
"""
FINALLY = "[{id: last, sql: \"SELECT note(:'run.status')\"}]"


# --- the opening ---


@pytest.mark.parametrize("command", [("run",), ("run", "--or-resume"), ("run", "--run-id", "tonight", "--or-resume")])
def test_a_run_outside_is_refused_with_the_next_opening(
    jobplan: Jobplan, done: Database, command: tuple[str, ...]
) -> None:
    plan = jobplan.plan(ONE, window=far_away(done))
    ran = jobplan(*command, plan, "--dsn", done.dsn)
    assert ran.code == 8, ran.err
    assert "nothing was started: the plan's window is" in ran.err
    assert re.search(r"It opens at .*\d\d:\d\d(:\d\d)? UTC, in (9h59m|10h00m)", ran.err), ran.err
    assert steps_done(done) == []


def test_a_refused_run_can_be_begun_later_by_the_same_id(jobplan: Jobplan, done: Database) -> None:
    refused = jobplan(
        "run", jobplan.plan(ONE, window=far_away(done)), "--dsn", done.dsn, "--run-id", "n", "--or-resume"
    )
    assert refused.code == 8
    open_now, _ = until_closed(done, HOUR)
    again = jobplan("run", jobplan.plan(ONE, window=open_now), "--dsn", done.dsn, "--run-id", "n", "--or-resume")
    assert again.code == 0, again.err
    assert steps_done(done) == ["a"]


def test_a_run_outside_waits_for_the_opening(jobplan: Jobplan, done: Database) -> None:
    opens = seconds_from_now(done, 6)
    plan = jobplan.plan(ONE, window=window(opens, opens + timedelta(hours=1), outside="wait"))
    ran = jobplan("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    assert ran.code == 0, ran.err
    assert done.value("SELECT started FROM done") >= opens
    if jobplan.happened("window_waiting"):
        assert "waiting for the window: it opens" in ran.err
    assert f"the window is open until {opens + timedelta(hours=1):%a %Y-%m-%d %H:%M:%S} UTC" in ran.err


def test_the_wait_ends_with_a_signal_a_cancel_or_the_run_timeout(jobplan: Jobplan, done: Database) -> None:
    waiting = far_away(done, outside="wait")
    for arguments, code in (((), 130), (("--quiet",), 1)):
        (jobplan.folder / "events.jsonl").unlink(missing_ok=True)
        plan = jobplan.plan(ONE, window=waiting)
        started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl", *arguments)
        until(lambda: jobplan.happened("window_waiting"))
        if code == 130:
            started.send(signal.SIGINT)
        else:
            run = str(jobplan.events()[0]["run"])
            assert jobplan("cancel", run, "--dsn", done.dsn).code == 0
        assert started.ended().code == code
    timed = jobplan("run", jobplan.plan(ONE, window=waiting, run_timeout="1s"), "--dsn", done.dsn)
    assert timed.code == 5, timed.err
    assert steps_done(done) == []


def test_status_and_show_have_the_window_while_a_run_waits(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan(ONE, window=far_away(done, outside="wait"))
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("step_queued"))
    status = jobplan("status", "--dsn", done.dsn)
    assert "the window opens at" in status.out, status.out
    (run,) = json.loads(jobplan("status", only_run(jobplan), "--dsn", done.dsn, "--format", "json").out)["runs"]
    assert run["record"]["window"].startswith("the window opens at")
    shown = jobplan("show", only_run(jobplan))
    assert re.search(r"^window: .* \(UTC\); the window opens at ", shown.out, re.MULTILINE), shown.out
    shown = json.loads(jobplan("show", only_run(jobplan), "--format", "json").out)
    assert shown["window"]["state"] == "waiting"
    started.send(signal.SIGINT)
    assert started.ended().code == 130


def test_a_killed_run_that_waited_is_resumed_and_waits_again(jobplan: Jobplan, done: Database) -> None:
    opens = seconds_from_now(done, 12)
    plan = jobplan.plan(ONE, window=window(opens, opens + timedelta(hours=1), outside="wait"))
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    until(lambda: jobplan.happened("window_waiting"))
    started.send(signal.SIGKILL)
    started.ended()
    ran = jobplan("run", plan, "--dsn", done.dsn, "--or-resume")
    assert ran.code == 0, ran.err
    assert " resumed: " in ran.err
    assert done.value("SELECT started FROM done") >= opens


# --- the close ---


@pytest.mark.slow
def test_at_the_close_running_steps_end_and_the_rest_is_left_over(jobplan: Jobplan, done: Database) -> None:
    keeper = done.elsewhere()
    keeper.execute("LOCK TABLE gate")
    closing, closes = until_closed(done, SHORT)
    plan = jobplan.plan(GATED, window=closing, **{"finally": FINALLY})
    reports = [f"--report={kind}=report.{kind}" for kind in ("html", "markdown", "junit", "prometheus")]
    started = jobplan.start("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl", *reports)
    until(lambda: jobplan.happened("window_closed"), seconds=SHORT + 20)
    assert now(done) >= closes
    assert done.workers() == ["slow"]
    keeper.close()
    ran = started.ended()
    assert ran.code == 8, ran.err
    assert steps_done(done) == ["free", "slow", "window_closed"]
    assert f"the window closed at {closes:%a %Y-%m-%d %H:%M:%S} UTC: no further steps start; running steps may end" in (
        ran.err
    )
    assert "after: skipped (window: the window closed at" in ran.err
    assert "; not finished: the window closed at" in ran.last_line
    text = {
        kind: (jobplan.folder / f"report.{kind}").read_text() for kind in ("html", "markdown", "junit", "prometheus")
    }
    assert "not finished: its window closed" in text["html"]
    assert "not finished: its window closed" in text["markdown"]
    assert "1 step left over by the window" in text["markdown"]
    assert 'skipped message="window: the window closed at' in text["junit"]
    assert re.search(r"^jobplan_run_steps_left_over\{.*\} 1$", text["prometheus"], re.MULTILINE)
    assert re.search(r"^jobplan_run_exit_code\{.*\} 8$", text["prometheus"], re.MULTILINE)

    refused = jobplan("run", plan, "--dsn", done.dsn, "--or-resume")
    assert refused.code == 8, refused.err
    assert "nothing was started" in refused.err
    next_night, _ = until_closed(done, HOUR)
    changed = jobplan.plan(GATED, window=next_night, **{"finally": FINALLY})
    run = only_run(jobplan)
    again = jobplan("run", changed, "--dsn", done.dsn, "--run-id", run, "--or-resume", "--allow-changed")
    assert again.code == 0, again.err
    assert steps_done(done) == ["after", "free", "slow", "succeeded", "window_closed"]


def test_at_the_close_running_steps_are_cancelled_if_the_plan_says_so(jobplan: Jobplan, done: Database) -> None:
    closing, closes = until_closed(done, SHORT, at_end="cancel")
    plan = jobplan.plan(
        """
        - {id: long, timeout: 10m, sql: "SELECT pg_sleep(600)"}
        - {id: after, needs: [long], sql: "SELECT note('after')"}
        - {id: idle, on_finish: detach, timeout: 90s, sql: "SELECT pg_sleep(60)"}
        - {id: short, sql: "SELECT note('short')"}
        """,
        window=closing,
    )
    github = {"GITHUB_ACTIONS": "true"}
    ran = jobplan("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl", env=github)
    assert ran.code == 8, ran.err
    assert "running steps are cancelled" in ran.err
    assert "long: cancel requested (window)" in ran.err
    assert re.search(r"long: cancelled in .* the window closed at", ran.err), ran.err
    ends = {event["step"]: event["state"] for event in jobplan.events() if event["event"] == "step_finished"}
    assert ends == {"long": "cancelled", "idle": "detached", "short": "succeeded"}
    assert done.workers() == ["idle"]
    done.terminate("idle")
    assert "::warning title=trial is not finished::" in ran.out
    assert "::error" not in ran.out
    cancel = next(event for event in jobplan.events() if event["event"] == "attempt_cancel_requested")
    assert (cancel["step"], cancel["reason"]) == ("long", "window")
    assert now(done) >= closes


def test_no_worker_is_requested_after_the_close_as_the_server_saw_it(jobplan: Jobplan, done: Database) -> None:
    closing, closes = until_closed(done, SHORT)
    plan = jobplan.plan(
        """
        - id: many
          for_each: {sql: "SELECT n FROM generate_series(1, 3000) AS n", as: n}
          sql: SELECT note('many'), pg_sleep(0.02)
        - id: loop
          repeat: {until: "SELECT false", max_iterations: 100000}
          sql: SELECT note('loop')
        """,
        window=closing,
    )
    ran = jobplan("run", plan, "--dsn", done.dsn, "--quiet", "--report", "jsonl=events.jsonl")
    assert ran.code == 8, ran.err
    late = done.column(f"SELECT started FROM done WHERE started >= '{closes.isoformat()}'")
    assert len(late) <= 4, "no more than the slots: they were requested before, and a busy machine begins them later"
    assert all(started < closes + timedelta(seconds=5) for started in late), late
    assert done.value("SELECT count(*) FROM done WHERE step = 'many'") > 0
    assert done.value("SELECT count(*) FROM done WHERE step = 'loop'") > 0
    skipped = {event["step"]: event for event in jobplan.events() if event["event"] == "step_skipped"}
    assert {event["reason"] for event in skipped.values()} == {"window"}
    assert re.fullmatch(r"the window closed at .*; \d+ iterations? so far", skipped["loop"]["because"])
    ahead = next(float(event["ahead"]) for event in jobplan.events() if event["event"] == "server_clock")
    launched = [event["at"] for event in jobplan.events() if event["event"] == "attempt_launching"]
    last = max(datetime.fromisoformat(at) for at in launched) + timedelta(seconds=ahead)
    assert last < closes + timedelta(milliseconds=2)


# --- fit ---


def lengthen(journal: Path, step: str) -> None:
    """Change a journal so that a step took an hour."""
    lines = []
    for line in journal.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event.get("step") == step and event["event"] in ("attempt_finished", "step_finished"):
            event["at"] = (datetime.fromisoformat(event["at"]) + timedelta(hours=1)).isoformat()
        lines.append(json.dumps(event))
    journal.write_text("\n".join(lines) + "\n", encoding="utf-8")


TWO = """
- {id: long, sql: "SELECT note('long')"}
- {id: quick, sql: "SELECT note('quick')"}
"""


@pytest.mark.parametrize("fit", ["p50", "p95"])
def test_a_step_that_usually_takes_longer_than_the_rest_is_not_started(
    jobplan: Jobplan, done: Database, fit: str
) -> None:
    wide, _ = until_closed(done, 5 * HOUR, fit=fit)
    first = jobplan("run", jobplan.plan(TWO, window=wide), "--dsn", done.dsn)
    assert first.code == 0, first.err
    lengthen(jobplan.folder / ".jobplan" / "runs" / only_run(jobplan) / "events.jsonl", "long")
    narrow, _ = until_closed(done, HOUR / 2, fit=fit)
    plan = jobplan.plan(TWO, window=narrow)
    second = jobplan("run", plan, "--dsn", done.dsn, "--report", "jsonl=events.jsonl")
    assert second.code == 8, second.err
    assert f"long: skipped (window: it usually takes 1h00m ({fit}), and the window closes in" in second.err
    assert steps_done(done) == ["long", "quick", "quick"]
    assert "; not finished: the rest does not fit into the window" in second.last_line

    looked = jobplan("dry-run", plan, "--dsn", done.dsn)
    assert "open now; it closes at" in looked.out, looked.out
    assert "A run that begins now leaves steps over: long." in looked.out
    assert "JP627" in looked.out
    data = json.loads(jobplan("dry-run", plan, "--dsn", done.dsn, "--format", "json").out)
    assert (data["window"]["open"], data["window"]["left_over"]) == (True, ["long"])


def test_durations_in_the_ledger_count_too(jobplan: Jobplan, done: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", done.dsn).code == 0
    wide, _ = until_closed(done, 5 * HOUR, fit="p95")
    first = jobplan("run", jobplan.plan(TWO, window=wide), "--dsn", done.dsn, "--journal", "elsewhere")
    assert first.code == 0, first.err
    done.run(
        "UPDATE jobplan.events SET at = at + interval '1 hour'"
        " WHERE step = 'long' AND event IN ('attempt_finished', 'step_finished')"
    )
    narrow, _ = until_closed(done, HOUR / 2, fit="p95")
    second = jobplan("run", jobplan.plan(TWO, window=narrow), "--dsn", done.dsn)
    assert second.code == 8, second.err
    assert "long: skipped (window: it usually takes 1h00m (p95)" in second.err


# --- the dry run ---


def test_a_dry_run_prints_the_next_opening(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan(TWO, window=far_away(done))
    looked = jobplan("dry-run", plan, "--dsn", done.dsn, "--assume", "long=20m", "--assume", "quick=5m")
    assert looked.code == 0, looked.out
    assert "closed now; it opens at" in looked.out
    assert "A run that begins now is refused (exit code 8)." in looked.out
    assert re.search(r"A run in this opening ends at .* before the window\s+closes", looked.out), looked.out
    unknown = jobplan("dry-run", plan, "--dsn", done.dsn, "--format", "markdown")
    assert "No durations are known, so this forecast cannot say which steps fit into it." in unknown.out
    too_long = jobplan("dry-run", plan, "--dsn", done.dsn, "--assume", "long=2h", "--assume", "quick=2h")
    assert "JP627" not in too_long.out  # with two slots both start at once
    one_slot = jobplan.plan(TWO, window=far_away(done), budget="{slots: 1}")
    too_long = jobplan("dry-run", one_slot, "--dsn", done.dsn, "--assume", "long=2h", "--assume", "quick=2h")
    assert "JP627" in too_long.out
    assert "A run in this opening leaves steps over: quick." in too_long.out


def test_a_plan_without_a_window_has_none_in_its_dry_run(jobplan: Jobplan, done: Database) -> None:
    plan = jobplan.plan(ONE)
    assert json.loads(jobplan("dry-run", plan, "--dsn", done.dsn, "--format", "json").out)["window"] is None
    assert "Window" not in jobplan("dry-run", plan, "--dsn", done.dsn).out
