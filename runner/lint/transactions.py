"""Rules about statements that a worker cannot run, or that are over before anything could come of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runner.errors import Severity
from runner.lint.places import Place, statements
from runner.lint.rule import Finding, Rule, StepSql, Subject
from runner.sql.facts import parameter_symbols
from runner.sql.kinds import StatementKind as Kind
from runner.sql.parse import Statement
from runner.sql.sessions import SessionState, session_state, state_of
from runner.sql.transactions import cannot_stand_alone, refused_by_worker, without_effect

_SYMBOL = re.compile(r"\$[0-9]")
# Nothing that comes after a lock or a cursor makes use of it if it is one of these.
_IDLE = frozenset(
    {
        *(Kind.LOCK, Kind.DECLARE_CURSOR, Kind.CLOSE, Kind.SET, Kind.RESET, Kind.SET_TRANSACTION),
        *(Kind.SET_CONSTRAINTS, Kind.DEALLOCATE, Kind.DISCARD),
    }
)


def _transaction_control(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.TRANSACTION):
        word = place.own_text.split(maxsplit=1)[0].upper()
        message = f"a worker refuses {word}: the whole text of a step is one transaction already"
        yield place.finding(message, hint="leave it out; what must commit by itself is a step of its own")


def _listening(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.LISTEN, Kind.UNLISTEN):
        if place.statement.kind is Kind.LISTEN:
            yield place.finding("a worker refuses LISTEN: it has no client that could be told", hint="NOTIFY works")
        else:
            message = "UNLISTEN does nothing: the session of a worker is new, and it cannot LISTEN"
            yield place.finding(message, hint="leave it out", severity=Severity.WARNING)


def _client_copy(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.COPY_FROM, Kind.COPY_TO):
        refused = refused_by_worker(place.statement)
        reason = refused or without_effect(place.statement)
        if reason is not None:
            # To read every row without keeping one can be what is meant: it finds damaged pages.
            severity = Severity.WARNING if refused is None else None
            hint = "name a file or a PROGRAM of the server, or use psql"
            if place.statement.kind is Kind.COPY_FROM:
                hint = (
                    "write few rows as INSERT … VALUES; name a file or a PROGRAM of the server; or load them with psql"
                )
            yield place.finding(reason, hint=hint, severity=severity)


def _useless_lock(subject: Subject) -> Iterator[Finding]:
    for rank, step in enumerate(subject.steps):
        yield from reversed(list(_at_the_end(rank, step)))


def _at_the_end(rank: int, step: StepSql) -> Iterator[Finding]:
    lone = len(step.statements) == 1
    for statement in reversed(step.statements):
        advisory = not lone and _is_useless_advisory(step, statement)
        if statement.kind not in _IDLE and not advisory:
            return
        place = Place(rank=rank, step=step, statement=statement)
        severity = Severity.ERROR if lone and cannot_stand_alone(statement) is not None else None
        if statement.kind is Kind.LOCK or advisory:
            message = "nothing runs under this lock: it is released when the text of the step ends"
            hint = "write the statements that need the lock behind it, in the same step"
            yield place.finding(message, hint=hint, severity=severity)
        elif statement.kind is Kind.DECLARE_CURSOR:
            message = "nothing reads this cursor: it is closed when the text of the step ends"
            hint = "FETCH from it in the same step, or write the query itself"
            yield place.finding(message, hint=hint, severity=severity)


def _is_useless_advisory(step: StepSql, statement: Statement) -> bool:
    """Say whether a query takes advisory locks only, in a text that does more: one that does not has another rule."""
    looked_at = step.step.expect is not None or step.step.capture_rows > 0
    locks = statement.kind is Kind.SELECT and state_of(statement) is SessionState.LOCK
    return locks and not looked_at and session_state(step.statements) is None


def _numbered_parameters(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject):
        if not _SYMBOL.search(place.own_text):
            continue
        for symbol in parameter_symbols(place.statement):
            message = f"nothing gives ${symbol.number} a value"
            hint = "declare it in `params` and write :'name', or bare :name for a number"
            yield place.finding(message, hint=hint, offset=symbol.offset)


RULES = (
    Rule(
        code="JP310",
        severity=Severity.ERROR,
        title="Transaction control",
        why=(
            "pg_background runs the whole text of a step as one transaction and refuses BEGIN, COMMIT, ROLLBACK, "
            "SAVEPOINT and PREPARE TRANSACTION wherever they stand in it (SQLSTATE 0A000). The statements before the "
            "refused one are rolled back with it. All or nothing is what a step gives anyway; what must be committed "
            "before the next statement starts is a step of its own, connected by `needs`."
        ),
        wrong=(
            "- id: close_books\n  sql: |\n    BEGIN;\n    UPDATE accounts SET open = false WHERE year < 2025;\n"
            "    INSERT INTO audit VALUES ('closed');\n    COMMIT"
        ),
        right=(
            "- id: close_books\n  sql: |\n    UPDATE accounts SET open = false WHERE year < 2025;\n"
            "    INSERT INTO audit VALUES ('closed')"
        ),
        check=_transaction_control,
    ),
    Rule(
        code="JP311",
        severity=Severity.ERROR,
        title="LISTEN or UNLISTEN",
        why=(
            "A background worker has no client, so PostgreSQL refuses LISTEN in it (0A000), and there is nothing that "
            "UNLISTEN could end (a warning: it does nothing). NOTIFY is fine: it reaches the sessions that listen when "
            "the step commits."
        ),
        wrong="- id: tell\n  sql: LISTEN cache_invalidated",
        right="- id: tell\n  sql: NOTIFY cache_invalidated",
        check=_listening,
    ),
    Rule(
        code="JP312",
        severity=Severity.ERROR,
        title="COPY from or to a client",
        why=(
            "COPY FROM STDIN reads from the client and COPY TO STDOUT writes to it, and a background worker has none. "
            "The first fails (08003), an error. The second reports success, and the rows have gone nowhere: a warning, "
            "because it still reads the whole table. A file or a PROGRAM of the server works, for roles that may use "
            "it."
        ),
        wrong="- id: load\n  sql: COPY orders FROM STDIN (FORMAT csv)",
        right="- id: load\n  sql: COPY orders FROM '/var/lib/postgresql/import/orders.csv' (FORMAT csv)",
        check=_client_copy,
    ),
    Rule(
        code="JP313",
        severity=Severity.WARNING,
        title="A lock or a cursor that nothing uses",
        why=(
            "Locks are held, and cursors open, until their transaction ends, and a step's transaction ends with its "
            "text. A LOCK, an advisory lock or a DECLARE with nothing behind it protects and reads nothing, also no "
            "later step: each runs "
            "in a session of its own. Behind other statements that is a warning; as the only statement of a step the "
            "server refuses them (25P01), which is an error."
        ),
        wrong=(
            "- id: freeze\n  sql: |\n    UPDATE prices SET amount = amount * 1.02 WHERE country = 'DE';\n"
            "    LOCK TABLE prices IN EXCLUSIVE MODE\n  lock_timeout: 5s"
        ),
        right=(
            "- id: freeze\n  sql: |\n    LOCK TABLE prices IN EXCLUSIVE MODE;\n"
            "    UPDATE prices SET amount = amount * 1.02 WHERE country = 'DE'\n  lock_timeout: 5s"
        ),
        check=_useless_lock,
    ),
    Rule(
        code="JP314",
        severity=Severity.ERROR,
        title="A numbered parameter",
        why=(
            "`$1` is given a value by the client that prepares a statement, and a worker's SQL is plain text that "
            "nobody prepares: the server fails with 42P02. Parameters of a plan have names, `:'name'` for a quoted "
            "value, and are replaced before the text is sent. In PREPARE and in the body of a function `$1` means "
            "something, and is left alone."
        ),
        wrong="- id: purge\n  sql: DELETE FROM staging WHERE run = $1",
        right="- id: purge\n  sql: DELETE FROM staging WHERE run = :'run.id'",
        check=_numbered_parameters,
    ),
)
