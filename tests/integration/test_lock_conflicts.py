"""What the lock conflict rules claim of two steps, held against two real workers.

Each pair of statements is judged as a plan and then played: where a rule claims something the server must do it, and
where no rule does, both must come through without waiting.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from runner.engine.ports import WorkerEnd
from runner.lint.lock_conflict_rules import RULES
from runner.plan.parsed_sql import read_subject
from tests.builders import plan, step
from tests.integration.gateway_setups import GATE, Follower, RealSetup, ask, open_transaction, until, value

_PLAN_MAKES = """
    CREATE INDEX orders_b ON orders (b);
    CREATE TABLE lines (a int, order_id int);
    ALTER TABLE lines ADD CONSTRAINT k FOREIGN KEY (order_id) REFERENCES orders (a) ON DELETE CASCADE NOT VALID
"""
_TABLES = f"""
    DROP TABLE IF EXISTS orders, lines, events, events_1, events_2, events_9, x, y, gate CASCADE;
    CREATE TABLE orders (a int PRIMARY KEY, b int) WITH (autovacuum_enabled = off);
    INSERT INTO orders SELECT n, n FROM generate_series(1, 100) AS n;
    {_PLAN_MAKES};
    CREATE TABLE events (a int, b int) PARTITION BY LIST (a);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
    CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
    CREATE TABLE events_9 (a int, b int);
    CREATE TABLE x (a int);
    CREATE TABLE y (a int);
    CREATE TABLE gate (a int);
"""
#: So that a deadlock is found soon.
_SOON = {"deadlock_timeout": "100ms"}
_LOCKED = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"


@pytest.fixture(scope="module")
def lock_dsn(new_database: Callable[[], str]) -> str:
    """A database of this module's own: a build waits for every snapshot in its database."""
    return new_database()


@pytest.fixture
async def setup(lock_dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[RealSetup]:
    """A gateway, beside fresh tables."""
    ask(lock_dsn, _TABLES)
    made = RealSetup(lock_dsn, f"locks-{abs(hash(request.node.name)) % 10**8}")
    await made.gateway.open()
    yield made
    await made.gateway.close()
    made.end()


def claim(first: str, second: str) -> str | None:
    """Return the code of the rule that finds something about two steps that run beside each other."""
    made = step("made", _PLAN_MAKES)
    steps = (step("first", first, needs=["made"]), step("second", second, needs=["made"]))
    subject = read_subject(plan(made, *steps))
    assert not subject.unparsed
    codes = {rule.code for rule in RULES for _ in rule.check(subject)}
    assert len(codes) <= 1
    return next(iter(codes), None)


def sqlstate(end: WorkerEnd) -> str | None:
    """Return the error of a worker, None if it is certain that there was none."""
    if end.confirmed:
        return None
    assert end.error is not None
    return end.error.sqlstate


def waits(setup: RealSetup, worker: Follower) -> bool:
    return bool(value(setup.dsn, _LOCKED, worker.name))


# --- JP401: CONCURRENTLY ----------------------------------------------------------------------------------------------

_BUILD = "CREATE INDEX CONCURRENTLY ON orders (b)"
_REBUILD = "REINDEX INDEX CONCURRENTLY orders_b"
_DROP = "DROP INDEX CONCURRENTLY orders_b"
_DETACH = "ALTER TABLE events DETACH PARTITION events_1 CONCURRENTLY"

_BESIDE = [
    (_BUILD, "ANALYZE orders"),
    (_BUILD, "VACUUM orders"),
    (_BUILD, "VACUUM FULL orders"),
    (_BUILD, "REINDEX TABLE orders"),
    (_BUILD, "CREATE INDEX ON orders (b)"),
    (_BUILD, "CREATE INDEX CONCURRENTLY ON orders (a)"),
    (_BUILD, "DROP INDEX CONCURRENTLY orders_b"),
    (_BUILD, "ALTER TABLE orders ADD COLUMN c int"),
    (_BUILD, "ALTER TABLE orders ALTER b SET STATISTICS 10"),
    (_BUILD, "COMMENT ON TABLE orders IS 'x'"),
    (_BUILD, "CREATE TABLE n (a int REFERENCES orders)"),
    (_BUILD, "ANALYZE"),
    (_BUILD, "VACUUM"),
    (_BUILD, "SELECT * FROM orders FOR UPDATE"),
    (_BUILD, "DELETE FROM orders WHERE a = 1; INSERT INTO orders VALUES (1, 1)"),
    (_BUILD, "ANALYZE lines"),
    (_BUILD, "TRUNCATE x"),
    (_REBUILD, "ANALYZE orders"),
    (_REBUILD, "VACUUM orders"),
    (_REBUILD, "DROP INDEX orders_b"),
    (_REBUILD, "UPDATE orders SET b = 0 WHERE a = 1"),
    (_DROP, "ANALYZE orders"),
    (_DROP, "ALTER TABLE orders ADD COLUMN c int"),
    (_DROP, "INSERT INTO orders VALUES (-1); ALTER TABLE orders ADD COLUMN c int"),
    (_DROP, "INSERT INTO x VALUES (1); ALTER TABLE orders ADD COLUMN c int; ALTER TABLE orders ADD COLUMN d int"),
    (_DROP, "SELECT * FROM orders"),
]


@pytest.mark.parametrize(("first", "second"), _BESIDE)
async def test_a_build_or_drop_beside_another_statement(setup: RealSetup, first: str, second: str) -> None:
    claimed = claim(first, second)
    with open_transaction(setup.dsn, "INSERT INTO orders VALUES (1000, 1000)") as gate:
        building = await Follower(setup, "first", first, settings=_SOON).running()
        await until(lambda: waits(setup, building))
        other = (await Follower(setup, "second", second, settings=_SOON).launch()).follow()
        waited = await _waits_or_ends(setup, other)
        gate.rollback()
        states = {sqlstate(await building.wait_until_ended()), sqlstate(await other.wait_until_ended())}
    assert waited is (claimed is not None)
    assert states == ({None, "40P01"} if claimed == "JP401" else {None})


async def _waits_or_ends(setup: RealSetup, worker: Follower) -> bool:
    found = False

    def settled() -> bool:
        nonlocal found
        found = waits(setup, worker)
        return found or worker.task.done()

    await until(settled)
    return found


async def test_a_vacuum_that_also_analyzes_conflicts_with_a_build(setup: RealSetup) -> None:
    """The build gets its lock when VACUUM gives it back, and ANALYZE queues behind it with a snapshot."""
    slow = {**_SOON, "vacuum_cost_delay": "10ms", "vacuum_cost_limit": "20"}
    ask(
        setup.dsn,
        "INSERT INTO orders SELECT n, n FROM generate_series(1001, 20000) AS n; DELETE FROM orders WHERE a > 9",
    )
    outcomes = {}
    for vacuum in ("VACUUM orders", "VACUUM (ANALYZE) orders"):
        cleaning = await Follower(setup, "first", vacuum, settings=slow).running()
        await until(lambda: ask(setup.dsn, "SELECT 1 FROM pg_stat_progress_vacuum WHERE heap_blks_scanned > 0"))
        building = await Follower(setup, "second", _BUILD, settings=_SOON).running()
        await until(lambda: waits(setup, building))  # noqa: B023 - it is over before the next one begins
        outcomes[vacuum] = {sqlstate(await cleaning.wait_until_ended()), sqlstate(await building.wait_until_ended())}
        outcomes = {}
    for vacuum in ("VACUUM orders", "VACUUM (ANALYZE) orders"):
        ask(setup.dsn, "INSERT INTO orders SELECT n, n FROM generate_series(1001, 20000) AS n")
        ask(setup.dsn, "DELETE FROM orders WHERE a > 1000")
        cleaning = await Follower(setup, "first", vacuum, settings=slow).running()
        await until(lambda: ask(setup.dsn, "SELECT 1 FROM pg_stat_progress_vacuum WHERE heap_blks_scanned > 0"))
        building = await Follower(setup, "second", _BUILD, settings=_SOON).running()
        await until(lambda: waits(setup, building))  # noqa: B023 - it is over before the next one begins
        outcomes[vacuum] = {sqlstate(await cleaning.wait_until_ended()), sqlstate(await building.wait_until_ended())}
    assert {vacuum: claim(_BUILD, vacuum) for vacuum in outcomes} == dict(
        zip(outcomes, ("JP402", "JP401"), strict=True)
    )
    assert list(outcomes.values()) == [{None}, {None, "40P01"}]


@pytest.mark.parametrize(
    ("second", "states", "pending"),
    [
        ("ALTER TABLE events DETACH PARTITION events_2 CONCURRENTLY", {None, "55000"}, 0),
        pytest.param(
            "ALTER TABLE events ADD COLUMN c int",
            {None, "42804"},
            1,
            marks=pytest.mark.pg(">= 18", reason="before, an ADD COLUMN that gets in between does no harm"),
        ),
        ("ANALYZE events", {None}, 0),
        ("CREATE INDEX ON events (b)", {None}, 0),
        ("ALTER TABLE events ATTACH PARTITION events_9 FOR VALUES IN (9)", {None}, 0),
        ("INSERT INTO events VALUES (2)", {None}, 0),
    ],
)
async def test_a_detach_beside_another_statement(
    setup: RealSetup, second: str, states: set[str | None], pending: int
) -> None:
    with open_transaction(setup.dsn, "INSERT INTO events VALUES (1)") as gate:
        detaching = await Follower(setup, "first", _DETACH, settings=_SOON).running()
        await until(lambda: waits(setup, detaching))
        other = (await Follower(setup, "second", second, settings=_SOON).launch()).follow()
        await _waits_or_ends(setup, other)
        gate.rollback()
        assert {sqlstate(await detaching.wait_until_ended()), sqlstate(await other.wait_until_ended())} == states
    assert value(setup.dsn, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == pending
    assert (claim(_DETACH, second) == "JP401") is (states != {None})


# --- JP402: one waits for the other -----------------------------------------------------------------------------------

#: Each touches rows of its own: `{n}` is another number for the second worker.
_STATEMENTS = [
    "SELECT * FROM orders",
    "SELECT * FROM lines FOR UPDATE",
    "COPY orders TO '/dev/null'",
    "INSERT INTO lines VALUES ({n}, 10 + {n})",
    "DELETE FROM orders WHERE a = 20 + {n}",
    "UPDATE orders SET a = 1000 + {n} WHERE a = 30 + {n}",
    "UPDATE orders SET b = 0 WHERE a = 40 + {n}",
    "CREATE INDEX ON lines (order_id)",
    "CREATE INDEX ON orders (b)",
    "REINDEX TABLE orders",
    "REINDEX INDEX orders_b",
    "ANALYZE orders",
    "ALTER TABLE lines DROP CONSTRAINT k",
    "ALTER TABLE lines DROP COLUMN order_id",
    "ALTER TABLE lines VALIDATE CONSTRAINT k",
    "ALTER TABLE lines DISABLE TRIGGER USER",
    "ALTER TABLE orders ADD COLUMN c int",
    "TRUNCATE orders CASCADE",
    "TRUNCATE lines",
    "DROP TABLE lines",
]
#: Ends a text that has come so far, and undoes it.
_UNDO = "DO $$ BEGIN RAISE EXCEPTION 'through' USING ERRCODE = 'JP000'; END $$"


@pytest.mark.parametrize("first", _STATEMENTS)
async def test_a_second_statement_waits_if_a_rule_says_so(setup: RealSetup, first: str) -> None:
    holder = await Follower(setup, "first", f"{first.format(n=1)}; SELECT pg_sleep(600)").running()
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event = 'PgSleep'"
    await until(lambda: value(setup.dsn, asleep, holder.name))
    claimed, played = {}, {}
    for second in _STATEMENTS:
        text = second.format(n=2)
        claimed[second] = claim(first.format(n=1), text)
        other = await Follower(setup, "second", f"{text}; {_UNDO}", lock_timeout=0.05).launch()
        state = sqlstate(await other.follow().wait_until_ended())
        played[second] = {"55P03": "JP402", "JP000": None}.get(state or "", state)
    holder.handle.cancel()
    await holder.wait_until_ended()
    assert played == claimed


def test_the_table_of_an_index_that_the_plan_does_not_create_is_not_known() -> None:
    assert claim("REINDEX INDEX orders_pkey", "TRUNCATE orders") is None
    assert claim("REINDEX INDEX orders_pkey", "DROP INDEX orders_pkey") == "JP402"


# --- JP403: deadlocks -------------------------------------------------------------------------------------------------

#: Waits for the gate, and keeps no other from it.
_PAUSE = GATE.replace("(", "_shared(")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("TRUNCATE x; {}; TRUNCATE y", "TRUNCATE y; {}; TRUNCATE x", "JP403"),
        ("INSERT INTO x VALUES (1); {}; ALTER TABLE x ADD COLUMN c int", "SELECT * FROM x; {}; TRUNCATE x", "JP403"),
        ("DELETE FROM x; {}; CREATE INDEX ON y (a)", "INSERT INTO y VALUES (1); {}; TRUNCATE x", "JP403"),
        ("DELETE FROM orders WHERE a = 1; {}; TRUNCATE x", "LOCK x; {}; CREATE INDEX ON lines (a)", "JP403"),
        ("TRUNCATE gate; TRUNCATE x; {}; TRUNCATE y", "TRUNCATE gate; TRUNCATE y; {}; TRUNCATE x", "JP402"),
        ("TRUNCATE x; {}; TRUNCATE y", "TRUNCATE x; {}; TRUNCATE y", "JP402"),
        ("SELECT * FROM x; {}; SELECT * FROM y", "SELECT * FROM y; {}; TRUNCATE x", "JP402"),
        ("INSERT INTO x VALUES (1); {}; DELETE FROM y", "DELETE FROM y; {}; INSERT INTO x VALUES (1)", None),
    ],
)
async def test_two_transactions_end_in_a_deadlock_if_the_rule_says_so(
    setup: RealSetup, first: str, second: str, expected: str | None
) -> None:
    texts = [first.format(_PAUSE), second.format(_PAUSE)]
    assert claim(*texts) == expected
    with open_transaction(setup.dsn, GATE) as gate:
        one = await Follower(setup, "first", texts[0], settings=_SOON).running()
        await until(lambda: waits(setup, one))
        other = await Follower(setup, "second", texts[1], settings=_SOON).running()
        await until(lambda: waits(setup, other))
        gate.rollback()
        states = {sqlstate(await one.wait_until_ended()), sqlstate(await other.wait_until_ended())}
    assert states == ({None, "40P01"} if expected == "JP403" else {None})


@pytest.mark.parametrize("command", ["TRUNCATE {}, {}", "DROP TABLE {}, {}", "LOCK {}, {}; SELECT 1"])
async def test_commands_that_lock_one_table_after_the_other(setup: RealSetup, command: str) -> None:
    first, second = command.format("x", "y"), command.format("y", "x")
    assert claim(first, second) == "JP403"
    assert claim(first, first) == "JP402"
    with open_transaction(setup.dsn, "SELECT * FROM x") as gate:
        one = await Follower(setup, "first", first, settings=_SOON).running()
        await until(lambda: waits(setup, one))
        other = await Follower(setup, "second", second, settings=_SOON).running()
        await until(lambda: waits(setup, other))
        gate.rollback()
        assert "40P01" in {sqlstate(await one.wait_until_ended()), sqlstate(await other.wait_until_ended())}
