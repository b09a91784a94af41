"""A dry run reports what is wrong offline and on the server together; only a plan that cannot be read stops it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from runner.cli import main
from runner.cli.dry_run import look, read_to_look
from runner.cli.options import Parameters
from runner.errors import PlanError
from runner.preflight.dry_run import DryRunOptions
from runner.preflight.dry_run_result import DryRun

HEAD = (
    "version: 1\nname: trial\nbudget: {slots: 1}\ndefaults: {timeout: 1m, lock_timeout: 5s, on_finish: wait}\nsteps:\n"
)


def reported(folder: Path, dsn: str, steps: str) -> DryRun:
    """Return the report of a plan of these steps, offline findings included."""
    path = folder / "plan.yaml"
    path.write_text(HEAD + steps, encoding="utf-8")
    readable = read_to_look(path, Parameters().values())
    options = DryRunOptions(found=readable.found, well_formed=readable.well_formed)
    return asyncio.run(look(readable.plan, dsn, options))


def test_an_offline_error_and_one_of_the_server_stand_in_one_report(tmp_path: Path, dsn: str) -> None:
    steps = "  - {id: a, sql: BEGIN}\n  - {id: b, sql: SELECT * FROM no_such_table}\n"
    codes = {problem.code for problem in reported(tmp_path, dsn, steps).problems}
    assert {"JP310", "JP601"} <= codes


def test_errors_of_form_do_not_hide_what_the_server_says(tmp_path: Path, dsn: str) -> None:
    steps = (
        "  - {id: a, needs: [nowhere], sql: SELECT 1}\n"
        "  - {id: b, needs: [c], sql: SELECT 1}\n"
        "  - {id: c, needs: [b], sql: SELECT * FROM no_such_table}\n"
    )
    result = reported(tmp_path, dsn, steps)
    codes = {problem.code for problem in result.problems}
    assert "JP601" in codes
    assert any(code.startswith("JP2") for code in codes)
    assert result.schedule is None


def test_one_syntax_error_is_reported_once(tmp_path: Path, dsn: str) -> None:
    result = reported(tmp_path, dsn, "  - {id: a, sql: SELEC 1}\n")
    assert len([problem for problem in result.problems if problem.step == "a"]) == 1


def test_what_cannot_be_read_at_all_stops_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("steps: [", encoding="utf-8")
    with pytest.raises(PlanError):
        read_to_look(path, Parameters().values())


def test_the_command_reports_both_and_fails(tmp_path: Path, dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(HEAD + "  - {id: a, sql: BEGIN}\n  - {id: b, sql: ANALYZE no_such_table}\n", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["dry-run", str(path), "--dsn", dsn, "--format", "json"])
    found = {one["code"] for one in json.loads(capsys.readouterr().out)["findings"]}
    assert {"JP310", "JP601"} <= found
    assert ended.value.code == 3
