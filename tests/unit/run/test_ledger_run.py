"""What a ledger changes for a run, on virtual workers: fewer unknown outcomes, and a line when it is lost."""

from __future__ import annotations

import pytest

from runner.engine import events as ev
from runner.engine.ports import LaunchRequest
from runner.engine.state import RunState
from runner.engine.worker_text import NEXT, launched_text, takes_commit_row
from runner.reports.messages import Verbosity, event_lines
from tests.builders import execute, plan, step
from tests.fake_gateway import FakeGateway, FakeWorker, Script

LOST = {
    "lost": Script(seconds=0.01, loses_session=True),
    "fails": Script(seconds=0.01, loses_session=True, error=ev.ErrorDetails(message="no", sqlstate="22012")),
}


@pytest.mark.parametrize(
    ("ledger", "outcomes", "exit_code"),
    [
        (False, {"a": ev.Outcome.UNKNOWN, "b": ev.Outcome.UNKNOWN}, 7),
        (True, {"a": ev.Outcome.SUCCEEDED, "b": ev.Outcome.FAILED}, 1),
    ],
)
async def test_a_lost_session_is_no_lost_outcome(ledger: bool, outcomes: dict[str, ev.Outcome], exit_code: int) -> None:
    gateway = FakeGateway(scripts=LOST, ledger=ledger)
    result, record = await execute(plan(step("a", "lost"), step("b", "fails")), gateway)
    assert record.outcomes() == outcomes
    assert result.exit_code == exit_code


async def test_a_ledger_that_is_lost_is_reported_once() -> None:
    class Losing(FakeGateway):
        async def launch(self, request: LaunchRequest) -> FakeWorker:
            self.ledger_problem = "the ledger is lost"
            return await super().launch(request)

    of = plan(step("a", "SELECT 1"), step("b", "SELECT 1", needs=["a"]))
    result, record = await execute(of, Losing(ledger=True))
    assert [event.message for event in record.of(ev.LedgerLost)] == ["the ledger is lost"]
    assert (result.exit_code, result.ledger_problem) == (0, None)
    assert record.of(ev.RunStarted)[0].ledger == "jobplan"


async def test_a_ledger_that_was_never_there_is_no_loss() -> None:
    gateway = FakeGateway()
    gateway.ledger_problem = "there is no schema jobplan"
    result, record = await execute(plan(step("a", "SELECT 1")), gateway)
    assert not record.of(ev.LedgerLost)
    assert record.of(ev.RunStarted)[0].ledger_problem == "there is no schema jobplan"
    assert result.ledger_problem is None


async def test_a_loss_that_comes_to_light_at_the_end_is_in_the_result() -> None:
    class Late(FakeGateway):
        async def close(self) -> None:
            self.ledger_problem = "the last events could not be written"
            await super().close()

    result, _ = await execute(plan(step("a", "SELECT 1")), Late(ledger=True))
    assert (result.exit_code, result.ledger_problem) == (0, "the last events could not be written")


def lines(event: ev.Event, state: RunState, verbosity: Verbosity) -> list[str]:
    return [line for line in event_lines(event, state, verbosity, "r") if "ledger" in line]


async def test_what_is_said_of_it() -> None:
    result, record = await execute(plan(step("a", "SELECT 1")), FakeGateway(ledger=True))
    (started,) = record.of(ev.RunStarted)
    assert lines(started, result.state, Verbosity.NORMAL) == []
    assert lines(started, result.state, Verbosity.VERBOSE) == ["ledger: schema jobplan"]
    lost = ev.LedgerLost(at=0.0, message="the ledger is lost")
    assert lines(lost, result.state, Verbosity.NORMAL) == ["the ledger is lost; the run continues"]
    assert lines(lost, result.state, Verbosity.QUIET) == []


# --- the text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "takes"),
    [
        ("SELECT 1", True),
        ("VACUUM; SELECT 1", True),  # which the server refuses with the row or without
        ("DO $$ BEGIN NULL; END $$; SELECT 1", True),
        ("VACUUM", False),
        ("CALL p()", False),
        ("DO $$ BEGIN NULL; END $$", False),
        ("CLUSTER t USING i", False),
        ("SET LOCAL work_mem = '1MB'", False),
        ("LOCK TABLE t", False),
        ("SELECT 1; SET TRANSACTION READ ONLY", False),
        ("SET transaction_read_only = on; SELECT 1", False),
        ("BEGIN; SELECT 1", False),
        ("SELECT pg_create_logical_replication_slot('s', 'pgoutput')", False),
        ("no SQL", False),
        ("-- nothing", False),
        ("", False),
    ],
)
def test_which_texts_take_a_row(sql: str, takes: bool) -> None:
    assert takes_commit_row(sql, read_committed=True) == takes


def test_a_lock_comes_first_unless_every_statement_has_its_own_snapshot() -> None:
    assert takes_commit_row("LOCK TABLE t; SELECT 1", read_committed=True)
    assert not takes_commit_row("LOCK TABLE t; SELECT 1", read_committed=False)
    assert takes_commit_row("SELECT 1", read_committed=False)


def test_what_comes_first_stands_before_everything_but_the_label() -> None:
    request = LaunchRequest(sql="DELETE FROM t; DELETE FROM u", application_name="n")
    text = launched_text(request, "INSERT INTO c VALUES (1);")
    assert text == f"INSERT INTO c VALUES (1);\nDELETE FROM t\n;{NEXT}; DELETE FROM u"
