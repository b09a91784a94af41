"""A dry run for programs: one JSON object, with everything that the text shows."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from runner.preflight.result import DryRun, StatementReport
from runner.preflight.schedule import Schedule
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
        "would_skip": result.skipped,
        "errors": result.errors,
        "warnings": result.warnings,
        "findings": [problem_object(problem) for problem in result.problems],
        "checks": [
            {
                "check": one.check.name,
                "code": one.check.code,
                "level": one.outcome.level.value,
                "found": one.outcome.found,
                "needed": one.outcome.needed,
                "mend": one.outcome.mend or None,
            }
            for one in result.server
        ],
        "statements": [_statement(one) for one in result.statements],
        "locks": [dataclasses.asdict(one) for one in result.locks],
        "schedule": None if result.schedule is None else _schedule(result.schedule),
    }


def _schedule(schedule: Schedule) -> dict[str, Any]:
    """Times are seconds; without any known duration they mean nothing but the order."""
    return {
        "known": not schedule.nothing_known,
        "makespan": schedule.makespan,
        "makespan_p95": schedule.makespan_p95,
        "lower_bound": schedule.lower_bound,
        "critical_path": list(schedule.critical),
        "unknown": list(schedule.unknown),
        "steps": [
            {"step": bar.step, "ready": bar.ready, "start": bar.start, "end": bar.end, "known": bar.known}
            for bar in schedule.bars
        ],
        "what_if": [{"slots": one.slots, "makespan": one.makespan} for one in schedule.tried],
        "enough_slots": schedule.enough,
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
        "codes": list(one.codes),
        "cost": one.cost,
        "rows": one.rows,
        "locks": [{"relation": relation, "mode": mode} for relation, mode in one.locks],
    }
