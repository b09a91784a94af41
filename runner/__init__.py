"""jobplan: a declarative YAML job-plan runner for PostgreSQL, on top of the pg_background extension."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("jobplan")
