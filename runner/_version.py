"""The version of the installed distribution."""

from __future__ import annotations

import importlib


def installed_version() -> str:
    """Return the version; importlib.metadata is imported here, because it is slow to import and seldom needed."""
    version: str = importlib.import_module("importlib.metadata").version("jobplan")
    return version
