"""Which of a step's locks matter to others, and where their opponents are to be looked for."""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from runner.lint.locking.held import Held, Kind, Lockable, kind_of, verdict
from runner.lint.locking.reading import Locking

#: The locks of a step by relation.
Grip = Mapping[Lockable, Sequence[Held]]


def contended(steps: Sequence[Locking]) -> dict[int, Grip]:
    """Return the locks of each step by relation, without relations that no two steps could want at the same time."""
    kinds: dict[Lockable, Counter[Kind]] = defaultdict(Counter)
    for step in steps:
        for on, kind in {(held.on, kind_of(held)) for held in step.held}:
            kinds[on][kind] += 2 if step.several else 1
    sweeps = {on: found for on, found in kinds.items() if on.sweeping}
    wanted = {on for on, found in kinds.items() if on.sweeping or _can_clash(found) or _is_swept(on, found, sweeps)}
    grips: dict[int, Grip] = {}
    for number, step in enumerate(steps):
        grip: dict[Lockable, list[Held]] = {}
        for held in step.held:
            if held.on in wanted:
                grip.setdefault(held.on, []).append(held)
        if grip:
            grips[number] = grip
    return grips


def _can_clash(found: Counter[Kind]) -> bool:
    kinds = list(found)
    return any(
        verdict(one, other) is not None and (one != other or found[one] > 1)
        for number, one in enumerate(kinds)
        for other in kinds[number:]
    )


def _is_swept(on: Lockable, found: Iterable[Kind], sweeps: Mapping[Lockable, Iterable[Kind]]) -> bool:
    return any(
        can_meet(on, sweep) and any(verdict(one, other) is not None for one in found for other in others)
        for sweep, others in sweeps.items()
    )


def can_meet(one: Lockable, other: Lockable) -> bool:
    """Say whether two locks can be on the same relation."""
    if one == other:
        return True
    if not (one.sweeping or other.sweeping) or one.indexes or other.indexes:
        return False
    same_schema = one.schema == other.schema
    return same_schema or (one.sweeping and one.schema is None) or (other.sweeping and other.schema is None)


class Seen(enum.Enum):
    """Under which heading the steps that have been seen are kept, with a relation or schema."""

    ON = "locks of this relation"
    IN = "locks of relations in this schema"
    SWEEP = "locks of every table of this schema"
    ANY_SWEEP = "locks of every table of some schema"


_DATABASE = Lockable(None, None)

Heading = tuple[Seen, Lockable]


def kept_under(on: Lockable, *, swept: bool) -> tuple[Heading, ...]:
    """Return under which headings a lock is kept; `swept` tells whether any step locks every table of something."""
    if on.sweeping:
        return (Seen.SWEEP, on), (Seen.ANY_SWEEP, _DATABASE)
    if on.indexes or not swept:
        return ((Seen.ON, on),)
    return (Seen.ON, on), (Seen.IN, Lockable(on.schema, None)), (Seen.IN, _DATABASE)


def looked_up(on: Lockable, *, swept: bool) -> tuple[tuple[Lockable, Heading], ...]:
    """Return under which headings a lock's opponents are, each with the relation to which a clash is ascribed."""
    if on.sweeping:
        sweeps = (Seen.ANY_SWEEP, _DATABASE) if on == _DATABASE else (Seen.SWEEP, _DATABASE)
        return (on, (Seen.IN, on)), (on, (Seen.SWEEP, on)), (on, sweeps)
    if on.indexes or not swept:
        return ((on, (Seen.ON, on)),)
    schema = Lockable(on.schema, None)
    return (on, (Seen.ON, on)), (schema, (Seen.SWEEP, schema)), (_DATABASE, (Seen.SWEEP, _DATABASE))
