"""What is true of every state of a run, computed the slow way: the indices of the state agree with its records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from runner.engine.events import CheckPhase
from runner.engine.state import HOLDING, Kind, Place, RunState, StepRecord, StepState
from runner.engine.state_indices import held_by, latest_start

_ByState = Mapping[StepState, Sequence[StepRecord]]


def validate(state: RunState) -> None:
    """Recompute every index from the records; AssertionError with a message if one is wrong."""
    by_state: defaultdict[StepState, list[StepRecord]] = defaultdict(list)
    for record in state.records.values():
        by_state[record.state].append(record)
    _validate_holding(state, [record for held in HOLDING for record in by_state[held]], by_state[StepState.CHECKING])
    _validate_waiting(state, by_state)
    _validate_pending(state, {record.key for record in by_state[StepState.PENDING]})
    _validate_instances(state, by_state)
    _same("settling", {record.key for record in by_state[StepState.SETTLING]}, set(state.settling))
    retries = sorted((record.retry_at or 0.0, record.key) for record in by_state[StepState.RETRYING])
    _same("retrying", retries, state.retrying)
    to_cancel = {r.key for r in state.records.values() if r.cancelled_by and r.instances is None and not r.final}
    _same("to cancel", to_cancel, set(state.to_cancel))
    unfinished = [record.in_finally for record in state.records.values() if not record.final]
    _same("unfinished", len(unfinished), state.unfinished)
    _same("unfinished before finally", unfinished.count(False), state.main_unfinished)


def _validate_holding(state: RunState, holding: Sequence[StepRecord], checking: Sequence[StepRecord]) -> None:
    before = [record for record in checking if record.phase is CheckPhase.BEFORE]
    cleared = {record.key for record in before if record.gate is not None}
    _same("conditions met", cleared, set(state.cleared))
    holds = {record.key for record in before if record.holds}
    _same("evaluating conditions with slots", holds - cleared, set(state.checking))
    if any(record.holds for record in state.records.values() if record.key not in holds and record.instances is None):
        raise AssertionError("a step holds slots for its conditions, but no evaluation is running")
    used: Counter[str] = Counter()
    for item in (record for record in state.records.values() if record.instances is not None and record.holds):
        if item.parent is None or item.state is not StepState.EXPANDED:
            raise AssertionError(f"{item.key} is under way, but it is {item.state}")
        used[f"for_each:{item.parent}"] += 1
        if any(f"for_each:{item.parent}" in state.records[key].needs for key in item.instances or ()):
            raise AssertionError(f"{item.key} is under way, and its steps still wait for that")
    for record in (*holding, *(record for record in before if record.holds)):
        used.update(record.needs)
    _same("in use", used, state.used)
    # A record with holes can lack the ends of items: after a resume these are under way, and no other one starts.
    busy = {state.records[record.parent or ""].parent for record in holding if record.parent} - {None}
    for name, amount in used.items():
        is_gate = name.startswith("for_each:") and bool(state.plan.step(name.removeprefix("for_each:")).steps)
        if amount > state.capacity[name] and not (is_gate and name.removeprefix("for_each:") not in busy):
            raise AssertionError(f"{name}: {amount} of {state.capacity[name]}")
    _same("holding slots", {record.key for record in holding}, set(state.active))
    _same("to yield", {record.key for record in holding if record.blocking is not None}, set(state.to_yield))
    ends = sorted((record.server_end, record.key) for record in holding if record.server_end is not None)
    _same("server ends", ends, state.server_ends)


def _validate_waiting(state: RunState, by_state: _ByState) -> None:
    waiting = [*by_state[StepState.READY], *by_state[StepState.QUEUED]]
    found: dict[Kind, list[tuple[Place, str]]] = {}
    for record in waiting:
        found.setdefault(record.kind, []).append((state.place(record), record.key))
    groups = {kind: sorted(group) for kind, group in found.items()}
    _same("ready lists", groups, state.ready)
    heads: dict[Kind, list[tuple[Place, str]]] = {}
    for group in groups.values():
        heads.setdefault(state.records[group[0][1]].shared, []).append(group[0])
    _same("first in the ready lists", {shared: sorted(firsts) for shared, firsts in heads.items()}, state.heads)
    _same("not reported", {record.key for record in by_state[StepState.READY]}, set(state.fresh))
    for record in waiting:
        _same(f"{record.key} is held", held_by(state, record) is not None, record.held_since is not None)
    timed = sorted((record.queue_deadline, record.key) for record in waiting if record.queue_deadline is not None)
    _same("queue timeouts", timed, state.queue_timed)
    if state.window is not None:
        starts = sorted((by, record.key) for record in waiting if (by := latest_start(state, record)) is not None)
        _same("latest starts", starts, state.window.latest_starts)


def _validate_pending(state: RunState, pending: set[str]) -> None:
    """Check that released steps are pending, and that pending steps without unmet needs are released."""
    if not state.released.keys() <= pending:
        raise AssertionError(f"released are {list(state.released)}, but pending only {pending}")
    records = map(state.records.__getitem__, pending)
    startable = {r.key for r in records if not r.unmet and (state.finalizing or not r.in_finally)}
    if not startable <= state.released.keys():
        raise AssertionError(f"{startable} need nothing more, but released are only {list(state.released)}")


def _validate_instances(state: RunState, by_state: _ByState) -> None:
    _same("waiting for instances", len(by_state[StepState.EXPANDED]), state.expanded)
    still_open = Counter(record.parent for record in state.records.values() if record.parent and not record.final)
    for record in state.records.values():
        if record.instances is not None:
            _same(f"open instances of {record.key}", still_open[record.key], record.open_instances)
            expanded = record.state is StepState.EXPANDED
            _same(f"{record.key} waits for instances", still_open[record.key] > 0, expanded)


def _same(what: str, expected: object, indexed: object) -> None:
    if expected != indexed:
        raise AssertionError(f"{what}: the records say {expected}, but the index has {indexed}")
