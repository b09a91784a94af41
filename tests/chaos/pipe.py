"""The runner's standard error as a pipe whose reader can stop reading."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

#: What fills the pipe; it is taken out of what was read.
_FILLER = b"\0"


class UnreadPipe:
    """A pipe that is read into a file once `read` is called. Use it once, for one process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_end, self.write_end = os.pipe()
        self._open = True
        self._reader: threading.Thread | None = None

    def started(self) -> None:
        """Note that the process has the end to which it writes; only it keeps the pipe open from now on."""
        os.close(self.write_end)
        self._open = False

    def fill(self) -> bool:
        """Leave no room in the pipe; False where the system cannot open it once more (only Linux can)."""
        try:
            writer = os.open(f"/proc/self/fd/{self._read_end}", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, _FILLER)
        os.close(writer)
        return True

    def read(self) -> None:
        """Read what is there, and continue reading until the process has ended."""
        if self._reader is None:
            self._reader = threading.Thread(target=self._copy, daemon=True)
            self._reader.start()

    def close(self) -> None:
        """Read the rest, once the process has ended."""
        if self._open:
            self.started()
        self.read()
        assert self._reader is not None
        self._reader.join()
        os.close(self._read_end)

    def _copy(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            while data := os.read(self._read_end, 65536):
                file.write(data.replace(_FILLER, b""))
