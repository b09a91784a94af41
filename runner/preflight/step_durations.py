"""How long steps take: from the records of previous runs, or from --assume.

A source has the method `of`; journals, the ledger and assumptions are sources, and the first one that has a duration is
used.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from runner.engine.previous_runs import StepTimes
from runner.errors import JobplanError
from runner.gateway.inspection import Inspector
from runner.gateway.server_facts import RecordedDuration
from runner.identity import is_of_chain, written_key
from runner.plan.groups import written_out
from runner.plan.model import Fit, Plan
from runner.structs import Struct

#: How many of the latest runs are read: older durations say little about the next run.
MAX_RUNS = 30
#: Journals larger than this, in bytes, are not read.
_MAX_BYTES = 50_000_000


class Duration(Struct, frozen=True, kw_only=True):
    """Seconds that a step takes, as the median and the 95th percentile of `runs` runs; 0 runs: it is assumed.

    That is the whole step, with retries, iterations and pauses. A timeout limits one attempt: `attempt_p95` is the 95th
    percentile of those that succeeded, None if none is recorded.
    """

    p50: float
    p95: float
    runs: int = 0
    attempt_p95: float | None = None


class Durations(Protocol):
    """A source of durations."""

    def of(self, step: str) -> Duration | None:
        """Return how long a step, or an instance of one (`vacuum[orders]`), takes; None if it is unknown."""
        ...


class KnownDurations:
    """Durations by step or instance; an instance without a duration takes as long as its step.

    `attempts` are those of single attempts, and of iterations: also of steps that have never been finished.
    """

    def __init__(self, known: Mapping[str, Duration], attempts: Mapping[str, Duration] | None = None) -> None:
        self._known = known
        self._attempts = attempts or {}

    def usual(self, plan: Plan) -> Mapping[str, Duration]:
        """Return how long the steps of a plan take, by step or instance; for a repeat, how long an iteration takes."""
        written = written_out(plan).steps
        repeats = {step.id for step in written if step.repeat is not None}
        steps = {step.id for step in written} - repeats
        found = {key: one for key, one in self._known.items() if written_key(key) in steps}
        return found | {key: one for key, one in self._attempts.items() if written_key(key) in repeats}

    def of(self, step: str) -> Duration | None:
        """Return the duration of the instance, else that of its step."""
        found = self._known.get(step)
        return found if found is not None else self._known.get(written_key(step))


class FirstOf:
    """Several sources; the first one that has a step is used."""

    def __init__(self, sources: Sequence[Durations]) -> None:
        self._sources = sources

    def of(self, step: str) -> Duration | None:
        """Return the duration from the first source that has the step."""
        answers = (source.of(step) for source in self._sources)
        return next((answer for answer in answers if answer is not None), None)


class MostRuns:
    """Several records of the same steps; the one with the most runs is used, the first of equal ones."""

    def __init__(self, sources: Sequence[Durations]) -> None:
        self._sources = sources

    def of(self, step: str) -> Duration | None:
        """Return the duration from the source with the most runs of the step."""
        answers = [source.of(step) for source in self._sources]
        return max((answer for answer in answers if answer is not None), key=lambda one: one.runs, default=None)


def of_samples(samples: Sequence[float], attempts: Sequence[float] = ()) -> Duration:
    """Return the percentiles of at least one sample, and of the attempts if there are any."""
    return Duration(
        p50=_percentile(samples, 0.5),
        p95=_percentile(samples, 0.95),
        runs=len(samples),
        attempt_p95=_percentile(attempts, 0.95) if attempts else None,
    )


def _percentile(samples: Sequence[float], share: float) -> float:
    """Interpolate as the server's percentile_cont does, so that journal and ledger agree."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def from_ledger(found: Mapping[str, RecordedDuration]) -> KnownDurations:
    """Return the durations from the ledger in the database."""
    return KnownDurations(
        {
            step: Duration(p50=one.p50, p95=one.p95, runs=one.runs, attempt_p95=one.attempt_p95)
            for step, one in found.items()
            if one.runs
        },
        {
            step: Duration(p50=one.attempt_p50, p95=one.attempt_p95, runs=one.attempts)
            for step, one in found.items()
            if one.attempt_p50 is not None and one.attempt_p95 is not None
        },
    )


async def read_usual_durations(
    plan: Plan, conninfo: str, *, journals: Path | None, ledger: bool, trusted_roles: Sequence[str]
) -> Mapping[str, float]:
    """Read `usual_durations` before a run begins. The ledger is read on a connection of its own.

    `journals` is the folder of all journals. Without a ledger, or if it cannot be read, only the journals are used.
    """
    if plan.window is None or plan.window.fit is Fit.OFF:
        return {}
    sources = [] if journals is None else [recorded(journals, plan.name)]
    if ledger:
        with contextlib.suppress(JobplanError):
            async with await Inspector.connect(conninfo, "jobplan run") as inspector:
                sources.insert(0, from_ledger(await inspector.recorded(plan.name, MAX_RUNS, trusted_roles)))
    return usual_durations(plan, sources)


def usual_durations(plan: Plan, sources: Iterable[KnownDurations]) -> Mapping[str, float]:
    """Return what must fit into the rest of the plan's window, in seconds by step or instance; empty without `fit`.

    Of several sources the one with the most runs of a step counts.
    """
    fit = Fit.OFF if plan.window is None else plan.window.fit
    most: dict[str, Duration] = {}
    for source in sources if fit is not Fit.OFF else ():
        for key, found in source.usual(plan).items():
            if key not in most or found.runs > most[key].runs:
                most[key] = found
    return {key: round(found.p50 if fit is Fit.P50 else found.p95, 3) for key, found in most.items()}


def recorded(root: Path, plan: str) -> KnownDurations:
    """Return the durations from the journals below `root`: of the plan's steps that succeeded, in the latest runs.

    A step of a chain has those of all its items together as well. A journal that cannot be read is skipped.
    """
    samples: dict[str, list[float]] = defaultdict(list)
    attempts: dict[str, list[float]] = defaultdict(list)
    journals = sorted(root.glob("*/events.jsonl"), key=_age)[:MAX_RUNS] if root.is_dir() else []
    for journal in journals:
        for step, seconds, whole in _durations(_events(journal), plan):
            for key in dict.fromkeys((step, written_key(step)) if is_of_chain(step) else (step,)):
                (samples if whole else attempts)[key].append(seconds)
    return KnownDurations(
        {step: of_samples(found, attempts[step]) for step, found in samples.items()},
        {step: of_samples(found) for step, found in attempts.items() if found},
    )


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


def _durations(events: Iterable[Mapping[str, Any]], plan: str) -> Iterator[tuple[str, float, bool]]:
    """Yield each attempt that succeeded, and each step that did, with the seconds that it took.

    The last value is true for the whole step, with its pauses and retries.
    """
    times = StepTimes()
    for event in events:
        name, step = str(event.get("event")), event.get("step")
        if name == "run_started" and event.get("plan") != plan:
            return
        attempt = times.take(name, str(step), _moment(event))
        if attempt is not None and event.get("outcome") == "succeeded":
            yield str(step), attempt, False
        elif name == "step_finished" and event.get("state") == "succeeded":
            seconds = times.seconds(str(step), until=_moment(event))
            if seconds is not None:
                yield str(step), seconds, True


def _moment(event: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(event.get("at"))).timestamp()
    except ValueError:
        return 0.0
