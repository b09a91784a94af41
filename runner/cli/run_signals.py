"""The signals of `jobplan run` and `jobplan resume`, from before the first message to the end of the process.

The handlers are installed once. What a signal does depends on what the command is doing:

- It reads files, or waits between two decisions: RunInterruptedError ends that at once.
- It opens a journal (`postponed`): the error is raised when the journal is open, and certain to be closed (`raised`).
- An event loop runs: the signal is passed on to it (`until`, `passed_to`); one that comes while the loop starts waits.
- The run is over (`ignore`): nothing, because a signal must not change the exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, Self, TypeVar

_T = TypeVar("_T")

#: Signals that end a run in an orderly way: Ctrl-C, kill and systemd, a terminal that is closed, `alarm` of a wrapper.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
#: Signals that have no meaning for a run, and that would end the process without handling its workers.
_MEANINGLESS = (signal.SIGUSR1, signal.SIGUSR2)


def _signals_that_end() -> tuple[signal.Signals, ...]:
    """Return the signals that end a run. Under nohup SIGHUP is ignored, and stays so."""
    hangup_is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in _ENDING if number != signal.SIGHUP or not hangup_is_ignored)


class RunInterruptedError(BaseException):
    """The signal `number` arrived before a worker was launched.

    No Exception, like KeyboardInterrupt: it can be raised anywhere, and no handler of errors must take it for one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class RunSignals:
    """See the module's docstring. Enter it before the first message of a command; leaving it ignores the signals."""

    def __init__(self) -> None:
        self._over = False
        #: Whether a signal must wait: for the event loop to start, or for a journal.
        self._must_wait = False
        #: Signals that no receiver has got yet.
        self._waiting: list[int] = []
        self._receive: Callable[[int], object] | None = None

    def __enter__(self) -> Self:
        """Install the handlers."""
        for number in _signals_that_end():
            signal.signal(number, self._handle)
        for number in _MEANINGLESS:
            signal.signal(number, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        """Ignore the signals until the process ends."""
        self.ignore()

    def ignore(self) -> None:
        """Ignore the signals from now on."""
        self._over = True
        for number in _ENDING:  # Python restores the default effects of its own handlers before the process ends
            signal.signal(number, signal.SIG_IGN)

    def until(self, work: Coroutine[Any, Any, _T], ends: Callable[[int], bool] = lambda _: True) -> _T:
        """Return the result of the work, in an event loop. RunInterruptedError if a signal ends it.

        `ends` is called with each signal, and returns whether it ends the work.
        """
        interrupted: list[int] = []

        async def carry_out() -> _T:
            task = asyncio.current_task()

            def interrupt(number: int) -> None:
                if ends(number) and task is not None:
                    interrupted.append(number)
                    task.cancel()

            with self.passed_to(interrupt):
                return await work

        try:
            return self.in_loop(carry_out())
        except asyncio.CancelledError:
            if not interrupted:
                raise
            raise RunInterruptedError(interrupted[0]) from None

    def in_loop(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Return the result of the work, which says with `passed_to` what a signal does while the event loop runs.

        RunInterruptedError if a signal came that was not passed on, such as while the loop ended.
        """
        with self.postponed():
            return asyncio.run(work)

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        """Let signals wait until the end of the block, unless they are passed on; then RunInterruptedError."""
        before, self._must_wait = self._must_wait, True
        try:
            yield
        finally:
            self._must_wait = before
            self._raise()

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Let signals raise RunInterruptedError again, within a block that postpones them."""
        before, self._must_wait = self._must_wait, False
        try:
            self._raise()
            yield
        finally:
            self._must_wait = before

    def _raise(self) -> None:
        if self._waiting and not self._must_wait and not self._over:
            self._over = True
            raise RunInterruptedError(self._waiting.pop(0))

    @contextlib.contextmanager
    def passed_to(self, receive: Callable[[int], object]) -> Iterator[None]:
        """Call `receive` in the running event loop with each signal, also with those that arrived since it started."""
        loop = asyncio.get_running_loop()
        self._receive = lambda number: loop.call_soon_threadsafe(receive, number)  # wakes the loop, too
        try:
            while self._waiting:
                self._receive(self._waiting.pop(0))
            yield
        finally:
            self._receive = None

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._over:
            return
        if self._receive is not None:
            self._receive(number)
        elif self._must_wait:
            self._waiting.append(number)
        else:
            self._over = True  # the command ends now: a further signal must not interrupt that
            raise RunInterruptedError(number)
