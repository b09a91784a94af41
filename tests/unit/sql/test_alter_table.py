"""ALTER TABLE: what locks, what rewrites the table, and what reads all of it."""

from __future__ import annotations

import pytest

from runner.sql.alter_table import AlterAction, AlterKind, Constraint, Rewrite, alter_actions
from runner.sql.lock_modes import LockMode
from runner.sql.statements import parse_statements

K = AlterKind


def _actions(what: str) -> tuple[AlterAction, ...]:
    (statement,) = parse_statements(f"ALTER TABLE é.t {what}")
    return alter_actions(statement)


@pytest.mark.parametrize(
    ("what", "kind", "rewrite", "scans"),
    [
        ("ADD COLUMN c int", K.ADD_COLUMN, Rewrite.NO, False),
        ("ADD COLUMN c text DEFAULT 'x'", K.ADD_COLUMN, Rewrite.NO, False),
        ("ADD COLUMN c timestamptz DEFAULT now()", K.ADD_COLUMN, Rewrite.NO, False),
        ("ADD COLUMN c timestamptz DEFAULT CURRENT_TIMESTAMP", K.ADD_COLUMN, Rewrite.NO, False),
        ("ADD COLUMN c float DEFAULT 1 + random()", K.ADD_COLUMN, Rewrite.YES, False),
        ("ADD COLUMN c uuid DEFAULT public.gen_random_uuid()", K.ADD_COLUMN, Rewrite.YES, False),
        ("ADD COLUMN c int DEFAULT f(random(), g())", K.ADD_COLUMN, Rewrite.YES, False),
        ("ADD COLUMN c int DEFAULT next_number()", K.ADD_COLUMN, Rewrite.MAYBE, False),
        ("ADD COLUMN c s.status", K.ADD_COLUMN, Rewrite.NO, False),
        ("ADD COLUMN c s.status[]", K.ADD_COLUMN, Rewrite.NO, False),
        ("ADD COLUMN c bigserial", K.ADD_COLUMN, Rewrite.YES, False),
        ("ADD COLUMN c int GENERATED ALWAYS AS IDENTITY", K.ADD_COLUMN, Rewrite.YES, False),
        ("ADD COLUMN c int GENERATED ALWAYS AS (a * 2) STORED", K.ADD_COLUMN, Rewrite.YES, False),
        ("ADD COLUMN c int GENERATED ALWAYS AS (a * 2) VIRTUAL", K.ADD_COLUMN, Rewrite.NO, False),
        ("DROP COLUMN c", K.DROP_COLUMN, Rewrite.NO, False),
        ("ALTER c TYPE bigint", K.SET_TYPE, Rewrite.MAYBE, False),
        ("ALTER c SET NOT NULL", K.SET_NOT_NULL, Rewrite.NO, True),
        ("ALTER c SET STATISTICS 500", K.SET_STATISTICS, Rewrite.NO, False),
        ("ALTER c SET DEFAULT 1", K.OTHER, Rewrite.NO, False),
        ("SET LOGGED", K.SET_LOGGED, Rewrite.YES, False),
        ("SET UNLOGGED", K.SET_UNLOGGED, Rewrite.YES, False),
        ("SET TABLESPACE fast", K.SET_TABLESPACE, Rewrite.YES, False),
        ("SET ACCESS METHOD heap", K.SET_ACCESS_METHOD, Rewrite.YES, False),
        ("VALIDATE CONSTRAINT x", K.VALIDATE_CONSTRAINT, Rewrite.NO, True),
        ("DROP CONSTRAINT x", K.DROP_CONSTRAINT, Rewrite.NO, False),
        ("DISABLE TRIGGER USER", K.TRIGGER, Rewrite.NO, False),
        ("ATTACH PARTITION p DEFAULT", K.ATTACH_PARTITION, Rewrite.NO, True),
        ("DETACH PARTITION p", K.DETACH_PARTITION, Rewrite.NO, False),
        ("DETACH PARTITION p CONCURRENTLY", K.DETACH_PARTITION_CONCURRENTLY, Rewrite.NO, False),
        ("DETACH PARTITION p FINALIZE", K.DETACH_PARTITION_FINALIZE, Rewrite.NO, False),
        ("SET (fillfactor = 70)", K.SET_OPTIONS, Rewrite.NO, False),
    ],
)
def test_what_a_subcommand_does(what: str, kind: AlterKind, rewrite: Rewrite, scans: bool) -> None:
    (action,) = _actions(what)
    assert (action.kind, action.rewrite, action.scans) == (kind, rewrite, scans)


@pytest.mark.parametrize(
    ("what", "constraint", "scans", "not_valid", "lock"),
    [
        ("ADD CHECK (a > 0)", Constraint.CHECK, True, False, LockMode.ACCESS_EXCLUSIVE),
        ("ADD CONSTRAINT x CHECK (a > 0) NOT VALID", Constraint.CHECK, False, True, LockMode.ACCESS_EXCLUSIVE),
        ("ADD UNIQUE (a)", Constraint.UNIQUE, True, False, LockMode.ACCESS_EXCLUSIVE),
        ("ADD PRIMARY KEY USING INDEX i", Constraint.PRIMARY_KEY, False, False, LockMode.ACCESS_EXCLUSIVE),
        ("ADD EXCLUDE USING gist (a WITH =)", Constraint.EXCLUDE, True, False, LockMode.ACCESS_EXCLUSIVE),
        ("ADD CONSTRAINT x NOT NULL a NOT VALID", Constraint.NOT_NULL, False, True, LockMode.ACCESS_EXCLUSIVE),
        ("ADD FOREIGN KEY (a) REFERENCES u", Constraint.FOREIGN_KEY, True, False, LockMode.SHARE_ROW_EXCLUSIVE),
        (
            "ADD FOREIGN KEY (a) REFERENCES u NOT VALID",
            Constraint.FOREIGN_KEY,
            False,
            True,
            LockMode.SHARE_ROW_EXCLUSIVE,
        ),
    ],
)
def test_constraints(what: str, constraint: Constraint, scans: bool, not_valid: bool, lock: LockMode) -> None:
    (action,) = _actions(what)
    assert action.kind is AlterKind.ADD_CONSTRAINT
    assert (action.constraint, action.scans, action.not_valid, action.lock) == (constraint, scans, not_valid, lock)


def test_a_constraint_of_a_new_column_is_an_action_of_its_own() -> None:
    column, foreign_key = _actions("ADD COLUMN c int REFERENCES u")
    assert (column.kind, column.name, column.has_default) == (AlterKind.ADD_COLUMN, "c", False)
    assert (str(foreign_key.other), foreign_key.constraint) == ("u", Constraint.FOREIGN_KEY)
    assert foreign_key.lock is LockMode.ACCESS_EXCLUSIVE  # the column's own


@pytest.mark.parametrize(
    ("column", "scans"),
    [
        ("c int REFERENCES u", False),
        ("c int DEFAULT 1 REFERENCES u", True),
        ("c int CHECK (c > 0)", True),
        ("c int UNIQUE", True),
        ("c int DEFAULT 1 NOT NULL", False),
        ("c int GENERATED ALWAYS AS (a) VIRTUAL NOT NULL", True),
    ],
)
def test_which_constraints_of_a_new_column_are_checked(column: str, scans: bool) -> None:
    added, constraint = _actions(f"ADD COLUMN {column}")
    assert added.scans is False
    assert constraint.scans is scans


def test_an_action_knows_where_it_stands() -> None:
    sql = "ALTER TABLE é.t ADD COLUMN é int, ADD CHECK (true), DROP COLUMN z"
    (statement,) = parse_statements(sql)
    offsets = [action.offset for action in alter_actions(statement)]
    assert offsets == [sql.index("é int"), sql.index("CHECK"), 0]


def test_other_statements_have_no_subcommands() -> None:
    (statement,) = parse_statements("SELECT 1")
    assert alter_actions(statement) == ()
