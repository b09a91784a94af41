"""Standard output and standard error of a run, written by a thread of their own: a reader never stops the run.

A pipe that its reader does not empty, a terminal that is stopped with Ctrl-S, or a log collector that hangs blocks
every write to it. A run that writes by itself would then miss its timeouts, signals and cancel requests. Here a write
only puts text into a queue of limited size; a thread writes it to the file descriptor. Text beyond the limit is
dropped, and a line says how much. At the end the queue gets some seconds to empty.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TextIO

#: Bytes of standard error that may wait for their reader: some ten thousand lines.
PROGRESS_LIMIT = 1 << 20
#: Bytes of standard output that may wait: reports go there, which are useless with a gap in them.
REPORT_LIMIT = 1 << 28
#: Seconds without any progress after which the end of a run does not wait for the reader any more.
PATIENCE = 5.0
#: As much for reports on standard output, which a person may read slowly.
REPORT_PATIENCE = 60.0
#: Bytes of one write: a slow reader is seen to make progress.
_PIECE = 1 << 14


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
        self._limit = limit
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._moved = time.monotonic()
        self._error: OSError | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="output", daemon=True)
        self._thread.start()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed declares an attribute; rich and click only read it
        """Return the encoding of the real stream."""
        return self._encoding

    def isatty(self) -> bool:
        """Say whether the real stream is a terminal."""
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
        with self._changed:
            if self._error is not None:
                raise self._error
            if self._size + len(data) > self._limit:
                self._dropped += len(data)
            else:
                if self._dropped:
                    data = self._gap() + data
                self._waiting.append(data)
                self._size += len(data)
            self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes as fast as the reader reads."""

    @property
    def dropped(self) -> bool:
        """Say whether the end of the output is missing."""
        return self._dropped > 0

    def _gap(self) -> bytes:
        text = f"\njobplan: {self._dropped:,} bytes of output are missing here, because they were not read in time.\n"
        self._dropped = 0
        return text.encode(self._encoding, "backslashreplace")

    def drain(self, patience: float = PATIENCE) -> None:
        """Wait until everything is written, as long as something is read at least once in `patience` seconds."""
        with self._changed:
            if self._dropped and self._error is None:
                gap = self._gap()
                self._waiting.append(gap)
                self._size += len(gap)
            self._closing = True
            self._moved = time.monotonic()
            self._changed.notify_all()
            while self._size and self._error is None:
                left = self._moved + patience - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closing:
                        return
                    self._changed.wait()
                data = self._waiting[0]
            try:
                written = os.write(self._descriptor, data[:_PIECE])
            except BlockingIOError:  # somebody made the descriptor non-blocking, for example ssh
                time.sleep(0.05)
                continue
            except OSError as error:
                with self._changed:
                    self._error = error
                    self._waiting.clear()
                    self._size = 0
                    self._changed.notify_all()
                return
            with self._changed:
                self._size -= written
                self._moved = time.monotonic()
                if written == len(data):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = data[written:]
                self._changed.notify_all()


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
                replaced.append(stream)
        yield
    finally:
        for name, stream_ in real.items():
            setattr(sys, name, stream_)
        for stream in replaced:
            stream.drain(REPORT_PATIENCE if stream.fileno() == 1 else PATIENCE)
