"""docs/from-a-script.md: the script and the plan of the page leave the same behind, and fail in the same case."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from runner.embedded import EmbeddedServer, start_server
from tests.acceptance.console import Database, Jobplan, clean_environment, until

PAGE = (Path(__file__).parents[2] / "docs" / "from-a-script.md").read_text(encoding="utf-8")
(SCRIPT,) = re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
(PLAN,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)

SETUP = """
CREATE EXTENSION IF NOT EXISTS pg_background;
CREATE TABLE orders (id int PRIMARY KEY, day date NOT NULL, total numeric NOT NULL, tax numeric);
INSERT INTO orders SELECT n, current_date - n % 30, n, CASE WHEN n % 10 = 0 THEN round(n * 0.19, 2) END
  FROM generate_series(1, 4500) AS n;
CREATE TABLE events (at timestamptz NOT NULL, kind text) PARTITION BY RANGE (at);
DO $$
DECLARE day date;
BEGIN
  FOREACH day IN ARRAY ARRAY[current_date - 200, current_date - 91, current_date - 90, current_date] LOOP
    EXECUTE format('CREATE TABLE events_%s PARTITION OF events FOR VALUES FROM (%L) TO (%L)',
                   to_char(day, 'YYYYMMDD'), day, day + 1);
  END LOOP;
END $$;
CREATE MATERIALIZED VIEW daily_sales AS SELECT day, sum(total) AS total, sum(tax) AS tax FROM orders GROUP BY day;
CREATE UNIQUE INDEX ON daily_sales (day);
"""

#: What a night leaves behind.
LEFT = {
    "partitions": "SELECT array_agg(relname::text ORDER BY relname) FROM pg_class WHERE relname ~ '^events_'",
    "orders": "SELECT md5(string_agg(o::text, ',' ORDER BY id)) FROM orders AS o",
    "sales": "SELECT md5(string_agg(s::text, ',' ORDER BY day)) FROM daily_sales AS s",
    "vacuumed": "SELECT count(*) FROM pg_stat_user_tables WHERE relname = 'orders' AND last_vacuum IS NOT NULL"
    " AND last_analyze IS NOT NULL",
}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with start_server(progress=print) as started:
        with psycopg.connect(started.dsn, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET timezone = 'UTC'")
            connection.execute("SELECT pg_reload_conf()")
        yield started


@pytest.fixture
def databases(server: EmbeddedServer) -> Iterator[dict[str, Database]]:
    """The database of the script and that of the plan, with the same contents."""
    with contextlib.ExitStack() as stack, psycopg.connect(server.dsn, autocommit=True) as admin:
        found = {}
        for name in ("by_script", "by_plan"):
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
            admin.execute(f"CREATE DATABASE {name}".encode())
            found[name] = Database(psycopg.conninfo.make_conninfo(server.dsn, dbname=name))
            stack.callback(found[name].close)
            found[name].run(SETUP)
        yield found


def run_script(server: EmbeddedServer, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script as cron does; `mail` writes into the folder."""
    (folder / "bin").mkdir()
    mail = folder / "bin" / "mail"
    mail.write_text(f'#!/bin/sh\necho "$@" > {folder}/mail; cat >> {folder}/mail\n', encoding="utf-8")
    mail.chmod(0o755)
    where = psycopg.conninfo.conninfo_to_dict(server.dsn)
    environment = {
        "PATH": f"{folder / 'bin'}:{server.bin_dir}:{os.environ['PATH']}",
        "PGHOST": str(where["host"]),
        "PGPORT": str(where["port"]),
        "PGUSER": str(where["user"]),
        "PGDATABASE": "by_script",
        "LOG": str(folder / "log"),
        "LOCK": str(folder / "lock"),
        "PAUSE": "0",
    }
    return subprocess.run(
        ["bash", "-c", SCRIPT],
        cwd=folder,
        env=clean_environment(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_plan(jobplan: Jobplan, database: Database) -> int:
    (jobplan.folder / "nightly.yaml").write_text(PLAN, encoding="utf-8")
    return jobplan("run", "nightly.yaml", "--dsn", database.dsn, "--or-resume").code


def test_the_plan_is_valid_and_its_dry_run_finds_nothing(jobplan: Jobplan, databases: dict[str, Database]) -> None:
    (jobplan.folder / "nightly.yaml").write_text(PLAN, encoding="utf-8")
    assert jobplan("validate", "--strict", "nightly.yaml").code == 0
    ran = jobplan("dry-run", "nightly.yaml", "--dsn", databases["by_plan"].dsn)
    assert ran.code == 0, ran.out
    assert "no problem found" in ran.out


def test_script_and_plan_leave_the_same_behind(
    jobplan: Jobplan, server: EmbeddedServer, databases: dict[str, Database], tmp_path: Path
) -> None:
    done = run_script(server, tmp_path)
    assert done.returncode == 0, (tmp_path / "log").read_text(encoding="utf-8")
    assert run_plan(jobplan, databases["by_plan"]) == 0
    databases["by_plan"].until_workers()
    until(lambda: databases["by_script"].value(LEFT["sales"]) == databases["by_plan"].value(LEFT["sales"]))
    for what, query in LEFT.items():
        script, plan = (databases[name].value(query) for name in ("by_script", "by_plan"))
        assert script == plan, what
    assert len(databases["by_plan"].value(LEFT["partitions"])) == 3
    assert databases["by_plan"].value("SELECT count(*) FROM orders WHERE tax IS NULL") == 0
    assert databases["by_plan"].value(LEFT["vacuumed"]) == 1
    assert not (tmp_path / "mail").exists()


def test_a_check_that_fails_fails_both(
    jobplan: Jobplan, server: EmbeddedServer, databases: dict[str, Database], tmp_path: Path
) -> None:
    for one in databases.values():
        one.run("UPDATE orders SET tax = 1 WHERE id = 10")
    assert run_script(server, tmp_path).returncode == 1
    assert "1 orders have a wrong tax" in (tmp_path / "mail").read_text(encoding="utf-8")
    assert run_plan(jobplan, databases["by_plan"]) == 1
    shown = jobplan("show", "last").out
    assert "tax_is_right" in shown
    assert "expected 0, got 1" in shown
    databases["by_plan"].run("UPDATE orders SET tax = round(total * 0.19, 2) WHERE id = 10")
    assert run_plan(jobplan, databases["by_plan"]) == 0
    assert jobplan("show", "last", "--step", "tax_is_right").out.count("succeeded") >= 1


def test_each_command_and_key_that_the_page_names_exists(jobplan: Jobplan) -> None:
    words = set(re.findall(r"^\s*\$ jobplan ([a-z-]+)", PAGE, re.MULTILINE))
    assert words == {"validate", "doctor", "dry-run", "run", "show"}
    for word in words:
        assert jobplan(word, "--help").code == 0
