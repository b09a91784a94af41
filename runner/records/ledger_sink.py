"""The ledger as a sink: it passes on every event, in order, with the run's plan.

The gateway writes them, as it alone uses the server; nothing here waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Protocol

from runner.clock import rfc3339
from runner.engine import events as ev
from runner.engine.event_json import to_line
from runner.engine.state import RunState
from runner.plan.resolved import resolved_json


class LedgerWriter(Protocol):
    """Receives the events to write, as JSON."""

    @property
    def on(self) -> bool:
        """Whether events are written."""
        ...

    def complete(self, events: Sequence[tuple[str, str, str | None, int | None]], text: Callable[[int], str]) -> None:
        """Add the events of a previous runner's journal that the ledger lacks; `text` returns one by index.

        `events` are their keys: time, name, step and attempt.
        """
        ...

    def begin(self, plan: str, event: str, resolved: str) -> None:
        """Add the run's own row: the plan's name, the first event, and the resolved plan as JSON."""
        ...

    def take(self, event: str, of: tuple[str, int] | None = None) -> None:
        """Add one event; an event `of` an attempt (step, number) follows the one that announces it."""
        ...

    def take_first(self, event: str) -> None:
        """Add an event that must be written before any further launch, because later events depend on it."""
        ...

    def take_launching(self, event: str, step: str, attempt: int) -> None:
        """Add the event that announces a worker; it is written before the worker is requested."""
        ...

    def end(self, event: str) -> None:
        """Add the event that ends the run."""
        ...


class LedgerSink:
    """A sink that passes each event to the ledger; `history` are the events of a previous runner's journal."""

    def __init__(self, ledger: LedgerWriter, run_id: str, history: Sequence[ev.Event] = ()) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._history = history

    def handle(self, event: ev.Event, state: RunState) -> None:
        """Pass the event on. Events before a run is taken over are waits, and are ignored."""
        if not self._ledger.on or (self._history and not isinstance(event, ev.RunResumed)):
            return
        text = self._text(event)
        if isinstance(event, ev.RunResumed):
            self._complete()
        if isinstance(event, ev.RunStarted | ev.RunResumed):
            resolved = _suitable_json(resolved_json(state.plan).encode("utf-8", "replace"))
            self._ledger.begin(state.plan.name, text, resolved)
        if isinstance(event, ev.AttemptLaunching):
            self._ledger.take_launching(text, event.step, event.attempt)
        elif isinstance(event, ev.AttemptPreparing | ev.AttemptRemoving | ev.StepSplit):
            self._ledger.take_first(text)
        elif isinstance(event, ev.AttemptEvent):
            self._ledger.take(text, (event.step, event.attempt))
        elif isinstance(event, ev.RunStarted | ev.RunResumed | ev.StepExpanded):
            self._ledger.take_first(text)
        else:
            self._ledger.take(text)
        if isinstance(event, ev.RunFinished):
            self._ledger.end(text)

    def flush(self) -> None:
        """Do nothing: the journal is the durable record, and the gateway writes a launch before it is performed."""

    def tick(self, now: float, state: RunState) -> None:
        """Do nothing: the gateway writes when there are events."""

    def close(self) -> None:
        """Do nothing: the gateway writes the rest when it is closed."""

    def _complete(self) -> None:
        """Pass on the events that only the journal has."""
        history, self._history = self._history, ()
        self._ledger.complete([_key(event) for event in history], lambda place: self._text(history[place]))

    def _text(self, event: ev.Event) -> str:
        return _suitable_json(to_line(event, self._run_id).rstrip(b"\n"))


def _key(event: ev.Event) -> tuple[str, str, str | None, int | None]:
    return rfc3339(event.at), event.name, getattr(event, "step", None), getattr(event, "attempt", None)


def _suitable_json(line: bytes) -> str:
    """Return JSON without characters that PostgreSQL's text cannot store: NUL, and unpaired surrogates."""
    text = line.decode()
    if "\\u" not in text:
        return text
    return json.dumps(_suitable(json.loads(text)), ensure_ascii=False)


def _suitable(value: object) -> object:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {str(_suitable(key)): _suitable(item) for key, item in value.items()}
    return [_suitable(item) for item in value] if isinstance(value, list) else value
