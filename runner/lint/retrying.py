"""Rules about what a step's keys ask of its statements: to run again, to give a result, and to stop."""

from __future__ import annotations

from collections.abc import Iterator

from runner.errors import Severity
from runner.lint.places import Place, statements
from runner.lint.rule import Finding, QuerySql, Rule, StepSql, Subject
from runner.sql.bodies import catching_loop
from runner.sql.details import is_temporary
from runner.sql.facts import created_relations
from runner.sql.kinds import StatementKind
from runner.sql.relations import RelationUse, query_relations
from runner.sql.results import (
    columns_out_of_reach,
    no_row_count,
    no_rows_to_read,
    rows_out_of_reach,
    temporary_relations,
)
from runner.sql.rollback import outlives_rollback


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
            place = Place(rank=rank, step=step, statement=step.statements[-1])
            yield from _missing_result(step, place)


def _missing_result(step: StepSql, place: Place) -> Iterator[Finding]:
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
            place = Place(rank=rank, step=step, statement=step.statements[-1])
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

RULES = (
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
