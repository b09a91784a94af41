"""Rules about a plan that runs, and still does not say what its author means: limits, steps without effect, budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from runner.durations import format_duration
from runner.errors import Cause, Severity
from runner.lint.places import statements, step_finding
from runner.lint.rule import Finding, Rule, StepSql, Subject
from runner.lint.width import widest
from runner.sql.effects import Effect, effect
from runner.sql.facts import settings_changed
from runner.sql.kinds import StatementKind as Kind
from runner.sql.parse import Statement
from runner.sql.psql import client_parts
from runner.sql.sessions import SessionState, session_state, state_of

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

RULES = (
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
