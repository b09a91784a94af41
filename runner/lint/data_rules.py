"""Rules about statements with a large effect: table rewrites, lost data, effects on the whole server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runner.lint.rule import Created, Finding, Rule, StatementPlace, created_in, on_existing, statements
from runner.plan.parsed_sql import Subject
from runner.sql.alter_table import AlterAction, AlterKind, Constraint, Rewrite, alter_actions
from runner.sql.command_objects import (
    constrained_domain,
    created_relations,
    is_temporary,
    main_relation,
    moved_tablespace,
    renamed,
    steady_function,
    vacuumed,
)
from runner.sql.command_options import enabled, is_guarded
from runner.sql.function_calls import server_wide
from runner.sql.plpgsql_bodies import BodyCommand, commands_in_body, writing_loop
from runner.sql.relations import Relation
from runner.sql.statement_effects import Loss, losses
from runner.sql.statements import Statement
from runner.sql.statements import StatementKind as Kind
from runner.sql.unfiltered_writes import unfiltered_writes

# The name of every function that acts on the whole server begins so; this test avoids a tree walk.
_SERVER_FUNCTION = "pg_"
_QUERIES = frozenset({Kind.SELECT, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE})
# Only a function in them can have an effect outside of the database.
_OF_DATABASE = _QUERIES | {
    *(Kind.VACUUM, Kind.ANALYZE, Kind.REINDEX, Kind.REFRESH_MATERIALIZED_VIEW, Kind.TRUNCATE, Kind.DO, Kind.CALL),
    *(Kind.CREATE_TABLE, Kind.CREATE_TABLE_AS, Kind.CREATE_INDEX, Kind.ALTER_TABLE, Kind.DROP_TABLE),
}


def _rewrites(subject: Subject) -> Iterator[Finding]:
    known = _Known(subject)
    for place, table in on_existing(subject, Kind.ALTER_TABLE, Kind.ALTER_MATERIALIZED_VIEW):
        for action in alter_actions(place.statement):
            rewrite = known.rewrite(action)
            if rewrite is not Rewrite.NO:
                verb = "rewrites" if rewrite is Rewrite.YES else "may rewrite"
                message = f"{action.kind} {verb} the whole table `{table}`, and blocks all access to it"
                yield place.finding(message, hint=_instead_of_rewrite(action), offset=action.offset)
    for place in statements(subject, Kind.MOVE_ALL):
        message = (
            f"all objects in the tablespace `{moved_tablespace(place.statement)}` are copied, which blocks all access"
        )
        hint = "move one table after another, each in a separate step with a `lock_timeout`"
        yield place.finding(message, hint=hint)


def _instead_of_rewrite(action: AlterAction) -> str:
    if action.kind is AlterKind.SET_TYPE:
        return "a dry run checks whether the old type needs it; or add a column, fill it in batches, then switch"
    if action.kind is AlterKind.ADD_COLUMN:
        return "add the column without it, set the default for new rows, and fill the column in batches"
    return "run it when the load is low, and add `# jobplan: ignore=table-rewrite`"


class _Known:
    """Types and functions that the plan creates, which decide whether a new column needs a rewrite."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._domains: set[Relation] | None = None
        self._steady: set[str] = set()

    def rewrite(self, action: AlterAction) -> Rewrite:
        """Return whether a subcommand rewrites the table."""
        if action.kind is not AlterKind.ADD_COLUMN or (action.type is None and not action.calls):
            return action.rewrite
        if self._domains is None:
            everything = list(statements(self._subject))
            self._domains = {one for one in map(constrained_domain, _nodes(everything)) if one is not None}
            self._steady = {one for one in map(steady_function, _nodes(everything)) if one is not None}
        if action.type is not None and any(action.type.may_be(domain) for domain in self._domains):
            return Rewrite.YES
        unknown = action.rewrite is Rewrite.MAYBE and not self._steady.issuperset(action.calls)
        return action.rewrite if unknown or action.rewrite is Rewrite.YES else Rewrite.NO


def _nodes(places: Iterable[StatementPlace]) -> Iterator[Statement]:
    return (place.statement for place in places)


def _new_not_null(subject: Subject) -> Iterator[Finding]:
    for place, table in on_existing(subject, Kind.ALTER_TABLE):
        column = None
        for action in alter_actions(place.statement):
            if action.kind is AlterKind.ADD_COLUMN:
                column = None if action.has_default else action
            elif column is not None and action.constraint in {Constraint.NOT_NULL, Constraint.PRIMARY_KEY}:
                if action.inline:
                    message = f"the new column `{column.name}` is NOT NULL and has no default"
                    message += f": this fails (23502) if `{table}` has rows"
                    hint = (
                        "give it a DEFAULT; or add it without NOT NULL, fill it, and verify it with a validated CHECK"
                    )
                    yield place.finding(message, hint=hint, offset=column.offset)
                column = None


def _full_vacuum(subject: Subject) -> Iterator[Finding]:
    created = created_in(subject)
    for place in statements(subject, Kind.VACUUM, Kind.CLUSTER):
        statement = place.statement
        if statement.kind is Kind.VACUUM and not enabled(statement, "full"):
            continue
        main = main_relation(statement)
        named = [main] if main is not None else [one.relation for one in vacuumed(statement)]
        if named and all(created.is_new(relation, place) for relation in named):
            continue
        name = "VACUUM FULL" if statement.kind is Kind.VACUUM else "CLUSTER"
        what = ", ".join(f"`{relation}`" for relation in named) or "every table of the database"
        message = f"{name} rewrites {what}, and blocks all access meanwhile"
        yield place.finding(message, hint="plain VACUUM keeps a table from growing; pg_repack shrinks a table in use")


#: First words of commands that destroy data or create tables.
_OF_TABLES = frozenset({"CREATE", "DROP", "TRUNCATE", "ALTER", "DELETE", "UPDATE", "MERGE"})


def _in_body(place: StatementPlace) -> Iterator[tuple[BodyCommand, frozenset[str]]]:
    """Yield the commands of a DO that concern whole tables, each with the names of tables that it creates before."""
    own: frozenset[str] = frozenset()
    for command in commands_in_body(place.statement, place.text, _OF_TABLES):
        yield command, own
        if is_temporary(command.statement) or not is_guarded(command.statement):
            own |= {relation.name for relation in created_relations(command.statement)}


def _without_where(subject: Subject) -> Iterator[Finding]:
    created = created_in(subject)
    for place in statements(subject, Kind.DO):
        for command, own in _in_body(place):
            for use in unfiltered_writes(command.statement):
                if use.relation.name not in own and not created.is_new(use.relation, place):
                    message = f"a statement of the DO block changes every row of `{use.relation}`: {use.why}"
                    yield place.finding(message, hint=use.hint, offset=command.offset)
    for place in statements(subject):
        text = place.lower_text
        if not any(word in text for word in ("update", "delete", "merge")):
            continue
        for use in unfiltered_writes(place.statement):
            if not created.is_new(use.relation, place) or created.shows_others(use.relation, place):
                message = f"the statement changes every row of `{use.relation}`: {use.why}"
                yield place.finding(message, hint=use.hint, offset=use.offset)


def _destructive(subject: Subject) -> Iterator[Finding]:
    created = created_in(subject)
    for place in statements(subject):
        if place.statement.kind is Kind.DO:
            for command, own in _in_body(place):
                for loss in losses(command.statement):
                    of_body = loss.relation is not None and loss.relation.name in own
                    if not of_body and not _is_own(loss, created, place):
                        yield place.finding(f"in the DO block, {loss.what}", hint=_INTENDED, offset=command.offset)
        elif place.statement.kind not in _QUERIES:
            for loss in losses(place.statement):
                if not _is_own(loss, created, place):
                    yield place.finding(loss.what, hint=_INTENDED)


_INTENDED = "if that is intended, add a comment to the step: `# jobplan: ignore=JP353`"


def _is_own(loss: Loss, created: Created, place: StatementPlace) -> bool:
    """Return whether the plan itself has created the object that is lost."""
    if loss.schema is not None:
        return created.schema_is_new(loss.schema, place)
    return loss.relation is not None and created.is_new(loss.relation, place)


def _whole_server(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject):
        if place.statement.kind in _OF_DATABASE and _SERVER_FUNCTION not in place.lower_text:
            continue
        what = server_wide(place.statement)
        if what is not None:
            message = f"{what} acts on the whole server, not only on this database"
            yield place.finding(
                message, hint="if that is intended, add a comment to the step: `# jobplan: ignore=server-wide`"
            )


def _loop_in_one_transaction(subject: Subject) -> Iterator[Finding]:
    for place in statements(subject, Kind.DO):
        offset = writing_loop(place.statement, place.text)
        if offset is not None:
            message = "the batches of this loop are one transaction, because it has no COMMIT"
            hint = "COMMIT in the loop, or write one batch and let `repeat` run it again"
            yield place.finding(message, hint=hint, offset=offset)


def _renames(subject: Subject) -> Iterator[Finding]:
    created = created_in(subject)
    for place in statements(subject, Kind.RENAME, Kind.SET_SCHEMA):
        found = renamed(place.statement)
        if found is not None and not created.is_new(found[0], place):
            message = f"{found[1]}, and every client that uses the old name fails after that"
            hint = "keep the old name as a view, or add a column and write both, until no client uses it"
            yield place.finding(message, hint=hint)


RULES = (
    Rule(code="JP350", check=_rewrites),
    Rule(code="JP336", check=_new_not_null),
    Rule(code="JP351", check=_full_vacuum),
    Rule(code="JP352", check=_without_where),
    Rule(code="JP353", check=_destructive),
    Rule(code="JP354", check=_whole_server),
    Rule(code="JP355", check=_loop_in_one_transaction),
    Rule(code="JP356", check=_renames, optional=True),
)
