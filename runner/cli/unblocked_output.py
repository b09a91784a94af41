"""Standard output and standard error of a run, written by a separate thread: a slow reader never stops the run.

Text goes into a queue (`reports/output_queue.py`). Text beyond its limit is dropped, and a line says how much. At the
end the queue gets some seconds to empty.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import TextIO

from runner.reports.output_queue import REPORT_LIMIT, REPORT_PATIENCE, OutputQueue, set_standard_queue

#: Most bytes of standard error in the queue: about ten thousand lines.
PROGRESS_LIMIT = 1 << 20
#: Seconds without any progress after which the end of a run does not wait for the reader any more.
PATIENCE = 5.0


class UnblockedStream(io.TextIOBase):
    """A text stream whose `write` never waits. OSError from `write` if an earlier write failed, as with a closed pipe.

    `stream` is the real one, which must have a file descriptor. `limit` is in bytes.
    """

    def __init__(self, stream: TextIO, limit: int) -> None:
        super().__init__()
        stream.flush()
        self._stream = stream
        self._descriptor = stream.fileno()
        self._encoding = stream.encoding or "utf-8"
        self._dropped = 0
        self.queue = OutputQueue(self._descriptor, limit)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed declares an attribute; rich and click only read it
        """Return the encoding of the real stream."""
        return self._encoding

    def isatty(self) -> bool:
        """Return whether the real stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the real file descriptor: the terminal's size is read from it."""
        return self._descriptor

    def writable(self) -> bool:
        """Return true."""
        return True

    def write(self, text: str) -> int:
        """Put text into the queue, or drop it if the reader is too far behind."""
        # A character that the encoding lacks must not end the run.
        data = text.encode(self._encoding, "backslashreplace")
        gap = self._gap() if self._dropped else b""
        if self.queue.put(gap + data):
            self._dropped = 0
        else:
            self._dropped += len(data)
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes."""

    @property
    def dropped(self) -> bool:
        """Return whether the end of the output is missing."""
        return self._dropped > 0

    def _gap(self) -> bytes:
        text = f"\njobplan: {self._dropped:,} bytes of output are missing here, because they were not read in time.\n"
        return text.encode(self._encoding, "backslashreplace")

    def drain(self, patience: float = PATIENCE) -> None:
        """Wait until everything is written, while the reader makes progress at least once in `patience` seconds."""
        with contextlib.suppress(OSError):
            if self._dropped and self.queue.wait(patience):
                self.queue.put(self._gap())
                self._dropped = 0
            self.queue.wait(patience)
        self.queue.end()


@contextlib.contextmanager
def unblocked_output() -> Iterator[None]:
    """Replace `sys.stdout` and `sys.stderr` by streams that never wait; at the end, give their readers some seconds.

    Streams without a file descriptor (tests that capture output) are left as they are.
    """
    streams = {"stdout": REPORT_LIMIT, "stderr": PROGRESS_LIMIT}
    real: dict[str, TextIO] = {name: getattr(sys, name) for name in streams}
    replaced: list[UnblockedStream] = []
    try:
        for name, limit in streams.items():
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream = UnblockedStream(real[name], limit)
                setattr(sys, name, stream)
                set_standard_queue(stream.fileno(), stream.queue)
                replaced.append(stream)
        yield
    finally:
        for name, stream_ in real.items():
            setattr(sys, name, stream_)
        for stream in replaced:
            set_standard_queue(stream.fileno(), None)
            stream.drain(REPORT_PATIENCE if stream.fileno() == 1 else PATIENCE)
