"""What the ledger knows of a plan's earlier runs, on whatever machine they ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from runner.engine.past import PastRun
from runner.gateway.ledger_text import read
from runner.gateway.replies import Reply
from runner.gateway.session import Statement

#: Runs that are told of: the latest ones.
MOST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PastWanted:
    """Whose earlier runs somebody wants to know, and who is told."""

    plan: str
    tell: Callable[[Sequence[PastRun]], None]


class Together(Protocol):
    """A session that can be asked. ServerLostError if it breaks."""

    async def run_together(self, *statements: Statement) -> list[Reply]:
        """Run named statements as one transaction."""
        ...

    async def run(self, *statements: Statement) -> list[Reply]:
        """Run named statements, one reply for each."""
        ...


async def read_past(session: Together, plan: str) -> tuple[PastRun, ...]:
    """Return the last finished runs of a plan, the oldest first; none if the ledger does not answer within a second."""
    *_, reply, _ = replies = await session.run_together(
        ("begin", ()), ("ledger_hurry", ()), ("ledger_past", (plan, str(MOST))), ("commit", ())
    )
    if any(one.error is not None for one in replies):
        await session.run(("rollback", ()))
        return ()
    starts: dict[str, float] = {}
    steps: dict[str, dict[str, tuple[float, str]]] = {}
    for run, started_at, step, seconds, state in reply.rows:
        starts[run or ""] = float(started_at or 0.0)
        steps.setdefault(run or "", {})[read(step or "")] = (float(seconds or 0.0), state or "")
    return tuple(PastRun(run=run, started_at=at, steps=steps[run]) for run, at in starts.items())
