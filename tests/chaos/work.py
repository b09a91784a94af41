"""Kinds of steps whose effect can be seen afterwards without asking jobplan: what they run, and what that leaves.

A step that runs in a transaction inserts its rows into the run's witness table itself, so that they are there exactly
if it committed. One that cannot (VACUUM, … CONCURRENTLY) is judged by what the catalogs say. A procedure that commits
on its way has its first row from the first transaction and its last one from the last.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random


class Work(enum.StrEnum):
    """What a step does. The comment says how it ends when nothing disturbs it."""

    INSERT = "insert"  # one row, before or after its sleep
    PARTS = "parts"  # two rows with a sleep between them: both or none
    BLOCK = "block"  # the same in a DO, which the extension's notes treat apart
    CALL = "call"  # a procedure: a row, COMMIT, a sleep, a row
    FLOOD = "flood"  # more notices and rows than an output queue takes
    BATCHES = "batches"  # moves numbers out of a queue, a few in each iteration, until none is left
    FLAKY = "flaky"  # fails on the first attempts, counted by a sequence, which no rollback undoes
    FAILS = "fails"  # a row, then an error
    REFUSED = "refused"  # a row, and a deferred constraint that refuses the commit
    SLOW = "slow"  # a row, then a sleep that is longer than its timeout
    VACUUM = "vacuum"
    INDEX = "index"  # CREATE INDEX CONCURRENTLY
    REINDEX = "reindex"  # REINDEX INDEX CONCURRENTLY


#: Works whose rows report how often they were done. The others are done or not.
COUNTED = frozenset(Work) - {Work.VACUUM, Work.INDEX, Work.REINDEX, Work.BATCHES}
#: Works that are one transaction: either all of it is there and the worker succeeded, or nothing is.
ATOMIC = COUNTED - {Work.CALL}
#: Works for which the worker can insert a commit row in its own transaction, so that the ledger knows their outcome.
IN_LEDGER = ATOMIC - {Work.BLOCK} | {Work.BATCHES}
#: Works that may have done their part although they end in an error: what they change, they change on the way.
GRADUAL = frozenset({Work.VACUUM, Work.REINDEX})
#: Works that never succeed.
HOPELESS = frozenset({Work.FAILS, Work.REFUSED, Work.SLOW})
#: Works that may change the name of their worker first.
RENAMES = frozenset({Work.INSERT, Work.PARTS, Work.FAILS, Work.SLOW})
#: Numbers in the queue of BATCHES, and how many an iteration moves.
QUEUE = 6
BATCH = 2

#: What every run's schema begins with. `{schema}` is safe to be spliced: the suite chose it.
PREPARATION = """
CREATE SCHEMA {schema};
CREATE TABLE {schema}.witness (
  run text NOT NULL, step text NOT NULL, item text NOT NULL, part int NOT NULL,
  txid xid8 NOT NULL DEFAULT pg_current_xact_id(), pid int NOT NULL DEFAULT pg_backend_pid(),
  at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE {schema}.parent (id int PRIMARY KEY);
CREATE TABLE {schema}.child (id int REFERENCES {schema}.parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION {schema}.boom(why text) RETURNS void LANGUAGE plpgsql AS
  'BEGIN RAISE EXCEPTION USING MESSAGE = why, ERRCODE = ''P0001''; END';
CREATE FUNCTION {schema}.flaky(counter regclass, failures int) RETURNS void LANGUAGE plpgsql AS
  'BEGIN IF nextval(counter) <= failures THEN PERFORM {schema}.boom(''not yet''); END IF; END';
CREATE PROCEDURE {schema}.work(run text, step text, item text, seconds float8) LANGUAGE plpgsql AS '
BEGIN
  INSERT INTO {schema}.witness (run, step, item, part) VALUES (run, step, item, 1);
  COMMIT;
  PERFORM pg_sleep(seconds);
  INSERT INTO {schema}.witness (run, step, item, part) VALUES (run, step, item, 2);
END';
"""
_TABLE = """
CREATE TABLE {schema}.t_{step} (n int, word text) WITH (autovacuum_enabled = false);
INSERT INTO {schema}.t_{step} SELECT n, 'word ' || n FROM generate_series(1, 300) AS n;
"""
_SETUP = {
    Work.FLAKY: "CREATE SEQUENCE {schema}.q_{step};",
    Work.BATCHES: f"CREATE TABLE {{schema}}.t_{{step}} AS SELECT n FROM generate_series(1, {QUEUE}) AS n;",
    Work.VACUUM: _TABLE,
    Work.INDEX: _TABLE,
    Work.REINDEX: _TABLE
    + "CREATE INDEX i_{step} ON {schema}.t_{step} (n);"
    + "CREATE TABLE {schema}.was_{step} AS SELECT pg_relation_filenode('{schema}.i_{step}') AS node;",
}
_ROW = "INSERT INTO {schema}.witness (run, step, item, part) VALUES (:'run.id', '{step}', {item}, {part})"
_ROWS = (
    "INSERT INTO {schema}.witness (run, step, item, part)"
    " SELECT :'run.id', '{step}', {item}, {part} FROM unnest(ARRAY[:'t']) AS item"
)
#: In the body of a DO no parameter is replaced; the worker's application_name names its run (63 bytes are enough here).
_ROW_IN_BLOCK = (
    "INSERT INTO {schema}.witness (run, step, item, part)"
    " VALUES (split_part(current_setting('application_name'), ':', 2), '{step}', '', {part})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a step's text is to work: its schema, its id, and what names its item in SQL.

    `listed`: it works on the items of a chunk, with a row for each.
    """

    schema: str
    step: str
    item: str = "''"
    listed: bool = False

    def fill(self, text: str, **more: object) -> str:
        """Put the names into a text."""
        return text.format(schema=self.schema, step=self.step, item=self.item, **more)


def setup(work: Work, place: Place) -> str:
    """Return the SQL for what has to be there before the run, beside `PREPARATION`."""
    return place.fill(_SETUP.get(work, ""))


_MOVE = (
    "WITH batch AS (DELETE FROM {schema}.t_{step} WHERE n IN"
    " (SELECT n FROM {schema}.t_{step} ORDER BY n LIMIT {batch}) RETURNING n)"
    " INSERT INTO {schema}.witness (run, step, item, part) SELECT :'run.id', '{step}', n, 1 FROM batch"
)
#: As _MOVE, but each iteration looks only behind the last number that the previous one has moved: one that is skipped
#: stays in the queue.
MOVE_BY_KEY = (
    "WITH batch AS (DELETE FROM {schema}.t_{step} WHERE n IN"
    " (SELECT n FROM {schema}.t_{step} WHERE n > :last_n ORDER BY n LIMIT {batch}) RETURNING n), noted AS ("
    "INSERT INTO {schema}.witness (run, step, item, part) SELECT :'run.id', '{step}', n, 1 FROM batch)"
    " SELECT max(n) AS last_n FROM batch"
)
#: What each kind of work runs; where there are several texts, one is drawn.
_SQL: Mapping[Work, tuple[str, ...]] = {
    Work.INSERT: ("{row};\n{sleep}", "{sleep};\n{row}", "{row}"),
    Work.PARTS: ("{row};\n{sleep};\n{last_row}",),
    Work.BLOCK: ("DO $$ BEGIN {block_row}; PERFORM pg_sleep({seconds:.3f}); {last_block_row}; END $$",),
    Work.CALL: ("CALL {schema}.work(:'run.id', '{step}', {item}, {seconds:.3f})",),
    Work.FLOOD: (
        "{row};\n{sleep};\nSELECT repeat('x', 1000) FROM generate_series(1, 100)",
        "{row};\n{sleep};\nDO $$ BEGIN FOR n IN 1..100 LOOP RAISE NOTICE '%', repeat('x', 1000); END LOOP; END $$",
    ),
    Work.BATCHES: (_MOVE,),
    Work.FLAKY: ("{row};\n{sleep};\nSELECT {schema}.flaky('{schema}.q_{step}', 1)",),
    Work.FAILS: ("{row};\n{sleep};\nSELECT {schema}.boom('as planned')",),
    Work.REFUSED: ("{row};\nINSERT INTO {schema}.child VALUES (-1);\n{sleep}",),
    Work.SLOW: ("{row};\nSELECT pg_sleep(30)",),
    Work.VACUUM: ("VACUUM (ANALYZE) {schema}.t_{step}",),
    Work.INDEX: ("CREATE INDEX CONCURRENTLY i_{step} ON {schema}.t_{step} (n)",),
    Work.REINDEX: ("REINDEX INDEX CONCURRENTLY {schema}.i_{step}",),
}


def sql(work: Work, place: Place, random: Random, seconds: float) -> str:
    """Return a step's SQL. `seconds` is about how long it takes."""
    row = _ROWS if place.listed else _ROW
    return place.fill(
        random.choice(_SQL[work]),
        row=place.fill(row, part=1),
        last_row=place.fill(row, part=2),
        block_row=place.fill(_ROW_IN_BLOCK, part=1),
        last_block_row=place.fill(_ROW_IN_BLOCK, part=2),
        sleep=f"SELECT pg_sleep({seconds:.3f})",
        seconds=seconds,
        batch=BATCH,
    )


def rename(random: Random) -> str:
    """Return a statement that changes the worker's application_name, by which it cannot be recognised."""
    return f"SET application_name = '{random.choice(('renamed', '', 'jobplan:260101-aaaaaa:a'))}'"


def parts(work: Work) -> int:
    """Return how many rows one complete effect has."""
    return 2 if work in (Work.PARTS, Work.BLOCK) else 1


def last_part(work: Work) -> int:
    """Return the number of the row that stands for the whole."""
    return 2 if work in (Work.PARTS, Work.BLOCK, Work.CALL) else 1


def verification(work: Work, place: Place) -> str:
    """Return a query that says whether the step's effect is there."""
    match work:
        case Work.INDEX:
            return place.fill(
                "SELECT EXISTS (SELECT FROM pg_index"
                " WHERE indexrelid = to_regclass('{schema}.i_{step}') AND indisvalid)"
            )
        case Work.VACUUM:
            return place.fill("SELECT reltuples >= 0 FROM pg_class WHERE oid = '{schema}.t_{step}'::regclass")
        case Work.REINDEX:
            return place.fill("SELECT node <> pg_relation_filenode('{schema}.i_{step}') FROM {schema}.was_{step}")
        case Work.BATCHES:
            return place.fill("SELECT NOT EXISTS (SELECT FROM {schema}.t_{step})")
        case _:
            return place.fill(
                "SELECT EXISTS (SELECT FROM {schema}.witness WHERE run = :'run.id' AND step = '{step}'"
                " AND item = {item} AND part = {part})",
                part=last_part(work),
            )
