"""What older servers do not have: options, clauses, and commands on partitioned tables. The version is made up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from runner.cli.dry_run import look
from runner.errors import Problem
from runner.gateway.catalog import RelationFacts
from runner.gateway.inspection import Inspector
from runner.gateway.server_facts import ServerFacts
from runner.plan.loading import load_plan
from runner.preflight.doctor import Demand, examine
from runner.preflight.dry_run import DryRunOptions
from runner.sql.relations import Relation
from runner.structs import replace

HEAD = "version: 1\nname: t\nbudget: {slots: 1}\ndefaults: {timeout: 1m, lock_timeout: 5s, on_finish: wait}\nsteps:\n"
SEED = """
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE plain (id int);
CREATE TABLE parts (id int, at date NOT NULL) PARTITION BY RANGE (at);
CREATE INDEX parts_at ON parts (at);
"""


@pytest.fixture(scope="module")
def seeded(new_database: Callable[[], str]) -> str:
    """A database with a partitioned table."""
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SEED)
    return dsn


def found(folder: Path, dsn: str, sql: str, version: int, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the codes of what a dry run finds of one statement on a server that says to be of this version."""
    monkeypatch.setattr(Inspector, "version", property(lambda _: version * 10_000 + 3))
    path = folder / "plan.yaml"
    path.write_text(f"{HEAD}  - {{id: a, sql: {json.dumps(sql)}}}\n", encoding="utf-8")
    loaded = load_plan(path).plan
    assert loaded is not None
    problems: tuple[Problem, ...] = asyncio.run(look(loaded, dsn, DryRunOptions())).problems
    return {problem.code for problem in problems if problem.step == "a"}


@pytest.mark.parametrize(
    ("sql", "since"),
    [
        ("VACUUM (SKIP_DATABASE_STATS) plain", 16),
        ("ANALYZE (BUFFER_USAGE_LIMIT '1MB') plain", 16),
        ("EXPLAIN (GENERIC_PLAN) SELECT 1", 16),
        ("EXPLAIN (MEMORY) SELECT 1", 17),
        ("CREATE VIEW w WITH (security_invoker = on) AS SELECT 1 AS one", 15),
        ("GRANT MAINTAIN ON plain TO CURRENT_USER", 17),
    ],
)
def test_an_option_is_an_error_on_a_server_that_lacks_it(
    tmp_path: Path, seeded: str, sql: str, since: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "JP624" in found(tmp_path, seeded, sql, since - 1, monkeypatch)
    assert "JP624" not in found(tmp_path, seeded, sql, since, monkeypatch)


@pytest.mark.parametrize(
    ("sql", "since"),
    [
        ("CLUSTER parts USING parts_at", 15),
        ("ALTER TABLE parts ADD FOREIGN KEY (id) REFERENCES parent NOT VALID", 18),
        ("ALTER TABLE parts SET ACCESS METHOD heap", 17),
    ],
)
def test_what_partitioned_tables_learned_later_is_an_error_before(
    tmp_path: Path, seeded: str, sql: str, since: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "JP611" in found(tmp_path, seeded, sql, since - 1, monkeypatch)
    assert "JP611" not in found(tmp_path, seeded, sql, since, monkeypatch)
    other = sql.replace("parts_at", "nope").replace("parts", "plain")
    assert "JP611" not in found(tmp_path, seeded, other, since - 1, monkeypatch)


def test_facts_of_a_relation_say_what_a_dry_run_needs(seeded: str) -> None:
    async def read() -> RelationFacts:
        inspector = await Inspector.connect(seeded, "jobplan test")
        try:
            name = Relation("public", "parent")
            return (await inspector.relations([name], ["public"], "postgres"))[name]
        finally:
            await inspector.close()

    facts = asyncio.run(read())
    assert list(facts.types) == ["id"]
    assert facts.indexes[0].columns == {"id"}
    assert facts.indexes[0].unique
    assert not facts.row_security
    assert facts.clustered is None


@pytest.mark.parametrize(("major", "mend"), [(18, "apt-get install postgresql-18-pg-background"), (16, "from source")])
def test_doctor_suggests_a_package_only_where_there_is_one(seeded: str, major: int, mend: str) -> None:
    async def facts() -> ServerFacts:
        inspector = await Inspector.connect(seeded, "jobplan test")
        try:
            return await inspector.facts()
        finally:
            await inspector.close()

    missing = replace(
        asyncio.run(facts()), version_number=major * 10_000, extension_version=None, available_version=None
    )
    extension = next(one for one in examine(missing, Demand()) if one.check.name == "extension")
    assert mend in extension.outcome.mend
    assert ("apt-get" in extension.outcome.mend) is (major == 18)
