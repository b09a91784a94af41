"""How one look at a server reads: worst first, whole at 80 columns, and the same for programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.engine.events import Worker
from runner.engine.server_activity import Activity, LiveRun, LiveWorker, Other, Progress, RunnerSession, end_sessions
from runner.identity import worker_name
from runner.reports.status_report import RecordSummary, progress_words, status_data, status_lines
from runner.structs import replace
from tests.builders import looked_label

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z
DEAD, ALIVE = "251231-dddddd", "251231-aaaaaa"


def worker(run: str, step: str, pid: int, *, on_finish: str = "wait", age: float = 60.0, **keys: Any) -> LiveWorker:
    """Return a worker that has run for `age` seconds of its 300."""
    made = LiveWorker(
        worker=Worker(pid=pid, backend_start="2025-12-31T23:59:00.000000Z", application_name=worker_name(run, step)),
        run=run,
        database="app",
        user="maintenance",
        label=looked_label(run, step, on_finish=on_finish),
        started_at=NOW - age,
        state="active",
        query="VACUUM\n  orders",
    )
    return replace(made, **keys)


def look(*runs: LiveRun, user: str = "dba") -> Activity:
    """Return a look at these runs."""
    return Activity(at=NOW, version="18.6 (Debian 18.6-3)", database="app", user=user, sees_all=True, runs=runs)


BLOCKED = worker(
    DEAD,
    "index",
    11,
    blocked_by=(
        Other(
            pid=4711,
            user="alice",
            state="idle in transaction",
            query="UPDATE orders",
            lock="ShareLock on t",
            seconds=720.0,
        ),
    ),
)
STORY = look(
    LiveRun(
        run=ALIVE,
        database="app",
        runner=(RunnerSession(pid=1, host="10.0.0.7", started_at=NOW - 3600.0),),
        workers=(worker(ALIVE, "purge", 21, age=299.0, progress=Progress(command="VACUUM", phase="scanning heap")),),
    ),
    LiveRun(
        run=DEAD,
        database="app",
        workers=(
            worker(DEAD, "away", 12, on_finish="detach", age=200.0),
            worker(DEAD, "vacuum[orders]", 10, age=310.0, blocks=(Other(pid=11, name=worker_name(DEAD, "index")),)),
            BLOCKED,
        ),
    ),
)


def test_a_look_reads_worst_first() -> None:
    assert list(status_lines(STORY)) == [
        "00:00:00Z PostgreSQL 18.6, app: 2 runs, 4 workers",
        "",
        "run 251231-dddddd of nightly: RUNNER LOST, 2 orphaned workers (database app)",
        "  index: BLOCKED, pid 11, for 1m00s, ends within 4m00s",
        "    waits for ShareLock on t, blocked by pid 4711 (alice, idle in transaction",
        "        for 12m00s): UPDATE orders",
        "    VACUUM orders",
        "  vacuum[orders]: pid 10, for 5m10s, OVERDUE by 10.0s, active",
        "    blocks step index (pid 11)",
        "    VACUUM orders",
        "  away (detach): pid 12, for 3m20s, ends within 1m40s, active",
        "    VACUUM orders",
        "  follow: jobplan attach 251231-dddddd   stop: jobplan cancel 251231-dddddd",
        "",
        "run 251231-aaaaaa of nightly: runner alive on 10.0.0.7 for 1h00m (database app)",
        "  purge: pid 21, for 4m59s, ends within 1.0s, active",
        "    VACUUM: scanning heap",
        "  follow: jobplan attach 251231-aaaaaa   stop: jobplan cancel 251231-aaaaaa",
    ]


def test_a_wide_terminal_shows_more() -> None:
    lines = list(status_lines(STORY, width=120))
    assert (
        "    waits for ShareLock on t, blocked by pid 4711 (alice, idle in transaction for 12m00s): UPDATE orders"
        in lines
    )


@pytest.mark.parametrize("width", [1, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    hostile = worker(DEAD, "s[" + "x" * 500 + "]", 1, query="SELECT '\x1b[31m'" + "y" * 500)
    lines = list(status_lines(look(LiveRun(run=DEAD, database="app", workers=(hostile,))), width=width))
    assert all(len(line) <= max(width, 76) for line in lines)
    assert all(line.isprintable() for line in lines)


def test_only_sql_is_cut_in_a_narrow_terminal() -> None:
    slow = worker(DEAD, "refresh_reports", 12400, age=3.0, wait="Timeout: PgSleep", query="SELECT " + "y" * 500)
    lines = list(status_lines(look(LiveRun(run=DEAD, database="oncall_production", workers=(slow,)))))
    assert lines[2:-1] == [
        "run 251231-dddddd of nightly: RUNNER LOST, 1 orphaned worker (database",
        "    oncall_production)",
        "  refresh_reports: pid 12400, for 3.0s, ends within 4m57s, sleeping in pg_sleep",
        "      (PgSleep)",
        f"    SELECT {'y' * 68}…",
    ]
    other = Other(pid=4711, user="alice", query="UPDATE t SET " + "x = 1, " * 100)
    held = worker(DEAD, "a", 1, blocked_by=(other,))
    lines = list(status_lines(look(LiveRun(run=DEAD, database="app", workers=(held,)))))
    assert lines[4:8][0].startswith("    waits, blocked by pid 4711 (alice): UPDATE t")
    assert lines[7].endswith(" …")


def test_nothing_is_said_in_one_line() -> None:
    assert list(status_lines(look())) == ["00:00:00Z PostgreSQL 18.6, app: no jobplan sessions"]


def test_a_role_without_the_privilege_sees_the_needed_grant() -> None:
    hidden = worker(DEAD, "a", 1, visible=False, label=None, started_at=None, query="", state="")
    lines = list(status_lines(look(LiveRun(run=DEAD, database="app", workers=(hidden,)), user="On Call")))
    assert "  a: pid 1, its activity is not visible to this role" in lines
    assert lines[-1] == '  GRANT pg_read_all_stats TO "On Call";'


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"wait": "IPC: MessageQueuePutMessage"},
            "a: STALLED: its output queue is full, pid 1, for 1m00s, ends within 4m00s",
        ),
        ({"wait": "Timeout: PgSleep"}, "a: pid 1, for 1m00s, ends within 4m00s, sleeping in pg_sleep (PgSleep)"),
        ({"label": None}, "a: pid 1, for 1m00s, active"),
        ({"label": looked_label(DEAD, "a", timeout=None)}, "a: pid 1, for 1m00s, no timeout, active"),
        (
            {"label": looked_label(DEAD, "a", attempt=3, in_finally=True)},
            "a (attempt 3, finally): pid 1, for 1m00s, ends within 4m00s, active",
        ),
        ({"blocked_by": (Other(pid=0),)}, "waits, blocked by a prepared transaction (pg_prepared_xacts)"),
        ({"blocks": (Other(pid=7, name="jobplan:r2:b"),)}, "blocks step b of run r2 (pid 7)"),
        ({"blocks": (Other(pid=7),)}, "blocks pid 7"),
    ],
)
def test_what_a_worker_is_at(changes: dict[str, Any], expected: str) -> None:
    lines = status_lines(look(LiveRun(run=DEAD, database="app", workers=(worker(DEAD, "a", 1, **changes),))))
    assert expected in [line.strip() for line in lines]


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (Progress(command="VACUUM", phase="p", relation="t", done=1, total=3), "VACUUM of t: p, 33% (1 of 3 blocks)"),
        (Progress(command="COPY", phase="file", done=1234, unit="rows"), "COPY: file, 1,234 rows"),
        (Progress(command="ANALYZE", phase="initializing"), "ANALYZE: initializing"),
        (Progress(command="VACUUM", phase="p", done=5, total=3), "VACUUM: p"),
    ],
)
def test_progress(progress: Progress, expected: str) -> None:
    assert progress_words(progress) == expected


def test_a_run_without_a_worker_and_one_that_left_only_detached_ones() -> None:
    idle = LiveRun(run=ALIVE, database="app", runner=(RunnerSession(pid=1),))
    over = LiveRun(run=DEAD, database="app", workers=(worker(DEAD, "a", 1, on_finish="detach"),))
    lines = list(status_lines(look(idle, over)))
    assert "run 251231-aaaaaa: runner alive, no worker now (database app)" in lines
    assert "run 251231-dddddd of nightly: runner ended, 1 detached worker (database app)" in lines
    record = RecordSummary(plan="nightly", steps="3 succeeded, 1 detached", where="the journal", finished=True)
    lines = list(status_lines(look(over), records={DEAD: record}))
    assert "run 251231-dddddd of nightly: finished, 1 detached worker (database app)" in lines
    assert "  3 succeeded, 1 detached (the journal)" in lines


def test_a_runner_that_is_connected_and_silent() -> None:
    runner = tuple(
        RunnerSession(pid=pid, host="10.0.0.7", started_at=NOW - 3600.0, last_active_at=NOW - ago)
        for pid, ago in ((1, 250.0), (2, 300.0))
    )
    silent = LiveRun(run=DEAD, database="app", runner=runner)
    lines = list(status_lines(look(silent)))
    assert "run 251231-dddddd: runner connected from 10.0.0.7, silent for 4m10s, no worker" in lines
    assert f"  if its machine is lost: {end_sessions(DEAD)}" in lines
    assert status_data(look(silent))["runs"][0]["runner"]["silent_seconds"] == 250.0
    heard = replace(silent, runner=(*runner, RunnerSession(pid=3, last_active_at=NOW - 9.0)))
    assert heard.silence(NOW) is None
    assert "connected" not in "".join(status_lines(look(heard)))


def test_a_silent_runner_comes_before_one_that_looks_after_its_run() -> None:
    silent = LiveRun(run=DEAD, database="app", runner=(RunnerSession(pid=1, last_active_at=NOW - 60.0),))
    lively = LiveRun(run=ALIVE, database="app", runner=(RunnerSession(pid=2, last_active_at=NOW),))
    assert [run["run"] for run in status_data(look(lively, silent))["runs"]] == [DEAD, ALIVE]


def test_a_role_that_may_not_see_a_worker_cannot_distinguish_a_detached_one() -> None:
    workers = (worker(DEAD, "a", 1), replace(worker(DEAD, "b", 2), visible=False, label=None))
    words = "RUNNER LOST, 2 orphaned workers; some may be detached, which this role cannot see (database app)"
    assert f"run {DEAD} of nightly: {words}" in list(
        status_lines(look(LiveRun(run=DEAD, database="app", workers=workers)), width=None)
    )


def test_nothing_and_why() -> None:
    head = "00:00:00Z PostgreSQL 18.6, app: "
    assert list(status_lines(look())) == [f"{head}no jobplan sessions"]
    assert list(status_lines(look(), run=DEAD, width=None)) == [f"{head}no more sessions of run {DEAD}"]
    assert list(status_lines(replace(look(), standby=True), width=None)) == [
        f"{head}no jobplan sessions",
        "This server is a standby: runs execute on its primary (target_session_attrs=primary in --dsn).",
    ]
    assert status_data(replace(look(), standby=True))["standby"] is True


def test_commands_lead_to_the_same_server_and_what_is_piped_is_whole() -> None:
    lines = list(status_lines(STORY, width=None, where=" --dsn dbname=app"))
    assert f"  follow: jobplan attach {DEAD} --dsn dbname=app   stop: jobplan cancel {DEAD} --dsn dbname=app" in lines
    assert (
        "    waits for ShareLock on t, blocked by pid 4711 (alice, idle in transaction for 12m00s): UPDATE orders"
        in lines
    )


def test_programs_get_the_same() -> None:
    data = json.loads(json.dumps(status_data(STORY)))
    assert [run["run"] for run in data["runs"]] == [DEAD, ALIVE]
    assert [run["runner"]["alive"] for run in data["runs"]] == [False, True]
    first = data["runs"][0]["workers"][0]
    assert (first["step"], first["pid"], first["age_seconds"]) == ("index", 11, 60.0)
    assert first["deadline"] == "2026-01-01T00:04:00.000Z"
    assert first["blocked_by"][0]["transaction_seconds"] == 720.0
    assert data["runs"][1]["workers"][0]["progress"]["phase"] == "scanning heap"
