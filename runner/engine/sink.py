"""Where events go: the journal, reports, the terminal."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

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

    def flush(self) -> Coroutine[Any, Any, None] | None:
        """Make durable what was handled: called before any order is carried out, after a tick, and at the end.

        A sink that has to wait for a disk returns what waits, and the event loop goes on meanwhile. It is awaited
        before the next flush; events may be handled before that. Errors as above, from here or from what waits.
        """
        ...

    def tick(self, now: float, state: RunState) -> None:
        """Be given the time, about once a second, while something runs. Errors as above."""
        ...

    def close(self) -> None:
        """Finish; nothing comes after it. RecordError if the end cannot be kept."""
        ...
