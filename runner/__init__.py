"""jobplan: a declarative YAML job-plan runner for PostgreSQL, on top of the extension pg_background.

The public interface is what `__all__` lists, and `runner.errors`; everything else may change (docs/python-api.md). The
names are loaded when they are first used, so that the command line's `--help` does not wait for a database driver.

`begin_or_resume` is for programs that start a run and may have to start it again, such as a task of a workflow engine:

    result = await runner.begin_or_resume(runner.load_plan("nightly.yaml"), run_id="etl-2026-11-30", dsn="service=app")
    result.origin      # "begun", "resumed", or "done": the run had succeeded before
    result.exit_code   # as the command line's
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from runner._version import installed_version

if TYPE_CHECKING:
    from runner.engine.event_json import to_json as event_json
    from runner.engine.events import Event, RunFinished, StepFinished
    from runner.engine.ports import Sink
    from runner.engine.state import RunState, StepState
    from runner.plan.model import Plan
    from runner.run.api import load_plan, run_plan
    from runner.run.begin_or_resume import begin_or_resume
    from runner.run.loop import RunOrigin, RunResult

__all__ = [
    "Event",
    "Plan",
    "RunFinished",
    "RunOrigin",
    "RunResult",
    "RunState",
    "Sink",
    "StepFinished",
    "StepState",
    "__version__",
    "begin_or_resume",
    "event_json",
    "load_plan",
    "run_plan",
]

_HOMES = {
    "Event": "runner.engine.events",
    "Plan": "runner.plan.model",
    "RunFinished": "runner.engine.events",
    "RunOrigin": "runner.run.loop",
    "RunResult": "runner.run.loop",
    "RunState": "runner.engine.state",
    "Sink": "runner.engine.ports",
    "StepFinished": "runner.engine.events",
    "StepState": "runner.engine.state",
    "begin_or_resume": "runner.run.begin_or_resume",
    "load_plan": "runner.run.api",
    "run_plan": "runner.run.api",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - each name has a type of its own
    if name == "__version__":
        return installed_version()
    if name == "event_json":
        return importlib.import_module("runner.engine.event_json").to_json
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'runner' has no attribute {name!r}")


__version__: str
