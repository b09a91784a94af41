"""The events of a run as JSON Lines: one object a line, flushed at once.

`schemas/events-v1.schema.json` describes them.
"""

from __future__ import annotations

from pathlib import Path

from runner.engine.encoding import to_line
from runner.engine.events import Event
from runner.engine.state import RunState
from runner.errors import RecordError
from runner.reports.destinations import Destination


class JsonLines:
    """A sink that writes each event as it happens. `broken`: events are missing in the report."""

    def __init__(self, path: Path, run_id: str) -> None:
        self.path = path
        self.broken = False
        self._run_id = run_id
        try:
            self._place = Destination.of(path)
            self._place.try_to_open()
        except OSError as error:
            raise self._refused(error) from error

    def handle(self, event: Event, state: RunState) -> None:  # noqa: ARG002 - the event says it all
        """Write one line."""
        try:
            self._place.stream(to_line(event, self._run_id))
        except OSError as error:
            self.close()
            raise self._refused(error) from error

    def flush(self) -> None:
        """Do nothing: a report is not what a run is resumed from, so the operating system may take its time."""

    def tick(self, now: float, state: RunState) -> None:
        """Do nothing: no event, no line."""

    def close(self) -> None:
        """Close the file."""
        try:
            self._place.close()
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> RecordError:
        self.broken = True
        return RecordError(f"the report {self.path} cannot be written: {error.strerror}")
