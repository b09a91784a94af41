"""What happens to a fleet run, as its journal has it. Times are seconds since the epoch."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from runner.clock import rfc3339
from runner.structs import Recorded, RecordedEvent, field, to_values


class MemberState(enum.StrEnum):
    """Where a member of the fleet run stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    #: The plan's `requires` is not met on this target: nothing was started there.
    UNMET = "unmet"
    #: The plan's window closed before everything was done.
    UNFINISHED = "unfinished"
    FAILED = "failed"
    #: Its server could not be reached, so nothing was started there. It counts as failed.
    UNREACHABLE = "unreachable"
    #: Another runner has the run or its concurrency group, or the server has no connection left.
    BUSY = "busy"
    UNKNOWN = "unknown"
    INTERRUPTED = "interrupted"


#: States that count as failures for the limits of waves and of the rollout.
FAILURES = frozenset({MemberState.FAILED, MemberState.UNREACHABLE, MemberState.BUSY})
#: States after which a resume has nothing to do.
DONE = frozenset({MemberState.SUCCEEDED})
ACTIVE = frozenset({MemberState.PENDING, MemberState.RUNNING})


class FleetEvent(RecordedEvent, frozen=True, kw_only=True):
    """Base of all events."""


class FleetStarted(FleetEvent, frozen=True, kw_only=True):
    """The fleet run begins; its targets are in `targets.json`. `sources` is the SHA-256 of the plan's files."""

    version: int = 1
    jobplan: str
    plan: str
    file: str
    sources: str
    targets: int
    host: str
    os_pid: int
    where: tuple[str, ...] = ()
    #: The only waves that the fleet run has; empty: all.
    waves: tuple[str, ...] = ()
    #: The values of all parameters that do not come from the targets file.
    params: Mapping[str, str] = field(default_factory=dict)
    #: Only in records of earlier versions: there, `params` does not contain the values of this file.
    params_file: str | None = None
    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    ledger: str | None = None
    #: Whether a run needs a ledger to begin, also when the fleet run is resumed.
    require_ledger: bool = False


class FleetResumed(FleetEvent, frozen=True, kw_only=True):
    """Another process continues the fleet run: what did not succeed is tried again."""

    jobplan: str
    host: str
    os_pid: int
    where: tuple[str, ...] = ()


class WaveStarted(FleetEvent, frozen=True, kw_only=True):
    """A wave begins with so many members."""

    wave: str
    members: int


class WaveFinished(FleetEvent, frozen=True, kw_only=True):
    """Every member of a wave has ended."""

    wave: str
    failed: int


class MemberStarted(FleetEvent, frozen=True, kw_only=True):
    """The run of a member begins or is resumed: this is recorded before anything is sent to its server."""

    target: str
    run: str
    wave: str


class Failure(Recorded, frozen=True, kw_only=True):
    """Why a member failed: a step, if one did, the SQLSTATE and the message."""

    message: str
    step: str | None = None
    sqlstate: str | None = None
    place: str | None = None


class MemberFinished(FleetEvent, frozen=True, kw_only=True):
    """The run of a member has ended. `seconds` is how long this process worked on it."""

    target: str
    state: MemberState
    exit_code: int
    seconds: float
    failures: tuple[Failure, ...] = ()
    #: Steps with an open question, for `--mark TARGET:STEP=…`.
    questions: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    #: The last state of each step of the plan; instances count as their step.
    steps: Mapping[str, str] = field(default_factory=dict)


class FleetStopping(FleetEvent, frozen=True, kw_only=True):
    """No further member is started. `signal` is set if a signal is the reason."""

    reason: str
    signal: int | None = None
    cancel: bool = False


class FleetFinished(FleetEvent, frozen=True, kw_only=True):
    """The fleet run has ended, or this part of it."""

    exit_code: int
    counts: Mapping[str, int] = field(default_factory=dict)


def event_values(event: FleetEvent, fleet: str) -> dict[str, Any]:
    """Return an event of a fleet run as JSON values, as its journal has it."""
    values = to_values(event)
    return {"event": event.name, "at": rfc3339(values.pop("at")), "fleet": fleet, **values}


EVENTS: Mapping[str, type[FleetEvent]] = {
    kind.name: kind
    for kind in (
        FleetStarted,
        FleetResumed,
        WaveStarted,
        WaveFinished,
        MemberStarted,
        MemberFinished,
        FleetStopping,
        FleetFinished,
    )
}
