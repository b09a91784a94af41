"""What a statement requires of the transaction that it runs in, and what a rollback of it does not undo.

A worker runs its whole text as one transaction; a text that is a single statement runs as it would by itself in psql
(pg_background.md#one-statement-or-one-transaction). Most functions here return a reason, as a clause that begins with
the command, or None. A failed text has no effect and can be run again; the exceptions are in `outlives_rollback`.
A value that a statement adds to an enum type can be used only after its transaction has committed, unless that
transaction created the type as well (enum.c, EnumUncommitted): `added_value` and `value_used`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from runner.sql.builtin_functions import BEFORE_WRITING, OUTSIDE_TRANSACTION
from runner.sql.command_objects import main_relation
from runner.sql.command_options import enabled, is_concurrent, options
from runner.sql.function_calls import functions_called
from runner.sql.relations import Relation, relation_named
from runner.sql.routine_bodies import ENDS, body_of, plpgsql_body
from runner.sql.statements import QUERIES, Statement, StatementKind
from runner.sql.syntax_tree import find, label, string_constant, strings, unwrap
from runner.structs import Struct

_K = StatementKind

_NO_BLOCK = "cannot run inside a transaction block"


def must_stand_alone(statement: Statement) -> str | None:
    """Return why the statement cannot share a text with another one: the server would raise 25001 or 2D000."""
    if statement.kind is _K.DO:
        ends = _body_commands(statement) & ENDS
        return "DO with COMMIT or ROLLBACK in it cannot end a transaction that it shares" if ends else None
    decide = _ALONE.get(statement.kind)
    what = decide(statement) if decide is not None else None
    return f"{what} {_NO_BLOCK}" if what else None


def may_have_to_stand_alone(statement: Statement) -> str | None:
    """Return the condition, known to the server only, that requires the statement to run alone."""
    if must_stand_alone(statement) is not None:
        return None
    match statement.kind:
        case _K.REINDEX | _K.CLUSTER:
            return f"{statement.kind} {_NO_BLOCK} if the table or index is partitioned"
        case _K.CALL:
            return "CALL cannot share a transaction if the procedure ends it"
        case _K.DO if plpgsql_body(statement) is None or "CALL" in _body_commands(statement):
            return "DO cannot share a transaction if what it runs ends it"
        case _K.DROP_SUBSCRIPTION | _K.ALTER_SUBSCRIPTION:
            return f"{statement.kind} {_NO_BLOCK} if it concerns the replication slot"
    return None


def cannot_stand_alone(statement: Statement) -> str | None:
    """Return why the statement is refused (25P01), or does nothing, without others in the same text."""
    match statement.kind:
        case _K.LOCK:
            return "LOCK TABLE needs other statements in the same transaction"
        case _K.DECLARE_CURSOR if not statement.node.options & _CURSOR_HOLD:
            return "DECLARE CURSOR needs other statements in the same transaction"
        case _K.SET_CONSTRAINTS | _K.SET_TRANSACTION:
            return f"{statement.kind} concerns the other statements of its transaction"
        case _K.SET if statement.node.is_local:
            return "SET LOCAL concerns the other statements of its transaction"
    return None


def may_come_second(statement: Statement, *, read_committed: bool) -> bool:
    """Return whether the statement has the same effect after a statement that writes, in the same transaction.

    `read_committed` is whether that is the isolation level; in the others the first query fixes what all of them see,
    and it matters that a lock was taken before.
    """
    match statement.kind:
        case _K.SET_TRANSACTION | _K.TRANSACTION | _K.LISTEN:
            return False
        case _K.SET | _K.RESET:
            return not (statement.node.name or "").startswith("transaction_")
        case _K.LOCK:
            return read_committed
        case _K.SELECT:
            return not any(call.name in BEFORE_WRITING for call in functions_called(statement))
    return True


def refused_by_worker(statement: Statement) -> str | None:
    """Return why a worker of pg_background refuses the statement."""
    match statement.kind:
        case _K.TRANSACTION:
            return "BEGIN, COMMIT, ROLLBACK and savepoints are not possible: a worker's text is one transaction"
        case _K.LISTEN:
            return "LISTEN is not possible in a background worker"
        case _K.COPY_FROM if _is_client_copy(statement):
            return "COPY FROM STDIN is not possible: a worker has no client that could send the data"
    return None


def without_effect(statement: Statement) -> str | None:
    """Return why a worker accepts the statement although it has no effect: it concerns a client or an ended session."""
    match statement.kind:
        case _K.COPY_TO if _is_client_copy(statement):
            return "COPY TO STDOUT sends its rows nowhere: a worker has no client"
        case _K.UNLISTEN | _K.DEALLOCATE | _K.CLOSE | _K.DISCARD:
            return f"{statement.kind} concerns a session, and a worker's session is new"
    return None


def is_session_only(statement: Statement) -> bool:
    """Return whether all that the statement does ends with its session: a worker's ends with its text."""
    return statement.kind in _SESSION_ONLY


_SESSION_ONLY = frozenset(
    {
        *(_K.SET, _K.RESET, _K.SET_TRANSACTION, _K.SET_CONSTRAINTS, _K.PREPARE, _K.DEALLOCATE, _K.DISCARD, _K.LOAD),
        *(_K.DECLARE_CURSOR, _K.FETCH, _K.MOVE, _K.CLOSE, _K.LISTEN, _K.UNLISTEN, _K.LOCK),
    }
)
_CURSOR_HOLD = 0x0020  # CURSOR_OPT_HOLD, parsenodes.h


def waits_for_transactions(statement: Statement) -> bool:
    """Return whether the command waits for other transactions to end that hold no conflicting lock.

    Builds CONCURRENTLY wait for every older snapshot in the database; the other commands wait for every transaction
    that uses the table.
    """
    return statement.kind in _WAITING and is_concurrent(statement)


def _is_client_copy(statement: Statement) -> bool:
    return not statement.node.filename


def _concurrently(name: str) -> Callable[[Statement], str | None]:
    return lambda statement: name if is_concurrent(statement) else None


def _reindex(statement: Statement) -> str | None:
    if not statement.node.HasField("relation"):
        return "REINDEX of a schema or database"
    return "REINDEX CONCURRENTLY" if is_concurrent(statement) else None


def _create_subscription(statement: Statement) -> str | None:
    connects = enabled(statement, "connect", default=True)
    creates_slot = enabled(statement, "create_slot", default=connects)
    return "CREATE SUBSCRIPTION that creates a replication slot" if creates_slot else None


def _alter_subscription(statement: Statement) -> str | None:
    what = label(statement.node, "kind").removeprefix("ALTER_SUBSCRIPTION_")
    refreshes = what.endswith("_PUBLICATION") and enabled(statement, "refresh", default=True)
    return "ALTER SUBSCRIPTION that refreshes" if refreshes or what == "REFRESH" else None


_ALONE: Mapping[StatementKind, Callable[[Statement], str | None]] = {
    **dict.fromkeys((_K.VACUUM, _K.CREATE_DATABASE, _K.DROP_DATABASE), lambda statement: str(statement.kind)),
    **dict.fromkeys((_K.CREATE_TABLESPACE, _K.DROP_TABLESPACE, _K.ALTER_SYSTEM), lambda one: str(one.kind)),
    _K.ALTER_DATABASE: lambda one: "ALTER DATABASE … SET TABLESPACE" if "tablespace" in options(one) else None,
    _K.CREATE_INDEX: _concurrently("CREATE INDEX CONCURRENTLY"),
    _K.DROP_INDEX: _concurrently("DROP INDEX CONCURRENTLY"),
    _K.ALTER_TABLE: _concurrently("DETACH PARTITION … CONCURRENTLY"),
    _K.REINDEX: _reindex,
    _K.CLUSTER: lambda one: None if one.node.HasField("relation") else "CLUSTER without a table",
    _K.DISCARD: lambda one: "DISCARD ALL" if label(one.node, "target") == "DISCARD_ALL" else None,
    _K.CREATE_SUBSCRIPTION: _create_subscription,
    _K.ALTER_SUBSCRIPTION: _alter_subscription,
}


_WAITING = frozenset({_K.CREATE_INDEX, _K.DROP_INDEX, _K.REINDEX, _K.ALTER_TABLE})


def _body_commands(statement: Statement) -> frozenset[str]:
    """Return the first words of the commands in the body of a DO, as if it were in PL/pgSQL."""
    body = body_of(statement)
    return body.commands if body is not None else frozenset()


def row_may_come_first(statements: Sequence[Statement]) -> bool:
    """Return whether a statement that writes a row can precede these in their transaction without effects.

    That is with the isolation level READ COMMITTED; not where there is no such transaction, or may be none.
    """
    first = statements[0]
    if len(statements) == 1 and (
        first.kind in (_K.CALL, _K.DO)
        or must_stand_alone(first) is not None
        or may_have_to_stand_alone(first) is not None
        or is_session_only(first)
    ):
        return False
    return all(may_come_second(statement, read_committed=True) for statement in statements)


_COPY = frozenset({_K.COPY_FROM, _K.COPY_TO})
_WITH_CALLS = QUERIES | {_K.CREATE_TABLE_AS}


def outlives_rollback(statement: Statement) -> str | None:
    """Return what a failed attempt leaves behind that changes the effect of a second one, None if nothing.

    CALL counts, because only the server knows whether the procedure commits.
    """
    kind = statement.kind
    if kind is _K.CREATE_INDEX and is_concurrent(statement):
        return "a failed CREATE INDEX CONCURRENTLY leaves an INVALID index that has the name"
    if kind is _K.ALTER_TABLE and is_concurrent(statement):
        return f"a failed DETACH … CONCURRENTLY leaves the partition of `{main_relation(statement)}` half detached"
    if kind is _K.CALL or (kind is _K.DO and must_stand_alone(statement) is not None):
        return f"what the {'procedure' if kind is _K.CALL else 'DO block'} committed before it failed stays"
    if kind in _COPY and statement.node.is_program:
        return f"{kind} PROGRAM has run its program, whatever becomes of the transaction"
    called = functions_called(statement) if kind in _WITH_CALLS else ()
    outside = next((call.name for call in called if call.name in OUTSIDE_TRANSACTION), None)
    return f"what {outside}() does is outside of the transaction" if outside is not None else None


class AddedValue(Struct, frozen=True, kw_only=True):
    """A value that ALTER TYPE … ADD VALUE adds; `guarded` with IF NOT EXISTS, so that it may be there already."""

    type: Relation
    label: str
    guarded: bool


class ValueUse(Struct, frozen=True):
    """A constant with the text of an added value; `certain` if it is cast to the type."""

    offset: int
    certain: bool


def added_value(statement: Statement) -> AddedValue | None:
    """Return the value that the statement adds to an enum, None if it adds none."""
    node = statement.node
    if node.DESCRIPTOR.name != "AlterEnumStmt" or node.old_val:
        return None
    type_ = relation_named(strings(node.type_name))
    return AddedValue(type=type_, label=node.new_val, guarded=bool(node.skip_if_new_val_exists))


def value_used(value: AddedValue, statement: Statement) -> ValueUse | None:
    """Return a use of an added value in another statement: the first certain one, or else the first one."""
    if statement.kind in {_K.ALTER_TYPE, _K.COMMENT}:
        return None
    if statement.kind is _K.DO:
        bodies = (unwrap(option.arg).sval for option in map(unwrap, statement.node.args) if option.defname == "as")
        return ValueUse(statement.start, certain=False) if any(f"'{value.label}'" in one for one in bodies) else None
    return next(_uses(value, statement), None)


def _uses(value: AddedValue, statement: Statement) -> Iterator[ValueUse]:
    for cast in find(statement.node, "TypeCast"):
        of_type = relation_named(strings(cast.type_name.names)).may_be(value.type)
        if of_type and string_constant(cast.arg) == value.label:
            yield ValueUse(statement.offset(unwrap(cast.arg)), certain=True)
    for constant in find(statement.node, "A_Const"):
        if string_constant(constant) == value.label:
            yield ValueUse(statement.offset(constant), certain=False)
