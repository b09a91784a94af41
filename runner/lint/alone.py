"""Rules about statements that PostgreSQL runs only by themselves, outside of any transaction that others share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from runner.errors import Cause, Severity
from runner.lint.places import Place, statements
from runner.lint.rule import Finding, Rule, Subject
from runner.sql.bodies import called_procedure, committing_procedure, ends_transaction_for_sure
from runner.sql.kinds import StatementKind as Kind
from runner.sql.relations import Relation
from runner.sql.transactions import must_stand_alone


def _among_others(subject: Subject, *kinds: Kind) -> Iterator[Place]:
    return (place for place in statements(subject, *kinds) if len(place.step.statements) > 1)


def _alone(subject: Subject) -> Iterator[Finding]:
    for place in _among_others(subject):
        reason = None if place.statement.kind is Kind.DO else must_stand_alone(place.statement)
        if reason is not None:
            count = len(place.step.statements)
            message = f"{reason}, and the {count} statements of this step are one"
            hint = "make it a step of its own, and connect the steps with `needs`"
            cause = Cause(key=place.step.step.id, part=f"{place.statement.kind} behind it", hint=hint)
            yield place.finding(message, hint=hint, cause=cause)


def _commits_in_company(subject: Subject) -> Iterator[Finding]:
    places = list(_among_others(subject, Kind.DO, Kind.CALL))
    if not places:
        return
    committing: defaultdict[str, set[Relation]] = defaultdict(set)
    certainly: set[Relation] = set()
    for place in statements(subject, Kind.CREATE_FUNCTION):
        procedure = committing_procedure(place.statement)
        if procedure is not None:
            committing[procedure.name].add(procedure)
            if ends_transaction_for_sure(place.statement):
                certainly.add(procedure)
    for place in places:
        statement = place.statement
        called = called_procedure(statement)
        if must_stand_alone(statement) is not None:
            message = "the DO block ends a transaction that it shares with the other statements of the step"
            certain = ends_transaction_for_sure(statement)
        elif called is not None and any(called.may_be(one) for one in committing.get(called.name, ())):
            message = f"`{called}` ends a transaction that it shares with the other statements of the step"
            certain = called in certainly
        else:
            continue
        if not certain:
            message = f"{message} if it reaches its COMMIT or ROLLBACK"
        hint = "make it a step of its own, and connect the steps with `needs`"
        yield place.finding(message, hint=hint, severity=None if certain else Severity.WARNING)


RULES = (
    Rule(
        code="JP320",
        severity=Severity.ERROR,
        title="A statement that must stand alone",
        why=(
            "Some commands commit on their way or cannot be rolled back, so PostgreSQL refuses them inside a "
            "transaction block (25001): VACUUM, everything CONCURRENTLY that builds, drops or detaches, REINDEX of a "
            "schema or database, CLUSTER without a table, CREATE and DROP DATABASE or TABLESPACE, ALTER SYSTEM, "
            "DISCARD ALL, and subscriptions that create or refresh. Several statements in one step are one "
            "transaction. Alone in its step each of them works, and the step can have a timeout and a retry of its "
            "own."
        ),
        wrong="- id: tidy\n  sql: |\n    VACUUM orders;\n    VACUUM order_lines",
        right=(
            "- id: tidy_orders\n  sql: VACUUM orders\n"
            "- id: tidy_lines\n  needs: [tidy_orders]\n  sql: VACUUM order_lines"
        ),
        check=_alone,
    ),
    Rule(
        code="JP321",
        severity=Severity.ERROR,
        title="COMMIT inside DO or CALL, beside other statements",
        why=(
            "A DO block or a procedure may end transactions only if it is the whole text of the step; beside other "
            "statements the transaction is not its own, and its first COMMIT or ROLLBACK fails with 2D000. That is an "
            "error if the COMMIT is always reached, and a warning if a condition decides. jobplan reads DO blocks, and "
            "procedures that the plan itself creates; what other procedures do, only the server knows."
        ),
        wrong=(
            "- id: purge\n  sql: |\n    SET work_mem = '256MB';\n    DO $$ BEGIN\n"
            "      DELETE FROM audit WHERE at < now() - interval '1 year'; COMMIT;\n"
            "      DELETE FROM visits WHERE at < now() - interval '1 year'; COMMIT;\n    END $$"
        ),
        right=(
            "- id: purge\n  settings: {work_mem: 256MB}\n  sql: |\n    DO $$ BEGIN\n"
            "      DELETE FROM audit WHERE at < now() - interval '1 year'; COMMIT;\n"
            "      DELETE FROM visits WHERE at < now() - interval '1 year'; COMMIT;\n    END $$"
        ),
        check=_commits_in_company,
    ),
)
