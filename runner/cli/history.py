"""How long the steps of a plan took before, for who watches a run and for its report.

Journals are on this machine; the ledger, if there is one, also knows the runs of others. What came from there is kept
beside the run's journal, so that a report that is made later has the same history.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from runner.engine.past import PastRun
from runner.engine.state import StepState
from runner.records.past import keep_past, latest


class History:
    """The earlier runs, the oldest first. `folder` is the run's own, `before` when it began."""

    def __init__(self, runs: Sequence[PastRun], folder: Path, before: float) -> None:
        self.runs = tuple(runs)
        self.usual = _usual(self.runs)
        self._folder = folder
        self._before = before
        self._learned = False

    def add(self, runs: Sequence[PastRun]) -> None:
        """Take what the ledger knows; of a run that has a journal too, that counts."""
        known = {run.run for run in self.runs}
        others = [run for run in runs if run.run not in known and run.started_at < self._before]
        if not others:
            return
        self.runs = latest([*others, *self.runs])
        self.usual = _usual(self.runs)
        self._learned = True

    def keep(self) -> None:
        """Write down what a later report could not know by itself."""
        if self._learned:
            with contextlib.suppress(OSError):  # it knows less then, and nothing else is lost
                keep_past(self._folder, self.runs)


def _usual(runs: Sequence[PastRun]) -> Mapping[str, float]:
    samples: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for step, (seconds, state) in run.steps.items():
            if state == StepState.SUCCEEDED:
                samples[step].append(seconds)
    return {step: median(found) for step, found in samples.items()}
