"""What a step sets for its session, with the values of its parameters: role, search_path, settings and `touches`.

The values are those of one instance, so this is done immediately before each launch and each condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from runner.plan.model import Step, Value
from runner.sql.params import TemplateError
from runner.sql.session import Place, named_in, render_names, render_role, render_setting


class SessionError(TemplateError):
    """A value cannot stand in `role`, `search_path`, `settings` or `touches`; the message names the key."""


def with_values(step: Step, values: Mapping[str, Value | None]) -> Step:
    """Return the step with values in what it sets and touches. SessionError if one of them cannot stand there."""
    if not _has_parameters(step):
        return step
    path, touched = partial(render_names, place=Place.SEARCH_PATH), partial(render_names, place=Place.TOUCHES)
    settings = {
        name: _value(f"settings.{name}", partial(render_setting, name), text, values)
        for name, text in step.settings.items()
    }
    return replace(
        step,
        role=step.role and _value("role", render_role, step.role, values),
        search_path=step.search_path and _value("search_path", path, step.search_path, values),
        settings=MappingProxyType(settings),
        touches=tuple(_value("touches", touched, name, values) for name in step.touches),
    )


def for_list(step: Step) -> Step:
    """Return the step as its `for_each.sql` runs: what names the item is left out, for there is no item yet."""
    if step.for_each is None or not _has_parameters(step):
        return step
    as_ = step.for_each.as_

    def of_item(text: str | None, place: Place) -> bool:
        named = named_in(text, place, lambda name: name.partition(".")[0] == as_) if text is not None else ()
        return any(reference.name.partition(".")[0] == as_ for reference in named)

    return replace(
        step,
        role=None if of_item(step.role, Place.ROLE) else step.role,
        search_path=None if of_item(step.search_path, Place.SEARCH_PATH) else step.search_path,
        settings={},
        touches=(),
    )


def _has_parameters(step: Step) -> bool:
    texts = (step.role or "", step.search_path or "", *step.settings.values(), *step.touches)
    return any(":" in text for text in texts)


def _value(key: str, render: Callable[..., str], text: str, values: Mapping[str, Value | None]) -> str:
    try:
        return render(text, values=values)
    except TemplateError as error:
        raise SessionError(f"{key}: {error.message}", hint=error.hint) from None
