"""Parameters in `role`, `search_path`, `settings` and `touches`: one name or value each, or an error, never text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.lint import check_plan
from runner.locks.relation_names import listed_names
from runner.sql.placeholders import Scalar, TemplateError
from runner.sql.session_settings import SettingPlace, render_names, render_role, render_setting, settings_changed
from runner.sql.statements import parse_statements

VALUES: dict[str, Scalar] = {
    "s": "tenant_a",
    "odd": 'a"b, pg_catalog',
    "n": 5,
    "neg": -5,
    "yes": True,
    "empty": "",
    "none": "none",
    "nothing": None,
    "long": "x" * 64,
    "nul": "a\0b",
    "user": "$user",
    "a.b": "c",
}


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        (':"s", public', '"tenant_a", public'),
        (":'s',public", '"tenant_a",public'),
        (' :"s" ', ' "tenant_a" '),
        ('"$user", :"s", pg_temp', '"$user", "tenant_a", pg_temp'),
        (':"odd", public', '"a""b, pg_catalog", public'),
        (':"a.b"', '"c"'),
        (":'n', x", '"5", x'),
        ('":s", "a::b", public', '":s", "a::b", public'),
        ("app, public", "app, public"),
    ],
)
def test_a_search_path_is_a_list_of_names(text: str, rendered: str) -> None:
    assert render_names(text, SettingPlace.SEARCH_PATH, VALUES) == rendered


@pytest.mark.parametrize(
    ("text", "message", "offset"),
    [
        ('x:"s"', "only a part of a name", 1),
        (':"s":"s"', "only a part of a name", 0),
        (':"s" public', "only a part of a name", 0),
        ("public, tenant_:s", "only a part of a name", 15),
        (":s", ":s is not a name", 0),
        (':"who"', "no such parameter", 0),
        (':"empty"', "an identifier cannot be empty", 0),
        ('public, :"long"', "longer than PostgreSQL's 63 bytes", 8),
        (':"nul"', "NUL", 0),
        (':"nothing"', "NULL is not a value here", 0),
        (":'a b'", "does not name a parameter", 0),
        (':""', "does not name a parameter", 0),
    ],
)
def test_what_cannot_be_a_name_of_the_path_is_an_error(text: str, message: str, offset: int) -> None:
    with pytest.raises(TemplateError, match=message) as raised:
        render_names(text, SettingPlace.SEARCH_PATH, VALUES)
    assert raised.value.offset == offset


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=15))
def test_no_value_becomes_more_than_one_name(value: str) -> None:
    rendered = render_names(':"v", public', SettingPlace.SEARCH_PATH, {"v": value})
    assert listed_names(rendered) == (value, "public")


def test_a_role_is_a_name_and_never_that_of_the_login() -> None:
    assert render_role(':"odd"', VALUES) == 'a"b, pg_catalog'
    assert render_role(":'s'", VALUES) == "tenant_a"
    assert render_role("none", VALUES) == "none"  # the plan's own word
    for text, message in (
        (':"none"', "`none` is no role"),
        (':"empty"', "empty"),
        ('a_:"s"', "only a part"),
        (":n", "name"),
    ):
        with pytest.raises(TemplateError, match=message):
            render_role(text, VALUES)


@pytest.mark.parametrize(
    ("name", "text", "rendered"),
    [
        ("work_mem", ":'s'", "tenant_a"),
        ("app.days", ":n", "5"),
        ("app.days", ":neg", "-5"),
        ("app.on", ":yes", "true"),
        ("default_tablespace", ':"odd"', 'a"b, pg_catalog'),
        ("temp_tablespaces", ":'odd', x", '"a""b, pg_catalog", x'),
        ("app.empty", ":'empty'", ""),
        ("app.url", "postgres://host:port/db", "postgres://host:port/db"),
        ("app.time", "10:30", "10:30"),
        ("app.quote", "it's", "it's"),
        ("app.cast", "a::text", "a::text"),
    ],
)
def test_a_setting_is_one_value(name: str, text: str, rendered: str) -> None:
    assert render_setting(name, text, VALUES) == rendered


@pytest.mark.parametrize("text", ["tenant-:s", "x :'s'", ":'s':'s'", ":'nul'", ":'nothing'", ":'who'", ":who"])
def test_a_parameter_inside_the_value_of_a_setting_is_an_error(text: str) -> None:
    with pytest.raises(TemplateError):
        render_setting("app.x", text, VALUES)


HEAD = """version: 1
name: p
budget: {slots: 1}
params:
  mem: {type: string, default: 64MB}
  n: {type: integer, default: 3}
  owner: {type: identifier, default: me}
"""


def problems(tmp_path: Path, step: str, defaults: str = "") -> list[tuple[str, int, int, str, str | None]]:
    path = tmp_path / "plan.yaml"
    step = step.replace("\n", "\n    ")
    path.write_text(
        f"{HEAD}defaults: {{timeout: 1m, on_finish: wait{defaults}}}\nsteps:\n  - id: a\n    {step}\n", "utf-8"
    )
    found = check_plan(path).problems
    return [(p.code, p.position.line, p.position.column, p.message, p.hint) for p in found]


EACH = "for_each: {items: [x, y], as: s}\nsql: \"SELECT :'s'\"\n"


@pytest.mark.parametrize(
    "step",
    [
        EACH + 'search_path: :"s", public',
        EACH + "role: :'s'",
        EACH + "settings: {app.t: \":'s'\", work_mem: \":'mem'\", app.n: ':n', app.run: \":'run.id'\"}",
        'sql: SELECT 1\nrole: :"owner"',
        "sql: DO $$ BEGIN END $$\ntouches: [':\"owner\".orders']",
    ],
)
def test_a_parameter_that_stands_alone_is_fine(tmp_path: Path, step: str) -> None:
    assert [one for one in problems(tmp_path, step) if one[0].startswith("JP2")] == []


@pytest.mark.parametrize(
    ("step", "code", "place", "hint"),
    [
        ('sql: SELECT 1\nsearch_path: :"ovner", public', "JP220", (12, 18), "did you mean `owner`?"),
        ("sql: SELECT 1\nrole: :'ownr'", "JP220", (12, 11), "did you mean `owner`?"),
        ("sql: SELECT 1\nsettings:\n  work_mem: :'mm'", "JP220", (13, 17), "did you mean `mem`?"),
        ("sql: SELECT 1\nsettings: {work_mem: ':mem'}", "JP221", (12, 27), None),
        ("sql: SELECT 1\nsettings: {app.x: 'tenant-:n'}", "JP240", (12, 31), None),
        ('sql: SELECT 1\nsearch_path: tenant_:"owner"', "JP240", (12, 25), None),
        ("sql: SELECT 1\nsearch_path: :owner", "JP240", (12, 18), 'write :"owner" for an identifier'),
        ('sql: SELECT 1\nsearch_path: :"n"', "JP221", (12, 18), None),
        ("sql: SELECT 1\ntouches: [':\"ownr\".t']", "JP220", (12, 16), "did you mean `owner`?"),
    ],
)
def test_what_has_no_value_is_reported_with_its_place(
    tmp_path: Path, step: str, code: str, place: tuple[int, int], hint: str | None
) -> None:
    (found,) = [one for one in problems(tmp_path, step) if one[0].startswith("JP2")]
    assert (found[0], found[1:3]) == (code, place)
    assert hint is None or found[4] == hint


def test_a_parameter_of_defaults_is_judged_in_each_step_that_takes_it(tmp_path: Path) -> None:
    default = ", search_path: ':\"s\", public'"
    each = EACH.replace("SELECT :'s'", "DELETE FROM t WHERE v = :'s'")
    assert [one for one in problems(tmp_path, each, default) if one[0] != "JP382"] == []
    assert [one[0] for one in problems(tmp_path, "sql: SELECT 1", default)] == ["JP220"]


def places(tmp_path: Path, text: str) -> list[tuple[str, int, str]]:
    path = tmp_path / "plan.yaml"
    path.write_text(text, "utf-8")
    return [(p.code, p.position.line, p.message) for p in check_plan(path).problems if p.code.startswith("JP24")]


WHOLE = """version: 1
name: p
description: keeps {0}
budget: {{slots: 1}}
params: {{days: {{type: integer, default: 3, description: "not :days"}}}}
owner: "{1}"
requires: {{role: "{2}", preconditions: [{{sql: "SELECT :days > 1", message: "m {3}"}}]}}
defaults: {{timeout: 1m, on_finish: wait}}
x-notes: ":days"
steps:
  - id: a
    description: "{4}"
    sql: DELETE FROM t WHERE d < :days
    for_each: {{items: ["{5}"], as: t}}
    touches: [':"t"']
"""


@pytest.mark.parametrize(
    ("number", "line", "code", "key"),
    [
        (0, 3, "JP241", "description"),
        (1, 6, "JP241", "owner"),
        (2, 7, "JP240", "role"),
        (3, 7, "JP241", "message"),
        (4, 12, "JP241", "description"),
        (5, 14, "JP240", "items"),
    ],
)
@pytest.mark.parametrize("written", [":days", ":'days'", "of :days.", ":'run.id'"])
def test_a_parameter_where_none_can_stand_is_never_text(
    tmp_path: Path, number: int, line: int, code: str, key: str, written: str
) -> None:
    filled = WHOLE.format(*(written if at == number else "x" for at in range(6)))
    (found,) = places(tmp_path, filled)
    assert found[:2] == (code, line)
    assert found[2].startswith(f"`{key}` takes no parameters: `:")


@pytest.mark.parametrize("written", ["at 10:days", "a::days", ":other", "days", ": days", "http://h:1/x"])
def test_a_colon_in_other_texts_is_a_colon(tmp_path: Path, written: str) -> None:
    assert places(tmp_path, WHOLE.format(*[written] * 6)) == []


@pytest.mark.parametrize("written", [":'t'", ":t", ":'t.c'"])
def test_an_item_is_a_parameter_in_its_own_step(tmp_path: Path, written: str) -> None:
    text = WHOLE.format("x", "x", "x", "x", written, "x")
    assert [found[:2] for found in places(tmp_path, text)] == [("JP241", 12)]


@pytest.mark.parametrize("written", ["':days'", "\":'days'\"", "':\"days\"'"])
@pytest.mark.parametrize(
    "key",
    [
        *(
            "timeout: {}",
            "lock_timeout: {}",
            "slots: {}",
            "priority: {}",
            "pools: [{}]",
            "exclusive: [{}]",
            "needs: [{}]",
        ),
        *("tags: [{}]", "output_buffer: {}", "retry: {{max_attempts: {}}}", "retry: {{max_attempts: 2, delay: {}}}"),
        *("repeat: {{until: no_rows, max_iterations: {}}}", "expect: {{rows: {}}}"),
    ],
)
def test_a_key_of_another_form_says_that_it_takes_none(tmp_path: Path, key: str, written: str) -> None:
    found = problems(tmp_path, f"sql: DELETE FROM t WHERE n = :n\n{key.format(written)}")
    assert "parameters are not substituted here: write the value itself" in {one[4] for one in found}, found


def test_an_expected_text_is_a_text(tmp_path: Path) -> None:
    found = problems(tmp_path, "sql: SELECT 'x'\nexpect: {value: \":'mem'\"}")
    assert [one[0] for one in found if one[0].startswith("JP2")] == ["JP240"]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SET statement_timeout = '5s'", [("statement_timeout", 0)]),
        ("SET LOCAL lock_timeout TO DEFAULT", [("lock_timeout", 0)]),
        ("SET TIME ZONE 'UTC'", [("timezone", 0)]),
        ("RESET ALL", [("all", 0)]),
        ("SELECT set_config('role', x, true)", [("role", 7)]),
        ("SELECT set_config(x, 'y', true)", []),
        ("SHOW work_mem", []),
    ],
)
def test_settings_that_a_statement_changes(sql: str, expected: list[tuple[str, int]]) -> None:
    (statement,) = parse_statements(sql)
    assert list(settings_changed(statement)) == expected
