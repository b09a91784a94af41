"""What is wrong with plans, as SARIF 2.1.0: the form that code scanning services read.

Source: the OASIS standard "Static Analysis Results Interchange Format (SARIF) Version 2.1.0".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from runner.errors import Position, Problem, Severity
from runner.slugs import slug_of

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


class Kind(Protocol):
    """What is told about a code."""

    @property
    def severity(self) -> Severity: ...
    @property
    def title(self) -> str: ...
    @property
    def why(self) -> str: ...
    @property
    def wrong(self) -> str: ...
    @property
    def right(self) -> str: ...


def sarif_text(problems: Iterable[Problem], kinds: Mapping[str, Kind], version: str) -> str:
    """Return a log with one run: every code as a rule, every problem as a result. `version` is jobplan's."""
    indexes = {code: index for index, code in enumerate(kinds)}
    run = {
        "tool": {
            "driver": {
                "name": "jobplan",
                "semanticVersion": version,
                "rules": [_rule(code, kind) for code, kind in kinds.items()],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(problem, indexes) for problem in problems],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _rule(code: str, kind: Kind) -> dict[str, Any]:
    return {
        "id": code,
        "name": slug_of(code),
        "shortDescription": {"text": kind.title},
        "fullDescription": {"text": kind.why},
        "help": {
            "text": f"{kind.why}\n\nWrong:\n{kind.wrong}\n\nRight:\n{kind.right}",
            "markdown": f"{kind.why}\n\nWrong:\n```yaml\n{kind.wrong}\n```\nRight:\n```yaml\n{kind.right}\n```\n",
        },
        "defaultConfiguration": {"level": kind.severity.value},
    }


def _result(problem: Problem, indexes: Mapping[str, int]) -> dict[str, Any]:
    text = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
    result: dict[str, Any] = {
        "ruleId": problem.code,
        "level": problem.severity.value,
        "message": {"text": text},
        "locations": [_location(problem.position, problem.step)],
    }
    if problem.code in indexes:
        result["ruleIndex"] = indexes[problem.code]
    return result


def _location(position: Position, step: str | None) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(position.file)},
            "region": {"startLine": position.line, "startColumn": position.column},
        }
    }
    if step is not None:
        location["logicalLocations"] = [{"name": step, "kind": "member"}]
    return location


def _uri(file: str) -> str:
    path = Path(file)
    return path.as_uri() if path.is_absolute() else quote(os.fsencode(path))
