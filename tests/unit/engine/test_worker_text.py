"""The text that is launched: what is written between the plan's statements and after them, and the tags that count."""

from __future__ import annotations

import pytest

from runner.engine.ports import LaunchRequest
from runner.engine.worker_text import MARKER, NEXT, cannot_send_rows, launched_text, plan_position, statement_tag
from runner.identity import WorkerLabel
from runner.sql.statements import parse_statements
from runner.structs import replace


def request(sql: str, rows: int = 0) -> LaunchRequest:
    """Return a request for this SQL."""
    return LaunchRequest(sql=sql, application_name="jobplan:r:s", rows=rows)


def kinds(text: str) -> list[str]:
    """Return the statements of a text, ours by the names of their constants."""
    ours = {NEXT: "NEXT", MARKER: "MARKER"}
    texts = [text[statement.start : statement.end] for statement in parse_statements(text)]
    return [ours.get(one, one) for one in texts]


@pytest.mark.parametrize(
    "sql",
    [
        "VACUUM t",
        "VACUUM t; -- alone",
        "CREATE INDEX CONCURRENTLY i ON t (i)",
        "CALL p(1)",
        "DO $$ BEGIN COMMIT; END $$;",
        "INSERT INTO t VALUES (1)",
        "no SQL at all; nor this",
        "",
        "-- nothing",
    ],
)
def test_what_must_be_alone_and_what_is_unknown_is_left_alone(sql: str) -> None:
    assert launched_text(request(sql)) == sql


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", ["SELECT 1", "MARKER"]),
        ("SELECT 1; -- the end", ["SELECT 1", "MARKER"]),
        ("SELECT 1 -- the end", ["SELECT 1 -- the end", "MARKER"]),
        ("INSERT INTO t VALUES (1); DELETE FROM t", ["INSERT INTO t VALUES (1)", "NEXT", "DELETE FROM t"]),
        ("UPDATE t SET i = 1; TABLE t;", ["UPDATE t SET i = 1", "NEXT", "TABLE t", "MARKER"]),
        ("DELETE FROM t; ; ;\n SELECT ';'", ["DELETE FROM t", "NEXT", "SELECT ';'", "MARKER"]),
        ("DELETE FROM t -- why\n; CALL p()", ["DELETE FROM t -- why", "NEXT", "CALL p()"]),
        ("DELETE FROM t /* ; */; DO $$ ; $$", ["DELETE FROM t /* ; */", "NEXT", "DO $$ ; $$"]),
        (
            "INSERT INTO t VALUES ('größe'); SELECT 'ö'",
            ["INSERT INTO t VALUES ('größe')", "NEXT", "SELECT 'ö'", "MARKER"],
        ),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; SELECT f()",
            ["CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END", "NEXT", "SELECT f()", "MARKER"],
        ),
    ],
)
def test_statements_are_set_apart_and_rows_kept_in(sql: str, expected: list[str]) -> None:
    assert kinds(launched_text(request(sql))) == expected


def test_rows_that_are_wanted_leave_the_worker() -> None:
    assert kinds(launched_text(request("DELETE FROM t; SELECT 1", rows=1))) == ["DELETE FROM t", "NEXT", "SELECT 1"]


@pytest.mark.parametrize(
    ("sql", "tags", "expected"),
    [
        ("SELECT 1", ["SELECT 3", "SET"], ("SELECT", "3")),
        ("INSERT INTO t VALUES (1)", ["INSERT 0 5"], ("INSERT", "5")),
        ("DELETE FROM t; UPDATE t SET i = 1", ["DELETE 4", "SET", "UPDATE 2"], ("UPDATE", "2")),
        ("DELETE FROM t; TABLE t", ["DELETE 4", "SET", "SELECT 2", "SET"], ("SELECT", "2")),
        ("REFRESH MATERIALIZED VIEW m", ["REFRESH MATERIALIZED VIEW"], ("REFRESH MATERIALIZED VIEW", "0")),
        ("COPY t TO STDOUT", [], ("COPY", "0")),
    ],
)
def test_the_tag_and_the_count_are_those_of_the_plans_own_last_statement(
    sql: str, tags: list[str], expected: tuple[str, str]
) -> None:
    reported = ("COPY" if sql.startswith("COPY") else expected[0], "0")
    assert statement_tag(request(sql), [(tag,) for tag in tags], *reported) == expected


@pytest.mark.parametrize(
    ("sql", "certain"),
    [
        ("SELECT 1", True),
        ("INSERT INTO t VALUES (1) RETURNING i", True),
        ("VACUUM t", True),
        ("DO $$ BEGIN END $$", True),
        ("INSERT INTO t VALUES (1)", False),  # a rule may add a SELECT
        ("COPY t TO STDOUT", False),
        ("CALL p()", False),
        ("COPY t TO STDOUT; SELECT 1", False),
        ("no SQL at all", False),
    ],
)
def test_what_is_certain_to_send_command_tags_only(sql: str, certain: bool) -> None:
    assert cannot_send_rows(request(sql)) is certain
    assert not cannot_send_rows(request(sql, rows=1))


@pytest.mark.parametrize("first", ["", "INSERT INTO ledger VALUES (1);"])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("sql", ["SELECT nope", "SELECT 'ä' ; UPDATE t SET i = 1;\n SELECT x.nope; TABLE t", "nope"])
def test_a_place_in_what_was_launched_is_one_in_the_plan(sql: str, *, labelled: bool, first: str) -> None:
    label = WorkerLabel(run="r", plan="p", step="s", attempt=1, on_finish="wait", timeout=None) if labelled else None
    a_request = replace(request(sql), label=label)
    text = launched_text(a_request, first)
    assert plan_position(a_request, first, text.index("nope") + 1) == sql.index("nope") + 1
    assert plan_position(a_request, first, len(text) + 100) == len(sql) + 1
    if labelled or first:
        assert plan_position(a_request, first, 1) is None
    if NEXT in text:
        assert plan_position(a_request, first, text.index(NEXT) + 1) is None
