"""SQL that cannot be read: what is an error, and what is only not checked; options that versions do not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import Problem, Severity
from runner.lint import check_plan
from runner.plan.version_ranges import allowed_versions

_HEAD = "version: 1\nname: example\nbudget: {slots: 1}\ndefaults: {timeout: 10m, on_finish: wait, lock_timeout: 5s}\n"


def found(folder: Path, sql: str, head: str = "") -> list[Problem]:
    (folder / "a.sql").write_text(sql, encoding="utf-8")
    path = folder / "plan.yaml"
    path.write_text(f"{_HEAD}{head}steps:\n  - id: a\n    sql_file: a.sql\n", encoding="utf-8")
    return list(check_plan(path).problems)


def test_a_text_of_more_than_100_000_tokens_is_a_warning(tmp_path: Path) -> None:
    (problem,) = found(tmp_path, "INSERT INTO t VALUES " + ",".join(["(1)"] * 40_000))
    assert (problem.code, problem.severity) == ("JP302", Severity.WARNING)
    assert problem.message.startswith("not checked: the SQL text has ")


@pytest.mark.parametrize("sql", ["DO_SOMETHING t", "SELEC 1", "DELETE FORM t", "SELECT 1 FROM t GROUP BU a"])
def test_syntax_that_no_version_has_is_an_error(tmp_path: Path, sql: str) -> None:
    (problem,) = found(tmp_path, sql)
    assert (problem.code, problem.severity) == ("JP300", Severity.ERROR)


_NEWER = (
    "REPACK t",
    "REPACK (CONCURRENTLY) t",
    "WAIT FOR LSN '0/1'",
    "CHECKPOINT (MODE FAST)",
    "INSERT INTO u SELECT a, count(*) FROM t GROUP BY ALL",
    "INSERT INTO u SELECT lag(a) IGNORE NULLS OVER (ORDER BY b) FROM t",
    "ALTER TABLE p MERGE PARTITIONS (p1, p2) INTO p3",
    "ALTER TABLE p SPLIT /* c */ PARTITION p1 INTO (PARTITION p2 FOR VALUES FROM (1) TO (2))",
    "UPDATE t FOR PORTION OF valid FROM '2026-01-01' TO '2026-02-01' SET a = 1 WHERE b",
    "INSERT INTO t VALUES (1) ON CONFLICT (a) DO SELECT RETURNING a",
    "CREATE PROPERTY GRAPH g VERTEX TABLES (t)",
    "CREATE PUBLICATION p FOR ALL TABLES EXCEPT (TABLE t)",
)


@pytest.mark.parametrize("sql", _NEWER)
@pytest.mark.parametrize("versions", ["", ">=19", ">=14"])
def test_syntax_that_came_after_the_parser_is_not_checked(tmp_path: Path, sql: str, versions: str) -> None:
    head = f'requires: {{server_version: "{versions}"}}\n' if versions else ""
    (problem,) = found(tmp_path, sql, head)
    assert (problem.code, problem.severity) == ("JP302", Severity.WARNING)
    assert "read as PostgreSQL 18 syntax" in problem.message


@pytest.mark.parametrize("sql", _NEWER)
def test_it_is_an_error_where_no_admitted_version_has_it(tmp_path: Path, sql: str) -> None:
    (problem,) = found(tmp_path, sql, 'requires: {server_version: ">=14, <19"}\n')
    assert (problem.code, problem.severity) == ("JP300", Severity.ERROR)


@pytest.mark.parametrize("versions", [">=19", ">18", "==19", ">=19, <21"])
def test_no_syntax_is_checked_if_only_newer_servers_run_the_plan(tmp_path: Path, versions: str) -> None:
    (problem,) = found(tmp_path, "DO_SOMETHING t", f'requires: {{server_version: "{versions}"}}\n')
    assert (problem.code, problem.severity) == ("JP302", Severity.WARNING)


def test_words_of_newer_syntax_in_strings_and_other_statements_are_none(tmp_path: Path) -> None:
    for sql in ("SELEC 'REPACK t GROUP BY ALL'", "SELEC 1; REPACK t", "SELEC 1 -- GROUP BY ALL"):
        assert [problem.code for problem in found(tmp_path, sql)] == ["JP300"]


@pytest.mark.parametrize(
    "sql",
    [
        "VACUUM (nonsense) t",
        "ANALYZE (buffers) t",
        "REINDEX (fast) TABLE t",
        "CLUSTER (quick) t",
        "COPY t FROM '/tmp/t' (nonsense true)",
        "VACUUM (ANALYZE, speed 3) t",
    ],
)
def test_an_option_that_no_version_knows_is_an_error(tmp_path: Path, sql: str) -> None:
    problems = [problem for problem in found(tmp_path, sql) if problem.code == "JP303"]
    (problem,) = problems
    assert problem.severity is Severity.ERROR
    assert problem.message.startswith("no version of PostgreSQL has ")


@pytest.mark.parametrize(
    "sql",
    [
        "VACUUM (FULL false, FREEZE, ANALYZE, PARALLEL 2, TRUNCATE, PROCESS_MAIN false, BUFFER_USAGE_LIMIT '1MB') t",
        "ANALYZE (VERBOSE, SKIP_LOCKED) t",
        "REINDEX (VERBOSE, CONCURRENTLY, TABLESPACE x) TABLE t",
        "COPY t FROM '/tmp/t' (FORMAT csv, HEADER match, ON_ERROR ignore, REJECT_LIMIT 3)",
        "COPY t FROM '/tmp/t' CSV HEADER DELIMITER ';'",
        "EXPLAIN (ANALYZE, BUFFERS, a_module_s_own) SELECT 1",
    ],
)
def test_options_that_a_version_knows_are_none(tmp_path: Path, sql: str) -> None:
    assert [str(problem) for problem in found(tmp_path, sql) if problem.code in {"JP303", "JP304"}] == []


@pytest.mark.parametrize(
    ("sql", "versions", "severity"),
    [
        ("VACUUM (BUFFER_USAGE_LIMIT '1MB') t", ">=14", Severity.WARNING),
        ("VACUUM (BUFFER_USAGE_LIMIT '1MB') t", "14", Severity.ERROR),
        ("VACUUM (BUFFER_USAGE_LIMIT '1MB') t", "<16", Severity.ERROR),
        ("VACUUM (SKIP_DATABASE_STATS) t", ">=15", Severity.WARNING),
        ("EXPLAIN (GENERIC_PLAN) SELECT 1", ">=14, <16", Severity.ERROR),
        ("GRANT MAINTAIN ON t TO r", ">=15", Severity.WARNING),
        ("SET transaction_timeout = '5s'; UPDATE t SET a = 1 WHERE b", "16", Severity.ERROR),
        ("SELECT set_config('transaction_timeout', '5s', true); UPDATE t SET a = 1 WHERE b", "16", Severity.ERROR),
        ("COPY t FROM '/tmp/t' (ON_ERROR ignore)", ">=16", Severity.WARNING),
        ("CREATE VIEW v WITH (security_invoker) AS SELECT 1", "14", Severity.ERROR),
    ],
)
def test_an_option_that_an_admitted_version_lacks(tmp_path: Path, sql: str, versions: str, severity: Severity) -> None:
    problems = found(tmp_path, sql, f'requires: {{server_version: "{versions}"}}\n')
    (problem,) = [problem for problem in problems if problem.code == "JP304"]
    assert problem.severity is severity


@pytest.mark.parametrize(("versions", "severity"), [(">=14", Severity.WARNING), ("<17", Severity.ERROR)])
def test_a_setting_of_a_step_that_an_admitted_version_lacks(tmp_path: Path, versions: str, severity: Severity) -> None:
    text = f'version: 1\nname: p\nbudget: {{slots: 1}}\nrequires: {{server_version: "{versions}"}}\n'
    text += "defaults: {timeout: 1m, lock_timeout: 5s, on_finish: wait}\n"
    text += 'steps: [{id: a, sql: VACUUM t, settings: {enable_group_by_reordering: "off"}}]\n'
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    (problem,) = [one for one in check_plan(tmp_path / "plan.yaml").problems if one.code == "JP304"]
    assert problem.severity is severity


@pytest.mark.parametrize("head", ["", 'requires: {server_version: ">=16"}\n', 'requires: {server_version: ">=16.2"}\n'])
def test_an_option_is_right_if_every_admitted_version_has_it_or_none_is_named(tmp_path: Path, head: str) -> None:
    assert [problem.code for problem in found(tmp_path, "VACUUM (BUFFER_USAGE_LIMIT '1MB') t", head)] == []


def test_the_versions_that_a_range_admits() -> None:
    assert allowed_versions(None) == (14, 15, 16, 17, 18)
    assert allowed_versions(">=17")[:2] == (17, 18)
    assert 19 in allowed_versions(">=17")
    assert allowed_versions("<16") == (14, 15)
    assert allowed_versions("==16.3") == (16,)
    assert allowed_versions(">16.3, <17") == (16,)
    assert allowed_versions("<14") == ()


@pytest.mark.parametrize(
    ("versions", "expected"), [("", 1), (">=14", 1), (">=18", 1), (">=14, <18", 0), ("17", 0), ("<=16.4", 0)]
)
def test_a_column_that_is_added_beside_a_detach_fails_from_version_18_on(
    tmp_path: Path, versions: str, expected: int
) -> None:
    requires = f'requires: {{server_version: "{versions}"}}\n' if versions else ""
    path = tmp_path / "plan.yaml"
    path.write_text(
        f"{_HEAD.replace('slots: 1', 'slots: 2')}{requires}steps:\n"
        "  - {id: a, sql: ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY, verify: SELECT true}\n"
        "  - {id: b, sql: ALTER TABLE p ADD COLUMN c int}\n"
    )
    assert [problem.code for problem in check_plan(path).problems].count("JP401") == expected


@pytest.mark.parametrize(
    ("sql", "severity"),
    [
        ("SET work_mem = '1GB'; DO $$ BEGIN DELETE FROM t; COMMIT; END $$", Severity.ERROR),
        ("SELECT 1; DO $$ BEGIN LOOP DELETE FROM t; COMMIT; EXIT WHEN NOT FOUND; END LOOP; END $$", Severity.ERROR),
        ("SELECT 1; DO $$ BEGIN IF random() > 2 THEN COMMIT; END IF; END $$", Severity.WARNING),
        ("SELECT 1; DO $$ BEGIN FOR r IN SELECT 1 LOOP COMMIT; END LOOP; END $$", Severity.WARNING),
        ("SELECT 1; DO $$ BEGIN IF random() > 2 THEN RETURN; END IF; COMMIT; END $$", Severity.WARNING),
        ("SELECT 1; DO $$ BEGIN PERFORM 1; EXCEPTION WHEN others THEN ROLLBACK; END $$", Severity.WARNING),
        ("SELECT 1; DO $$ BEGIN CASE WHEN true THEN COMMIT; ELSE NULL; END CASE; END $$", Severity.WARNING),
    ],
)
def test_a_commit_beside_others_is_an_error_only_if_it_is_always_reached(
    tmp_path: Path, sql: str, severity: Severity
) -> None:
    (problem,) = [problem for problem in found(tmp_path, sql) if problem.code == "JP321"]
    assert problem.severity is severity


@pytest.mark.parametrize(
    ("sql", "code", "severity"),
    [
        ("LOCK TABLE t", "JP313", Severity.ERROR),
        ("DECLARE c CURSOR FOR SELECT 1", "JP313", Severity.ERROR),
        ("UPDATE t SET a = 1 WHERE b; LOCK TABLE t", "JP313", Severity.WARNING),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "JP313", Severity.WARNING),
        ("LISTEN c", "JP311", Severity.ERROR),
        ("UNLISTEN c", "JP311", Severity.WARNING),
        ("COPY t FROM STDIN", "JP312", Severity.ERROR),
        ("COPY t TO STDOUT", "JP312", Severity.WARNING),
        ("DO $$ BEGIN VACUUM t; END $$", "JP323", Severity.ERROR),
        ("DO $$ BEGIN IF true THEN VACUUM t; END IF; END $$", "JP323", Severity.WARNING),
        ("DO $$ BEGIN EXECUTE 'VACUUM t'; EXCEPTION WHEN others THEN NULL; END $$", "JP323", Severity.WARNING),
        ("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'BEGIN COMMIT; END'", "JP323", Severity.WARNING),
        ("ALTER TYPE m ADD VALUE 'a'; SELECT 'a'::m, 1 FROM t", "JP322", Severity.ERROR),
        ("ALTER TYPE m ADD VALUE IF NOT EXISTS 'a'; SELECT 'a'::m, 1 FROM t", "JP322", Severity.WARNING),
        ("ALTER TYPE m ADD VALUE 'a'; INSERT INTO t VALUES ('a')", "JP322", Severity.WARNING),
    ],
)
def test_what_is_certain_is_an_error_and_what_may_be_is_a_warning(
    tmp_path: Path, sql: str, code: str, severity: Severity
) -> None:
    assert [problem.severity for problem in found(tmp_path, sql) if problem.code == code] == [severity]


@pytest.mark.parametrize(
    "sql",
    [
        "DO $$ BEGIN DELETE FORM t; END $$",
        "DO $$ BEGIN IF false THEN SELEC 1; END IF; END $$",
        "DO $$ BEGIN IF true THEN PERFORM 1; END $$",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELEC 1'",
        "CREATE FUNCTION f(a int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN a +; END $$",
        "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN DELETE FROM; END $$",
    ],
)
def test_a_syntax_error_in_a_body_is_an_error(tmp_path: Path, sql: str) -> None:
    errors = [problem for problem in found(tmp_path, sql) if problem.severity is Severity.ERROR]
    assert [problem.code for problem in errors] == ["JP306"]


@pytest.mark.parametrize(
    "sql",
    [
        "DO $$ DECLARE x mytype; r t%ROWTYPE; BEGIN SELECT 1 INTO x; END $$",
        "DO $$ BEGIN PERFORM 1 WHERE 1 NOT -- why\n IN (2); END $$",
        "DO LANGUAGE plpython3u $$ import x $$",
        "CREATE FUNCTION f(a s.t) RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.x := a; RETURN NEW; END $$",
        "CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT $1 + a'",
        "CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql RETURN a + 1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'lib', 'symbol'",
        "CREATE FUNCTION f() RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT 1; RETURN; END $$",
    ],
)
def test_a_body_that_a_server_reads_has_no_finding(tmp_path: Path, sql: str) -> None:
    assert [problem for problem in found(tmp_path, sql) if problem.code in {"JP306", "JP323"}] == []


def test_the_parameter_of_a_generic_plan_is_none_of_a_client(tmp_path: Path) -> None:
    assert "JP314" not in [problem.code for problem in found(tmp_path, "EXPLAIN (GENERIC_PLAN) SELECT $1::int")]
