"""Random plans of steps that leave witnesses, as files a person could have written, and what the judge has to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

import yaml

from runner.identity import written_key
from tests.chaos import work
from tests.chaos.work import Place, Work

POOLS = ("io", "cpu")
LOCKS = ("orders", "lines")
ITEMS = ("a", "b", "c", "d")
_LONG = "orders_" * 12
_CUT = _LONG[:59] + "\N{HORIZONTAL ELLIPSIS}"
#: Items whose keys differ only by a number: the same text after joining, and the same beginning of long names. The keys
#: are those of this order.
PAIRS: Mapping[str, Mapping[str, str]] = {
    "a,b,c,d": {"who": "a", "what": "b,c,d"},
    "a,b,c,d#2": {"who": "a,b", "what": "c,d"},
    _CUT: {"who": f"{_LONG}1", "what": "x"},
    f"{_CUT}#2": {"who": f"{_LONG}2", "what": "x"},
}

#: How often each kind of work is drawn.
_WEIGHTS = {
    Work.INSERT: 8,
    Work.PARTS: 6,
    Work.BLOCK: 3,
    Work.CALL: 3,
    Work.FLOOD: 2,
    Work.BATCHES: 2,
    Work.FLAKY: 2,
    Work.FAILS: 1,
    Work.REFUSED: 1,
    Work.SLOW: 1,
    Work.VACUUM: 1,
    Work.INDEX: 2,
    Work.REINDEX: 1,
}
#: Works that may step aside for other sessions: a rollback leaves nothing of them.
_YIELDING = (Work.INSERT, Work.PARTS, Work.BLOCK, Work.FLOOD)
#: Works that can be done for each of several items, and those that a detach step may do.
_EACH = (Work.INSERT, Work.PARTS, Work.CALL, Work.FAILS)
#: Works that several items can share, as a chunk of one worker; FLAKY then fails once and is repeated item by item.
_SHARED = (Work.INSERT, Work.PARTS, Work.FAILS, Work.FLAKY)
_DETACHED = (Work.INSERT, Work.PARTS, Work.BLOCK, Work.CALL, Work.FLOOD, Work.FAILS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosStep:
    """A step as the judge knows it. `slots`, `pools`, `exclusive` and `max_parallel` are what it may not exceed.

    `final`: it is one of `finally`, which has slots of its own. `colliding`: its items are those of PAIRS. A step of a
    chain has the id of its group and its own as `chain`; `id` is then what its rows call it.
    """

    id: str
    work: Work
    items: tuple[str, ...] = ()
    colliding: bool = False
    idempotent: bool = False
    verify: bool = False
    detach: bool = False
    skipped: bool = False
    #: The hold of the plan, if it has one, concerns the step.
    held: bool = False
    final: bool = False
    needs: Mapping[str, str] = field(default_factory=dict)
    slots: int = 1
    pools: Mapping[str, int] = field(default_factory=dict)
    exclusive: frozenset[str] = frozenset()
    max_parallel: int | None = None
    chunk: int | None = None
    chain: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """The id in the plan's file."""
        return self.id if self.chain is None else self.chain[1]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of what runs: the step itself, or its instances."""
        return tuple(map(self.key_of, self.items or ("",)))

    def key_of(self, item: str) -> str:
        """Return the key of an item, or of the step if it has none."""
        owner, inner = (self.id, "") if self.chain is None else (self.chain[0], f".{self.chain[1]}")
        return f"{owner}[{item}]{inner}" if self.items else f"{owner}{inner}"

    def witnessed(self, item: str) -> str:
        """Return the key of an item as its rows name it, if the items have the order of the plan as it was drawn."""
        names = {witness_name(pair): name for name, pair in PAIRS.items()} if self.colliding else {}
        return self.key_of(names.get(item, item))


def witness_name(pair: Mapping[str, str]) -> str:
    """Return how the rows of a step name one of PAIRS."""
    return f"{pair['who']}/{pair['what']}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosPlan:
    """A plan, its file's text, the SQL that prepares its schema, and the limits that it sets."""

    schema: str
    text: str
    setup: str
    steps: tuple[ChaosStep, ...]
    slots: int
    pools: Mapping[str, int]
    group: bool
    reserve: int = 0
    #: The names of its holds.
    holds: tuple[str, ...] = ()
    #: Whether it has a window, which `in_window` writes into the file before each command; the steps that ignore it.
    window: bool = False
    free: frozenset[str] = frozenset()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of everything that runs."""
        return tuple(key for step in self.steps for key in step.keys)

    def step_of(self, key: str) -> ChaosStep:
        """Return the step that a key, or an id of rows, belongs to. KeyError if the plan has none such."""
        identity = written_key(key)
        for step in self.steps:
            if identity == (step.id if step.chain is None else ".".join(step.chain)) or key == step.id:
                return step
        raise KeyError(key)


def random_plan(random: Random, schema: str, *, reserve: int = 0) -> ChaosPlan:
    """Draw a plan that works in a schema of its own, and that leaves so many of the server's workers free."""
    slots = random.randint(1, 4)
    pools = {name: random.randint(1, 2) for name in POOLS}
    steps: list[ChaosStep] = []
    documents: list[dict[str, Any]] = []
    for number in range(random.randint(3, 12)):
        draw = _draw_group if random.random() < 0.15 else _draw
        draw(random, schema, f"s{number}", steps, documents, slots=slots, pools=pools)
    holds = [_hold(random)] if random.random() < 0.35 else []
    steps, documents = _held(random, steps, documents) if holds else (steps, documents)
    last: list[ChaosStep] = []
    endings: list[dict[str, Any]] = []
    if random.random() < 0.3:
        _draw(random, schema, "last", last, endings, slots=slots, pools=pools, final=True)
    group = random.random() < 0.3
    document: dict[str, Any] = {
        "version": 1,
        "name": schema,
        "budget": {"slots": slots, "pools": pools, **({"reserve": reserve} if reserve else {})},
        "defaults": {"timeout": "20s", "lock_timeout": "5s", "on_finish": "wait"},
        **({"holds": holds} if holds else {}),
        **({"concurrency": {"group": schema, "on_conflict": "fail"}} if group else {}),
        **({"on_failure": random.choice(("drain", "cancel"))} if random.random() < 0.15 else {}),
        **({"run_timeout": "25s"} if random.random() < 0.1 else {}),
        "steps": documents,
        **({"finally": endings} if endings else {}),
    }
    all_steps = (*steps, *last)
    return ChaosPlan(
        schema=schema,
        text=yaml.safe_dump(document, sort_keys=False, width=110),
        setup=_setup(schema, all_steps),
        steps=all_steps,
        slots=slots,
        pools=pools,
        group=group,
        reserve=reserve,
        holds=tuple(hold["name"] for hold in holds),
    )


def _hold(random: Random) -> dict[str, Any]:
    """Draw a hold that flaps with the server's clock: on, or failing, for a part of every second or so."""
    moment = "extract(epoch FROM clock_timestamp())"
    condition = random.choice(
        (f"SELECT {moment} % 1.5 < 0.5", f"SELECT {moment} % 0.4 < 0.1", f"SELECT 1 / ({moment}::int8 % 3) < 0")
    )
    return {
        "name": "flaps",
        "while": condition,
        "every": random.choice(("50ms", "200ms")),
        "release_after": random.choice(("0s", "0s", "100ms")),
    }


def _held(
    random: Random, steps: Sequence[ChaosStep], documents: Sequence[dict[str, Any]]
) -> tuple[list[ChaosStep], list[dict[str, Any]]]:
    """Draw which steps the hold concerns: by default all, and so those of chains."""
    free = {document["id"] for document in documents if "steps" not in document and random.random() < 0.3}
    return (
        [replace(step, held=step.id not in free) for step in steps],
        [{**document, **({"holds": []} if document["id"] in free else {})} for document in documents],
    )


def windowed(plan: ChaosPlan, random: Random) -> ChaosPlan:
    """Return the plan with a window, and some steps that ignore it."""
    free = frozenset(step.id for step in plan.steps if not step.final and random.random() < 0.2)
    document = yaml.safe_load(plan.text)
    for step in document["steps"]:
        if step["id"] in free:
            step["window"] = "ignore"
    return replace(plan, text=yaml.safe_dump(document, sort_keys=False, width=110), window=True, free=free)


def in_window(text: str, random: Random, server_time: datetime, *, last: bool) -> str:
    """Return the plan's file with a window that opens soon, or that is open and closes while the run is active.

    One that opens soon stays open: a run that begins late would wait for the next day. So does the `last` one.
    """
    document = yaml.safe_load(text)
    soon = not last and random.random() < 0.3
    opens = server_time + timedelta(seconds=random.uniform(0.5, 3.0)) if soon else server_time - timedelta(hours=1)
    stays = soon or last
    closes = server_time + (timedelta(hours=1) if stays else timedelta(seconds=random.uniform(0.5, 6.0)))
    document["window"] = {
        "timezone": "UTC",
        "from": f"{opens:%H:%M:%S}",
        "to": f"{closes:%H:%M:%S}",
        "outside": "wait" if soon else "refuse",
        "at_end": random.choice(("drain", "cancel")),
        "fit": random.choice(("off", "off", "p95")),
    }
    return yaml.safe_dump(document, sort_keys=False, width=110)


def reordered(text: str) -> str:
    """Return the plan's file with the items of each step in another order, as an editor could leave it."""
    document = yaml.safe_load(text)
    for step in (*document["steps"], *document.get("finally", ())):
        if "for_each" in step:
            items = step["for_each"]["items"]
            step["for_each"]["items"] = [*items[1:], items[0]]
    return yaml.safe_dump(document, sort_keys=False, width=110)


def companion(name: str, reserve: int) -> str:
    """Return the file of a plan that does nothing but take workers, with the same reserve."""
    document = {
        "version": 1,
        "name": name,
        "budget": {"slots": 4, "reserve": reserve},
        "defaults": {"timeout": "20s", "on_finish": "wait"},
        "steps": [{"id": f"w{number}", "sql": "SELECT pg_sleep(0.15)", "idempotent": True} for number in range(12)],
    }
    return yaml.safe_dump(document, sort_keys=False)


def _setup(schema: str, steps: Sequence[ChaosStep]) -> str:
    preparation = work.PREPARATION.replace("{schema}", schema)
    return preparation + "\n".join(work.setup(step.work, Place(schema=schema, step=step.id)) for step in steps)


def _draw(
    random: Random,
    schema: str,
    key: str,
    before: list[ChaosStep],
    documents: list[dict[str, Any]],
    *,
    slots: int,
    pools: Mapping[str, int],
    final: bool = False,
) -> None:
    """Draw a step that may need some of those before it, and append it with its piece of the file."""
    detach = random.random() < 0.12
    drawn = random.choice(_DETACHED) if detach else _random_work(random)
    items = tuple(ITEMS[: random.randint(1, 4)]) if drawn in _EACH and random.random() < 0.3 else ()
    colliding = bool(items) and random.random() < 0.5
    if colliding:
        items = tuple(PAIRS)
    shared = drawn in _SHARED and not colliding and not detach
    chunk = random.choice((2, 3)) if shared and random.random() < 0.4 else None
    if chunk is not None:
        items = tuple(ITEMS[: random.randint(2, 4)])
    needable = [step for step in before if not step.detach and step.chain is None]
    needed = random.sample(needable, min(len(needable), random.choice((0, 0, 1, 1, 2))))
    groups = sorted({step.chain[0] for step in before if step.chain is not None})
    group = random.choice(groups) if groups and random.random() < 0.3 else None
    of_group = {step.id: "success" for step in before if step.chain is not None and step.chain[0] == group}
    step = ChaosStep(
        id=key,
        work=drawn,
        items=items,
        colliding=colliding,
        idempotent=random.random() < 0.35,
        verify=not detach and chunk is None and random.random() < 0.3,
        detach=detach,
        skipped=random.random() < 0.05,
        final=final,
        needs={other.id: random.choice(("success", "success", "done", "failure")) for other in needed} | of_group,
        slots=random.choice((1, 1, 1, random.randint(1, slots))),
        pools={name: random.randint(1, limit) for name, limit in pools.items() if random.random() < 0.2},
        exclusive=frozenset(name for name in LOCKS if random.random() < 0.15),
        max_parallel=random.choice((None, 1, 2)) if items else None,
        chunk=chunk,
    )
    before.append(step)
    inside = {other.id: step.needs[other.id] for other in needed}
    documents.append(_document(random, schema, step, inside | ({group: "success"} if group is not None else {})))


def _draw_group(
    random: Random,
    schema: str,
    key: str,
    before: list[ChaosStep],
    documents: list[dict[str, Any]],
    *,
    slots: int,
    pools: Mapping[str, int],
) -> None:
    """Draw a chain of steps, for several items or for none, and append it as `_draw` does."""
    items = tuple(ITEMS[: random.randint(2, 4)]) if random.random() < 0.7 else ()
    limit = random.choice((None, 1, 2)) if items else None
    owners = {step.id if step.chain is None else step.chain[0]: step for step in before if not step.detach}
    needed = random.sample(list(owners), min(len(owners), random.choice((0, 0, 1))))
    outside = {step.id: "success" for step in before if (step.id if step.chain is None else step.chain[0]) in needed}
    chain: list[ChaosStep] = []
    pieces: list[dict[str, Any]] = []
    for number in range(random.randint(2, 4)):
        drawn = random.choice(_EACH) if items else _random_work(random)
        others = random.sample(chain, min(len(chain), random.choice((0, 1, 1, 2))))
        step = ChaosStep(
            id=f"{key}_i{number}",
            chain=(key, f"i{number}"),
            work=drawn,
            items=items,
            idempotent=random.random() < 0.35,
            verify=random.random() < 0.2,
            skipped=random.random() < 0.05,
            needs={**outside, **{other.id: random.choice(("success", "success", "done")) for other in others}},
            slots=random.choice((1, 1, random.randint(1, slots))),
            pools={name: random.randint(1, most) for name, most in pools.items() if random.random() < 0.2},
            exclusive=frozenset(name for name in LOCKS if random.random() < 0.1),
            max_parallel=limit,
        )
        chain.append(step)
        names = {other.id: other.name for other in chain}
        inside = {names[other]: when for other, when in step.needs.items() if other in names}
        pieces.append(_document(random, schema, step, inside))
    before += chain
    document: dict[str, Any] = {"id": key, "steps": pieces}
    if needed:
        document["needs"] = needed
    if items:
        document["for_each"] = _for_each(chain[0])
    documents.append(document)


def _random_work(random: Random) -> Work:
    return random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]


def _document(random: Random, schema: str, step: ChaosStep, needs: Mapping[str, str]) -> dict[str, Any]:
    """Return a step's piece of the plan's file; `needs` has the ids as the file has them."""
    item = ":'t.who' || '/' || :'t.what'" if step.colliding else ":'t'"
    item = "item" if step.chunk else item
    place = Place(schema=schema, step=step.id, item=item if step.items else "''", listed=step.chunk is not None)
    seconds = random.uniform(0.2, 1.2) if step.detach else random.uniform(0.0, 0.3)
    text = work.sql(step.work, place, random, seconds)
    if step.work in work.RENAMES and random.random() < 0.25:
        text = f"{work.rename(random)}; {text}"
    document: dict[str, Any] = {
        "id": step.name,
        "sql": text,
        **({"needs": [{"step": other, "on": when} for other, when in needs.items()]} if needs else {}),
        **({"for_each": _for_each(step)} if step.items and step.chain is None else {}),
        **({"on_finish": "detach"} if step.detach else {}),
        **({"timeout": "400ms"} if step.work is Work.SLOW else {}),
        **({"idempotent": True} if step.idempotent else {}),
        **({"verify": work.verification(step.work, place)} if step.verify else {}),
        **({"if": "SELECT false"} if step.skipped else {}),
        **({"slots": step.slots} if step.slots > 1 else {}),
        **({"pools": dict(step.pools)} if step.pools else {}),
        **({"exclusive": sorted(step.exclusive)} if step.exclusive else {}),
    }
    if step.work is Work.BATCHES:
        document["repeat"] = {"until": "no_rows", "pause": "20ms", "max_iterations": 30}
        if random.random() < 0.5:
            document["sql"] = place.fill(work.MOVE_BY_KEY, batch=work.BATCH)
            document["repeat"]["carry"] = {"last_n": {"type": "integer", "start": 0}}
    if step.work in (Work.INDEX, Work.REINDEX):
        document["lock_timeout"] = "1m"  # they wait for other transactions, and that is no failure
    drops = step.work in (Work.INDEX, Work.REINDEX) and random.random() < 0.5
    if drops:
        document["leftovers"] = "drop"
    leaves_pieces = step.work in (Work.CALL, Work.INDEX, Work.REINDEX) and not step.idempotent and not drops
    if step.work is Work.FLAKY or (random.random() < 0.2 and not leaves_pieces):
        document["retry"] = {"max_attempts": random.randint(2, 3), "delay": "100ms"}
        if random.random() < 0.4:
            document["on_retry"] = "SELECT pg_sleep(0.05)"
    if step.work in _YIELDING and not step.detach and random.random() < 0.3:
        document["yield_after"] = "100ms"
        document["retry"] = {"max_attempts": 10, "delay": "50ms", "on": ["yielded"]}
    if not step.detach and random.random() < 0.15:
        document["on_runner_exit"] = "detach"
    if random.random() < 0.1:
        document["allow_failure"] = True
    return document


def _for_each(step: ChaosStep) -> dict[str, Any]:
    limit = {"max_parallel": step.max_parallel} if step.max_parallel else {}
    limit |= {"chunk": step.chunk} if step.chunk else {}
    items = [dict(PAIRS[item]) for item in step.items] if step.colliding else list(step.items)
    return {"items": items, "as": "t", **limit}
