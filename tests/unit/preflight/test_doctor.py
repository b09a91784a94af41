"""What the checks of a server make of what it says, without one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.gateway.server_facts import Capacity, InvalidIndex, OldTransaction, PreparedTransaction, ServerFacts
from runner.preflight.doctor import CHECKS, CheckOutcome, Demand, Level, examine
from runner.reports.doctor_report import doctor_json, doctor_lines
from runner.reports.plan_problems import Style
from runner.structs import replace

CAPACITY = Capacity(
    max_worker_processes=20,
    workers=2,
    of_pg_background=1,
    unseen=0,
    max_parallel_workers=8,
    max_connections=100,
    reserved_connections=3,
    connections=10,
    superuser=False,
    role_limit=-1,
    role_connections=1,
    database_limit=-1,
    database_connections=5,
    max_workers=16,
)
HEALTHY = ServerFacts(
    version="18.6",
    version_number=180_006,
    database="app",
    user="batch",
    standby=False,
    backend_pid=7,
    announced_pid=7,
    extension_version="2.0",
    extension_schema="public",
    available_version="2.0",
    schema_usage=True,
    may_launch=True,
    sees_all=True,
    read_only=False,
    read_only_source="default",
    capacity=CAPACITY,
)


def outcome(name: str, facts: ServerFacts, demand: Demand | None = None) -> CheckOutcome:
    """Return what one check finds."""
    return next(one.outcome for one in examine(facts, demand or Demand()) if one.check.name == name)


def crowded(**changes: Any) -> ServerFacts:
    """Return the healthy server with another capacity."""
    return replace(HEALTHY, capacity=replace(CAPACITY, **changes))


def test_a_healthy_server_passes_every_check() -> None:
    assert {one.outcome.level for one in examine(HEALTHY, Demand(slots=4, reserve=2))} == {Level.OK}


def test_codes_and_names_are_unique() -> None:
    assert len({check.code for check in CHECKS}) == len({check.name for check in CHECKS}) == len(CHECKS)


def test_a_role_without_pg_monitor_is_informed_of_what_it_cannot_measure() -> None:
    outcomes = examine(replace(HEALTHY, may_monitor=False), Demand(slots=4))
    (sight,) = [one.outcome for one in outcomes if one.check.name == "sight"]
    assert (sight.level, "wal_to_archive also needs pg_monitor" in sight.found) == (Level.OK, True)


def test_a_plan_with_holds_needs_one_more_connection() -> None:
    assert Demand(slots=4, holds=True).connections == Demand(slots=4).connections + 1


@pytest.mark.parametrize(
    ("name", "facts", "level", "found", "mend"),
    [
        ("server version", replace(HEALTHY, version="13.9", version_number=130_009), "error", "13.9", "Upgrade"),
        ("connection", replace(HEALTHY, announced_pid=9), "warning", "a pooler", "itself"),
        ("extension", replace(HEALTHY, extension_version=None), "error", '"app"', "CREATE EXTENSION pg_background;"),
        (
            "extension",
            replace(HEALTHY, extension_version=None, available_version=None),
            "error",
            "not installed",
            "postgresql-18-pg-background",
        ),
        ("extension", replace(HEALTHY, extension_version="1.5"), "error", "1.5", "UPDATE"),
        ("extension", replace(HEALTHY, available_version="2.1"), "warning", "2.1", "UPDATE"),
        ("privileges", replace(HEALTHY, may_launch=False), "error", "batch", 'GRANT pgbackground_role TO "batch";'),
        (
            "privileges",
            replace(HEALTHY, schema_usage=False, extension_schema="Odd"),
            "error",
            "Odd",
            'GRANT USAGE ON SCHEMA "Odd" TO "batch";',
        ),
        ("privileges", replace(HEALTHY, extension_version=None), "unknown", "no extension", ""),
        ("library", replace(HEALTHY, load_error="could not access file"), "error", "could not access", "Install"),
        ("library", crowded(max_workers=0), "error", "max_workers is 0", "= 16;"),
        ("library", crowded(max_workers=None), "unknown", "could not be tested", ""),
        ("primary or standby", replace(HEALTHY, standby=True), "error", "a standby", "primary"),
        (
            "writing",
            replace(HEALTHY, read_only=True, read_only_source="user"),
            "error",
            "by user",
            'ALTER ROLE "batch" RESET default_transaction_read_only;',
        ),
        (
            "writing",
            replace(HEALTHY, read_only=True, read_only_source="database"),
            "error",
            "by database",
            'ALTER DATABASE "app"',
        ),
        ("writing", replace(HEALTHY, read_only=True), "error", "by default", "ALTER SYSTEM RESET"),
        ("workers", crowded(workers=18), "error", "no step could start", "max_worker_processes = 24;"),
        ("workers", crowded(workers=15), "warning", "wait for each other", "max_worker_processes = 21;"),
        ("parallel queries", crowded(max_parallel_workers=20), "warning", "steps wait", "max_parallel_workers = 14;"),
        ("connections", crowded(connections=97), "error", "0 more", "max_connections = 106;"),
        ("connections", crowded(connections=96), "warning", "1 more", "max_connections = 105;"),
        ("connections", crowded(role_limit=4), "warning", "3 more", 'ALTER ROLE "batch" CONNECTION LIMIT 7;'),
        ("connections", crowded(database_limit=7), "warning", "2 more", 'ALTER DATABASE "app" CONNECTION LIMIT 11;'),
        ("connections", crowded(connections=96, superuser=True), "warning", "4 more", "max_connections = 102;"),
        ("sight", replace(HEALTHY, sees_all=False), "warning", "hidden", 'GRANT pg_read_all_stats TO "batch";'),
    ],
)
def test_each_fault_is_found_with_its_fix(name: str, facts: ServerFacts, level: str, found: str, mend: str) -> None:
    outcomes = examine(facts, Demand(slots=4, reserve=2))
    this = next(one.outcome for one in outcomes if one.check.name == name)
    assert (this.level, found in this.found, mend in this.mend) == (level, True, True), this
    others = {one.outcome.level for one in outcomes if one.check.name not in {name, "extension", "privileges"}}
    assert others == {Level.OK}


def test_what_holds_others_up_is_named_the_oldest_first() -> None:
    old = [
        OldTransaction(pid=pid, user="app", application_name="", state="idle in transaction", seconds=7200, here=True)
        for pid in (11, 12, 13, 14)
    ]
    found = outcome("old transactions", replace(HEALTHY, old_transactions=tuple(old)))
    assert found.level is Level.WARNING
    assert "pid 11 (idle in transaction, app) for 2h00m" in found.found
    assert found.found.endswith("and 1 more")
    assert found.mend == "SELECT pg_terminate_backend(11);"


def test_a_prepared_transaction_is_ended_by_its_own_name() -> None:
    prepared = (PreparedTransaction(gid="it's", owner="app", seconds=60),)
    assert outcome("prepared transactions", replace(HEALTHY, prepared=prepared)).mend == "ROLLBACK PREPARED 'it''s';"


def test_an_invalid_index_is_dropped_by_its_quoted_name() -> None:
    index = InvalidIndex(schema="app", name="Order_ccnew", table="orders")
    found = outcome("invalid indexes", replace(HEALTHY, invalid_indexes=(index,)))
    assert found.mend == 'DROP INDEX CONCURRENTLY "app"."Order_ccnew";'


def test_the_text_shows_need_and_cure_only_of_what_is_wrong() -> None:
    facts = replace(HEALTHY, may_launch=False)
    lines = list(doctor_lines(examine(facts, Demand()), facts, Style()))
    assert sum("fix:" in line for line in lines) == sum("needed:" in line for line in lines) == 1
    assert lines[-1] == 'PostgreSQL 18.6, database "app", role "batch": not ready, 1 error.'


def test_the_last_line_of_a_healthy_server() -> None:
    *_, last = doctor_lines(examine(HEALTHY, Demand()), HEALTHY, Style())
    assert last == 'PostgreSQL 18.6, database "app", role "batch": ready.'


def test_json_has_every_check() -> None:
    document = json.loads(doctor_json(examine(HEALTHY, Demand()), HEALTHY))
    assert document["ready"] is True
    assert [one["check"] for one in document["checks"]] == [check.name for check in CHECKS]
    assert all(one["mend"] is None for one in document["checks"])


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"shows_text": False}, "track_activities = off"),
        ({"text_size": 100}, "track_activity_query_size = 100"),
    ],
)
def test_a_server_that_hides_labels_is_warned_about(changes: dict[str, Any], found: str) -> None:
    (one,) = [each for each in examine(replace(HEALTHY, **changes), Demand()) if each.check.code == "JP516"]
    assert (one.outcome.level, one.outcome.found) == (Level.WARNING, found)
    assert one.outcome.mend.startswith("ALTER SYSTEM SET track_activit")
