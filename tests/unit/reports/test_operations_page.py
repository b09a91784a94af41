"""The page for the person on call says what the program says: every text and every command on it is tried."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest

from runner.cli import cli
from runner.cli.cancel import check_meant
from runner.cli.resume import useless_mark
from runner.cli.run_execution import finished_line
from runner.cli.runs_on_server import find_live_run
from runner.engine import events as ev
from runner.engine.event_json import to_json
from runner.engine.events import Worker
from runner.engine.fold import apply
from runner.engine.leftovers import read_leftover
from runner.engine.ports import GroupHolder, RecordedRun
from runner.engine.resume_state import question, question_about_failed_check
from runner.engine.server_activity import Activity, LiveRun, LiveWorker, Other, Progress, RunnerSession
from runner.engine.simulation import run_started
from runner.engine.state import initial_state
from runner.engine.window import window_status
from runner.errors import JobplanError, OpenQuestionError
from runner.gateway.connecting import remedy_for
from runner.gateway.ledger.admin import no_ledger
from runner.gateway.server_refusals import ON_STANDBY, SHARED
from runner.identity import worker_name
from runner.plan.model import Window
from runner.plan.plan_json import resolved_json, sha256
from runner.records.journal import Journal
from runner.records.journal_files import damaged
from runner.records.ledger_restore import restore_journal
from runner.records.record import find_run
from runner.reports.attach_report import AttachedRun, attach_lines
from runner.reports.cancel_report import Cancelled, cancel_lines
from runner.reports.messages import Verbosity, event_lines
from runner.reports.status_report import RecordSummary, status_lines
from runner.run.resumption import changed
from runner.run.takeover import Takeover
from runner.structs import replace
from tests.builders import looked_label, new_run, plan, step
from tests.fake_gateway import FakeGateway

PAGE = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
RUN = "260101-abcdef"
NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z
CODE = re.compile(r"`([^`]+)`")


def rows() -> list[tuple[str, str]]:
    """Return the first and the last cell of each row of the tables of what a user sees."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines() if line[:1] == "|"]
    return [(row[0].lstrip("| "), row[-1].rstrip(" |")) for row in cells if len(row) == 3 and "`" in row[0]]


def worker(step: str, pid: int, *, age: float = 60.0, **label: object) -> LiveWorker:
    """Return a worker of the story."""
    return LiveWorker(
        worker=Worker(pid=pid, backend_start="s", application_name=worker_name(RUN, step)),
        run=RUN,
        database="app",
        user="u",
        label=looked_label(RUN, step, **label),
        started_at=NOW - age,
        state="active",
    )


def look(*runs: LiveRun) -> Activity:
    """Return a look at these runs."""
    return Activity(at=NOW, version="18", database="app", user="dba", sees_all=True, runs=runs)


A, AWAY, NOTE = (
    worker("a", 1, age=0.0),
    worker("away", 3, age=0.0, on_finish="detach"),
    worker("note", 4, in_finally=True),
)
ALICE = Other(pid=4711, user="alice", state="idle in transaction", lock="ShareLock on t", seconds=720.0)
INDEX = Other(pid=11, name=worker_name(RUN, "index"), lock="ShareLock on t")


@cache
def said() -> tuple[str, ...]:
    """Return every line that the program says in situations as on the page."""
    return tuple(_said())


def _windows() -> Iterator[str]:
    """Yield what a run under a window waits for, and until when it may start steps."""
    night = Window(timezone="Europe/Berlin", from_=22 * 3600, to=5 * 3600)
    state = initial_state(plan(step("a", "SELECT 1"), window=night))
    opens = datetime(2026, 1, 3, 21, tzinfo=UTC).timestamp()
    for kind in (ev.WindowWaiting, ev.WindowOpened):
        apply(state, kind(at=opens, opens_at=opens, closes_at=opens + 7 * 3600))
        yield window_status(state, None)


def _said() -> Iterator[str]:
    runner = RunnerSession(pid=1, host="10.0.0.7", started_at=NOW - 3600.0)
    workers = (
        replace(worker("a", 1), blocked_by=(ALICE,)),
        replace(worker("b", 2), blocked_by=(INDEX,)),
        replace(worker("c", 3), blocks=(Other(pid=4712),), wait="IPC: MessageQueuePutMessage"),
        replace(
            worker("d", 4), progress=Progress(command="VACUUM", phase="scanning heap", relation="t", done=1, total=3)
        ),
        worker("e", 5, timeout=None),
        replace(worker("r", 10), wait="IO: DataFileRead"),
        worker("f", 6, age=310.0),
        replace(worker("g", 7), visible=False),
        replace(worker("h", 8), blocked_by=(Other(pid=0),)),
        replace(
            worker("i", 9),
            query="DO $$ BEGIN LOOP BEGIN … EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$",
        ),
    )
    for activity in (
        look(LiveRun(run=RUN, database="app", workers=workers[:4])),
        look(LiveRun(run=RUN, database="app", workers=workers, runner=(runner,))),
        look(LiveRun(run=RUN, database="app", workers=(AWAY,))),
        look(LiveRun(run=RUN, database="app", runner=(RunnerSession(pid=1),))),
        look(LiveRun(run=RUN, database="app", runner=(replace(runner, last_active_at=NOW - 250.0),))),
        look(),
    ):
        yield from status_lines(activity, width=200)
    record = RecordSummary(
        plan="nightly",
        steps="3 succeeded, 2 running, 1 pending",
        where="ledger in schema jobplan",
        folded=("partitions: 15/60 done, 1 failed, 3 running, 41 queued",),
        committed=frozenset({"commits"}),
    )
    yield from status_lines(look(LiveRun(run=RUN, database="app", workers=(A,))), width=200, records={RUN: record})
    held = replace(record, holds=("replicas for 2m00s (replay lag of standby2 14.2s)",))
    yield from status_lines(look(LiveRun(run=RUN, database="app", runner=(runner,))), width=200, records={RUN: held})
    for words in _windows():
        waits = replace(record, window=words)
        yield from status_lines(
            look(LiveRun(run=RUN, database="app", runner=(runner,))), width=200, records={RUN: waits}
        )
    over = replace(record, finished=True)
    yield from status_lines(look(LiveRun(run=RUN, database="app", workers=(AWAY,))), width=200, records={RUN: over})
    unseen = replace(A, visible=False, label=None)
    yield from status_lines(look(LiveRun(run=RUN, database="app", workers=(unseen,))), width=200)
    yield from status_lines(look(), run="260131-k7f3qz", width=200)
    yield from status_lines(replace(look(), standby=True), width=200)
    with pytest.raises(JobplanError) as caught:
        find_live_run(look(), "RUN", Path("/nowhere"), "")
    yield str(caught.value)
    with pytest.raises(JobplanError) as caught:
        check_meant(RUN, "26")
    yield str(caught.value)
    yield from ("sorry, too many clients already", "remaining connection slots are reserved")  # the server's
    yield SHARED
    yield ON_STANDBY
    yield from _cancelled()
    yield from _followed()
    yield from _resumed()


def _cancelled() -> Iterator[str]:
    found = [
        ("index", "i", "t"),
        ("index", "i_ccnew", "t"),
        ("index", "i_ccold", "t"),
        ("partition", "p1", "p"),
    ]
    leftovers = [read_leftover(*names) for names in found]
    done = Cancelled(
        run=LiveRun(run=RUN, database="app", runner=(RunnerSession(pid=9),)),
        by="me",
        at=NOW,
        asked=[(A, 0.3)],
        left=[AWAY, NOTE],
        runner_alive=True,
        refused=None,
        user="dba",
        leftovers=leftovers,
        answered=True,
    )
    yield from cancel_lines(done)
    yield from cancel_lines(replace(done, request_accepted=False))
    yield from cancel_lines(replace(done, runner_alive=False))
    yield from cancel_lines(replace(done, step="a", concerned=1))
    silent = replace(done, run=replace(done.run, run="260131-k7f3qz"), answered=False)
    yield from cancel_lines(silent)
    yield from cancel_lines(replace(done, asked=[(A, None)], refused="permission denied to terminate process"))


def _followed() -> Iterator[str]:
    follower = AttachedRun(LiveRun(run=RUN, database="app"))
    alive = LiveRun(run=RUN, database="app", runner=(RunnerSession(pid=1),), workers=(A, worker("b", 2, age=297.0)))
    for activity in (look(alive), replace(look(), at=NOW + 3.0)):
        yield from follower.follow(activity)[0]
    yield from attach_lines(follower.run, follower.ended, [])
    record = RecordSummary(plan="nightly", steps="2 running", where="ledger in schema jobplan", counts={"running": 2})
    yield from attach_lines(follower.run, follower.ended, [], record)


def _resumed() -> Iterator[str]:
    slow = ev.Adopted(step="slow", attempt=1, worker=Worker(pid=1, backend_start="s", application_name="n"))
    confirmed = ev.Settled(step="slow", outcome=ev.Outcome.SUCCEEDED, by="verify")
    again = ev.Settled(step="slow", outcome=ev.Outcome.UNKNOWN, by="idempotent")
    iterated = ev.Settled(step="slow", outcome=ev.Outcome.UNKNOWN, by="repeat")
    about: dict[str, Any] = {
        "at": NOW,
        "jobplan": "",
        "file": "",
        "sha256": "",
        "host": "",
        "os_pid": 0,
        "slots": 1,
        "steps": 1,
    }
    state = initial_state(plan(step("slow", "select 1")))
    for event in (
        ev.RunResumed(adopted=(slow,), **about),
        ev.RunResumed(settled=(confirmed, again, iterated), **about),
    ):
        yield from event_lines(event, state, Verbosity.NORMAL, RUN)
    yield from str(OpenQuestionError({"q": "q"}, stopped=["slow (pid 1)"])).splitlines()
    yield str(changed("plan.yaml", "260131-k7f3qz", ["step a is new"]))
    yield finished_line(RUN)
    yield question(initial_state(plan(step("i", "reindex index concurrently i"))).records["i"])
    yield question_about_failed_check(initial_state(plan(step("four", "insert"))).records["four"])
    yield str(useless_mark("slow", RUN))
    yield _refused(FakeGateway(), Takeover(marks={"slow": ev.Outcome.FAILED}))
    yield _refused_journal()
    yield from _journals_that_are_in_the_way()
    yield from (damaged(RUN), remedy_for("too many clients already"))
    with pytest.raises(JobplanError) as caught:
        find_run(Path("nowhere"), RUN)
    yield str(caught.value)
    yield str(no_ledger("jobplan", "the database app on db1", None))
    held = FakeGateway()
    held.run_held_by = GroupHolder(run="260131-k7f3qz", host="10.0.0.7", since="")
    lingering = FakeGateway()
    lingering.sessions_left = [2] * 10_000
    lost = FakeGateway()
    lost.taken_over_by = "on db2, at 2026-01-31T00:00:00Z"
    yield _refused(lost, Takeover())
    newer = FakeGateway()
    newer.recorded = RecordedRun(launched=frozenset({("slow", 1)}))
    yield _refused(newer, Takeover(known=RecordedRun()))
    for gateway, takeover in ((held, Takeover()), (lingering, Takeover()), (FakeGateway(), Takeover(database="other"))):
        yield _refused(gateway, takeover)


def _refused(gateway: FakeGateway, takeover: Takeover) -> str:
    p = plan(step("slow", "select 1"))
    run, _ = new_run(p, gateway, run_id="260131-k7f3qz", previous_state=initial_state(p), takeover=takeover)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runner.run.takeover.SESSIONS_END_WITHIN", 0.0)
        with pytest.raises(JobplanError) as caught:
            asyncio.run(run.execute())
    return str(caught.value)


def _refused_journal() -> str:
    p = plan(step("slow", "select 1"))
    with tempfile.TemporaryDirectory() as root:
        journal = Journal.create(Path(root), RUN, p)
        journal.handle(run_started(p, NOW), initial_state(p))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("runner.records.run_folders._PATIENCE", 0.0)
            with pytest.raises(JobplanError) as caught:
                Journal.reopen(Path(root), RUN, p)
        journal.close()
    return str(caught.value).replace("process 0", "process 4711")


def _journals_that_are_in_the_way() -> Iterator[str]:
    p = plan(step("slow", "select 1"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / ".jobplan" / "runs"
        journal = Journal.create(root, "260131-k7f3qz", p)
        journal.handle(run_started(p, NOW), initial_state(p))
        journal.close()
        known = to_json(replace(run_started(p, NOW - 1.0), sha256=sha256(p)), "260131-k7f3qz")
        with pytest.raises(JobplanError) as caught:
            restore_journal(root, "260131-k7f3qz", {sha256(p): resolved_json(p)}, [known], instead="")
        yield str(caught.value).replace(folder + "/", "")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "iterdir", _refuse)
            with pytest.raises(JobplanError) as caught:
                find_run(root, RUN)
        yield str(caught.value)


def _refuse(path: Path) -> NoReturn:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def test_the_page_has_its_tables() -> None:
    assert len(rows()) >= 37


@pytest.mark.parametrize("text", [text for seen, _ in rows() for text in CODE.findall(seen)])
def test_every_text_on_the_page_is_said(text: str) -> None:
    assert any(text in line for line in said()), text


@pytest.mark.parametrize("command", sorted({text for text in CODE.findall(PAGE) if text.startswith("jobplan ")}))
def test_every_command_on_the_page_is_understood(command: str) -> None:
    name, *arguments = shlex.split(command)[1:]
    context = click.Context(cli)
    found = cli.get_command(context, name)
    assert found is not None
    assert found.make_context(name, arguments, parent=context).params


@pytest.mark.parametrize("statement", sorted({text for text in CODE.findall(PAGE) if text.endswith(";")}))
def test_every_repair_on_the_page_is_the_one_that_is_printed(statement: str) -> None:
    said_here = "\n".join(said())
    if statement.startswith("GRANT"):
        assert statement.split()[1] in said_here
    else:
        assert statement in said_here
