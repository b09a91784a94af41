"""What the ledger has of runs that live on a server, for who looks at them from outside and may read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.gateway.ledger_found import VERSION
from runner.gateway.ledger_text import read, read_event
from runner.gateway.ledger_trust import distrust_statement, why_ignored
from runner.gateway.past import Together


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
