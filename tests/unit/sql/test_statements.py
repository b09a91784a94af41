"""SQL to statements: kinds, offsets, errors, and templates whose parameters have no values yet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.sql.lock_modes import LockMode
from runner.sql.placeholders import Scalar, render
from runner.sql.psql_commands import client_parts
from runner.sql.relations import Relation
from runner.sql.statements import (
    SqlSyntaxError,
    Statement,
    StatementKind,
    parse_statements,
    parse_template,
    placeholder,
    returns_rows,
)
from runner.sql.table_locks import locks_taken
from runner.sql.tokens import tokenize


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT 1", StatementKind.SELECT),
        ("TABLE t", StatementKind.SELECT),
        ("VALUES (1)", StatementKind.SELECT),
        ("WITH x AS (DELETE FROM t RETURNING 1) SELECT * FROM x", StatementKind.SELECT),
        ("SELECT 1 INTO t", StatementKind.SELECT_INTO),
        ("CREATE TABLE t AS SELECT 1", StatementKind.CREATE_TABLE_AS),
        ("CREATE MATERIALIZED VIEW t AS SELECT 1", StatementKind.CREATE_MATERIALIZED_VIEW),
        ("COPY t FROM STDIN", StatementKind.COPY_FROM),
        ("COPY (SELECT 1) TO STDOUT", StatementKind.COPY_TO),
        ("VACUUM ANALYZE t", StatementKind.VACUUM),
        ("ANALYZE t", StatementKind.ANALYZE),
        ("ALTER INDEX i SET (fillfactor = 70)", StatementKind.ALTER_INDEX),
        ("ALTER TABLE t ADD COLUMN c int", StatementKind.ALTER_TABLE),
        ("ALTER TABLE t RENAME TO u", StatementKind.RENAME),
        ("DROP INDEX i", StatementKind.DROP_INDEX),
        ("DROP FUNCTION f", StatementKind.DROP_OTHER),
        ("SET x.y = 1", StatementKind.SET),
        ("RESET ALL", StatementKind.RESET),
        ("SET TRANSACTION READ ONLY", StatementKind.SET_TRANSACTION),
        ("SAVEPOINT s", StatementKind.TRANSACTION),
        ("MOVE c", StatementKind.MOVE),
        ("FETCH c", StatementKind.FETCH),
        ("REVOKE SELECT ON t FROM x", StatementKind.REVOKE),
        ("CREATE COLLATION c FROM d", StatementKind.OTHER),
    ],
)
def test_a_statement_has_a_kind(sql: str, kind: StatementKind) -> None:
    (statement,) = parse_statements(sql)
    assert statement.kind is kind


def test_statements_are_found_in_their_text_whatever_stands_between() -> None:
    text = "/* é */ SELECT 'é;' -- ;\n; ;;\n\tVACUUM \"é𝄞\" ; \nSELECT $$;$$  \n"
    found = [text[statement.start : statement.end] for statement in parse_statements(text)]
    assert found == ["SELECT 'é;' -- ;", 'VACUUM "é𝄞"', "SELECT $$;$$"]


@pytest.mark.parametrize("text", ["", " \n", "-- nothing", "/* nothing */", ";;"])
def test_a_text_without_statements_has_none(text: str) -> None:
    assert parse_statements(text) == ()


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("SELECT 'é' FORM t", 16, 'syntax error at or near "t"'),
        ("SELECT 1; SELECT '𝄞' +", 22, "syntax error at end of input"),
        ("SELECT é, 'x", 10, "unterminated quoted string"),
        ("SELECT \0", 7, "NUL"),
        ("SELECT \ud800", 7, "surrogate"),
        ("SELECT (1", 9, "syntax error at end of input"),
    ],
)
def test_what_postgresql_refuses_is_an_error_at_its_place(text: str, offset: int, message: str) -> None:
    with pytest.raises(SqlSyntaxError, match=message) as caught:
        parse_statements(text)
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("text", "command", "offset"),
    [
        ("\\d orders", r"\d", 0),
        ("SELECT 1;\n  \\copy t from 'x'", r"\copy", 12),
        ("SELECT 1\n\\gexec\n", r"\gexec", 9),
        ("\\echo it's\nSELECT 1", r"\echo", 0),
        ("SELECT '\n\\d' FORM x;\n\\set a 1", r"\set", 21),
    ],
)
def test_a_command_of_psql_is_found_where_it_stands(text: str, command: str, offset: int) -> None:
    (part,) = client_parts(text)
    assert (part.command, part.start) == (command, offset)
    assert part.hint


def test_long_chains_of_operators_are_parsed() -> None:
    (statement,) = parse_statements("SELECT " + " || ".join(["'a'"] * 2000) + " FROM t")
    assert [str(lock.relation) for lock in locks_taken(statement)] == ["t"]


@pytest.mark.parametrize(
    "text",
    [
        'SELECT é, :n FROM :"schema".:"t" WHERE a = :\'x\' AND b = :flag::int',
        'VACUUM (ANALYZE) :"schema".:"t"',
        "DELETE FROM t WHERE at < now() - make_interval(days => :retention_days)",
        "SET work_mem = :'mem'",
        "SELECT a[:lo], a[1:2] FROM t LIMIT :n",
        "COMMENT ON TABLE :\"t\" IS :'run.id'",
        'SELECT E:\'x\', "a":"b", a, :n',
    ],
)
def test_a_template_keeps_every_offset(text: str) -> None:
    template = parse_template(text)
    assert template.text == text
    (statement,) = template.statements
    assert (statement.start, statement.end) == (0, len(text))


def test_an_error_in_a_template_is_placed_in_the_template() -> None:
    with pytest.raises(SqlSyntaxError) as caught:
        parse_template('SELECT é FROM :"schema".:"table" FORM x WHRE')
    assert caught.value.offset == 38
    assert caught.value.message == 'syntax error at or near "x"'


def test_an_identifier_is_a_placeholder_until_its_value_is_known() -> None:
    text = 'REINDEX TABLE :"schema".:"table"'
    (unknown,) = parse_template(text).statements
    lock = locks_taken(unknown)[0]
    assert placeholder(lock.relation.name) == "table"
    assert (str(lock.relation), lock.relation.known, lock.offset) == (':"schema".:"table"', False, 14)
    (half,) = parse_template(text, {"schema": "é"}).statements
    assert (str(locks_taken(half)[0].relation), locks_taken(half)[0].relation.known) == ('"é".:"table"', False)
    (known,) = parse_template(text, {"schema": "public", "table": "orders"}).statements
    assert (str(locks_taken(known)[0].relation), locks_taken(known)[0].relation.known) == ("public.orders", True)


def test_a_number_that_is_known_and_fits_is_used() -> None:
    (full,) = parse_template("VACUUM (FULL :full) t", {"full": True}).statements
    (plain,) = parse_template("VACUUM (FULL :full) t", {"full": 0}).statements
    (too_long,) = parse_template("VACUUM (FULL :f) t", {"f": True}).statements
    assert [str(locks_taken(statement)[0].mode) for statement in (full, plain, too_long)] == [
        *("ACCESS EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE UPDATE EXCLUSIVE")
    ]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT :n, :'s' FROM :\"i\" WHERE a[:n] = :f AND b = :'s'::text LIMIT :n",
        'SET work_mem = :\'s\'; VACUUM (FULL :f, PARALLEL :n) :"i".:"i"',
        'ALTER TABLE :"i" SET (fillfactor = :n), ALTER :"i" SET DEFAULT :\'s\'',
        'COMMENT ON TABLE :"i" IS :\'s\'; CREATE TABLE :"i" (:"i" int DEFAULT :n)',
    ],
)
@given(
    values=st.fixed_dictionaries(
        {
            "s": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9),
            "i": st.text(st.sampled_from('aé" .;-'), min_size=1, max_size=9),
            "n": st.integers(min_value=0, max_value=2**31),
            "f": st.booleans(),
        }
    )
)
def test_a_template_has_the_statements_of_its_rendered_text(text: str, values: dict[str, Scalar]) -> None:
    rendered = parse_statements(render(text, values))
    unknown = parse_template(text).statements
    known = parse_template(text, values).statements
    assert [each.kind for each in unknown] == [each.kind for each in known] == [each.kind for each in rendered]
    if "FULL" not in text:  # whose value does not fit into its reference
        assert [_named_locks(each) for each in known] == [_named_locks(each) for each in rendered]


def _named_locks(statement: Statement) -> list[tuple[Relation, LockMode]]:
    return [(lock.relation, lock.mode) for lock in locks_taken(statement)]


def test_an_ordinary_name_is_no_placeholder() -> None:
    assert placeholder("orders") is None


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", True),
        ("VALUES (1)", True),
        ("SHOW work_mem", True),
        ("EXPLAIN DELETE FROM t", True),
        ("EXECUTE q", True),
        ("FETCH c", True),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x RETURNING a", True),
        ("UPDATE t SET a = 1 RETURNING a", True),
        ("DELETE FROM t RETURNING a", True),
        ("MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE RETURNING merge_action()", True),
        ("DELETE FROM t", False),
        ("INSERT INTO t VALUES (1)", False),
        ("SELECT 1 INTO t", False),
        ("CALL p()", False),
        ("DO ''", False),
        ("MOVE c", False),
        ("VACUUM", False),
        ("COPY t TO STDOUT", False),
    ],
)
def test_which_statements_give_rows(sql: str, expected: bool) -> None:
    (statement,) = parse_statements(sql)
    assert returns_rows(statement) is expected


def test_tokens_cover_a_text_without_its_white_space() -> None:
    text = "SELECT é, '𝄞' /* é */ -- x\n"
    tokens = tokenize(text)
    assert [token.text for token in tokens] == ["SELECT", "é", ",", "'𝄞'", "/* é */", "-- x"]
    assert all(text[token.start : token.end] == token.text for token in tokens)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("select 1" + "+1" * 45_000, "nested too deeply"),
        ("select 1" + "+1" * 60_000, "120,002 tokens"),
        ("select " + "(" * 40_000, "memory exhausted|syntax error"),
    ],
)
def test_a_text_that_would_overflow_the_stack_is_refused(text: str, message: str) -> None:
    with pytest.raises(SqlSyntaxError, match=message):
        parse_statements(text)


@pytest.mark.parametrize("chain", ["+1", "::int"])
def test_a_deep_text_is_parsed_where_it_fits(chain: str) -> None:
    assert len(parse_statements("select 1" + chain * 20_000)) == 1


def test_a_long_text_that_is_not_deep_is_parsed() -> None:
    rows = ", ".join(f"({number}, 'x')" for number in range(10_000))
    (statement,) = parse_statements(f"INSERT INTO t VALUES {rows}")
    assert statement.kind is StatementKind.INSERT


@pytest.mark.parametrize("value", ["p", "a_name_that_is_longer_than_its_parameter", 'with "quotes"', ""])
@pytest.mark.parametrize("text", ['DELETE FROM :"schema"', "SELECT :'schema'", 'DROP TABLE a.:"schema" ; SELECT :n'])
def test_a_statement_ends_where_its_last_parameter_does(text: str, value: str) -> None:
    for known in ({}, {"schema": value, "n": "5"}):
        found = [text[each.start : each.end] for each in parse_template(text, known).statements]
        assert found == text.split(" ; ")


def test_a_message_is_one_line_although_it_quotes_the_text() -> None:
    with pytest.raises(SqlSyntaxError) as caught:
        parse_statements("SELECT 1\n, '\n")
    assert caught.value.message == """unterminated quoted string at or near "' \""""


def test_a_character_that_sql_has_no_use_for_is_a_token_like_others() -> None:
    assert [token.text for token in tokenize("a { b }")] == ["a", "{", "b", "}"]
