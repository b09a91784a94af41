"""Settings of a database or a role that change how SQL is read or when it is interrupted: outcomes stay true."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from runner import load_plan
from runner.engine import events as ev
from runner.engine.state import StepState
from runner.gateway.ledger.admin import LedgerAdmin
from runner.plan.model import Plan
from runner.structs import replace
from tests.integration.gateway_setups import ask, run_plan, value

#: A text that is code if a backslash escapes a quote.
EVIL = "\\'); DROP TABLE gate; --"
#: Settings that change nothing of what a run does; a worker or a session of jobplan may need to overrule them.
HARMLESS = {
    "standard_conforming_strings": "off",
    "backslash_quote": "on",
    "escape_string_warning": "on",
    "quote_all_identifiers": "on",
    "bytea_output": "escape",
    '"DateStyle"': "German, DMY",
    '"IntervalStyle"': "sql_standard",
    '"TimeZone"': "Pacific/Kiritimati",
    "client_encoding": "LATIN1",
    "lc_messages": "C",
    "lc_numeric": "C",
    "search_path": "",
    "session_replication_role": "replica",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "client_min_messages": "error",
    "extra_float_digits": "-15",
    "xmloption": "document",
    "xmlbinary": "hex",
    "array_nulls": "off",
    "row_security": "off",
    "check_function_bodies": "off",
    "transform_null_equals": "on",
    "synchronous_commit": "off",
    "plan_cache_mode": "force_generic_plan",
    "stats_fetch_consistency": "snapshot",
    "default_toast_compression": "pglz",
    "default_table_access_method": "heap",
    "constraint_exclusion": "on",
    "enable_indexscan": "off",
    "jit": "on",
    "work_mem": "64kB",
    "log_statement": "all",
}
#: Settings that may interrupt a step or a session, or refuse a step.
LIMITING = {
    "default_transaction_read_only": "on",
    "statement_timeout": "700ms",
    "lock_timeout": "1ms",
    "transaction_timeout": "700ms",
    "idle_in_transaction_session_timeout": "50ms",
    "idle_session_timeout": "300ms",
    "temp_file_limit": "0",
}


PLAN = f"""
version: 1
name: settings
budget: {{slots: 5}}
defaults: {{timeout: 20s, on_finish: wait}}
steps:
  - {{id: quick, sql: INSERT INTO public.done VALUES ('quick')}}
  - {{id: fails, sql: INSERT INTO public.done SELECT (1/0)::text}}
  - id: each
    for_each: {{items: [{json.dumps(EVIL)}, "2026-11-30", "x y"]}}
    sql: INSERT INTO public.done VALUES (:'item')
  - {{id: rows, sql: "SELECT true, 7, 'x'::text, NULL::int", capture: {{rows: 1}}}}
"""
#: Longer than the limits.
SLOW = "  - {id: slow, sql: INSERT INTO public.done SELECT 'slow' FROM pg_catalog.pg_sleep(1.2)}\n"
#: What each step writes.
WRITES = {"quick": "quick", "slow": "slow", "fails": ""}


@pytest.fixture
def trial(database: str, tmp_path: Path) -> Plan:
    """The plan, and what it needs in the database."""
    ask(database, "CREATE TABLE public.done (step text); CREATE TABLE public.gate ()")
    ask(database, "GRANT ALL ON public.done TO PUBLIC")
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN + SLOW, encoding="utf-8")
    return load_plan(path)


async def check_truth(database: str, dsn: str, of: Plan) -> dict[str, StepState]:
    """Run the plan and compare its outcomes with the rows that there are; return the states of the steps."""
    result, record = await run_plan(dsn, of, run_id="settings", ledger="jobplan")
    states = {key: one.state for key, one in result.state.records.items()}
    there = [row for (row,) in ask(database, "SELECT step FROM public.done")]
    written = {one.key: one.values["item"] for one in result.state.records.values() if "item" in one.values}
    for key, text in {**WRITES, **written}.items():
        if key in states and states[key] is not StepState.UNKNOWN:
            assert there.count(text) == (states[key] is StepState.SUCCEEDED), (key, states, there)
    (end,) = record.ends("rows")
    if end.outcome is ev.Outcome.SUCCEEDED:
        assert end.result is not None
        assert end.result.rows == (("t", "7", "x", None),)
    assert value(database, "SELECT to_regclass('public.gate') IS NOT NULL"), "a value was executed"
    return states


def quoted(name: str, text: str) -> str:
    """Return `name = value`; a list is not one quoted text."""
    return f"{name} = {text}" if name in ('"DateStyle"', "search_path") else f"{name} = '{text}'"


@pytest.fixture
def with_setting(database: str, new_role: Callable[..., str]) -> Iterator[Callable[[str, str, str], str]]:
    """Return a function that sets a setting of the database or of a new role, and returns that role's connection."""

    def prepare(name: str, text: str, whose: str) -> str:
        # a list is not one quoted text
        setting = f"{name} = {text}" if name == '"DateStyle"' else f"{name} = '{text}'"
        dsn = new_role("", *([setting] if whose == "role" else []))
        LedgerAdmin(database, "jobplan").install("test", [str(conninfo_to_dict(dsn)["user"])])
        if whose == "database":
            ask(database, f"ALTER DATABASE {conninfo_to_dict(database)['dbname']} SET {setting}")
        return dsn

    yield prepare
    writing = make_conninfo(database, options="-c default_transaction_read_only=off")
    ask(writing, f"ALTER DATABASE {conninfo_to_dict(database)['dbname']} RESET ALL")


@pytest.mark.parametrize("whose", ["database", "role"])
@pytest.mark.parametrize("name", HARMLESS)
async def test_a_setting_that_changes_how_sql_is_read_changes_no_outcome(
    database: str, with_setting: Callable[[str, str, str], str], trial: Plan, name: str, whose: str
) -> None:
    quick = replace(trial, steps=tuple(step for step in trial.steps if step.id != "slow"))
    states = await check_truth(database, with_setting(name, HARMLESS[name], whose), quick)
    assert states.pop("fails") is StepState.FAILED
    assert set(states.values()) == {StepState.SUCCEEDED}, states


@pytest.mark.parametrize("whose", ["database", "role"])
@pytest.mark.parametrize("name", LIMITING)
async def test_a_limit_of_the_server_makes_no_outcome_wrong(
    database: str, with_setting: Callable[[str, str, str], str], trial: Plan, name: str, whose: str
) -> None:
    if name == "transaction_timeout" and value(database, "SHOW server_version_num") < "170000":
        return
    states = await check_truth(database, with_setting(name, LIMITING[name], whose), trial)
    assert states.pop("fails") is StepState.FAILED
    refuses = name == "default_transaction_read_only"
    assert {states["quick"], states["slow"]} == {StepState.FAILED if refuses else StepState.SUCCEEDED}, states
