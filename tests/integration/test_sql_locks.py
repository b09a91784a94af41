"""What jobplan says of locks, held against a server: the conflict table, and what each command really locks."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from runner.sql.alter_table import AlterKind, Rewrite, alter_actions
from runner.sql.lock_modes import LockMode, LockTarget, RelationLock, conflict, strongest
from runner.sql.statements import parse_statements
from runner.sql.table_locks import locks_taken, sweeping_lock

_MODES = {mode.pg_name: mode for mode in LockMode}

_SETUP = """
    CREATE SCHEMA l;
    SET search_path = l;
    CREATE TABLE t (a int PRIMARY KEY, b int, c text, d text);
    CREATE TABLE ref (a int REFERENCES t, x int);
    CREATE TABLE other (a int PRIMARY KEY, b int);
    CREATE TABLE fk (a int);
    CREATE INDEX t_b ON t (b);
    CREATE UNIQUE INDEX t_u ON t (b);
    CREATE STATISTICS st ON a, b FROM t;
    CREATE TABLE p (a int NOT NULL, b int) PARTITION BY RANGE (a);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
    CREATE TABLE pn (a int NOT NULL, b int);
    CREATE INDEX p_b ON p (b);
    CREATE MATERIALIZED VIEW m AS SELECT a FROM t;
    CREATE UNIQUE INDEX m_a ON m (a);
    CREATE VIEW v AS SELECT a, b FROM t;
    CREATE SEQUENCE sq;
    CREATE TABLE parent (a int);
    CREATE TABLE child (a int);
    CREATE TABLE heir () INHERITS (parent);
    ALTER TABLE t ADD CONSTRAINT positive CHECK (b > 0) NOT VALID;
    ALTER TABLE fk ADD CONSTRAINT fk_other FOREIGN KEY (a) REFERENCES other NOT VALID;
    CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION trg();
    CREATE RULE ru AS ON INSERT TO other WHERE false DO NOTHING;
    CREATE POLICY po ON t;
    CREATE TYPE comp AS (a int);
    CREATE TABLE typed OF comp;
    CREATE PUBLICATION pub FOR TABLE fk;
"""

#: Commands that a transaction can run, and the tables that they lock although only the server can know it.
_COMMANDS: list[tuple[str, set[str]]] = [
    ("SELECT * FROM t", set()),
    ("SELECT * FROM v", {"t"}),
    ("SELECT * FROM t FOR UPDATE", set()),
    ("SELECT * FROM t, other FOR KEY SHARE OF other", set()),
    ("SELECT * FROM t, (SELECT * FROM other) o FOR UPDATE", set()),
    ("SELECT * FROM t, (SELECT * FROM other) o FOR UPDATE OF o", set()),
    ("SELECT * FROM (t JOIN other USING (a)) j FOR UPDATE", set()),
    ("SELECT * FROM t WHERE a IN (SELECT a FROM other) FOR UPDATE", set()),
    ("SELECT * FROM t JOIN LATERAL (SELECT * FROM other FOR SHARE) o ON true", set()),
    ("WITH x AS (SELECT * FROM t) SELECT * FROM x FOR UPDATE", set()),
    ("WITH x AS (DELETE FROM ref RETURNING a) SELECT * FROM x", set()),
    ("WITH other AS (SELECT * FROM other) SELECT * FROM other", set()),
    ("WITH RECURSIVE other AS (SELECT 1 AS a) SELECT * FROM other", set()),
    ("SELECT a FROM t UNION SELECT a FROM other", set()),
    ("SELECT * FROM t TABLESAMPLE system (10)", set()),
    ("INSERT INTO ref (a) SELECT a FROM other", set()),
    ("INSERT INTO other SELECT * FROM other", set()),
    ("INSERT INTO v SELECT 1, 2 WHERE false", {"t"}),
    ("UPDATE t SET b = o.b FROM other o WHERE o.a = t.a", set()),
    ("DELETE FROM t USING other o WHERE o.a = t.a", set()),
    ("MERGE INTO t USING other o ON o.a = t.a WHEN MATCHED THEN DO NOTHING", set()),
    ("SELECT a INTO n FROM t", set()),
    ("CREATE TABLE n AS SELECT a FROM t", set()),
    ("CREATE MATERIALIZED VIEW n AS SELECT a FROM t", set()),
    ("CREATE VIEW n AS SELECT a FROM t", set()),
    ("CREATE VIEW n AS SELECT * FROM t FOR UPDATE", set()),
    ("CREATE OR REPLACE VIEW v AS SELECT a, b FROM t", set()),
    ("CREATE RECURSIVE VIEW n (a) AS SELECT a FROM t UNION SELECT a FROM n", set()),
    ("CREATE TABLE n (a int, b int)", set()),
    ("CREATE TABLE n (LIKE t INCLUDING ALL)", set()),
    ("CREATE TABLE n (a int REFERENCES other)", set()),
    ("CREATE TABLE n (a int, FOREIGN KEY (a) REFERENCES other)", set()),
    ("CREATE TABLE n () INHERITS (parent)", set()),
    ("CREATE TABLE n PARTITION OF p FOR VALUES FROM (10) TO (20)", set()),
    ("CREATE SCHEMA n CREATE TABLE o (a int REFERENCES l.other)", set()),
    ("CREATE INDEX ON t (c)", set()),
    ("CREATE INDEX ON p (a)", {"p1"}),
    ("CREATE INDEX ON ONLY p (a)", set()),
    ("CREATE STATISTICS n ON b, c FROM t", set()),
    ("DROP STATISTICS st", {"t"}),
    ("CREATE TRIGGER n BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION trg()", set()),
    ("CREATE CONSTRAINT TRIGGER n AFTER INSERT ON t FROM other FOR EACH ROW EXECUTE FUNCTION trg()", set()),
    ("DROP TRIGGER tr ON t", set()),
    ("ALTER TRIGGER tr ON t RENAME TO n", set()),
    ("CREATE RULE n AS ON INSERT TO t DO ALSO DELETE FROM other", set()),
    ("DROP RULE ru ON other", set()),
    ("CREATE POLICY n ON t USING (a IN (SELECT a FROM other))", set()),
    ("ALTER POLICY po ON t TO public", set()),
    ("DROP POLICY po ON t", set()),
    ("ANALYZE t", set()),
    ("ANALYZE p", {"p1"}),
    ("CLUSTER t USING t_b", set()),
    ("REFRESH MATERIALIZED VIEW m", {"t"}),
    ("REFRESH MATERIALIZED VIEW CONCURRENTLY m", {"t"}),
    ("REINDEX TABLE t", set()),
    ("REINDEX INDEX t_b", set()),
    ("TRUNCATE parent", {"heir"}),
    ("TRUNCATE t CASCADE", {"ref"}),
    ("TRUNCATE t, ref", set()),
    ("DROP TABLE ref", {"t"}),
    ("DROP TABLE child", set()),
    ("DROP TABLE p1", {"p"}),
    ("DROP INDEX t_b", set()),
    ("DROP VIEW v", set()),
    ("DROP MATERIALIZED VIEW m", set()),
    ("DROP SEQUENCE sq", set()),
    ("LOCK TABLE t", set()),
    ("LOCK TABLE t, other IN ROW SHARE MODE", set()),
    ("LOCK TABLE v IN SHARE MODE", {"t"}),
    ("COPY t FROM '/dev/null'", set()),
    ("COPY t TO '/dev/null'", set()),
    ("COPY (SELECT * FROM t) TO '/dev/null'", set()),
    ("COMMENT ON TABLE t IS 'x'", set()),
    ("COMMENT ON COLUMN t.a IS 'x'", set()),
    ("COMMENT ON INDEX t_b IS 'x'", set()),
    ("COMMENT ON VIEW v IS 'x'", set()),
    ("COMMENT ON CONSTRAINT positive ON t IS 'x'", set()),
    ("COMMENT ON TRIGGER tr ON t IS 'x'", set()),
    ("EXPLAIN SELECT * FROM t", set()),
    ("EXPLAIN DELETE FROM t", set()),
    ("EXPLAIN CREATE TABLE n AS SELECT * FROM t", set()),
    ("EXPLAIN REFRESH MATERIALIZED VIEW m", set()),
    ("DECLARE n CURSOR FOR SELECT * FROM t FOR UPDATE", set()),
    ("CREATE SEQUENCE n OWNED BY t.a", set()),
    ("ALTER SEQUENCE sq RESTART", set()),
    ("ALTER SEQUENCE sq OWNED BY t.a", set()),
    ("CREATE PUBLICATION n FOR TABLE t", set()),
    ("ALTER PUBLICATION pub ADD TABLE t", set()),
    ("CREATE FUNCTION n() RETURNS SETOF int LANGUAGE sql BEGIN ATOMIC SELECT a FROM t; END", set()),
    ("ALTER EXTENSION plpgsql ADD TABLE t", set()),
    ("ALTER TABLE t ADD COLUMN n int", set()),
    ("ALTER TABLE t ADD COLUMN n int REFERENCES other", set()),
    ("ALTER TABLE t ALTER c SET DEFAULT 'x'", set()),
    ("ALTER TABLE t ALTER b SET NOT NULL", set()),
    ("ALTER TABLE t ALTER b SET STATISTICS 100", set()),
    ("ALTER TABLE t ALTER b SET (n_distinct = 5)", set()),
    ("ALTER TABLE t ALTER c SET STORAGE EXTERNAL", set()),
    ("ALTER TABLE t DROP COLUMN d", set()),
    ("ALTER TABLE t ADD CONSTRAINT n CHECK (a > 0)", set()),
    ("ALTER TABLE t ADD CONSTRAINT n CHECK (a > 0) NOT VALID", set()),
    ("ALTER TABLE t ADD CONSTRAINT n UNIQUE (c)", set()),
    ("ALTER TABLE t ADD CONSTRAINT n UNIQUE USING INDEX t_u", set()),
    ("ALTER TABLE t ADD CONSTRAINT n FOREIGN KEY (b) REFERENCES other", set()),
    ("ALTER TABLE t ADD CONSTRAINT n FOREIGN KEY (b) REFERENCES other NOT VALID", set()),
    ("ALTER TABLE ref ALTER CONSTRAINT ref_a_fkey DEFERRABLE", set()),
    ("ALTER TABLE t VALIDATE CONSTRAINT positive", set()),
    ("ALTER TABLE fk VALIDATE CONSTRAINT fk_other", {"other"}),
    ("ALTER TABLE t DROP CONSTRAINT positive", set()),
    ("ALTER TABLE ref DROP CONSTRAINT ref_a_fkey", {"t"}),
    ("ALTER TABLE t ALTER c TYPE varchar", set()),
    ("ALTER TABLE t OWNER TO CURRENT_USER", set()),
    ("ALTER TABLE t CLUSTER ON t_b", set()),
    ("ALTER TABLE t SET WITHOUT CLUSTER", set()),
    ("ALTER TABLE child SET UNLOGGED", set()),
    ("ALTER TABLE t SET ACCESS METHOD heap", set()),
    ("ALTER TABLE t SET TABLESPACE pg_default", set()),
    ("ALTER TABLE t SET (fillfactor = 70, autovacuum_enabled = false, toast.autovacuum_enabled = false)", set()),
    ("ALTER TABLE t SET (parallel_workers = 2, vacuum_truncate = false, toast_tuple_target = 200)", set()),
    ("ALTER TABLE t SET (user_catalog_table = true)", set()),
    ("ALTER TABLE t SET (fillfactor = 70, user_catalog_table = true)", set()),
    ("ALTER TABLE t RESET (fillfactor)", set()),
    ("ALTER TABLE t DISABLE TRIGGER tr", set()),
    ("ALTER TABLE t ENABLE TRIGGER ALL", set()),
    ("ALTER TABLE t ENABLE REPLICA TRIGGER tr", set()),
    ("ALTER TABLE t ENABLE ALWAYS TRIGGER tr", set()),
    ("ALTER TABLE t DISABLE TRIGGER USER", set()),
    ("ALTER TABLE other DISABLE RULE ru", set()),
    ("ALTER TABLE child INHERIT parent", set()),
    ("ALTER TABLE heir NO INHERIT parent", set()),
    ("ALTER TABLE t REPLICA IDENTITY FULL", set()),
    ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", set()),
    ("ALTER TABLE p ATTACH PARTITION pn FOR VALUES FROM (20) TO (30)", set()),
    ("ALTER TABLE p DETACH PARTITION p1", set()),
    ("ALTER TABLE t RENAME TO n", set()),
    ("ALTER TABLE t RENAME COLUMN a TO n", set()),
    ("ALTER TABLE t RENAME CONSTRAINT positive TO n", set()),
    ("ALTER TABLE t SET SCHEMA public", set()),
    ("ALTER TABLE t ADD COLUMN n int, ALTER b SET STATISTICS 5", set()),
    ("ALTER TABLE t ALTER b SET STATISTICS 5, SET (fillfactor = 50)", set()),
    ("ALTER TABLE parent ADD COLUMN n int", {"heir"}),
    ("ALTER INDEX t_b RENAME TO n", set()),
    ("ALTER INDEX t_b SET (fillfactor = 70)", set()),
    ("ALTER INDEX t_b SET TABLESPACE pg_default", set()),
    ("ALTER VIEW v SET (security_invoker = true)", set()),
    ("ALTER VIEW v RENAME TO n", set()),
    ("ALTER VIEW v SET SCHEMA public", set()),
    ("ALTER MATERIALIZED VIEW m RENAME TO n", set()),
    ("ALTER MATERIALIZED VIEW m SET (fillfactor = 70)", set()),
    ("ALTER MATERIALIZED VIEW m CLUSTER ON m_a", set()),
    ("ALTER SEQUENCE sq OWNER TO CURRENT_USER", set()),
    ("ALTER SEQUENCE sq SET SCHEMA public", set()),
    ("ALTER TYPE comp ADD ATTRIBUTE n int CASCADE", {"typed"}),
]


@pytest.fixture(scope="module")
def lock_dsn(new_database: Callable[[], str]) -> str:
    """A database with a table of every kind."""
    dsn = new_database()
    with psycopg.connect(dsn) as connection:
        connection.execute(_SETUP)
    return dsn


@pytest.fixture
def observer(lock_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(lock_dsn, autocommit=True) as connection:
        yield connection


def test_the_conflict_table_is_the_servers(lock_dsn: str) -> None:
    with psycopg.connect(lock_dsn) as holder, psycopg.connect(lock_dsn) as asker:
        for held, asked in itertools.product(LockMode, repeat=2):
            holder.execute(f"LOCK TABLE l.t IN {held} MODE".encode())
            try:
                asker.execute(f"LOCK TABLE l.t IN {asked} MODE NOWAIT".encode())
                refused = False
            except psycopg.errors.LockNotAvailable:
                refused = True
            assert conflict(held, asked) is refused, f"{held} and {asked}"
            holder.rollback()
            asker.rollback()


def _held(observer: psycopg.Connection, pid: int, *, kinds: str) -> dict[str, set[LockMode]]:
    rows = observer.execute(
        "SELECT c.relname, l.mode FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation"
        " WHERE l.pid = %s AND c.relnamespace = 'l'::regnamespace AND c.relkind::text = ANY(%s)",
        [pid, list(kinds)],
    )
    held: dict[str, set[LockMode]] = {}
    for name, mode in rows:
        held.setdefault(name, set()).add(_MODES[mode])
    return {name: set(strongest(modes)) for name, modes in held.items()}


def _expected(locks: tuple[RelationLock, ...], target: LockTarget) -> dict[str, set[LockMode]]:
    expected: dict[str, set[LockMode]] = {}
    for lock in locks:
        if lock.target is target:
            expected.setdefault(lock.relation.name, set()).add(lock.mode)
    return expected


#: Commands that not every version has.
_NEWER = {
    "MERGE INTO t USING other o ON o.a = t.a WHEN MATCHED THEN DO NOTHING": "MERGE",
    "ALTER TABLE t SET ACCESS METHOD heap": "ALTER TABLE … SET ACCESS METHOD",
    "ALTER VIEW v SET (security_invoker = true)": "the view option security_invoker",
}
_TRIED = [
    pytest.param(sql, unknown, id=sql, marks=[pytest.mark.pg(">= 15", reason=_NEWER[sql])] if sql in _NEWER else [])
    for sql, unknown in _COMMANDS
]


@pytest.mark.parametrize(("sql", "unknown"), _TRIED)
def test_a_command_locks_what_its_text_says(
    lock_dsn: str, observer: psycopg.Connection, sql: str, unknown: set[str]
) -> None:
    (statement,) = parse_statements(sql)
    locks = locks_taken(statement)
    with psycopg.connect(lock_dsn) as connection:
        connection.execute("SET search_path = l")
        connection.commit()
        connection.execute(sql.encode())
        pid = connection.info.backend_pid
        tables = _held(observer, pid, kinds="rpmvScf")
        indexes = _held(observer, pid, kinds="iI")
        connection.rollback()
    named = _expected(locks, LockTarget.RELATION)
    of_index = dict(zip("t", _expected(locks, LockTarget.TABLE_OF_INDEX).values(), strict=False))  # all indexes are t's
    assert {name: modes for name, modes in tables.items() if name not in unknown} == {
        name: modes for name, modes in {**of_index, **named}.items() if name not in indexes
    }
    assert {name: indexes[name] for name in named if name in indexes} == {
        name: modes for name, modes in named.items() if name in indexes
    }
    for modes in _expected(locks, LockTarget.INDEXES_OF_TABLE).values():
        assert indexes["t_b"] == modes


def _asked_mode(lock_dsn: str, observer: psycopg.Connection, sql: str, relation: str, blocker: LockMode) -> LockMode:
    """Lock the relation, run the command elsewhere, and return the mode in which it waits for the relation."""
    with psycopg.connect(lock_dsn) as holder, psycopg.connect(lock_dsn, autocommit=True) as runner:
        runner.execute("SET search_path = l")
        holder.execute(f"LOCK TABLE l.{relation} IN {blocker} MODE".encode())

        def run() -> None:
            with pytest.raises(psycopg.errors.QueryCanceled):
                runner.execute(sql.encode())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            return _awaited(observer, runner.info.backend_pid, relation)
        finally:
            observer.execute("SELECT pg_cancel_backend(%s)", [runner.info.backend_pid])
            thread.join(timeout=30)


def _awaited(observer: psycopg.Connection, pid: int, relation: str) -> LockMode:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        row = observer.execute(
            "SELECT mode FROM pg_locks WHERE pid = %s AND NOT granted AND relation = %s::regclass",
            [pid, f"l.{relation}"],
        ).fetchone()
        if row is not None:
            return _MODES[row[0]]
        time.sleep(0.01)
    pytest.fail("the command never waited for the relation")


@pytest.mark.parametrize(
    ("sql", "relation", "target"),
    [
        ("VACUUM t", "t", LockTarget.RELATION),
        ("VACUUM (ANALYZE) t", "t", LockTarget.RELATION),
        ("VACUUM FULL t", "t", LockTarget.RELATION),
        ("CREATE INDEX CONCURRENTLY n ON t (c)", "t", LockTarget.RELATION),
        ("REINDEX TABLE CONCURRENTLY t", "t", LockTarget.RELATION),
        ("REINDEX INDEX CONCURRENTLY t_b", "t", LockTarget.TABLE_OF_INDEX),
        ("DROP INDEX CONCURRENTLY t_b", "t", LockTarget.TABLE_OF_INDEX),
        ("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY", "p", LockTarget.RELATION),
    ],
)
def test_a_command_that_must_stand_alone_waits_in_the_mode_that_is_said(
    lock_dsn: str, observer: psycopg.Connection, sql: str, relation: str, target: LockTarget
) -> None:
    (statement,) = parse_statements(sql)
    # It blocks no session until a lock of the kind that is expected: VACUUM first looks with ACCESS SHARE.
    asked = _asked_mode(lock_dsn, observer, sql, relation, LockMode.SHARE_UPDATE_EXCLUSIVE)
    assert asked in {lock.mode for lock in locks_taken(statement) if lock.target is target}


def test_detaching_concurrently_ends_with_an_exclusive_lock_on_the_partition(
    new_database: Callable[[], str],
) -> None:
    """In its second transaction, which a reader of the partition alone blocks."""
    dsn = new_database()
    with psycopg.connect(dsn, autocommit=True) as observer:
        observer.execute(_SETUP)
        sql = "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY"
        asked = _asked_mode(dsn, observer, sql, "p1", LockMode.ACCESS_SHARE)
    (statement,) = parse_statements(sql)
    assert {lock.relation.name: lock.mode for lock in locks_taken(statement)}["p1"] is asked


@pytest.mark.parametrize(
    ("sql", "relation"),
    [
        ("VACUUM", "t"),
        ("VACUUM FULL", "t"),
        ("ANALYZE", "t"),
        ("REINDEX SCHEMA l", "t"),
        ("REINDEX SCHEMA CONCURRENTLY l", "t"),
        ("DROP SCHEMA l CASCADE", "t"),
    ],
)
def test_a_command_that_visits_every_table_waits_in_the_mode_that_is_said(
    lock_dsn: str, observer: psycopg.Connection, sql: str, relation: str
) -> None:
    (statement,) = parse_statements(sql)
    sweep = sweeping_lock(statement)
    assert sweep is not None
    assert _asked_mode(lock_dsn, observer, sql, relation, LockMode.SHARE_UPDATE_EXCLUSIVE) is sweep.mode


_CHANGES = [
    *("ADD COLUMN n int", "ADD COLUMN n int DEFAULT 1", "ADD COLUMN n text DEFAULT 'x' NOT NULL"),
    *("ADD COLUMN n timestamptz DEFAULT now()", "ADD COLUMN n timestamptz DEFAULT clock_timestamp()"),
    *("ADD COLUMN n float DEFAULT random()", "ADD COLUMN n uuid DEFAULT gen_random_uuid()", "ADD COLUMN n serial"),
    *("ADD COLUMN n int GENERATED ALWAYS AS IDENTITY", "ADD COLUMN n int GENERATED ALWAYS AS (a) STORED"),
    *("ADD COLUMN n int CHECK (n > 0)", "ADD COLUMN n int REFERENCES o", "ADD COLUMN n int DEFAULT 1 REFERENCES o"),
    *("ADD COLUMN n int UNIQUE", "ADD COLUMN n int DEFAULT 1 NOT NULL", "ADD COLUMN n positive DEFAULT 1"),
    *("ADD CHECK (a > 0)", "ADD CHECK (a > 0) NOT VALID", "ADD UNIQUE (a)", "ADD UNIQUE USING INDEX z_b"),
    *("ADD FOREIGN KEY (a) REFERENCES o", "ADD FOREIGN KEY (a) REFERENCES o NOT VALID", "ALTER b SET NOT NULL"),
    *("ALTER b SET STATISTICS 5", "ALTER b SET DEFAULT 1", "ALTER b TYPE bigint", "ALTER c TYPE varchar"),
    *("VALIDATE CONSTRAINT small", "SET UNLOGGED", "SET (fillfactor = 50)", "DROP COLUMN c", "DROP CONSTRAINT small"),
]


@pytest.mark.parametrize("change", _CHANGES)
def test_what_alter_table_rewrites_and_scans(lock_dsn: str, change: str) -> None:
    sql = f"ALTER TABLE z {change}"
    (statement,) = parse_statements(sql)
    actions = alter_actions(statement)
    with psycopg.connect(lock_dsn) as connection:
        connection.execute(
            "CREATE TABLE z (a int, b int, c text); CREATE UNIQUE INDEX z_b ON z (b); INSERT INTO z VALUES (1, 1, 'x');"
            "ALTER TABLE z ADD CONSTRAINT small CHECK (a < 9) NOT VALID;"
            "CREATE TABLE o (a int PRIMARY KEY); INSERT INTO o VALUES (1);"
            "CREATE DOMAIN positive AS int CHECK (value > 0)"
        )
        before = _storage_and_scans(connection)
        connection.execute(sql.encode())
        after = _storage_and_scans(connection)
        connection.rollback()
    rewritten, scanned = after[0] != before[0], after[1] > before[1]
    verdicts = {action.rewrite for action in actions}
    if any(action.type is not None for action in actions):
        assert Rewrite.YES not in verdicts  # only the server, or the plan, knows whether it is a domain
    elif Rewrite.MAYBE in verdicts:
        assert verdicts <= {Rewrite.MAYBE, Rewrite.NO}
    else:
        assert (Rewrite.YES in verdicts) is rewritten
        assert (rewritten or any(action.scans for action in actions)) is scanned


def _storage_and_scans(connection: psycopg.Connection) -> tuple[int, int]:
    row = connection.execute(
        "SELECT pg_relation_filenode('z'), seq_scan FROM pg_stat_xact_user_tables WHERE relid = 'z'::regclass"
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def test_every_alter_kind_is_tried_here_or_in_the_unit_tests() -> None:
    kinds = {
        action.kind
        for sql in (*(sql for sql, _ in _COMMANDS), *(f"ALTER TABLE z {change}" for change in _CHANGES))
        for statement in parse_statements(sql)
        for action in alter_actions(statement)
    }
    others = {
        *(AlterKind.SET_LOGGED, AlterKind.SET_EXPRESSION),  # what they do depends on the table as it is
        *(AlterKind.DETACH_PARTITION_CONCURRENTLY, AlterKind.DETACH_PARTITION_FINALIZE),
    }
    assert kinds | others == set(AlterKind)
