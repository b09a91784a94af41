"""Rules about statements that a worker cannot run, or that are over before anything could come of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runner.errors import Severity
from runner.lint.places import Place, statements
from runner.lint.rule import Finding, Rule, StepSql, Subject
from runner.sql.facts import parameter_symbols
from runner.sql.kinds import StatementKind as Kind
from runner.sql.transactions import refused_by_worker, without_effect

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
            yield place.finding("UNLISTEN does nothing: the session of a worker is new, and it cannot LISTEN")


def _client_copy(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.COPY_FROM, Kind.COPY_TO):
        reason = refused_by_worker(place.statement) or without_effect(place.statement)
        if reason is not None:
            yield place.finding(reason, hint="name a file or a PROGRAM of the server, or use psql")


def _useless_lock(subject: Subject) -> Iterator[Finding]:
    for rank, step in enumerate(subject.steps):
        yield from reversed(list(_at_the_end(rank, step)))


def _at_the_end(rank: int, step: StepSql) -> Iterator[Finding]:
    for statement in reversed(step.statements):
        if statement.kind not in _IDLE:
            return
        place = Place(rank=rank, step=step, statement=statement)
        if statement.kind is Kind.LOCK:
            message = "nothing runs under this lock: it is released when the text of the step ends"
            yield place.finding(message, hint="write the statements that need the lock behind it, in the same step")
        elif statement.kind is Kind.DECLARE_CURSOR:
            message = "nothing reads this cursor: it is closed when the text of the step ends"
            yield place.finding(message, hint="FETCH from it in the same step, or write the query itself")


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
            "UNLISTEN could end. NOTIFY is fine: it reaches the sessions that listen when the step commits."
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
            "The first fails (08003). The second is worse: it reports success, and the rows have gone nowhere. A file "
            "or a PROGRAM of the server works, for roles that may use it."
        ),
        wrong="- id: export\n  sql: COPY orders TO STDOUT (FORMAT csv)",
        right="- id: export\n  sql: COPY orders TO '/var/lib/postgresql/export/orders.csv' (FORMAT csv)",
        check=_client_copy,
    ),
    Rule(
        code="JP313",
        severity=Severity.ERROR,
        title="A lock or a cursor that nothing uses",
        why=(
            "Locks are held, and cursors open, until their transaction ends, and a step's transaction ends with its "
            "text. A LOCK or DECLARE with nothing behind it protects and reads nothing, also no later step: each runs "
            "in a session of its own. As the only statement of a step the server refuses them (25P01)."
        ),
        wrong="- id: freeze\n  sql: LOCK TABLE prices IN EXCLUSIVE MODE\n  lock_timeout: 5s",
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
