"""The tasks of a run besides its loop, and the commands that wait for the disk.

A command waits in `WriteAhead` until its announcement is durable: a launch is on disk before its worker is requested. A
disk can be slow, and the event loop does not wait for it: ends, signals and ticks are handled meanwhile, and later
commands share the next flush. There is one flush at a time, and commands are performed in the order in which they were
announced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any


class Tasks:
    """Tasks that end by themselves. `crashed` receives the exception of one, which is a bug in jobplan."""

    def __init__(self, crashed: Callable[[BaseException], None]) -> None:
        self._crashed = crashed
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def cancel(self) -> None:
        """Cancel the remaining tasks, and wait for their end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._crashed(error)


#: Performs one command.
Order = Callable[[], None]
#: Starts to make the announced commands durable; the returned coroutine must be awaited, None if it is done.
Flush = Callable[[], Coroutine[Any, Any, None] | None]


class WriteAhead:
    """Performs commands after a flush. `crashed` receives the exception of a flush or a command, which is a bug."""

    def __init__(self, flush: Flush, *, crashed: Callable[[BaseException], None]) -> None:
        self._flush = flush
        self._crashed = crashed
        self._waiting: list[Order] = []
        self._due = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def carry_out(self, orders: Sequence[Order] = ()) -> None:
        """Flush, then perform the orders: before this returns, if the flush needs no waiting."""
        self._waiting += orders
        self._due = True
        if self._task is None:
            self._next()

    async def settle(self) -> None:
        """Wait until all orders were performed."""
        while self._task is not None:
            await asyncio.wait({self._task})

    async def close(self) -> None:
        """Drop the waiting orders, and wait for the running flush."""
        self._closed = True
        await self.settle()

    def _next(self) -> None:
        orders, self._waiting = self._waiting, []
        self._due = False
        durable = self._flush()
        if durable is None:
            self._release(orders)
            return
        self._task = asyncio.create_task(self._after(durable, orders))
        self._task.add_done_callback(self._ended)

    async def _after(self, durable: Coroutine[Any, Any, None], orders: Sequence[Order]) -> None:
        await durable
        self._release(orders)

    def _release(self, orders: Sequence[Order]) -> None:
        for order in orders:
            if not self._closed:
                order()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._crashed(error)
        elif self._due and not self._closed:
            self._next()
