"""Measures the holds of a run: one statement for each hold and each `every`, however many steps wait for it.

Each hold has a task. A measurement that fails counts as on, and so does one that the server does not answer in time.
The tasks end when nothing that their hold concerns can start any more: `finally` ignores holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from runner.clock import Clock
from runner.engine import events as ev
from runner.engine.holds import HoldWatch, Measurement, failed_measurement, limit_of, read_measurement
from runner.engine.ports import Gateway, Query
from runner.engine.state import RunState, StepRecord
from runner.engine.window import must_wait_for_window
from runner.errors import GatewayError, ServerGivenUpError
from runner.plan.model import Hold, Value
from runner.run.tasks import Tasks
from runner.sql.placeholders import TemplateError, render

#: Seconds between two checks whether the window has opened.
WINDOW_EVERY = 0.25


class HoldSampler:
    """See the module's docstring. `post` receives the events; `crashed` the exception of a task, which is a bug."""

    def __init__(
        self,
        state: RunState,
        gateway: Gateway,
        clock: Clock,
        values: Mapping[str, Value],
        *,
        post: Callable[[ev.Event], None],
        crashed: Callable[[BaseException], None],
    ) -> None:
        self._state = state
        self._gateway = gateway
        self._clock = clock
        self._values = values
        self._post = post
        self._tasks = Tasks(crashed)

    def start(self) -> None:
        """Begin to measure the holds of the plan that concern a step."""
        for hold in self._state.plan.holds:
            if self._is_needed(hold):
                self._tasks.begin(self._watch(hold))

    async def close(self) -> None:
        """End the tasks."""
        await self._tasks.cancel()

    def _is_needed(self, hold: Hold) -> bool:
        """Return whether a step that the hold concerns may still start."""
        if self._state.stopping or self._state.finalizing:
            return False
        return any(_concerns(hold, record) for record in self._state.records.values())

    def _waits_for_window(self, hold: Hold) -> bool:
        """Return whether every step that the hold concerns must wait for the window: nothing is measured until then."""
        state, now = self._state, self._clock.now()
        if state.window is None:
            return False
        concerned = (record for record in state.records.values() if _concerns(hold, record))
        return all(must_wait_for_window(state, record, now) for record in concerned)

    async def _watch(self, hold: Hold) -> None:
        watch, loop = HoldWatch(hold), asyncio.get_running_loop()
        while self._is_needed(hold):
            if self._waits_for_window(hold):
                await asyncio.sleep(WINDOW_EVERY)
                continue
            began = loop.time()
            measurement = await self._measure(hold)
            for event in watch.take(measurement, self._clock.now()):
                self._post(event)
            await asyncio.sleep(max(0.0, began + hold.every - loop.time()))

    async def _measure(self, hold: Hold) -> Measurement:
        try:
            return read_measurement(hold, await self._gateway.measure(hold, measurement_query(hold, self._values)))
        except ServerGivenUpError as error:
            return failed_measurement(ev.ErrorDetails(message=error.message), server_lost=True)
        except (TemplateError, GatewayError) as error:
            return failed_measurement(ev.ErrorDetails(message=error.message))


def _concerns(hold: Hold, record: StepRecord) -> bool:
    """Return whether the hold concerns a step that is not over, or a step of its chains."""
    if record.final:
        return False
    return hold.name in record.step.holds or any(hold.name in step.holds for step in record.step.steps)


def measurement_query(hold: Hold, values: Mapping[str, Value]) -> Query:
    """Return the limits of a measurement, and the SQL of `while` with its parameters. TemplateError if that fails."""
    sql = "" if hold.while_ is None else render(hold.while_.text, values)
    return Query(sql=sql, timeout=limit_of(hold), lock_timeout=limit_of(hold))
