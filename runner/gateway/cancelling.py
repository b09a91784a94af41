"""Stopping a run's workers from outside: tell its runner, signal, wait until they have gone, look what is left.

The runner is told first and in a transaction of its own, so that it knows by whom a worker was stopped before it sees
the worker's end. Nothing is signalled but a worker that is seen there and then (docs/decisions/0003).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from runner.engine.activity import Activity, LiveRun, LiveWorker
from runner.engine.events import Leftover, Worker
from runner.gateway.activity import Observer, SignalRefusedError
from runner.gateway.requests import CancelAnswer, CancelRequest, read_answer

#: Seconds between two looks, and between two signals to the same worker.
LOOK_EVERY = 0.25
SIGNAL_EVERY = 5.0
#: Seconds without a worker after which a run whose runner lives is believed to start none: until then one that was
#: being launched has appeared.
QUIET = 1.5
#: Seconds for which the answer of a living runner is awaited: without one nobody knows whether it has heard.
ANSWER_WITHIN = 10.0
#: Answers that are kept until the next look.
_MOST_ANSWERS = 100
#: Seconds for which a worker may be there without the text that says which step it works for.
_LABEL_BY = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """What came of it. `seconds` is how long each worker that has gone took; `still` are those that have not.

    `left` are workers of detach steps, which were left alone; `refused` says why some could not be signalled.
    """

    asked: tuple[LiveWorker, ...]
    seconds: dict[Worker, float]
    still: tuple[LiveWorker, ...]
    left: tuple[LiveWorker, ...]
    runner_alive: bool
    #: Whether a living runner takes requests from this role.
    heeded: bool
    refused: str | None
    leftovers: tuple[Leftover, ...]
    #: What a runner that was alive has said to the request; None: nothing.
    answer: CancelAnswer | None


@dataclass(slots=True)
class _Target:
    worker: LiveWorker
    asked_at: float
    signalled_at: float | None = None
    refused: bool = False
    gone_after: float | None = None


@dataclass(slots=True, kw_only=True)
class Stopper:
    """Stops one run, or one step of it. `detached`: workers of detach steps too; `told` hears of each that is asked."""

    observer: Observer
    run: LiveRun
    request: CancelRequest
    detached: bool = False
    told: Callable[[LiveWorker], None] = lambda _: None
    _targets: dict[Worker, _Target] = field(default_factory=dict)
    _relations: set[str] = field(default_factory=set)
    _refused: str | None = None
    _heeded: bool = True
    _answer: CancelAnswer | None = None
    #: Answers that nobody has judged yet, each with the process that sent it.
    _heard: list[tuple[CancelAnswer, int]] = field(default_factory=list)

    async def stop(self, patience: float) -> Stopped:
        """Do it; `patience` is how many seconds workers are waited for. ServerLostError if the server is gone."""
        await self.observer.hear(self._hear)
        await self.observer.notify(self.request.to_payload())
        self._heeded = not self.run.alive or await self.observer.is_heeded(self.run.runner[0])
        loop = asyncio.get_running_loop()
        told_at = quiet_since = loop.time()
        until = told_at + patience
        while True:
            activity = await self.observer.look()
            now = loop.time()
            run = next((run for run in activity.runs if run.run == self.run.run), None)
            self._judge_answers(activity, run)
            wanted = [worker for worker in run.workers if self._is_wanted(worker, activity)] if run else []
            self._note_gone({worker.worker for worker in wanted}, now)
            await self._signal(wanted, now)
            if wanted:
                quiet_since = now
            alive = run is not None and run.alive
            awaited = alive and self._heeded and self._answer is None and now - told_at < ANSWER_WITHIN
            if not wanted and (not alive or (now - quiet_since >= QUIET and not awaited)):
                break
            if now >= until:
                break
            if wanted and not awaited and all(self._targets[worker.worker].refused for worker in wanted):
                break
            await asyncio.sleep(LOOK_EVERY)
        return await self._result(run, wanted)

    def _hear(self, payload: str, sender: int) -> None:
        answer = read_answer(payload, self.request)
        if answer is not None and len(self._heard) < _MOST_ANSWERS:
            self._heard.append((answer, sender))

    def _judge_answers(self, activity: Activity, run: LiveRun | None) -> None:
        """Believe an answer only if it comes from a session of the run whose role could be the runner's.

        Any role can send a notification, and take a runner's application_name. So all sessions with that name must have
        one role, which is that of the run's workers if it has any; else only the role of this session is believed.
        """
        sessions = {one.pid: one.user for look in (self.run, run) if look is not None for one in look.runner}
        roles = set(sessions.values())
        workers = {one.user for look in (self.run, run) if look is not None for one in look.workers if not one.foreign}
        agreed = len(roles) == 1 and (not workers or roles <= workers)
        for answer, sender in self._heard:
            if sender in sessions and (agreed or sessions[sender] == activity.user):
                self._answer = answer
        self._heard.clear()

    def _is_wanted(self, worker: LiveWorker, activity: Activity) -> bool:
        """Say whether to stop it.

        What `finally` starts only now is not what the request means. A worker of which neither the server nor a record
        says what step it works for may be one of a detach step: without --detached it is left alone. A new one may be
        without its text for a moment.
        """
        if worker.worker in self._targets:
            return True
        if worker.foreign:
            return False
        if self.request.step is not None:
            return worker.is_of(self.request.step)
        if worker.label is None and worker.visible:
            old = worker.started_at is None or activity.at - worker.started_at >= _LABEL_BY
            return self.detached and old
        if worker.detached:
            return self.detached
        starts_now = worker.label is not None and worker.label.in_finally
        return not starts_now or any(worker.worker == before.worker for before in self.run.workers)

    async def _signal(self, wanted: list[LiveWorker], now: float) -> None:
        new = [worker for worker in wanted if worker.worker not in self._targets]
        for worker in new:
            self._targets[worker.worker] = _Target(worker=worker, asked_at=now)
            self.told(worker)
        if wanted:
            self._relations |= await self.observer.locked(worker.worker.pid for worker in wanted)
        for worker in wanted:
            target = self._targets[worker.worker]
            due = target.signalled_at is None or now - target.signalled_at >= SIGNAL_EVERY
            if due and not target.refused:
                target.signalled_at = now
                await self._signal_one(target)

    async def _signal_one(self, target: _Target) -> None:
        if not target.worker.visible:
            target.refused = True
            self._refused = "this role may not see what these workers are, and signals nothing that it has not seen"
            return
        try:
            await self.observer.signal(target.worker.worker)
        except SignalRefusedError as error:
            target.refused = True
            self._refused = str(error)

    def _note_gone(self, there: set[Worker], now: float) -> None:
        for key, target in self._targets.items():
            if key not in there and target.gone_after is None:
                target.gone_after = now - target.asked_at

    async def _result(self, run: LiveRun | None, wanted: list[LiveWorker]) -> Stopped:
        kept = {worker.worker for worker in wanted}
        left = tuple(worker for worker in run.workers if worker.worker not in kept) if run is not None else ()
        asked = tuple(target.worker for target in self._targets.values())
        leftovers = await self.observer.leftovers(self._relations, asked) if asked else ()
        return Stopped(
            asked=asked,
            seconds={key: t.gone_after for key, t in self._targets.items() if t.gone_after is not None},
            still=tuple(wanted),
            left=left if self.request.step is None else (),
            runner_alive=run is not None and run.alive,
            heeded=run is None or not run.alive or self._heeded,
            refused=self._refused,
            leftovers=leftovers,
            answer=self._answer,
        )
