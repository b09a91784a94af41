"""What is known of a trial when it is over, from three sides: what jobplan said, what is in the database, who was seen.

Reading the database needs a connection and nothing of jobplan: the judge must not believe what it judges.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from tests.chaos import work
from tests.chaos.plans import ChaosPlan, ChaosStep, witness_name
from tests.chaos.work import COUNTED, QUEUE, Place, Work, last_part

#: An event as jobplan writes it, read from JSON.
Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row that a step left: when it was written and when its transaction committed, in seconds since the epoch."""

    key: str
    part: int
    txid: str
    at: float
    committed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What the steps of a run have left behind. `done`: the catalogs say so, for steps that leave no rows."""

    rows: tuple[Row, ...] = ()
    done: frozenset[str] = frozenset()
    #: How often each number was moved out of a queue, by step.
    moved: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def of(self, key: str) -> list[Row]:
        """Return the rows of a step or an instance."""
        return [row for row in self.rows if row.key == key]

    def times(self, step: ChaosStep, key: str) -> int:
        """Return how often the effect of a step or an instance that leaves rows is there as a whole."""
        return sum(row.part == last_part(step.work) for row in self.of(key))

    def is_there(self, step: ChaosStep, key: str, *, known: int = 0) -> bool:
        """Say whether a step's or an instance's effect is there as a whole, beside those `known`: `finally` repeats."""
        if step.work in COUNTED:
            return self.times(step, key) > known
        return 0 not in self.moved[step.id] if step.work is Work.BATCHES else key in self.done


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One command of a trial and how it ended. `code` is None if it had to be killed because it never ended.

    `faults` are those that struck while it ran; `alive` are the keys whose workers lived when it had ended; `hidden`
    are workers that lived and that `jobplan status` did not name.
    """

    command: str
    code: int | None
    stderr: str = ""
    faults: tuple[str, ...] = ()
    alive: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Whose workers were seen at the same time, as keys; `seen` is in how many looks in a row it was so."""

    workers: tuple[str, ...]
    seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the judge is given.

    `events` are the journal's, through all phases; `elsewhere` those of journals on machines that the run has left;
    `reported` those of the reports.
    """

    plan: ChaosPlan
    events: Sequence[Event]
    phases: Sequence[Phase]
    effects: Effects
    elsewhere: Sequence[Sequence[Event]] = ()
    reported: Sequence[Event] = ()
    samples: Sequence[Sample] = ()
    ledger: bool = False
    #: What the run has left on another cluster to which its connection string leads too.
    astray: Effects = field(default_factory=Effects)
    #: How many workers of the extension the server had, and in how many looks in a row; and how many it may have while
    #: every run on it keeps the same reserve.
    taken: Sequence[tuple[int, int]] = ()
    most: int | None = None

    @property
    def faults(self) -> frozenset[str]:
        """Every kind of fault that struck."""
        return frozenset(fault for phase in self.phases for fault in phase.faults)


_ROWS = """
SELECT step, item, part, txid::text, extract(epoch FROM at)::float8,
       extract(epoch FROM pg_xact_commit_timestamp(txid::xid))::float8
FROM {schema}.witness WHERE run = %s ORDER BY at
"""


def item_keys(events: Iterable[Event]) -> Mapping[tuple[str, str], str]:
    """Return the keys that a run has given to colliding items, by the step and what its rows call the item."""
    keys: dict[tuple[str, str], str] = {}
    for event in events:
        expansions = [event] if event["event"] == "step_expanded" else event.get("expansions", ())
        for expansion in expansions:
            for item in expansion.get("items", ()):
                values = {name.partition(".")[2]: value for name, value in item["values"].items()}
                if "who" in values:
                    keys[expansion["step"], witness_name(values)] = item["key"]
    return keys


#: How the key of a chunk ends: how many other items it has.
_OTHERS = re.compile(r"\+\d+(?=\]$)")


def item_key(key: str) -> str:
    """Return the key of the first item of a chunk; all items of a chunk share its transaction."""
    return _OTHERS.sub("", key)


def by_items(events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events with those of a chunk as events of each of its items, until it is split."""
    parts: dict[str, list[str]] = {}
    for event in events:
        name = event["event"]
        for expansion in [event] if name == "step_expanded" else event.get("expansions", ()):
            for item in expansion.get("items", ()):
                if "items" in item and (name == "step_expanded" or item["key"] not in parts):
                    parts[item["key"]] = [one["key"] for one in item["items"]]  # also one that was split, in `finally`
        if name == "step_split":
            parts[event["step"]] = []
        elif name == "run_resumed":
            found = event.get("settled", ())
            settled = [_of_item(one, key) for one in found for key in parts.get(one["step"], [one["step"]])]
            yield {**event, "settled": settled}
        elif name == "run_finished":
            steps = {key: state for step, state in event["steps"].items() for key in parts.get(step, [step])}
            yield {**event, "steps": steps}
        elif "step" in event:
            yield from (_of_item(event, key) for key in parts.get(event["step"], [event["step"]]))
        else:
            yield event


def _of_item(event: Mapping[str, Any], item: str) -> Event:
    """Return an event of a chunk as one of its item.

    Where `finally` runs again for a list in another order, the item is in another chunk, whose attempts count anew:
    they get numbers of their own.
    """
    chunk = event["step"]
    if item == chunk or "attempt" not in event:
        return {**event, "step": item}
    return {**event, "step": item, "attempt": event["attempt"] + 1000 * (1 + zlib.crc32(chunk.encode()) % 1000)}


def read_effects(
    connection: psycopg.Connection[Any], plan: ChaosPlan, run_id: str, keys: Mapping[tuple[str, str], str]
) -> Effects:
    """Read what the run has left behind. `keys` are those of `item_keys`."""
    query = sql.SQL(_ROWS).format(schema=sql.Identifier(plan.schema))
    rows = connection.execute(query, (run_id,)).fetchall()
    batches = {step.id for step in plan.steps if step.work is Work.BATCHES}
    kept = [
        Row(
            key=keys.get((step, item)) or plan.step_of(step).witnessed(item),
            part=part,
            txid=txid,
            at=at,
            committed=committed or at,
        )
        for step, item, part, txid, at, committed in rows
        if step not in batches
    ]
    moved = {
        identity: tuple(
            sum(step == identity and item == str(number) for step, item, *_ in rows) for number in range(1, QUEUE + 1)
        )
        for identity in batches
    }
    done = {step.keys[0] for step in plan.steps if _in_catalogs(step) and _is_done(connection, plan, step)}
    return Effects(rows=tuple(kept), done=frozenset(done), moved=moved)


def _in_catalogs(step: ChaosStep) -> bool:
    return step.work in (Work.VACUUM, Work.INDEX, Work.REINDEX)


def _is_done(connection: psycopg.Connection[Any], plan: ChaosPlan, step: ChaosStep) -> bool:
    query = work.verification(step.work, Place(schema=plan.schema, step=step.id))
    row = connection.execute(query.encode()).fetchone()
    return row is not None and bool(row[0])
