"""Commands that are offered for copying: whatever a server's names hold, a shell takes them for one word."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.cli.options import written_out
from runner.engine.events import Worker
from runner.engine.server_activity import Activity, LiveRun, LiveWorker
from runner.reports.attach_report import EndedWorker, attach_lines
from runner.reports.cancel_report import Cancelled, cancel_lines
from runner.reports.status_report import RecordSummary, status_lines

#: What any role can put into the name of its session, `jobplan:<this>:step`.
HOSTILE = ["`id`", "$(id)", "a; id", "a' ; id; '", 'a"; id; "', "a b", "a|id>c", "a&&id", "!id"]


def worker(run: str) -> LiveWorker:
    who = Worker(pid=7, backend_start="2026-01-01T00:00:00.000000Z", application_name=f"jobplan:{run}:step")
    return LiveWorker(worker=who, run=run, database="d", user="u")


def said(run: str) -> Iterator[str]:
    """Yield every line that offers a command on this run."""
    live = LiveRun(run=run, database="d", workers=(worker(run),))
    yield from status_lines(Activity(at=0.0, version="18", database="d", user="u", sees_all=True, runs=(live,)))
    for answered, asked, alive in ((False, (), True), (True, ((worker(run), None),), False)):
        yield from cancel_lines(
            Cancelled(
                run=live,
                by="u",
                at=0.0,
                asked=asked,
                left=(worker(run),),
                runner_alive=alive,
                refused=None,
                user="u",
                leftovers=(),
                answered=answered,
            )
        )
    record = RecordSummary(plan="p", steps="", where="w", counts={"running": 1})
    yield from attach_lines(live, [EndedWorker(worker=worker(run), seconds=1.0, at_deadline=False)], (), record)
    yield written_out("resume", run, journal=Path("j"), dsn="")
    yield written_out("attach", run)
    yield written_out("cancel", run, more=["--detached"])


@pytest.mark.parametrize("run", HOSTILE)
def test_a_name_of_the_server_is_one_word_for_a_shell(run: str) -> None:
    offers = [line for line in said(run) if "jobplan " in line.replace("jobplan:", "")]
    offers = [line for line in offers if any(f"jobplan {word} " in line for word in _COMMANDS)]
    assert len(offers) >= 6
    for line in offers:
        for word in _COMMANDS:
            for rest in line.split(f"jobplan {word} ")[1:]:
                assert rest.startswith(shlex.quote(run)), line


_COMMANDS = ("attach", "cancel", "status", "resume", "show")
