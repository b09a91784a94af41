"""Storage parameters and options of views: which there are for what, and which values they take.

The parser accepts any name with any value. Sources: the pages of CREATE TABLE, CREATE INDEX and CREATE VIEW in the
PostgreSQL documentation, and reloptions.c of version 18. Of an index method that is not listed nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from runner.sql.statements import Statement, StatementKind
from runner.sql.syntax_tree import Tree, find, label, option_value, subcommands, unwrap
from runner.structs import Struct

_K = StatementKind
_MAX: Final = 2_147_483_647


class Parameter(Struct, frozen=True, kw_only=True):
    """What a parameter takes: a boolean, a number in a range, or one of some words (which may be booleans as well)."""

    low: float | None = None
    high: float | None = None
    whole: bool = True
    words: frozenset[str] = frozenset()
    boolean: bool = False

    def refusal(self, name: str, value: str) -> str | None:
        """Return the server's error for this value, None if it is valid."""
        if self.boolean or self.words:
            return None if value.lower() in self.words | _BOOLEANS else f'invalid value for option "{name}": {value}'
        try:
            number = float(value)
        except ValueError:
            return f'invalid value for option "{name}": {value}'
        if self.whole:  # the server rounds
            number = float(round(number)) if math.isfinite(number) else number
        low, high = self.low if self.low is not None else number, self.high if self.high is not None else number
        return (
            None if low <= number <= high else f'value {value} out of bounds for option "{name}": {low:g} to {high:g}'
        )


_OFF = frozenset({"false", "off", "no", "0", "f", "n"})
_BOOLEANS = frozenset({"true", "false", "on", "off", "yes", "no", "1", "0", "t", "f", "y", "n"})


def _range(low: float, high: float = _MAX, *, whole: bool = True) -> Parameter:
    return Parameter(low=low, high=high, whole=whole)


_BOOLEAN = Parameter(boolean=True)
_FILL = _range(10, 100)
_VACUUM: Mapping[str, Parameter] = {
    "autovacuum_enabled": _BOOLEAN,
    "autovacuum_vacuum_threshold": _range(0),
    "autovacuum_vacuum_max_threshold": _range(-1),
    "autovacuum_vacuum_insert_threshold": _range(-1),
    "autovacuum_vacuum_scale_factor": _range(0, 100, whole=False),
    "autovacuum_vacuum_insert_scale_factor": _range(0, 100, whole=False),
    "autovacuum_vacuum_cost_delay": _range(0, 100, whole=False),
    "autovacuum_vacuum_cost_limit": _range(1, 10_000),
    "autovacuum_freeze_min_age": _range(0, 1_000_000_000),
    "autovacuum_freeze_max_age": _range(100_000, 2_000_000_000),
    "autovacuum_freeze_table_age": _range(0, 2_000_000_000),
    "autovacuum_multixact_freeze_min_age": _range(0, 1_000_000_000),
    "autovacuum_multixact_freeze_max_age": _range(10_000, 2_000_000_000),
    "autovacuum_multixact_freeze_table_age": _range(0, 2_000_000_000),
    "log_autovacuum_min_duration": _range(-1),
    "vacuum_truncate": _BOOLEAN,
    "vacuum_index_cleanup": Parameter(words=frozenset({"auto"})),
    "vacuum_max_eager_freeze_failure_rate": _range(0, 1, whole=False),
}
_TABLE: Mapping[str, Parameter] = {
    **_VACUUM,
    "fillfactor": _FILL,
    "toast_tuple_target": _range(128, 8_160),
    "parallel_workers": _range(0, 1_024),
    "user_catalog_table": _BOOLEAN,
    "autovacuum_analyze_threshold": _range(0),
    "autovacuum_analyze_scale_factor": _range(0, 100, whole=False),
}
_VIEW: Mapping[str, Parameter] = {
    "security_barrier": _BOOLEAN,
    "security_invoker": _BOOLEAN,
    "check_option": Parameter(words=frozenset({"local", "cascaded"})),
}
#: Index method → its parameters.
_INDEX: Mapping[str, Mapping[str, Parameter]] = {
    "btree": {"fillfactor": _FILL, "deduplicate_items": _BOOLEAN},
    "hash": {"fillfactor": _FILL},
    "gist": {"fillfactor": _FILL, "buffering": Parameter(words=frozenset({"auto"}))},
    "spgist": {"fillfactor": _FILL},
    "gin": {"fastupdate": _BOOLEAN, "gin_pending_list_limit": _range(64)},
    "brin": {"pages_per_range": _range(1, 131_072), "autosummarize": _BOOLEAN},
}
_BY_KIND: Mapping[str, Mapping[str, Parameter]] = {"r": _TABLE, "m": _TABLE, "v": _VIEW}
_OBJECTS = frozenset({"OBJECT_TABLE", "OBJECT_MATVIEW", "OBJECT_VIEW", "OBJECT_INDEX"})


class Given(Struct, frozen=True, kw_only=True):
    """A parameter that a statement sets; `toast`: with `toast.` before the name; `value` is text."""

    name: str
    value: str
    toast: bool
    offset: int
    #: A namespace that is not `toast`, which no relation has.
    namespace: str = ""


def given_parameters(statement: Statement) -> tuple[Given, ...]:
    """Return the parameters that CREATE TABLE, INDEX and [MATERIALIZED] VIEW, and ALTER … SET (…), give a value."""
    node = statement.node
    match node.DESCRIPTOR.name:
        case "CreateStmt" | "IndexStmt" | "ViewStmt":
            options: Iterable[Tree] = map(unwrap, node.options)
        case "CreateTableAsStmt":
            options = map(unwrap, node.into.options)
        case "AlterTableStmt" if label(node, "objtype") in _OBJECTS:
            options = options_set(node)
        case _:
            return ()
    return tuple(_given(statement, options))


def options_set(node: Tree, subtype: str = "AT_SetRelOptions") -> Iterator[Tree]:
    """Yield the options of ALTER … SET (…), or of another subcommand."""
    for found, _, definition in subcommands(node):
        if found == subtype:
            yield from map(unwrap, definition.items)


def _given(statement: Statement, options: Iterable[Tree]) -> Iterator[Given]:
    for option in options:
        yield Given(
            name=option.defname.lower(),
            value="true" if (value := option_value(option)) is None else value,
            toast=option.defnamespace == "toast",
            namespace=option.defnamespace if option.defnamespace != "toast" else "",
            offset=statement.offset(option),
        )


#: Parameters of a column, by name in small letters.
_COLUMN: Mapping[str, Parameter] = dict.fromkeys(
    ("n_distinct", "n_distinct_inherited"), _range(-1, math.inf, whole=False)
)


def refused_of_keys(statement: Statement) -> Iterator[tuple[str, int]]:
    """Yield the server's errors for the parameters of keys (`PRIMARY KEY WITH (…)`), each with its offset."""
    if statement.node.DESCRIPTOR.name in {"CreateStmt", "AlterTableStmt"}:
        for constraint in find(statement.node, "Constraint"):
            if label(constraint, "contype") == "CONSTR_IDENTITY":  # its options are those of a sequence
                continue
            method = constraint.access_method or "btree"
            for one in _given(statement, map(unwrap, constraint.options)):
                refused = refused_parameter(one, "i", method)
                if refused is not None:
                    yield refused, one.offset


def refused_of_columns(statement: Statement) -> Iterator[tuple[str, int]]:
    """Yield the server's errors for ALTER COLUMN … SET (…) and SET STATISTICS, each with its offset."""
    for one in _given(statement, options_set(statement.node, "AT_SetOptions")):
        known = _COLUMN.get(one.name)
        refused = known.refusal(one.name, one.value) if known else f'unrecognized parameter "{one.name}"'
        if refused is not None:
            yield refused, one.offset
    for subtype, _, target in subcommands(statement.node):
        if subtype == "AT_SetStatistics" and target.DESCRIPTOR.name == "Integer" and target.ival < -1:
            yield f"the statistics target {target.ival} is too low", statement.start


def values_in_reset(statement: Statement) -> Iterator[str]:
    """Yield the parameters to which ALTER … RESET (…) gives a value, which the server refuses."""
    given = options_set(statement.node, "AT_ResetRelOptions")
    return (option.defname for option in given if option.HasField("arg"))


def refused_parameter(given: Given, kind: str, method: str) -> str | None:
    """Return the server's error for a parameter, None if it is valid or unknown.

    `kind` is a letter of pg_class.relkind, `method` that of an index.
    """
    if given.namespace:
        return f'unrecognized parameter namespace "{given.namespace}"'
    if kind == "p":
        return "cannot specify storage parameters for a partitioned table"
    known = _INDEX.get(method) if kind == "i" else _VACUUM if given.toast else _BY_KIND.get(kind)
    if known is None:
        return None
    parameter = known.get(given.name)
    if parameter is None and given.name == "oids" and kind == "r" and not given.toast:
        off = given.value.lower() in _OFF
        return None if off else "tables declared WITH OIDS are not supported"
    if parameter is None:
        return f'unrecognized parameter "{given.name}"'
    return parameter.refusal(given.name, given.value)


def index_method(statement: Statement) -> str:
    """Return the method of CREATE INDEX, empty for another statement."""
    return (statement.node.access_method or "btree") if statement.kind is _K.CREATE_INDEX else ""


def table_method(statement: Statement) -> str:
    """Return the table access method that CREATE TABLE names, empty for the server's default."""
    if statement.kind in {_K.CREATE_TABLE_AS, _K.CREATE_MATERIALIZED_VIEW}:
        return str(statement.node.into.access_method)
    return str(statement.node.access_method) if statement.kind is _K.CREATE_TABLE else ""
