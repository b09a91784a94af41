"""Codes of the server that a plan is to run on, JP5xx: the extension, the role, its settings, and who else is there."""

from __future__ import annotations

from typing import Final

from runner.errors import Severity

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
