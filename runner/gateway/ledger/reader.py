"""The ledger's records: of this run's previous runners, of previous runs of the plan, of runs on the server.

A killed runner has written more to its journal than to the ledger, and a ledger may have been unreachable for a while:
then the ledger lacks events of the journal. Or another runner has resumed the run meanwhile: then this runner's journal
lacks events of the ledger.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from runner.engine.previous_runs import MOST_PREVIOUS_RUNS, PreviousRun
from runner.gateway.ledger.storage import distrust_statement, read, read_event, unfit, why_ignored
from runner.gateway.replies import Row, first_error
from runner.gateway.session import Session
from runner.structs import Struct

#: Distinguishes the events of a run: time (RFC 3339), name, step and attempt. Several notices with the same time are
#: distinguished by their order only.
EventKey = tuple[str, str, str | None, int | None]
#: An event's number in the ledger, and its key.
Known = tuple[int, EventKey]

_RUN_RESUMED = "run_resumed"


class PreviousRecord:
    """See the module's docstring. `known` are the events in the ledger, in order."""

    def __init__(self, known: Sequence[Known] = ()) -> None:
        self._known = known
        #: The times of the known takeovers, including this runner's own.
        self._takeovers: set[str | None] = set()
        self._record(key for _, key in known)

    def missing(self, journal: Sequence[EventKey]) -> Iterator[tuple[int, int]]:
        """Yield the journal's events that the ledger lacks, as `missing`; once, because they are written afterwards."""
        self._record(journal)
        known, self._known = self._known, ()
        return missing(known, journal)

    def add_own(self, event: str) -> None:
        """Record an event of this runner, as JSON."""
        data = json.loads(event)
        if data["event"] == _RUN_RESUMED:
            self._takeovers.add(data["at"])

    def taken_over_since(self, takeovers: Iterable[Row]) -> str | None:
        """Return where and when the run was taken over by an unknown runner: `takeovers` has time and host of each."""
        later = [(at, host) for at, host in takeovers if at not in self._takeovers]
        return f"on {later[-1][1]}, at {later[-1][0]}" if later else None

    def _record(self, journal: Iterable[EventKey]) -> None:
        self._takeovers.update(at for at, event, _, _ in journal if event == _RUN_RESUMED)


def missing(known: Sequence[Known], journal: Sequence[EventKey]) -> Iterator[tuple[int, int]]:
    """Yield, for each event of the journal that the ledger lacks, its index there and a number that keeps the order.

    Both are in order. An event between two others without free numbers is left out; so are the last events, if the
    ledger has others after the last common one: then their order is unknown.
    """
    places: dict[EventKey, deque[int]] = defaultdict(deque)
    for seq, key in known:
        places[key].append(seq)
    before = 0
    waiting: list[int] = []
    for place, key in enumerate(journal):
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


async def read_previous_runs(session: Session, plan: str) -> tuple[PreviousRun, ...]:
    """Return the last finished runs of a plan, the oldest first; none if the ledger does not answer within a second."""
    asked = ("ledger_previous_runs", (plan, str(MOST_PREVIOUS_RUNS)))
    replies = await session.transact(("begin", ()), ("ledger_short_limits", ()), asked, ("commit", ()))
    if first_error(replies) is not None:
        return ()
    starts: dict[str, float] = {}
    steps: dict[str, dict[str, tuple[float, str]]] = {}
    for run, started_at, step, seconds, state in replies[2].rows:
        starts[run or ""] = float(started_at or 0.0)
        steps.setdefault(run or "", {})[read(step or "")] = (float(seconds or 0.0), state or "")
    return tuple(PreviousRun(run=run, started_at=at, steps=steps[run]) for run, at in starts.items())


class Access(Struct, frozen=True, kw_only=True):
    """Whether a ledger can be read: it is `ignored` because of its owners, or has a `problem` although it may be used.

    One that is not there, or not for this role to read, has neither.
    """

    readable: bool = False
    ignored: str | None = None
    problem: str | None = None


async def access(session: Session, schema: str, trusted_roles: Sequence[str]) -> Access:
    """Find out whether the ledger in a schema can be read; nothing in it is read before its owners are trusted."""
    distrust, readable = await session.run(distrust_statement(schema, trusted_roles), ("ledger_readable", (schema,)))
    ignored = why_ignored(distrust, schema)
    if ignored is not None or readable.error is not None or readable.rows != (("t",),):
        return Access(ignored=ignored)
    (version,) = await session.run(("ledger_version", ()))
    problem = unfit(version, schema)
    return Access(readable=problem is None, problem=problem)


class LedgerRecord(Struct, frozen=True, kw_only=True):
    """The ledger's record of a run: its plans as JSON by their SHA-256, its events in order, its committed attempts."""

    plans: Mapping[str, str]
    events: tuple[Mapping[str, Any], ...]
    commits: frozenset[tuple[str, int]]


async def read_recorded(
    session: Session,
    schema: str,
    runs: Iterable[str],
    trusted_roles: Sequence[str],
    ignored: Callable[[str], None],
) -> dict[str, LedgerRecord]:
    """Return the records of these runs; empty if there is no readable ledger, or if it is slow.

    A ledger with untrusted owners is not read; `ignored` receives the reason.
    """
    looked = await access(session, schema, trusted_roles)
    if looked.ignored is not None:
        ignored(looked.ignored)
    found: dict[str, LedgerRecord] = {}
    if not looked.readable:
        return found
    for run in runs:
        (writer_rows,) = await session.run(("ledger_writers", (run,)))
        writers = _writers(writer_rows.rows)
        if writer_rows.error is not None or not writers:
            continue
        asked = tuple(
            (name, (run, json.dumps(writers))) for name in ("ledger_plans", "ledger_history", "ledger_commits")
        )
        replies = await session.transact(("begin", ()), ("ledger_short_limits", ()), *asked, ("commit", ()))
        if first_error(replies) is not None:
            continue
        plans, events, commits = (reply.rows for reply in replies[2:5])
        if events:
            found[run] = LedgerRecord(
                plans={sha256 or "": text or "" for sha256, text in plans},
                events=tuple(read_event(json.loads(event or "{}")) for (event,) in events),
                commits=frozenset((read(step or ""), int(attempt or 0)) for step, attempt in commits),
            )
    return found


def _writers(rows: Iterable[Sequence[str | None]]) -> list[str]:
    """Return the roles whose events of a run are shown: the trusted ones, or a single untrusted one.

    This is for display only; nothing in these records is executed.
    """
    writers = {row[0] or "": row[1] == "t" for row in rows}
    trusted = [writer for writer, is_trusted in writers.items() if is_trusted]
    return trusted or (list(writers) if len(writers) == 1 else [])
