"""What is known of an earlier run of a plan, wherever it was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """An earlier run of the plan: for each step that was launched, its seconds and its last state.

    `started_at` is in seconds since the epoch. The seconds are those from the first launch to the last attempt's end.
    """

    run: str
    started_at: float
    steps: Mapping[str, tuple[float, str]]
