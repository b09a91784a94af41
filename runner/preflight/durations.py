"""How long steps take: from what earlier runs have recorded, or from what a person assumes.

A source is anything that answers `of`; journals, the ledger and assumptions are such sources, and the first that knows
is believed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

#: Runs that are looked at, the latest ones: what was true a year ago says little about tonight.
MAX_RUNS = 30
#: Bytes of a journal beyond which it is left alone.
_MAX_BYTES = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Seconds that a step takes, as the median and the 95th percentile of `runs` runs; 0 runs: it is assumed."""

    p50: float
    p95: float
    runs: int = 0


class Durations(Protocol):
    """Knows how long steps take."""

    def of(self, step: str) -> Duration | None:
        """Return how long a step, or an instance of one (`vacuum[orders]`), takes; None if that is not known."""
        ...


class KnownDurations:
    """Durations by step or instance; an instance without its own takes as long as its step."""

    def __init__(self, known: Mapping[str, Duration]) -> None:
        self._known = known

    def of(self, step: str) -> Duration | None:
        """Return the duration of the instance, else that of its step."""
        found = self._known.get(step)
        return found if found is not None else self._known.get(step.partition("[")[0])


class FirstOf:
    """Several sources; the first that knows a step is believed."""

    def __init__(self, sources: Sequence[Durations]) -> None:
        self._sources = sources

    def of(self, step: str) -> Duration | None:
        """Return what the first source that knows the step says."""
        answers = (source.of(step) for source in self._sources)
        return next((answer for answer in answers if answer is not None), None)


def of_samples(samples: Sequence[float]) -> Duration:
    """Return the percentiles of at least one sample, by the nearest rank."""
    ordered = sorted(samples)

    def rank(share: float) -> float:
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    return Duration(p50=rank(0.5), p95=rank(0.95), runs=len(ordered))


def recorded(root: Path, plan: str) -> KnownDurations:
    """Return what the journals below `root` say of a plan's steps: the steps that succeeded, in the latest runs.

    A journal that cannot be read says nothing.
    """
    samples: dict[str, list[float]] = defaultdict(list)
    journals = sorted(root.glob("*/events.jsonl"), key=_age)[:MAX_RUNS] if root.is_dir() else []
    for journal in journals:
        for step, seconds in _durations(_events(journal), plan):
            samples[step].append(seconds)
    return KnownDurations({step: of_samples(found) for step, found in samples.items()})


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return
        with path.open("rb") as file:
            for line in file:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict):
                    yield event
    except OSError:
        return


def _durations(events: Iterable[Mapping[str, Any]], plan: str) -> Iterator[tuple[str, float]]:
    """Yield each step that succeeded with the seconds from its first launch to its end, pauses and retries included."""
    began: dict[str, float] = {}
    for event in events:
        name, step = event.get("event"), event.get("step")
        if name == "run_started" and event.get("plan") != plan:
            return
        if name == "attempt_launching" and isinstance(step, str):
            began.setdefault(step, _moment(event))
        elif name == "step_finished" and event.get("state") == "succeeded" and step in began:
            seconds = _moment(event) - began[str(step)]
            if seconds >= 0:
                yield str(step), seconds


def _moment(event: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(event.get("at"))).timestamp()
    except ValueError:
        return 0.0
