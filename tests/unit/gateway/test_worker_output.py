"""The output of a worker: notices within their limits, and the errors that are its own."""

from __future__ import annotations

from runner.engine.events import ErrorDetails, Notice
from runner.gateway.worker_output import NOTICE_CAP, NoticeCollector, is_workers_own


def test_notices_are_kept_up_to_a_cap_and_counted_beyond() -> None:
    collect = NoticeCollector()
    for _ in range(3):
        collect(Notice(severity="NOTICE", message="x" * (NOTICE_CAP // 2)))
    collect(Notice(severity="NOTICE", message=""))
    assert (len(collect.kept), collect.dropped) == (3, 1)


def test_an_error_of_the_worker_is_known_by_its_context() -> None:
    assert is_workers_own(ErrorDetails(message="m", context="SQL statement\nbackground worker, pid 42"))
    assert not is_workers_own(ErrorDetails(message="m"))
    assert not is_workers_own(ErrorDetails(message="m", context="PL/pgSQL function f()"))


def test_warnings_have_room_of_their_own_and_are_all_counted() -> None:
    collect = NoticeCollector()
    for _ in range(3):
        collect(Notice(severity="INFO", message="x" * (NOTICE_CAP // 2)))
    collect(Notice(severity="WARNING", message="skipping"))
    for _ in range(3):
        collect(Notice(severity="WARNING", message="y" * (NOTICE_CAP // 2)))
    assert [notice.severity for notice in collect.kept] == ["INFO", "INFO", "WARNING", "WARNING"]
    assert (collect.dropped, collect.warnings) == (3, 4)
