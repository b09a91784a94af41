"""Where events go: the journal, reports, the terminal."""

from __future__ import annotations

from typing import Protocol

from runner.engine.events import Event
from runner.engine.state import RunState


class Sink(Protocol):
    """Something that wants to know what happens in a run."""

    def handle(self, event: Event, state: RunState) -> None:
        """Take one event; `state` is as it is after it.

        RecordError if it cannot be kept: the sink is then given nothing more. JournalLostError if the run must not
        launch anything without it.
        """
        ...

    def flush(self) -> None:
        """Make durable what was handled: called before any order is carried out, and at the end. Errors as above."""
        ...

    def tick(self, now: float, state: RunState) -> None:
        """Be given the time, about once a second, while something runs."""
        ...

    def close(self) -> None:
        """Finish; nothing comes after it. RecordError if the end cannot be kept."""
        ...
