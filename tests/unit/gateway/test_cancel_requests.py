"""What a runner hears from `jobplan cancel`, and what it believes."""

from __future__ import annotations

import json

import pytest

from runner.engine.ports import CancelRequest
from runner.gateway.cancel_requests import (
    CHANNEL,
    CancelAnswer,
    ReceivedRequests,
    payload_of,
    read_answer,
    read_request,
)

RUN = "260131-k7f3qz"
WHOLE = CancelRequest(run=RUN, step=None, by="alice@laptop", key="1")
STEP = CancelRequest(run=RUN, step="vacuum", by="bob@host", key="2")


def received(*requests: CancelRequest, role: str | None = "dba") -> ReceivedRequests:
    """Return what a run knows that has received these requests of another session with this role."""
    known = ReceivedRequests(RUN)
    for request in requests:
        known.receive(CHANNEL, payload_of(request), 42)
    for sender in known.senders_to_check:
        known.judge(sender, role)
    return known


def test_a_request_is_read_as_it_was_written() -> None:
    for request in (WHOLE, STEP):
        assert read_request(payload_of(request)) == request


@pytest.mark.parametrize(
    "payload", ["", "x", "[]", "1", "{}", '{"run": 1, "by": "a", "key": "k"}', '{"run": "r"}', "[" * 5000]
)
def test_what_is_no_request_is_ignored(payload: str) -> None:
    assert read_request(payload) is None
    assert not ReceivedRequests(RUN).receive(CHANNEL, payload, 1)


def test_a_request_fits_into_a_notification() -> None:
    request = CancelRequest(run=RUN, step="s[" + "x" * 600 + "]", by="ö" * 5000, key="1")
    assert len(payload_of(request)) < 8000


def test_nothing_that_is_not_printable_reaches_a_terminal() -> None:
    payload = json.dumps({"run": RUN, "step": None, "by": "\x1b[2Jevil\n", "key": "1"})
    known = ReceivedRequests(RUN)
    known.receive(CHANNEL, payload, 1)
    known.judge(1, "dba")
    asked = known.take(of_run=True)
    assert asked is not None
    assert asked.by == "?[2Jevil? (role dba)"


def test_a_run_is_cancelled_once_by_each_request() -> None:
    again = CancelRequest(run=RUN, step=None, by="carol@host", key="3")
    known = received(WHOLE, WHOLE, again)
    assert [known.take(of_run=True) for _ in range(3)] == [
        CancelRequest(run=RUN, step=None, by="alice@laptop (role dba)", key="1"),
        CancelRequest(run=RUN, step=None, by="carol@host (role dba)", key="3"),
        None,
    ]


def test_a_request_that_was_received_is_ignored_again() -> None:
    known = received(WHOLE)
    assert not known.receive(CHANNEL, payload_of(WHOLE), 42)


def test_a_step_that_is_cancelled_cancels_no_run() -> None:
    known = received(STEP)
    assert known.take(of_run=True) is None
    for step in ("vacuum", "vacuum[orders]", "vacuum[größe]"):
        assert known.requester_of(step) == "bob@host (role dba)"
    for step in ("vacuum2", "other"):
        assert known.requester_of(step) is None


def test_a_run_that_is_cancelled_explains_every_worker() -> None:
    assert received(WHOLE).requester_of("any") == "alice@laptop (role dba)"


def test_a_request_of_a_role_that_may_stop_nothing_is_ignored() -> None:
    known = received(WHOLE, STEP, role=None)
    assert known.take(of_run=True) is None
    assert known.requester_of("vacuum") is None
    assert known.senders_to_check == ()
    assert known.receive(CHANNEL, payload_of(WHOLE), 43)  # from another user it may be true


def test_other_channels_and_other_runs_are_not_ours() -> None:
    known = ReceivedRequests(RUN)
    other = CancelRequest(run="260131-zzzzzz", step=None, by="a", key="1")
    assert not known.receive("elsewhere", payload_of(WHOLE), 1)
    assert not known.receive(CHANNEL, payload_of(other), 1)
    assert known.senders_to_check == ()


def test_a_flood_is_bounded() -> None:
    known = ReceivedRequests(RUN)
    for sender in range(2000):
        known.receive(CHANNEL, payload_of(CancelRequest(run=RUN, step=None, by="m", key=str(sender))), sender)
    for number in range(1000):
        known.receive(CHANNEL, payload_of(CancelRequest(run=RUN, step="s", by="m", key=f"s{number}")), 1)
    assert len(known.senders_to_check) == 1000
    known.judge(1, "dba")
    taken = 0
    while known.take(of_run=False):
        taken += 1
    assert taken == 19  # and one that cancels the run


def test_a_flood_of_one_sender_displaces_no_request_of_another() -> None:
    known = ReceivedRequests(RUN)
    for number in range(1000):
        known.receive(CHANNEL, payload_of(CancelRequest(run=RUN, step=None, by="m", key=f"m{number}")), 13)
    known.receive(CHANNEL, payload_of(WHOLE), 42)
    known.judge(13, None)
    known.judge(42, "dba")
    assert known.take(of_run=True) == CancelRequest(run=RUN, step=None, by="alice@laptop (role dba)", key="1")
    assert known.take(of_run=True) is None


def test_what_a_flood_sends_beyond_its_limit_is_not_read_until_the_next_check(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("runner.gateway.cancel_requests.read_request", read.append)
    known = ReceivedRequests(RUN)
    junk = json.dumps({"run": RUN, "x": "[" * 7000})
    for _ in range(1000):
        known.receive(CHANNEL, "[" * 7000, 13)  # it has not even the id of the run
        known.receive(CHANNEL, junk, 13)
    assert len(read) == 20
    known.end_check()
    known.receive(CHANNEL, junk, 13)
    assert len(read) == 21


def test_senders_of_other_notifications_do_not_use_up_the_places_of_senders() -> None:
    known = ReceivedRequests(RUN)
    for sender in range(5000):
        known.receive(CHANNEL, json.dumps({"run": RUN}), sender)
        if sender % 500 == 0:
            known.end_check()
    assert known.receive(CHANNEL, payload_of(WHOLE), 9999)


def test_a_request_that_was_not_checked_yet_still_counts_after_a_check() -> None:
    known = ReceivedRequests(RUN)
    for number in range(15):
        known.receive(CHANNEL, payload_of(CancelRequest(run=RUN, step="s", by="m", key=str(number))), 13)
    known.end_check()
    for number in range(15, 30):
        known.receive(CHANNEL, payload_of(CancelRequest(run=RUN, step="s", by="m", key=str(number))), 13)
    known.judge(13, "dba")
    assert sum(known.take(of_run=False) is not None for _ in range(30)) == 20


def test_every_request_that_is_accepted_has_an_answer_that_fits_into_a_notification() -> None:
    for key in ("k" * 7000, "ö" * 1500, "\x01" * 1000):
        assert read_request(json.dumps({"run": RUN, "step": None, "by": "m", "key": key})) is None
    for key in ("k" * 200, "😀" * 200, "\x01" * 200):
        request = read_request(json.dumps({"run": RUN, "step": None, "by": "m", "key": key}))
        assert request is not None
        assert len(CancelAnswer(run=RUN, key=request.key, steps=10**9).to_payload().encode()) < 8000


def test_a_step_is_requested_once_and_the_answer_reaches_the_requester() -> None:
    known = received(STEP, STEP)
    asked = known.take(of_run=False)
    assert asked is not None
    assert (asked.step, asked.by, asked.key) == ("vacuum", "bob@host (role dba)", "2")
    assert known.take(of_run=False) is None
    for steps in (0, 3, None):
        answer = CancelAnswer(run=RUN, key=asked.key, steps=steps)
        assert read_answer(answer.to_payload(), STEP) == answer
        assert read_answer(answer.to_payload(), WHOLE) is None
        assert read_request(answer.to_payload()) is None
    assert read_answer(payload_of(STEP), STEP) is None
    assert read_answer("x", STEP) is None
