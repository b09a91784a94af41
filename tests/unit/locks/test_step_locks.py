"""What a step locks: names resolved, items known, and what the rest of the plan shows."""

from __future__ import annotations

import pytest

from runner.locks.conflicts import ConflictResult, Lockable, LockTiming, verdict
from runner.locks.relation_names import listed_names, naming_of, relation_in
from runner.locks.step_locks import read_locking
from runner.plan.model import ForEach, Step
from runner.plan.parsed_sql import read_subject
from runner.sql.lock_modes import LockMode
from runner.sql.relations import Relation
from tests.builders import plan, step


def locked(*steps: Step) -> dict[str, list[str]]:
    """Return the locks of each step as `schema.name MODE`."""
    found = {}
    for locking in read_locking(read_subject(plan(*steps))):
        found[locking.id] = [f"{_shown(held.on)} {held.mode.name} {held.nature.name}" for held in locking.held]
    return found


def _shown(on: Lockable) -> str:
    return f"{on.schema}.{on.name}" + ("#" if on.indexes else "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders", Relation(None, "orders")),
        ("App.Orders", Relation("app", "orders")),
        ('"App"."Order ""Lines"', Relation("App", 'Order "Lines')),
        ("db.app.orders", Relation("app", "orders")),
        ("...", None),
    ],
)
def test_a_relation_in_touches_is_read_as_postgresql_reads_it(text: str, expected: Relation | None) -> None:
    assert relation_in(text) == expected


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        (None, "public"),
        ("", "public"),
        ("app", "app"),
        ("App, public", "app"),
        ('"$user", "App"', "App"),
        ("pg_catalog, app", "app"),
        ('"$user"', "public"),
        ("a.b, public", "a.b"),
    ],
)
def test_a_name_without_a_schema_is_in_the_first_of_the_path(path: str | None, schema: str) -> None:
    (named,) = naming_of(step("a", "", search_path=path), {}).read(Relation(None, "t"))
    assert named.on == Lockable(schema, "t")


def test_a_list_of_names_is_taken_apart() -> None:
    assert listed_names('a, "b, c" ,D, e.f') == ("a", "b, c", "d", "e.f")


def test_items_give_names_as_far_as_they_are_known() -> None:
    sql = 'TRUNCATE :"t"; TRUNCATE s.:"t"; TRUNCATE x'
    assert locked(step("a", sql, for_each=ForEach(as_="t", items=("u", {"name": "v"})))) == {
        "a": [
            "public.u ACCESS_EXCLUSIVE PLAIN",
            "public.v ACCESS_EXCLUSIVE PLAIN",
            "s.u ACCESS_EXCLUSIVE PLAIN",
            "s.v ACCESS_EXCLUSIVE PLAIN",
            "public.x ACCESS_EXCLUSIVE PLAIN",
        ]
    }
    two = ForEach(as_="t", items=({"s": "app", "r": "u"},))
    assert locked(step("a", 'TRUNCATE :"t.s".:"t.r"; TRUNCATE :"t"', for_each=two)) == {
        "a": ["app.u ACCESS_EXCLUSIVE PLAIN"]
    }
    queried = step("a", 'TRUNCATE :"t"; TRUNCATE x', for_each=ForEach(as_="t", sql=step("q", "SELECT 1").sql))
    assert locked(queried) == {"a": ["public.x ACCESS_EXCLUSIVE PLAIN"]}


def test_what_only_the_step_can_see_is_left_out() -> None:
    sql = "CREATE TABLE s.n AS SELECT * FROM o; CREATE INDEX i ON s.n (a); DROP INDEX i; INSERT INTO s.n VALUES (1)"
    found = locked(step("a", sql), step("b", "TRUNCATE o"))
    assert found["a"] == ["public.o ACCESS_SHARE PLAIN"]


def test_a_step_that_only_changes_rows_is_read_if_another_session_wants_its_tables_otherwise() -> None:
    write = step("a", 'INSERT INTO "Big Table" SELECT * FROM small')
    assert locked(write, step("b", "TRUNCATE other"))["a"] == []
    writes = ["public.Big Table ROW_EXCLUSIVE PLAIN", "public.small ACCESS_SHARE PLAIN"]
    assert locked(write, step("b", "TRUNCATE small"))["a"] == writes
    assert locked(write, step("b", 'TRUNCATE "Big Table"'))["a"] == writes
    assert locked(write, step("b", "REINDEX SCHEMA x"))["a"] == writes
    hidden = step("a", 'DELETE FROM U&"sm\\0061ll"')
    assert locked(hidden, step("b", "TRUNCATE small"))["a"] == ["public.small ROW_EXCLUSIVE PLAIN"]


@pytest.mark.parametrize("sql", ["VACUUM", "ANALYZE small", "VACUUM small", "CREATE INDEX CONCURRENTLY ON small (a)"])
def test_a_step_that_only_changes_rows_is_not_read_for_what_lets_writers_in(sql: str) -> None:
    write = step("a", "INSERT INTO other SELECT * FROM small", touches=("small",))
    assert locked(write, step("b", sql))["a"] == []
    assert locked(write, step("b", sql), step("c", "LOCK small IN SHARE MODE"))["a"] != []


def test_a_stronger_lock_after_a_weaker_one_is_an_upgrade() -> None:
    sql = "INSERT INTO t VALUES (1); CREATE INDEX ON t (a); ALTER TABLE t ADD COLUMN c int"
    assert locked(step("a", sql)) == {
        "a": [
            "public.t ROW_EXCLUSIVE PLAIN",
            "public.t SHARE UPGRADE",
            "public.t ACCESS_EXCLUSIVE PLAIN",
        ]
    }


def test_an_index_of_the_plan_leads_to_its_table() -> None:
    found = locked(step("a", "CREATE INDEX i ON s.t (a)"), step("b", "DROP INDEX s.i"), step("c", "DROP INDEX s.j"))
    assert found["b"] == [
        "s.i ACCESS_EXCLUSIVE PLAIN",
        "s.t# ACCESS_EXCLUSIVE ONE_INDEX",
        "s.t ACCESS_EXCLUSIVE PLAIN",
    ]
    assert found["c"] == ["s.j ACCESS_EXCLUSIVE PLAIN"]


def test_natures() -> None:
    texts = {
        "VACUUM t": LockTiming.VACUUM,
        "VACUUM (ANALYZE false) t": LockTiming.VACUUM,
        "VACUUM ANALYZE t": LockTiming.PLAIN,
        "VACUUM FULL t": LockTiming.PLAIN,
        "ANALYZE t": LockTiming.PLAIN,
        "CREATE INDEX CONCURRENTLY ON t (a)": LockTiming.BUILD,
        "REINDEX (CONCURRENTLY) TABLE t": LockTiming.BUILD,
        "DROP INDEX CONCURRENTLY t": LockTiming.DROP,
        "ALTER TABLE t DETACH PARTITION p CONCURRENTLY": LockTiming.DETACH,
        "REFRESH MATERIALIZED VIEW CONCURRENTLY t": LockTiming.PLAIN,
    }
    steps = [step(f"s{number}", text) for number, text in enumerate(texts)]
    found = read_locking(read_subject(plan(*steps)))
    assert [locking.held[0].nature for locking in found] == list(texts.values())


def test_a_verdict_is_symmetric() -> None:
    kinds = [(mode, nature) for mode in LockMode for nature in LockTiming]
    assert all(verdict(one, other) is verdict(other, one) for one in kinds for other in kinds)
    assert verdict((LockMode.SHARE, LockTiming.PLAIN), (LockMode.SHARE, LockTiming.BUILD)) is None
    assert verdict(kinds[-1], kinds[-1]) is None
    assert (
        verdict((LockMode.SHARE, LockTiming.PLAIN), (LockMode.ROW_EXCLUSIVE, LockTiming.PLAIN)) is ConflictResult.WAIT
    )
