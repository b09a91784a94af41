"""Codes of what takes too long: JP7xx, locks that somebody holds now, and JP8xx, limits that the schedule may reach."""

from __future__ import annotations

from typing import Final

from runner.errors import Severity

_W = Severity.WARNING

#: code → severity, title, why, a wrong example, a right one.
CODES_OF_TIMING: Final = {
    "JP701": (
        _W,
        "Somebody holds a lock that a step would wait for",
        "The step queues behind it, and everybody who wants the table queues behind the step.",
        "ALTER TABLE orders, while a session is idle in transaction with rows of it locked",
        "SELECT pg_terminate_backend(pid);",
    ),
    "JP702": (
        _W,
        "CONCURRENTLY would wait for an old snapshot",
        "A build CONCURRENTLY waits for every older transaction of the database, whatever it has read.",
        "REINDEX INDEX CONCURRENTLY i, while a report runs for hours",
        "after the report",
    ),
    "JP801": (
        _W,
        "A step may run into its timeout",
        "Its 95th percentile is over the timeout: one run in twenty would be stopped.",
        "timeout: 1m, for a step that takes up to 2m",
        "timeout: 5m",
    ),
    "JP802": (
        _W,
        "The run may run into its run_timeout",
        "With every step at its 95th percentile the run would be ended by run_timeout.",
        "run_timeout: 1h, for a run that takes up to 90m",
        "run_timeout: 3h",
    ),
    "JP803": (
        _W,
        "A step may wait too long for a slot",
        "It would fail by its queue_timeout before it has started.",
        "queue_timeout: 1m, with 10m of other steps before it",
        "queue_timeout: 30m",
    ),
}
