"""Which statements read all rows under a strong lock, as the server itself reports it, and whether JP334 finds them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from runner.lint import check_plan

SETUP = """
    CREATE TABLE t (id int PRIMARY KEY, v int, w int, r int4range);
    INSERT INTO t SELECT i, i, i, int4range(i, i + 1) FROM generate_series(1, 10) AS i;
    CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other SELECT generate_series(1, 10);
    CREATE TABLE p (v int NOT NULL, s text) PARTITION BY RANGE (v);
    CREATE TABLE l (v int NOT NULL, s text NOT NULL) PARTITION BY LIST (s);
    CREATE TABLE q (v int NOT NULL, s text); INSERT INTO q VALUES (1, 'a');
    CREATE TABLE k (v int NOT NULL, s text NOT NULL); INSERT INTO k VALUES (1, 'a');
    CREATE DOMAIN d AS int; CREATE TABLE uses_d (v d); INSERT INTO uses_d VALUES (1);
"""
_BOUND = "FOR VALUES FROM (1) TO (10)"


@pytest.fixture(scope="module")
def server(new_database: Callable[[], str]) -> str:
    """A database of this module's own."""
    return new_database()


def reads(dsn: str, steps: list[str]) -> bool:
    """Run the steps, and return whether the last one reads or rewrites a table, or builds an index on it."""
    notices: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        connection.execute(SETUP.encode())
        for step in steps[:-1]:
            connection.execute(step.encode())
        scans = "SELECT coalesce(sum(seq_scan), 0) FROM pg_stat_xact_user_tables"
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        connection.execute("SET client_min_messages = debug1")
        connection.execute("BEGIN")
        before = connection.execute(scans).fetchone()
        connection.execute(steps[-1].encode())
        after = connection.execute(scans).fetchone()
        connection.execute("COMMIT")
    reported = ("verifying table", "rewriting table", "building index")
    return before != after or any(notice.startswith(reported) for notice in notices)


def found(folder: Path, steps: list[str]) -> bool:
    """Return whether JP334 finds something in the last of the steps."""
    lines = [
        "version: 1",
        "name: p",
        "budget: {slots: 1}",
        "defaults: {timeout: 1m, on_finish: wait, lock_timeout: 5s}",
    ]
    lines.append("steps:")
    for number, step in enumerate(steps):
        lines.append(f"  - {{id: s{number}, {f'needs: [s{number - 1}], ' if number else ''}sql: {json.dumps(step)}}}")
    path = folder / "plan.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    last = f"s{len(steps) - 1}"
    problems = check_plan(path).problems
    return any(one.code == "JP334" and last in {one.step, *(step for _, step in one.also)} for one in problems)


@pytest.mark.parametrize(
    ("steps", "slow"),
    [
        (["ALTER TABLE t ALTER v SET NOT NULL"], True),
        (["ALTER TABLE t ALTER id SET NOT NULL, ALTER v SET NOT NULL"], True),
        (
            [
                "ALTER TABLE t ADD CONSTRAINT c CHECK (v IS NOT NULL) NOT VALID",
                "ALTER TABLE t VALIDATE CONSTRAINT c",
                "ALTER TABLE t ALTER v SET NOT NULL",
            ],
            False,
        ),
        (
            [
                "ALTER TABLE t ADD CONSTRAINT c CHECK (w IS NOT NULL) NOT VALID",
                "ALTER TABLE t VALIDATE CONSTRAINT c",
                "ALTER TABLE t ALTER v SET NOT NULL",
            ],
            True,
        ),
        (
            [
                "ALTER TABLE t ADD CONSTRAINT c CHECK (v IS NOT NULL OR w IS NOT NULL) NOT VALID",
                "ALTER TABLE t VALIDATE CONSTRAINT c",
                "ALTER TABLE t ALTER v SET NOT NULL",
            ],
            True,
        ),
        (
            [
                "ALTER TABLE t ADD CONSTRAINT c CHECK (v IS NOT NULL AND w > 0) NOT VALID",
                "ALTER TABLE t VALIDATE CONSTRAINT c",
                "ALTER TABLE t ALTER v SET NOT NULL",
            ],
            False,
        ),
        (
            [
                "ALTER TABLE t ADD CONSTRAINT c CHECK (v IS NOT NULL) NOT VALID",
                "ALTER TABLE t ALTER v SET NOT NULL",
            ],
            True,
        ),
        (
            [
                "CREATE UNIQUE INDEX i ON t (v)",
                "ALTER TABLE t DROP CONSTRAINT t_pkey",
                "ALTER TABLE t ADD CONSTRAINT pk PRIMARY KEY USING INDEX i",
            ],
            True,
        ),
        (
            [
                "ALTER TABLE t ADD CONSTRAINT c CHECK (v IS NOT NULL) NOT VALID",
                "ALTER TABLE t VALIDATE CONSTRAINT c",
                "ALTER TABLE t ALTER v SET NOT NULL",
                "CREATE UNIQUE INDEX i ON t (v)",
                "ALTER TABLE t DROP CONSTRAINT t_pkey",
                "ALTER TABLE t ADD CONSTRAINT pk PRIMARY KEY USING INDEX i",
            ],
            False,
        ),
        (["ALTER TABLE t ADD EXCLUDE USING gist (r WITH &&)"], True),
        (["ALTER TABLE t ADD CONSTRAINT c EXCLUDE USING btree (v WITH =)"], True),
        (["ALTER TABLE t ADD CONSTRAINT u UNIQUE (v)"], True),
        (["CREATE UNIQUE INDEX i ON t (v)", "ALTER TABLE t ADD CONSTRAINT u UNIQUE USING INDEX i"], False),
        (["ALTER TABLE t ADD CONSTRAINT c CHECK (v > 0)"], True),
        (["ALTER TABLE t ADD CONSTRAINT c CHECK (v > 0) NOT VALID"], False),
        (["ALTER TABLE t ADD FOREIGN KEY (v) REFERENCES other"], True),
        (["ALTER TABLE t ADD FOREIGN KEY (v) REFERENCES other NOT VALID"], False),
        ([f"ALTER TABLE p ATTACH PARTITION q {_BOUND}"], True),
        (
            [
                "ALTER TABLE q ADD CONSTRAINT b CHECK (v >= 1 AND v < 10) NOT VALID",
                "ALTER TABLE q VALIDATE CONSTRAINT b",
                f"ALTER TABLE p ATTACH PARTITION q {_BOUND}",
            ],
            False,
        ),
        (["ALTER TABLE q ADD CHECK (v >= 1 AND v < 10)", f"ALTER TABLE p ATTACH PARTITION q {_BOUND}"], False),
        (["ALTER TABLE q ADD CHECK (v > 0 AND v < 5)", f"ALTER TABLE p ATTACH PARTITION q {_BOUND}"], True),
        (["ALTER TABLE q ADD CHECK (v BETWEEN 1 AND 9)", f"ALTER TABLE p ATTACH PARTITION q {_BOUND}"], False),
        (["ALTER TABLE q ADD CHECK (s IS NOT NULL)", f"ALTER TABLE p ATTACH PARTITION q {_BOUND}"], True),
        (["ALTER TABLE q ADD CHECK (v >= 0 AND v < 100)", f"ALTER TABLE p ATTACH PARTITION q {_BOUND}"], True),
        (["ALTER TABLE q ADD CHECK (v >= 1)", f"ALTER TABLE p ATTACH PARTITION q {_BOUND}"], True),
        (
            [
                "ALTER TABLE q ADD CONSTRAINT b CHECK (v >= 1 AND v < 10) NOT VALID",
                f"ALTER TABLE p ATTACH PARTITION q {_BOUND}",
            ],
            True,
        ),
        (
            ["ALTER TABLE k ADD CHECK (s IN ('a', 'b'))", "ALTER TABLE l ATTACH PARTITION k FOR VALUES IN ('a', 'b')"],
            False,
        ),
        (["ALTER TABLE k ADD CHECK (s = 'a')", "ALTER TABLE l ATTACH PARTITION k FOR VALUES IN ('a', 'b')"], False),
        (
            ["ALTER TABLE k ADD CHECK (s IN ('a', 'c'))", "ALTER TABLE l ATTACH PARTITION k FOR VALUES IN ('a', 'b')"],
            True,
        ),
        (["ALTER DOMAIN d ADD CONSTRAINT c CHECK (VALUE > 0)"], True),
        (["ALTER DOMAIN d SET NOT NULL"], True),
        (["ALTER DOMAIN d ADD CONSTRAINT c CHECK (VALUE > 0) NOT VALID"], False),
        (["ALTER DOMAIN d SET DEFAULT 3"], False),
    ],
)
def test_a_statement_that_reads_all_rows_is_found(server: str, tmp_path: Path, steps: list[str], slow: bool) -> None:
    assert reads(server, steps) is slow
    assert found(tmp_path, steps) is slow
