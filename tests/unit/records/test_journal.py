"""The journal on disk: what it holds, who may read and write it, and what becomes of it when writing fails."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shlex
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from runner import __version__
from runner.cli import cli
from runner.cli.options import dsn_of_run
from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.state import initial_state
from runner.errors import JournalLostError, RecordError
from runner.plan.model import Plan
from runner.plan.plan_json import resolved_json, sha256
from runner.records.journal import Journal
from runner.records.journal_files import Head, read_head
from runner.records.pruning import prune
from runner.records.record import find_run, read_record
from runner.records.run_folders import has_journal, is_locked
from runner.records.summaries import Standing, list_records, previous_runs
from runner.structs import replace
from tests.builders import execute, plan, step
from tests.fake_gateway import FakeGateway

RUN = "260101-abcdef"
PLAN = plan(step("a", "select 1"), step("b", "select 'é\u2028'", needs=["a"]))
STATE = initial_state(PLAN)
READY = ev.StepReady(at=1.0, step="a")
LAUNCHING = ev.AttemptLaunching(at=2.0, step="a", attempt=1, application_name="jobplan:x:a", timeout=None)


def started(of: Plan = PLAN, run: str = RUN, at: float = 0.5) -> ev.RunStarted:
    """Return what a run says when it begins."""
    return ev.RunStarted(
        at=at,
        jobplan="0.9",
        plan=of.name,
        file="plans/test.yaml",
        sha256=sha256(of),
        host=f"host-of-{run}",
        os_pid=os.getpid(),
        server="18",
        extension="2.0",
        database="d",
        user="u",
        slots=4,
        steps=2,
    )


def keep(root: Path, *events: ev.Event, run: str = RUN, of: Plan = PLAN) -> Path:
    """Write a journal and close it; return its folder."""
    journal = Journal.create(root, run, of)
    for event in events:
        journal.handle(event, STATE)
    journal.close()
    return journal.folder


def mode(path: Path) -> int:
    """Return a file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_run_comes_back_as_it_was(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, RUN, PLAN)
    result, recorder = await execute(PLAN, FakeGateway(), journal, run_id=RUN)
    record = read_record(tmp_path, RUN)
    assert [type(event) for event in record.events] == [type(event) for event in recorder.events]
    assert {key: found.state for key, found in record.state.records.items()} == {
        key: found.state for key, found in result.state.records.items()
    }
    assert record.state.finished is not None
    assert (record.sha256, resolved_json(record.plan)) == (sha256(PLAN), resolved_json(PLAN))
    assert not record.torn


def test_the_folder_has_these_files_and_only_its_owner_may_read_them(tmp_path: Path) -> None:
    root = tmp_path / ".jobplan" / "runs"
    folder = keep(root, started(), READY)
    assert (tmp_path / ".jobplan" / ".gitignore").read_text() == "*\n"
    assert mode(folder) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == {
        "events.head": 0o600,
        "events.jsonl": 0o600,
        "plan.json": 0o600,
        "plan.sha256": 0o600,
    }
    digest = hashlib.sha256((folder / "plan.json").read_bytes()).hexdigest()
    assert (folder / "plan.sha256").read_text() == f"{digest}  plan.json\n"
    assert digest == sha256(PLAN)
    lines = (folder / "events.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["run_started", "step_ready"]


def test_a_journal_that_a_reader_can_find_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The events come last: without them, a folder is no journal."""
    confirmed = Head.confirm

    def confirm(head: Head, confirmation: bytes) -> None:
        assert sorted(path.name for path in (tmp_path / RUN).iterdir()) == ["events.head", "plan.json", "plan.sha256"]
        confirmed(head, confirmation)

    with monkeypatch.context() as patch:
        patch.setattr(Head, "confirm", confirm)
        journal = Journal.create(tmp_path, RUN, PLAN)
    assert read_record(tmp_path, RUN).events == ()
    journal.close()


def test_a_folder_of_ones_own_gets_no_gitignore(tmp_path: Path) -> None:
    keep(tmp_path / "records", started())
    assert [path.name for path in tmp_path.rglob(".gitignore")] == []


def test_a_line_is_there_at_once(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, RUN, PLAN)
    journal.handle(READY, STATE)
    assert b"step_ready" in (journal.folder / "events.jsonl").read_bytes()
    journal.close()


def test_nothing_is_left_of_a_run_that_never_began(tmp_path: Path) -> None:
    keep(tmp_path, ev.GroupWaiting(at=1.0, message="run x holds it"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/runs", "sealed/runs"])
def test_a_folder_that_cannot_be_made_is_refused_with_what_to_do(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "sealed").symlink_to("/proc/self")
    with pytest.raises(RecordError, match="cannot be written") as refused:
        Journal.create(tmp_path / place, RUN, PLAN)
    assert "--journal" in (refused.value.hint or "")


def test_a_run_id_that_is_taken_is_refused_and_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = keep(tmp_path, started())
    before = (folder / "events.jsonl").read_bytes()
    with pytest.raises(RecordError, match=f"there is a run {RUN} in"):
        Journal.create(tmp_path, RUN, PLAN)
    assert (folder / "events.jsonl").read_bytes() == before


def test_a_journal_has_one_writer_and_the_error_of_the_second_names_it(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, RUN, PLAN)
    journal.handle(started(), STATE)
    assert is_locked(journal.folder)
    with pytest.raises(RecordError, match=f"written by process {os.getpid()} on host-of-{RUN}"):
        Journal.reopen(tmp_path, RUN, PLAN)
    journal.close()
    assert not is_locked(journal.folder)
    Journal.reopen(tmp_path, RUN, PLAN).close()


@pytest.mark.parametrize("tail", [b'{"event": "step_re', b"\0\0\0\0", b'{"event": "step_re\n', b"\0\0\n"])
def test_a_last_line_that_was_not_written_to_its_end_is_left_out_and_then_cut_off(tmp_path: Path, tail: bytes) -> None:
    folder = keep(tmp_path, started(), READY)
    events = folder / "events.jsonl"
    whole = events.read_bytes()
    events.write_bytes(whole + tail)
    record = read_record(tmp_path, RUN)
    assert (record.torn, len(record.events)) == (True, 2)
    journal = Journal.reopen(tmp_path, RUN, PLAN)
    journal.handle(LAUNCHING, STATE)
    journal.close()
    assert events.read_bytes().startswith(whole + b'{"event": "attempt_launching"')
    assert not read_record(tmp_path, RUN).torn


def test_a_run_that_is_lost_on_with_another_plan_keeps_both(tmp_path: Path) -> None:
    keep(tmp_path, started())
    changed = plan(step("a", "select 2"))
    for _ in range(2):
        journal = Journal.reopen(tmp_path, RUN, changed)
        resumed = ev.RunResumed(
            at=3.0,
            jobplan="1.0",
            file="new.yaml",
            sha256=sha256(changed),
            host="h",
            os_pid=1,
            slots=4,
            steps=1,
        )
        journal.handle(resumed, STATE)
        journal.close()
    record = read_record(tmp_path, RUN)
    assert (record.sha256, record.plan.file) == (sha256(changed), "new.yaml")
    assert record.state.records.keys() == {"a"}
    assert sha256(record.plan) == sha256(changed)


def test_there_is_nothing_to_continue(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=f"there is no run {RUN}"):
        Journal.reopen(tmp_path, RUN, PLAN)


# --- a disk that fails ------------------------------------------------------------------------------------------------


class Disk:
    """A file of events on a disk that takes `room` bytes, and then a part of what comes, and then nothing."""

    def __init__(self, room: int, *, syncs: bool = True) -> None:
        self.data = b""
        self.closed = False
        self._room = room
        self._syncs = syncs
        self._descriptor = os.open(os.devnull, os.O_WRONLY)

    def write(self, data: bytes | memoryview) -> int:
        """Take what fits."""
        taken = bytes(data[: max(self._room - len(self.data), 0)])
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.data += taken
        return len(taken)

    def truncate(self, size: int) -> int:
        """Cut."""
        self.data = self.data[:size]
        return size

    def fileno(self) -> int:
        """Fail if the disk fails when it is asked to make things durable."""
        if not self._syncs:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._descriptor

    def close(self) -> None:
        """Close."""
        self.closed = True
        os.close(self._descriptor)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note each time that something is made durable."""
    calls: list[int] = []
    monkeypatch.setattr("runner.records.journal._sync", calls.append)
    return calls


def lines(disk: Disk) -> list[str]:
    """Return the events on a disk."""
    return [json.loads(line)["event"] for line in disk.data.splitlines()]


def flush(journal: Journal) -> None:
    """Flush, and wait for the disk."""
    wait = journal.flush()
    if wait is not None:
        asyncio.run(wait)


def flush_after_tick(journal: Journal) -> None:
    """Do what a run does about once a second."""
    journal.tick(0.0, STATE)
    flush(journal)


def test_orders_are_made_durable_once_and_what_is_no_order_at_the_next_tick(synced: list[int]) -> None:
    journal = Journal(Path("x"), RUN, Disk(10_000))
    journal.handle(READY, STATE)
    flush(journal)
    assert synced == []
    journal.handle(LAUNCHING, STATE)
    journal.handle(LAUNCHING, STATE)
    flush(journal)
    flush(journal)
    assert len(synced) == 1
    journal.handle(READY, STATE)
    flush_after_tick(journal)
    flush_after_tick(journal)
    assert len(synced) == 2
    journal.close()
    journal.close()
    assert len(synced) == 2


def test_half_a_line_is_taken_back(synced: list[int]) -> None:
    disk = Disk(120)
    journal = Journal(Path("x"), RUN, disk)
    journal.handle(READY, STATE)
    with pytest.raises(JournalLostError, match=r"the journal x cannot be written any more: No space left on device"):
        journal.handle(READY, STATE)
    assert journal.lost
    assert lines(disk) == ["step_ready"]
    journal.close()
    assert (disk.closed, synced) == (True, [])


@pytest.mark.parametrize("act", [flush, Journal.close, flush_after_tick])
def test_orders_that_are_not_durable_are_taken_back(act: Callable[[Journal], None]) -> None:
    disk = Disk(10_000, syncs=False)
    journal = Journal(Path("x"), RUN, disk)
    journal.handle(READY, STATE)
    journal.handle(LAUNCHING, STATE)
    journal.handle(LAUNCHING, STATE)
    with pytest.raises(JournalLostError, match="Input/output error"):
        act(journal)
    assert lines(disk) == ["step_ready"]
    journal.close()
    assert disk.closed


class SlowSync:
    """Takes the place of fdatasync: it returns, or fails, when it is reported to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.error: OSError | None = None

    def __call__(self, _: int) -> None:
        """Wait."""
        self.begun.set()
        assert self.go_on.wait(30)
        if self.error is not None:
            raise self.error


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowSync]:
    """Have a disk that waits until the test lets it continue."""
    disk = SlowSync()
    monkeypatch.setattr("runner.records.journal._sync", disk)
    yield disk
    disk.go_on.set()


async def _begin_flush(journal: Journal, slow: SlowSync) -> asyncio.Task[None]:
    wait = journal.flush()
    assert wait is not None
    flushing = asyncio.create_task(wait)
    assert await asyncio.to_thread(slow.begun.wait, 30)
    return flushing


async def test_lines_are_written_while_the_disk_is_waited_for_and_only_what_came_before_is_confirmed(
    tmp_path: Path, slow: SlowSync
) -> None:
    journal = Journal.create(tmp_path, RUN, PLAN)
    journal.handle(started(), STATE)
    journal.handle(LAUNCHING, STATE)
    flushing = await _begin_flush(journal, slow)
    journal.handle(READY, STATE)
    journal.handle(replace(LAUNCHING, step="b"), STATE)
    assert len((journal.folder / "events.jsonl").read_bytes().splitlines()) == 4
    assert not flushing.done()
    slow.go_on.set()
    await flushing
    head = read_head(journal.folder)
    assert head is not None
    assert head.lines == 2
    second = journal.flush()
    assert second is not None, "the second launch was announced after the flush had begun"
    await second
    head = read_head(journal.folder)
    assert head is not None
    assert head.lines == 4
    assert journal.flush() is None
    journal.close()


async def test_a_flush_that_fails_takes_back_all_orders_since_it_began_and_keeps_the_other_lines(
    tmp_path: Path, slow: SlowSync
) -> None:
    journal = Journal.create(tmp_path, RUN, PLAN)
    journal.handle(started(), STATE)
    journal.handle(LAUNCHING, STATE)
    flushing = await _begin_flush(journal, slow)
    journal.handle(replace(READY, step="b"), STATE)
    journal.handle(replace(LAUNCHING, step="b"), STATE)
    slow.error = OSError(errno.EIO, os.strerror(errno.EIO))
    slow.go_on.set()
    with pytest.raises(JournalLostError, match="Input/output error"):
        await flushing
    assert journal.lost
    journal.close()
    record = read_record(tmp_path, RUN)
    assert [(event.name, getattr(event, "step", None)) for event in record.events] == [
        ("run_started", None),
        ("step_ready", "b"),
    ]
    assert not record.torn


async def test_a_line_that_cannot_be_written_during_a_flush_takes_the_orders_back_and_confirms_nothing(
    tmp_path: Path, slow: SlowSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.create(tmp_path, RUN, PLAN)
    journal.handle(started(), STATE)
    journal.handle(LAUNCHING, STATE)
    flushing = await _begin_flush(journal, slow)
    with monkeypatch.context() as patched:
        patched.setattr("runner.records.journal._append", _full)
        with pytest.raises(JournalLostError, match="No space left"):
            journal.handle(READY, STATE)
    slow.go_on.set()
    await flushing  # the journal is lost already: it says so once
    journal.close()
    record = read_record(tmp_path, RUN)
    assert [event.name for event in record.events] == ["run_started"]


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_its_beginning_and_by_being_the_last(tmp_path: Path) -> None:
    for number, run in enumerate(("260101-aaaaaa", "260101-abbbbb", "260102-aaaaaa"), start=1):
        keep(tmp_path, started(run=run, at=10.0 - number), run=run)
    assert find_run(tmp_path, "260102") == "260102-aaaaaa"
    assert find_run(tmp_path, "260101-aaaaaa") == "260101-aaaaaa"
    assert find_run(tmp_path, "last") == "260101-aaaaaa"
    with pytest.raises(RecordError, match="'260101' matches more than one run: 260101-aaaaaa, 260101-abbbbb"):
        find_run(tmp_path, "260101")


@pytest.mark.parametrize("name", ["270101", "", "last", "..", "260101-aaaaaa/x"])
def test_a_run_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match="there is no run") as refused:
        read_record(tmp_path / "nowhere", name)
    assert "jobplan runs" in (refused.value.hint or "")
    assert f"jobplan resume {shlex.quote(name)} --from-ledger" in (refused.value.hint or "")


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Have the rights that files give, and no more: root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)  # the real one too: access(2) goes by it
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """Return a folder that every session may look into, and so may the session that is without privileges."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_the_journal_of_another_user_is_there_and_cannot_be_read(shared: Path) -> None:
    keep(shared, started(run="260101-theirs"), run="260101-theirs").chmod(0)
    (shared / "lost+found").mkdir(mode=0)
    with without_privileges():
        (found,) = list_records(shared)
        assert (found.run_id, found.standing, found.problem) == (
            "260101-theirs",
            Standing.UNREADABLE,
            "Permission denied",
        )
        with pytest.raises(RecordError, match="260101-theirs cannot be read: Permission denied"):
            read_record(shared, "260101-t")
        assert prune(shared, now=1e10, force=True).removed == ()
        assert has_journal(shared / "260101-theirs")
        assert not has_journal(shared / "lost+found")
    (shared / "260101-theirs").chmod(0o700)


def test_journals_that_are_all_another_user_s(shared: Path) -> None:
    root = shared / "runs"
    keep(root, started(), run=RUN)
    root.chmod(0)
    with without_privileges():
        for name in (RUN, "last"):
            with pytest.raises(RecordError, match=r"cannot be read: Permission denied\. Only the user"):
                find_run(root, name)
        with pytest.raises(RecordError, match="--journal"):
            list_records(root)
        assert previous_runs(root, "p", before=1.0) == ()
        assert has_journal(root / RUN)
    root.chmod(0o700)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("runs", []), ("show", [RUN]), ("resume", [RUN]), ("status", [RUN]), ("cancel", [RUN]), ("attach", [RUN])],
)
def test_a_folder_that_is_another_user_s_is_no_wrong_usage(shared: Path, command: str, arguments: list[str]) -> None:
    root = shared / "runs"
    root.mkdir(mode=0)
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    with without_privileges():
        context = found.make_context(command, [*arguments, "--journal", str(root)])
        assert context.params["journal"] == root
        assert dsn_of_run("", root, RUN) == dsn_of_run(None, root, RUN) == ""
        if command in ("runs", "show"):
            with pytest.raises(RecordError, match="cannot be read: Permission denied"):
                found.invoke(context)


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Return what changes a file's content at one place."""
    return lambda data: data.replace(old, new, 1)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (
            "events.jsonl",
            lambda data: data.replace(b'"step_ready"', b'"step_dreamt"', 1),
            r":2: the event 'step_dreamt'",
        ),
        ("events.jsonl", swap(b'"step_ready"', b'"step_dreamt"'), r":2: the event 'step_dreamt'"),
        ("events.jsonl", swap(b'"step_ready"', b'"step_dreamt"'), r"recorded by jobplan 0\.9"),
        ("events.jsonl", swap(b'{"event": "step_ready"', b"x"), r":2: this line is not an event"),
        ("events.jsonl", swap(b'"step": "a"', b'"step": "z"'), r":2: step_ready does not follow"),
        ("plan.json", swap(b"select 1", b"select 2"), "not the plan that was run"),
        ("plan.sha256", lambda _: b"", "not the plan that was run"),
        ("plan.json", lambda _: b"\xff", "not the plan that was run"),
    ],
)
def test_a_record_that_was_changed_says_where(
    tmp_path: Path, file: str, change: Callable[[bytes], bytes], says: str
) -> None:
    path = keep(tmp_path, started(), READY, LAUNCHING) / file
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(RecordError, match=says) as refused:
        read_record(tmp_path, RUN)
    if "dreamt" not in says and "recorded by" not in says:
        assert refused.value.hint == (
            "The journal was damaged or changed. "
            f"With a ledger: jobplan resume {RUN} --from-ledger --journal NEW_FOLDER."
        )


@pytest.mark.parametrize(
    ("version", "hint"), [("0.9", "Read the record with"), (__version__, "was damaged or changed")]
)
def test_what_this_version_wrote_and_cannot_read_was_damaged(tmp_path: Path, version: str, hint: str) -> None:
    folder = keep(tmp_path, replace(started(), jobplan=version), LAUNCHING)
    path = folder / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"attempt": 1', b'"attempt": "1"'))
    with pytest.raises(RecordError, match=f":2: .*recorded by jobplan {re.escape(version)}") as refused:
        read_record(tmp_path, RUN)
    assert hint in (refused.value.hint or "")


def test_a_record_without_its_plan_cannot_be_read(tmp_path: Path) -> None:
    (keep(tmp_path, started()) / "plan.json").unlink()
    with pytest.raises(
        RecordError, match=r"No such file or directory .*plan\.json.*--from-ledger --journal NEW_FOLDER"
    ):
        read_record(tmp_path, RUN)


def notice(message: str) -> ev.AttemptNotice:
    """Return what a worker says."""
    return ev.AttemptNotice(at=2.5, step="a", attempt=1, notice=ev.Notice(severity="NOTICE", message=message))


def test_notices_are_left_out_where_no_session_wants_them(tmp_path: Path) -> None:
    keep(tmp_path, started(), READY, LAUNCHING, notice("1"), notice("2"))
    whole, short = read_record(tmp_path, RUN), read_record(tmp_path, RUN, notices=False)
    assert short.events == (*whole.events[:3], whole.events[4])
    assert short.state == whole.state


def test_what_is_not_looked_into_counts_as_a_line_all_the_same(tmp_path: Path) -> None:
    path = keep(tmp_path, started(), READY, LAUNCHING, notice("1"), READY) / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"step_ready"', b'"step_dreamt"').replace(b"dreamt", b"ready", 1))
    with pytest.raises(RecordError, match=r"events\.jsonl:5: the event 'step_dreamt'"):
        read_record(tmp_path, RUN, notices=False)


def test_the_state_is_that_of_applying_the_events(tmp_path: Path) -> None:
    state = initial_state(PLAN)
    events = (started(), READY, LAUNCHING)
    keep(tmp_path, *events)
    for event in events:
        apply(state, event)
    assert read_record(tmp_path, RUN).state.records["a"].state is state.records["a"].state


# --- summaries --------------------------------------------------------------------------------------------------------


def test_every_run_is_summed_up_by_its_ends(tmp_path: Path) -> None:
    steps = {"a": "succeeded", "each": "failed", "each[x]": "succeeded", "each[y" + "y" * 100_000 + "]": "failed"}
    finished = ev.RunFinished(at=9.5, exit_code=1, steps=steps)
    keep(tmp_path, ev.GroupWaiting(at=0.1, message=""), started(at=3.0), READY, finished, run="finished")
    keep(tmp_path, started(at=2.0), READY, run="killed")
    (keep(tmp_path, started(at=1.0), run="damaged") / "events.jsonl").write_bytes(b"x\ny\n")
    journal = Journal.create(tmp_path, "running", PLAN)
    journal.handle(started(at=4.0), STATE)
    waiting = Journal.create(tmp_path, "waiting", PLAN)
    found = {run.run_id: run for run in list_records(tmp_path)}
    assert [run for run in found if found[run].started_at] == ["running", "finished", "killed"]
    assert {name: run.standing for name, run in found.items()} == {
        "running": Standing.RUNNING,
        "waiting": Standing.RUNNING,
        "finished": Standing.FINISHED,
        "killed": Standing.ENDED_EARLY,
        "damaged": Standing.UNREADABLE,
    }
    run = found["finished"]
    assert (run.started_at, run.ended_at, run.exit_code) == (3.0, 9.5, 1)
    assert run.steps == {"succeeded": 2, "failed": 1}
    assert found["killed"].ended_at == 1.0
    assert list_records(tmp_path / "nowhere") == ()
    journal.close()
    waiting.close()


def test_a_process_that_waits_for_a_run_does_not_change_how_it_ended(tmp_path: Path) -> None:
    finished = ev.RunFinished(at=9.0, exit_code=1, steps={"a": "failed", "b": "skipped"})
    waiting = [ev.GroupWaiting(at=10.0 + number, message="x" * 50_000) for number in range(3)]
    folder = keep(tmp_path, started(), finished, *waiting)
    (run,) = list_records(tmp_path)
    assert (run.standing, run.exit_code, run.ended_at) == (Standing.FINISHED, 1, 9.0)
    with (folder / "events.jsonl").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (run,) = list_records(tmp_path)
    assert (run.standing, run.exit_code) == (Standing.RUNNING, None)
