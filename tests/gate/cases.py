"""What a pair of plan steps is, how groups make pairs, and what every database of a trial contains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Roles of the corpus; they belong to the server and are created once.
ROLES = ("gate_owner", "gate_reader", "gate_nobody")

#: What every database of a trial contains.
BASE = """
CREATE EXTENSION IF NOT EXISTS pg_background;
GRANT USAGE, CREATE ON SCHEMA public TO gate_owner;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (x int, y int);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE t (id int PRIMARY KEY, b int, c text, j text, m mood, d positive);
INSERT INTO t SELECT i, i, 'c' || i, '{"k": 1}', 'sad', i FROM generate_series(1, 20) i;
CREATE UNIQUE INDEX t_c ON t (c);
CREATE INDEX t_b ON t (b);
ALTER TABLE t ADD CONSTRAINT t_check CHECK (b >= 0) NOT VALID;
GRANT SELECT ON t TO gate_reader;
CREATE TABLE base (id int PRIMARY KEY, b int);
CREATE VIEW v AS SELECT id, b FROM base;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int, parent_id int CONSTRAINT child_fk REFERENCES parent);
CREATE TABLE p (id int, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE p_default PARTITION OF p DEFAULT;
CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE p_new (id int, at date NOT NULL);
CREATE INDEX p_at ON p (at);
CREATE MATERIALIZED VIEW mv AS SELECT 1 AS a WITH NO DATA;
CREATE UNIQUE INDEX mv_a ON mv (a);
CREATE MATERIALIZED VIEW mf AS SELECT 1 AS a;
CREATE SEQUENCE sq;
CREATE FUNCTION f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION notes() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE SCHEMA s1;
CREATE TABLE s1.a (id int);
CREATE TABLE own (id int PRIMARY KEY, tenant int);
INSERT INTO own SELECT i, 1 FROM generate_series(1, 5) i;
ALTER TABLE own OWNER TO gate_owner;
CREATE TABLE par (a int CONSTRAINT pos CHECK (a > 0), b int NOT NULL);
CREATE TABLE kid (c int) INHERITS (par);
CREATE TABLE orphan (a int, b int, c int);
CREATE TABLE model (id int);
CREATE TABLE rowed (r model);
CREATE TABLE shape (id int);
CREATE FUNCTION of_shape(shape) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE victim (id int);
INSERT INTO victim VALUES (1);
CREATE TABLE uc (
    id int PRIMARY KEY, a int, w varchar(10), n numeric(5, 2), at timestamptz DEFAULT now(), arr int[],
    g int GENERATED ALWAYS AS (a * 2) STORED
);
INSERT INTO uc SELECT i, i, i, i, now(), ARRAY[i] FROM generate_series(1, 5) i;
CREATE TABLE gen (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int);
INSERT INTO gen (a) VALUES (1), (2);
CREATE TABLE ua (id int PRIMARY KEY, a int, w varchar(10), n numeric(5, 2));
INSERT INTO ua SELECT i, i, 'w' || i, i FROM generate_series(1, 5) i;
CREATE TABLE ub (id int PRIMARY KEY, ua_id int, note text);
INSERT INTO ub SELECT i, i, 'n' || i FROM generate_series(1, 5) i;
CREATE VIEW joined AS SELECT ua.id, ua.a, ub.note FROM ua JOIN ub ON ub.ua_id = ua.id;
CREATE VIEW simple AS SELECT id, a FROM ua;
CREATE SCHEMA s4;
CREATE TABLE s4.x (id int PRIMARY KEY);
CREATE FUNCTION s4.h(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE TYPE s4.color AS ENUM ('red', 'green');
CREATE TYPE span AS RANGE (subtype = int4);
CREATE DOMAIN short AS varchar(5) NOT NULL CHECK (VALUE <> 'long');
CREATE TABLE sh (id int, s short);
CREATE FUNCTION color_int(s4.color) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE CAST (s4.color AS int) WITH FUNCTION color_int(s4.color);
CREATE OPERATOR @#@ (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
CREATE COLLATION nordic FROM "C";
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE PROCEDURE pr(int) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE trg (id int PRIMARY KEY, a int);
CREATE TRIGGER trg_stamp BEFORE INSERT ON trg FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TABLE rls (id int, tenant int);
INSERT INTO rls VALUES (1, 1), (2, 2);
ALTER TABLE rls ENABLE ROW LEVEL SECURITY;
CREATE POLICY rls_p ON rls TO gate_reader USING (tenant = 1);
GRANT SELECT ON rls TO gate_reader;
CREATE FOREIGN DATA WRAPPER basefdw;
CREATE SERVER basesrv FOREIGN DATA WRAPPER basefdw;
CREATE FOREIGN TABLE ft0 (id int) SERVER basesrv;
CREATE TEXT SEARCH CONFIGURATION plainconf (COPY = simple);
CREATE STATISTICS st0 ON b, c FROM t;
CREATE PUBLICATION pub0 FOR TABLE base;
CREATE TABLE ex (id int, b int, CONSTRAINT ex_excl EXCLUDE USING btree (id WITH =));
CREATE UNIQUE INDEX ex_desc ON ex (b DESC);
CREATE FUNCTION refuses() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''refused''; END';
CREATE EVENT TRIGGER quiet ON ddl_command_start EXECUTE FUNCTION refuses();
ALTER EVENT TRIGGER quiet DISABLE;
CREATE TABLE pubt (id int, b int);
INSERT INTO pubt VALUES (1, 1);
CREATE UNIQUE INDEX pubt_id ON pubt (id);
CREATE PUBLICATION pub1 FOR TABLE pubt;
CREATE UNLOGGED TABLE ul (id int PRIMARY KEY);
CREATE TABLE rowy (id int PRIMARY KEY, name text);
CREATE TABLE rowheld (r rowy);
CREATE FUNCTION rowy_all() RETURNS SETOF rowy LANGUAGE sql AS 'SELECT * FROM rowy';
CREATE TYPE addr AS (street text, zip text);
CREATE TABLE homes (id int, a addr);
CREATE FUNCTION casc_f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE TYPE casc_t AS ENUM ('a', 'b');
CREATE TABLE casc (id int PRIMARY KEY, name text, f int, m casc_t);
CREATE INDEX casc_i ON casc (casc_f(f));
CREATE VIEW casc_v AS SELECT id, name FROM casc;
CREATE MATERIALIZED VIEW casc_m AS SELECT id, name FROM casc;
CREATE TABLE casc_r (id int PRIMARY KEY, casc_id int CONSTRAINT casc_fk REFERENCES casc);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Two steps, one after the other, or two statements of one step. `undo` removes what is not in the database."""

    group: str
    first: str
    then: str
    role: str | None = None
    together: bool = False
    undo: str = ""

    @property
    def name(self) -> str:
        """Return a name for a table and a test."""
        role = f" as {self.role}" if self.role else ""
        return f"{self.group}: {self.first or '-'} {'+' if self.together else '->'} {self.then}{role}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Changes and uses, one per line; a use may begin with `role=NAME ` and a change may end with ` -- UNDO`.

    Keywords are written in capitals, names in small letters.
    """

    name: str
    changes: str
    uses: str
    together: bool = False
    thinned: bool = False
    #: Of pairs with a common name, one in so many is kept.
    kept: int = 1

    def cases(self) -> Iterator[Case]:
        """Yield every pair, of a group that is thinned those that have a name in common, and a few of the others."""
        for number, case in enumerate(self._pairs()):
            related = bool(_names(case.first) & _names(f"{case.role} {case.then}"))
            if not self.thinned or number % (self.kept if related else _FEW) == 0:
                yield case

    def _pairs(self) -> Iterator[Case]:
        for change in filter(None, map(str.strip, self.changes.splitlines())):
            first, _, undo = change.partition(" -- ")
            for use in filter(None, map(str.strip, self.uses.splitlines())):
                role, then = None, use
                if use.startswith("role="):
                    word, _, then = use.partition(" ")
                    role = word.removeprefix("role=")
                first_text = "" if first == "-" else first
                yield Case(
                    group=self.name, first=first_text, then=then, role=role, together=self.together, undo=undo.strip()
                )


#: Names that nearly every statement has.
_COMMON = frozenset({"int", "text", "sql", "plpgsql", "id", "public"})
#: Of pairs without a common name, one in so many is kept.
_FEW = 9


def _names(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"(?<![\w'])[a-z_][a-z_0-9]*", text)) - _COMMON
