"""Which server a session is on: what may be the run's, and what may not."""

from __future__ import annotations

from typing import Any

import pytest

from runner.engine.events import Place
from runner.engine.ports import ServerInfo
from runner.engine.run_location import WrongServerError, place_after
from runner.errors import PreflightError
from runner.gateway.connecting import pinned
from runner.run.takeover import Takeover
from runner.structs import replace

HERE = Place(
    database="app",
    database_oid=16_400,
    started="2026-01-31T00:00:00.000000Z",
    seen="2026-01-31T00:30:00.000000Z",
    standby=False,
    timeline=3,
    flushed=1000,
    system_identifier="7",
)
LATER = "2026-01-31T01:00:00.000000Z"
EARLIER = "2026-01-30T00:00:00.000000Z"


@pytest.mark.parametrize(
    "changes",
    [
        {"flushed": 2000},
        {"started": LATER, "flushed": 1000},  # restarted
        {"started": LATER, "timeline": 4, "flushed": 900},  # a standby of it that was promoted, and lacked some WAL
        {"system_identifier": None},  # the same process, whatever this role may see
    ],
)
def test_what_may_be_the_runs_server(changes: dict[str, Any]) -> None:
    found = replace(HERE, **changes)
    assert place_after(HERE, found).started == found.started


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"system_identifier": "8", "started": LATER}, "system identifier is 8, and the run's is 7"),
        ({"system_identifier": "8"}, "system identifier is 8"),
        ({"started": LATER, "standby": True, "timeline": None, "flushed": None}, "it is a standby"),
        ({"started": LATER, "timeline": 2, "flushed": 5000}, "timeline 2, and the run's is on 3"),
        ({"started": LATER, "flushed": 999}, "an older copy"),
        ({"started": EARLIER, "flushed": 5000}, "it was up while the run's server was another one"),
        ({"started": LATER, "system_identifier": None}, r"GRANT EXECUTE ON FUNCTION pg_control_system\(\)"),
        ({"database_oid": 16_401}, r"oid 16401.*oid 16400"),
        ({"started": LATER, "database": "other"}, "leads to the database other"),
    ],
)
def test_what_is_not_the_runs_server(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(WrongServerError, match=says):
        place_after(HERE, replace(HERE, **changes))


def test_a_copy_is_not_the_runs_server_while_that_serves_the_run() -> None:
    copy = replace(HERE, started=LATER, timeline=4, flushed=5000)
    with pytest.raises(WrongServerError, match="still serves the run"):
        place_after(HERE, copy, alive=True)


def test_a_copy_behind_another_host_is_not_the_runs_server_unless_it_was_promoted() -> None:
    copy = replace(HERE, started=LATER, flushed=5000)
    with pytest.raises(WrongServerError, match="it has another host or port"):
        place_after(HERE, copy, moved=True)
    assert place_after(HERE, replace(copy, timeline=4), moved=True).timeline == 4


def test_how_far_the_wal_is_never_goes_back() -> None:
    assert place_after(HERE, replace(HERE, flushed=10), alive=True).flushed == 1000
    assert place_after(HERE, replace(HERE, flushed=1010), alive=True).flushed == 1010


@pytest.mark.parametrize(
    ("conninfo", "address", "expected"),
    [
        ("host=a,b port=1,2 user=u load_balance_hosts=random", "10.0.0.1", "user=u host=a hostaddr=10.0.0.1 port=1"),
        ("host=/s1,/s2 port=1,2", "", "host=a port=1"),
        ("host=a port=1", "", ""),
        ("service=app", "10.0.0.1", ""),
    ],
)
def test_a_connection_string_is_pinned_to_where_it_has_led(conninfo: str, address: str, expected: str) -> None:
    assert pinned(conninfo, host="a", address=address, port="1") == expected


INFO = ServerInfo(
    version="18",
    version_number=180_000,
    extension_version="2.0",
    extension_schema="public",
    database="app",
    user="u",
    max_worker_processes=8,
    system_identifier="7",
    place=HERE,
)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"system_identifier": None, "started": LATER}, r"pg_control_system\(\)"),
        ({"system_identifier": "8"}, "system identifier is 8"),
        ({"database_oid": 1}, "oid 1"),
        ({"timeline": 2, "started": LATER}, "timeline 2"),
        ({"started": EARLIER}, "a copy of the run's"),
    ],
)
def test_a_run_is_not_resumed_where_it_was_not_begun(changes: dict[str, Any], says: str) -> None:
    takeover = Takeover(database="app", system_identifier="7", place=HERE)
    with pytest.raises(PreflightError, match=says):
        takeover.check_server(replace(INFO, place=replace(HERE, **changes)))
    takeover.check_server(replace(INFO, place=replace(HERE, timeline=4, started=EARLIER)))  # its promoted standby
    Takeover(database="app").check_server(replace(INFO, system_identifier=None))  # an older journal knows no more
