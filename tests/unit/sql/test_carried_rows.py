"""The last statement of a step with carried values: whether its last row is determined, and how it is extended."""

from __future__ import annotations

import pytest

from runner.sql.carried_rows import can_store, carry_form, has_order, store_values, without_extension
from runner.sql.returned_rows import column_names
from runner.sql.statements import parse_statements

BATCH = "WITH batch AS (UPDATE t SET v = 1 WHERE id > 5 RETURNING id) SELECT max(id) AS last_id FROM batch"


def extended(text: str, *names: str, store: str = "") -> str:
    form = carry_form(text, names)
    assert form is not None
    return f"{text[: form.start]}{form.before}{text[form.start : form.end]}{form.result}{store}{form.output}"


@pytest.mark.parametrize(
    "text",
    [
        BATCH,
        "SELECT id AS last_id FROM t ORDER BY id LIMIT 10",
        "(SELECT 1 AS last_id) ORDER BY 1",
        "(SELECT id AS last_id FROM t) UNION ALL SELECT 2 ORDER BY last_id",
        "SELECT last_id FROM t LIMIT 1",
        "SELECT last_id FROM t FETCH FIRST ROW ONLY",
        "VALUES (1)",
        "VALUES (1), (2) ORDER BY 1",
        "SELECT next_batch(5) AS last_id",
        "SELECT max(id) + 1 AS last_id FROM t",
        "SELECT coalesce(max(id), 0) AS last_id FROM t WHERE id > 5",
        "SELECT count(*) FILTER (WHERE v = 1) AS last_id FROM t",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY id) AS last_id FROM t",
        "SELECT 1 AS last_id FROM t HAVING count(*) > 3",
        "WITH m AS (SELECT max(id) AS last_id FROM t) SELECT last_id FROM m",
        "WITH m AS (SELECT max(id) AS i FROM t), n AS (SELECT i FROM m) SELECT n.i AS last_id FROM m CROSS JOIN n",
        "SELECT s.last_id FROM (SELECT max(id) AS last_id FROM t) AS s",
        "INSERT INTO t VALUES (1) RETURNING id AS last_id",
        "INSERT INTO t SELECT max(id) + 1 FROM t RETURNING id AS last_id",
        "CALL p(1, NULL)",
    ],
)
def test_a_statement_whose_last_row_is_determined(text: str) -> None:
    assert has_order(parse_statements(text)[-1])


@pytest.mark.parametrize(
    "text",
    [
        "UPDATE t SET v = 1 RETURNING id AS last_id",
        "DELETE FROM t RETURNING id AS last_id",
        "INSERT INTO t SELECT id FROM u RETURNING id AS last_id",
        "INSERT INTO t VALUES (1), (2) RETURNING id AS last_id",
        "SELECT id AS last_id FROM t",
        "SELECT id AS last_id FROM t LIMIT 10",
        "SELECT id AS last_id FROM t LIMIT ALL",
        "SELECT id AS last_id FROM (SELECT id FROM t ORDER BY id) AS s",
        "SELECT max(id) AS last_id FROM t GROUP BY v",
        "SELECT max(id) OVER () AS last_id FROM t",
        "SELECT (SELECT max(id) FROM t) AS last_id FROM u",
        "SELECT 1 AS last_id UNION ALL SELECT 2",
        "VALUES (1), (2)",
        "TABLE t",
        "SELECT last_id FROM f(5)",
        "WITH m AS (SELECT max(id) AS last_id FROM t) SELECT last_id FROM m, u",
        "WITH m AS (SELECT max(id) AS last_id FROM t) SELECT last_id FROM s.m",
        "WITH RECURSIVE m AS (SELECT 1 AS last_id UNION ALL SELECT last_id + 1 FROM m) SELECT last_id FROM m",
        "SELECT last_id FROM t, u",
    ],
)
def test_a_statement_whose_last_row_is_any(text: str) -> None:
    assert not has_order(parse_statements(text)[-1])


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (BATCH, ["last_id"]),
        ("SELECT max(id), f(x), x.y FROM t", ["max", "f", "y"]),
        ("SELECT * FROM t", None),
        ("SELECT t.*, 1 AS last_id FROM t", None),
        ("DELETE FROM t RETURNING id AS a, b", ["a", "b"]),
        ("CALL p(1)", None),
    ],
)
def test_the_columns_of_a_statement(text: str, columns: list[str] | None) -> None:
    assert column_names(parse_statements(text)[-1]) == columns


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        (BATCH, "UPDATE"),
        (("WITH a AS (SELECT 1), b AS (DELETE FROM t RETURNING *), c AS (INSERT INTO u SELECT * FROM b RETURNING 1) "
         "SELECT max(id) AS last_id FROM b"), "DELETE"),
        ("WITH b AS (DELETE FROM t) SELECT 1 AS last_id", "SELECT"),
        ("SELECT id AS last_id FROM t ORDER BY id", "SELECT"),
        ("INSERT INTO t VALUES (1) RETURNING id AS last_id", "INSERT"),
    ],
)  # fmt: skip
def test_the_rows_of_a_batch_are_those_that_its_first_with_query_changes(text: str, tag: str) -> None:
    form = carry_form(text, ("last_id",))
    assert form is not None
    assert form.tag == tag


@pytest.mark.parametrize(
    "text",
    [
        BATCH,
        "SELECT 1; " + BATCH + ";",
        "WITH a(x, y) AS MATERIALIZED (SELECT ')(', 2), b AS (DELETE FROM t RETURNING id) SELECT max(id) AS c FROM b",
        'WITH update AS NOT MATERIALIZED (SELECT 1 AS i), "x, (" AS (SELECT 2) SELECT max(i) AS last_id FROM update',
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT max(n) AS last_id FROM r",
        ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SEARCH DEPTH FIRST BY n SET o "
        "SELECT max(n) AS last_id FROM r"),
        "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a RETURNING id AS last_id",
        "SELECT id AS last_id FROM t ORDER BY id -- the last one",
        "SELECT id AS last_id /* ( */ FROM t ORDER BY id FOR UPDATE SKIP LOCKED",
        "(WITH x AS (SELECT 1 AS last_id) SELECT last_id FROM x) ORDER BY 1",
        "WITH é AS (SELECT 'ü' AS x) SELECT x AS last_id FROM é ORDER BY x",
    ],
)  # fmt: skip
def test_an_extended_statement_is_sql_and_can_be_shown_as_it_was(text: str) -> None:
    longer = extended(text, "last_id", "other")
    assert [one.kind for one in parse_statements(longer)] == [
        one.kind for one in parse_statements(text)
    ] or "INSERT" in text
    assert without_extension(longer).rstrip(";") == text.rstrip(";")
    store = store_values('"jobplan".carried', {"run": "'r'", "attempt": "1"}, ("last_id", "other"))
    stored = extended(text, "last_id", "other", store=store)
    assert len(parse_statements(stored)) == len(parse_statements(text))
    assert without_extension(stored).rstrip(";") == text.rstrip(";")


@pytest.mark.parametrize(
    "text",
    [
        "CALL p(1, NULL)",
        "UPDATE t SET v = 1",
        "SHOW fsync",
        "EXPLAIN SELECT 1",
        "PREPARE p AS SELECT 1; EXECUTE p",
        "SELECT 1 INTO x",
        "INSERT INTO t WITH d AS (DELETE FROM u RETURNING id) SELECT id FROM d RETURNING id AS last_id",
        (
            "WITH RECURSIVE r AS (SELECT 1 AS n) SEARCH DEPTH FIRST BY n SET o, d AS (DELETE FROM u RETURNING id) "
            "SELECT max(id) AS last_id FROM d"
        ),
        "this is no SQL",
        "",
    ],
)
def test_what_cannot_be_part_of_another_query(text: str) -> None:
    assert carry_form(text, ("last_id",)) is None


def test_values_are_not_stored_under_another_role() -> None:
    for before in ("SET ROLE x; ", "SET LOCAL SESSION AUTHORIZATION x; ", "SELECT set_config('role', 'x', true); "):
        text = before + BATCH
        assert not can_store(parse_statements(text), text)
        form = carry_form(text, ("last_id",))
        assert form is not None
        assert not form.storable
    text = "SET LOCAL work_mem = '1GB'; " + BATCH
    assert can_store(parse_statements(text), text)


def test_a_value_cannot_become_sql_in_the_statement_that_stores() -> None:
    store = store_values('"a""b".carried', {"run": "'r'", "step": "'it''s'"}, ("last_id",))
    assert "'last_id', c1" in store
    assert parse_statements(f"WITH jobplan_result AS (SELECT 1 AS n, 2 AS c1){store} SELECT 1")
