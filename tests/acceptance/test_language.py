"""Every key of the plan language does its work on a real server.

The plans in `language/` say themselves what must come of them: `x-expect` of a step holds its state (succeeded unless
it says otherwise), a pattern of its error, the number of its attempts, captured rows, and SQL that looks into the
database and must give true; `shows` names the keys of the language that this proves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.console import Database, Jobplan, Ran, until

FOLDER = Path(__file__).parent / "language"
PLANS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yaml"))}

#: What every plan finds in its database.
WORLD = """
    CREATE TABLE log (what text, value text, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE numbers AS SELECT n FROM generate_series(1, 25) AS n;
    CREATE SEQUENCE tries;
    CREATE TABLE span (step text, began timestamptz, ended timestamptz);
    CREATE FUNCTION work(step text, seconds float8) RETURNS void LANGUAGE plpgsql AS $$
      DECLARE began timestamptz := clock_timestamp();
      BEGIN
        PERFORM pg_sleep(seconds);
        INSERT INTO span VALUES (step, began, clock_timestamp());
      END $$;
    CREATE FUNCTION smuggle() RETURNS boolean LANGUAGE sql AS $$ INSERT INTO log VALUES ('smuggled') RETURNING true $$;
    CREATE FUNCTION at_once(pattern text) RETURNS bigint LANGUAGE sql AS $$
      SELECT max((SELECT count(*) FROM span b WHERE b.step ~ pattern AND b.began <= a.began AND b.ended > a.began))
      FROM span a WHERE a.step ~ pattern $$;
"""

#: Keys that other tests show at work.
ELSEWHERE = {
    "on_runner_exit": "test_run_signals",
    "lock_timeout": "test_run_outcomes",
    "concurrency.on_conflict": "test_run_outcomes",
    "requires": "test_run_refused",
    "touches": "the lock rules of validate",
    "yield_after": "test_holds",
    "window": "test_windows",
    "on_retry": "test_between_attempts",
    "leftovers": "test_between_attempts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A plan that has run, and where."""

    ran: Ran
    events: list[dict[str, Any]]
    db: Database

    def of(self, step: str, event: str) -> list[dict[str, Any]]:
        """Return a step's events of one kind."""
        return [item for item in self.events if item["event"] == event and item.get("step") == step]


@pytest.fixture(scope="module")
def play(
    new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Played]]:
    """Run a plan, the first time it is asked for."""
    played: dict[str, Played] = {}

    def once(name: str) -> Played:
        if name not in played:
            jobplan, db = Jobplan(tmp_path_factory.mktemp(name)), Database(new_database())
            db.run(WORLD)
            db.run(PLANS[name].get("x-setup", "SELECT 1"))
            arguments = PLANS[name].get("x-arguments", [])
            plan = FOLDER / f"{name}.yaml"
            ran = jobplan("run", plan, "--dsn", db.dsn, "--report", "jsonl=events.jsonl", *arguments)
            played[name] = Played(ran=ran, events=jobplan.events(), db=db)
        assert played[name].ran.code in (0, 1, 7), played[name].ran.err
        return played[name]

    yield once
    for item in played.values():
        item.db.run("DROP OWNED BY jobplan_language" if item.db.value(HAS_ROLE) else "SELECT 1")
        item.db.close()


HAS_ROLE = "SELECT count(*) = 1 FROM pg_roles WHERE rolname = 'jobplan_language'"


def steps_of(plan: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the id of every step that expects something, and what."""
    for step in (*plan["steps"], *plan.get("finally", ())):
        if "x-expect" in step:
            yield step["id"], step["x-expect"]


def true_in(db: Database, sql: str | list[str]) -> None:
    """Hold the database to what the SQL says."""
    for query in [sql] if isinstance(sql, str) else sql:
        assert db.value(query) is True, query


@pytest.mark.parametrize(("name", "step"), [(name, step) for name, plan in PLANS.items() for step, _ in steps_of(plan)])
def test_a_step_does_what_its_keys_say(play: Callable[[str], Played], name: str, step: str) -> None:
    played, expected = play(name), dict(steps_of(PLANS[name]))[step]
    final = played.events[-1]["steps"]
    ends = [*played.of(step, "step_finished"), *played.of(step, "step_skipped")]
    assert final[step] == expected.get("state", "succeeded"), ends
    if "error" in expected:
        assert re.search(expected["error"], ends[-1]["error"]["message"])
    if "reason" in expected:
        assert ends[-1]["reason"] == expected["reason"]
    if "attempts" in expected:
        assert len(played.of(step, "attempt_launching")) == expected["attempts"]
    for instance, state in expected.get("instances", {}).items():
        assert final[instance] == state
    if "rows" in expected:
        result = played.of(step, "attempt_finished")[-1]["result"]
        assert result["rows"] == expected["rows"]
        assert result["columns"] == expected.get("columns", result["columns"])
    if "delays" in expected:
        assert [delay_of(event) for event in played.of(step, "step_retrying")] == expected["delays"]
    true_in(played.db, expected.get("sql", []))
    if "sql_later" in expected:
        until(lambda: bool(played.db.value(expected["sql_later"])))


def delay_of(event: dict[str, Any]) -> float:
    """Return the seconds between a failed attempt and the next one, as planned."""
    seconds = [float(event[key].rpartition(":")[2].rstrip("Z")) for key in ("at", "until")]
    return round((seconds[1] - seconds[0]) % 60, 2)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_ends_as_it_says(play: Callable[[str], Played], name: str) -> None:
    played, expected = play(name), PLANS[name]["x-expect"]
    assert played.ran.code == played.events[-1]["exit_code"] == expected["exit_code"], played.ran.err
    true_in(played.db, expected.get("sql", []))


def test_every_key_of_the_language_is_shown_at_work() -> None:
    schema = json.loads((FOLDER.parents[2] / "schemas" / "plan-v1.schema.json").read_text(encoding="utf-8"))
    definitions = schema["definitions"]
    keys = {key for key in schema["properties"] if key != "$schema"} | set(definitions["step"]["properties"])
    expectations = [expected for plan in PLANS.values() for _, expected in steps_of(plan)]
    expectations += [plan["x-expect"] for plan in PLANS.values()]
    shown = {key for expected in expectations for key in expected.get("shows", ())}
    assert keys - shown - set(ELSEWHERE) == set()
