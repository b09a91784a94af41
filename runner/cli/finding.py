"""Which run on a server is meant, and what is said when it is not there: its record may be here."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import RecordError, UsageError

if TYPE_CHECKING:
    from runner.engine.activity import Activity, LiveRun


def find_live_run(activity: Activity, wanted: str, journal: Path, where: str) -> LiveRun:
    """Return the run on the server that is meant by an id or its beginning; UsageError, with what to do, if none is.

    `where` is what a command needs behind it to reach the server.
    """
    from runner.engine.activity import ON_A_STANDBY, find_run

    if activity.standby:
        return find_run(activity.runs, wanted, otherwise=ON_A_STANDBY)
    try:
        return find_run(activity.runs, wanted)
    except UsageError as error:
        if any(run.run.startswith(wanted) for run in activity.runs):
            raise
        words = [_record_words(journal, wanted, where), error.hint or ""]
        raise UsageError(error.message, hint=" ".join(word for word in words if word)) from error


def _record_words(journal: Path, wanted: str, where: str) -> str:
    """Say that its record is here, or that nobody can know because it may not be read; else nothing."""
    from runner.records.folder import DEFAULT_ROOT
    from runner.records.record import find_run

    try:
        run = find_run(journal, wanted)
    except RecordError as error:
        return f"{error.message} So --dsn must say where it is." if isinstance(error.__cause__, OSError) else ""
    more = "" if journal == DEFAULT_ROOT else f" --journal {shlex.quote(str(journal))}"
    named = shlex.quote(run) + more
    return (
        f"Its record is in {journal / run}: jobplan show {named} says how it was, and jobplan resume {named}{where}"
        " finishes what is left of it."
    )
