"""The codes of what a dry run and doctor find, and the finding that has one.

Stable, like those of the rules: none is ever given to another finding. JP5xx are about the server, JP6xx about
statements, JP7xx about locks, JP8xx about the schedule. A check yields a code, a message and a place in the statement;
the table knows the severity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from runner.errors import Position, Problem, Severity

_E, _W = Severity.ERROR, Severity.WARNING

#: code → severity, title, why, a wrong example, a right one.
CODES_OF_SERVER: Final = {
    "JP501": (_E, "The server is too old", "pg_background 2 needs PostgreSQL 14.", "13.9", "14 or later"),
    "JP502": (
        _W,
        "A pooler between jobplan and the server",
        "A worker's handle belongs to the session that launched it; a pooler hands sessions around.",
        "--dsn 'host=pgbouncer port=6432'",
        "--dsn 'host=db port=5432'",
    ),
    "JP503": (
        _E,
        "The extension is missing or too old",
        "Steps run as workers of pg_background, version 2.0 or later.",
        "\\dx shows no pg_background",
        "CREATE EXTENSION pg_background;",
    ),
    "JP504": (
        _E,
        "The role may not use the extension",
        "Only members of pgbackground_role may launch workers.",
        "REVOKE pgbackground_role FROM batch;",
        "GRANT pgbackground_role TO batch;",
    ),
    "JP505": (
        _E,
        "The extension's library cannot be used",
        "Without its library the extension has no functions and no settings.",
        "pg_background.max_workers = 0",
        "pg_background.max_workers = 16",
    ),
    "JP506": (
        _E,
        "The server is a standby",
        "pg_background can start no worker on a standby, not even for a step that only reads.",
        "--dsn host=replica",
        "--dsn 'host=a,b target_session_attrs=primary'",
    ),
    "JP507": (
        _E,
        "Transactions are read-only by default",
        "Workers inherit default_transaction_read_only, so every step that writes fails (25006).",
        "ALTER ROLE batch SET default_transaction_read_only = on;",
        "ALTER ROLE batch RESET default_transaction_read_only;",
    ),
    "JP508": (
        _W,
        "Too few workers are free",
        "A step waits until the server has a worker for it, over the plan's reserve. An error if none could start now.",
        "max_worker_processes = 8, budget: {slots: 8}",
        "max_worker_processes = 16, budget: {slots: 8}",
    ),
    "JP509": (
        _W,
        "Parallel queries can take every worker",
        "Parallel query and pg_background share max_worker_processes.",
        "max_parallel_workers = 8, max_worker_processes = 8",
        "max_parallel_workers = 4, max_worker_processes = 16",
    ),
    "JP510": (
        _W,
        "Too few connections are left",
        "A run takes a connection for each worker and two more. An error if there are not even two.",
        "ALTER ROLE batch CONNECTION LIMIT 2;",
        "ALTER ROLE batch CONNECTION LIMIT 20;",
    ),
    "JP511": (
        _W,
        "The role does not see other roles' processes",
        "Without pg_read_all_stats nobody can count free workers or see who blocks whom.",
        "REVOKE pg_read_all_stats FROM batch;",
        "GRANT pg_read_all_stats TO batch;",
    ),
    "JP512": (
        _W,
        "Old transactions",
        "VACUUM cannot remove what an old transaction may still see, and CONCURRENTLY waits for its end.",
        "idle in transaction for 3 hours",
        "SELECT pg_terminate_backend(pid);",
    ),
    "JP513": (
        _W,
        "Prepared transactions that nobody ends",
        "They keep their locks and hold back VACUUM, also over a restart.",
        "PREPARE TRANSACTION 'x';",
        "ROLLBACK PREPARED 'x';",
    ),
    "JP514": (
        _W,
        "INVALID indexes",
        "Every write keeps them up, and no query uses them.",
        "a CREATE INDEX CONCURRENTLY that was cancelled",
        "DROP INDEX CONCURRENTLY i;",
    ),
    "JP515": (
        _W,
        "A ledger that is ignored",
        "The owner of a table decides what is executed, with your rights, when you read or write it.",
        "CREATE SCHEMA jobplan AUTHORIZATION guest;",
        "ALTER SCHEMA jobplan OWNER TO dba;",
    ),
    "JP516": (
        _W,
        "Workers do not show their text",
        "jobplan cancel leaves a worker alone if neither its text nor a record says whether its step is a detach step.",
        "track_activities = off, or track_activity_query_size = 100",
        "track_activities = on and track_activity_query_size = 1024",
    ),
    "JP520": (
        _E,
        "A requirement of the plan does not hold",
        "What the plan's `requires` names must be so before anything starts.",
        "requires: {standby: false} on a standby",
        "requires: {standby: false} on a primary",
    ),
    "JP521": (
        _W,
        "Another run holds the concurrency group",
        "One run of a group at a time in a database: a second one fails, or waits, as the plan says.",
        "concurrency: {on_conflict: fail} while another run is under way",
        "concurrency: {on_conflict: wait}",
    ),
    "JP522": (
        _E,
        "A role that cannot be taken",
        "A worker takes the step's role before its SQL runs.",
        "role: owner_of_all",
        "GRANT owner_of_all TO batch;",
    ),
    "JP523": (
        _E,
        "A setting that the server refuses",
        "A worker gets the step's settings before its SQL runs.",
        "settings: {work_mem: plenty}",
        "settings: {work_mem: 64MB}",
    ),
}


#: code → severity, title, why, a wrong example, a right one.
CODES_OF_STATEMENTS: Final = {
    "JP601": (
        _E,
        "A relation or schema that is not there",
        "Neither the database has it nor does an earlier step create it.",
        "sql: VACUUM ordrs",
        "sql: VACUUM orders",
    ),
    "JP602": (
        _E,
        "A column or constraint that is not there",
        "Neither the relation has it nor does an earlier step add it.",
        "sql: SELECT totel FROM orders",
        "sql: SELECT total FROM orders",
    ),
    "JP603": (
        _E,
        "A function, operator or type that is not there",
        "The server finds none of that name for these arguments.",
        "sql: SELECT to_days(now())",
        "sql: SELECT now()::date",
    ),
    "JP604": (
        _E,
        "Dropped by an earlier step",
        "An earlier step of the plan drops what the statement needs.",
        "- id: a\n  sql: DROP TABLE t\n- id: b\n  needs: [a]\n  sql: VACUUM t",
        "- id: b\n  sql: VACUUM t\n- id: a\n  needs: [b]\n  sql: DROP TABLE t",
    ),
    "JP605": (
        _E,
        "A condition that gives no boolean",
        "`if`, `verify` and the like have to give one boolean.",
        "if: SELECT count(*) FROM orders",
        "if: SELECT count(*) > 0 FROM orders",
    ),
    "JP606": (
        _E,
        "The server refuses the statement",
        "It would be refused in the same way when the plan runs.",
        "sql: SELECT 1 + 'x'",
        "sql: SELECT 1 + 2",
    ),
    "JP607": (
        _E,
        "The wrong kind of relation",
        "The command does not work on this kind of relation.",
        "sql: REFRESH MATERIALIZED VIEW orders",
        "sql: REFRESH MATERIALIZED VIEW best_orders",
    ),
    "JP608": (
        _E,
        "The name is taken",
        "Something of that name is there already, and the statement does not say IF NOT EXISTS.",
        "sql: CREATE TABLE orders (id int)",
        "sql: CREATE TABLE IF NOT EXISTS orders (id int)",
    ),
    "JP609": (
        _E,
        "It depends on others",
        "The server refuses to drop or empty what others depend on, unless the statement says CASCADE.",
        "sql: DROP TABLE orders",
        "sql: DROP VIEW orders_of_today; DROP TABLE orders",
    ),
    "JP610": (
        _E,
        "A privilege is missing",
        "The role that the step runs as may not do that.",
        "sql: VACUUM orders",
        "GRANT MAINTAIN ON orders TO batch;",
    ),
    "JP611": (
        _E,
        "Not possible with a partitioned table",
        "Some commands work differently on a partitioned table, or not at all.",
        "sql: CREATE INDEX CONCURRENTLY i ON events (at)",
        "sql: CREATE INDEX i ON ONLY events (at)",
    ),
    "JP612": (
        _W,
        "Nothing orders it after the step that creates what it needs",
        "Without `needs` the step may run before what it needs is there.",
        "- id: a\n  sql: CREATE TABLE t ()\n- id: b\n  sql: ANALYZE t",
        "- id: a\n  sql: CREATE TABLE t ()\n- id: b\n  needs: [a]\n  sql: ANALYZE t",
    ),
    "JP613": (
        _W,
        "A function that is marked wrongly",
        "The planner may run a function that is marked STABLE or IMMUTABLE; one that writes is not.",
        "CREATE FUNCTION log_it() … STABLE",
        "CREATE FUNCTION log_it() … VOLATILE",
    ),
    "JP614": (
        _E,
        "An INVALID index is in the way",
        "IF NOT EXISTS takes an index for there that no query uses; without it the name is taken.",
        "sql: CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON orders (at)",
        "sql: DROP INDEX CONCURRENTLY IF EXISTS i",
    ),
    "JP615": (
        _E,
        "REFRESH … CONCURRENTLY is not possible",
        "It needs a unique index on columns, for all rows, and a view that has been filled before.",
        "sql: REFRESH MATERIALIZED VIEW CONCURRENTLY v",
        "sql: CREATE UNIQUE INDEX v_key ON v (id)",
    ),
    "JP616": (
        _W,
        "The disk may be too small",
        "What is rewritten or built is there twice until the statement is over.",
        "sql: VACUUM FULL orders",
        "sql: VACUUM orders",
    ),
    "JP617": (
        _W,
        "It may be missing",
        "The database does not have it; an earlier step runs SQL that might create it.",
        "sql: ANALYZE made_by_a_function",
        "touches: [made_by_a_function]",
    ),
    "JP618": (
        _E,
        "DETACH … CONCURRENTLY is not possible",
        "Not while the table has a DEFAULT partition, or while another partition is being detached.",
        "sql: ALTER TABLE events DETACH PARTITION events_1 CONCURRENTLY",
        "sql: ALTER TABLE events DETACH PARTITION events_1",
    ),
    "JP619": (
        _E,
        "The list of for_each cannot be read",
        "The items are the rows of a query that jobplan asks when the step becomes ready.",
        "for_each: {sql: SELECT nam FROM shops, as: shop}",
        "for_each: {sql: SELECT name FROM shops, as: shop}",
    ),
    "JP620": (
        _W,
        "It could not be looked at now",
        "Somebody holds a lock that even looking at the table needs, or planning takes very long.",
        "another session holds ACCESS EXCLUSIVE",
        "jobplan dry-run, when that session is over",
    ),
    "JP621": (
        _E,
        "A role that is not there",
        "Roles are of the whole server; neither it has this one nor does an earlier step create it.",
        "sql: GRANT SELECT ON orders TO reportng",
        "sql: GRANT SELECT ON orders TO reporting",
    ),
    "JP622": (
        _E,
        "A tablespace that is not there",
        "The server has no tablespace of that name.",
        "sql: CREATE INDEX i ON orders (at) TABLESPACE fast",
        "sql: CREATE INDEX i ON orders (at)",
    ),
    "JP623": (
        _E,
        "An extension or language that is not there",
        "An extension's files have to be on the server's machine before it can be created.",
        "sql: CREATE EXTENSION postgis",
        "apt-get install postgresql-18-postgis-3",
    ),
    "JP624": (
        _E,
        "The server is too old for it",
        "The parser knows the newest version of PostgreSQL; this server has no such option, setting or privilege.",
        "sql: VACUUM (BUFFER_USAGE_LIMIT '1MB') orders",
        "sql: VACUUM orders",
    ),
    "JP625": (
        _W,
        "Row-level security hides rows",
        "Policies decide which rows the role sees: a statement that changes none succeeds as well.",
        "sql: UPDATE agents SET armed_at = now()",
        'settings: {row_security: "off"}',
    ),
}


_WARNING = Severity.WARNING

#: code → severity, title, why, a wrong example, a right one.
CODES_OF_TIMING: Final = {
    "JP701": (
        _WARNING,
        "Somebody holds a lock that a step would wait for",
        "The step queues behind it, and everybody who wants the table queues behind the step.",
        "ALTER TABLE orders, while a session is idle in transaction with rows of it locked",
        "SELECT pg_terminate_backend(pid);",
    ),
    "JP702": (
        _WARNING,
        "CONCURRENTLY would wait for an old snapshot",
        "A build CONCURRENTLY waits for every older transaction of the database, whatever it has read.",
        "REINDEX INDEX CONCURRENTLY i, while a report runs for hours",
        "after the report",
    ),
    "JP801": (
        _WARNING,
        "A step may run into its timeout",
        "Its 95th percentile is over the timeout: one run in twenty would be stopped.",
        "timeout: 1m, for a step that takes up to 2m",
        "timeout: 5m",
    ),
    "JP802": (
        _WARNING,
        "The run may run into its run_timeout",
        "With every step at its 95th percentile the run would be ended by run_timeout.",
        "run_timeout: 1h, for a run that takes up to 90m",
        "run_timeout: 3h",
    ),
    "JP803": (
        _WARNING,
        "A step may wait too long for a slot",
        "It would fail by its queue_timeout before it has started.",
        "queue_timeout: 1m, with 10m of other steps before it",
        "queue_timeout: 30m",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckCode:
    """What a code means, and how what it tells of looks wrong and right."""

    severity: Severity
    title: str
    why: str
    wrong: str
    right: str


#: Every code of this floor, in order.
CODES: Final[Mapping[str, CheckCode]] = MappingProxyType(
    {
        code: CheckCode(severity=severity, title=title, why=why, wrong=wrong, right=right)
        for code, (severity, title, why, wrong, right) in (
            CODES_OF_SERVER | CODES_OF_STATEMENTS | CODES_OF_TIMING
        ).items()
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementFinding:
    """One thing that is wrong with a statement; `offset` counts characters of the whole text, as the parser does.

    `sqlstate` is that of the server's error, if it is one.
    """

    code: str
    message: str
    offset: int
    hint: str | None = None
    severity: Severity | None = None
    sqlstate: str | None = None


def problem(
    code: str,
    message: str,
    position: Position,
    *,
    hint: str | None = None,
    step: str | None = None,
    severity: Severity | None = None,
) -> Problem:
    """Return a problem with the severity of its code, unless this one is of another."""
    return Problem(
        position=position,
        code=code,
        message=message,
        hint=hint,
        severity=severity or CODES[code].severity,
        step=step,
    )
