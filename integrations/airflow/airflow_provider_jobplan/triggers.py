"""The trigger of a deferrable task: jobplan is a child of the triggerer instead of the worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_provider_jobplan.child import Child, Work


class JobplanTrigger(BaseTrigger):
    """Runs jobplan, writes its lines to the log of the task, and fires when it has ended.

    When the triggerer ends or hands the trigger to another one, the trigger is cancelled, and so it must not stop the
    run: jobplan continues, and the trigger that is started next waits for it. Only `on_kill` stops it, which Airflow
    calls when a user clears the task, or sets its state.
    """

    def __init__(self, *, work: dict[str, Any], poll_seconds: float = 1.0) -> None:
        super().__init__()
        self.work = work
        self.poll_seconds = poll_seconds
        self._child: Child | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "work": self.work,
            "poll_seconds": self.poll_seconds,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the result of jobplan."""
        # a connection is read synchronously, which the thread of the event loop must not do
        child = self._child = await sync_to_async(Child)(Work(**self.work))
        self.log.info("jobplan has pid %s", child.pid)
        try:
            while True:
                if child.report(self.log) is not None:
                    break
                await asyncio.sleep(self.poll_seconds)
            result = await asyncio.to_thread(child.result)
        except BaseException:
            child.release()
            raise
        child.close()
        yield TriggerEvent(result)

    async def on_kill(self) -> None:
        """Send jobplan SIGTERM, and return."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.stop()
