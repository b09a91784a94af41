"""SQL that cannot be read: what is an error, and what is only not checked; options that versions do not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import Problem, Severity
from runner.lint import load_plan
from runner.plan.versions import allowed_versions

_HEAD = "version: 1\nname: example\nbudget: {slots: 1}\ndefaults: {timeout: 10m, on_finish: wait, lock_timeout: 5s}\n"


def found(folder: Path, sql: str, head: str = "") -> list[Problem]:
    (folder / "a.sql").write_text(sql, encoding="utf-8")
    path = folder / "plan.yaml"
    path.write_text(f"{_HEAD}{head}steps:\n  - id: a\n    sql_file: a.sql\n", encoding="utf-8")
    return list(load_plan(path).problems)


def test_a_text_of_more_than_100_000_tokens_is_a_warning(tmp_path: Path) -> None:
    (problem,) = found(tmp_path, "INSERT INTO t VALUES " + ",".join(["(1)"] * 40_000))
    assert (problem.code, problem.severity) == ("JP302", Severity.WARNING)
    assert problem.message.startswith("not checked: the SQL text has ")


def test_syntax_that_no_released_version_has_is_an_error(tmp_path: Path) -> None:
    (problem,) = found(tmp_path, "REPACK t")
    assert (problem.code, problem.severity) == ("JP300", Severity.ERROR)


@pytest.mark.parametrize("versions", [">=19", ">18", "==19", ">=19, <21"])
def test_newer_syntax_is_not_checked_if_only_newer_servers_run_the_plan(tmp_path: Path, versions: str) -> None:
    (problem,) = found(tmp_path, "REPACK t", f'requires: {{server_version: "{versions}"}}\n')
    assert (problem.code, problem.severity) == ("JP302", Severity.WARNING)


@pytest.mark.parametrize("versions", [">=18", ">=14", "<19", "!=18"])
def test_newer_syntax_is_an_error_if_a_known_version_may_run_the_plan(tmp_path: Path, versions: str) -> None:
    (problem,) = found(tmp_path, "REPACK t", f'requires: {{server_version: "{versions}"}}\n')
    assert (problem.code, problem.severity) == ("JP300", Severity.ERROR)


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
        ("COPY t FROM '/tmp/t' (ON_ERROR ignore)", ">=16", Severity.WARNING),
        ("CREATE VIEW v WITH (security_invoker) AS SELECT 1", "14", Severity.ERROR),
    ],
)
def test_an_option_that_an_admitted_version_lacks(tmp_path: Path, sql: str, versions: str, severity: Severity) -> None:
    problems = found(tmp_path, sql, f'requires: {{server_version: "{versions}"}}\n')
    (problem,) = [problem for problem in problems if problem.code == "JP304"]
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
