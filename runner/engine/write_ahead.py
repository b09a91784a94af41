"""Orders wait here until what announces them is durable: a launch is on the disk before the worker is asked for.

A disk may take long to make something durable. The event loop does not wait for it: ends, signals and ticks are
handled meanwhile, and orders that come meanwhile share the next flush. There is one flush at a time, and orders are
carried out in the sequence in which they were announced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

#: Carries out one order.
Order = Callable[[], None]
#: Begins to make durable what was announced; what is returned must be awaited, None if it is durable.
Flush = Callable[[], Coroutine[Any, Any, None] | None]


class WriteAhead:
    """Carries out orders after a flush. `crashed` takes the exception of a flush or an order, which is a bug."""

    def __init__(self, flush: Flush, *, crashed: Callable[[BaseException], None]) -> None:
        self._flush = flush
        self._crashed = crashed
        self._waiting: list[Order] = []
        self._due = False
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def carry_out(self, orders: Sequence[Order] = ()) -> None:
        """Flush, then carry out the orders: before this returns, if no flush has to be waited for."""
        self._waiting += orders
        self._due = True
        if self._task is None:
            self._next()

    async def settle(self) -> None:
        """Wait until all orders are carried out."""
        while self._task is not None:
            await asyncio.wait({self._task})

    async def close(self) -> None:
        """Drop the orders that wait, and wait for the flush that was begun."""
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
