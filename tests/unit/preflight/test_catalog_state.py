"""What earlier steps make of the catalog, seen from a later one."""

from __future__ import annotations

from runner.plan.model import Plan
from runner.preflight.catalog_state import Changes, When
from runner.sql.catalog_changes import Action, Sort, changes
from runner.sql.definition_changes import Alteration, Aspect
from runner.sql.relations import Relation
from runner.sql.statements import parse_statements
from tests.builders import plan, step


def noted(of: Plan) -> Changes:
    """Return the changes of all of a plan's steps."""
    found = Changes(of)
    for each in of.all_steps:
        for number, statement in enumerate(parse_statements(each.sql.text)):
            found.note(each.id, number, changes(statement))
    return found


def test_the_last_change_before_a_step_counts() -> None:
    found = noted(
        plan(step("a", "CREATE TABLE t ()"), step("b", "DROP TABLE t", needs=["a"]), step("c", "", needs=["b"]))
    )
    after_a = found.of_relation(Relation(None, "t"), "b", 0)
    after_b = found.of_relation(Relation("public", "t"), "c", 0)
    assert after_a is not None
    assert (after_a.step, after_a.change.action, after_a.when) == ("a", Action.CREATE, When.BEFORE)
    assert after_b is not None
    assert (after_b.step, after_b.change.action) == ("b", Action.DROP)
    assert found.of_relation(Relation(None, "t"), "a", 0) is None


def test_without_needs_it_may_be_before_or_after() -> None:
    found = noted(plan(step("a", "CREATE TABLE t ()"), step("b", "ANALYZE t")))
    made = found.of_relation(Relation(None, "t"), "b", 0)
    assert made is not None
    assert (made.step, made.when) == ("a", When.PERHAPS)


def test_what_comes_after_a_step_does_not_count() -> None:
    found = noted(plan(step("a", "ANALYZE t"), step("b", "CREATE TABLE t ()", needs=["a"])))
    assert found.of_relation(Relation(None, "t"), "a", 0) is None


def test_statements_of_one_step_follow_each_other() -> None:
    found = noted(plan(step("a", "ALTER TABLE t RENAME TO u; ANALYZE u")))
    made = found.of_relation(Relation(None, "u"), "a", 1)
    gone = found.of_relation(Relation(None, "t"), "a", 1)
    assert made is not None
    assert made.change.action is Action.CREATE
    assert gone is not None
    assert gone.change.action is Action.DROP


def test_a_schema_takes_what_is_in_it_along() -> None:
    found = noted(
        plan(step("a", "DROP SCHEMA s CASCADE; CREATE SCHEMA s; CREATE TABLE s.t ()"), step("b", "", needs=["a"]))
    )
    made, other = (found.of_relation(Relation("s", name), "b", 0) for name in ("t", "u"))
    assert made is not None
    assert (made.change.sort, made.change.action) == (Sort.RELATION, Action.CREATE)
    assert other is not None
    assert (other.change.sort, other.change.action) == (Sort.SCHEMA, Action.CREATE)


def test_a_schema_that_is_only_made_sure_of_changes_nothing_in_it() -> None:
    found = noted(plan(step("a", "CREATE SCHEMA IF NOT EXISTS s"), step("b", "", needs=["a"])))
    assert found.of_relation(Relation("s", "t"), "b", 0) is None


def test_a_new_table_brings_its_indexes_along() -> None:
    found = noted(plan(step("a", "CREATE TABLE s.orders (id int PRIMARY KEY)"), step("b", "", needs=["a"])))
    implied = found.implied(Relation("s", "orders_pkey"), "b", 0)
    assert implied is not None
    assert implied.step == "a"
    assert found.implied(Relation("s", "other_pkey"), "b", 0) is None


def test_finally_comes_after_everything() -> None:
    found = noted(plan(step("a", "CREATE TABLE t ()"), finally_=(step("z", "ANALYZE t"),)))
    made = found.of_relation(Relation(None, "t"), "z", 0)
    assert made is not None
    assert made.when is When.BEFORE


def test_opaque_steps_may_have_made_anything() -> None:
    found = noted(plan(step("a", "DO 'BEGIN END'"), step("b", "", needs=["a"])))
    made = found.may_be_opaque("b", 0)
    assert made is not None
    assert (made.step, made.when) == ("a", When.BEFORE)
    assert found.may_be_opaque("a", 0) is None


def test_opaque_steps_may_come_later() -> None:
    found = noted(plan(step("a", "DO 'BEGIN END'"), step("b", "")))
    made = found.may_be_opaque("b", 0)
    assert made is not None
    assert made.when is When.PERHAPS


def test_a_temporary_table_is_there_in_its_own_step_only() -> None:
    found = noted(plan(step("a", "CREATE TEMP TABLE t ()"), step("b", "", needs=["a"])))
    assert found.of_relation(Relation(None, "t"), "a", 1) is not None
    assert found.of_relation(Relation(None, "t"), "b", 0) is None


def test_alterations_come_in_the_order_of_the_names_of_their_relations() -> None:
    found = Changes(plan(step("a", ""), step("b", "", needs=["a"])))
    names = [f"t{number}" for number in range(9)]
    for name in reversed(names):
        found.note_alterations("a", 0, [Alteration(Aspect.COLUMN, Relation(None, name))])
    altered = found.altered("b", 0, frozenset(Relation(None, name) for name in names))
    assert [str(one.alteration.relation) for one in altered] == names
