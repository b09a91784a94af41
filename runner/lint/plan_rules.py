"""Rules about a plan's keys: limits, retries, chunks, expected results, budgets, and steps without effect.

To find out whether a budget is too large, an upper bound of the slots that can be in use at the same time is enough;
the exact number would be costly to compute. For the bound, the steps are arranged in chains in which each step needs
the previous one, so that only one step of a chain runs at a time. Steps that share a pool or an exclusive name are
limited to what the pool or the name allows, if that is less.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from runner.durations import format_duration
from runner.errors import Cause, JobplanError, Severity
from runner.lint.rule import Finding, Rule, StatementPlace, statements, step_finding
from runner.plan.graph import topological_order
from runner.plan.groups import written_steps
from runner.plan.model import FOR_EACH_SQL, OnLeftovers, Sql, Step, Value
from runner.plan.parsed_sql import QuerySql, StepSql, Subject
from runner.sql.command_objects import created_relations, is_temporary
from runner.sql.placeholders import Form, Listed, Reference, references, render_traced
from runner.sql.plpgsql_bodies import catching_loop
from runner.sql.psql_commands import client_parts
from runner.sql.relations import RelationUse, query_relations
from runner.sql.returned_rows import (
    columns_out_of_reach,
    no_row_count,
    no_rows_to_read,
    rows_out_of_reach,
    temporary_relations,
)
from runner.sql.session_settings import settings_changed
from runner.sql.statement_effects import Effect, SessionState, effect, refused_read_only, session_state, state_of
from runner.sql.statements import SqlSyntaxError, Statement, parse_statements
from runner.sql.statements import StatementKind as Kind
from runner.sql.text_traits import builds_of, nature_of
from runner.sql.transactions import outlives_rollback


def _unsafe_retry(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject):
        step = place.step.step
        if step.retry.max_attempts < 2 or step.idempotent or step.on_retry is not None:
            continue
        left = outlives_rollback(place.statement)
        removable = left is not None and any(build.removable for build in builds_of(step.sql.text))
        if removable and step.leftovers is OnLeftovers.DROP:
            continue
        if left is not None:
            repair = "add `leftovers: drop`" if removable else "remove `retry`, clean up in `on_retry`"
            hint = f"{repair}, or add `idempotent: true` if a second run does no harm"
            yield place.finding(f"`retry`, but {left}", hint=hint)


def _no_result(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        if step.statements and (step.step.expect is not None or step.step.capture_rows):
            yield from _missing_result(step, StatementPlace(step, step.statements[-1]))


def _missing_result(step: StepSql, place: StatementPlace) -> Iterator[Finding]:
    expect = step.step.expect
    hint = "end the step with a query or RETURNING, or use `verify`"
    if expect is not None and expect.has_value:
        reason = no_rows_to_read(place.statement)
        if reason is not None:
            yield place.finding(f"`expect.value` needs a row, and {reason}", hint=hint)
        elif (reason := columns_out_of_reach(step.statements)) is not None:
            hint = "name the columns instead of `*`; write data-modifying WITH as a separate statement"
            yield place.finding(f"`expect.value` cannot be read: {reason}", hint=hint)
    elif step.step.capture_rows:
        reason = rows_out_of_reach(place.statement)  # a capture without rows does no harm for other statements
        if reason is not None:
            yield place.finding(f"`capture` fails: {reason}", hint=hint)
    elif _wants_count(step):
        reason = no_row_count(place.statement)
        if reason is not None:
            yield place.finding(f"`expect.rows` needs a number of rows, and {reason}", hint=hint)


def _wants_count(step: StepSql) -> bool:
    expect = step.step.expect
    return expect is not None and (expect.rows_min is not None or expect.rows_max is not None)


def _endless_repeat(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        repeat = step.step.repeat
        if repeat is None or repeat.until_sql is not None or repeat.carry or not step.statements:
            continue
        reason = no_row_count(step.statements[-1])
        if reason is not None:
            message = f"`until: no_rows` needs a number of rows, and {reason}"
            place = StatementPlace(step, step.statements[-1])
            yield place.finding(message, hint="write `until: SELECT …`, or end the step with the statement that counts")


def _caught_cancel(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.DO, Kind.CREATE_FUNCTION):
        offset = catching_loop(place.statement, place.text) if "loop" in place.lower_text else None
        if offset is not None:
            message = "this handler catches query_canceled in a loop: no cancel and no timeout ends it"
            hint = "raise the error again (RAISE;), leave the loop (EXIT;), or catch other errors only"
            yield place.finding(message, hint=hint, offset=offset)


#: Conditions that are evaluated after a step's worker, in a session of jobplan.
_ASKED_AFTERWARDS = frozenset({"verify", "expect.sql", "repeat.until"})
_OWN_SCHEMA = "pg_temp"


def _own_temporary(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        queries = [query for query in step.queries if query.key in _ASKED_AFTERWARDS]
        made = {relation.name for relation in temporary_relations(step.statements)} if queries else set()
        if not made:
            continue
        for query in queries:
            uses = [use for statement in query.statements for use in query_relations(statement)]
            for use in uses:
                if use.relation.name in made and use.relation.schema in {None, _OWN_SCHEMA}:
                    yield _out_of_reach(subject, step, query, use)


def _out_of_reach(subject: Subject, step: StepSql, query: QuerySql, use: RelationUse) -> Finding:
    name = use.relation.name
    certain = use.relation.schema == _OWN_SCHEMA or name not in subject.once("permanent names", _permanent_names)
    return Finding(
        position=query.sql.position(use.offset),
        message=f"`{query.key}` cannot see the temporary table `{name}`: only the session of the worker has it",
        hint=(
            "end the step with a query that reads it, and check that with `expect: {value: …}`; if another table is "
            "intended, name its schema"
        ),
        step=step.step.id,
        severity=Severity.ERROR if certain else Severity.WARNING,
    )


#: Commands other than queries whose rows can be items. What CALL and EXECUTE return is not known.
_RETURN_ROWS = frozenset({Kind.SHOW, Kind.EXPLAIN})
_MAY_RETURN_ANY = frozenset({Kind.SELECT, Kind.CALL, Kind.EXECUTE})


def _not_one_query(subject: Subject) -> Iterator[Finding]:
    for query in (*subject.preconditions, *subject.holds):
        yield from _refused_query(query, None)
    for step in subject.steps:
        for query in step.queries:
            if query.key != "on_retry":
                yield from _refused_query(query, step.step.id)


def _refused_query(query: QuerySql, step: str | None) -> Iterator[Finding]:
    """Yield why jobplan cannot evaluate a text as one query in a read-only session."""
    lists = query.key == FOR_EACH_SQL
    returns = "rows, which are the items" if lists else "one boolean"
    if len(query.statements) > 1:
        offset = query.statements[1].start
        message = f"`{query.key}` must be one query, and this is the second of {len(query.statements)} statements"
        hint = "write one query, and put everything else into the `sql` of a step"
        yield Finding(position=query.sql.position(offset), message=message, hint=hint, step=step)
        return
    for statement in query.statements:
        refused = refused_read_only(statement)
        hint = "put the statement that writes into a step of its own"
        if refused is not None:
            message = f"`{query.key}` is evaluated in a read-only session, which refuses {refused}"
        elif statement.kind not in _MAY_RETURN_ANY | (_RETURN_ROWS if lists else frozenset()):
            message = f"`{query.key}` must be a query that returns {returns}, and {statement.kind} is not one"
            hint = "write a SELECT, and put other commands into a step of their own"
        else:
            continue
        yield Finding(position=query.sql.position(statement.start), message=message, hint=hint, step=step)


def _permanent_names(subject: Subject) -> frozenset[str]:
    """Return the names that the plan's SQL uses for relations that are not temporary."""
    names: set[str] = set()
    for step in subject.steps:
        made: set[str] = set()
        for statement in step.statements:
            names.update(
                use.relation.name
                for use in query_relations(statement)
                if use.relation.schema not in {None, _OWN_SCHEMA} or use.relation.name not in made
            )
            created = {relation.name for relation in created_relations(statement)}
            (made if is_temporary(statement) else names).update(created)
    return frozenset(names)


def widest(steps: Sequence[Step], pools: Mapping[str, int]) -> int | None:
    """Return an upper bound of the slots that the steps can use, None if the number of items is unknown."""
    weights = {step.id: step.slots * _instances(step) for step in steps}
    chains = _chains(steps)
    groups = _groups(steps, pools)
    free = {step.id for step in groups.pop(None, ())}
    by_chains = sum(max(weights[name] for name in chain) for chain in chains)
    of_the_free = sum(max((weights[name] for name in chain if name in free), default=0.0) for chain in chains)
    bound = min(by_chains, of_the_free + _let_through(groups, weights, pools))
    return None if math.isinf(bound) else int(bound)


def _instances(step: Step) -> float:
    for_each = step.for_each
    if for_each is None:
        return 1.0
    items = math.inf if for_each.sql is not None else float(len(for_each.items))
    return min(items, math.inf if for_each.max_parallel is None else for_each.max_parallel)


def _chains(steps: Sequence[Step]) -> list[list[str]]:
    """Return the steps in chains: each step follows a step that it needs, if that is the last of its chain."""
    needs = {step.id: [need.step for need in step.needs] for step in steps}
    last: dict[str, list[str]] = {}
    chains: list[list[str]] = []
    for name in topological_order(needs):
        before = next((need for need in needs[name] if need in last), None)
        chain = [] if before is None else last.pop(before)
        if not chain:
            chains.append(chain)
        chain.append(name)
        last[name] = chain
    return chains


def _group(step: Step, pools: Mapping[str, int]) -> str | None:
    """Return what limits the step: an exclusive name, or its smallest pool."""
    if step.exclusive:
        return f"exclusive {min(step.exclusive)}"
    known = [pool for pool in step.pools if pool in pools]
    return min(known, key=lambda pool: (pools[pool], pool)) if known else None


def _groups(steps: Sequence[Step], pools: Mapping[str, int]) -> dict[str | None, list[Step]]:
    """Return the steps by what limits them, None for steps without a limit."""
    groups: defaultdict[str | None, list[Step]] = defaultdict(list)
    for step in steps:
        groups[_group(step, pools)].append(step)
    return groups


def _let_through(
    groups: Mapping[str | None, Sequence[Step]], weights: Mapping[str, float], pools: Mapping[str, int]
) -> float:
    """Return how many slots the steps that are limited by pools and exclusive names can use at the same time."""
    total = 0.0
    for group, members in groups.items():
        if group is not None and group in pools:
            most = math.floor(pools[group] * max(step.slots / step.pools[group] for step in members))
            total += min(float(most), sum(weights[step.id] for step in members))
        else:
            total += max(weights[step.id] for step in members)
    return total


#: Seconds that a worker may run without its run.
LONGEST_DETACHED: Final = 86_400.0

# Statements without effect for which another rule reports an error.
_REPORTED_ELSEWHERE = frozenset({Kind.LISTEN, Kind.UNLISTEN, Kind.COPY_TO})
_REPORTED_AT_THE_END = frozenset({Kind.LOCK, Kind.DECLARE_CURSOR})


def _no_limit(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        if step.step.timeout is None:
            message = f"`{step.step.id}` has no limit: its `timeout` is `none`"
            hint = "choose a limit that it normally does not reach"
            cause = Cause(key="timeout", part=f"`{step.step.id}`")
            yield step_finding(step, message, hint=hint, cause=cause)


def _timeout_in_sql(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject):
        if place.statement.kind is Kind.RESET or "statement_timeout" not in place.lower_text:
            continue
        for name, offset in settings_changed(place.statement):
            if name == "statement_timeout":
                message = "statement_timeout has no effect here: the limit of a worker is set when it is launched"
                yield place.finding(message, hint="use the step's `timeout`", offset=offset)


def _long_alone(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        timeout = step.step.timeout
        if not step.step.waits and timeout is not None and timeout > LONGEST_DETACHED:
            message = f"`{step.step.id}` may continue for {format_duration(timeout)} after its run"
            yield step_finding(step, message, hint="set a `timeout` of at most a day, or `on_finish: wait`")


def _without_effect(subject: Subject) -> Iterator[Finding]:
    needed = {need.step for step in subject.steps for need in step.step.needs}
    for step in subject.steps:
        found = step.statements
        if client_parts(step.step.sql.text):
            continue  # another rule reports it
        if not found or _is_reported_elsewhere(found):
            continue
        state = session_state(found)
        # Locks are released when the step ends, whatever else is checked.
        if state is not None and (
            not _says_something(step) or all(state_of(each) is SessionState.LOCK for each in found)
        ):
            message = f"`{step.step.id}` only {state.value}, which has no effect after the step: its session ends"
            yield step_finding(step, message, hint=_IN_ONE_STEP.get(state, "put it into the step that uses it"))
        elif _says_something(step):
            continue
        elif step.step.id not in needed and all(effect(each) is Effect.READS for each in found):
            message = f"`{step.step.id}` only reads, and nothing uses the result or waits for the step"
            yield step_finding(step, message, hint="add `expect`, `verify` or `capture`, or remove the step")


def _is_reported_elsewhere(found: Sequence[Statement]) -> bool:
    """Return whether another rule reports the step: for a refused statement, or a useless lock or cursor."""
    kinds = {each.kind for each in found}
    return not kinds.isdisjoint(_REPORTED_ELSEWHERE) or found[-1].kind in _REPORTED_AT_THE_END


_IN_ONE_STEP: Final = {
    SessionState.SETTINGS: "put it into the step that it is for, or use `settings` there",
    SessionState.LOCK: (
        "put the statements that need the lock after it, in the same step; between steps use `exclusive`, between "
        "runs `concurrency`"
    ),
    SessionState.TEMPORARY: "put the statements that use them into the same step, or create an UNLOGGED table",
}


def _says_something(step: StepSql) -> bool:
    plan_step = step.step
    asks = plan_step.expect is not None or plan_step.verify is not None or plan_step.capture_rows > 0
    return asks or bool(plan_step.preconditions) or plan_step.repeat is not None or not plan_step.waits


def _budget_too_large(subject: Subject) -> Iterator[Finding]:
    slots = subject.plan.budget.slots
    pools = subject.plan.budget.pools
    widths = [widest(steps, pools) for steps in (subject.plan.steps, subject.plan.finally_)]
    width = None if None in widths else max(width for width in widths if width is not None)
    if width is not None and width < slots:
        message = f"`budget.slots` is {slots}, but no more than {width} of them can be in use at the same time"
        yield Finding(
            position=subject.plan.budget.position,
            message=message,
            hint=f"write `slots: {width}`, or remove a `needs` that is not necessary",
        )


def _yield_without_retry(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        retry = step.step.retry
        if step.step.yield_after is None or ("yielded" in retry.on and retry.max_attempts > 1):
            continue
        message = "`yield_after` cancels the step, and nothing tries it again: it fails"
        yield step_finding(step, message, hint="write `retry: {max_attempts: 5, delay: 1m, on: [yielded]}`")


def _yield_of_detach_step(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        if step.step.yield_after is not None and not step.step.waits:
            message = "`yield_after` needs the runner, and the worker of a detach step continues without it"
            yield step_finding(step, message, hint="write `on_finish: wait`, or remove `yield_after`")


def _unused_hold(subject: Subject) -> Iterator[Finding]:
    used = {name for step in written_steps(subject.plan) for name in step.holds}
    for hold in subject.plan.holds:
        if hold.name not in used:
            message = f"the hold `{hold.name}` concerns no step: each has a `holds` without it"
            yield Finding(position=hold.position, message=message, hint="name it in `holds` of a step, or remove it")


def _never_repeated(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        own = step.step
        if own.on_retry is None or own.retry.max_attempts > 1 or _may_run_again(own):
            continue
        message = f"`on_retry` of `{own.id}` runs only before a resume: the step has no `retry`"
        yield Finding(
            position=own.on_retry.start,
            message=message,
            hint="add `retry: {max_attempts: 2}`, if it must also run before another attempt",
            step=own.id,
        )


def _fails_as_a_whole(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        for_each = step.step.for_each
        if for_each is None or for_each.chunk is None or step.template is None:
            continue
        if step.step.retry.max_attempts < 2 and not _may_run_again(step.step):
            message = f"one failed item of `{step.step.id}` fails its whole chunk: nothing is repeated item by item"
            hint = "add `retry`, or `idempotent: true` if a second run does no harm"
            yield step_finding(step, message, hint=hint)


def _may_run_again(step: Step) -> bool:
    """Return whether a failed chunk is repeated without `retry`."""
    return step.idempotent or nature_of(step.sql.text).idempotent


def _takes_no_list(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        for_each = step.step.for_each
        if for_each is None or for_each.chunk is None or step.template is None:
            continue
        sql = step.step.sql
        found = [one for one in references(sql.text) if one.name.partition(".")[0] == for_each.as_]
        for_all = _parses(sql, subject, step, found, frozenset(one.start for one in found))
        if found and not for_all:
            wrong = next((one for one in found if not _parses(sql, subject, step, found, {one.start})), found[0])
            yield Finding(
                position=sql.position(wrong.start),
                message=f"`{wrong}` is a list of the items of a chunk, and the statement does not accept a list there",
                hint="leave out `chunk`: then each instance has one item",
                step=step.step.id,
            )


def _parses(
    sql: Sql, subject: Subject, step: StepSql, items: list[Reference], several: frozenset[int] | set[int]
) -> bool:
    """Return whether the text can be parsed if the references at these places are lists of two."""
    values: dict[str, Value | Listed] = {}
    text, moved = sql.text, 0
    for number, one in enumerate(items):
        name = f"item_{number}"
        written = f":{one.form.value}{name}{one.form.value}"
        text = text[: one.start + moved] + written + text[one.end + moved :]
        moved += len(written) - (one.end - one.start)
        single: Value = 0 if one.form is Form.BARE else name
        values[name] = Listed((single, single)) if one.start in several else single
    for reference in step.template.references if step.template is not None else ():
        known = subject.plan.values.get(reference.name)
        values.setdefault(reference.name, known if known is not None else 0 if reference.form is Form.BARE else "name")
    try:
        parse_statements(render_traced(text, values).text)
    except SqlSyntaxError as error:
        return not error.refused
    except JobplanError:
        return True  # another rule reports it
    return True


RULES = (
    Rule(code="JP360", check=_unsafe_retry),
    Rule(code="JP361", check=_no_result),
    Rule(code="JP362", check=_endless_repeat),
    Rule(code="JP363", check=_caught_cancel),
    Rule(code="JP364", check=_own_temporary),
    Rule(code="JP365", check=_not_one_query),
    Rule(code="JP370", check=_no_limit),
    Rule(code="JP371", check=_timeout_in_sql),
    Rule(code="JP372", check=_long_alone),
    Rule(code="JP373", check=_without_effect),
    Rule(code="JP374", check=_budget_too_large),
    Rule(code="JP387", check=_yield_without_retry),
    Rule(code="JP388", check=_yield_of_detach_step),
    Rule(code="JP389", check=_unused_hold),
    Rule(code="JP397", check=_never_repeated),
    Rule(code="JP398", check=_takes_no_list),
    Rule(code="JP399", check=_fails_as_a_whole),
)
