"""The ledger as a sink: it passes on every event, in order, with the run's plan.

`Ledger` writes them; nothing here waits for it, because the journal is the durable record.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from runner.clock import rfc3339
from runner.engine import events as ev
from runner.engine.event_json import to_line
from runner.engine.ports import Sink
from runner.engine.state import RunState
from runner.gateway.ledger.writer import Ledger
from runner.plan.plan_json import resolved_json


class LedgerSink(Sink):
    """A sink that passes each event to the ledger; `history` are the events of a previous runner's journal."""

    def __init__(self, ledger: Ledger, run_id: str, history: Sequence[ev.Event] = ()) -> None:
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
