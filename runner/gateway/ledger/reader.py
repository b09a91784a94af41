"""What the ledger has of runs: of this run's previous runners, of previous runs of the plan, of runs on the server.

A runner that was killed has written more to its journal than to the ledger, and a ledger may have been out of reach
for a while: then a journal has what the ledger lacks. Or another runner has resumed the run meanwhile: then the ledger
has what this runner lacks.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from runner.engine.ports import PreviousRun
from runner.gateway.ledger.storage import VERSION, distrust_statement, read, read_event, why_ignored
from runner.gateway.session import Reply, Row, Statement

#: What tells an event of a run from others: when it happened (RFC 3339), its name, its step and its attempt. Several
#: notices of one moment are told apart by their order only.
EventKey = tuple[str, str, str | None, int | None]
#: An event's number in the ledger, and what it is.
Known = tuple[int, EventKey]

_TAKEN_UP = "run_resumed"


class EarlierRecord:
    """See the module's docstring. `known` is what the ledger has, in order."""

    def __init__(self, known: Sequence[Known] = ()) -> None:
        self._known = known
        #: When the run was taken up, as far as this runner has heard, its own doing included.
        self._takeovers: set[str | None] = set()
        self._hear(key for _, key in known)

    def missing(self, told: Sequence[EventKey]) -> Iterator[tuple[int, int]]:
        """Yield what a journal has `told` and the ledger lacks, as `missing`; once, because it is no longer missing."""
        self._hear(told)
        known, self._known = self._known, ()
        return missing(known, told)

    def goes_on(self, event: str) -> None:
        """Hear of an event of this runner's own, as JSON."""
        data = json.loads(event)
        if data["event"] == _TAKEN_UP:
            self._takeovers.add(data["at"])

    def taken_up_since(self, takeovers: Iterable[Row]) -> str | None:
        """Say where and when the run was taken up of which nobody has told: `takeovers` has moment and host of each."""
        later = [(at, host) for at, host in takeovers if at not in self._takeovers]
        return f"on {later[-1][1]}, at {later[-1][0]}" if later else None

    def _hear(self, told: Iterable[EventKey]) -> None:
        self._takeovers.update(at for at, event, _, _ in told if event == _TAKEN_UP)


def missing(known: Sequence[Known], told: Sequence[EventKey]) -> Iterator[tuple[int, int]]:
    """Yield, of each event in `told` that is not `known`, its place there and a number that keeps the order.

    Both are in order. An event that came in between, where no numbers are free, is left out; so is what came last, if
    the ledger has other events after the last that both have: then it is not known which of them came first.
    """
    places: dict[EventKey, deque[int]] = defaultdict(deque)
    for seq, key in known:
        places[key].append(seq)
    before = 0
    waiting: list[int] = []
    for place, key in enumerate(told):
        if not places[key]:
            waiting.append(place)
            continue
        seq = places[key].popleft()
        if len(waiting) < seq - before:
            yield from zip(waiting, range(before + 1, seq), strict=False)
        waiting.clear()
        before = seq
    if before == (known[-1][0] if known else 0):
        yield from zip(waiting, range(before + 1, before + 1 + len(waiting)), strict=True)


#: Runs that are told of: the latest ones.
MOST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PastWanted:
    """Whose earlier runs somebody wants to know, and who is told."""

    plan: str
    tell: Callable[[Sequence[PreviousRun]], None]


class Together(Protocol):
    """A session that can be asked. ServerLostError if it breaks."""

    async def run_together(self, *statements: Statement) -> list[Reply]:
        """Run named statements as one transaction."""
        ...

    async def run(self, *statements: Statement) -> list[Reply]:
        """Run named statements, one reply for each."""
        ...


async def read_past(session: Together, plan: str) -> tuple[PreviousRun, ...]:
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
    return tuple(PreviousRun(run=run, started_at=at, steps=steps[run]) for run, at in starts.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A run as the ledger has it: its plans as JSON by their SHA-256, its events in order, and who has committed."""

    plans: Mapping[str, str]
    events: tuple[Mapping[str, Any], ...]
    commits: frozenset[tuple[str, int]]


async def read_recorded(
    session: Together,
    schema: str,
    runs: Iterable[str],
    *,
    trusted_roles: Sequence[str] = (),
    ignored: Callable[[str], None] = lambda _: None,
) -> dict[str, Recorded]:
    """Return what there is of these runs; nothing if there is no ledger that may be read, or it is slow to answer.

    A ledger whose owners are not trusted is not read; `ignored` is given the reason.
    """
    distrust, readable = await session.run(distrust_statement(schema, trusted_roles), ("ledger_readable", (schema,)))
    why = why_ignored(distrust, schema)
    if why is not None:
        ignored(why)
        return {}
    if readable.error is not None or readable.rows != (("t",),):
        return {}
    (version,) = await session.run(("ledger_version", ()))
    if version.error is not None or version.rows != ((str(VERSION),),):
        return {}
    found = {}
    for run in runs:
        (told_by,) = await session.run(("ledger_writers", (run,)))
        writers = _writers(told_by.rows)
        if told_by.error is not None or not writers:
            continue
        asked = tuple(
            (name, (run, json.dumps(writers))) for name in ("ledger_plans", "ledger_history", "ledger_commits")
        )
        replies = await session.run_together(("begin", ()), ("ledger_hurry", ()), *asked, ("commit", ()))
        if any(reply.error is not None for reply in replies):
            await session.run(("rollback", ()))
            continue
        plans, events, commits = (reply.rows for reply in replies[2:5])
        if events:
            found[run] = Recorded(
                plans={sha256 or "": text or "" for sha256, text in plans},
                events=tuple(read_event(json.loads(event or "{}")) for (event,) in events),
                commits=frozenset((read(step or ""), int(attempt or 0)) for step, attempt in commits),
            )
    return found


def _writers(rows: Iterable[Sequence[str | None]]) -> list[str]:
    """Return the roles whose events of a run are shown: the trusted ones, else the only one that has written any.

    Here a record is shown only; nothing is executed by it.
    """
    believed = {row[0] or "": row[1] == "t" for row in rows}
    trusted = [writer for writer, is_trusted in believed.items() if is_trusted]
    return trusted or (list(believed) if len(believed) == 1 else [])
