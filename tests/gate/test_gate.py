"""A sample of the corpus, each plan run for real and dry: no false error, and no failure that was called checked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gate.cases import Case
from tests.gate.corpus import every_case, sample
from tests.gate.trial import Outcome, Range, Result, compare

#: Pairs that are always run; the others are a sample.
NAMED = (
    "types: ALTER TYPE mood ADD VALUE 'shy' -> UPDATE t SET m = 'shy' WHERE id = 1",
    "keys: ALTER TABLE t ADD CONSTRAINT t_bu UNIQUE (b) -> INSERT INTO t (id, b) VALUES (1, 1) ON CONFLICT (b) DO NOTHING",  # noqa: E501 -- a name
    "columns: ALTER TABLE t ALTER COLUMN j TYPE jsonb USING j::jsonb -> UPDATE t SET j = NULL WHERE j ? 'k'",
    "partitions: ALTER TABLE p DETACH PARTITION p_default -> ALTER TABLE p DETACH PARTITION p_1 CONCURRENTLY",
    "upkeep: REFRESH MATERIALIZED VIEW mv -> REFRESH MATERIALIZED VIEW CONCURRENTLY mv",
    "rights: GRANT SELECT ON t TO gate_nobody -> SELECT count(*) FROM t as gate_nobody",
    "columns: ALTER TABLE t RENAME COLUMN b TO x -> UPDATE t SET b = 1",
    "columns: ALTER TABLE t DROP COLUMN b -> DELETE FROM t WHERE b = 1",
    "keys: DROP INDEX t_c -> INSERT INTO t (id, c) VALUES (1, 'c1') ON CONFLICT (c) DO NOTHING",
    "one transaction: ALTER TYPE mood ADD VALUE 'shy' + UPDATE t SET m = 'shy' WHERE id = 1",
    "alone: - -> REINDEX SYSTEM CONCURRENTLY gate_here",
    "alone: - -> REINDEX DATABASE CONCURRENTLY otherdb",
    "alone: - -> CLUSTER t",
    "alone: - -> CREATE TABLE w (x, y) AS SELECT id FROM t",
    "alone: - -> CREATE VIEW w AS SELECT id, id FROM t",
    "alone: - -> ALTER TABLE t SET ACCESS METHOD nowhere",
    "alone: - -> CREATE TABLE w (id int PRIMARY KEY, PRIMARY KEY (id))",
    "children: - -> DROP TABLE par",
    "children: - -> DROP TABLE model",
    "children: DROP TABLE rowed -> DROP TABLE model",
    "children: DROP FUNCTION of_shape(shape) -> DROP TABLE shape",
    "children: ALTER TABLE par ADD COLUMN z int -> ALTER TABLE kid ADD COLUMN z int",
    "children: ALTER TABLE kid NO INHERIT par -> DROP TABLE par",
    "arbiters: ALTER TABLE ua DROP CONSTRAINT ua_pkey, ADD PRIMARY KEY (id) -> INSERT INTO ua (id) VALUES (1) ON CONFLICT ON CONSTRAINT ua_pkey DO NOTHING",  # noqa: E501 -- a name
    "arbiters: ALTER TABLE ua RENAME CONSTRAINT ua_pkey TO ua_main -> REINDEX INDEX CONCURRENTLY ua_main",
    "arbiters: ALTER TABLE ub ADD CONSTRAINT ub_fk FOREIGN KEY (ua_id) REFERENCES ua (id) -> TRUNCATE ua",
    "roles: CREATE ROLE gate_new -> SELECT 1 as gate_new",
    "types: DROP TYPE pair -> CREATE TYPE pair AS (a int)",
    "expressions: ALTER TABLE uc DROP COLUMN w, ADD COLUMN w int -> SELECT w + 1 FROM uc",
    "arbiters: CREATE TABLE ref9 (id int REFERENCES ua) -> TRUNCATE ua",
    "in one step: DECLARE cu CURSOR FOR SELECT id FROM t + TRUNCATE t",
    "maintenance: - -> REINDEX INDEX CONCURRENTLY pg_toast.pg_toast_1255_index",
    "maintenance: - -> REINDEX SCHEMA CONCURRENTLY pg_catalog",
    "maintenance: - -> VACUUM (FULL maybe) t",
    "maintenance: - -> VACUUM ONLY p",
    "maintenance: - -> ANALYZE t (b, b)",
    "maintenance: - -> DROP INDEX CONCURRENTLY t_b, t_c",
    "maintenance: - -> TRUNCATE ONLY p",
    "maintenance: - -> TRUNCATE pg_class",
    "maintenance: - -> TRUNCATE ft0",
    "parts: - -> ALTER SEQUENCE sq SET UNLOGGED",
    "settings: SET search_path = '' + SELECT id FROM t",
    "settings: SET search_path = '' + CREATE TABLE w (id int)",
    "alone: - -> VACUUM as gate_nobody",
    "maintenance: - -> REINDEX TABLE CONCURRENTLY ex",
    "maintenance: - -> CREATE TABLE w (a int, b int) PARTITION BY LIST ((ROW(a, b)::w))",
    "parameters: - -> ALTER TABLE t SET (fillfactor = 70.5)",
    "parameters: - -> CREATE TABLE w (id int) WITH (oids = false)",
    "parameters: - -> CREATE TABLE w (id int, UNIQUE (id) USING INDEX TABLESPACE nowhere)",
    "parts: - -> ALTER TABLE t ADD UNIQUE (b), CLUSTER ON t_b_key",
    "parts: - -> ALTER TABLE t ADD COLUMN x int, ADD COLUMN x int",
    "parts: - -> ALTER TABLE p_1 ADD COLUMN z int",
    "parts: - -> CREATE TABLE w (id int, UNIQUE (nope))",
    "parts: - -> ALTER TABLE t NO INHERIT par",
    "parts: - -> ALTER TABLE base ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (START 1000 INCREMENT BY 2 CYCLE)",
    "parts: - -> ALTER TABLE t SET SCHEMA pg_catalog",
    "parts: - -> CREATE MATERIALIZED VIEW w AS SELECT 1 / 0 AS a WITH NO DATA",
    "parts: - -> SELECT * INTO t FROM base",
    "parts: - -> ALTER TABLE t SET ACCESS METHOD btree",
    "parts: - -> ALTER TABLE p DETACH PARTITION p_1 FINALIZE",
    "parts: - -> CREATE SCHEMA s8 CREATE TABLE s9.a8 (id int)",
    "moves: CREATE TYPE fresh AS (id int) -> CREATE TABLE fresh (z int)",
    "moves: CREATE TYPE fresh AS (id int) -> COMMENT ON COLUMN fresh.id IS 'x'",
    "routines: ALTER FUNCTION s4.h(int) SET SCHEMA public -> SELECT h(1)",
    "rows as values: ALTER TABLE rowy ADD COLUMN z text -> SELECT (rowy_all()).z",
    "rows as values: ALTER TYPE addr DROP ATTRIBUTE zip -> SELECT (a).zip FROM homes",
    "cascades: ALTER TABLE casc DROP COLUMN name CASCADE -> DROP VIEW casc_v",
    "cascades: DROP TABLE casc CASCADE -> DROP INDEX casc_i",
    "cascades: DROP TABLE par CASCADE -> VACUUM kid",
    "cascades: DROP TABLE p -> VACUUM p_1",
    "cascades: DROP FUNCTION casc_f(int) CASCADE -> DROP INDEX casc_i",
    "cascades: ALTER TABLE gen SET SCHEMA s1 -> SELECT nextval('s1.gen_id_seq')",
    "cascades: ALTER TABLE gen SET SCHEMA s1 -> SELECT nextval('gen_id_seq')",
    "parts: - -> ALTER TABLE t ADD COLUMN z text GENERATED ALWAYS AS IDENTITY",
    "parts: - -> UPDATE t SET b = 1 WHERE CURRENT OF nowhere",
    "parts: - -> ALTER TABLE t ALTER b SET (n_distinct = -5)",
    "parts: - -> CREATE TABLE w (id int) TABLESPACE pg_global",
    "parameters: - -> RESET nonsense; SELECT 1",
    "maintenance: - -> EXPLAIN (ANALYZE, GENERIC_PLAN) SELECT 1",
    "parameters: - -> ALTER TABLE t SET (nowhere.fillfactor = 10)",
    "parameters: - -> CREATE TABLE w (id int PRIMARY KEY WITH (nonsense = 60))",
    "parameters: - -> SELECT current_setting('nonsense')",
    "maintenance: - -> EXPLAIN (TIMING) SELECT 1",
    "maintenance: - -> EXPLAIN (SERIALIZE) SELECT 1",
    "maintenance: - -> EXPLAIN (FORMAT nonsense) SELECT 1",
    "parts: - -> CREATE MATERIALIZED VIEW w WITH (nonsense = off) AS SELECT 1 AS a",
    "publications: ALTER TABLE base DROP CONSTRAINT base_pkey -> DELETE FROM base WHERE false",
    "users of a step: RESET ROLE + SELECT count(*) FROM own as gate_reader",
    "users of a step: SET SESSION AUTHORIZATION gate_owner + SELECT count(*) FROM own as gate_reader",
    "routines: DROP FUNCTION stamp() CASCADE -> ALTER TABLE trg DISABLE TRIGGER trg_stamp",
)
CASES = {case.name: case for case in every_case()}
CHOSEN = tuple(dict.fromkeys((*(CASES[name] for name in NAMED), *sample(every_case(), 150))))


@pytest.fixture(scope="module")
def field(server_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Range]:
    """A server with the corpus' roles and its template database."""
    made = Range(server_dsn, tmp_path_factory.mktemp("gate"))
    yield made
    made.close()


def tried(field: Range, case: Case) -> Result:
    """Run the case and dry-run it."""
    plan = field.plan(case)
    dry = field.dry_run(plan)
    return compare(case, field.run(case, plan), dry)


def test_there_are_enough_pairs() -> None:
    assert len(CHOSEN) >= 150
    assert len({case.group for case in CHOSEN}) == len({case.group for case in every_case()})


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name.replace(" ", "-"))
def test_a_dry_run_says_what_the_run_does(field: Range, case: Case) -> None:
    result = tried(field, case)
    assert result.outcome not in {Outcome.FALSE_ALARM, Outcome.MISSED}, (result.real, result.said)


@pytest.mark.parametrize("name", [name for name in NAMED if name.split(":")[0] in {"alone", "one transaction"}])
def test_what_always_fails_is_an_error(field: Range, name: str) -> None:
    assert tried(field, CASES[name]).outcome is Outcome.FOUND
