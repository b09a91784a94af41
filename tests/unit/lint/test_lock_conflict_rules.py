"""The rules about steps whose locks exclude each other: where they find something, what they say, and what it costs.

`tests/plans/conflicts/JP401.yaml` has a rule's cases, one a document: steps, or a plan's keys. A finding is wanted
where a `§` stands, and nowhere else, two where there are two; the marks are taken out before the plan is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.lint.lock_conflict_rules import RULES
from runner.lint.rule import Finding
from runner.locks.conflicts import ConflictResult, Held, Lockable, LockTiming, find_deadlock, kind_of, verdict
from runner.locks.contention import MAX_REPORTED, ContentionResult, find_contention
from runner.locks.step_locks import Locking, read_locking
from runner.plan import load_plan
from runner.plan.model import ForEach, Plan, Step
from runner.plan.parsed_sql import read_subject
from runner.sql.lock_modes import LockMode
from tests.builders import plan, step

CASES = Path(__file__).parents[2] / "plans" / "conflicts"
MARK = "§"
HEADER = {
    "version": "1",
    "name": "case",
    "budget": "{slots: 4}",
    "defaults": "{timeout: 10m, on_finish: wait}",
}
BY_CODE = {rule.code: rule for rule in RULES}


def read(text: str, folder: Path) -> Plan:
    """Return a plan made of steps, or of whole keys, and what a plan has besides."""
    if not re.search(r"^[a-z]+:", text, re.MULTILINE):
        text = "steps:\n" + "".join(f"  {line}" for line in text.splitlines(keepends=True))
    rest = (f"{key}: {value}\n" for key, value in HEADER.items() if not re.search(rf"^{key}:", text, re.MULTILINE))
    file = folder / "plan.yaml"
    file.write_text(f"{text.rstrip()}\n{''.join(rest)}", encoding="utf-8")
    loaded = load_plan(file)
    assert loaded.plan is not None, [str(problem) for problem in loaded.problems]
    return loaded.plan


def findings(code: str, of: Plan) -> list[Finding]:
    return list(BY_CODE[code].check(read_subject(of)))


def cases() -> Iterator[object]:
    for file in sorted(CASES.glob("*.yaml")):
        for number, case in enumerate(re.split(r"^---\n", file.read_text(encoding="utf-8"), flags=re.MULTILINE), 1):
            yield pytest.param(file.stem, case, id=f"{file.stem}-{number}")


def places(text: str) -> list[tuple[int, str]]:
    """Return the line of each mark, and what follows it."""
    lines = text.splitlines()
    return [(n, line[match.end() :]) for n, line in enumerate(lines) for match in re.finditer(MARK, line)]


@pytest.mark.parametrize(("code", "case"), tuple(cases()))
def test_a_rule_finds_what_is_marked_and_nothing_else(code: str, case: str, tmp_path: Path) -> None:
    found = findings(code, read(case.replace(MARK, ""), tmp_path))
    lines = (tmp_path / "plan.yaml").read_text(encoding="utf-8").splitlines()
    at = [(each.position, lines[each.position.line - 1][each.position.column - 1 :]) for each in found]
    shift = 1 if lines[0] == "steps:" else 0
    assert sorted((place.line - 1 - shift, rest) for place, rest in at) == [
        (line, rest.replace(MARK, "")) for line, rest in places(case)
    ]


# --- what is said -----------------------------------------------------------------------------------------------------


def messages(*steps: Step, **keys: Any) -> list[tuple[str, str | None]]:
    subject = read_subject(plan(*steps, **keys))
    return [(found.message, found.hint) for rule in RULES for found in rule.check(subject)]


def test_a_wait_names_steps_statements_modes_relation_and_limits() -> None:
    ((message, hint),) = messages(
        step("clean", "VACUUM orders", lock_timeout=5.0), step("grow", "ALTER TABLE orders ADD COLUMN c int")
    )
    assert message == (
        "`clean` (VACUUM: SHARE UPDATE EXCLUSIVE) and `grow` (ALTER TABLE … ADD COLUMN: ACCESS EXCLUSIVE) can run at "
        "the same time and exclude each other on orders: the later one waits, and fails after its lock_timeout "
        "(5s for `clean`, none for `grow`)"
    )
    assert hint == (
        "order them (`needs: [clean]` in `grow`), or give both a common name in `exclusive`, or a pool of 1"
    )


def test_nothing_can_need_a_detach_step() -> None:
    detached = step("clean", "VACUUM orders", detach=True)
    ((_, hint),) = messages(detached, step("grow", "TRUNCATE orders"))
    assert hint is not None
    assert hint.startswith("order them (`needs: [grow]` in `clean`), or")
    ((_, hint),) = messages(detached, step("grow", "TRUNCATE orders", detach=True))
    assert hint == "give both a common name in `exclusive`, or a pool of 1"
    ((_, hint),) = messages(detached, finally_=(step("grow", "TRUNCATE orders"),))
    assert hint is not None
    assert hint.startswith("let the run wait for `clean`")


def test_a_foreign_key_is_named() -> None:
    key = step("key", "CREATE TABLE lines (o int REFERENCES orders ON DELETE SET NULL)")
    found = messages(key, step("purge", "DELETE FROM orders", needs=["key"]), step("i", "CREATE INDEX ON lines (o)"))
    assert any("(DELETE: ROW EXCLUSIVE by the foreign key lines → orders)" in message for message, _ in found)


def test_a_deadlock_names_what_each_has_and_wants() -> None:
    ((message, _),) = messages(step("a", "TRUNCATE x; TRUNCATE y"), step("b", "DELETE FROM y; SELECT * FROM x"))
    assert message == (
        "`a` and `b` can end in a deadlock (40P01): `a` has x (TRUNCATE) and wants y (TRUNCATE), "
        "`b` has y (DELETE) and wants x (SELECT)"
    )


def test_instances_are_reported_as_such() -> None:
    each = ForEach(as_="n", items=(1, 2))
    ((message, hint),) = messages(step("a", "TRUNCATE x", for_each=each))
    assert message.startswith("instances of `a` can run at the same time and exclude each other on x (TRUNCATE: ACCESS")
    assert hint == "give the step's `for_each` a `max_parallel: 1`"
    ((message, _),) = messages(step("a", "REINDEX TABLE CONCURRENTLY x", for_each=each))
    assert "can run at the same time as REINDEX CONCURRENTLY in another instance of the step" in message
    ((message, _),) = messages(step("a", "DELETE FROM x; TRUNCATE x", for_each=each))
    assert message.startswith("two instances of `a` can end in a deadlock")


def test_every_rule_takes_its_share_however_often_it_is_asked() -> None:
    subject = read_subject(plan(step("a", "TRUNCATE x"), step("b", "TRUNCATE x"), step("c", "SELECT 1")))
    other = read_subject(plan(step("a", "TRUNCATE x"), step("b", "ANALYZE y"), step("c", "SELECT 1")))
    waits = BY_CODE["JP402"]
    assert [len(list(waits.check(asked))) for asked in (subject, subject, other, subject, other)] == [1, 1, 0, 1, 0]


# --- many pairs -------------------------------------------------------------------------------------------------------


def test_only_some_pairs_of_a_relation_are_reported_and_the_rest_is_counted() -> None:
    found = messages(*(step(f"s{n}", "TRUNCATE x") for n in range(40)))
    assert len(found) == MAX_REPORTED + 1
    assert found[-1] == (f"{40 * 39 // 2 - MAX_REPORTED} more pairs of steps do the same on x", None)


def test_a_pair_is_reported_once_with_the_worst_outcome() -> None:
    build = "CREATE INDEX CONCURRENTLY ON x (a)"
    found = find_contention(read_subject(plan(step("a", build), step("b", "ANALYZE x; TRUNCATE y; ANALYZE y"))))
    assert [meeting.outcome for meeting in found] == [ContentionResult.FAILURE]
    both = step("a", "TRUNCATE x; TRUNCATE y; TRUNCATE z"), step("b", "TRUNCATE z; TRUNCATE y; TRUNCATE x")
    assert [meeting.outcome for meeting in find_contention(read_subject(plan(*both)))] == [ContentionResult.DEADLOCK]


_SQL = (
    "SELECT * FROM a",
    "INSERT INTO a VALUES (1)",
    "TRUNCATE a",
    "TRUNCATE b, a",
    "DELETE FROM b; TRUNCATE a",
    "SELECT * FROM a; CREATE INDEX ON b (x)",
    "CREATE INDEX CONCURRENTLY ON a (x)",
    "VACUUM a",
    "VACUUM",
    "ANALYZE",
    "ANALYZE s.c",
    "REINDEX SCHEMA s",
    "REINDEX TABLE a",
    "DROP INDEX CONCURRENTLY i",
    "CREATE INDEX i ON a (x)",
    "SELECT 1",
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of a few steps on a few tables; `finally` and pools are the overlap's own test."""
    texts = draw(st.lists(st.sampled_from(_SQL), min_size=1, max_size=7))
    steps = []
    for number, text in enumerate(texts):
        needs = draw(st.sets(st.integers(0, number - 1), max_size=1)) if number else set()
        each = ForEach(as_="n", items=(1, 2)) if draw(st.integers(0, 4)) == 0 else None
        steps.append(step(f"s{number}", text, needs=[f"s{need}" for need in needs], for_each=each))
    return plan(*steps)


@given(plans())
def test_pairs_are_those_of_a_comparison_one_by_one(made: Plan) -> None:
    subject = read_subject(made)
    found: dict[frozenset[str], ContentionResult] = {}
    for meeting in find_contention(subject):
        pair = frozenset({meeting.one.id, meeting.other.id})
        assert pair not in found
        found[pair] = meeting.outcome
        if meeting.more:
            return  # not all of them are reported
    locking = read_locking(subject)
    expected = {frozenset({one.id, other.id}): _worst(one, other) for one, other in _beside(made, locking)}
    assert found == {pair: outcome for pair, outcome in expected.items() if outcome is not None}


def _beside(made: Plan, locking: tuple[Locking, ...]) -> Iterator[tuple[Locking, Locking]]:
    before: dict[str, set[str]] = {}
    for each in made.steps:
        before[each.id] = {need.step for need in each.needs}.union(*(before[need.step] for need in each.needs))
    for one, other in combinations(locking, 2):
        if one.id not in before[other.id]:
            yield one, other
    for one in locking:
        if one.several:
            yield one, one


def _worst(one: Locking, other: Locking) -> ContentionResult | None:
    verdicts = {
        verdict(kind_of(held), kind_of(its))
        for held in one.held
        for its in other.held
        if held.on == its.on or _swept(held.on, its.on) or _swept(its.on, held.on)
    }
    if ConflictResult.FAIL in verdicts:
        return ContentionResult.FAILURE
    if ConflictResult.WAIT not in verdicts:
        return None
    return ContentionResult.DEADLOCK if find_deadlock(one.held, other.held) else ContentionResult.WAIT


def _swept(sweep: Lockable, on: Lockable) -> bool:
    return sweep.sweeping and not on.indexes and sweep.schema in {None, on.schema}


# --- deadlocks --------------------------------------------------------------------------------------------------------

_LOCKS = st.tuples(st.sampled_from("abc"), st.sampled_from(LockMode))


def _transaction(wanted: list[tuple[str, LockMode]]) -> list[Held]:
    return [
        Held(
            on=Lockable("public", name), mode=mode, nature=LockTiming.PLAIN, order=(n, 0), what="", name=name, offset=0
        )
        for n, (name, mode) in enumerate(wanted)
    ]


@given(st.lists(_LOCKS, max_size=5), st.lists(_LOCKS, max_size=5))
def test_a_deadlock_is_found_if_some_interleaving_ends_in_one(
    one: list[tuple[str, LockMode]], other: list[tuple[str, LockMode]]
) -> None:
    mine, its = _transaction(one), _transaction(other)
    assert (find_deadlock(mine, its) is not None) == _played(mine, its)


def _played(one: list[Held], other: list[Held]) -> bool:
    """Play every interleaving of two transactions; say whether one ends with both waiting."""
    open_, seen = [(0, 0)], set()
    while open_:
        state = open_.pop()
        if state in seen:
            continue
        seen.add(state)
        i, j = state
        free = i < len(one) and not _blocked(one[i], other[:j])
        other_free = j < len(other) and not _blocked(other[j], one[:i])
        open_ += [(i + 1, j)] * free + [(i, j + 1)] * other_free
        if not free and not other_free and i < len(one) and j < len(other):
            return True
    return False


def _blocked(wanted: Held, held: list[Held]) -> bool:
    return any(each.on == wanted.on and verdict(kind_of(each), kind_of(wanted)) for each in held)
