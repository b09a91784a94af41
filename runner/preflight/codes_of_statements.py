"""Codes of a plan's statements, JP6xx: what the database would say to each of them when its turn comes."""

from __future__ import annotations

from typing import Final

from runner.errors import Severity

_E, _W = Severity.ERROR, Severity.WARNING

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
