"""Read `holds` of a plan, and find the holds that concern each step.

A hold is a condition of the server under which the run starts nothing new. A step without the key `holds` waits for
every hold of the plan. The model has the names of these holds, so that no other module needs to know this default.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.plan.model import Hold
from runner.plan.sql_scope import Scope, check_references
from runner.plan.steps import YIELDED_WORD, Draft, read_size
from runner.plan.yaml_nodes import Fields, Scalar
from runner.plan.yaml_nodes import Mapping as MappingNode
from runner.sql.qualified_names import qualified_name
from runner.structs import replace

_HOLDS = "holds"
_EVERY, _RELEASE_AFTER = 5.0, 30.0


def read_holds(fields: Fields, scope: Scope) -> tuple[Hold, ...]:
    """Return the holds of a plan; report those with a name that another one has."""
    found: dict[str, Hold] = {}
    for node in fields.items(_HOLDS):
        if not isinstance(node, MappingNode):
            continue
        hold = _read_hold(fields.within(node), scope)
        first = found.setdefault(hold.name, hold)
        if first is not hold and hold.name:
            message = f"the name `{hold.name}` is already used by the hold at {first.position}"
            fields.add(node.values["name"], "JP248", message)
    return tuple(found.values())


def _read_hold(fields: Fields, scope: Scope) -> Hold:
    while_ = fields.sql("while")
    if while_ is not None:
        check_references(while_, scope, fields)
    return Hold(
        name=fields.text("name"),
        replication_lag=fields.duration("replication_lag", zero=True),
        wal_to_archive=read_size(fields.scalar("wal_to_archive")),
        active_sessions=fields.integer("active_sessions", 0) if fields.has("active_sessions") else None,
        autovacuum_on=_tables(fields),
        while_=while_,
        every=fields.duration("every", _EVERY) or _EVERY,
        release_after=_release_after(fields),
        at_most=fields.duration("at_most"),
        position=fields.position,
    )


def _release_after(fields: Fields) -> float:
    seconds = fields.duration("release_after", _RELEASE_AFTER, zero=True)
    return _RELEASE_AFTER if seconds is None else seconds


def _tables(fields: Fields) -> tuple[str, ...]:
    tables = []
    for node in fields.items("autovacuum_on"):
        if isinstance(node, Scalar):
            try:
                tables.append(str(qualified_name(node.text)))
            except ValueError as error:
                fields.add(node, "JP250", f"the table {error}")
    return tuple(tables)


def with_holds(drafts: Sequence[Draft], holds: Sequence[Hold]) -> list[Draft]:
    """Return the steps, each with the names of the holds that concern it; report names that are unknown."""
    names = tuple(hold.name for hold in holds)
    return [_with_holds(draft, names) if not draft.inner else _of_chain(draft, names) for draft in drafts]


def _of_chain(group: Draft, names: tuple[str, ...]) -> Draft:
    inner = tuple(_with_holds(draft, names) for draft in group.inner)
    return replace(group, inner=inner, step=replace(group.step, steps=tuple(draft.step for draft in inner)))


def _with_holds(draft: Draft, names: tuple[str, ...]) -> Draft:
    step, fields = draft.step, draft.fields
    if YIELDED_WORD in step.retry.on and step.yield_after is None:
        retry = fields.mapping("retry")
        place = next((node for node in retry.items("on") if _is_yielded(node)), retry) if retry is not None else fields
        message = f"`{YIELDED_WORD}` never happens: the step has no `yield_after`"
        fields.add(place, "JP251", message, hint="write `yield_after: 5s` in the step")
    if not fields.has(_HOLDS):
        wanted = () if draft.finally_ else names
    elif draft.finally_:
        if step.holds and _is_own(draft):
            fields.add(draft.place(_HOLDS), "JP249", "a finally step ignores holds", hint="remove `holds` here")
        wanted = ()
    else:
        wanted = tuple(name for name in names if name in step.holds)
        _report_unknown(draft, names)
    return draft if wanted == step.holds else replace(draft, step=replace(step, holds=wanted))


def _is_yielded(node: object) -> bool:
    return isinstance(node, Scalar) and node.text == YIELDED_WORD


def _is_own(draft: Draft) -> bool:
    """Return whether the step itself has the key, and not only `defaults`."""
    place = draft.fields.place
    return isinstance(place, MappingNode) and _HOLDS in place.values


def _report_unknown(draft: Draft, names: tuple[str, ...]) -> None:
    for node in draft.fields.items(_HOLDS):
        if isinstance(node, Scalar) and node.text not in names:
            hint = draft.fields.report.guesses.did_you_mean(node.text, names)
            hint = hint or "declare it in `holds` of the plan"
            draft.fields.add(node, "JP247", f"the plan has no hold `{node.text}`", hint=hint)
