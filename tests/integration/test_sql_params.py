"""Rendered values reach a real server unchanged, whatever they hold and however the session is set."""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from runner.sql.placeholders import Scalar, render
from runner.sql.qualified_names import MAX_NAME_BYTES

_BATCH = 500

_KNOWN = [
    *("", " ", "'", "''", "'''", "\\", "\\\\", "\\'", "'\\", "\\'; DROP TABLE t; --", "'; DROP TABLE t; --", "E'\\n'"),
    *("\n", "\r\n", "a\nb", "'\n'", "$$", "$1", "$tag$", "--", "/*", "*/", ":x", ":'x'", ':"x"', "%s", "{}", "NULL"),
    *('"', '""', '"; --', "\\x41", "\\u0041", "\\101", "U&'\\0041'", "\x01\x1b\x7f", "\u2028", "\ufeff", "\uff07"),
    *("é", "ソ", "表", "能", "Ł", "\u02bc", "\U0001d11e", "e\u0301", "\u202e", "\ud7ff", "\uffff", "\U0010ffff", "¥"),
]
_ALPHABET = "'\"\\$:;-/*%{}?&@ \t\n\r\x01aEUx01é表ソ\uff07\U0001d11e"


def _hostile(count: int) -> list[str]:
    chance = random.Random(20260101)  # noqa: S311 -- the same values on every run, no secrets
    made = ("".join(chance.choices(_ALPHABET, k=chance.randint(1, 15))) for _ in range(count))
    return [*_KNOWN, *made]


def _batches(values: list[str]) -> Iterator[dict[str, Scalar]]:
    for begin in range(0, len(values), _BATCH):
        yield {f"v{i}": value for i, value in enumerate(values[begin : begin + _BATCH])}


def _names(batch: dict[str, Scalar], template: str) -> str:
    return ", ".join(template.format(name) for name in batch)


@pytest.mark.parametrize("conforming", ["on", "off"])
def test_literals_arrive_unchanged(dsn: str, conforming: str) -> None:
    options = f"-c standard_conforming_strings={conforming} -c escape_string_warning=on"
    with psycopg.connect(make_conninfo(dsn, options=options, client_encoding="UTF8")) as connection:
        notices: list[str | None] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        for batch in _batches(_hostile(5000)):
            text = render("SELECT ARRAY[" + _names(batch, ":'{}'") + "]", batch)
            row = connection.execute(text.encode()).fetchone()
            assert row == (list(batch.values()),)
    assert notices == []


@pytest.mark.parametrize("conforming", ["on", "off"])
def test_identifiers_arrive_unchanged(dsn: str, conforming: str) -> None:
    values = sorted({value for value in _hostile(3000) if 0 < len(value.encode()) <= MAX_NAME_BYTES})
    options = f"-c standard_conforming_strings={conforming}"
    with psycopg.connect(make_conninfo(dsn, options=options, client_encoding="UTF8")) as connection:
        for batch in _batches(values):
            text = render("SELECT " + _names(batch, '1 AS :"{}"'), batch)
            cursor = connection.execute(text.encode())
            assert [column.name for column in cursor.description or ()] == list(batch.values())


def test_a_table_gets_the_name_that_was_given(dsn: str) -> None:
    name = 'a "b" \\ \'; DROP SCHEMA public; -- é\n'
    with psycopg.connect(dsn) as connection:
        text = render("CREATE TEMP TABLE :\"name\" AS SELECT :'name'::text AS value", {"name": name})
        connection.execute(text.encode())
        found = connection.execute("SELECT relname FROM pg_class WHERE relname = %s", [name]).fetchall()
        assert found == [(name,)]
        stored = connection.execute(sql.SQL("SELECT value FROM {}").format(sql.Identifier(name))).fetchall()
        assert stored == [(name,)]


@pytest.mark.parametrize(
    ("encoding", "values"),
    [
        ("LATIN1", ["é\\'", "\u00a5\\", "ÿ''\\", "\u0080'"]),
        ("EUC_JP", ["表'", "ソ\\", "能\\'", "漢字''"]),
        ("SJIS", ["表'", "ソ", "能'", "漢字''", "ソ\\'"]),
        ("GBK", ["縗'", "運\\", "誠'\\"]),
        ("BIG5", ["功'", "許\\", "蓋'"]),
    ],
)
@pytest.mark.parametrize("conforming", ["on", "off"])
def test_literals_survive_other_client_encodings(dsn: str, encoding: str, values: list[str], conforming: str) -> None:
    options = f"-c standard_conforming_strings={conforming}"
    with psycopg.connect(make_conninfo(dsn, options=options, client_encoding=encoding)) as connection:
        batch: dict[str, Scalar] = {f"v{i}": value for i, value in enumerate(values)}
        text = render("SELECT " + _names(batch, ":'{}'"), batch)
        row = connection.execute(text.encode(connection.info.encoding)).fetchone()
        assert row == tuple(values)


_TRAPS = """
    CREATE SCHEMA evil;
    CREATE DOMAIN evil.text AS pg_catalog.text CHECK (false);
    CREATE DOMAIN evil.int4 AS pg_catalog.int4 CHECK (false);
    CREATE FUNCTION evil.wrong(pg_catalog.int4) RETURNS pg_catalog.int4 LANGUAGE sql AS 'SELECT 666';
    CREATE FUNCTION evil.wrong(pg_catalog.numeric) RETURNS pg_catalog.numeric LANGUAGE sql AS 'SELECT 666.0';
    CREATE FUNCTION evil.wrong(pg_catalog.text, pg_catalog.text) RETURNS pg_catalog.text
        LANGUAGE sql AS $$SELECT '666'$$;
    CREATE FUNCTION evil.quote_literal(pg_catalog.text) RETURNS pg_catalog.text LANGUAGE sql AS $$SELECT '666'$$;
    CREATE FUNCTION evil.int4(pg_catalog.text) RETURNS pg_catalog.int4 LANGUAGE sql AS 'SELECT 666';
    CREATE OPERATOR evil.- (RIGHTARG = pg_catalog.int4, FUNCTION = evil.wrong);
    CREATE OPERATOR evil.- (RIGHTARG = pg_catalog.numeric, FUNCTION = evil.wrong);
    CREATE OPERATOR evil.|| (LEFTARG = pg_catalog.text, RIGHTARG = pg_catalog.text, FUNCTION = evil.wrong);
    SET LOCAL search_path = evil, pg_catalog;
"""


def test_a_hostile_search_path_does_not_change_a_value(dsn: str) -> None:
    values: dict[str, Scalar] = {"s": "it's \\", "n": 5, "neg": -5, "d": "-0.5", "flag": True}
    text = "SELECT :'s'::pg_catalog.text, :n, :neg, :d::pg_catalog.text, :flag, :'neg'::pg_catalog.int4"
    with psycopg.connect(dsn) as connection:
        connection.execute(_TRAPS)
        assert connection.execute("SELECT -(2)").fetchone() == (-2,)
        assert connection.execute("SELECT -a FROM (VALUES (2)) AS v(a)").fetchone() == (666,)  # the trap is set
        row = connection.execute(render(text, values).encode()).fetchone()
        assert row == ("it's \\", 5, -5, "-0.5", True, -5)
        connection.rollback()


def test_numbers_arrive_unchanged(dsn: str) -> None:
    values: dict[str, Scalar] = {
        "a": -(2**63),
        "b": 2**70,
        "c": "-12345678.123456789",
        "d": 1e-7,
        "e": "1e3",
        "f": -1,
    }
    with psycopg.connect(dsn) as connection:
        text = render("SELECT :a::text, :b::text, :c::text, :d::text, :e::text, 2-:f, -:f, :f::int2", values)
        row = connection.execute(text.encode()).fetchone()
    assert row == (str(-(2**63)), str(2**70), "-12345678.123456789", "0.0000001", "1000", 3, 1, -1)
