"""Orders: what the scheduler wants done. The loop performs them; nothing here does anything."""

from __future__ import annotations

from dataclasses import dataclass

from runner.engine.events import CancelReason, CheckPhase


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Base of all commands; they concern one attempt of one step."""

    step: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch(Command):
    """Ask the server for a worker. `timeout` is seconds, None for no limit; it already respects run_timeout."""

    timeout: float | None
    overtook: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Command):
    """Ask the worker to stop."""

    reason: CancelReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Detach(Command):
    """Let go of the worker: it keeps its locks and its timeout, and commits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate(Command):
    """Evaluate the step's conditions of this phase on a read-only session.

    Before a launch the step holds its slots meanwhile; in the other phases it takes none.
    """

    phase: CheckPhase
    overtook: tuple[str, ...] = ()
