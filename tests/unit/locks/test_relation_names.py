"""Values of type relation: split as regclass does, quoted part by part, and known to whatever reads a plan's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.engine.for_each_items import literal_items, queried_items
from runner.lint import check_plan
from runner.plan.plan_json import plan_from_json, resolved_json
from runner.sql.placeholders import render
from runner.sql.qualified_names import QualifiedName, qualified_name
from runner.sql.relations import Relation, query_relations
from runner.sql.statements import parse_template

HEAD = "version: 1\nname: r\nbudget: {slots: 2}\ndefaults: {timeout: 1m, on_finish: wait, lock_timeout: 5s}\n"


@pytest.mark.parametrize(
    ("text", "parts", "canonical"),
    [
        ("orders", ("orders",), "orders"),
        ("public.orders", ("public", "orders"), "public.orders"),
        ("Sales.Orders", ("Sales", "Orders"), '"Sales"."Orders"'),
        ("Sales.Line-Items", ("Sales", "Line-Items"), '"Sales"."Line-Items"'),
        ('"Sales"."Line-Items"', ("Sales", "Line-Items"), '"Sales"."Line-Items"'),
        ('"a.b".c', ("a.b", "c"), '"a.b".c'),
        ('a."b.c"', ("a", "b.c"), 'a."b.c"'),
        ('"a""b"', ('a"b',), '"a""b"'),
        (' "x" . y ', ("x", "y"), "x.y"),
        ("é.ü", ("é", "ü"), '"é"."ü"'),
        ("2024.t", ("2024", "t"), '"2024".t'),
        ('"2024"', ("2024",), '"2024"'),
    ],
)
def test_a_name_is_split_into_its_parts(text: str, parts: tuple[str, ...], canonical: str) -> None:
    name = qualified_name(text)
    assert (name.parts, str(name)) == (parts, canonical)
    assert qualified_name(name) == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ('""', "is empty"),
        ("a.", "a part of the name is empty"),
        (".a", "a part of the name is empty"),
        ("a..b", "a part of the name is empty"),
        ("a.b.c", "has 3 parts"),
        ("a.b.c.d", "has 4 parts"),
        ('"a', "not closed"),
        ('a"b', "stands inside a name"),
        ('"a"b', "stands inside a name"),
        ("my table", "white space"),
        ("16384", "the name of an oid is `oid::regclass`"),
        ("x" * 64, "64 bytes"),
        ("a.\0", "NUL"),
    ],
)
def test_what_names_no_relation_says_why(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        qualified_name(text)


PART = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=15)


@given(PART, PART)
def test_whatever_regclass_writes_comes_back_as_the_same_name(schema: str, name: str) -> None:
    written = ".".join(f'"{part.replace(chr(34), chr(34) * 2)}"' for part in (schema, name))
    value = qualified_name(written)
    assert value.parts == (schema, name)
    (use,) = query_relations(parse_template(render('SELECT FROM :"t"', {"t": value})).statements[0])
    assert use.relation == Relation(schema, name)


def test_sql_gets_each_part_quoted_or_a_text_that_regclass_reads() -> None:
    value = qualified_name("Sales.orders")
    assert render("VACUUM :\"t\"; SELECT :'t'::regclass", {"t": value}) == (
        'VACUUM "Sales"."orders"; SELECT \'"Sales".orders\'::regclass'
    )


@pytest.mark.parametrize(
    "sql", ['SELECT FROM :"t"', 'INSERT INTO :"t" SELECT 1', 'DELETE FROM ONLY :"t"', 'UPDATE :"t" AS x SET a = 1']
)
def test_a_parsed_text_has_the_relation_with_its_schema(sql: str) -> None:
    (statement,) = parse_template(sql, {"t": qualified_name("Sales.Orders")}).statements
    assert [use.relation for use in query_relations(statement)] == [Relation("Sales", "Orders")]


def plan(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(HEAD + text, "utf-8")
    return path


def codes(path: Path, given: Mapping[str, str] | None = None) -> list[str]:
    return [f"{p.code} {p.message}" for p in check_plan(path, given=given).problems]


PARAM = "params: {t: {type: relation, default: public.orders}}\nsteps: [{id: a, sql: 'VACUUM :\"t\"'}]"


def test_a_parameter_of_type_relation(tmp_path: Path) -> None:
    path = plan(tmp_path, PARAM)
    loaded = check_plan(path, given={"t": "Sales.Line-Items"})
    assert loaded.plan is not None
    again = plan_from_json(resolved_json(loaded.plan))
    for known in (loaded.plan, again):
        value = known.values["t"]
        assert isinstance(value, QualifiedName)
        assert value.parts == ("Sales", "Line-Items")
    assert codes(path, given={"t": "a.b.c"}) == [
        "JP226 the value of `t` from --param is `a.b.c`, which has 3 parts; a relation is `table` or `schema.table`"
    ]


def test_items_of_type_relation(tmp_path: Path) -> None:
    text = (
        "steps: [{id: a, sql: 'VACUUM :\"t\"', for_each: {items: [public.orders, Sales.Items], as: t, type: relation}}]"
    )
    path = plan(tmp_path, text)
    loaded = check_plan(path)
    assert (loaded.problems, loaded.plan is None) == ((), False)
    assert loaded.plan is not None
    step = loaded.plan.steps[0]
    items = literal_items(step)
    assert [(item.key, item.values["t"]) for item in items] == [
        ("a[public.orders]", "public.orders"),
        ("a[Sales.Items]", '"Sales"."Items"'),
    ]
    assert render(step.sql.text, items[1].values) == 'VACUUM "Sales"."Items"'
    (queried,) = queried_items(step, ["n"], [['"Users"']])
    assert (queried.key, queried.values["t"], queried.values["t.n"]) == ("a[Users]", '"Users"', '"Users"')
    for columns, row, says in (
        (["n"], ["a.b.c"], "3 parts"),
        (["n"], [None], "NULL"),
        (["n", "m"], ["a", "b"], "several"),
    ):
        with pytest.raises(ValueError, match=says):
            queried_items(step, columns, [row])


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ("[a.b.c]", "JP225 this item is `a.b.c`, which has 3 parts; a relation is `table` or `schema.table`"),
        ("[{x: a, y: b}]", "JP225 an item of type relation is one name, not several columns"),
        ("[{x: 'a.'}]", "JP225 this item is `a.`, in which a part of the name is empty"),
    ],
)
def test_a_wrong_item_is_found_by_validation(tmp_path: Path, items: str, says: str) -> None:
    text = f"steps: [{{id: a, sql: 'VACUUM :\"t\"', for_each: {{items: {items}, as: t, type: relation}}}}]"
    assert says in codes(plan(tmp_path, text))


def test_a_relation_is_no_schema_and_no_role(tmp_path: Path) -> None:
    base = "params: {t: {type: relation, default: a.b}}\nsteps:\n- id: a\n  sql: DELETE FROM x\n"
    for key in ('role: :"t"', 'search_path: :"t", public', "settings: {temp_tablespaces: ':\"t\"'}"):
        found = codes(plan(tmp_path, f"{base}  {key}\n"))
        assert [one[:5] for one in found if one.startswith("JP2")] == ["JP221"], key
    assert not [one for one in codes(plan(tmp_path, f"{base}  touches: [':\"t\"']\n")) if one.startswith("JP2")]


def test_locks_are_compared_by_the_names_of_relations(tmp_path: Path) -> None:
    text = """
steps:
  - id: vacuum
    for_each: {items: [app.orders, app.other], as: t, type: relation}
    sql: VACUUM FULL :"t" # jobplan: ignore=JP351 asked for
  - id: build
    sql: CREATE INDEX CONCURRENTLY i ON app.orders (x)
    verify: SELECT indisvalid FROM pg_index WHERE indexrelid = 'app.i'::regclass
"""
    found = codes(plan(tmp_path, text))
    assert any(one.startswith("JP401") and "app.orders" in one for one in found), found
