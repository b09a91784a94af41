"""The first PostgreSQL version that has an option, privilege, setting or clause: command → option → version.

The parser reads the syntax of the newest version and accepts any word as an option, so a statement that it can parse
may still fail on an older server. This table is the only place for such versions: `lint` compares it with
`requires.server_version`, a dry run with the server. Sources: each command's page in the documentation of versions 13
to 18.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from runner.sql.comments import pieces, without_comments
from runner.sql.session_settings import assigned
from runner.sql.statements import QUERIES, Statement, StatementKind
from runner.sql.storage_parameters import options_set
from runner.sql.syntax_tree import Tree, find, label, option_value, subcommands, unwrap, walk
from runner.structs import Struct

_K = StatementKind

#: An option that every supported version has.
ALWAYS: Final = 0


class VersionNeed(Struct, frozen=True, kw_only=True):
    """Something in a statement that only some versions have.

    `what` names it (`VACUUM (BUFFER_USAGE_LIMIT)`), `since` is the first major version, None if no version has it.
    `offset` counts characters.
    """

    what: str
    since: int | None
    offset: int

    def met_by(self, major: int) -> bool:
        """Return whether a server of this major version has it."""
        return self.since is not None and self.since <= major

    @property
    def reason(self) -> str:
        """Return a sentence with the versions that have it."""
        if self.since is None:
            return f"{self.what}: no version of PostgreSQL has this option"
        return f"{self.what} needs PostgreSQL {self.since} or later"


def _since(version: int, names: str) -> Mapping[str, int]:
    return dict.fromkeys(names.split(), version)


def _options(always: str, **later: int) -> Mapping[str, int]:
    return {**_since(ALWAYS, always), **later}


_VACUUM = _options(
    "full freeze verbose analyze disable_page_skipping skip_locked index_cleanup truncate parallel",
    process_toast=14,
    process_main=16,
    skip_database_stats=16,
    only_database_stats=16,
    buffer_usage_limit=16,
)
_COPY = _options(
    "format freeze delimiter null header quote escape force_quote force_not_null force_null encoding",
    default=16,
    on_error=17,
    log_verbosity=17,
    reject_limit=18,
)
_SUBSCRIPTION = _options(
    "connect enabled create_slot slot_name copy_data synchronous_commit refresh",
    binary=14,
    streaming=14,
    two_phase=15,
    disable_on_error=15,
    password_required=16,
    run_as_owner=16,
    origin=16,
    failover=17,
)
#: Command → option → first version. A command that is not here takes options of extensions, or none.
OPTIONS: Final[Mapping[StatementKind, Mapping[str, int]]] = {
    _K.VACUUM: _VACUUM,
    _K.ANALYZE: _options("verbose skip_locked", buffer_usage_limit=16),
    _K.EXPLAIN: _options(
        "analyze verbose costs buffers timing summary settings wal format", generic_plan=16, memory=17, serialize=17
    ),
    _K.COPY_FROM: _COPY,
    _K.COPY_TO: _COPY,
    _K.CLUSTER: _options("verbose"),
    _K.REINDEX: _options("verbose concurrently", tablespace=14),
    _K.CREATE_DATABASE: _options(
        "owner template encoding locale lc_collate lc_ctype tablespace allow_connections connection_limit is_template"
        " location",
        strategy=15,
        locale_provider=15,
        icu_locale=15,
        collation_version=15,
        oid=15,
        icu_rules=16,
        builtin_locale=17,
    ),
    _K.DROP_DATABASE: _options("force"),
    _K.CREATE_SUBSCRIPTION: _SUBSCRIPTION,
    _K.CREATE_PUBLICATION: _options("publish publish_via_partition_root", publish_generated_columns=18),
}
#: Commands to which modules can add options of their own: an unknown one may be right.
_OPEN = frozenset({_K.EXPLAIN})
#: Values of an option that came later than the option.
_VALUES: Mapping[tuple[StatementKind, str, str], int] = {
    (_K.COPY_FROM, "header", "match"): 15,
    (_K.COPY_FROM, "log_verbosity", "silent"): 18,
    (_K.CREATE_SUBSCRIPTION, "streaming", "parallel"): 16,
    (_K.CREATE_DATABASE, "locale_provider", "builtin"): 17,
}
#: Settings that not every supported version has.
SETTINGS: Final[Mapping[str, int]] = {
    **_since(
        14,
        "client_connection_check_interval compute_query_id default_toast_compression idle_session_timeout "
        "vacuum_failsafe_age vacuum_multixact_failsafe_age",
    ),
    **_since(
        15,
        "allow_in_place_tablespaces archive_library log_startup_progress_interval recovery_prefetch "
        "recursive_worktable_factor stats_fetch_consistency wal_decode_buffer_size",
    ),
    **_since(
        16,
        "createrole_self_grant debug_parallel_query enable_presorted_aggregate gss_accept_delegation "
        "icu_validation_level logical_replication_mode max_parallel_apply_workers_per_subscription "
        "reserved_connections scram_iterations send_abort_for_crash send_abort_for_kill "
        "vacuum_buffer_usage_limit",
    ),
    **_since(
        17,
        "allow_alter_system commit_timestamp_buffers debug_logical_replication_streaming "
        "enable_group_by_reordering event_triggers io_combine_limit max_notify_queue_pages "
        "multixact_member_buffers multixact_offset_buffers notify_buffers serializable_buffers "
        "subtransaction_buffers summarize_wal sync_replication_slots synchronized_standby_slots "
        "trace_connection_negotiation transaction_buffers transaction_timeout wal_summary_keep_time",
    ),
    **_since(
        18,
        "autovacuum_vacuum_max_threshold autovacuum_worker_slots enable_distinct_reordering "
        "enable_self_join_elimination extension_control_path file_copy_method idle_replication_slot_timeout "
        "io_max_combine_limit io_max_concurrency io_method io_workers log_lock_failures "
        "max_active_replication_origins md5_password_warnings oauth_validator_libraries ssl_groups "
        "ssl_tls13_ciphers track_cost_delay_timing vacuum_max_eager_freeze_failure_rate vacuum_truncate",
    ),
}
#: Privileges on objects that came later.
_PRIVILEGES: Mapping[str, int] = {"maintain": 17, "set": 15, "alter system": 15}
#: Options of views.
_VIEW_OPTIONS: Mapping[str, int] = {"security_invoker": 15}
#: Storage parameters that came later.
STORAGE: Final[Mapping[str, int]] = {
    "vacuum_max_eager_freeze_failure_rate": 18,
    "autovacuum_vacuum_max_threshold": 18,
}


def version_needs(statement: Statement) -> tuple[VersionNeed, ...]:
    """Return what not every version of PostgreSQL has, in the order of the text; also what no version has."""
    found = (need for source in _SOURCES for need in source(statement))
    return tuple(sorted(dict.fromkeys(found), key=lambda need: need.offset))


def unmet_needs(statement: Statement, major: int) -> tuple[VersionNeed, ...]:
    """Return what a server of this major version does not have."""
    return tuple(need for need in version_needs(statement) if not need.met_by(major))


def foreign_options(statement: Statement) -> tuple[str, ...]:
    """Return the options that PostgreSQL itself never had, of a command to which modules can add options."""
    if statement.kind not in _OPEN:
        return ()
    known = OPTIONS[statement.kind]
    return tuple(option.defname for option in _given(statement.node) if option.defname.lower() not in known)


#: Syntax that is newer than the parser, without comments and strings, and its first version.
_NEWER_SYNTAX: Final = tuple(
    (tuple(re.compile(part, re.IGNORECASE) for part in pattern.split(" … ")), what, since)
    for pattern, what, since in (
        (r"^\s*REPACK\b", "REPACK", 19),
        (r"^\s*WAIT\s+FOR\b", "WAIT FOR", 19),
        (r"^\s*CHECKPOINT\s*\(", "CHECKPOINT with options", 19),
        (r"\bGROUP\s+BY\s+ALL\b", "GROUP BY ALL", 19),
        (r"\b(?:IGNORE|RESPECT)\s+NULLS\b", "IGNORE NULLS or RESPECT NULLS", 19),
        (r"\b(?:MERGE|SPLIT)\s+PARTITIONS?\b", "MERGE or SPLIT PARTITION", 19),
        (r"\bPROPERTY\s+GRAPH\b|\bGRAPH_TABLE\s*\(", "property graphs", 19),
        (r"\bFOR\s+PORTION\s+OF\b", "FOR PORTION OF", 19),
        (r"\bON\s+CONFLICT\b … \bDO\s+SELECT\b", "ON CONFLICT DO SELECT", 19),
        (r"\bALL\s+(?:TABLES|SEQUENCES)\b … \bEXCEPT\b", "publications with EXCEPT", 19),
    )
)


class NewerSyntax(Struct, frozen=True, kw_only=True):
    """Syntax of a version that is newer than the parser's: what it is, and the first version that has it."""

    what: str
    since: int


def newer_syntax(text: str, offset: int) -> NewerSyntax | None:
    """Return the newer syntax that the statement at `offset` seems to use, None if it is like none that is known.

    `text` is one that the parser refuses. It is recognized by its words, so it is a guess, and nothing is certain.
    """
    bare = list(without_comments(text))
    for piece in pieces(text):
        if piece.kind not in {"line", "block"}:
            bare[piece.start : piece.end] = "x" * (piece.end - piece.start)
    written = "".join(bare)
    start = written.rfind(";", 0, offset) + 1
    end = written.find(";", offset)
    statement = written[start : len(written) if end < 0 else end][:_LONGEST]
    for parts, what, since in _NEWER_SYNTAX:
        if _in_order(parts, statement):
            return NewerSyntax(what=what, since=since)
    return None


def _in_order(parts: tuple[re.Pattern[str], ...], statement: str) -> bool:
    """Return whether all parts are in a statement, one after the other."""
    position = 0
    for part in parts:
        found = part.search(statement, position)
        if found is None:
            return False
        position = found.end()
    return True


#: The number of characters of a statement that are examined.
_LONGEST: Final = 20_000


def _need(what: str, since: int | None, statement: Statement, node: Tree | None = None) -> Iterator[VersionNeed]:
    if since != ALWAYS:
        offset = statement.start if node is None else statement.offset(node)
        yield VersionNeed(what=what, since=since, offset=offset)


def _of_options(statement: Statement) -> Iterator[VersionNeed]:
    """The options in parentheses, or as words, of VACUUM, COPY, EXPLAIN and the like."""
    known = OPTIONS.get(statement.kind)
    if known is None:
        return
    for option in _given(statement.node):
        name = option.defname.lower()
        what = f"{_command(statement.kind)} ({name.upper()})"
        if name not in known:
            if statement.kind not in _OPEN:
                yield from _need(what, None, statement, option)
            continue
        yield from _need(what, known[name], statement, option)
        value = _word(option)
        since = _VALUES.get((statement.kind, name, value), ALWAYS)
        yield from _need(f"{what[:-1]} {value.upper()})", since, statement, option)
    if statement.kind in {_K.COPY_FROM, _K.COPY_TO}:
        yield from _of_copy(statement)


def _of_copy(statement: Statement) -> Iterator[VersionNeed]:
    """HEADER was for CSV alone before version 15, and FORCE_NULL * and FORCE_NOT_NULL * came with version 17."""
    options = {option.defname.lower(): option for option in _given(statement.node)}
    header = options.get("header")
    text = _word(options["format"]) if "format" in options else "text"
    if header is not None and text == "text" and _word(header) not in {"false", "off", "0"}:
        yield from _need("COPY (HEADER) in text format", 15, statement, header)
    for name in ("force_null", "force_not_null"):
        option = options.get(name)
        if option is not None and option.HasField("arg") and unwrap(option.arg).DESCRIPTOR.name == "A_Star":
            yield from _need(f"COPY ({name.upper()} *)", 17, statement, option)


def setting_need(name: str) -> tuple[str, int]:
    """Return a setting in words, and the first version that has it; ALWAYS if every supported version has it."""
    return f"the setting {name.lower()}", SETTINGS.get(name.lower(), ALWAYS)


def _of_settings(statement: Statement) -> Iterator[VersionNeed]:
    setting: Tree = getattr(statement.node, "setstmt", statement.node)
    names = [name for name, _ in assigned(statement)] if statement.kind is _K.SELECT else []
    names += [setting.name] if setting.DESCRIPTOR.name == "VariableSetStmt" else []
    for name in names:
        yield from _need(*setting_need(name), statement)


def _of_privileges(statement: Statement) -> Iterator[VersionNeed]:
    node = statement.node
    if statement.kind in {_K.GRANT, _K.REVOKE, _K.ALTER_DEFAULT_PRIVILEGES}:
        for privilege in find(node, "AccessPriv"):
            since = _PRIVILEGES.get(privilege.priv_name.lower(), ALWAYS)
            yield from _need(f"the privilege {privilege.priv_name.upper()}", since, statement)
    elif node.DESCRIPTOR.name == "GrantRoleStmt":
        for option in map(unwrap, node.opt):
            if option.defname in {"inherit", "set"}:
                yield from _need(f"GRANT … WITH {option.defname.upper()}", 16, statement, option)


def _of_parameters(statement: Statement) -> Iterator[VersionNeed]:
    """Options of views and storage parameters, in CREATE and in ALTER … SET (…)."""
    node = statement.node
    if statement.kind in {_K.CREATE_VIEW, _K.CREATE_TABLE}:
        given: Iterable[Tree] = map(unwrap, node.options)
    else:
        given = options_set(node)
    for option in given:
        name = option.defname.lower()
        since = _VIEW_OPTIONS.get(name, STORAGE.get(name, ALWAYS))
        kind = "the option" if name in _VIEW_OPTIONS else "the storage parameter"
        yield from _need(f"{kind} {name}", since, statement, option)


def _of_clauses(statement: Statement) -> Iterator[VersionNeed]:
    """Syntax that came later; a server that lacks it reports a syntax error."""
    node = statement.node
    match statement.kind:
        case _K.MERGE:
            yield from _need("MERGE", 15, statement)
        case _K.REINDEX:
            kind = label(node, "kind")
            if kind in {"REINDEX_OBJECT_DATABASE", "REINDEX_OBJECT_SYSTEM"} and not node.name:
                yield from _need(f"REINDEX {kind.rpartition('_')[2]} without a name", 16, statement)
        case _K.ALTER_TABLE | _K.ALTER_MATERIALIZED_VIEW:
            for subtype, command, definition in subcommands(node):
                what, since = _SUBCOMMANDS.get(subtype, ("", ALWAYS))
                yield from _need(f"ALTER TABLE … {what}", since, statement)
                yield from _of_subcommand(subtype, command, definition if command.HasField("def") else None, statement)
        case _K.ALTER_SUBSCRIPTION if label(node, "kind") == "ALTER_SUBSCRIPTION_SKIP":
            yield from _need("ALTER SUBSCRIPTION … SKIP", 15, statement)
    if statement.kind in _WITH_EXPRESSIONS:
        yield from _of_nodes(statement)


def _of_publication(statement: Statement) -> Iterator[VersionNeed]:
    for one in map(unwrap, statement.node.pubobjects):
        if label(one, "pubobjtype") == "PUBLICATIONOBJ_TABLES_IN_SCHEMA":
            yield from _need("a publication of TABLES IN SCHEMA", 15, statement)
        elif one.HasField("pubtable") and (one.pubtable.columns or one.pubtable.HasField("where_clause")):
            yield from _need("a publication of some columns or rows", 15, statement)


def _of_subcommand(subtype: str, command: Tree, given: Tree | None, statement: Statement) -> Iterator[VersionNeed]:
    """What came later of a subcommand that is older; `given` is its definition if it has one."""
    if subtype == "AT_SetStatistics" and given is None:
        yield from _need("SET STATISTICS DEFAULT", 17, statement)
    elif subtype == "AT_SetAccessMethod" and not command.name:
        yield from _need("SET ACCESS METHOD DEFAULT", 17, statement)
    elif subtype == "AT_SetStorage" and given is not None and given.sval.lower() == "default":
        yield from _need("SET STORAGE DEFAULT", 16, statement)
    elif subtype == "AT_AlterConstraint" and given is not None:
        if given.alter_enforceability:
            yield from _need("ALTER CONSTRAINT … ENFORCED or NOT ENFORCED", 18, statement)
        if given.alter_inheritability:
            yield from _need("ALTER CONSTRAINT … INHERIT or NO INHERIT", 18, statement)
    elif subtype == "AT_AddConstraint" and given is not None and label(given, "contype") == "CONSTR_NOTNULL":
        yield from _need("ADD NOT NULL as a constraint of the table", 18, statement)


def _of_forms(statement: Statement) -> Iterator[VersionNeed]:
    """Forms of older commands that came later."""
    node = statement.node
    match statement.kind:
        case _K.VACUUM | _K.ANALYZE:
            for named in map(unwrap, node.rels):
                if named.HasField("relation") and not named.relation.inh:
                    yield from _need(f"{statement.kind} ONLY", 18, statement, named.relation)
        case _K.CREATE_SEQUENCE if node.sequence.relpersistence == "u":
            yield from _need("CREATE UNLOGGED SEQUENCE", 15, statement)
        case _K.CREATE_STATISTICS if not node.defnames:
            yield from _need("CREATE STATISTICS without a name", 16, statement)
        case _K.CREATE_PUBLICATION | _K.ALTER_PUBLICATION:
            yield from _of_publication(statement)
        case _K.ALTER_DEFAULT_PRIVILEGES if label(node.action, "objtype") == "OBJECT_LARGEOBJECT":
            yield from _need("ALTER DEFAULT PRIVILEGES … ON LARGE OBJECTS", 18, statement)


_SUBCOMMANDS: Mapping[str, tuple[str, int]] = {
    "AT_SetAccessMethod": ("SET ACCESS METHOD", 15),
    "AT_SetExpression": ("SET EXPRESSION", 17),
    "AT_SetCompression": ("SET COMPRESSION", 14),
}
_WITH_EXPRESSIONS = QUERIES | {
    *(_K.SELECT_INTO, _K.CREATE_VIEW, _K.CREATE_TABLE, _K.CREATE_TABLE_AS, _K.CREATE_MATERIALIZED_VIEW),
    *(_K.CREATE_INDEX, _K.ALTER_TABLE, _K.EXPLAIN),
}
_WITH_CONSTRAINTS = frozenset({_K.CREATE_TABLE, _K.ALTER_TABLE})
#: Nodes that only newer syntax makes.
_NODES: Mapping[str, tuple[str, int]] = {
    "MergeStmt": ("MERGE", 15),
    "JsonIsPredicate": ("IS JSON", 16),
    "JsonObjectConstructor": ("JSON_OBJECT", 16),
    "JsonArrayConstructor": ("JSON_ARRAY", 16),
    "JsonArrayQueryConstructor": ("JSON_ARRAY", 16),
    "JsonObjectAgg": ("JSON_OBJECTAGG", 16),
    "JsonArrayAgg": ("JSON_ARRAYAGG", 16),
    "JsonFuncExpr": ("JSON_EXISTS, JSON_QUERY and JSON_VALUE", 17),
    "JsonTable": ("JSON_TABLE", 17),
    "JsonScalarExpr": ("JSON_SCALAR", 17),
    "JsonSerializeExpr": ("JSON_SERIALIZE", 17),
}


def _of_nodes(statement: Statement) -> Iterator[VersionNeed]:
    for node in walk(statement.node):
        name = node.DESCRIPTOR.name
        if name in _NODES:
            yield from _need(*_NODES[name], statement)
        if name == "MergeStmt" and node.HasField("returning_clause"):
            yield from _need("MERGE … RETURNING", 17, statement)
        elif name == "MergeWhenClause" and label(node, "match_kind") == "MERGE_WHEN_NOT_MATCHED_BY_SOURCE":
            yield from _need("WHEN NOT MATCHED BY SOURCE", 17, statement)
        elif name == "ReturningClause" and node.options:
            yield from _need("RETURNING WITH (OLD, NEW)", 18, statement)
        elif name == "RangeSubselect" and not node.HasField("alias"):
            yield from _need("a subquery in FROM without an alias", 16, statement)
        elif name == "ColumnDef" and node.storage_name and statement.kind is _K.CREATE_TABLE:
            yield from _need("CREATE TABLE with STORAGE", 16, statement)
        elif name in {"IndexStmt", "Constraint"}:
            if node.nulls_not_distinct:
                yield from _need("NULLS NOT DISTINCT", 15, statement)
            if name == "Constraint":
                yield from _of_constraint(node, statement)


def _of_constraint(node: Tree, statement: Statement) -> Iterator[VersionNeed]:
    if node.without_overlaps or node.fk_with_period:
        yield from _need("WITHOUT OVERLAPS and PERIOD", 18, statement, node)
    kind = label(node, "contype")
    if kind == "CONSTR_GENERATED" and node.generated_kind == "v":
        yield from _need("virtual generated columns", 18, statement, node)
    unenforced = kind in {"CONSTR_CHECK", "CONSTR_FOREIGN"} and not node.is_enforced
    if kind == "CONSTR_ATTR_NOT_ENFORCED" or (unenforced and statement.kind in _WITH_CONSTRAINTS):
        yield from _need("constraints that are NOT ENFORCED", 18, statement, node)
    if node.fk_del_set_cols:
        yield from _need("ON DELETE SET NULL or SET DEFAULT of some columns", 15, statement, node)


def _given(node: Tree) -> Iterator[Tree]:
    for field in ("options", "params"):
        if field in node.DESCRIPTOR.fields_by_name:
            yield from map(unwrap, getattr(node, field))


def _word(option: Tree) -> str:
    """Return an option's value in lower case, `true` without one."""
    value = option_value(option)
    return "true" if value is None else value.lower()


def _command(kind: StatementKind) -> str:
    return "COPY" if kind in {_K.COPY_FROM, _K.COPY_TO} else str(kind)


_SOURCES = (_of_options, _of_settings, _of_privileges, _of_parameters, _of_clauses, _of_forms)
