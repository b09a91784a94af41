"""A journal from the ledger: it may be there from an earlier try, and nothing that only it knows is overwritten."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from runner.engine import events as ev
from runner.engine.event_json import to_json
from runner.engine.for_each_items import literal_items
from runner.engine.simulation import run_started
from runner.engine.state import initial_state
from runner.errors import RecordError
from runner.plan.model import ForEach
from runner.plan.plan_json import resolved_json, sha256
from runner.records.journal import Journal
from runner.records.ledger_restore import restore_journal
from runner.records.record import read_record
from runner.records.run_folders import EVENTS
from runner.structs import replace
from tests.builders import plan, step

RUN = "260101-abcdef"
PLAN = plan(step("a", "select 1"))
PLANS = {sha256(PLAN): resolved_json(PLAN)}
HISTORY: tuple[ev.Event, ...] = (
    replace(run_started(PLAN, 1.0), sha256=sha256(PLAN)),
    ev.StepReady(at=2.0, step="a"),
    ev.AttemptLaunching(at=3.0, step="a", attempt=1, application_name="jobplan:x:a", timeout=None),
)
WAITING = ev.GroupWaiting(at=2.5, message="another run has it")


def reported(*events: ev.Event) -> list[dict[str, Any]]:
    """Return events as the ledger has them."""
    return [to_json(event, RUN) for event in events]


def restore(root: Path, *events: ev.Event) -> Path:
    """Restore the run from these events, and return the file of its journal."""
    return restore_journal(root, RUN, PLANS, reported(*events), instead="jobplan resume R") / EVENTS


@pytest.mark.parametrize("before", range(1, len(HISTORY) + 1))
def test_a_journal_that_was_partly_restored_is_completed(tmp_path: Path, before: int) -> None:
    restore(tmp_path, *HISTORY[:before])
    restore(tmp_path, *HISTORY)
    assert read_record(tmp_path, RUN).events == HISTORY


def test_half_a_line_at_the_end_is_replaced(tmp_path: Path) -> None:
    path = restore(tmp_path, *HISTORY)
    os.truncate(path, path.stat().st_size - 10)
    restore(tmp_path, *HISTORY)
    assert read_record(tmp_path, RUN).events == HISTORY


def test_a_wait_that_only_the_journal_has_is_kept(tmp_path: Path) -> None:
    restore(tmp_path, *HISTORY[:2])
    journal = Journal.reopen(tmp_path, RUN, PLAN)
    journal.handle(WAITING, initial_state(PLAN))
    journal.close()
    restore(tmp_path, *HISTORY)
    assert read_record(tmp_path, RUN).events == (*HISTORY[:2], WAITING, *HISTORY[2:])


@pytest.mark.parametrize("of_the_ledger", [HISTORY[:2], (HISTORY[0], HISTORY[2])], ids=["less", "other"])
def test_what_only_the_journal_knows_is_not_overwritten(tmp_path: Path, of_the_ledger: tuple[ev.Event, ...]) -> None:
    path = restore(tmp_path, *HISTORY)
    before = path.read_bytes()
    with pytest.raises(RecordError, match=r"already.*not overwritten. Resume it from that journal: jobplan resume R"):
        restore(tmp_path, *of_the_ledger)
    assert path.read_bytes() == before


def test_a_journal_that_was_not_written_to_its_end_is_kept_under_another_name(tmp_path: Path) -> None:
    """The launch of b could not be written, but the ledger had it already when a ended."""
    two = plan(step("a", "select 1"), step("b", "select 2"))
    plans = {sha256(two): resolved_json(two)}
    ended = ev.AttemptFinished(at=4.0, step="a", attempt=1, outcome=ev.Outcome.SUCCEEDED)
    launched = ev.AttemptLaunching(at=3.5, step="b", attempt=1, application_name="jobplan:x:b", timeout=None)
    begun = (replace(HISTORY[0], sha256=sha256(two)), HISTORY[1], ev.StepReady(at=2.0, step="b"), HISTORY[2])
    restore_journal(tmp_path, RUN, plans, reported(*begun, ended), instead="")
    in_journal = (tmp_path / RUN / EVENTS).read_bytes()
    said: list[str] = []
    restore_journal(tmp_path, RUN, plans, reported(*begun, launched, ended), instead="", notify=said.append)
    assert read_record(tmp_path, RUN).events == (*begun, launched, ended)
    (aside,) = (path for path in tmp_path.iterdir() if path.name.startswith("."))
    assert (aside / EVENTS).read_bytes() == in_journal
    assert [str(aside) in line for line in said] == [True]


def test_conditions_of_an_instance_are_restored(tmp_path: Path) -> None:
    """The state at the beginning of a run, by which nothing is left out of the journal, has no instances yet."""
    of = plan(step("a", "select :'t'", for_each=ForEach(as_="t", items=("x", "y"))))
    history = (
        replace(run_started(of, 1.0), sha256=sha256(of)),
        ev.StepExpanded(at=2.0, step="a", items=literal_items(of.steps[0])),
        ev.StepChecking(at=3.0, step="a[x]", phase=ev.CheckPhase.BEFORE),
        ev.StepChecked(at=4.0, step="a[x]", phase=ev.CheckPhase.BEFORE, verdict=ev.Verdict.PROCEED),
    )
    for _ in range(2):
        restore_journal(tmp_path, RUN, {sha256(of): resolved_json(of)}, reported(*history), instead="")
        assert read_record(tmp_path, RUN).events == history
