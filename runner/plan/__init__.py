"""The plan language: from a YAML file to a frozen, checked plan, or to everything that is wrong with it."""

from __future__ import annotations

from runner.plan.loading import Loaded, load_plan

__all__ = ["Loaded", "load_plan"]
