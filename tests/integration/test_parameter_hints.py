"""What the rules about parameters advise is done on a real server: the value arrives."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from runner.lint import check_plan
from tests.acceptance.console import Jobplan

STEP = """version: 1
name: advised
budget: {{slots: 1}}
defaults: {{timeout: 20s, on_finish: wait, lock_timeout: 5s}}
params:
  days: {{type: integer, default: 30}}
  who: {{type: string, default: "it's $$ me"}}
steps:
  - id: a
    sql: |
      {sql}
    {key}
"""
HERE = "INSERT INTO seen SELECT "


@pytest.mark.parametrize(
    ("written", "advised", "key", "value"),
    [
        (HERE + "interval ':days days'", HERE + "make_interval(days => :days)", None, "30 days"),
        (HERE + "interval ':days hours'", HERE + "make_interval(hours => :days)", None, "30:00:00"),
        (HERE + "interval ':days sec'", HERE + "make_interval(secs => :days)", None, "00:00:30"),
        (HERE + "interval ':days month'", HERE + "make_interval(months => :days)", None, "2 years 6 mons"),
        (HERE + "'for :who.'", HERE + "'for ' || :'who' || '.'", None, "for it's $$ me."),
        (
            "DO $x$ BEGIN INSERT INTO seen SELECT :days + 1; END $x$",
            "DO $x$ BEGIN INSERT INTO seen SELECT current_setting('app.days')::int + 1; END $x$",
            "settings",
            "31",
        ),
        (
            "DO $x$ BEGIN INSERT INTO seen SELECT :'who'; END $x$",
            "DO $x$ BEGIN INSERT INTO seen SELECT current_setting('app.who'); END $x$",
            "settings",
            "it's $$ me",
        ),
    ],
)
def test_the_advised_form_gives_the_value(
    tmp_path: Path, database: str, written: str, advised: str, key: str | None, value: str
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(STEP.format(sql=written, key=""), "utf-8")
    (hint,) = [problem.hint or "" for problem in check_plan(path).problems if problem.code in ("JP306", "JP381")]
    settings = re.search(r"settings: \{.*?\}(?=`)", hint)
    assert (settings is not None) is (key == "settings")
    for piece in re.findall(r"make_interval\([^)]*\)|current_setting\('[^']*'\)(?:::int)?", hint):
        assert piece in advised
    path.write_text(STEP.format(sql=advised, key=settings.group() if settings else ""), "utf-8")
    assert [problem for problem in check_plan(path).problems if problem.code == "JP381"] == []
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE seen (v text)")
        command = Jobplan(tmp_path)
        ran = command("run", path, "--dsn", database)
        assert ran.code == 0, ran.err
        assert connection.execute("SELECT v FROM seen").fetchall() == [(value,)]
