"""A loop that catches query_canceled cannot be stopped, and validate, status and cancel report it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.engine import events as ev
from runner.engine.events import Worker
from runner.engine.server_activity import LiveWorker
from runner.engine.state import initial_state
from runner.lint import check_plan
from runner.reports.messages import Verbosity, event_lines
from runner.reports.status_report import worker_data, worker_words
from runner.sql.plpgsql_bodies import catching_loop
from runner.sql.statements import parse_statements
from tests.builders import looked_label, plan, step

_LOOP = "FOR i IN 1..9 LOOP BEGIN PERFORM pg_sleep(9); EXCEPTION WHEN {} THEN {}; END; END LOOP;"


def _caught(body: str, head: str = "DO $$ BEGIN", tail: str = "END $$") -> bool:
    sql = f"{head} {body} {tail}"
    (statement,) = parse_statements(sql)
    place = catching_loop(statement, sql)
    assert place is None or sql[place:].upper().startswith("WHEN")
    return place is not None


@pytest.mark.parametrize(
    "condition",
    [
        *("query_canceled", "QUERY_CANCELED", "operator_intervention", "SQLSTATE '57014'", "sqlstate '57000'"),
        *("OTHERS OR query_canceled", "division_by_zero OR query_canceled OR OTHERS"),
        "unique_violation THEN NULL; WHEN query_canceled",
    ],
)
def test_a_handler_in_a_loop_catches_the_cancel(condition: str) -> None:
    assert _caught(_LOOP.format(condition, "NULL"))
    assert _caught(_LOOP.format(condition, "RAISE NOTICE 'go on'; CONTINUE"))
    assert _caught(f"WHILE true LOOP {_LOOP.format(condition, 'NULL')} END LOOP;")


@pytest.mark.parametrize("condition", ["OTHERS", "assert_failure", "SQLSTATE '57P01'", "lock_not_available"])
def test_others_does_not_catch_a_cancel(condition: str) -> None:
    assert not _caught(_LOOP.format(condition, "NULL"))


@pytest.mark.parametrize(
    "does", ["RAISE", "RAISE EXCEPTION 'no'", "EXIT", "RETURN", "RAISE NOTICE 'x'; RAISE", "RAISE query_canceled"]
)
def test_a_handler_that_leaves_the_loop_can_be_stopped(does: str) -> None:
    assert not _caught(_LOOP.format("query_canceled", does))


@pytest.mark.parametrize(
    "body",
    [
        "FOR i IN 1..9 LOOP PERFORM pg_sleep(9); END LOOP; EXCEPTION WHEN query_canceled THEN NULL;",
        "PERFORM pg_sleep(9); EXCEPTION WHEN query_canceled THEN NULL;",
        "FOR i IN 1..9 LOOP PERFORM 'WHEN query_canceled THEN'; END LOOP;",
        "FOR i IN 1..9 LOOP -- EXCEPTION WHEN query_canceled THEN\n PERFORM 1; END LOOP;",
        "FOR i IN 1..9 LOOP CASE i WHEN 1 THEN NULL; ELSE NULL; END CASE; END LOOP;",
    ],
)
def test_a_handler_outside_of_a_loop_ends_it(body: str) -> None:
    assert not _caught(body)


@pytest.mark.parametrize("head", ["CREATE FUNCTION f() RETURNS void", "CREATE OR REPLACE PROCEDURE p()"])
@pytest.mark.parametrize(("language", "caught"), [("plpgsql", True), ("plpython3u", False)])
def test_bodies_that_a_plan_creates_are_read_too(head: str, language: str, *, caught: bool) -> None:
    head = f"{head} LANGUAGE {language} AS $f$ BEGIN"
    assert _caught(_LOOP.format("query_canceled", "NULL"), head, "END $f$") is caught


def test_validate_warns(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "version: 1\nname: n\nbudget: {slots: 1}\ndefaults: {timeout: 1m, on_finish: wait}\nsteps:\n"
        "  - id: a\n    sql: |\n      DO $$ BEGIN\n"
        "        " + _LOOP.format("query_canceled", "NULL") + "\n      END $$\n",
        encoding="utf-8",
    )
    (problem,) = [problem for problem in check_plan(plan).problems if problem.code == "JP363"]
    assert problem.severity == "warning"
    assert problem.position.line == 9
    assert "no cancel and no timeout ends it" in problem.message


def _live(query: str) -> LiveWorker:
    return LiveWorker(
        worker=Worker(pid=7, backend_start="", application_name="jobplan:r:a"),
        run="r",
        database="d",
        user="u",
        label=looked_label("r", "a"),
        started_at=100.0,
        state="active",
        query=query,
    )


def test_status_promises_no_end_that_the_text_prevents() -> None:
    catches = _live("DO $$ BEGIN " + _LOOP.format("query_canceled", "NULL"))
    assert "its SQL catches query_canceled: its timeout and a cancel may have no effect" in worker_words(catches, 101.0)
    assert "ends within" not in worker_words(catches, 101.0)
    assert worker_data(catches, 101.0)["catches_cancel"] is True
    plain = _live("DO $$ BEGIN " + _LOOP.format("OTHERS", "NULL"))
    assert "ends within" in worker_words(plain, 101.0)
    assert worker_data(plain, 101.0)["catches_cancel"] is False


@pytest.mark.parametrize(
    ("condition", "words"), [("query_canceled", "so the cancel may have no effect"), ("OTHERS", "")]
)
def test_progress_says_so_when_the_worker_is_asked_to_stop(condition: str, words: str) -> None:
    text = f"DO $$ BEGIN {_LOOP.format(condition, 'NULL')} END $$"
    state = initial_state(plan(step("a", text)))
    event = ev.AttemptCancelRequested(at=1.0, step="a", attempt=1, reason=ev.CancelReason.INTERRUPT)
    (line,) = event_lines(event, state, Verbosity.NORMAL, "r")
    assert line.startswith("a: cancel requested (interrupt)")
    assert line.endswith(words or "(interrupt)")
