"""Output that a thread writes, so that a reader never stops the run.

A pipe that its reader does not empty, a terminal that is stopped with Ctrl-S, or a log collector that hangs blocks
every write to it. A run that writes by itself would then miss its timeouts, signals and cancel requests. Here a write
only puts bytes into a queue of limited size, and a thread writes them to the file descriptor (docs/decisions/0024).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque

#: Bytes that may wait for a reader of a report: a report is useless with a gap in it.
REPORT_LIMIT = 1 << 28
#: Seconds for which the end of a run waits for a reader of a report that reads nothing: a person may read it slowly.
REPORT_PATIENCE = 60.0
#: Bytes of one write: a slow reader is seen to make progress.
_PIECE = 1 << 14


class OutputQueue:
    """What waits to be written to `descriptor`, at most `limit` bytes; a thread writes it until `end`."""

    def __init__(self, descriptor: int, limit: int) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._moved = time.monotonic()
        self._error: OSError | None = None
        self._given_up = False
        self._ending = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="output", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> bool:
        """Have the bytes written; false if there is no room. OSError if an earlier write failed (a closed pipe)."""
        with self._changed:
            if self._error is not None:
                raise self._error
            if self._size + len(data) > self._limit:
                return False
            self._waiting.append(data)
            self._size += len(data)
            self._changed.notify_all()
            return True

    def wait(self, patience: float) -> bool:
        """Wait until everything is written, as long as something is read at least once in `patience` seconds.

        False: it was not, and no later call waits again. OSError if a write failed.
        """
        with self._changed:
            self._moved = time.monotonic()
            while self._size and self._error is None and not self._given_up:
                left = self._moved + patience - time.monotonic()
                if left <= 0:
                    self._given_up = True
                    break
                self._changed.wait(left)
            if self._error is not None:
                raise self._error
            return not self._size

    def end(self) -> None:
        """Let the thread end when it has written what there is."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._ending:
                        return
                    self._changed.wait()
                data = self._waiting[0]
            try:
                written = os.write(self._descriptor, data[:_PIECE])
            except BlockingIOError:  # another process made the descriptor non-blocking, for example ssh
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


#: The queues of standard output and standard error, by descriptor, while a run has them.
_STANDARD: dict[int, OutputQueue] = {}


def set_standard_queue(descriptor: int, queue: OutputQueue | None) -> None:
    """Note which queue everything goes through that is written to standard output or standard error; None: none."""
    if queue is None:
        _STANDARD.pop(descriptor, None)
    else:
        _STANDARD[descriptor] = queue


def standard_queue(descriptor: int | None) -> OutputQueue | None:
    """Return the queue of standard output or standard error; None if there is none now."""
    return None if descriptor is None else _STANDARD.get(descriptor)
