"""The batches of a repeated step: carried values, the adapted parameter, and what all batches did together.

A batch is one iteration. It begins with the values that the previous one returned (`carry`), and with the value of a
parameter that is adapted so that a batch takes about `target` (`adapt`). Pure: what a batch returned is in the events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.state import StepRecord
from runner.plan.model import Adapt, Carried, ParamType, Step, Value
from runner.plan.sqlstates import DEADLOCK_DETECTED, LOCK_NOT_AVAILABLE
from runner.sql.qualified_names import qualified_name
from runner.structs import Struct

#: The column with the number of rows in the result of an extended statement: no name of a carried value has a space.
ROWS = "jobplan rows"
#: The largest factor from one batch to the next; the smallest one is its inverse.
MOST_FACTOR = 2.0
#: A batch whose time differs from the target by less than this part of it is right, so that nothing changes.
CLOSE_ENOUGH = 0.1


#: Errors after which a smaller batch is tried.
_SMALLER_AFTER = {LOCK_NOT_AVAILABLE: ev.AdaptReason.LOCK_TIMEOUT, DEADLOCK_DETECTED: ev.AdaptReason.DEADLOCK}


class CarriedError(ValueError):
    """A batch has committed, and the value that it returned is not of the carried type; the text is a sentence."""


class Batch(Struct, frozen=True, kw_only=True):
    """What a batch returned: the number of its rows, if known, and the carried values; None if there are no rows."""

    rows: int | None = None
    carried: Mapping[str, Value | None] | None = None


def batch_values(record: StepRecord) -> Mapping[str, Value | None]:
    """Return the values that the SQL of a repeated step may name besides others: carried ones, and the adapted one."""
    repeat = record.step.repeat
    if repeat is None or not (repeat.carry or repeat.adapt):
        return {}
    values: dict[str, Value | None] = {}
    for name, carried in repeat.carry.items():
        value = record.carried.get(name, carried.start)
        is_name = carried.type is ParamType.RELATION and value is not None
        values[name] = qualified_name(str(value)) if is_name else value
    if repeat.adapt is not None:
        value = _adapted_value(record, repeat.adapt)
        if value is not None:
            values[repeat.adapt.param] = value
    return values


def first_values(step: Step) -> Mapping[str, Value]:
    """Return the carried values of the first iteration."""
    carry = step.repeat.carry if step.repeat is not None else {}
    return {
        name: qualified_name(str(one.start)) if one.type is ParamType.RELATION else one.start
        for name, one in carry.items()
    }


def outlook(step: Step, params: Mapping[str, Value]) -> str | None:
    """Return what is known of the iterations of a step before it runs; None if it carries and adapts nothing."""
    repeat = step.repeat
    if repeat is None or not (repeat.carry or repeat.adapt):
        return None
    begin = ", ".join(f"{name} = {value}" for name, value in first_values(step).items())
    parts = [f"begins with {begin}" if begin else "", "the number of iterations is unknown"]
    adapt = repeat.adapt
    if adapt is not None:
        value = params.get(adapt.param, "not given")
        target = format_duration(adapt.target)
        parts.append(f"{adapt.param} is {value} at first")
        parts.append(f"then from {adapt.min} to {adapt.max}, so that an iteration takes about {target}")
    return f"{step.id}: {'; '.join(part for part in parts if part)}"


def carries(step: Step) -> bool:
    """Return whether the iterations of the step pass values on."""
    return step.repeat is not None and bool(step.repeat.carry)


def has_more(step: Step, last: ev.AttemptFinished) -> bool:
    """Return whether a batch that succeeded is not the last one of `until: no_rows`."""
    return last.carried is not None if carries(step) else last.row_count != 0


def read_batch(step: Step, result: ev.Rows, row_count: int | None) -> Batch:
    """Return what a batch returned, from its result: one row with the number of its rows, then the carried values.

    A procedure returns the values only. CarriedError if a value is missing or not of its type.
    """
    if result.cut:
        raise CarriedError("its carried values are longer than what is kept of a row")
    texts = dict(zip(result.columns, result.rows[0] if result.rows else (None,) * len(result.columns), strict=True))
    counted = texts.pop(ROWS, None) if result.columns[:1] == (ROWS,) else None
    return stored_batch(step, texts, rows=row_count if counted is None else int(counted))


def stored_batch(step: Step, texts: Mapping[str, str | None], *, rows: int | None) -> Batch:
    """Return what a batch returned, from its values as texts. CarriedError as `read_batch`."""
    carry = step.repeat.carry if step.repeat is not None else {}
    missing = [name for name in carry if name not in texts]
    if missing:
        raise CarriedError(f"its result has no column {missing[0]}, which repeat.carry needs")
    if all(texts[name] is None for name in carry):
        return Batch(rows=rows)
    return Batch(rows=rows, carried={name: _typed(name, carried, texts[name]) for name, carried in carry.items()})


def _typed(name: str, carried: Carried, text: str | None) -> Value | None:
    if text is None:
        return None
    try:
        match carried.type:
            case ParamType.INTEGER:
                return _whole(Decimal(text))
            case ParamType.NUMBER:
                Decimal(text)
            case ParamType.BOOLEAN:
                return {"t": True, "true": True, "f": False, "false": False}[text]
            case ParamType.RELATION:
                return str(qualified_name(text))
            case _:
                pass
    except (ValueError, KeyError, InvalidOperation, OverflowError):
        shown = text if len(text) <= 60 else f"{text[:57]}…"
        raise CarriedError(f"its carried value {name} is {shown!r}, which is not of type {carried.type}") from None
    return text


def _whole(number: Decimal) -> int:
    """Return a number without a fraction. ValueError for another one."""
    if number != number.to_integral_value():
        raise ValueError(f"{number} is not a whole number")
    return int(number)


# --- the adapted parameter --------------------------------------------------------------------------------------------


def _adapted_value(record: StepRecord, adapt: Adapt) -> int | None:
    """Return the value for the next batch; None if it is still the parameter's own."""
    if record.adapted is None or record.adapted[0] != adapt.param:
        return None
    return min(max(record.adapted[1], adapt.min), adapt.max)


def adapted(
    record: StepRecord, params: Mapping[str, Value], follows: ev.StepEvent, now: float
) -> ev.StepAdapted | None:
    """Return the change of the adapted parameter before the next batch; None if there is none.

    `params` are the run's values, `follows` is the event that ends this attempt: another batch, or a retry.
    """
    repeat, last = record.step.repeat, record.last
    if repeat is None or repeat.adapt is None or last is None or last.attempt != record.attempt:
        return None
    if isinstance(follows, ev.StepRepeating):
        took = _seconds(record, last)
        return None if took is None else _by_time(record, repeat.adapt, params, took, now)
    if isinstance(follows, ev.StepRetrying) and follows.error is None:
        because = _why_smaller(last)
        return None if because is None else halved(record, params, because, now)
    return None


def halved(
    record: StepRecord, params: Mapping[str, Value], because: ev.AdaptReason, now: float
) -> ev.StepAdapted | None:
    """Return that the next batch is half as large; None if nothing is adapted, or if it is as small as allowed."""
    adapt = record.step.repeat.adapt if record.step.repeat is not None else None
    if adapt is None:
        return None
    before = _present(record, adapt, params)
    value = max(-(-before // 2), adapt.min)
    if value >= before:
        return None
    return ev.StepAdapted(at=now, step=record.key, param=adapt.param, before=before, value=value, because=because)


def _by_time(
    record: StepRecord, adapt: Adapt, params: Mapping[str, Value], took: float, now: float
) -> ev.StepAdapted | None:
    if abs(took - adapt.target) <= CLOSE_ENOUGH * adapt.target:
        return None
    before = _present(record, adapt, params)
    most = _most_factor(record, 1 if took < adapt.target else -1)
    wanted = before * min(max(adapt.target / max(took, 1e-6), 1 / most), most)
    # rounded away from the present value, so that small values change, but not by more than the factor
    value = max(int(wanted), -(-before // 2)) if wanted < before else min(-int(-wanted // 1), before * 2)
    value = min(max(value, adapt.min), adapt.max)
    if value == before:
        return None
    return ev.StepAdapted(
        at=now,
        step=record.key,
        param=adapt.param,
        before=before,
        value=value,
        because=ev.AdaptReason.DURATION,
        seconds=round(took, 3),
    )


def _most_factor(record: StepRecord, direction: int) -> float:
    """Return the largest factor of the next change: up is direction 1, down is -1.

    A change back is smaller than the last change; from the third change in the same direction on, they grow again.
    Without that, a batch whose time jumps at some size, because the server chooses another plan there, would swing
    around that size without end.
    """
    if not record.adapt_direction:
        return MOST_FACTOR
    if direction * record.adapt_direction < 0:
        return math.sqrt(record.adapt_limit)
    return min(MOST_FACTOR, record.adapt_limit**2) if abs(record.adapt_direction) > 1 else record.adapt_limit


def note_change(record: StepRecord, change: ev.StepAdapted) -> None:
    """Note a change of the adapted parameter in the step's record."""
    record.adapted = (change.param, change.value)
    if change.because is not ev.AdaptReason.DURATION:
        return
    direction = 1 if change.value > change.before else -1
    record.adapt_limit = _most_factor(record, direction)
    same = direction * record.adapt_direction > 0
    record.adapt_direction = record.adapt_direction + direction if same else direction


def _present(record: StepRecord, adapt: Adapt, params: Mapping[str, Value]) -> int:
    value = _adapted_value(record, adapt)
    return value if value is not None else int(params.get(adapt.param, adapt.min))


def _seconds(record: StepRecord, last: ev.AttemptFinished) -> float | None:
    """Return how long the batch took: by the server's clock, else from its launch."""
    if last.started_at is not None and last.finished_at is not None:
        return max(0.0, last.finished_at - last.started_at)
    return None if record.launched_at is None else max(0.0, last.at - record.launched_at)


def _why_smaller(last: ev.AttemptFinished) -> ev.AdaptReason | None:
    if last.outcome is ev.Outcome.TIMED_OUT:
        return ev.AdaptReason.TIMEOUT
    sqlstate = last.error.sqlstate if last.error is not None else None
    return _SMALLER_AFTER.get(sqlstate or "")
