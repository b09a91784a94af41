"""The state of a resumed run: what it keeps, and the open questions of its record.

The new state is the fold of events on a plan at its beginning; the events are made from what the old state keeps. So
the state after a resume is always one that a run can reach. An attempt without evidence of its outcome becomes a
question to the user.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from runner.clock import rfc3339
from runner.engine import events as ev
from runner.engine.batches import batch_values, carries
from runner.engine.for_each_items import literal_items, parts_of, remaining, single_items
from runner.engine.state import HOLDING, RunState, StepRecord, StepState, need_met
from runner.errors import UsageError
from runner.identity import inner_key
from runner.plan.groups import is_group
from runner.plan.model import ForEach, NeedOn, Plan, Step, Value


def is_kept(record: StepRecord, settled: Mapping[str, ev.Outcome]) -> bool:
    """Return whether the step is finished: it succeeded, may fail, had nothing to do, or was detached.

    A step that the run must wait for is not finished because an interrupted runner detached it.
    """
    if record.key in settled:
        return settled[record.key] is ev.Outcome.SUCCEEDED
    if record.state is StepState.SKIPPED:
        return record.skip_reason in (ev.SkipReason.CONDITION, ev.SkipReason.NOT_SELECTED)
    if record.state is StepState.DETACHED:
        return not record.step.waits
    return record.state in (StepState.SUCCEEDED, StepState.FAILED_ALLOWED)


def has_succeeded(record: StepRecord) -> bool:
    """Return whether the last worker succeeded and only the step's checks were not finished.

    This includes a step whose conditions could not be evaluated: the step failed, but its work succeeded.
    """
    last = record.last
    succeeded = last is not None and last.attempt == record.attempt and last.outcome is ev.Outcome.SUCCEEDED
    unjudged = record.state is StepState.FAILED and record.verdict is ev.Verdict.ERROR
    checked_after = record.state is StepState.CHECKING and record.phase is not ev.CheckPhase.BEFORE
    settling = record.state is StepState.SETTLING and record.gate is None
    return succeeded and (unjudged or checked_after or settling)


def steps_over(state: RunState, settled: Mapping[str, ev.Outcome], plan: Plan) -> frozenset[str]:
    """Return the steps that are kept, and the steps that were skipped because of them.

    `plan` is the plan of the resumed run: the needs of a step may have changed.
    """
    over = {key for key, record in state.records.items() if is_kept(record, settled)}
    dependents: dict[str, list[tuple[str, NeedOn]]] = {}
    for step in plan.all_steps:
        for need in step.needs:
            dependents.setdefault(need.step, []).append((step.id, need.on))
        for owner in _owners(state, step):
            for inner in step.steps:
                for need in inner.needs:
                    key, needed_key = inner_key(owner, inner.id), inner_key(owner, need.step)
                    dependents.setdefault(needed_key, []).append((key, need.on))
    found = list(over)
    while found:
        needed = state.records[found.pop()]
        ended = StepState.SUCCEEDED if needed.key in settled else needed.state
        for key, on in dependents.get(needed.key, ()):
            skipped = key in state.records and key not in settled and _is_skipped_for_another(state.records[key])
            if skipped and key not in over and not need_met(on, ended, needed.skip):
                over.add(key)
                found.append(key)
    return frozenset(over)


def _owners(state: RunState, step: Step) -> tuple[str, ...]:
    """Return the keys of the items of a group that has been expanded, or its own key if it has no items."""
    record = state.records.get(step.id)
    if not is_group(step) or record is None or record.instances is None:
        return ()
    return record.instances if step.for_each is not None else (step.id,)


def _is_skipped_for_another(record: StepRecord) -> bool:
    return record.state is StepState.SKIPPED and record.skip_reason is ev.SkipReason.UPSTREAM


def finally_starts_again(state: RunState, settled: Mapping[str, ev.Outcome], plan: Plan) -> bool:
    """Return whether a step outside `finally` must run: then all of `finally` follows again.

    `plan` is the plan of the resumed run, which can have new steps.
    """
    if not steps_known(state, plan.steps) <= state.records.keys():
        return True
    outside = {key for key, record in state.records.items() if not record.in_finally and record.instances is None}
    return not outside <= steps_over(state, settled, plan)


def steps_known(state: RunState, steps: Iterable[Step]) -> set[str]:
    """Return the keys of these steps in the resumed run: the steps, and the instances of those that were expanded."""
    known = set()
    for step in steps:
        known.add(step.id)
        record = state.records.get(step.id)
        if record is None or record.instances is None:
            continue
        items = _items(state, record, step)
        for item in items:
            known.add(item.key)
            old = state.records.get(item.key)
            if old is not None and old.chunk and old.instances is not None:
                known.update(one.key for one in item.items)
        owners = [item.key for item in items] if step.for_each is not None else [step.id]
        known.update(inner_key(owner, inner.id) for owner in owners for inner in step.steps)
    return known


def expansions(state: RunState, plan: Plan) -> tuple[ev.Expansion, ...]:
    """Return the items in the resumed run of each step that has instances already and whose items the plan lists."""
    found = []
    for step in plan.all_steps:
        record = state.records.get(step.id)
        if record is not None and record.instances and step.for_each is not None and step.for_each.sql is None:
            found.append(ev.Expansion(step=step.id, items=_items(state, record, step)))
    return tuple(found)


def kept_items(state: RunState, plan: Plan) -> Iterator[str]:
    """Yield a line for each step whose query the changed plan replaces although the run has fixed its items.

    UsageError if the SQL of the step would no longer find the values of its items, or would get one instead of a list.
    """
    for step in plan.all_steps:
        record = state.records.get(step.id)
        if record is None or record.instances is None or step.for_each is None:
            continue
        before = record.step.for_each
        if before is not None and record.instances and (before.chunk is None) is not (step.for_each.chunk is None):
            change = "has no chunks" if before.chunk is None else f"has chunks of {before.chunk} items"
            again = "remove `chunk`" if before.chunk is None else f"write `chunk: {before.chunk}` again"
            raise UsageError(
                f"step {step.id}: the run {change}, and the plan has changed that.",
                hint=f"In the plan, {again}, or start a new run.",
            )
        if before is None or step.for_each.sql is None or _query(before) == _query(step.for_each):
            continue
        if record.instances and before.as_ != step.for_each.as_:
            raise UsageError(
                f"step {step.id}: the run fixed its items under the name {before.as_!r}, and the plan now names them "
                f"{step.for_each.as_!r}.",
                hint=f"Write `as: {before.as_}` again, or start a new run.",
            )
        yield (
            f"step {step.id}: the run keeps the {len(record.instances)} items that it fixed at its start; "
            "the changed query is not executed"
        )


def _query(for_each: ForEach) -> tuple[str, str | None]:
    return for_each.as_, None if for_each.sql is None else for_each.sql.text


def carried_over(old: RunState, resumed: ev.RunResumed, known: Mapping[str, StepRecord]) -> Iterator[ev.StepEvent]:
    """Yield the events that lead from the initial state to the state of the resumed run.

    `known` are the records of the new state; each event must be applied to them before the next one is requested. A
    step that is no longer in the plan is left out.
    """
    settled = {found.step: found.outcome for found in resumed.settled}
    adopted = {found.step: found for found in resumed.adopted}
    again = finally_starts_again(old, settled, old.plan)
    over = steps_over(old, settled, old.plan)
    for record in old.records.values():
        if record.key not in known or (record.in_finally and again):
            continue
        if record.instances is not None:
            now = known[record.key]
            if now.step.for_each is not None or (is_group(now.step) and now.parent is None):
                yield ev.StepExpanded(at=resumed.at, step=record.key, items=_items(old, record, now.step))
            elif now.chunk:
                yield ev.StepSplit(at=resumed.at, step=record.key, items=now.chunk, until=resumed.at)
        elif known[record.key].instances is not None:  # an item of what is a group now
            continue
        elif record.key in adopted:
            yield from _under_way(adopted[record.key], record, resumed.at)
        elif record.key in over:
            yield _ended(record, settled)
        elif record.key not in settled and has_succeeded(record):
            yield from _to_be_judged(record)


def copy_facts(old: StepRecord, new: StepRecord) -> None:
    """Keep counting attempts, warnings and rows, and copy the facts of the last attempt of a finished step."""
    new.warnings, new.iterations, new.rows, new.tag = old.warnings, old.iterations, old.rows, old.tag
    new.leftovers, new.unfinished, new.adapted = old.leftovers, old.unfinished, old.adapted
    new.table, new.table_rows = old.table, old.table_rows
    if new.final:
        new.iteration, new.since = old.iteration, old.since
        new.last, new.worker = old.last, old.worker
        new.worker_ended = new.state is StepState.DETACHED  # a running worker is followed: its step is not final
        new.launched_at, new.started_at, new.ended_at = old.launched_at, old.started_at, old.ended_at
        new.took_before = old.took_before
    elif new.started_at is None:
        new.took_before = old.took or 0.0
    else:  # its worker still runs, or its checks follow: that attempt began when it was launched
        new.took_before = old.took_before + max(0.0, new.started_at - (old.started_at or new.started_at))
    if new.state in HOLDING or new.state is StepState.SETTLING:
        new.attempts_before, new.iteration, new.tried = old.attempts_before, old.iteration, old.tried
    else:
        new.attempt = new.attempts_before = old.attempt
        new.tried = old.tried or old.tries > 0
    if carries(new.step) and not (old.state is StepState.SUCCEEDED and not new.final):  # else `finally` runs again
        new.carried = old.carried
        if not new.final and new.state not in HOLDING and new.state is not StepState.SETTLING:
            new.iteration = old.iterations + 1


def _items(state: RunState, record: StepRecord, step: Step) -> tuple[ev.Item, ...]:
    """Return the items for the resumed run: those that the plan lists now, or those that its query returned.

    An item that the run had before keeps its instance, at whatever place the plan lists it now.
    """
    if step.for_each is None:
        return ()
    had_items = record.step.for_each is not None  # else these are the steps of a chain
    before = tuple(_recorded_item(state.records[key]) for key in record.instances or () if had_items)
    if step.for_each.sql is not None:
        return before
    if state.expansions is None:
        # The chunks are among them for their keys only: no item may get one of these.
        singles = [*(one for item in before for one in parts_of(item)), *(item for item in before if item.items)]
        return literal_items(step, singles, tuple(_kept_chunks(state, step, before, singles)))
    return state.expansions.get(step.id) or literal_items(step)  # records of earlier versions do not have them


def _recorded_item(record: StepRecord) -> ev.Item:
    """Return the item of an instance, or the chunk."""
    if record.chunk:
        return ev.Item(key=record.key, values={}, items=record.chunk)
    return ev.Item(key=record.key, values=cast("Mapping[str, Value | None]", record.values))


def _kept_chunks(
    state: RunState, step: Step, before: Iterable[ev.Item], singles: Sequence[ev.Item]
) -> Iterator[ev.Item]:
    """Yield the chunks of the run that stay as they are although the plan may list other items now.

    Those are the chunks whose items are all listed, and those whose work is done or not known to be undone; of a chunk
    that was split, the items that are listed or done. The items of the others are divided into chunks again.
    """
    if step.for_each is None or step.for_each.chunk is None:
        return
    wanted = {item.key for item in single_items(step, singles)}
    for chunk in before:
        record = state.records[chunk.key]
        if record.instances is not None:
            done = {one.key for one in chunk.items if is_kept(state.records[one.key], {})}
            left = remaining(chunk, wanted, done)
            if left.items:
                yield left
        elif {one.key for one in parts_of(chunk)} <= wanted or (chunk.items and _has_facts(record)):
            yield chunk


def _has_facts(record: StepRecord) -> bool:
    """Return whether the work of a chunk is done, or may be done."""
    return is_kept(record, {}) or is_open(record) or has_succeeded(record)


def _under_way(adopted: ev.Adopted, record: StepRecord, now: float) -> Iterator[ev.StepEvent]:
    step, attempt, worker = adopted.step, adopted.attempt, adopted.worker
    # The recorded launch time is by another runner's clock; the worker's age by the server's clock is used instead.
    launched = now if record.launched_at is None else record.launched_at
    at = launched if adopted.age is None else now - adopted.age
    yield ev.AttemptLaunching(
        at=at, step=step, attempt=attempt, application_name=worker.application_name, timeout=record.timeout
    )
    yield ev.AttemptRunning(at=at, step=step, attempt=attempt, worker=worker)


def _to_be_judged(record: StepRecord) -> Iterator[ev.StepEvent]:
    if record.last is not None:
        launched = record.launched_at if record.launched_at is not None else record.last.at
        yield ev.AttemptLaunching(
            at=launched, step=record.key, attempt=record.attempt, application_name="", timeout=record.timeout
        )
        yield record.last


def _ended(record: StepRecord, settled: Mapping[str, ev.Outcome]) -> ev.StepEvent:
    """Return the final event of a finished step. The evidence about its last worker overrides its record."""
    if record.key in settled:
        return ev.StepFinished(at=record.since, step=record.key, state=StepState.SUCCEEDED)
    if record.skip is not None and record.state is StepState.SKIPPED:
        return record.skip
    state = record.state if record.state in _OVER else StepState.SUCCEEDED
    return ev.StepFinished(at=record.since, step=record.key, state=state, committed=record.committed or None)


_OVER = (StepState.SUCCEEDED, StepState.FAILED_ALLOWED, StepState.DETACHED)


def is_open(record: StepRecord) -> bool:
    """Return whether a worker was requested without evidence of its outcome.

    A worker that prepares an attempt, or removes what it left behind, leaves no question: it runs again.
    """
    if record.instances is not None or is_kept(record, {}) or has_succeeded(record) or record.assisted:
        return False
    if record.state in HOLDING or record.without_evidence:
        return True
    last = record.last
    if last is None or last.attempt != record.attempt:
        return record.launched_at is not None and record.state not in _CONTINUES
    if last.outcome is ev.Outcome.DETACHED:
        return True
    # A FAILED step with an unknown outcome means that `verify` found the work not done.
    return last.outcome is ev.Outcome.UNKNOWN and record.state is not StepState.FAILED


#: States that follow the end of a worker when another one is to come, or none is wanted any more: an incomplete record
#: can lack that end.
_CONTINUES = frozenset({StepState.RETRYING, StepState.PENDING, StepState.READY, StepState.QUEUED, StepState.SKIPPED})


def has_no_facts(record: StepRecord) -> bool:
    """Return whether there is no fact about the step: no worker was requested, and it did not fail."""
    return record.attempt == 0 and not is_open(record) and record.state not in _JUDGED


#: States that are a fact about a step without a worker: a condition prevented the launch, or the outcome is unknown.
_JUDGED = frozenset({StepState.FAILED, StepState.TIMED_OUT, StepState.CANCELLED, StepState.UNKNOWN})


def steps_without_evidence(state: RunState, resumed: ev.RunResumed) -> Iterator[str]:
    """Yield the steps whose last worker has no recorded outcome although the run was taken over (incomplete record)."""
    settled = {found.step: found.outcome for found in resumed.settled}
    decided = settled.keys() | {found.step for found in resumed.adopted}
    again = finally_starts_again(state, settled, state.plan)
    for key, record in state.records.items():
        if key not in decided and not (record.in_finally and again) and is_open(record):
            yield key


def committed_but_failed(record: StepRecord) -> bool:
    """Return whether the step's work is committed although the step failed: it must not run again without a decision.

    Read-only SQL commits nothing: it is a check, which may run again.
    """
    return record.committed and record.state is StepState.FAILED and not has_succeeded(record)


def question(record: StepRecord) -> str:
    """Ask the user what an ended worker did."""
    when = f" of {rfc3339(record.launched_at)[:19]}Z" if record.launched_at is not None else ""
    who = f" (pid {record.worker.pid})" if record.worker is not None else ""
    return (
        f"{record.key}: the worker{who}{when} has ended, and there is no evidence of what it did. Check it, then pass "
        f"{_mark(record, 'succeeded')} if its work is done, {_mark(record, 'failed')} to run it again."
        f"{_half_done(record)}{_iteration(record)}"
    )


def _iteration(record: StepRecord) -> str:
    """Return what must be known of an iteration whose outcome is asked for."""
    if not carries(record.step):
        return ""
    values = ", ".join(f"{name} = {value}" for name, value in batch_values(record).items())
    return (
        f" It was iteration {record.iteration}, which began with {values}. `succeeded` ends the whole step; `failed` "
        "runs this iteration again."
    )


def question_about_failed_check(record: StepRecord) -> str:
    """Ask the user whether the committed work of a step whose check failed is acceptable."""
    return (
        f"{record.key}: its worker committed, but its check failed, so it does not run again automatically. Pass "
        f"{_mark(record, 'succeeded')} if its work is correct, {_mark(record, 'failed')} to run it again."
    )


#: SQL that leaves an INVALID index behind when it is interrupted
#: (docs/pg_background.md#what-concurrently-leaves-behind). Only the session that observed the worker's locks knows
#: which index that is, so the question names the command that lists them.
_BUILDS = re.compile(r"\bINDEX\b.*\bCONCURRENTLY\b", re.IGNORECASE | re.DOTALL)


def _half_done(record: StepRecord) -> str:
    if not _BUILDS.search(record.step.sql.text):
        return ""
    return " It may have left an INVALID index behind: jobplan doctor lists them with the SQL that repairs them."


def mark_option(text: str) -> str:
    """Write --mark for a shell, always quoted, because the keys of instances contain brackets."""
    quoted = shlex.quote(text)
    return f"--mark {quoted}" if quoted != text else f"--mark '{text}'"


def _mark(record: StepRecord, outcome: str) -> str:
    return mark_option(f"{record.key}={outcome}")
