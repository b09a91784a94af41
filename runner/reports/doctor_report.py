"""The report of `jobplan doctor`: a line for each check; for failed checks what is needed and how to fix it. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from runner.gateway.server_facts import ServerFacts
from runner.phrases import counted
from runner.preflight.doctor import Examined, Level
from runner.reports.plan_problems import Style
from runner.reports.terminal_text import visible
from runner.structs import picked

_TINTS = {Level.OK: "32", Level.WARNING: "1;33", Level.ERROR: "1;31", Level.UNKNOWN: "2"}
_WIDTH = max(len(level.value) for level in Level)


def doctor_lines(examined: Sequence[Examined], facts: ServerFacts, style: Style) -> Iterator[str]:
    """Yield the table of checks and, last, the verdict on the server."""
    name_width = max(len(one.check.name) for one in examined)
    for one in examined:
        outcome = one.outcome
        level = style.paint(outcome.level.value.ljust(_WIDTH), _TINTS[outcome.level])
        yield f"{level}  {one.check.name.ljust(name_width)}  {visible(outcome.found)}"
        if outcome.level in (Level.WARNING, Level.ERROR):
            margin = " " * (_WIDTH + name_width + 4)
            yield f"{margin}needed: {visible(outcome.needed)}"
            yield f"{margin}fix:    {visible(outcome.mend)}"
    yield ""
    yield visible(_verdict_line(examined, facts))


def _verdict_line(examined: Iterable[Examined], facts: ServerFacts) -> str:
    """Return in one line whether plans can run on the server."""
    levels = Counter(one.outcome.level for one in examined)
    where = f'PostgreSQL {facts.version}, database "{facts.database}", role "{facts.user}"'
    bad = [level for level in (Level.ERROR, Level.WARNING) if levels[level]]
    summary = " and ".join(counted(levels[level], level) for level in bad)
    ready = "not ready" if levels[Level.ERROR] else "ready"
    return f"{where}: {ready}{f', {summary}' if summary else ''}."


def doctor_json(examined: Iterable[Examined], facts: ServerFacts) -> str:
    """Return a JSON object: the server, and for every check what was found, what is needed and how to fix it."""
    checks = checks_data(examined)
    document = {
        "server_version": facts.version,
        "database": facts.database,
        "role": facts.user,
        "ready": all(one["level"] != Level.ERROR.value for one in checks),
        "checks": checks,
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def checks_data(examined: Iterable[Examined]) -> list[dict[str, Any]]:
    """Return the checks of a server as data for JSON."""
    return [
        {
            "check": one.check.name,
            "code": one.check.code,
            "level": one.outcome.level.value,
            **picked(one.outcome, "found", "needed"),
            "mend": one.outcome.mend or None,
        }
        for one in examined
    ]
