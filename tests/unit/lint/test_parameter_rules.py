"""The rules about parameters: not replaced, not used, or not the name that they seem to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import Severity
from runner.lint import check_plan

HEAD = """version: 1
name: p
budget: {slots: 1}
defaults: {timeout: 1m, on_finish: wait, lock_timeout: 5s}
params:
  days: {type: integer, default: 30}
  who: {type: string, default: me}
  target: {type: identifier, default: orders}
steps:
  - id: uses_all
    sql: DELETE FROM :"target" WHERE n = :days AND w = :'who'
"""


def found(tmp_path: Path, steps: str, head: str = HEAD) -> list[tuple[str, str, str | None]]:
    path = tmp_path / "plan.yaml"
    path.write_text(head + steps, "utf-8")
    loaded = check_plan(path)
    assert not [p for p in loaded.problems if p.severity is Severity.ERROR], loaded.problems
    return [(p.code, p.message, p.hint) for p in loaded.problems if p.code in ("JP380", "JP381", "JP382")]


def errors(tmp_path: Path, steps: str) -> list[tuple[str, str, str | None, int, int]]:
    path = tmp_path / "plan.yaml"
    path.write_text(HEAD + steps, "utf-8")
    return [(p.code, p.message, p.hint, p.position.line, p.position.column) for p in check_plan(path).problems]


def step(sql: str, **keys: str) -> str:
    rest = "".join(f"    {name}: {value}\n" for name, value in keys.items())
    lines = "".join(f"      {line}\n" for line in sql.splitlines())
    return f"  - id: a\n    sql: |\n{lines}{rest}"


@pytest.mark.parametrize(
    ("sql", "message", "hint"),
    [
        (
            "DELETE FROM t WHERE at < now() - interval ':days days'",
            "`:days` is in a string",
            "write make_interval(days => :days) in place of the whole interval",
        ),
        ("DELETE FROM t WHERE at < now() - ':days minutes'::interval", "a string", "make_interval(mins => :days)"),
        ("DELETE FROM t WHERE w = 'x :who y'", "`:who` is in a string", "'…' || :'who' || '…'"),
        ("DELETE FROM t WHERE w = 'x :''who'' y'", "`:''who''` is in a string", "|| :'who' ||"),
        ("DELETE FROM t WHERE w = E'\\n :who'", "a string", "|| :'who' ||"),
        ("DELETE FROM t WHERE w = $$:'who'$$", "`:'who'` is in a dollar quote", "|| :'who' ||"),
        ('DELETE FROM "t_:who"', "a quoted name", 'write :"who"'),
        ("DELETE FROM t WHERE run = 'x :''run.id'' y'", "`:''run.id''` is in a string", "|| :'run.id' ||"),
    ],
)
def test_a_parameter_that_is_not_replaced_is_reported_with_the_form_that_works(
    tmp_path: Path, sql: str, message: str, hint: str
) -> None:
    ((code, said, advised),) = found(tmp_path, step(sql))
    assert code == "JP381"
    assert message in said
    assert hint in (advised or "")


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM t WHERE w = '10:days' OR w = 'http://host:days/x' OR w = '{\"a\":\"who\"}'",
        "DELETE FROM t WHERE w = 'x::days' OR w = ':other' OR w = ': days' OR w = ':Days'",
        "DELETE FROM t -- not :days\nWHERE n = :days /* nor :who */",
        "DO $$ DECLARE days int; BEGIN days:=1; PERFORM (ARRAY[1])[1:days]; DELETE FROM t WHERE n = days; END $$",
        "DELETE FROM t WHERE w = :'who' || ' days'",
    ],
)
def test_a_colon_that_is_no_parameter_is_left_alone(tmp_path: Path, sql: str) -> None:
    assert found(tmp_path, step(sql)) == []


def test_conditions_and_lists_are_looked_at_too(tmp_path: Path) -> None:
    steps = step(
        'DELETE FROM :"t"',
        **{"if": "\"SELECT now() < ':days days'\"", "for_each": "{sql: \"SELECT ':who' AS t\", as: t}"},
    )
    assert [one[0] for one in found(tmp_path, steps)] == ["JP381", "JP381"]


@pytest.mark.parametrize(
    ("sql", "column", "hint"),
    [
        (
            "DO $$ BEGIN DELETE FROM t WHERE n < :days; END $$",
            43,
            "write `settings: {app.days: \":days\"}`, and in the body current_setting('app.days')::int",
        ),
        (
            "DO $body$ BEGIN DELETE FROM t WHERE w = :'who' OR n = :days; END $body$",
            47,
            "write `settings: {app.who: \":'who'\"}`, and in the body current_setting('app.who')",
        ),
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT :days $$",
            65,
            "make it an argument of the function",
        ),
    ],
)
def test_a_parameter_that_stops_a_body_is_one_error_with_the_form_that_works(
    tmp_path: Path, sql: str, column: int, hint: str
) -> None:
    ((code, _, advised, line, at),) = errors(tmp_path, step(sql))
    assert (code, line, at) == ("JP306", 14, column)
    assert hint in (advised or "")


def test_a_parameter_in_a_string_of_a_body_is_a_warning(tmp_path: Path) -> None:
    sql = "DO $$ BEGIN DELETE FROM t WHERE at < now() - interval ':days days'; END $$"
    ((code, _, hint),) = found(tmp_path, step(sql))
    assert (code, "current_setting('app.days')" in (hint or "")) == ("JP381", True)


def test_an_item_in_a_body_is_not_replaced_and_not_unused(tmp_path: Path) -> None:
    ((code, _, hint, *_),) = errors(
        tmp_path, step("DO $$ BEGIN PERFORM :'i'; END $$", for_each="{items: [a, b], as: i}")
    )
    assert (code, "app.i: \":'i'\"" in (hint or "")) == ("JP306", True)


def test_an_unused_parameter_is_reported_where_it_is_declared(tmp_path: Path) -> None:
    head = HEAD.replace("w = :'who'", "w = 'x'").replace(" AND w", " AND :days > 0 AND w")
    assert found(tmp_path, "", head) == [
        ("JP382", "nothing uses the parameter `who`", "use it, or remove its declaration")
    ]


@pytest.mark.parametrize(
    "key",
    [
        "role: :'who'",
        'search_path: :"who", public',
        "settings: {app.w: \":'who'\"}",
        "if: \"SELECT :'who' = 'x'\"",
        "verify: \"SELECT :'who' = 'x'\"",
        "preconditions: [{sql: \"SELECT :'who' = 'x'\", message: no}]",
        "for_each: {sql: \"SELECT :'who' AS x\", as: x}",
        "touches: [':\"who\".t']",
    ],
)
def test_every_key_that_takes_parameters_uses_them(tmp_path: Path, key: str) -> None:
    head = HEAD.replace("w = :'who'", "w = 'x'")
    sql = "DELETE FROM t WHERE n = 1" + (" AND w = :'x'" if "for_each" in key else "")
    assert found(tmp_path, f"  - id: a\n    sql: {sql}\n    {key}\n", head) == []


@pytest.mark.parametrize(
    ("for_each", "sql", "unused"),
    [
        ("{items: [a, b], as: i}", "DELETE FROM t WHERE w = 'i'", True),
        ("{items: [a, b], as: i}", "DELETE FROM t WHERE w = :'i'", False),
        ("{items: [{x: a}], as: i}", "DELETE FROM t WHERE w = :'i.x'", False),
        ("{sql: SELECT 1 AS n, as: i}", "DELETE FROM t WHERE w = 'x'", True),
        ("{sql: SELECT 1 AS n, as: i}", "DELETE FROM t WHERE w = :'i.n'", False),
    ],
)
def test_an_item_that_the_sql_does_not_name(tmp_path: Path, for_each: str, sql: str, unused: bool) -> None:
    codes = [one[0] for one in found(tmp_path, step(sql, for_each=for_each))]
    assert codes == (["JP382"] if unused else [])


@pytest.mark.parametrize(
    "key", ["role: :'i'", 'search_path: :"i"', "settings: {app.i: \":'i'\"}", "if: \"SELECT :'i' = 'a'\""]
)
def test_an_item_that_only_another_key_names_is_used(tmp_path: Path, key: str) -> None:
    text = f"  - id: a\n    sql: DELETE FROM t WHERE n = 1\n    for_each: {{items: [a, b], as: i}}\n    {key}\n"
    assert found(tmp_path, text) == []


@pytest.mark.parametrize(
    ("for_each", "reference", "message"),
    [
        ("{items: [public.orders], as: t}", "t", '`:"t"` is the one name "public.orders", with a dot in it'),
        ("{items: [orders, Sales.Line-Items], as: t}", "t", '"Sales.Line-Items"'),
        ("{items: [{n: public.orders}], as: t}", "t.n", '"public.orders"'),
        ("{sql: SELECT oid::regclass AS n FROM pg_class, as: t}", "t", "quoted once more"),
        ("{sql: SELECT oid::regclass FROM pg_class, as: t}", "t", "quoted once more"),
        ("{sql: 'SELECT oid::regclass::text AS n, 1 AS s FROM pg_class', as: t}", "t.n", "quoted once more"),
        (
            "{sql: \"SELECT format('%I.%I', schemaname, relname) AS n FROM pg_stat_user_tables\", as: t}",
            "t",
            "once more",
        ),
        ("{sql: \"SELECT schemaname || '.' || relname AS n FROM pg_stat_user_tables\", as: t}", "t", "once more"),
        ("{sql: SELECT quote_ident(relname) AS n FROM pg_class, as: t}", "t", "once more"),
    ],
)
def test_a_qualified_name_is_not_one_identifier(tmp_path: Path, for_each: str, reference: str, message: str) -> None:
    ((code, said, hint),) = found(tmp_path, step(f'DELETE FROM :"{reference}" WHERE n = 1', for_each=for_each))
    assert (code, message in said, "type: relation" in (hint or "")) == ("JP380", True, True)


@pytest.mark.parametrize(
    ("for_each", "reference"),
    [
        ("{items: [public.orders], as: t, type: relation}", ':"t"'),
        ("{sql: SELECT oid::regclass AS n FROM pg_class, as: t, type: relation}", ':"t"'),
        ("{items: [orders, audit], as: t}", ':"t"'),
        ("{items: [{s: public, t: orders}], as: t}", ':"t.s".:"t.t"'),
        ("{sql: SELECT relname AS n FROM pg_class, as: t}", ':"t"'),
    ],
)
def test_a_name_that_is_one_is_fine(tmp_path: Path, for_each: str, reference: str) -> None:
    assert found(tmp_path, step(f"DELETE FROM {reference} WHERE n = 1", for_each=for_each)) == []


def test_a_parameter_with_a_dot_says_how_to_declare_it(tmp_path: Path) -> None:
    head = HEAD.replace("default: orders", "default: public.orders")
    ((code, _, hint),) = found(tmp_path, "", head)
    assert (code, hint) == ("JP380", "declare `target` with `type: relation`, if a table of a schema is meant")
    assert found(tmp_path, "", head.replace("type: identifier", "type: relation")) == []
