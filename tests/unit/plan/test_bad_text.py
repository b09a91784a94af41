"""Texts that people paste and generators write: invisible characters, escapes of JSON, huge numbers, pipes, psql."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from runner.errors import Problem, Severity
from runner.lint import check_plan

_HEAD = "version: 1\nname: example\nbudget: {slots: 1}\ndefaults: {timeout: 10m, on_finish: wait, lock_timeout: 5s}\n"


def load(folder: Path, text: str) -> list[Problem]:
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return list(check_plan(path).problems)


def load_sql(folder: Path, sql: str) -> list[Problem]:
    (folder / "a.sql").write_text(sql, encoding="utf-8")
    return load(folder, _HEAD + "steps:\n  - id: a\n    sql_file: a.sql\n")


# --- characters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", [*"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"])
@pytest.mark.parametrize("where", ["plan", "comment", "file"])
def test_a_character_that_turns_writing_around_is_refused(tmp_path: Path, character: str, where: str) -> None:
    sql = f"DELETE FROM audit WHERE id = 1 /* {character} */"
    if where == "file":
        found = load_sql(tmp_path, sql)
    else:
        comment = f" # {character}" if where == "comment" else ""
        text = sql if where == "plan" else "DELETE FROM audit WHERE id = 1"
        found = load(tmp_path, f"{_HEAD}steps:\n  - id: a{comment}\n    sql: {text}\n")
    assert [problem.code for problem in found] == ["JP004"]
    assert f"U+{ord(character):04X} (" in found[0].message


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\u00a0", "U+00A0 (NO-BREAK SPACE)"),
        ("\u200b", "U+200B (ZERO WIDTH SPACE)"),
        ("\u2060", "U+2060 (WORD JOINER)"),
        ("\u3000", "U+3000 (IDEOGRAPHIC SPACE)"),
        ("\u202f", "U+202F (NARROW NO-BREAK SPACE)"),
        ("\u00ad", "U+00AD (SOFT HYPHEN)"),
        ("\u3164", "U+3164 (HANGUL FILLER)"),
        ("\uffa0", "U+FFA0 (HALFWIDTH HANGUL FILLER)"),
        ("\u115f", "U+115F (HANGUL CHOSEONG FILLER)"),
        ("\u2800", "U+2800 (BRAILLE PATTERN BLANK)"),
    ],
)
def test_an_invisible_character_in_sql_is_named_once(tmp_path: Path, character: str, name: str) -> None:
    for sql in (f"DELETE{character}FROM audit WHERE id = 1", f"DELETE FROM audit{character}WHERE id = 1"):
        found = [problem for problem in load_sql(tmp_path, sql) if problem.severity is Severity.ERROR]
        (problem,) = found
        assert problem.code == "JP305"
        assert problem.message.startswith(name)
        assert problem.position.column == sql.index(character) + 1


def test_an_invisible_character_in_strings_names_and_comments_is_allowed(tmp_path: Path) -> None:
    sql = "UPDATE \"a\u00a0b\" SET x = 'c\u200bd' /* \u00a0 */ WHERE y = $$\u3000$$ -- \u2060\n"
    assert load_sql(tmp_path, sql) == []


def test_an_invisible_character_in_a_key_or_value_is_named(tmp_path: Path) -> None:
    (problem,) = load(tmp_path, f"{_HEAD}steps:\n  - id: a\n    sql: VACUUM t\n    \u00a0slots: 1\n")
    assert (problem.code, problem.hint is not None) == ("JP101", True)
    assert "U+00A0 (NO-BREAK SPACE)" in (problem.hint or "")
    assert "<U+00A0>" in problem.message
    (problem,) = load(tmp_path, f"{_HEAD}steps:\n  - id: a\n    sql: VACUUM t\n    timeout: 5m\u200b\n")
    assert "U+200B (ZERO WIDTH SPACE)" in (problem.hint or "")


def test_yaml_that_an_invisible_character_breaks_names_it(tmp_path: Path) -> None:
    (problem,) = load(tmp_path, f"{_HEAD}steps: [{{id: a, sql: VACUUM t}}]\u00a0\n")
    assert problem.code == "JP005"
    assert "U+00A0 (NO-BREAK SPACE)" in (problem.hint or "")


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_a_plan_that_json_dumps_has_written_keeps_its_characters(tmp_path: Path) -> None:
    plan = {
        "version": 1,
        "name": "example",
        "description": "grün \U0001f600\U00020000 \\ud83d\\ude00",
        "budget": {"slots": 1},
        "defaults": {"timeout": "10m", "on_finish": "wait"},
        "steps": [{"id": "a", "sql": "INSERT INTO t VALUES ('\U0001f600')"}],
    }
    path = tmp_path / "plan.yaml"
    path.write_text(json.dumps(plan))
    loaded = check_plan(path)
    assert loaded.problems == ()
    assert loaded.plan is not None
    assert loaded.plan.description == plan["description"]
    assert loaded.plan.steps[0].sql.text == "INSERT INTO t VALUES ('\U0001f600')"


@pytest.mark.parametrize("escape", ["\\ud83d", "\\ude00", "\\ude00\\ud83d", "\\ud83d\\\\ude00"])
def test_half_of_a_pair_is_a_problem(tmp_path: Path, escape: str) -> None:
    found = load(tmp_path, f'{_HEAD}description: "{escape}"\nsteps: [{{id: a, sql: VACUUM t}}]\n')
    assert [problem.code for problem in found] in (["JP004"], ["JP005"])
    assert "surrogate pair" in f"{found[0].message} {found[0].hint}"


@pytest.mark.parametrize("text", ["a\\d", "C:\\dir", "\\xZZ", "\\u12"])
def test_a_wrong_escape_is_said_to_be_one(tmp_path: Path, text: str) -> None:
    (problem,) = load(tmp_path, f'{_HEAD}description: "{text}"\nsteps: [{{id: a, sql: VACUUM t}}]\n')
    assert problem.code == "JP005"
    assert "escape" in (problem.hint or "")


@pytest.mark.parametrize("key", ["description: ", "steps: [{id: a, sql: "])
@pytest.mark.parametrize("escape", ["\\u202e", "\\u2066", "\\U0000200F"])
def test_an_escape_for_a_character_that_turns_writing_around_is_refused(tmp_path: Path, key: str, escape: str) -> None:
    end = "}]" if key.startswith("steps") else "\nsteps: [{id: b, sql: VACUUM t}]"
    found = load(tmp_path, f'{_HEAD}{key}"VACUUM t -- {escape}"{end}\n')
    assert [problem.code for problem in found] == ["JP004"]
    assert "U+" in found[0].message


# --- numbers ----------------------------------------------------------------------------------------------------------

_HUGE = "9" * 150


@pytest.mark.parametrize("number", ["99999999999999999999", _HUGE, f"-{_HUGE}"])
@pytest.mark.parametrize(
    "piece",
    [
        "steps: [{{id: a, sql: VACUUM t, slots: {number}}}]",
        "steps: [{{id: a, sql: VACUUM t, priority: {number}}}]",
        "steps: [{{id: a, sql: VACUUM t, retry: {{max_attempts: {number}}}}}]",
        "steps: [{{id: a, sql: VACUUM t, capture: {{rows: {number}}}}}]",
    ],
)
def test_a_huge_integer_is_out_of_range(tmp_path: Path, piece: str, number: str) -> None:
    found = [problem for problem in load(tmp_path, _HEAD + piece.format(number=number)) if problem.code < "JP200"]
    (problem,) = found
    assert problem.code == "JP105"
    assert "out of range" in problem.message
    assert len(problem.message) < 200


@pytest.mark.parametrize(
    "piece",
    [
        "timeout: 99999999999s",
        "timeout: 1h99999999999s",
        "lock_timeout: 12345678901ms",
        "queue_timeout: 9999999999999999999d",
        "retry: {max_attempts: 2, delay: 10000000000.5s}",
        "output_buffer: 99999999999kB",
        f"timeout: {_HUGE}",
        f"lock_timeout: {_HUGE}s",
        f"queue_timeout: {_HUGE}h{_HUGE}m",
        f"output_buffer: {_HUGE}",
        f"output_buffer: {_HUGE}MB",
    ],
)
def test_a_duration_or_size_with_too_many_digits_is_out_of_range(tmp_path: Path, piece: str) -> None:
    found = [one for one in load(tmp_path, f"{_HEAD}steps: [{{id: a, sql: VACUUM t, {piece}}}]") if one.code < "JP200"]
    (problem,) = found
    assert problem.code == "JP105"
    assert "is out of range" in problem.message


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_plan_that_is_a_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    os.mkfifo(path)
    (problem,) = check_plan(path).problems
    assert (problem.code, problem.message) == ("JP001", "the file cannot be read: it is a named pipe, not a file")


def test_a_plan_that_is_a_socket_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        (problem,) = check_plan(path).problems
    assert problem.code == "JP001"


@pytest.mark.parametrize("key", ["sql_file: pipe", "sql: VACUUM t\ninclude: [pipe]"])
def test_a_file_of_a_plan_that_is_a_named_pipe_is_refused_at_once(tmp_path: Path, key: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    step = f"steps:\n  - id: a\n    {key}\n"
    (problem,) = load(tmp_path, _HEAD + step)
    assert problem.code == "JP218"
    assert problem.message.endswith("pipe is a named pipe, not a file")


@pytest.mark.parametrize(
    "inner", ["include: [pipe]\nsteps: [{id: b, sql: VACUUM t}]", "steps: [{id: b, sql_file: pipe}]"]
)
def test_a_named_pipe_of_an_included_file_is_refused_at_once(tmp_path: Path, inner: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "inner.yaml").write_text(f"{inner}\n")
    (problem,) = load(tmp_path, f"{_HEAD}include: [inner.yaml]\nsteps: [{{id: a, sql: VACUUM t}}]\n")
    assert (problem.code, problem.position.line) == ("JP218", 1)
    assert problem.message.endswith("pipe is a named pipe, not a file")


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    (problem,) = load(tmp_path, f"{_HEAD}steps: [{{id: a, sql_file: sql}}]\n")
    assert problem.message.endswith("sql is a folder, not a file")


@pytest.mark.parametrize("sql", ["-- to do\n", "/* a /* b */ */\n;\n-- c", " \n", ";;"])
def test_a_file_without_sql_is_said_to_have_none(tmp_path: Path, sql: str) -> None:
    assert [problem.code for problem in load_sql(tmp_path, sql)] == ["JP219"]


def test_a_text_of_comments_only_is_no_sql(tmp_path: Path) -> None:
    found = load(tmp_path, f'{_HEAD}steps:\n  - id: a\n    sql: "-- later"\n')
    assert [problem.code for problem in found] == ["JP219"]


# --- one mistake, one finding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", ["SELECT * FROM :tabel", "VACUUM :tabel", "ALTER TABLE :t ADD COLUMN c int"])
def test_an_unknown_parameter_is_no_syntax_error_besides(tmp_path: Path, sql: str) -> None:
    assert [problem.code for problem in load_sql(tmp_path, sql)] == ["JP220"]


def test_a_parameter_in_the_wrong_form_is_no_syntax_error_besides(tmp_path: Path) -> None:
    head = _HEAD + "params: {t: {type: identifier, default: orders}}\n"
    found = load(tmp_path, head + "steps: [{id: a, sql: 'VACUUM :t'}]\n")
    assert [problem.code for problem in found] == ["JP221"]


@pytest.mark.parametrize(
    ("items", "sql"),
    [
        (f"[{_HUGE}]", "DELETE FROM t WHERE v = :q"),
        ("[[1]]", "DELETE FROM t WHERE v = :'q'"),
        ("[{a: [1]}]", "DELETE FROM t WHERE v = :'q.a'"),
        ("[null]", 'VACUUM :"q"'),
    ],
)
def test_an_item_that_cannot_be_read_is_no_unknown_parameter_besides(tmp_path: Path, items: str, sql: str) -> None:
    step = f"steps:\n  - id: a\n    for_each: {{items: {items}, as: q, max_parallel: 1}}\n    sql: |\n      {sql}\n"
    found = [problem for problem in load(tmp_path, _HEAD + step) if problem.severity is Severity.ERROR]
    assert len(found) == 1
    assert found[0].code.startswith("JP1")


@pytest.mark.parametrize(
    "plan",
    [
        "params: {p: {type: integr}}\nsteps: [{id: a, sql: 'DELETE FROM t WHERE v = :p'}]",
        "params: {p: {default: 1}}\nsteps: [{id: a, sql: 'DELETE FROM t WHERE v = :p'}]",
        "params: {p: 1}\nsteps: [{id: a, sql: 'DELETE FROM t WHERE v = :p'}]",
        "params: [p]\nsteps: [{id: a, sql: 'DELETE FROM t WHERE v = :p'}]",
        "steps: [{id: a, for_each: [x, y], sql: \"DELETE FROM t WHERE v = :'item'\"}]",
        "steps: [{id: a, for_each: x, sql: \"DELETE FROM t WHERE v = :'item'\"}]",
        "steps: [{id: a, for_each: {itms: [x], as: q}, sql: \"DELETE FROM t WHERE v = :'q'\"}]",
        "steps: [{id: a, for_each: {items: [x], as: 'q r'}, sql: \"DELETE FROM t WHERE v = :'q'\"}]",
        "steps: [{id: a, repeat: {until: no_rows, carry: {c: 0}}, sql: 'DELETE FROM t WHERE v > :c RETURNING v AS c'}]",
        "steps: [{id: a, sqll: VACUUM t}]",
        "steps: [{id: a, sql: VACUUM t, priority: !!int '3'}]",
        "steps: [{id: a, sql: VACUUM t, timeout: !!python/object/apply:os.system [x]}]",
        "steps: [{id: a, sql: VACUUM t, tags: !!set {a, b}}]",
        'window: {timezone: "a\\0b", from: "01:00", to: "02:00"}\nsteps: [{id: a, sql: VACUUM t, window: ignore}]',
        "steps: [{idd: a, sql: VACUUM t}]",
        "steps: [{sql: VACUUM t}, {id: b, needs: [a], sql: VACUUM u}]",
        "steps: [{id: a, sql: 'DELETE FROM t WHERE v = :p AND w = :p'}, {id: b, sql: 'DELETE FROM u WHERE v = :p'}]",
    ],
)
def test_one_mistake_is_one_finding(tmp_path: Path, plan: str) -> None:
    found = [problem for problem in load(tmp_path, f"{_HEAD}{plan}\n") if problem.severity is Severity.ERROR]
    assert len(found) == 1, found


@pytest.mark.parametrize("key", ["timeout", "on_finish"])
def test_a_misspelled_key_of_defaults_is_not_missing_besides(tmp_path: Path, key: str) -> None:
    head = _HEAD.replace(f"{key}:", f"{key}x:", 1)
    found = load(tmp_path, f"{head}steps: [{{id: a, sql: VACUUM t}}, {{id: b, sql: VACUUM u}}]\n")
    assert [problem.code for problem in found] == ["JP101"]


@pytest.mark.parametrize("defaults", ["", "[]", "10m"])
def test_defaults_that_cannot_be_read_are_one_finding(tmp_path: Path, defaults: str) -> None:
    text = f"version: 1\nname: example\nbudget: {{slots: 1}}\ndefaults: {defaults}\nsteps: [{{id: a, sql: VACUUM t}}]\n"
    assert [problem.code for problem in load(tmp_path, text)] == ["JP103"]


def test_a_key_that_is_missing_beside_an_unknown_one_is_still_reported(tmp_path: Path) -> None:
    found = load(tmp_path, f"{_HEAD}steps: [{{id: a, sql: VACUUM t}}, {{idd: b, timeout: 5m}}]\n")
    assert [problem.code for problem in found] == ["JP109", "JP101"]


# --- psql -------------------------------------------------------------------------------------------------------------


def test_every_command_of_psql_is_found_at_once_with_the_plan_s_own_way(tmp_path: Path) -> None:
    sql = (
        "\\set ON_ERROR_STOP on\n"
        "\\set days 90\n"
        "\\echo it's late\n"
        "\\i other.sql\n"
        "SELECT format('VACUUM %I', relname) FROM pg_class \\gexec\n"
        "SELECT 1 AS a \\gset x_\n"
        "DELETE FROM audit WHERE id = 1; \\copy audit from 'a.csv' csv\n"
        "\\if true\n"
        "UPDATE t SET a = '\\d' WHERE b = 1; -- \\d\n"
        "\\endif\n"
        "SELECT 2 \\watch 5\n"
        "\\d+ t\n"
        "\\! ls\n"
        "\\c other\n"
        "\\q\n"
    )
    found = [problem for problem in load_sql(tmp_path, sql) if problem.severity is Severity.ERROR]
    assert {problem.code for problem in found} == {"JP301"}
    commands = [problem.message.split(" ")[0] for problem in found]
    assert commands == [
        *("\\set", "\\set", "\\echo", "\\i", "\\gexec", "\\gset", "\\copy", "\\if", "\\endif", "\\watch", "\\d", "\\!"),
        *("\\c", "\\q"),
    ]
    hints = dict(zip(commands, [problem.hint or "" for problem in found], strict=True))
    assert "for_each" in hints["\\gexec"]
    assert "for_each" in hints["\\gset"]
    assert "params" in hints["\\set"]
    assert "sql_file" in hints["\\i"]
    assert "repeat" in hints["\\watch"]
    assert "`if: " in hints["\\if"]
    assert "--dsn" in hints["\\c"]
    assert all(hints.values())
    assert "one transaction" in (found[0].hint or "")


def test_what_stands_beside_commands_of_psql_is_still_judged(tmp_path: Path) -> None:
    found = load_sql(tmp_path, "\\timing\nDELETE FROM audit;\nSELEC 1;\n")
    assert [(problem.code, problem.position.line) for problem in found] == [("JP301", 1), ("JP300", 3)]
    found = load_sql(tmp_path, "\\timing\nDELETE FROM audit;\n")
    assert [(problem.code, problem.position.line) for problem in found] == [("JP301", 1), ("JP352", 2)]


@pytest.mark.parametrize(
    "sql",
    [
        "COPY country (code, name) FROM stdin;\nde\tGermany\nfr\tL'été : :x\n\\.\n",
        'COPY country FROM STDIN WITH (FORMAT csv);\nde,"Germany\n\\.\nANALYZE country;\n',
        "/* c */ copy country from stdin csv ;  \n1,2\n\\.",
        "SET work_mem = '4MB';\n\nCOPY country FROM stdin;\n\\.\n",
    ],
)
def test_copy_with_its_data_is_said_to_be_impossible_at_the_copy(tmp_path: Path, sql: str) -> None:
    found = [problem for problem in load_sql(tmp_path, sql) if problem.severity is Severity.ERROR]
    (problem,) = found
    assert problem.code == "JP312"
    assert problem.position.line == sql[: sql.lower().index("copy c")].count("\n") + 1


@pytest.mark.parametrize("sql", ["UPDATE t SET a = '\\d', b = E'\\\\x', c = $$\\i x$$ WHERE \"\\q\" = 1 -- \\d\n"])
def test_a_backslash_in_strings_names_and_comments_is_no_command(tmp_path: Path, sql: str) -> None:
    assert load_sql(tmp_path, sql) == []


def test_values_of_parameters_can_come_through_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(f"{_HEAD}params: {{n: {{type: integer}}}}\nsteps: [{{id: a, sql: 'DELETE FROM t WHERE v = :n'}}]\n")
    reader, writer = os.pipe()
    os.write(writer, b"n: 3\n")
    os.close(writer)
    try:
        loaded = check_plan(path, params_file=f"/dev/fd/{reader}", require_values=True)
    finally:
        os.close(reader)
    assert loaded.problems == ()
    assert loaded.plan is not None
    assert loaded.plan.values["n"] == 3


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("COPY t FROM STDIN;\n" * 30_000 + "\\x", "JP301"),
        (";" * 1_000_000 + "\\x", "JP301"),
        ("\\x\n" * 30_000, "JP301"),
        ("SELECT 'a';" * 30_000 + "\\x", "JP301"),
        ("SELEC '\u00a0' \u00a0;" * 20_000, "JP305"),
        ("SELEC " + "ON CONFLICT " * 40_000, "JP300"),
    ],
)
def test_a_long_text_of_client_commands_and_odd_characters_ends(tmp_path: Path, sql: str, code: str) -> None:
    assert code in {problem.code for problem in load_sql(tmp_path, sql)}
