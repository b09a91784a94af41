"""The last statement of a repeated step with carried values: what it returns, and how it is extended to return them.

A worker sends the rows of its last statement. Of those only the last one is wanted, as text, with the number of rows
that the batch changed. So the statement becomes a WITH query of a longer one, at the top level, where data-modifying
WITH is allowed: `WITH batch AS (UPDATE …), jobplan_carry AS MATERIALIZED (SELECT …), … SELECT … FROM jobplan_result`.
Another WITH query can store the values in the same transaction (docs/decisions/0036).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from runner.errors import JobplanError
from runner.sql.placeholders import quote_identifier, quote_literal
from runner.sql.relations import relation_of
from runner.sql.returned_rows import text_of
from runner.sql.session_settings import OF_USERS, assigned
from runner.sql.statements import ROW_CHANGES, Statement, StatementKind, parse_statements, returns_rows
from runner.sql.syntax_tree import ROW_CHANGING_NODES, Tree, children, find, label, strings, unwrap
from runner.sql.tokens import ScanError, Token, TokenKind, tokenize
from runner.structs import Struct

_K = StatementKind
_CARRY: Final = "jobplan_carry"
#: What `CarryForm` inserts, as far as the server has kept it.
_EXTENSION: Final = re.compile(
    rf"(?:, |WITH ){_CARRY} AS MATERIALIZED \(\n|\n\), jobplan_last AS MATERIALIZED \(.*", re.DOTALL
)
#: What follows the parenthesis of a WITH query that has more than a query: a list of columns, with commas of its own.
_AFTER_QUERY: Final = frozenset({"SEARCH", "CYCLE"})
#: PostgreSQL's own aggregates, without those that need WITHIN GROUP.
_AGGREGATES: Final = frozenset(
    {
        *("count", "sum", "min", "max", "avg", "array_agg", "string_agg", "json_agg", "jsonb_agg", "any_value"),
        *("json_object_agg", "jsonb_object_agg", "bool_and", "bool_or", "every", "bit_and", "bit_or", "bit_xor"),
        *("xmlagg", "range_agg", "range_intersect_agg", "variance", "var_pop", "var_samp", "stddev", "stddev_pop"),
        *("stddev_samp", "corr", "covar_pop", "covar_samp", "regr_count", "regr_slope", "regr_intercept"),
    }
)


class CarryForm(Struct, frozen=True, kw_only=True):
    """How a text is extended: `before` is inserted at `start`, `after` at `end`; both count characters from 0.

    Then it returns one row: the number of rows of the batch, and the carried values of the last row of its statement,
    all as text. `tag` is the command that the number belongs to. `storable`: the values can be stored in the same
    transaction.
    """

    start: int
    end: int
    before: str
    columns: tuple[str, ...]
    tag: str
    storable: bool
    #: What is inserted at `end`, before and after the WITH query that stores the values.
    result: str
    output: str
    #: The WITH query that stores the values; empty without one.
    store: str = ""

    def after(self, *, stores: bool) -> str:
        """Return what is inserted at `end`; with `stores` the values are stored, if there is a place for them."""
        return f"{self.result}{self.store if stores else ''}{self.output}"


@lru_cache(maxsize=256)
def carry_form(text: str, names: tuple[str, ...]) -> CarryForm | None:
    """Return how to extend a text, without parameters, whose last statement returns columns of these names.

    None if it is not SQL, or if its last statement cannot be a WITH query.
    """
    try:
        statements = parse_statements(text)
    except JobplanError:
        return None
    place = _place(statements, text) if statements else None
    if place is None:
        return None
    start, has_with = place
    last = statements[-1]
    counted, tag = _counted(last)
    return CarryForm(
        start=start,
        end=last.end,
        before=f"{', ' if has_with else 'WITH '}{_CARRY} AS MATERIALIZED (\n",
        result=_result(names, counted),
        output=_output(names),
        columns=("jobplan rows", *names),
        tag=tag,
        storable=can_store(statements, text),
    )


def store_values(target: str, columns: Mapping[str, str], names: Sequence[str]) -> str:
    """Return the WITH query that stores the values in the table `target`, whose name is quoted.

    `columns` are further columns with literals; the columns `rows` and `carried` get the values.
    """
    values = ", ".join(f"{quote_literal(name)}, c{number}" for number, name in enumerate(names, 1))
    return (
        f", jobplan_store AS (INSERT INTO {target} ({', '.join(columns)}, rows, carried) "  # noqa: S608 - names of ours
        f"SELECT {', '.join(columns.values())}, n, pg_catalog.jsonb_build_object({values}) FROM jobplan_result)"
    )


def without_extension(text: str) -> str:
    """Return a text without what extends its last statement, as far as the server kept it."""
    return _EXTENSION.sub("", text) if _CARRY in text else text


def can_be_extended(statements: Sequence[Statement], text: str) -> bool:
    """Return whether the last of these statements can be a WITH query."""
    return bool(statements) and _place(statements, text) is not None


def can_store(statements: Sequence[Statement], text: str) -> bool:
    """Return whether the values can be stored in the transaction of these statements."""
    # Later statements would run as another role, which may not write to the ledger.
    sets_role = any(name in OF_USERS for one in statements[:-1] for name, _ in assigned(one))
    return can_be_extended(statements, text) and not sets_role


def has_order(statement: Statement) -> bool:
    """Return whether the last row of a statement is determined: it has a top-level ORDER BY, or one row at most."""
    node = statement.node
    if statement.kind is _K.SELECT and node.sort_clause:
        return True
    return statement.kind is _K.CALL or _one_row(node, {})


def changed_table(text: str) -> str | None:
    """Return the table, quoted, whose existing rows a text without parameters changes; None if that is not certain."""
    try:
        statements = parse_statements(text)
    except JobplanError:
        return None
    for statement in reversed(statements):
        for query in (*(query for _, query in _with_queries(statement.node)), statement.node):
            if _changes(query):
                table = relation_of(query.relation)
                named = ".".join(quote_identifier(part) for part in (table.schema, table.name) if part)
                return None if query.DESCRIPTOR.name == "InsertStmt" else named
    return None


# --- the longer form --------------------------------------------------------------------------------------------------


def _place(statements: Sequence[Statement], text: str) -> tuple[int, bool] | None:
    """Return where the body of the last statement begins, and whether a list of WITH queries precedes it."""
    last = statements[-1]
    if not returns_rows(last) or (last.kind is not _K.SELECT and last.kind not in ROW_CHANGES):
        return None
    changing = sum(_changes(query) for _, query in _with_queries(last.node))
    at_top = changing + (last.kind in ROW_CHANGES)
    if sum(1 for name in ROW_CHANGING_NODES for _ in find(last.node, name)) > at_top:
        return None  # INSERT INTO … WITH … SELECT, which cannot be part of another statement
    try:
        tokens = [token for token in tokenize(text) if last.start <= token.start < last.end]
    except ScanError:
        return None
    body = _body(tokens) if tokens and tokens[0].text.upper() == "WITH" else None
    if body is not None:
        return body, True
    return None if changing else (last.start, False)


def _body(tokens: Sequence[Token]) -> int | None:
    """Return where the body begins after the WITH queries; None if that is not certain."""
    place = 2 if len(tokens) > 1 and tokens[1].text.upper() == "RECURSIVE" else 1
    while place < len(tokens):
        place += 1  # its name
        if place < len(tokens) and tokens[place].text == "(":  # its columns
            place = _closed(tokens, place)
        while place < len(tokens) and tokens[place].text != "(":  # AS, [NOT] MATERIALIZED
            place += 1
        place = _closed(tokens, place)
        if place >= len(tokens) or tokens[place].text.upper() in _AFTER_QUERY:
            return None
        if tokens[place].text != ",":
            return tokens[place].start
        place += 1
    return None


def _closed(tokens: Sequence[Token], place: int) -> int:
    """Return the place after the parenthesis that closes the one at `place`."""
    depth = 0
    for number in range(place, len(tokens)):
        token = tokens[number]
        if token.kind is not TokenKind.STRING:
            depth += (token.text == "(") - (token.text == ")")
        if depth == 0:
            return number + 1
    return len(tokens)


def _counted(statement: Statement) -> tuple[str, str]:
    """Return the WITH query whose rows are those of the batch, quoted, and its command."""
    if statement.kind is _K.SELECT:
        for name, query in _with_queries(statement.node):
            if name and _changes(query) and query.HasField("returning_clause"):
                return quote_identifier(name), query.DESCRIPTOR.name.removesuffix("Stmt").upper()
    return _CARRY, str(statement.kind)


def _aliases(names: Sequence[str]) -> list[str]:
    return [f"c{number}" for number in range(1, len(names) + 1)]


def _result(names: Sequence[str], counted: str) -> str:
    """Return the WITH queries that find the last row, and count the rows of the batch."""
    aliases = _aliases(names)
    wanted = ", ".join(f"{quote_identifier(name)} AS {alias}" for name, alias in zip(names, aliases, strict=True))
    texts = ", ".join(f"{text_of(alias)} AS {alias}" for alias in aliases)
    return (
        f"\n), jobplan_last AS MATERIALIZED (SELECT pg_catalog.row_number() OVER () AS n, {wanted} FROM {_CARRY} "  # noqa: S608 - names of ours, quoted
        f"ORDER BY n DESC LIMIT 1), jobplan_result AS MATERIALIZED (SELECT (SELECT pg_catalog.count(*) FROM {counted}) "
        f"AS n, {texts} FROM (SELECT) AS one LEFT JOIN jobplan_last ON true)"
    )


def _output(names: Sequence[str]) -> str:
    return f" SELECT {text_of('n')} AS n, {', '.join(_aliases(names))} FROM jobplan_result"  # noqa: S608 - as above


def _with_queries(node: Tree) -> Iterator[tuple[str, Tree]]:
    """Yield the name and the query of each WITH query at the top level of a statement."""
    if "with_clause" in node.DESCRIPTOR.fields_by_name and node.HasField("with_clause"):
        for wrapped in node.with_clause.ctes:
            cte = unwrap(wrapped)
            yield cte.ctename, unwrap(cte.ctequery)


def _changes(query: Tree) -> bool:
    return query.DESCRIPTOR.name in ROW_CHANGING_NODES


# --- rows -------------------------------------------------------------------------------------------------------------


def _one_row(node: Tree, known: Mapping[str, bool]) -> bool:
    """Return whether a query returns one row at most. `known` are the WITH queries around it, and whether they do."""
    known = dict(known)
    for name, query in _with_queries(node):
        known[name] = _one_row(query, known)
    match node.DESCRIPTOR.name:
        case "SelectStmt":
            return _select_one_row(node, known)
        case "InsertStmt":
            return node.HasField("select_stmt") and _one_row(unwrap(node.select_stmt), known)
    return False


def _select_one_row(node: Tree, known: Mapping[str, bool]) -> bool:
    if node.HasField("limit_count") and _is_small(unwrap(node.limit_count)):
        return label(node, "limit_option") != "LIMIT_OPTION_WITH_TIES"
    if label(node, "op") != "SETOP_NONE":
        return False
    if node.values_lists:
        return len(node.values_lists) == 1
    if node.group_clause:
        return False
    if any(_aggregates(target) for target in node.target_list) or node.HasField("having_clause"):
        return True
    return all(_item_has_one_row(unwrap(item), known) for item in node.from_clause)


def _is_small(limit: Tree) -> bool:
    """Return whether a limit is the constant 0 or 1."""
    return bool(limit.DESCRIPTOR.name == "A_Const" and limit.HasField("ival") and limit.ival.ival <= 1)


def _aggregates(target: Tree) -> bool:
    """Return whether a column has an aggregate that is not in a subquery, and not a window function."""
    node = unwrap(target)
    if node.DESCRIPTOR.name == "SubLink":
        return False
    if node.DESCRIPTOR.name == "FuncCall" and not node.HasField("over"):
        named = strings(node.funcname)[-1] in _AGGREGATES
        if named or node.agg_star or node.agg_within_group or node.HasField("agg_filter"):
            return True
    return any(_aggregates(child) for _, child in children(node))


def _item_has_one_row(item: Tree, known: Mapping[str, bool]) -> bool:
    match item.DESCRIPTOR.name:
        case "RangeSubselect":
            return _one_row(unwrap(item.subquery), known)
        case "RangeVar":
            return not item.schemaname and known.get(item.relname, False)
        case "JoinExpr":
            return _item_has_one_row(unwrap(item.larg), known) and _item_has_one_row(unwrap(item.rarg), known)
    return False
