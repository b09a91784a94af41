"""The events of a run as JSON Lines: one object a line, flushed at once.

`schemas/events-v1.schema.json` describes them.
"""

from __future__ import annotations

import json
from pathlib import Path

from runner.engine.events import Event, to_json
from runner.engine.state import RunState
from runner.errors import RecordError


class JsonLines:
    """A sink that writes each event to a file as it happens. `path` is overwritten."""

    def __init__(self, path: Path, run_id: str) -> None:
        self._path = path
        self._run_id = run_id
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise RecordError(f"the report {path} cannot be written: {error.strerror}") from error

    def handle(self, event: Event, state: RunState) -> None:  # noqa: ARG002 - the event says it all
        """Write one line."""
        try:
            self._file.write(json.dumps(to_json(event, self._run_id), ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise RecordError(f"the report {self._path} cannot be written: {error.strerror}") from error

    def tick(self, now: float, state: RunState) -> None:
        """Do nothing: no event, no line."""

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise RecordError(f"the report {self._path} cannot be written: {error.strerror}") from error
