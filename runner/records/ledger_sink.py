"""The ledger as a run tells it: every event, in order, with the plan that it is of.

What is told here is written by the gateway, which alone speaks to the server; nothing here waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Protocol

from runner.clock import rfc3339
from runner.engine import events as ev
from runner.engine.encoding import to_line
from runner.engine.state import RunState
from runner.plan.canonical import resolved_json


class LedgerWriter(Protocol):
    """Takes what is to be written. Events are JSON."""

    @property
    def on(self) -> bool:
        """Say whether anything is written."""
        ...

    def complete(self, told: Sequence[tuple[str, str, str | None, int | None]], text: Callable[[int], str]) -> None:
        """Take what an earlier runner's record has and the ledger lacks; `text` gives an event, by its place.

        `told` are the events of that record: when each happened, its name, its step and its attempt.
        """
        ...

    def begin(self, plan: str, event: str, resolved: str) -> None:
        """Take the run's own row: the plan's name, the event that begins it, and the resolved plan as JSON."""
        ...

    def take(self, event: str, of: tuple[str, int] | None = None) -> None:
        """Take one event; what is said `of` an attempt, a step and a number, comes after what announces it."""
        ...

    def take_first(self, event: str) -> None:
        """Take an event without which what follows cannot be understood, to be written before any further launch."""
        ...

    def take_launching(self, event: str, step: str, attempt: int) -> None:
        """Take the event that announces a worker, to be written before it is asked for."""
        ...

    def end(self, event: str) -> None:
        """Take the event that ends the run."""
        ...


class LedgerSink:
    """A sink that hands each event to the ledger; `history` is what an earlier runner's record has."""

    def __init__(self, ledger: LedgerWriter, run_id: str, history: Sequence[ev.Event] = ()) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._history = history

    def handle(self, event: ev.Event, state: RunState) -> None:
        """Hand the event over. What happens before a run is taken up is a wait, and of no consequence."""
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
        elif isinstance(event, ev.AttemptEvent):
            self._ledger.take(text, (event.step, event.attempt))
        elif isinstance(event, ev.RunStarted | ev.RunResumed | ev.StepExpanded):
            self._ledger.take_first(text)
        else:
            self._ledger.take(text)
        if isinstance(event, ev.RunFinished):
            self._ledger.end(text)

    def flush(self) -> None:
        """Do nothing: the journal is what must last, and the gateway writes a launch before it is done."""

    def tick(self, now: float, state: RunState) -> None:
        """Do nothing: the gateway writes when there is something."""

    def close(self) -> None:
        """Do nothing: the gateway writes what is left when it is closed."""

    def _complete(self) -> None:
        """Have written what only the journal has heard of."""
        history, self._history = self._history, ()
        self._ledger.complete([_key(told) for told in history], lambda place: self._text(history[place]))

    def _text(self, event: ev.Event) -> str:
        return _suitable_json(to_line(event, self._run_id).rstrip(b"\n"))


def _key(event: ev.Event) -> tuple[str, str, str | None, int | None]:
    return rfc3339(event.at), event.name, getattr(event, "step", None), getattr(event, "attempt", None)


def _suitable_json(line: bytes) -> str:
    """Return JSON without what no text of PostgreSQL can hold: a NUL, and half of a surrogate pair."""
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
