"""Whether the record that a run is to be taken up with is all there is: a copy of a journal is not, once it is old.

The ledger, where there is one, knows of every worker that was asked for, whoever did it, and of every takeover.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from runner.clock import rfc3339
from runner.engine.events import AttemptLaunching, Event, RunResumed
from runner.errors import RecordError
from runner.gateway.base import Chronicle

#: Attempts that are named.
_NAMED = 4


def chronicle_of(events: Sequence[Event]) -> Chronicle:
    """Return what a journal knows."""
    return Chronicle(
        launched=frozenset((event.step, event.attempt) for event in events if isinstance(event, AttemptLaunching)),
        takeovers={rfc3339(event.at): event.host for event in events if isinstance(event, RunResumed)},
    )


def check_chronicle(run_id: str, journal: Chronicle, ledger: Chronicle) -> None:
    """See to it that the journal knows all that the ledger does. RecordError, with what to do, if it is an old copy."""
    launched = sorted(ledger.launched - journal.launched)
    takeovers = [(at, host) for at, host in ledger.takeovers.items() if at not in journal.takeovers]
    if not launched and not takeovers:
        return
    since = [f"it was taken up on {host} at {at[:19]}Z" for at, host in takeovers[:1]]
    if launched:
        named = ", ".join(f"{step} ({attempt})" for step, attempt in launched[:_NAMED])
        since.append(f"workers were launched: {named}{' and others' if len(launched) > _NAMED else ''}")
    raise RecordError(
        f"this journal of run {run_id} is not its latest: the ledger knows that {' and '.join(since)}, and the journal "
        "does not. Nothing was started.",
        hint=f"Resume it where it went on, or with what the ledger has: jobplan resume {shlex.quote(run_id)} "
        "--from-ledger --journal NEW_FOLDER.",
    )
