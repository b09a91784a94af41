"""The text of a plan's files, for what a parsed plan no longer has: its comments, and the line that a problem is in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.plan.document import MAX_BYTES


class Sources:
    """The lines of files, each read when it is first asked for. Files that cannot be read have none.

    Lines are counted as problems count them; bytes that are not UTF-8 become replacement characters.
    """

    def __init__(self) -> None:
        self._lines: dict[str, Sequence[str]] = {}

    def lines(self, file: str) -> Sequence[str]:
        """Return the lines of a file, without their ends."""
        if file not in self._lines:
            self._lines[file] = _read(Path(file))
        return self._lines[file]


def _read(path: Path) -> Sequence[str]:
    try:
        # A pipe has been read already, and reading it again could wait for ever.
        if not path.is_file():
            return ()
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
    except (OSError, ValueError):
        return ()
    return data.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
