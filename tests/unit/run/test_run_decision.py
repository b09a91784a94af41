"""What comes of a request for a run: pure decisions by what journals and the ledger have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.ports import RecordedRun
from runner.engine.simulation import run_started
from runner.engine.state import initial_state
from runner.errors import (
    JobplanError,
    JournalExistsError,
    OpenQuestionError,
    PreflightError,
    RunExistsError,
    RunHeldError,
    StaleRecordError,
    UsageError,
)
from runner.identity import MAX_RUN_ID, run_id_problem, run_of, runner_name, worker_name
from runner.records.journal import Journal
from runner.run.run_decision import Known, RunAction, RunRequest, again, decide, latest
from runner.run.takeover import Takeover, journal_record
from runner.structs import replace
from tests.builders import execute, new_run, plan, step
from tests.fake_gateway import FakeGateway

STARTED = run_started(plan(step("a", "select 1")), 1_767_225_600.0)


def known(exit_code: int | None = None, *, resumed: tuple[float, ...] = (), run: str = "x", at: float = 0.0) -> Known:
    """Return what a source has of a run."""
    started = replace(STARTED, at=STARTED.at + at)
    return Known(run_id=run, started=started, exit_code=exit_code, resumed_at=frozenset(resumed))


def request(**keys: Any) -> RunRequest:
    """Return a request."""
    return replace(RunRequest(plan=plan(step("a", "select 1")), conninfo=""), **keys)


# --- the id ---


@pytest.mark.parametrize(
    "good", ["a", "0", "260131-k7f3qz", "Nightly_2026-11.30", "a" * MAX_RUN_ID, "b1d3c0de-0000-4000-8000-0123456789ab"]
)
def test_an_id_fits_into_every_name_that_is_made_of_it(good: str) -> None:
    assert run_id_problem(good) is None
    for name in (runner_name(good), worker_name(good, "s" * 80), worker_name(good, "näht[日本]")):
        assert len(name.encode()) <= 63
        assert run_of(name) == good
    assert worker_name(good, "s" * 80) != worker_name(good, "s" * 79 + "t")


@pytest.mark.parametrize(
    "bad",
    [
        "",
        " ",
        "näht",
        "日本",
        "a" * (MAX_RUN_ID + 1),
        "a" * 300,
        "a/b",
        "../up",
        "/abs",
        "a\\b",
        ".hidden",
        ".",
        "..",
        "-dash",
        "_x",
        "a:b",
        "a b",
        "a\n",
        "a\nb",
        "last",
        "a%",
        "'a'",
        "a;b",
        "a\0b",
        "\ud800",
    ],
)
def test_what_cannot_be_an_id_is_explained(bad: str) -> None:
    problem = run_id_problem(bad)
    assert problem is not None
    assert "last" in problem or "ASCII letters" in problem
    with pytest.raises(UsageError, match="--run-id"):
        request(run_id=bad).check()


# --- what to do ---


@pytest.mark.parametrize(
    ("exit_code", "action"),
    [
        (None, RunAction.RESUME),
        (0, RunAction.BEGIN),
        (1, RunAction.BEGIN),
        (5, RunAction.RESUME),
        (6, RunAction.RESUME),
        (7, RunAction.RESUME),
        (8, RunAction.RESUME),
        (129, RunAction.RESUME),
        (130, RunAction.RESUME),
        (142, RunAction.RESUME),
        (143, RunAction.RESUME),
    ],
)
def test_without_an_id_the_end_of_the_last_run_decides(exit_code: int | None, action: RunAction) -> None:
    assert decide(named=False, or_resume=True, known=known(exit_code)) is action


@pytest.mark.parametrize("exit_code", [None, 0, 1, 5, 7, 8, 130])
def test_with_an_id_a_known_run_is_resumed_however_it_ended_and_refused_otherwise(exit_code: int | None) -> None:
    assert decide(named=True, or_resume=True, known=known(exit_code)) is RunAction.RESUME
    assert decide(named=True, or_resume=False, known=known(exit_code)) is RunAction.REFUSE


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("or_resume", [True, False])
def test_an_unknown_run_begins(named: bool, or_resume: bool) -> None:
    assert decide(named=named, or_resume=or_resume, known=None) is RunAction.BEGIN


# --- of two sources ---


@pytest.mark.parametrize(
    ("journal", "ledger", "counts"),
    [
        (known(), known(), "journal"),
        (known(1), known(), "journal"),
        (known(), known(0), "ledger"),
        (known(1), known(0, resumed=(5.0,)), "ledger"),
        (known(1, resumed=(5.0,)), known(0, resumed=(5.0, 6.0)), "ledger"),
        (known(resumed=(5.0,)), known(1), "journal"),
        (known(resumed=(5.0,)), known(0, resumed=(5.0,)), "ledger"),
        (known(resumed=(5.0, 6.0)), known(1, resumed=(5.0,)), "journal"),
        (known(run="x", at=1.0), known(0, run="y"), "journal"),
        (known(run="x"), known(0, run="y", at=1.0), "ledger"),
    ],
)
def test_of_one_run_the_source_that_has_more_counts_and_of_two_the_later(
    journal: Known, ledger: Known, counts: str
) -> None:
    assert latest(journal, ledger) is (journal if counts == "journal" else ledger)


def test_one_source_is_enough() -> None:
    one = known()
    assert latest(one, None) is one
    assert latest(None, one) is one
    assert latest(None, None) is None


# --- once more ---


def test_a_waiting_process_decides_again_and_keeps_the_run_that_was_chosen() -> None:
    held = RunHeldError("held", run_id="x")
    later, seconds = again(request(or_resume=True, wait=True), held, None)
    assert (later.run_id, seconds > 0) == ("x", True)
    with pytest.raises(RunHeldError):
        again(request(or_resume=True), held, None)
    with pytest.raises(RunHeldError):
        again(request(run_id="x", wait=True), held, None)


@pytest.mark.parametrize("error", [StaleRecordError("old"), JournalExistsError("there"), RunExistsError("there")])
def test_a_process_that_was_overtaken_decides_again_a_limited_number_of_times(error: JobplanError) -> None:
    asked = request(or_resume=True)
    for _ in range(5):
        asked, seconds = again(asked, error, "x")
        assert (asked.run_id, seconds) == ("x", 0.0)
    with pytest.raises(type(error)):
        again(asked, error, "x")
    with pytest.raises(JobplanError):
        again(request(run_id="x"), error, "x")


def test_another_error_ends_it() -> None:
    with pytest.raises(PreflightError):
        again(request(or_resume=True, wait=True), PreflightError("no"), "x")


# --- under the lock of the run ---


async def test_a_chosen_id_that_the_ledger_has_by_now_is_refused() -> None:
    gateway = FakeGateway()
    gateway.recorded = RecordedRun(begun=True)
    with pytest.raises(RunExistsError, match="the ledger has a run x already"):
        await execute(plan(step("a", "select 1")), gateway, run_id="x", chosen=True)
    gateway = FakeGateway()
    gateway.recorded = RecordedRun()
    result, _ = await execute(plan(step("a", "select 1")), gateway, run_id="x", chosen=True)
    assert (result.exit_code, result.run_id, result.origin) == (0, "x", "begun")


async def test_nothing_begins_without_a_ledger_that_is_required() -> None:
    with pytest.raises(PreflightError, match="--require-ledger"):
        await execute(plan(step("a", "select 1")), FakeGateway(), require_ledger=True)


# --- what a killed process leaves ---


def test_a_journal_that_never_began_is_replaced_and_no_other(tmp_path: Path) -> None:
    p = plan(step("a", "select 1"))
    abandoned = Journal.create(tmp_path, "x", p)
    with pytest.raises(JournalExistsError):  # it is being written
        Journal.create(tmp_path, "x", p)
    abandoned._file.close()
    abandoned._head = None
    again_ = Journal.create(tmp_path, "x", p)
    again_.handle(ev.GroupWaiting(at=1.0, message="busy"), initial_state(p))
    again_._file.close()
    third = Journal.create(tmp_path, "x", p)
    third.handle(STARTED, initial_state(p))
    third.close()
    with pytest.raises(JournalExistsError):
        Journal.create(tmp_path, "x", p)


def test_a_folder_of_another_program_is_not_a_journal(tmp_path: Path) -> None:
    p = plan(step("a", "select 1"))
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o755)
    (mine / "plan.json").write_text("precious")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "notes.txt").write_text("precious")
    (tmp_path / "link").symlink_to(private)
    (tmp_path / "file").write_text("precious")
    for name in ("mine", "private", "link", "file"):
        with pytest.raises(JournalExistsError):
            Journal.create(tmp_path, name, p)
    assert (mine / "plan.json").read_text() == (private / "notes.txt").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "precious"


def test_a_damaged_journal_is_not_replaced(tmp_path: Path) -> None:
    p = plan(step("a", "select 1"))
    journal = Journal.create(tmp_path, "x", p)
    journal.handle(STARTED, initial_state(p))
    journal.close()
    (tmp_path / "x" / "events.jsonl").write_bytes(b"")
    with pytest.raises(JournalExistsError):
        Journal.create(tmp_path, "x", p)


# --- a launch that the ledger lacks ---


def launching(step: str, attempt: int = 1) -> ev.AttemptLaunching:
    """Return the announcement of a worker."""
    return ev.AttemptLaunching(at=2.0, step=step, attempt=attempt, application_name=f"jobplan:x:{step}", timeout=60.0)


def resumed_event(at: float, *, ledger_first: bool) -> ev.RunResumed:
    """Return a takeover."""
    return ev.RunResumed(
        at=at, jobplan="0", file="", sha256="", host="h", os_pid=1, slots=1, steps=1, ledger_first=ledger_first
    )


def test_which_launches_the_ledger_must_have() -> None:
    first = replace(STARTED, ledger_first=True)
    lost = ev.LedgerLost(at=3.0, message="gone")
    assert journal_record([STARTED, launching("a")]).ledger_first == {}
    assert journal_record([first, launching("a")]).ledger_first == {("a", 1): ""}
    later = [first, launching("a"), resumed_event(5.0, ledger_first=True), launching("b")]
    assert journal_record(later).ledger_first == {("a", 1): "", ("b", 1): "1970-01-01T00:00:05.000Z"}
    again_ = [*later, resumed_event(6.0, ledger_first=False), launching("b")]
    assert journal_record(again_).ledger_first == {("a", 1): ""}
    assert journal_record([first, launching("a"), lost, launching("b")]).ledger_first == {}


@pytest.mark.parametrize(
    ("ledger", "asked"),
    [
        (RecordedRun(begun=True), False),
        (RecordedRun(), True),  # it was made anew since, or its rows are those of a role that is not trusted
        (RecordedRun(begun=True, launched=frozenset({("a", 1)})), True),
        (None, True),
    ],
    ids=["not there", "no start", "there", "no ledger"],
)
async def test_a_worker_whose_launch_the_ledger_must_have_and_lacks_was_never_requested(
    monkeypatch: pytest.MonkeyPatch, ledger: RecordedRun | None, asked: bool
) -> None:
    monkeypatch.setattr("runner.run.takeover.LAUNCH_SEEN_WITHIN", 0.0)
    p = plan(step("a", "INSERT INTO t VALUES (1)"))
    state = initial_state(p)
    history = [replace(STARTED, ledger_first=True), launching("a")]
    for event in history:
        apply(state, event)
    gateway = FakeGateway()
    gateway.recorded = ledger
    run, recorder = new_run(
        p, gateway, run_id="x", previous_state=state, takeover=Takeover(known=journal_record(history))
    )
    if asked:
        with pytest.raises(OpenQuestionError):
            await run.execute()
        return
    result = await run.execute()
    assert result.exit_code == 0
    (resumed,) = [event for event in recorder.events if isinstance(event, ev.RunResumed)]
    assert [(one.step, one.outcome, one.by) for one in resumed.settled] == [("a", "failed", "ledger")]
