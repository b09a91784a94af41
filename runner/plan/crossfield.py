"""The rules between steps, and between steps and the budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Mapping as MappingABC

from runner.errors import Cause, Severity
from runner.plan.graph import find_cycles
from runner.plan.model import Budget, Need, NeedOn
from runner.plan.nodes import Mapping, Node, Scalar
from runner.plan.steps import Draft

_SHOWN = 12


def check_steps(
    drafts: Sequence[Draft], budget: Budget | None, run_timeout: float | None, hidden: MappingABC[str, str]
) -> None:
    """Report problems between the steps; `budget` is None if the plan's budget is not valid.

    `hidden` has the ids as written in included files, with the ids that the prefix made of them.
    """
    by_id = _by_id(drafts)
    for draft in drafts:
        _check_policy(draft)
        _check_needs(draft, by_id, hidden)
        if budget is not None:
            _check_budget(draft, budget)
        if run_timeout is not None:
            _check_run_timeout(draft, run_timeout)
    _check_cycles(by_id)


def _by_id(drafts: Iterable[Draft]) -> dict[str, Draft]:
    by_id: dict[str, Draft] = {}
    for draft in drafts:
        if not draft.step.id:
            continue
        first = by_id.setdefault(draft.step.id, draft)
        if first is not draft:
            message = f"the id `{draft.step.id}` is already used by the step at {first.step.position}"
            draft.fields.add(draft.place("id"), "JP201", message)
    return by_id


def _check_policy(draft: Draft) -> None:
    named = f"the step `{draft.step.id}`" if draft.step.id else "this step"
    for key, code, example in (("timeout", "JP204", "10m"), ("on_finish", "JP205", "wait")):
        if not draft.fields.has(key):
            message = f"{named} has no `{key}`, and `defaults` has none either"
            hint = f"write `{key}: {example}` in the step or in `defaults`"
            part = f"`{draft.step.id}`" if draft.step.id else f"the step at line {draft.fields.position.line}"
            cause = Cause(key=key, part=part, hint=f"write `{key}: {example}` in `defaults`")
            draft.fields.add(draft.fields, code, message, hint=hint, cause=cause)


def _check_needs(draft: Draft, by_id: MappingABC[str, Draft], hidden: MappingABC[str, str]) -> None:
    forms: dict[str, tuple[type, NeedOn]] = {}
    for need, node in draft.needs:
        # The schema already forbids the same text twice.
        form = (type(node), need.on)
        if forms.setdefault(need.step, form) != form:
            draft.fields.add(node, "JP232", f"`{need.step}` is in `needs` twice")
        needed = by_id.get(need.step)
        if needed is None:
            _report_unknown(draft, need, node, by_id, hidden)
        else:
            _check_need(draft, need, node, needed)


def _report_unknown(
    draft: Draft, need: Need, node: Node, by_id: MappingABC[str, Draft], hidden: MappingABC[str, str]
) -> None:
    """Report a need of an unknown step with the id as its file has it: without the prefix of an included file."""
    word = node.values["step"] if isinstance(node, Mapping) else node
    written = word.text if isinstance(word, Scalar) else need.step
    prefix = need.step.removesuffix(written)
    guesses = draft.fields.report.guesses
    if meant := hidden.get(need.step):
        hint: str | None = f"did you mean `{meant}`?"
    elif prefix and not guesses.spent:
        known = [step_id.removeprefix(prefix) for step_id in by_id if step_id.startswith(prefix)]
        hint = guesses.did_you_mean(written, known)
    else:
        hint = guesses.did_you_mean(written, by_id)
    where = " in this file" if prefix else ""
    draft.fields.add(node, "JP202", f"there is no step `{written}`{where}", hint=hint)


def _check_need(draft: Draft, need: Need, node: Node, needed: Draft) -> None:
    if needed.finally_ != draft.finally_:
        if draft.finally_:
            message = f"`{need.step}` has ended before any finally step starts; those can only need each other"
        else:
            message = f"`{need.step}` is a finally step, which starts when all other steps have ended"
        draft.fields.add(node, "JP234", message)
    elif not needed.step.waits:
        message = f"`{need.step}` is a detach step: the run may end before it does, so no step can need it"
        draft.fields.add(node, "JP206", message, hint=f"make `{need.step}` a step with `on_finish: wait`")


def _check_budget(draft: Draft, budget: Budget) -> None:
    step = draft.step
    if step.slots > budget.slots:
        message = f"`slots` is {step.slots}, but the budget has only {budget.slots}"
        draft.fields.add(draft.place("slots"), "JP207", message, hint="it could never start")
    places = _pool_places(draft) if step.pools else {}
    for pool, weight in step.pools.items():
        limit = budget.pools.get(pool)
        if limit is None:
            hint = draft.fields.report.guesses.did_you_mean(pool, budget.pools)
            hint = hint or f"declare it: `budget: {{pools: {{{pool}: 1}}}}`"
            draft.fields.add(places[pool], "JP208", f"the budget has no pool `{pool}`", hint=hint)
        elif weight > limit:
            message = f"the step takes {weight} of the pool `{pool}`, which has only {limit}"
            draft.fields.add(places[pool], "JP209", message, hint="it could never start")


def _pool_places(draft: Draft) -> MappingABC[str, Scalar]:
    node = draft.fields.node("pools")
    if isinstance(node, Mapping):
        return node.keys
    return {item.text: item for item in draft.fields.items("pools") if isinstance(item, Scalar)}


def _check_run_timeout(draft: Draft, run_timeout: float) -> None:
    step = draft.step
    if draft.finally_ or not step.waits or step.timeout is None or step.timeout <= run_timeout:
        return
    message = f"`timeout` is {draft.fields.text('timeout')}, but `run_timeout` ends the whole run before that"
    part = f"`{step.id}`" if step.id else f"the step at line {draft.fields.position.line}"
    cause = Cause(key=draft.fields.text("timeout"), part=part)
    draft.fields.add(
        draft.place("timeout"),
        "JP210",
        message,
        hint="raise `run_timeout`, or shorten `timeout`",
        severity=Severity.WARNING,
        cause=cause,
    )


def _check_cycles(by_id: MappingABC[str, Draft]) -> None:
    needs = {step_id: [need.step for need, _ in draft.needs] for step_id, draft in by_id.items()}
    for step_id, needed in needs.items():
        # A need between a step and a finally step is a problem by itself.
        needs[step_id] = [need for need in needed if need in by_id and by_id[need].finally_ == by_id[step_id].finally_]
    for cycle in find_cycles(needs):
        draft = by_id[cycle[0]]
        node = next(node for need, node in draft.needs if need.step == cycle[1])
        shown = cycle if len(cycle) <= _SHOWN else (*cycle[: _SHOWN - 2], "…", cycle[-2], cycle[-1])
        message = f"these steps need each other in a cycle: {' → '.join(shown)}"
        if len(cycle) == 2:
            message = f"`{cycle[0]}` needs itself"
        draft.fields.add(node, "JP203", message)
