"""Applying the hint of any finding removes it and raises no other one, of any rule.

Each row is a plan with one fault, and the same plan after its hint was followed to the letter. Where a hint offers two
ways, both have a row. A rule without a row fails the test.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.codes import CODES
from runner.lint import RULES, check_plan

_HEAD = "version: 1\nname: example\n"
_BUDGET = "budget: {slots: 1}\n"
_DEFAULTS = "defaults: {timeout: 10m, on_finish: wait}\n"
_VERIFY = "verify: SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('i')"


def _plan(text: str) -> str:
    head = _HEAD
    if "budget:" not in text:
        head += _BUDGET
    if "defaults:" not in text:
        head += _DEFAULTS
    return head + (text if "steps:" in text else f"steps:\n{text}")


def _step(sql: str, *keys: str, name: str = "a", needs: str = "", comment: str = "") -> str:
    lines = [f"  - id: {name}{comment}"]
    if needs:
        lines.append(f"    needs: [{needs}]")
    lines += [f"    {key}" for key in keys]
    lines.append("    sql: |")
    lines += [f"      {line}" for line in sql.split("\n")]
    return "\n".join(lines) + "\n"


_LOCK = "lock_timeout: 5s"
_LONG = "lock_timeout: 1m"
_CHECK = "ALTER TABLE t ADD CONSTRAINT c CHECK (v IS NOT NULL) NOT VALID"
_VALIDATE = "ALTER TABLE t VALIDATE CONSTRAINT c"
_TRY = "DO $$ BEGIN\n  LOOP\n    BEGIN PERFORM f(); EXCEPTION WHEN {} THEN NULL; END;\n  END LOOP;\nEND $$"
_DAYS = "params: {days: {type: integer, default: 90}}\n"
_IN_STRING = "DELETE FROM t WHERE v > :days AND at < now() - interval ':days days'"
_ANALYZE = _step("ANALYZE t", name="b", needs="a")
_PROVEN = (
    _step(_CHECK, _LOCK, name="p1")
    + _step(_VALIDATE, name="p2", needs="p1")
    + _step("ALTER TABLE t ALTER v SET NOT NULL", _LOCK, name="p3", needs="p2")
)
_UNIQUE = "CREATE UNIQUE INDEX CONCURRENTLY i ON t (v)"
_INDEX = "CREATE INDEX CONCURRENTLY i ON t (v)"
_DETACH = "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY"
_OUT = "verify: SELECT count(*) = 0 FROM pg_inherits WHERE inhrelid = 'p1'::regclass"

_CARRY = "repeat: {until: no_rows, carry: {last_id: {type: integer, start: 0}}}"
_BATCH = "WITH batch AS (UPDATE t SET v = 1 WHERE id > :last_id RETURNING id) SELECT max(id) AS last_id FROM batch"
_MAX = "SELECT max(id) AS last_id FROM t WHERE id > :last_id"
_CHUNK = "for_each: {items: [a, b], as: t, chunk: 2}"
_BATCHES = "params: {n: {type: integer, default: 90}}\nsteps:\n"
_ADAPT = "repeat: {until: no_rows, max_iterations: 9, adapt: {param: n, target: 1s}}"

ROWS: list[tuple[str, str, str]] = [
    ("JP300", _step("DELETE FORM t"), _step("DELETE FROM t WHERE v = 1")),
    ("JP301", _step("\\set days 90\nDELETE FROM t WHERE v > 90"), _step("DELETE FROM t WHERE v > 90")),
    (
        "JP301",
        _step("SELECT format('VACUUM %I', relname) FROM pg_stat_user_tables \\gexec"),
        _step('VACUUM :"x"', "for_each: {sql: SELECT relname FROM pg_stat_user_tables, as: x, max_parallel: 1}"),
    ),
    ("JP302", _step("REPACK t"), _step("VACUUM t")),
    ("JP303", _step("VACUUM (ANALIZE) t"), _step("VACUUM (ANALYZE) t")),
    (
        "JP304",
        f'requires: {{server_version: ">=14"}}\nsteps:\n{_step("VACUUM (SKIP_DATABASE_STATS) t")}',
        f'requires: {{server_version: ">=16"}}\nsteps:\n{_step("VACUUM (SKIP_DATABASE_STATS) t")}',
    ),
    ("JP305", _step("DELETE FROM\u00a0t WHERE v = 1"), _step("DELETE FROM t WHERE v = 1")),
    (
        "JP306",
        _step("DO $$ BEGIN DELETE FORM t WHERE v = 1; END $$"),
        _step("DO $$ BEGIN DELETE FROM t WHERE v = 1; END $$"),
    ),
    ("JP310", _step("BEGIN;\nDELETE FROM t WHERE v = 1"), _step("DELETE FROM t WHERE v = 1")),
    ("JP311", _step("LISTEN c"), _step("NOTIFY c")),
    ("JP311", _step("UNLISTEN c;\nNOTIFY d"), _step("NOTIFY d")),
    ("JP312", _step("COPY t FROM STDIN"), _step("COPY t FROM '/srv/t.csv'")),
    ("JP312", _step("COPY t FROM STDIN"), _step("COPY t FROM PROGRAM 'cat /srv/t.csv'")),
    ("JP312", _step("COPY t TO STDOUT"), _step("COPY t TO '/srv/t.csv'")),
    ("JP313", _step("LOCK TABLE t", _LOCK), _step("LOCK TABLE t;\nUPDATE t SET v = 1 WHERE v = 2", _LOCK)),
    ("JP313", _step("DECLARE c CURSOR FOR SELECT 1"), _step("DECLARE c CURSOR FOR SELECT 1;\nFETCH c;\nNOTIFY d")),
    ("JP314", _step("DELETE FROM t WHERE s = $1"), _step("DELETE FROM t WHERE s = :'run.id'")),
    ("JP320", _step("VACUUM t;\nVACUUM u"), _step("VACUUM t") + _step("VACUUM u", name="b", needs="a")),
    (
        "JP321",
        _step("DELETE FROM u WHERE v = 1;\nDO $$ BEGIN INSERT INTO t VALUES (1); COMMIT; END $$"),
        _step("DELETE FROM u WHERE v = 1") + _step("DO $$ BEGIN NULL; COMMIT; END $$", name="b", needs="a"),
    ),
    (
        "JP322",
        _step("ALTER TYPE m ADD VALUE 'x';\nUPDATE t SET w = 'x' WHERE v = 1"),
        _step("ALTER TYPE m ADD VALUE 'x'") + _step("UPDATE t SET w = 'x' WHERE v = 1", name="b", needs="a"),
    ),
    ("JP323", _step("DO $$ BEGIN IF true THEN VACUUM t; END IF; END $$"), _step("VACUUM t", "if: SELECT true")),
    ("JP330", _step(_UNIQUE, _LOCK, _VERIFY), _step(_UNIQUE, _LONG, _VERIFY)),
    (
        "JP331",
        _step("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (v)"),
        _step("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (v)", _VERIFY),
    ),
    (
        "JP332",
        _step(f"{_CHECK};\n{_VALIDATE}", _LOCK),
        _step(_CHECK, _LOCK) + _step(_VALIDATE, name="b", needs="a"),
    ),
    (
        "JP333",
        _step("ALTER TABLE t ADD COLUMN w int"),
        _step("ALTER TABLE t ADD COLUMN w int", _LOCK, "retry: {max_attempts: 5, delay: 1s, on: [lock_not_available]}"),
    ),
    ("JP333", _step("ALTER TABLE t ADD COLUMN w int"), _step("ALTER TABLE t ADD COLUMN w int", _LOCK)),
    ("JP333", _step(_DETACH, _OUT), _step(_DETACH, _OUT, _LONG)),
    (
        "JP333",
        _step("TRUNCATE t;\nCALL load_t()", comment="  # jobplan: ignore=JP353"),
        _step("TRUNCATE t;\nCALL load_t()", _LOCK, comment="  # jobplan: ignore=JP353"),
    ),
    ("JP334", _step("ALTER TABLE t ALTER v SET NOT NULL", _LOCK), _PROVEN),
    (
        "JP334",
        _step("ALTER TABLE t ADD CONSTRAINT c CHECK (v > 0)", _LOCK),
        _step("ALTER TABLE t ADD CONSTRAINT c CHECK (v > 0) NOT VALID", _LOCK) + _step(_VALIDATE, name="b", needs="a"),
    ),
    (
        "JP334",
        _step("ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (v) REFERENCES u", _LOCK),
        _step("ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (v) REFERENCES u NOT VALID", _LOCK)
        + _step(_VALIDATE, name="b", needs="a"),
    ),
    (
        "JP334",
        _step("ALTER TABLE t ADD CONSTRAINT c UNIQUE (v)", _LOCK),
        _step(_UNIQUE, _VERIFY)
        + _step("ALTER TABLE t ADD CONSTRAINT c UNIQUE USING INDEX i", _LOCK, name="b", needs="a"),
    ),
    (
        "JP334",
        _step("ALTER TABLE t ADD CONSTRAINT c PRIMARY KEY (v)", _LOCK),
        _PROVEN
        + _step(_UNIQUE, _VERIFY, needs="p3")
        + _step("ALTER TABLE t ADD CONSTRAINT k PRIMARY KEY USING INDEX i", _LOCK, name="b", needs="a"),
    ),
    (
        "JP334",
        _step(_UNIQUE, _VERIFY)
        + _step("ALTER TABLE t ADD CONSTRAINT k PRIMARY KEY USING INDEX i", _LOCK, name="b", needs="a"),
        _PROVEN
        + _step(_UNIQUE, _VERIFY, needs="p3")
        + _step("ALTER TABLE t ADD CONSTRAINT k PRIMARY KEY USING INDEX i", _LOCK, name="b", needs="a"),
    ),
    (
        "JP334",
        _step("ALTER TABLE t ADD EXCLUDE USING gist (d WITH &&)", _LOCK),
        _step(
            "ALTER TABLE t ADD EXCLUDE USING gist (d WITH &&)", _LOCK, comment="  # jobplan: ignore=check-under-lock"
        ),
    ),
    (
        "JP334",
        _step("ALTER TABLE p ATTACH PARTITION q FOR VALUES FROM (1) TO (2)", _LOCK),
        _step("ALTER TABLE q ADD CONSTRAINT b CHECK (v >= 1 AND v < 2) NOT VALID", _LOCK)
        + _step("ALTER TABLE q VALIDATE CONSTRAINT b", name="b", needs="a")
        + _step("ALTER TABLE p ATTACH PARTITION q FOR VALUES FROM (1) TO (2)", _LOCK, name="c", needs="b"),
    ),
    (
        "JP334",
        _step("ALTER DOMAIN d ADD CONSTRAINT c CHECK (value > 0)"),
        _step("ALTER DOMAIN d ADD CONSTRAINT c CHECK (value > 0) NOT VALID")
        + _step("ALTER DOMAIN d VALIDATE CONSTRAINT c", name="b", needs="a"),
    ),
    (
        "JP335",
        _step("ALTER TABLE t ADD COLUMN w int;\nUPDATE t SET w = 1 WHERE w IS NULL", _LOCK),
        _step("ALTER TABLE t ADD COLUMN w int", _LOCK)
        + _step(
            "UPDATE t SET w = 1 WHERE id IN (SELECT id FROM t WHERE w IS NULL LIMIT 1000)",
            "repeat: {until: no_rows, max_iterations: 1000}",
            name="b",
            needs="a",
        ),
    ),
    (
        "JP336",
        _step("ALTER TABLE t ADD COLUMN w int NOT NULL", _LOCK),
        _step("ALTER TABLE t ADD COLUMN w int NOT NULL DEFAULT 0", _LOCK),
    ),
    (
        "JP336",
        _step("ALTER TABLE t ADD COLUMN v int NOT NULL", _LOCK),
        _step("ALTER TABLE t ADD COLUMN v int", _LOCK)
        + _step("UPDATE t SET v = 1 WHERE v IS NULL", name="b", needs="a")
        + _PROVEN.replace("id: p1\n", "id: p1\n    needs: [b]\n"),
    ),
    ("JP340", _step(_UNIQUE), _step(_UNIQUE, _VERIFY)),
    ("JP340", _step(_DETACH, _LONG), _step(_DETACH, _LONG, _OUT)),
    (
        "JP341",
        _step("CREATE INDEX i ON t (v)", _LOCK),
        _step("CREATE INDEX CONCURRENTLY i ON t (v)", _LONG, _VERIFY),
    ),
    (
        "JP341",
        f"defaults: {{timeout: 10m, on_finish: wait, {_LOCK}}}\nsteps:\n{_step('CREATE INDEX i ON t (v)')}",
        f"defaults: {{timeout: 10m, on_finish: wait, {_LOCK}}}\nsteps:\n{_step(_INDEX, _LONG, _VERIFY)}",
    ),
    (
        "JP342",
        _step("REINDEX INDEX i", _LOCK),
        _step("REINDEX INDEX CONCURRENTLY i", _LONG),
    ),
    (
        "JP343",
        _step("REFRESH MATERIALIZED VIEW m", _LOCK),
        _step("REFRESH MATERIALIZED VIEW CONCURRENTLY m", _LOCK),
    ),
    (
        "JP350",
        _step("ALTER TABLE t ALTER v TYPE bigint", _LOCK),
        _step("ALTER TABLE t ADD COLUMN v2 bigint", _LOCK)
        + _step(
            "UPDATE t SET v2 = v WHERE id IN (SELECT id FROM t WHERE v2 IS NULL LIMIT 1000)",
            "repeat: {until: no_rows, max_iterations: 1000}",
            name="b",
            needs="a",
        )
        + _step("ALTER TABLE t RENAME v TO v_old;\nALTER TABLE t RENAME v2 TO v", _LOCK, name="c", needs="b"),
    ),
    (
        "JP350",
        _step("ALTER TABLE t ADD COLUMN u uuid DEFAULT gen_random_uuid()", _LOCK),
        _step("ALTER TABLE t ADD COLUMN u uuid;\nALTER TABLE t ALTER u SET DEFAULT gen_random_uuid()", _LOCK)
        + _step(
            "UPDATE t SET u = gen_random_uuid() WHERE id IN (SELECT id FROM t WHERE u IS NULL LIMIT 1000)",
            "repeat: {until: no_rows, max_iterations: 1000}",
            name="b",
            needs="a",
        ),
    ),
    (
        "JP350",
        _step("ALTER TABLE t SET LOGGED", _LOCK),
        _step("ALTER TABLE t SET LOGGED", _LOCK, comment="  # jobplan: ignore=table-rewrite"),
    ),
    ("JP351", _step("VACUUM FULL t", _LOCK), _step("VACUUM t")),
    ("JP352", _step("DELETE FROM t"), _step("DELETE FROM t WHERE true")),
    (
        "JP352",
        _step("MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE"),
        _step("MERGE INTO t USING u ON true WHEN MATCHED AND true THEN DELETE"),
    ),
    (
        "JP353",
        _step("DROP TABLE t", _LOCK),
        _step("DROP TABLE t", _LOCK, comment="  # jobplan: ignore=JP353"),
    ),
    (
        "JP354",
        _step("ALTER SYSTEM SET work_mem = '64MB'"),
        _step("ALTER SYSTEM SET work_mem = '64MB'", comment="  # jobplan: ignore=server-wide"),
    ),
    (
        "JP355",
        _step("DO $$ BEGIN LOOP DELETE FROM t WHERE v = 1; EXIT WHEN NOT FOUND; END LOOP; END $$"),
        _step("DO $$ BEGIN LOOP DELETE FROM t WHERE v = 1; EXIT WHEN NOT FOUND; COMMIT; END LOOP; END $$"),
    ),
    (
        "JP355",
        _step("DO $$ BEGIN LOOP DELETE FROM t WHERE v = 1; EXIT WHEN NOT FOUND; END LOOP; END $$"),
        _step("DELETE FROM t WHERE v = 1", "repeat: {until: no_rows, max_iterations: 10}"),
    ),
    (
        "JP356",
        f"# jobplan: enable=JP356\nsteps:\n{_step('ALTER TABLE t RENAME COLUMN v TO w', _LOCK)}",
        f"# jobplan: enable=JP356\nsteps:\n{_step('ALTER TABLE t ADD COLUMN w int', _LOCK)}",
    ),
    (
        "JP356",
        f"# jobplan: enable=rename-breaks-clients\nsteps:\n{_step('ALTER TABLE t RENAME TO u', _LOCK)}",
        f"# jobplan: enable=rename-breaks-clients\nsteps:\n{_step('CREATE VIEW u AS SELECT * FROM t')}",
    ),
    (
        "JP360",
        _step(_UNIQUE, _VERIFY, "retry: {max_attempts: 3, delay: 1s}"),
        _step(_UNIQUE, _VERIFY, "retry: {max_attempts: 3, delay: 1s}", "leftovers: drop"),
    ),
    (
        "JP360",
        _step("CALL p()", "retry: {max_attempts: 3, delay: 1s}"),
        _step("CALL p()", "retry: {max_attempts: 3, delay: 1s}", "on_retry: TRUNCATE u"),
    ),
    (
        "JP360",
        _step("CALL p()", "retry: {max_attempts: 3, delay: 1s}"),
        _step("CALL p()", "retry: {max_attempts: 3, delay: 1s}", "idempotent: true"),
    ),
    (
        "JP361",
        _step("DELETE FROM t WHERE v = 1", "expect: {value: 1}"),
        _step("DELETE FROM t WHERE v = 1 RETURNING v", "expect: {value: 1}"),
    ),
    ("JP361", _step("ANALYZE t", "expect: {rows: 1}"), _step("ANALYZE t", "verify: SELECT true")),
    (
        "JP362",
        _step("DO $$ BEGIN DELETE FROM t WHERE v = 1; END $$", "repeat: {until: no_rows, max_iterations: 10}"),
        _step("DELETE FROM t WHERE v = 1", "repeat: {until: no_rows, max_iterations: 10}"),
    ),
    (
        "JP362",
        _step("DO $$ BEGIN DELETE FROM t WHERE v = 1; END $$", "repeat: {until: no_rows, max_iterations: 10}"),
        _step("DO $$ BEGIN DELETE FROM t WHERE v = 1; END $$", "repeat: {until: SELECT true, max_iterations: 10}"),
    ),
    (
        "JP390",
        _step("UPDATE t SET v = 1 WHERE id > :last_id", _CARRY),
        _step(_BATCH, _CARRY),
    ),
    ("JP390", _step("SELECT max(id) FROM t WHERE id > :last_id", _CARRY), _step(_MAX, _CARRY)),
    (
        "JP390",
        _step("SELECT 1 AS last_id, :last_id AS last_id", _CARRY),
        _step("SELECT :last_id + 1 AS last_id", _CARRY),
    ),
    ("JP391", _step("UPDATE t SET v = 1 WHERE id > :last_id RETURNING id AS last_id", _CARRY), _step(_BATCH, _CARRY)),
    (
        "JP391",
        _step("SELECT f(id), id AS last_id FROM t WHERE id > :last_id LIMIT 9", _CARRY),
        _step("SELECT f(id), id AS last_id FROM t WHERE id > :last_id ORDER BY id LIMIT 9", _CARRY),
    ),
    (
        "JP392",
        _step("CALL p(:last_id, NULL)", _CARRY),
        _step("CALL p(:last_id, NULL)", _CARRY, "idempotent: true"),
    ),
    ("JP392", _step("CALL p(:last_id, NULL)", _CARRY), _step("SELECT p(:last_id) AS last_id", _CARRY)),
    ("JP393", _step("SELECT max(id) AS last_id FROM t", _CARRY), _step(_MAX, _CARRY)),
    (
        "JP393",
        f"{_BATCHES}{_step('DELETE FROM t WHERE v = 1', _ADAPT)}{_step('SELECT :n', 'verify: SELECT true', name='b')}",
        f"{_BATCHES}{_step('DELETE FROM t WHERE id IN (SELECT id FROM t LIMIT :n)', _ADAPT)}",
    ),
    ("JP370", _step("VACUUM t", "timeout: none"), _step("VACUUM t", "timeout: 6h")),
    (
        "JP371",
        _step("SET statement_timeout = '5min';\nDELETE FROM t WHERE v = 1"),
        _step("DELETE FROM t WHERE v = 1", "timeout: 5m"),
    ),
    (
        "JP372",
        _step("CALL p()", "on_finish: detach", "timeout: 3d"),
        _step("CALL p()", "on_finish: detach", "timeout: 6h"),
    ),
    ("JP373", _step("SELECT count(*) FROM t"), _step("SELECT count(*) FROM t", "expect: {value: 0}")),
    ("JP373", _step("SELECT count(*) FROM t"), _step("SELECT count(*) FROM t", "capture: {rows: 1}")),
    (
        "JP374",
        f"budget: {{slots: 2}}\nsteps:\n{_step('VACUUM t')}",
        f"budget: {{slots: 1}}\nsteps:\n{_step('VACUUM t')}",
    ),
    (
        "JP401",
        "budget: {slots: 2}\nsteps:\n"
        + _step(_UNIQUE, _VERIFY)
        + _step("ANALYZE t", name="b")
        + _step("VACUUM u", name="c"),
        f"budget: {{slots: 2}}\nsteps:\n{_step(_UNIQUE, _VERIFY)}{_ANALYZE}{_step('VACUUM u', name='c')}",
    ),
    (
        "JP364",
        _step("CREATE TEMP TABLE w AS SELECT v FROM t", "verify: SELECT count(*) > 0 FROM w"),
        _step("CREATE TEMP TABLE w AS SELECT v FROM t; SELECT count(*) > 0 FROM w", "expect: {value: true}"),
    ),
    (
        "JP365",
        _step("UPDATE t SET v = 1 WHERE id = 1", "if: SELECT true; SELECT false"),
        _step("UPDATE t SET v = 1 WHERE id = 1", "if: SELECT true"),
    ),
    (
        "JP365",
        _step("UPDATE t SET v = 1 WHERE id = 1", "if: DELETE FROM u WHERE v = 1 RETURNING true"),
        _step("DELETE FROM u WHERE v = 1") + _step("UPDATE t SET v = 1 WHERE id = 1", "needs: [a]", name="b"),
    ),
    ("JP363", _step(_TRY.format("query_canceled")), _step(_TRY.format("OTHERS"))),
    (
        "JP402",
        "budget: {slots: 2}\nsteps:\n"
        + _step("ALTER TABLE t ADD COLUMN a int", _LOCK)
        + _step("ALTER TABLE t ADD COLUMN b int", _LOCK, name="b")
        + _step("VACUUM u", name="c"),
        "budget: {slots: 2}\nsteps:\n"
        + _step("ALTER TABLE t ADD COLUMN a int", _LOCK, "exclusive: [t]")
        + _step("ALTER TABLE t ADD COLUMN b int", _LOCK, "exclusive: [t]", name="b")
        + _step("VACUUM u", name="c"),
    ),
    (
        "JP402",
        "budget: {slots: 2}\nsteps:\n"
        + _step('ALTER TABLE t ADD COLUMN :"x" int', _LOCK, "for_each: {items: [a, b], as: x}")
        + _step("VACUUM u", name="c"),
        "budget: {slots: 2}\nsteps:\n"
        + _step('ALTER TABLE t ADD COLUMN :"x" int', _LOCK, "for_each: {items: [a, b], as: x, max_parallel: 1}")
        + _step("VACUUM u", name="c"),
    ),
    (
        "JP403",
        "budget: {slots: 2}\nsteps:\n"
        + _step("LOCK TABLE t;\nLOCK TABLE u;\nUPDATE t SET v = 1 WHERE v = 2", _LOCK)
        + _step("LOCK TABLE u;\nLOCK TABLE t;\nUPDATE t SET v = 1 WHERE v = 2", _LOCK, name="b")
        + _step("VACUUM w", name="c"),
        "budget: {slots: 2}\nsteps:\n"
        + _step("LOCK TABLE t;\nLOCK TABLE u;\nUPDATE t SET v = 1 WHERE v = 2", _LOCK)
        + _step("LOCK TABLE u;\nLOCK TABLE t;\nUPDATE t SET v = 1 WHERE v = 2", _LOCK, name="b", needs="a")
        + _step("VACUUM w", name="c"),
    ),
    (
        "JP380",
        _step('VACUUM :"t"', "for_each: {items: [public.orders], as: t}"),
        _step('VACUUM :"t"', "for_each: {items: [public.orders], as: t, type: relation}"),
    ),
    (
        "JP381",
        f"{_DAYS}steps:\n{_step(_IN_STRING)}",
        f"{_DAYS}steps:\n{_step('DELETE FROM t WHERE v > :days AND at < now() - make_interval(days => :days)')}",
    ),
    (
        "JP382",
        _step("VACUUM orders", "for_each: {items: [orders, audit], as: t}"),
        _step('VACUUM :"t"', "for_each: {items: [orders, audit], as: t}"),
    ),
    (
        "JP397",
        _step("DELETE FROM t WHERE v = 1", "on_retry: TRUNCATE u"),
        _step("DELETE FROM t WHERE v = 1", "on_retry: TRUNCATE u", "retry: {max_attempts: 2}"),
    ),
    (
        "JP398",
        _step('REINDEX TABLE CONCURRENTLY :"t"', _CHUNK),
        _step('REINDEX TABLE CONCURRENTLY :"t"', "for_each: {items: [a, b], as: t}"),
    ),
    (
        "JP398",
        _step("SELECT count(*) FROM t WHERE v = :'t'", _CHUNK, "capture: {rows: 1}"),
        _step("SELECT count(*) FROM t WHERE v IN (:'t')", _CHUNK, "capture: {rows: 1}"),
    ),
    (
        "JP399",
        _step("DELETE FROM u WHERE v IN (:'t')", _CHUNK),
        _step("DELETE FROM u WHERE v IN (:'t')", _CHUNK, "retry: {max_attempts: 2}"),
    ),
    ("JP901", _step("VACUUM t", comment="  # jobplan: ignore=JP300"), _step("VACUUM t")),
    (
        "JP902",
        _step("VACUUM FULL t", _LOCK, comment="  # jobplan: ignore=vacuum-ful,vacuum-full"),
        _step("VACUUM FULL t", _LOCK, comment="  # jobplan: ignore=vacuum-full"),
    ),
    (
        "JP204",
        f"defaults: {{on_finish: wait}}\nsteps:\n{_step('VACUUM t')}",
        f"defaults: {{on_finish: wait, timeout: 10m}}\nsteps:\n{_step('VACUUM t')}",
    ),
    (
        "JP205",
        f"defaults: {{timeout: 10m}}\nsteps:\n{_step('VACUUM t')}",
        f"defaults: {{timeout: 10m, on_finish: wait}}\nsteps:\n{_step('VACUUM t')}",
    ),
    (
        "JP210",
        f"run_timeout: 5m\nsteps:\n{_step('VACUUM t')}",
        f"run_timeout: 15m\nsteps:\n{_step('VACUUM t')}",
    ),
    (
        "JP387",
        _step("VACUUM t", "yield_after: 5s"),
        _step("VACUUM t", "yield_after: 5s", "retry: {max_attempts: 5, delay: 1m, on: [yielded]}"),
    ),
    (
        "JP388",
        _step("VACUUM t", "on_finish: detach", "yield_after: 5s", "retry: {max_attempts: 5, on: [yielded]}"),
        _step("VACUUM t", "on_finish: wait", "yield_after: 5s", "retry: {max_attempts: 5, on: [yielded]}"),
    ),
    (
        "JP389",
        "holds: [{name: load, active_sessions: 5}]\nsteps:\n" + _step("VACUUM t", "holds: []"),
        "holds: [{name: load, active_sessions: 5}]\nsteps:\n" + _step("VACUUM t", "holds: [load]"),
    ),
    ("JP220", _step("DELETE FROM t WHERE v = :rnu"), _step("DELETE FROM t WHERE s = :'run.id'")),
]


_IDS = [f"{row[0]}-{number}" for number, row in enumerate(ROWS)]


def codes(folder: Path, text: str) -> list[str]:
    path = folder / "plan.yaml"
    path.write_text(_plan(text), encoding="utf-8")
    return [problem.code for problem in check_plan(path).problems]


@pytest.mark.parametrize(("code", "bad", "good"), ROWS, ids=_IDS)
def test_a_hint_that_is_followed_leaves_no_finding(tmp_path: Path, code: str, bad: str, good: str) -> None:
    assert codes(tmp_path, bad) == [code]
    assert codes(tmp_path, good) == []


@pytest.mark.parametrize(("code", "bad", "good"), ROWS, ids=_IDS)
def test_every_finding_of_a_rule_says_what_to_do(tmp_path: Path, code: str, bad: str, good: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(_plan(bad), encoding="utf-8")
    (problem,) = check_plan(path).problems
    # Of a word that the grammar or the plan does not know, the message may be all that is known.
    assert problem.hint or code in {"JP220", "JP300", "JP306", "JP902"}, good


def test_every_rule_has_a_row() -> None:
    assert {rule.code for rule in RULES} - {row[0] for row in ROWS} == set()
    assert {row[0] for row in ROWS} <= {rule.code for rule in RULES} | set(CODES)
