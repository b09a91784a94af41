"""The SQL of one step as it is sent: settings with parameter values, and the places of its errors.

The values belong to one instance, so this is done just before each launch and each condition. A position in the sent
SQL is translated back to a place in the plan's files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType

from runner.engine import events as ev
from runner.engine.batches import batch_values
from runner.engine.for_each_items import of_place
from runner.engine.scheduler import run_status
from runner.engine.state import RunState, StepRecord
from runner.errors import Position
from runner.plan.model import ItemValues, Plan, Step, Value
from runner.sql.placeholders import Listed, Rendered, TemplateError, render_traced
from runner.sql.session_settings import SettingPlace, named_in, render_names, render_role, render_setting
from runner.structs import replace


class SessionError(TemplateError):
    """A value is not allowed in `role`, `search_path`, `settings` or `touches`; the message names the key."""


def with_values(step: Step, values: ItemValues) -> Step:
    """Return the step with values in its settings and `touches`. SessionError if a value is not allowed there."""
    if not _has_parameters(step):
        return step
    path, touched = (
        partial(render_names, place=SettingPlace.SEARCH_PATH),
        partial(render_names, place=SettingPlace.TOUCHES),
    )
    settings = {
        name: _value(f"settings.{name}", partial(render_setting, name), text, values)
        for name, text in step.settings.items()
    }
    return replace(
        step,
        role=step.role and _value("role", render_role, step.role, values),
        search_path=step.search_path and _value("search_path", path, step.search_path, values),
        settings=MappingProxyType(settings),
        touches=tuple(
            dict.fromkeys(_value("touches", touched, name, one) for name in step.touches for one in _one_by_one(values))
        ),
    )


def for_list(step: Step) -> Step:
    """Return the step for its `for_each.sql`: without settings that name the item, because there is no item yet."""
    if step.for_each is None or not _has_parameters(step):
        return step
    as_ = step.for_each.as_

    def of_item(text: str | None, place: SettingPlace) -> bool:
        named = named_in(text, place, lambda name: name.partition(".")[0] == as_) if text is not None else ()
        return any(reference.name.partition(".")[0] == as_ for reference in named)

    return replace(
        step,
        role=None if of_item(step.role, SettingPlace.ROLE) else step.role,
        search_path=None if of_item(step.search_path, SettingPlace.SEARCH_PATH) else step.search_path,
        settings={},
        touches=(),
    )


def _has_parameters(step: Step) -> bool:
    texts = (step.role or "", step.search_path or "", *step.settings.values(), *step.touches)
    return any(":" in text for text in texts)


def _one_by_one(values: ItemValues) -> Iterator[ItemValues]:
    """Yield the values with one item of a chunk each; without a chunk the values themselves."""
    items = max((len(value.values) for value in values.values() if isinstance(value, Listed)), default=1)
    yield from (of_place(values, place) for place in range(items))


def _value(key: str, render: Callable[..., str], text: str, values: ItemValues) -> str:
    try:
        return render(text, values=values)
    except TemplateError as error:
        raise SessionError(f"{key}: {error.message}", hint=error.hint) from None


def named_values(plan: Plan, run_id: str) -> Mapping[str, Value]:
    """Return the values that all SQL of a plan may name: its parameters, and the run's id and name."""
    return {**plan.values, "run.id": run_id, "run.name": plan.name}


def values_for(state: RunState, record: StepRecord, named: Mapping[str, Value]) -> ItemValues:
    """Return the values for the SQL of a step or instance.

    They are `named`, its item, the values of this iteration, and in `finally` the status of the run.
    """
    if not record.in_finally and not record.values and record.step.repeat is None:
        return named
    status = {"run.status": run_status(state)} if record.in_finally else {}
    return {**named, **status, **record.values, **batch_values(record)}


def launched_sql(state: RunState, record: StepRecord, named: Mapping[str, Value]) -> Rendered:
    """Return the SQL with its values, as it is sent; SQL whose values do not fit is returned as written in the plan."""
    try:
        return render_traced(record.step.sql.text, values_for(state, record, named))
    except TemplateError:
        return Rendered(text=record.step.sql.text, values=())


def place_in_plan(error: ev.ErrorDetails | None, record: StepRecord, state: RunState, run_id: str) -> Position | None:
    """Return the place in the plan's files that the server's error points to; None if it has no position."""
    if error is None or error.position is None:
        return None
    sql = launched_sql(state, record, named_values(state.plan, run_id))
    return record.step.sql.position(min(sql.original(error.position - 1), len(record.step.sql.text)))


def with_facts(event: ev.StepFinished, record: StepRecord, state: RunState, run_id: str) -> ev.StepFinished:
    """Return the final event of a step with its duration, its rows, and the place of its error.

    `record` is the step's before the event. A step with instances has no attempts of its own.
    """
    place = place_in_plan(event.error, record, state, run_id) or record.step.position
    known = replace(event, file=place.file or None, line=place.line if place.file else None)
    if record.instances is not None or not record.attempt:
        return known
    return replace(
        known,
        duration=None if record.took is None else round(record.took, 3),
        rows=record.rows if record.iterations else record.last.row_count if record.last is not None else None,
        attempt=record.attempt,
    )
