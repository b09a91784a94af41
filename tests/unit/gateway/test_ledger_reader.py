"""What a ledger lacks of what a journal has, the numbers that are free for it, and takeovers that are unheard of."""

from __future__ import annotations

from random import Random

import pytest

from runner.gateway.ledger.reader import EventKey, Known, PreviousRecord, missing


def known(*numbered: tuple[int, str]) -> list[Known]:
    return [(seq, key(name)) for seq, name in numbered]


def key(name: str) -> EventKey:
    return ("then", name, None, None)


@pytest.mark.parametrize(
    ("ledger", "journal", "found"),
    [
        ((), "", []),
        ((), "abc", [(0, 1), (1, 2), (2, 3)]),
        (((1, "a"), (2, "b")), "ab", []),
        (((1, "a"), (2, "b")), "abcd", [(2, 3), (3, 4)]),
        (((1, "a"), (4, "d")), "abcd", [(1, 2), (2, 3)]),
        (((2, "b"),), "abc", [(0, 1), (2, 3)]),
        # numbers are left over: a runner that was killed has taken some for what it never wrote
        (((1, "a"), (9, "b")), "axb", [(1, 2)]),
        # no room: a ledger that was out of reach when the run continued
        (((1, "a"), (2, "d")), "abcde", [(4, 3)]),
        # the same thing said several times in a moment
        (((1, "a"), (2, "a"), (3, "b")), "aaab", []),
        (((1, "a"), (2, "a")), "aaaa", [(2, 3), (3, 4)]),
        # the journal was lost for a while, or is not the latest: what came last in it may have come before
        (((1, "a"), (2, "x")), "abc", []),
        (((1, "a"), (3, "c"), (4, "x")), "abcd", [(1, 2)]),
        # what only the ledger has is older than the last that both have
        (((1, "a"), (2, "x"), (3, "r"), (4, "c")), "arcde", [(3, 5), (4, 6)]),
    ],
)
def test_what_is_missing(ledger: tuple[tuple[int, str], ...], journal: str, found: list[tuple[int, int]]) -> None:
    assert list(missing(known(*ledger), [key(name) for name in journal])) == found


def test_whatever_a_ledger_has_lost_is_found_in_its_place() -> None:
    for seed in range(300):
        random = Random(seed)  # noqa: S311 - not for secrets
        journal = [key(str(random.randrange(1_000_000))) for _ in range(random.randint(0, 30))]
        has = [(seq, name) for seq, name in enumerate(journal, start=1) if random.random() < 0.7]
        found = list(missing(has, journal))
        assert found == [(seq - 1, seq) for seq in range(1, len(journal) + 1) if seq not in {s for s, _ in has}], seed


def test_a_takeover_of_which_this_runner_has_not_received() -> None:
    def takeover(at: str) -> EventKey:
        return (at, "run_resumed", None, None)

    record = PreviousRecord([(1, key("a")), (2, takeover("10:00"))])
    assert list(record.missing([key("a"), takeover("10:00"), takeover("11:00")])) == [(2, 3)]
    assert list(record.missing([key("a")])) == [(0, 1)]  # of an empty ledger: what was missing is returned once
    record.add_own('{"event": "step_expanded", "at": "11:30"}')
    record.add_own('{"event": "run_resumed", "at": "12:00"}')
    received = [("10:00", "a"), ("11:00", "b"), ("12:00", "c")]
    assert record.taken_over_since(received) is None
    assert record.taken_over_since([*received, ("13:00", "d")]) == "on d, at 13:00"
