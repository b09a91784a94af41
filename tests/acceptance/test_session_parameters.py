"""Parameters in `search_path`, `settings` and `role` on a real server: a step gets the value, and nothing else."""

from __future__ import annotations

import psycopg
from psycopg import sql

from tests.acceptance.console import Database, Jobplan

SHOW = "SELECT current_setting('search_path'), current_user, current_setting('app.tenant', true)"


def rows(db: Database, text: str) -> list[tuple[object, ...]]:
    with psycopg.connect(db.dsn) as connection:
        return connection.execute(text).fetchall()


def test_each_instance_works_in_the_schema_of_its_item(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE SCHEMA tenant_a; CREATE SCHEMA tenant_b")
    db.run("CREATE TABLE tenant_a.t (x int); CREATE TABLE tenant_b.t (x int); CREATE TABLE public.t (x int)")
    plan = jobplan.plan(
        """
        - id: literal
          for_each: {items: [tenant_a, tenant_b], as: s}
          search_path: :"s", public
          sql: INSERT INTO t VALUES (1)
        - id: queried
          needs: [literal]
          for_each: {sql: "SELECT nspname AS n FROM pg_namespace WHERE nspname LIKE 'tenant%'", as: s}
          search_path: :"s.n", public
          if: SELECT count(*) = 1 FROM t
          sql: INSERT INTO t VALUES (2)
        """,
        defaults="{timeout: 20s, on_finish: wait, lock_timeout: 5s}",
    )
    assert jobplan("dry-run", plan, "--dsn", db.dsn).code == 0
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert ran.code == 0, ran.err
    assert [rows(db, f"SELECT x FROM tenant_{one}.t ORDER BY x") for one in "ab"] == [[(1,), (2,)], [(1,), (2,)]]
    assert rows(db, "SELECT count(*) FROM public.t") == [(0,)]


HOSTILE = (
    *('x"; DROP TABLE public.kept; --', "a, public", "a'b", "Ünïcode ☃"),
    *("pgcatalog, x", '"quoted"', "a b", "$$x$$"),
)


def test_hostile_values_are_one_schema_each(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE public.kept (x int); CREATE TABLE names (n text)")
    with psycopg.connect(db.dsn, autocommit=True) as connection:
        for name in HOSTILE:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
            connection.execute(sql.SQL("CREATE TABLE {}.t (path text, setting text)").format(sql.Identifier(name)))
            connection.execute("INSERT INTO names VALUES (%s)", (name,))
    plan = jobplan.plan(
        """
        - id: each
          for_each: {sql: SELECT n FROM names, as: s}
          search_path: :"s"
          settings: {app.tenant: ":'s'"}
          sql: INSERT INTO t VALUES (current_setting('search_path'), current_setting('app.tenant'))
        """
    )
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert ran.code == 0, ran.err
    for name in HOSTILE:
        with psycopg.connect(db.dsn) as connection:
            found = connection.execute(sql.SQL("SELECT * FROM {}.t").format(sql.Identifier(name))).fetchall()
        doubled = name.replace('"', '""')
        assert found == [(f'"{doubled}"', name)]
    assert rows(db, "SELECT count(*) FROM public.kept") == [(0,)]


def test_roles_settings_and_built_in_names_have_values(jobplan: Jobplan, db: Database) -> None:
    role = f"r {db.dsn[-12:]}".replace("'", "")
    with psycopg.connect(db.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        connection.execute(sql.SQL("GRANT pgbackground_role TO {}").format(sql.Identifier(role)))
    try:
        db.run("CREATE TABLE seen (who text, mem text, run text, days text); GRANT INSERT ON seen TO public")
        plan = jobplan.plan(
            """
            - id: as_role
              role: :"who"
              settings: {work_mem: ":'mem'", app.run: ":'run.name'", app.days: ':days'}
              sql: >-
                INSERT INTO seen VALUES (current_user, current_setting('work_mem'), current_setting('app.run'),
                current_setting('app.days'))
            """,
            params=f"{{who: {{type: identifier, default: '{role}'}}, mem: {{type: string, default: 7MB}}, "
            "days: {type: integer, default: -3}}",
        )
        ran = jobplan("run", plan, "--dsn", db.dsn)
        assert ran.code == 0, ran.err
        assert rows(db, "SELECT * FROM seen") == [(role, "7MB", "trial", "-3")]
    finally:
        with psycopg.connect(db.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP OWNED BY {0}").format(sql.Identifier(role)))
            connection.execute(sql.SQL("DROP ROLE {0}").format(sql.Identifier(role)))


def test_a_value_that_cannot_stand_there_fails_its_instance_before_anything_is_launched(
    jobplan: Jobplan, db: Database
) -> None:
    db.run("CREATE TABLE t (x int); CREATE TABLE names (n text); INSERT INTO names VALUES (NULL), ('none'), ('')")
    plan = jobplan.plan(
        """
        - id: path
          for_each: {sql: SELECT n FROM names WHERE n IS DISTINCT FROM 'none', as: s}
          search_path: :"s", public
          sql: INSERT INTO t VALUES (1)
        - id: role
          for_each: {sql: SELECT n FROM names WHERE n = 'none', as: s}
          role: :'s'
          sql: INSERT INTO t VALUES (1)
        """
    )
    ran = jobplan("run", plan, "--dsn", db.dsn)
    assert ran.code == 1
    assert 'search_path: :"s": NULL is not a value here' in ran.err
    assert 'search_path: :"s": an identifier cannot be empty' in ran.err
    assert "role: :'s': `none` is no role" in ran.err
    assert rows(db, "SELECT count(*) FROM t") == [(0,)]
    dry = jobplan("dry-run", plan, "--dsn", db.dsn)
    assert dry.code != 0
    assert "NULL is not a value here" in dry.out + dry.err


def test_a_dry_run_looks_into_the_schema_of_each_item(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE SCHEMA has; CREATE TABLE has.t (x int); CREATE SCHEMA lacks")
    plan = jobplan.plan(
        """
        - id: each
          for_each: {items: [has, lacks], as: s}
          search_path: :"s"
          sql: INSERT INTO t VALUES (1)
        """
    )
    dry = jobplan("dry-run", plan, "--dsn", db.dsn)
    said = dry.out + dry.err
    assert dry.code != 0
    assert said.count("there is no relation t in ") == 1


def test_a_dry_run_reports_which_value_the_server_refuses(jobplan: Jobplan, db: Database) -> None:
    db.run("CREATE TABLE t (x int)")
    plan = jobplan.plan(
        """
        - id: good
          settings: {work_mem: ":'mem'"}
          sql: INSERT INTO t VALUES (1)
        - id: bad
          for_each: {items: [4MB, lots], as: m}
          settings: {work_mem: ":'m'"}
          sql: INSERT INTO t VALUES (2)
        - id: nobody
          role: :"who"
          sql: INSERT INTO t VALUES (1)
        """,
        params="{mem: {type: string, default: 8MB}, who: {type: identifier, default: no_such_role}}",
    )
    dry = jobplan("dry-run", plan, "--dsn", db.dsn)
    said = dry.out + dry.err
    assert dry.code != 0
    assert 'invalid value for parameter "work_mem": "lots"' in said
    assert "no_such_role" in said
    assert "8MB" not in said
