"""jobplan: a declarative YAML job-plan runner for PostgreSQL, on top of the extension pg_background.

The public surface is `load_plan`, `run_plan` and their types; everything else may change. Both are loaded when they are
first used, so that the command line's `--help` does not wait for a database driver.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from runner._version import installed_version

if TYPE_CHECKING:
    from runner.run.api import load_plan, run_plan

__all__ = ["__version__", "load_plan", "run_plan"]

_HOMES = {"load_plan": "runner.run.api", "run_plan": "runner.run.api"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type of whatever is asked for
    if name == "__version__":
        return installed_version()
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'runner' has no attribute {name!r}")


__version__: str
