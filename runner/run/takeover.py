"""Find out, before a run is resumed, the outcomes of the workers that its last runner has left.

A worker is its pid and backend_start, as the record has them. One that the record lacks is found by its label, or by
its name where it shows no text, if its role may be the run's. Nothing is guessed: a worker that lives is followed or
stopped; one that has ended is settled by the ledger, by `verify`, or by a user; a step that may run again does so; and
what is left are questions, without whose answers nothing starts.

The record may be an old copy of a journal. The ledger, where there is one, has every worker that was requested and
every takeover, so the two are compared first.
"""

from __future__ import annotations

import asyncio
import enum
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.clock import Clock, rfc3339
from runner.engine import events as ev
from runner.engine.events import AttemptLaunching, Event, RunResumed
from runner.engine.ports import Chronicle, Gateway, LeftBehind, LeftWorker, ServerInfo
from runner.engine.resume_state import (
    committed_in_vain,
    finally_starts_again,
    is_kept,
    is_open,
    is_unbegun,
    may_run_again,
    question,
    question_of_work_in_vain,
    steps_known,
)
from runner.engine.run_location import WrongServerError, place_after
from runner.engine.state import HOLDING, RunState, StepRecord, StepState
from runner.errors import OpenQuestionError, PreflightError, RecordError, UnstoppableError, UsageError
from runner.identity import has_name_of, is_of_step, run_of
from runner.plan.model import Plan, Value
from runner.run.conditions import Conditions

#: Attempts that are named.
_NAMED = 4


def chronicle_of(events: Sequence[Event]) -> Chronicle:
    """Return what a journal knows."""
    return Chronicle(
        launched=frozenset((event.step, event.attempt) for event in events if isinstance(event, AttemptLaunching)),
        takeovers={rfc3339(event.at): event.host for event in events if isinstance(event, RunResumed)},
    )


def check_chronicle(run_id: str, journal: Chronicle, ledger: Chronicle) -> None:
    """See to it that the journal knows all that the ledger does. RecordError, with what to do, if it is an old copy."""
    launched = sorted(ledger.launched - journal.launched)
    takeovers = [(at, host) for at, host in ledger.takeovers.items() if at not in journal.takeovers]
    if not launched and not takeovers:
        return
    since = [f"it was taken up on {host} at {at[:19]}Z" for at, host in takeovers[:1]]
    if launched:
        named = ", ".join(f"{step} ({attempt})" for step, attempt in launched[:_NAMED])
        since.append(f"workers were launched: {named}{' and others' if len(launched) > _NAMED else ''}")
    raise RecordError(
        f"this journal of run {run_id} is not its latest: the ledger knows that {' and '.join(since)}, and the journal "
        "does not. Nothing was started.",
        hint=f"Resume it where it went on, or with what the ledger has: jobplan resume {shlex.quote(run_id)} "
        "--from-ledger --journal NEW_FOLDER.",
    )


#: Seconds that the sessions of a runner that is gone get to notice it, and between two looks at them.
SESSIONS_LINGER = 30.0
LOOK = 0.2
#: States of a step whose work is done, as the end of a run tells them.
_DONE = frozenset({StepState.SUCCEEDED, StepState.FAILED_ALLOWED})
#: Seconds after which a worker that was asked for at the last moment, and was never seen, is not on its way any more.
ON_ITS_WAY = 3.0


_RIGHT_ONE = "Say the right one with --dsn."


class Orphans(enum.StrEnum):
    """What becomes of workers that live although their runner is gone."""

    WAIT = "wait"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """How a run is to be taken up. `marks` is what a person, `by`, says of outcomes that nothing proves.

    `database`, `system_identifier` and `place` say where the run was, as far as that is known.
    """

    orphans: Orphans = Orphans.WAIT
    marks: Mapping[str, ev.Outcome] = field(default_factory=dict)
    by: str = ""
    database: str = ""
    system_identifier: str | None = None
    place: ev.Place | None = None
    #: What its journal knows, if it was begun elsewhere than in this process.
    known: Chronicle | None = None
    #: The roles that have run it.
    roles: frozenset[str] = frozenset()

    def check_server(self, info: ServerInfo) -> None:
        """See to it that this is the server and the database of the run. PreflightError if it may be another one."""
        if self.database and info.database != self.database:
            raise PreflightError(
                f"the run is one of the database {self.database}, and this is {info.database}.", hint=_RIGHT_ONE
            )
        if self.place is not None and info.place is not None:
            try:
                place_after(self.place, info.place)
            except WrongServerError as error:
                raise PreflightError(error.message, hint=_RIGHT_ONE) from error
        elif None not in (self.system_identifier, info.system_identifier) and (
            info.system_identifier != self.system_identifier
        ):
            raise PreflightError(
                f"this server is not the one that the run was begun on: its system identifier is "
                f"{info.system_identifier}, and that one's was {self.system_identifier}.",
                hint=_RIGHT_ONE,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found out: see `events.RunResumed`."""

    settled: tuple[ev.Settled, ...] = ()
    adopted: tuple[ev.Adopted, ...] = ()
    foreign: tuple[str, ...] = ()


async def look_into(
    state: RunState,
    gateway: Gateway,
    takeover: Takeover,
    *,
    plan: Plan,
    run_id: str,
    values: Callable[[StepRecord], Mapping[str, Value | None]],
    clock: Clock,
) -> Findings:
    """Find out what became of the workers of `state`, the run as its record has it.

    `plan` is the one to go on with; `values` gives what a step's SQL may name. UsageError if a mark contradicts what is
    known; OpenQuestionError, with all questions, if an outcome can only be told by a person; PreflightError if the
    earlier runner is not gone, or if a worker lives whose step the plan does not have any more.
    """
    return await _Inquiry(state, gateway, takeover, plan=plan, run_id=run_id, values=values, clock=clock).findings()


class _Inquiry:
    def __init__(
        self,
        state: RunState,
        gateway: Gateway,
        takeover: Takeover,
        *,
        plan: Plan,
        run_id: str,
        values: Callable[[StepRecord], Mapping[str, Value | None]],
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._state = state
        self._gateway = gateway
        self._takeover = takeover
        self._run_id = run_id
        self._values = values
        self._clock = clock
        self._ages: dict[ev.Worker, float | None] = {}
        self._foreign: tuple[str, ...] = ()

    async def findings(self) -> Findings:
        alive = await self._alive()
        await self._check_record()
        cancel = self._takeover.orphans is Orphans.CANCEL
        orphans = {key: alive[key] for key in self._state.records if cancel and key in alive and self._is_orphan(key)}
        alive = {key: worker for key, worker in alive.items() if key not in orphans}
        self._check_marks(alive)  # before anything is stopped: a mark that is refused must leave all as it was
        await self._stop(orphans, cancel=True)
        settled, questions = await self._settle(alive, in_finally=False)
        at_best = {found.step: found.outcome for found in settled} | dict.fromkeys(questions, ev.Outcome.SUCCEEDED)
        again = finally_starts_again(self._state, at_best, self._plan)
        if again:
            late = {key: worker for key, worker in alive.items() if self._state.records[key].in_finally}
            await self._stop(late, cancel=False)
            alive = {key: worker for key, worker in alive.items() if key not in late}
        more, further = await self._settle(alive, in_finally=True, moot=again)
        settled, questions = [*settled, *more], questions | further
        self._check_plan(alive)
        if questions:
            raise OpenQuestionError(questions, stopped=[f"{key} (pid {orphans[key].pid})" for key in orphans])
        adopted = [
            ev.Adopted(
                step=key,
                attempt=max(self._state.records[key].attempt, 1),
                worker=worker,
                age=self._ages.get(worker),
            )
            for key, worker in alive.items()
        ]
        return Findings(settled=tuple(settled), adopted=tuple(adopted), foreign=self._foreign)

    async def _alive(self) -> dict[str, ev.Worker]:
        """Return the workers that live, by step, once no session is left that might launch another one."""
        known = [record.worker for record in self._state.records.values() if record.worker is not None]
        until = self._clock.now() + SESSIONS_LINGER
        left = await self._gateway.left_behind(known)
        while left.sessions:
            if self._clock.now() >= until:
                raise PreflightError(
                    f"run {self._run_id}: sessions of its last runner are still connected ({left.sessions}).",
                    hint="If that runner has ended, end them with pg_terminate_backend; their application_name is "
                    f"jobplan:{self._run_id}:runner.",
                )
            await asyncio.sleep(LOOK)
            left = await self._gateway.left_behind(known)
        now = self._clock.now()
        soon, until = now + ON_ITS_WAY, now + SESSIONS_LINGER
        while self._awaited(left) and self._clock.now() < (until if left.starting else soon):
            await asyncio.sleep(LOOK)
            left = await self._gateway.left_behind(known)
        self._foreign = left.foreign
        self._ages = {worker.worker: worker.age for worker in left.workers}
        if left.unseen:
            raise PreflightError(
                f"run {self._run_id}: {left.unseen} of its workers belong to a role whose work yours may not see.",
                hint="Resume as that role, or GRANT pg_read_all_stats and pg_signal_backend to yours.",
            )
        return self._by_step(left)

    def _awaited(self, left: LeftBehind) -> set[str]:
        """Return the steps whose worker was requested and never seen: one may only just have been started."""
        asked_for = {
            key for key, record in self._state.records.items() if record.state in HOLDING and record.worker is None
        }
        return asked_for - {key for key in asked_for for worker in left.workers if self._claims(worker, key)}

    def _by_step(self, left: LeftBehind) -> dict[str, ev.Worker]:
        """Return these workers by the step that each works for. PreflightError if that cannot be said of one."""
        steps = {record.worker: key for key, record in self._state.records.items() if record.worker is not None}
        alive = {steps[one.worker]: one.worker for one in left.workers if one.worker in steps}
        for worker in left.workers:
            if worker.worker in steps:
                continue
            key = self._step_of(worker, alive)
            if key is not None:
                alive[key] = worker.worker
        awaited = sorted(self._awaited(left))
        for worker in left.workers if awaited else ():
            if not (worker.readable or worker.worker in alive.values() or self._has_run_name(worker)):
                raise self._perhaps(worker, awaited)
        return alive

    def _step_of(self, worker: LeftWorker, alive: Mapping[str, ev.Worker]) -> str | None:
        """Return the step of a worker that the record has not seen; None if it is none that the run has launched."""
        found = [key for key in self._state.records if self._claims(worker, key)]
        if len(found) > 1:  # names that were cut may be the same
            found = [key for key in found if key in self._awaited(LeftBehind())]
        if worker.claim is None and not found:
            if not self._has_run_name(worker) or self._is_made_by_a_step(worker):
                return None
        elif worker.claim is None and found[0] in alive:
            return None  # a worker that the step has launched itself has inherited its name
        if len(found) != 1:
            raise self._unknown(worker, "the record does not know its step")
        key = found[0]
        if key in alive:
            raise self._unknown(worker, f"another one of its step does (pid {alive[key].pid})")
        attempt = max(self._state.records[key].attempt, 1)
        if worker.claim is not None and worker.claim.attempt not in (None, attempt):
            raise self._unknown(worker, f"is one of attempt {worker.claim.attempt}, and the record knows {attempt}")
        return key

    def _claims(self, worker: LeftWorker, key: str) -> bool:
        """Say whether a worker that the record has not seen says of itself that it works for this step."""
        name, claim = worker.worker.application_name, worker.claim
        if claim is None:
            return not worker.readable and has_name_of(name, self._run_id, key)
        if claim.run != self._run_id:
            return False
        return has_name_of(name, self._run_id, key) if claim.step is None else is_of_step(claim.step, key)

    def _has_run_name(self, worker: LeftWorker) -> bool:
        return run_of(worker.worker.application_name) == self._run_id

    def _is_made_by_a_step(self, worker: LeftWorker) -> bool:
        """Say whether a step has launched it itself: it has inherited the step's name, and its text has no label."""
        name = worker.worker.application_name
        return worker.readable and any(has_name_of(name, self._run_id, key) for key in self._state.records)

    def _unknown(self, worker: LeftWorker, why: str) -> PreflightError:
        name, pid = worker.worker.application_name, worker.worker.pid
        return PreflightError(
            f"run {self._run_id}: the worker {name} (pid {pid}) lives, and {why}.",
            hint="Wait for its end, or stop it with jobplan cancel.",
        )

    def _perhaps(self, worker: LeftWorker, steps: list[str]) -> PreflightError:
        name, pid = worker.worker.application_name, worker.worker.pid
        return PreflightError(
            f"run {self._run_id}: a worker was launched and never seen ({', '.join(steps[:4])}), and the worker "
            f"{name!r} (pid {pid}) shows no text, so it may be this one.",
            hint="Wait for its end, or set track_activities = on.",
        )

    async def _check_record(self) -> None:
        """See to it that the journal is not an old copy, as far as a ledger can tell, which hears that we go on."""
        told = await self._gateway.chronicle()
        if told is not None and self._takeover.known is not None:
            check_chronicle(self._run_id, self._takeover.known, told)

    def _is_orphan(self, key: str) -> bool:
        """Say whether the run has to see the end of this worker: it is none that it was to let go of."""
        return not is_kept(self._state.records[key], {})

    async def _stop(self, workers: Mapping[str, ev.Worker], *, cancel: bool) -> None:
        """Wait until these workers have ended, having asked them to stop if `cancel`.

        UnstoppableError if one of them is still running after that.
        """
        handles = [self._gateway.adopt(worker, step=key) for key, worker in workers.items()]
        for handle in handles if cancel else ():
            handle.cancel()
        await asyncio.gather(
            *(handle.ended(seen=lambda _: None, lost=lambda _: None, unstoppable=_refuse) for handle in handles)
        )

    def _check_marks(self, alive: Mapping[str, ev.Worker]) -> None:
        for key in self._takeover.marks:
            record = self._state.records.get(key)
            if record is None:
                raise UsageError(f"--mark {key}: the run has no such step.")
            if record.instances is not None:
                raise UsageError(f"--mark {key}: mark its instances, such as {next(iter(record.instances), key)}.")
            if is_kept(record, {}):
                raise UsageError(f"--mark {key}: it is {record.state} already.")
            if key in alive:
                raise UsageError(f"--mark {key}: its worker (pid {alive[key].pid}) still runs.")
            if is_unbegun(record):
                raise UsageError(
                    f"--mark {key}: it has not been begun, so there is nothing to say of it.",
                    hint="To leave a step out, begin a new run with --exclude or --select.",
                )

    def _check_plan(self, alive: Mapping[str, ev.Worker]) -> None:
        """See to it that the plan, should it have been changed, still has what runs."""
        known = steps_known(self._state, (*self._plan.steps, *self._plan.finally_))
        for key in alive.keys() - known:
            raise PreflightError(
                f"{key}: its worker (pid {alive[key].pid}) lives, and the plan does not have it any more.",
                hint="Wait for its end with jobplan attach, or stop it with jobplan cancel.",
            )

    async def _settle(
        self, alive: Mapping[str, ev.Worker], *, in_finally: bool, moot: bool = False
    ) -> tuple[list[ev.Settled], dict[str, str]]:
        """Find out what those did that have gone, and ask, by step, what nobody knows.

        `moot`: all of them run once more, whatever they did. Then only what a person says is kept.
        """
        settled: list[ev.Settled] = []
        questions: dict[str, str] = {}
        for key, record in self._state.records.items():
            if key in alive or record.in_finally is not in_finally:
                continue
            if key in self._takeover.marks:
                settled.append(ev.Settled(step=key, outcome=self._takeover.marks[key], by=self._takeover.by))
            elif moot:
                continue
            elif is_open(record):
                found = self._of_end(record) or await self._of_ledger(record)
                in_vain = found is None and await self._committed_in_vain(record)
                found = found or await self._of_plan(record, committed=in_vain)
                if found is None:
                    questions[key] = question_of_work_in_vain(record) if in_vain else question(record)
                else:
                    settled.append(found)
            elif committed_in_vain(record):
                found = await self._of_plan(record, committed=True)
                if found is None:
                    questions[key] = question_of_work_in_vain(record)
                else:
                    settled.append(found)
        return settled, questions

    def _of_end(self, record: StepRecord) -> ev.Settled | None:
        """Believe who had the whole record: the runner that ended the run says how each step stood."""
        return _settled(record, "ledger", succeeded=True) if self._end_of(record) in _DONE else None

    def _end_of(self, record: StepRecord) -> str | None:
        """Return the state in which the step ended, as the record has it, or the end of the run tells."""
        end = self._state.finished
        return record.state if record.final or end is None else end.steps.get(record.key)

    async def _of_ledger(self, record: StepRecord) -> ev.Settled | None:
        committed = await self._gateway.committed(record.key, record.attempt)
        if committed and record.step.repeat is not None:
            return await self._of_iteration(record)
        if committed and self._end_of(record) == StepState.FAILED:
            return None  # the record has a hole where it stood what was wrong with that
        return None if committed is None else _settled(record, "ledger", succeeded=committed)

    async def _committed_in_vain(self, record: StepRecord) -> bool:
        """Say whether the step failed although the ledger has that it committed; the journal lacks why."""
        failed = self._end_of(record) == StepState.FAILED
        return failed and bool(await self._gateway.committed(record.key, record.attempt))

    async def _of_iteration(self, record: StepRecord) -> ev.Settled:
        """One iteration has committed; whether it was the last one is for `until` to say, or for another one."""
        if record.step.repeat is not None and record.step.repeat.until_sql is not None:
            conditions = Conditions(self._gateway, record, self._values(record))
            said = await conditions.evaluate(ev.CheckPhase.AFTER, self._clock.now())
            if isinstance(said, ev.StepChecked) and said.verdict is ev.Verdict.PROCEED:
                return _settled(record, "ledger", succeeded=True)
        return ev.Settled(step=record.key, outcome=ev.Outcome.UNKNOWN, by="repeat")

    async def _of_plan(self, record: StepRecord, *, committed: bool) -> ev.Settled | None:
        """Evaluate `verify`; a step that may run again needs no evidence.

        Of a step that is `committed`, a `verify` that is false says only that its check still fails: the work is done,
        and it is not repeated for that.
        """
        checked = await Conditions(self._gateway, record, self._values(record)).verify()
        if checked is not None and (checked or not committed):
            return _settled(record, "verify", succeeded=checked)
        if may_run_again(record):
            return ev.Settled(step=record.key, outcome=ev.Outcome.UNKNOWN, by="idempotent")
        return None


def _settled(record: StepRecord, by: str, *, succeeded: bool) -> ev.Settled:
    return ev.Settled(step=record.key, outcome=ev.Outcome.SUCCEEDED if succeeded else ev.Outcome.FAILED, by=by)


def _refuse(worker: ev.Worker, seconds: float) -> None:
    raise UnstoppableError(
        f"{worker.application_name} (pid {worker.pid}) is still running after {seconds:g} s of requests to stop.",
        hint="Its SQL catches the cancel, or it does not look for signals; nothing was started.",
    )
