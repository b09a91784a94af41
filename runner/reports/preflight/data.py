"""A dry run for programs: one JSON object, with everything that the text shows."""

from __future__ import annotations

import json
from typing import Any

from runner.preflight.result import DryRun, StatementReport
from runner.reports.problems_data import problem_object


def dry_run_json(result: DryRun) -> str:
    """Return the JSON object; every key is always there."""
    return json.dumps(_object(result), indent=2, ensure_ascii=False)


def _object(result: DryRun) -> dict[str, Any]:
    facts = result.facts
    return {
        "plan": result.plan,
        "file": result.file,
        "server": {
            "version": facts.version,
            "extension": facts.extension_version,
            "database": facts.database,
            "role": facts.user,
        },
        "would_start": not result.refused,
        "errors": result.errors,
        "warnings": result.warnings,
        "findings": [problem_object(problem) for problem in result.problems],
        "checks": [
            {"check": one.check.name, "level": one.outcome.level.value, "found": one.outcome.found}
            for one in result.server
        ],
        "statements": [_statement(one) for one in result.statements],
    }


def _statement(one: StatementReport) -> dict[str, Any]:
    return {
        "step": one.step,
        "instance": one.instance,
        "key": one.key,
        "command": one.command,
        "text": one.text,
        "coverage": one.coverage.value,
        "why": list(one.why),
        "notes": list(one.notes),
        "cost": one.cost,
        "rows": one.rows,
        "locks": [{"relation": relation, "mode": mode} for relation, mode in one.locks],
    }
