"""Rules about a plan's keys: limits, retries, expected results, budgets, and steps without effect.

The widest set of steps of which none needs another is costly to find with weights. An upper bound is enough to say
that a budget is too large, and is never a false alarm: the steps are laid into chains in which each needs the one
before, so that of a chain only one step runs at a time; steps that share a pool or an exclusive name are limited to
what that admits, where it is less.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from runner.durations import format_duration
from runner.errors import Cause, Severity
from runner.lint.rule import Finding, Rule, StatementPlace, statements, step_finding
from runner.plan.graph import topological_order
from runner.plan.model import Step
from runner.plan.parsed_sql import QuerySql, StepSql, Subject
from runner.sql.facts import created_relations, is_temporary, settings_changed
from runner.sql.plpgsql_bodies import catching_loop
from runner.sql.relations import RelationUse, query_relations
from runner.sql.returned_rows import (
    columns_out_of_reach,
    no_row_count,
    no_rows_to_read,
    rows_out_of_reach,
    temporary_relations,
)
from runner.sql.statement_effects import Effect, SessionState, effect, session_state, state_of
from runner.sql.statements import Statement, StatementKind
from runner.sql.statements import StatementKind as Kind
from runner.sql.tokens import client_parts
from runner.sql.transactions import outlives_rollback


def _unsafe_retry(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject):
        step = place.step.step
        if step.retry.max_attempts < 2 or step.idempotent:
            continue
        left = outlives_rollback(place.statement)
        if left is not None:
            hint = "take `retry` away, or add `idempotent: true` if a second run does no harm"
            yield place.finding(f"`retry`, but {left}", hint=hint)


def _no_result(subject: Subject) -> Iterator[Finding]:
    for rank, step in enumerate(subject.steps):
        if step.statements and (step.step.expect is not None or step.step.capture_rows):
            place = StatementPlace(rank=rank, step=step, statement=step.statements[-1])
            yield from _missing_result(step, place)


def _missing_result(step: StepSql, place: StatementPlace) -> Iterator[Finding]:
    expect = step.step.expect
    hint = "end the step with a query or RETURNING, or use `verify`"
    if expect is not None and expect.has_value:
        reason = no_rows_to_read(place.statement)
        if reason is not None:
            yield place.finding(f"`expect.value` needs a row, and {reason}", hint=hint)
        elif (reason := columns_out_of_reach(step.statements)) is not None:
            hint = "name the columns instead of `*`; data-modifying WITH is a statement of its own"
            yield place.finding(f"`expect.value` cannot be read: {reason}", hint=hint)
    elif step.step.capture_rows:
        reason = rows_out_of_reach(place.statement)  # to capture nothing of the others does no harm
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
    for rank, step in enumerate(subject.steps):
        repeat = step.step.repeat
        if repeat is None or repeat.until_sql is not None or not step.statements:
            continue
        reason = no_row_count(step.statements[-1])
        if reason is not None:
            message = f"`until: no_rows` needs a number of rows, and {reason}"
            place = StatementPlace(rank=rank, step=step, statement=step.statements[-1])
            yield place.finding(message, hint="write `until: SELECT …`, or end the step with the statement that counts")


def _caught_cancel(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, StatementKind.DO, StatementKind.CREATE_FUNCTION):
        offset = catching_loop(place.statement, place.text) if "loop" in place.lower_text else None
        if offset is not None:
            message = "this handler catches query_canceled in a loop: no cancel and no timeout ends it"
            hint = "raise the error again (RAISE;), leave the loop (EXIT;), or catch other errors only"
            yield place.finding(message, hint=hint, offset=offset)


#: What is evaluated behind a step's worker, on a session of jobplan's own.
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
    certain = use.relation.schema == _OWN_SCHEMA or name not in _permanent_names(subject)
    return Finding(
        position=query.sql.position(use.offset),
        message=f"`{query.key}` cannot see the temporary table `{name}`: only the session of the step's worker has it",
        hint=(
            "end the step with a query that reads it, and judge that by `expect: {value: …}`; if another table is "
            "meant, name its schema"
        ),
        step=step.step.id,
        severity=Severity.ERROR if certain else Severity.WARNING,
    )


def _permanent_names(subject: Subject) -> frozenset[str]:
    """Return the names that the plan's SQL uses where no temporary relation of that name can be meant."""
    known: frozenset[str] | None = subject.shared.get("permanent names")
    if known is None:
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
                if is_temporary(statement):
                    made |= created
                else:
                    names |= created
        known = subject.shared["permanent names"] = frozenset(names)
    return known


_BUILD = "CREATE INDEX CONCURRENTLY orders_customer_idx ON orders (customer_id)"
_VERIFY = "verify: SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('orders_customer_idx')"

RETRY_RULES = (
    Rule(
        code="JP360",
        severity=Severity.WARNING,
        title="retry of what a rollback does not take back",
        why=(
            "What fails in a worker has been rolled back, so most statements may be tried again. Some leave something "
            "behind: CREATE INDEX CONCURRENTLY an INVALID index, so that the next attempt fails because the name is "
            "taken (42P07); DETACH … CONCURRENTLY a partition that is pending detach (55000); a DO or CALL whatever "
            "it committed; a PROGRAM, dblink_exec() and their like whatever they did outside. `idempotent: true` says "
            "that you have looked, and that a second run does no harm."
        ),
        wrong=f"- id: build\n  sql: {_BUILD}\n  retry: {{max_attempts: 3}}\n  {_VERIFY}",
        right=(
            "- id: drop_leftover\n  sql: DROP INDEX CONCURRENTLY IF EXISTS orders_customer_idx\n"
            "  retry: {max_attempts: 3}\n"
            f"- id: build\n  needs: [drop_leftover]\n  sql: {_BUILD}\n  {_VERIFY}"
        ),
        check=_unsafe_retry,
    ),
    Rule(
        code="JP361",
        severity=Severity.ERROR,
        title="A result that the last statement does not give",
        why=(
            "`expect` looks at the result of the last statement of the step. `expect.value` needs a row, which DDL, "
            "DO and maintenance commands never return, and INSERT, UPDATE, DELETE and MERGE only with RETURNING; the "
            "rows of EXECUTE and FETCH cannot be read, also not by `capture`, because only the worker's own session "
            "knows their columns. Nor can `SELECT *` from a temporary table of the step; name the columns. "
            "`expect.rows` needs a number of rows, which the command tag has for queries, INSERT, UPDATE, DELETE, "
            "MERGE and COPY. What any other step has done is a question for `verify`."
        ),
        wrong="- id: analyze\n  sql: ANALYZE audit\n  expect: {rows: 1}",
        right=(
            "- id: analyze\n  sql: ANALYZE audit\n"
            "  verify: SELECT last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'audit'"
        ),
        check=_no_result,
    ),
    Rule(
        code="JP362",
        severity=Severity.ERROR,
        title="until: no_rows where no rows are counted",
        why=(
            "`until: no_rows` looks at the number of rows of the last statement, and DO, DDL and maintenance commands "
            "report none. Most of them report 0, so that the step would be over after its first iteration, with most "
            "of the work not done, and would count as succeeded; SHOW and EXPLAIN would go on until `max_iterations`."
        ),
        wrong=(
            "- id: purge\n  sql: |\n    DO $$ BEGIN DELETE FROM audit WHERE at < now() - interval '1 year'; END $$\n"
            "  repeat: {until: no_rows, max_iterations: 100}"
        ),
        right=(
            "- id: purge\n  sql: DELETE FROM audit WHERE at < now() - interval '1 year'\n"
            "  repeat: {until: no_rows, max_iterations: 100}"
        ),
        check=_endless_repeat,
    ),
    Rule(
        code="JP363",
        severity=Severity.WARNING,
        title="A loop that catches query_canceled",
        why=(
            "A cancel, the step's timeout and also pg_terminate_backend() reach a worker as one error, query_canceled "
            "(57014). A loop that catches it goes on: `jobplan cancel` and Ctrl-C have no effect, the timeout passes, "
            "and only a restart of the server ends the worker before its loop ends. WHEN OTHERS does not catch this "
            "error; a handler has to name query_canceled, its class operator_intervention, or SQLSTATE '57014'. The "
            "rule reads DO blocks and the functions and procedures that the plan creates, not those that exist already."
        ),
        wrong=(
            "- id: drain\n  sql: |\n    DO $$ BEGIN\n      LOOP\n        BEGIN\n          PERFORM process_next();\n"
            "        EXCEPTION WHEN query_canceled THEN\n          RAISE NOTICE 'going on';\n        END;\n"
            "      END LOOP;\n    END $$"
        ),
        right=(
            "- id: drain\n  sql: |\n    DO $$ BEGIN\n      LOOP\n        BEGIN\n          PERFORM process_next();\n"
            "        EXCEPTION WHEN OTHERS THEN\n          RAISE NOTICE 'going on: %', SQLERRM;\n        END;\n"
            "      END LOOP;\n    END $$"
        ),
        check=_caught_cancel,
    ),
    Rule(
        code="JP364",
        severity=Severity.ERROR,
        title="A check of a temporary table of the step",
        why=(
            "`verify`, `expect.sql` and a query of `repeat.until` are evaluated behind the step, on another session: a "
            "temporary table ended with the session of the step's worker. The step would commit, and its check would "
            "fail with 42P01. The rows of the last statement are read in the worker's own session; `expect.value` and "
            "`expect.rows` judge those. It is a warning where other SQL of the plan uses a permanent table of that "
            "name, which the check reads instead."
        ),
        wrong=(
            "- id: pay\n  sql: |\n    CREATE TEMP TABLE due AS SELECT id FROM invoices WHERE paid_at IS NULL;\n"
            "    INSERT INTO payments SELECT id FROM due\n  verify: SELECT count(*) > 0 FROM due"
        ),
        right=(
            "- id: pay\n  sql: |\n    CREATE TEMP TABLE due AS SELECT id FROM invoices WHERE paid_at IS NULL;\n"
            "    INSERT INTO payments SELECT id FROM due;\n    SELECT count(*) > 0 FROM due\n"
            "  expect: {value: true}"
        ),
        check=_own_temporary,
    ),
)


def widest(steps: Sequence[Step], pools: Mapping[str, int]) -> int | None:
    """Return a number of slots that the steps never exceed, None if only the server knows how many items they have."""
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
    """Return the steps in chains: each step goes behind one that it needs, if that is still the last of its chain."""
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
    """Return what holds the step back: an exclusive name, or the scarcest of its pools."""
    if step.exclusive:
        return f"exclusive {min(step.exclusive)}"
    known = [pool for pool in step.pools if pool in pools]
    return min(known, key=lambda pool: (pools[pool], pool)) if known else None


def _groups(steps: Sequence[Step], pools: Mapping[str, int]) -> dict[str | None, list[Step]]:
    """Return the steps by what holds them back, None for those that nothing does."""
    groups: defaultdict[str | None, list[Step]] = defaultdict(list)
    for step in steps:
        groups[_group(step, pools)].append(step)
    return groups


def _let_through(
    groups: Mapping[str | None, Sequence[Step]], weights: Mapping[str, float], pools: Mapping[str, int]
) -> float:
    """Return how many slots those steps can use at once that pools and exclusive names hold back."""
    total = 0.0
    for group, members in groups.items():
        if group is not None and group in pools:
            most = math.floor(pools[group] * max(step.slots / step.pools[group] for step in members))
            total += min(float(most), sum(weights[step.id] for step in members))
        else:
            total += max(weights[step.id] for step in members)
    return total


#: Seconds that a worker may go on without a run that looks after it.
LONGEST_DETACHED: Final = 86_400.0

# Without effect as well, which is an error with a rule of its own.
_TOLD_ELSEWHERE = frozenset({Kind.LISTEN, Kind.UNLISTEN, Kind.COPY_TO})
_TOLD_AT_THE_END = frozenset({Kind.LOCK, Kind.DECLARE_CURSOR})


def _no_limit(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        if step.step.timeout is None:
            message = f"nothing ends `{step.step.id}`: its `timeout` is `none`"
            hint = "choose a limit that it never reaches when all is well"
            cause = Cause(key="timeout", part=f"`{step.step.id}`")
            yield step_finding(step, message, hint=hint, cause=cause)


def _timeout_in_sql(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject):
        if place.statement.kind is Kind.RESET or "statement_timeout" not in place.lower_text:
            continue
        for change in settings_changed(place.statement):
            if change.name == "statement_timeout":
                message = "setting statement_timeout here does nothing: a worker's limit is set when it is launched"
                yield place.finding(message, hint="use the step's `timeout`", offset=change.offset)


def _long_alone(subject: Subject) -> Iterator[Finding]:
    for step in subject.steps:
        timeout = step.step.timeout
        if not step.step.waits and timeout is not None and timeout > LONGEST_DETACHED:
            message = f"`{step.step.id}` may go on for {format_duration(timeout)} with no run that looks after it"
            yield step_finding(step, message, hint="a day is long for a detach step; shorten `timeout`, or wait for it")


def _without_effect(subject: Subject) -> Iterator[Finding]:
    needed = {need.step for step in subject.steps for need in step.step.needs}
    for step in subject.steps:
        found = step.statements
        if client_parts(step.step.sql.text):
            continue  # what it was meant to do is a problem of its own
        if not found or _is_told_elsewhere(found):
            continue
        state = session_state(found)
        if state is not None and (_takes_locks_alone(found) or not _says_something(step)):
            message = f"`{step.step.id}` only {state.value}, and that ends with the step: its session ends"
            yield step_finding(step, message, hint=_IN_ONE_STEP.get(state, "put it into the step that uses it"))
        elif _says_something(step):
            continue
        elif step.step.id not in needed and all(effect(each) is Effect.READS for each in found):
            message = f"`{step.step.id}` only reads, and nothing looks at what it read or waits for it"
            yield step_finding(step, message, hint="add `expect`, `verify` or `capture`, or remove the step")


def _is_told_elsewhere(found: Sequence[Statement]) -> bool:
    """Say whether another rule tells of the step: of what a worker refuses, and of a lock or cursor at the end."""
    kinds = {each.kind for each in found}
    return not kinds.isdisjoint(_TOLD_ELSEWHERE) or found[-1].kind in _TOLD_AT_THE_END


def _takes_locks_alone(found: Sequence[Statement]) -> bool:
    """Say whether a step does nothing but take locks: that it has got one is not worth knowing when it is gone."""
    return all(state_of(each) is SessionState.LOCK for each in found)


_IN_ONE_STEP: Final = {
    SessionState.SETTINGS: "put it into the step that it is for, or use `settings` there",
    SessionState.LOCK: (
        "put the statements that need the lock behind it, in the same step; between steps use `exclusive`, between "
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
        message = f"`budget.slots` is {slots}, but no more than {width} of them can ever be in use at once"
        yield Finding(
            position=subject.plan.budget.position,
            message=message,
            hint=f"write `slots: {width}`, or remove a `needs` that is none",
        )


_PURGE = "DELETE FROM audit WHERE at < now() - interval '1 year'"
_COUNT = "- id: orphans\n  sql: SELECT count(*) FROM order_lines WHERE order_id IS NULL"

HYGIENE_RULES = (
    Rule(
        code="JP370",
        severity=Severity.WARNING,
        title="timeout: none",
        why=(
            "A worker that nothing ends holds its locks and its slot until somebody finds it, also long after the "
            "runner has gone: the server's own limit is the only one that survives the runner. A generous limit costs "
            "nothing when all is well."
        ),
        wrong=f"- id: purge\n  timeout: none\n  sql: {_PURGE}",
        right=f"- id: purge\n  timeout: 6h\n  sql: {_PURGE}",
        check=_no_limit,
    ),
    Rule(
        code="JP371",
        severity=Severity.WARNING,
        title="statement_timeout in SQL",
        why=(
            "The limit of a worker is armed once, when it is launched, and bounds its whole text. SET "
            "statement_timeout inside that text changes the setting's value and nothing else: no timer is started. "
            "The step's `timeout` is what the server enforces."
        ),
        wrong=f"- id: purge\n  sql: |\n    SET statement_timeout = '5min';\n    {_PURGE}",
        right=f"- id: purge\n  timeout: 5m\n  sql: {_PURGE}",
        check=_timeout_in_sql,
    ),
    Rule(
        code="JP372",
        severity=Severity.WARNING,
        title="A detach step with more than a day",
        why=(
            "A detach step goes on when its run is over, with its locks, its snapshot and a worker slot of the "
            "server, and its `timeout` is the only thing that stops it. After a day nobody remembers it, the next run "
            "of the plan may start a second one beside it, and a snapshot that old keeps VACUUM from cleaning "
            "anything."
        ),
        wrong="- id: refresh\n  on_finish: detach\n  timeout: 3d\n  sql: CALL refresh_reports()",
        right="- id: refresh\n  on_finish: detach\n  timeout: 6h\n  sql: CALL refresh_reports()",
        check=_long_alone,
    ),
    Rule(
        code="JP373",
        severity=Severity.WARNING,
        title="A step without effect",
        why=(
            "The rows of a query stay in the worker unless `expect`, `verify` or `capture` looks at them, so a step "
            "that only reads and that no step needs costs time and tells nothing. Each step runs in a session of its "
            "own, which ends with it: so a step that only SETs (or calls set_config), takes an advisory lock, makes "
            "temporary tables or views, PREPAREs or LOADs leaves nothing for the steps after it. The rule counts a "
            "query as reading only if "
            "every function in it is known to; steps with `on_finish: detach` are exempt, because reading alone warms "
            "a cache."
        ),
        wrong=_COUNT,
        right=f"{_COUNT}\n  expect: {{value: 0}}",
        check=_without_effect,
    ),
    Rule(
        code="JP374",
        severity=Severity.WARNING,
        title="A budget that the plan cannot use",
        why=(
            "`budget.slots` is what a DBA reads to know how much of the server a run may take. Slots that no set of "
            "steps can ever fill at once say more than is true, and often a `needs` too many is the cause. The number "
            "in the message is an upper bound, so the warning is never a false alarm: of steps in a chain of needs "
            "only one runs at a time, and pools and exclusive names hold back the rest. `for_each: {sql: …}` without "
            "`max_parallel` can fill any budget."
        ),
        wrong=(
            "budget: {slots: 4}\nsteps:\n  - id: fill\n    sql: INSERT INTO report SELECT * FROM source\n"
            "  - id: tidy\n    needs: [fill]\n    sql: VACUUM report"
        ),
        right=(
            "budget: {slots: 1}\nsteps:\n  - id: fill\n    sql: INSERT INTO report SELECT * FROM source\n"
            "  - id: tidy\n    needs: [fill]\n    sql: VACUUM report"
        ),
        check=_budget_too_large,
    ),
)


RULES = (*RETRY_RULES, *HYGIENE_RULES)
