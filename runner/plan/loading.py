"""Load a plan from its file. All code that needs a plan uses `load_plan`."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.errors import Problem
from runner.plan.build import Inputs, build_plan
from runner.plan.declarations import raw_value
from runner.plan.document import read
from runner.plan.model import Plan
from runner.plan.report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The result of loading a file: the plan if there is no error, and every problem, in file order.

    `draft` is the plan as far as it could be built, also with errors; only its single SQL texts are reliable. None if
    the file could not be read. `unjudged` is the plan if its form has no error, also if rules about its SQL find some.
    """

    plan: Plan | None
    problems: tuple[Problem, ...]
    draft: Plan | None = None
    unjudged: Plan | None = None


def load_plan(
    path: str | Path,
    *,
    given: Mapping[str, str] | None = None,
    params_file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    require_values: bool = False,
) -> Loaded:
    """Read a plan, with every problem that it has; nothing in the file can make this raise.

    `given` are `--param` texts, `params_file` a YAML or JSON mapping, `environment` the process's environment, in that
    order of precedence. `require_values` makes a parameter without any value an error.
    """
    report = Report()
    plan = None
    with without_collection():
        root = read(Path(path), str(path), report)
        file_values = {} if params_file is None else _read_values(Path(params_file), report)
        if root is not None:
            inputs = Inputs(
                given=given or {},
                file_values=file_values,
                environment=environment or {},
                require_values=require_values,
            )
            plan = build_plan(root, Path(path), report, inputs)
    valid = None if report.has_errors else plan
    return Loaded(plan=valid, problems=report.problems(), draft=plan, unjudged=valid)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Pause the garbage collector: a large plan has a million objects and no cycles; collection doubles the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read_values(path: Path, report: Report) -> dict[str, object]:
    """Return a params file's values; they are checked when the plan is built."""
    root = read(path, str(path), report, hint="a params file has `name: value` on each line", pipe=True)
    return {} if root is None else {name: raw_value(node) for name, node in root.values.items()}
