"""Determines, before a run is resumed, the outcomes of the workers of its previous runner.

A worker is identified by its recorded pid and backend_start. A worker that the record lacks is found by its label, or
by its name if its query text is not visible, provided that its role belongs to the run. Nothing is guessed: a running
worker is followed or stopped; the outcome of an ended one comes from the ledger, `verify` or the user; a step that may
run again does so. The remaining outcomes become questions, and nothing starts before they are answered.

The journal may be an old copy. A ledger contains every requested worker and every takeover, so the two are compared
first.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from runner.clock import Clock, rfc3339
from runner.engine import events as ev
from runner.engine.batches import Batch, CarriedError, carries, stored_batch
from runner.engine.events import AttemptLaunching, Event, RunResumed
from runner.engine.ports import Gateway, RecordedRun, RemainingBackends, RemainingWorker, ServerInfo
from runner.engine.resume_state import (
    committed_but_failed,
    finally_starts_again,
    has_no_facts,
    is_kept,
    is_open,
    question,
    question_about_failed_check,
    steps_known,
)
from runner.engine.run_location import WrongServerError, place_after
from runner.engine.state import HOLDING, RunState, StepRecord, StepState, leaves
from runner.errors import OpenQuestionError, PreflightError, StaleRecordError, UnstoppableError, UsageError
from runner.identity import has_name_of, is_of_step, run_of
from runner.plan.model import ItemValues, Plan
from runner.run.conditions import Conditions
from runner.structs import Struct, field, replace

#: The number of attempts that a message names.
_NAMED = 4


def journal_record(events: Sequence[Event]) -> RecordedRun:
    """Return the launches and takeovers in a journal."""
    return RecordedRun(
        launched=frozenset((event.step, event.attempt) for event in events if isinstance(event, AttemptLaunching)),
        takeovers={rfc3339(event.at): event.host for event in events if isinstance(event, RunResumed)},
        ledger_first=_ledger_first(events),
    )


def _ledger_first(events: Sequence[Event]) -> dict[tuple[str, int], str]:
    """Return the launches that the ledger contains if their worker was requested: see `RecordedRun.ledger_first`."""
    found: dict[tuple[str, int], str] = {}
    runner: str | None = None
    for event in events:
        if isinstance(event, ev.RunStarted | RunResumed):
            moment = rfc3339(event.at) if isinstance(event, RunResumed) else ""
            runner = moment if event.ledger_first else None
        elif isinstance(event, ev.LedgerLost):  # what was announced before may be requested later
            runner = None
            found.clear()
        elif isinstance(event, AttemptLaunching):
            found.pop((event.step, event.attempt), None)
            if runner is not None:
                found[event.step, event.attempt] = runner
    return found


def check_journal_is_latest(run_id: str, journal: RecordedRun, ledger: RecordedRun) -> None:
    """Check that the journal contains all that the ledger does. StaleRecordError, with a hint, if it is an old copy."""
    launched = sorted(ledger.launched - journal.launched)
    takeovers = [(at, host) for at, host in ledger.takeovers.items() if at not in journal.takeovers]
    if not launched and not takeovers:
        return
    since = [f"a runner on {host} took the run over at {at[:19]}Z" for at, host in takeovers[:1]]
    if launched:
        named = ", ".join(f"{step} ({attempt})" for step, attempt in launched[:_NAMED])
        since.append(f"workers were launched: {named}{' and others' if len(launched) > _NAMED else ''}")
    raise StaleRecordError(
        f"the journal of run {run_id} is out of date. The ledger contains what it lacks: {' and '.join(since)}. "
        "Nothing was started.",
        hint=f"Resume with the latest journal, or from the ledger: jobplan resume {shlex.quote(run_id)} "
        "--from-ledger --journal NEW_FOLDER.",
    )


#: Seconds that the sessions of an ended runner get to disconnect, and the poll interval.
SESSIONS_END_WITHIN = 30.0
POLL_INTERVAL = 0.2
#: States of a step whose work is done, in the event of the run's end.
_DONE = frozenset({StepState.SUCCEEDED, StepState.FAILED_ALLOWED})
#: Seconds after which a requested worker that was never seen is no longer starting.
LAUNCH_SEEN_WITHIN = 3.0


_OTHER_DSN = "Pass the run's server and database with --dsn."


class Orphans(enum.StrEnum):
    """What to do with workers that are running although their runner has ended."""

    WAIT = "wait"
    CANCEL = "cancel"


class Takeover(Struct, frozen=True, kw_only=True):
    """How to take a run over. `marks` are the outcomes that the user `by` states where evidence is missing.

    `database`, `system_identifier` and `place` locate the run, as far as known.
    """

    orphans: Orphans = Orphans.WAIT
    marks: Mapping[str, ev.Outcome] = field(default_factory=dict)
    by: str = ""
    database: str = ""
    system_identifier: str | None = None
    place: ev.Place | None = None
    #: The content of its journal, if the run did not begin in this process.
    known: RecordedRun | None = None
    #: The roles that have executed it.
    roles: frozenset[str] = frozenset()

    def check_server(self, info: ServerInfo) -> None:
        """Check that this is the run's server and database. PreflightError if it may be another one."""
        if self.database and info.database != self.database:
            raise PreflightError(
                f"the run belongs to database {self.database}, and this connection leads to database {info.database}.",
                hint=_OTHER_DSN,
            )
        if self.place is not None and info.place is not None:
            try:
                place_after(self.place, info.place)
            except WrongServerError as error:
                raise PreflightError(error.message, hint=_OTHER_DSN) from error
        elif None not in (self.system_identifier, info.system_identifier) and (
            info.system_identifier != self.system_identifier
        ):
            raise PreflightError(
                f"this is not the run's server: its system identifier is {info.system_identifier}, and that of the "
                f"run's server is {self.system_identifier}.",
                hint=_OTHER_DSN,
            )


class Findings(Struct, frozen=True, kw_only=True):
    """The outcomes and running workers that were found: see `events.RunResumed`."""

    settled: tuple[ev.Settled, ...] = ()
    adopted: tuple[ev.Adopted, ...] = ()
    foreign: tuple[str, ...] = ()


async def without_runner(
    gateway: Gateway, run_id: str, known: Collection[ev.Worker], clock: Clock
) -> RemainingBackends:
    """Return what an earlier runner has left, once none of its sessions is left that might launch another worker.

    `known` are workers that have been seen. PreflightError if its sessions do not end.
    """
    until = clock.now() + SESSIONS_END_WITHIN
    left = await gateway.remaining_backends(known)
    while left.sessions:
        if clock.now() >= until:
            raise PreflightError(
                f"run {run_id}: sessions of its previous runner are still connected ({left.sessions}).",
                hint="If that runner has ended, end them with pg_terminate_backend; their application_name is "
                f"jobplan:{run_id}:runner.",
            )
        await asyncio.sleep(POLL_INTERVAL)
        left = await gateway.remaining_backends(known)
    return left


class Examination:
    """Determines the outcomes of the workers of `state`, which is the recorded state of the run.

    `plan` is the plan of the resumed run; `values` returns the values that a step's SQL may name.
    """

    def __init__(
        self,
        state: RunState,
        gateway: Gateway,
        takeover: Takeover,
        *,
        plan: Plan,
        run_id: str,
        values: Callable[[StepRecord], ItemValues],
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
        self._in_ledger: RecordedRun | None = None
        #: Running workers that prepare an attempt, or remove what it left behind, and the step of each.
        self._assistants: dict[ev.Worker, str] = {}
        self._foreign: tuple[str, ...] = ()

    async def findings(self) -> Findings:
        """Return the outcomes, and the workers that are running.

        UsageError if a mark contradicts the evidence; OpenQuestionError, with all questions, if only the user knows an
        outcome; PreflightError if the previous runner has not ended, or if a worker is running whose step is no longer
        in the plan.
        """
        alive = await self._running()
        await self._check_record()
        cancel = self._takeover.orphans is Orphans.CANCEL
        orphans = {key: alive[key] for key in self._state.records if cancel and key in alive and self._is_orphan(key)}
        alive = {key: worker for key, worker in alive.items() if key not in orphans}
        self._check_marks(alive)  # before anything is stopped: a refused mark must not have effects
        # what the workers besides the steps' own do is done again if it is needed
        await self._stop(((key, worker) for worker, key in self._assistants.items()), cancel=cancel)
        await self._stop(orphans.items(), cancel=True)
        settled, questions = await self._settle(alive, in_finally=False)
        at_best = {found.step: found.outcome for found in settled} | dict.fromkeys(questions, ev.Outcome.SUCCEEDED)
        again = finally_starts_again(self._state, at_best, self._plan)
        if again:
            late = {key: worker for key, worker in alive.items() if self._state.records[key].in_finally}
            await self._stop(late.items(), cancel=False)
            alive = {key: worker for key, worker in alive.items() if key not in late}
        more, further = await self._settle(alive, in_finally=True, all_run_again=again)
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

    async def _running(self) -> dict[str, ev.Worker]:
        """Return the running workers by step, once no session is left that could launch another one."""
        known = [record.worker for record in self._state.records.values() if record.worker is not None]
        left = await without_runner(self._gateway, self._run_id, known, self._clock)
        now = self._clock.now()
        soon, until = now + LAUNCH_SEEN_WITHIN, now + SESSIONS_END_WITHIN
        while self._unseen_steps(left) and self._clock.now() < (until if left.starting else soon):
            await asyncio.sleep(POLL_INTERVAL)
            left = await self._gateway.remaining_backends(known)
        self._foreign = left.foreign
        self._ages = {worker.worker: worker.age for worker in left.workers}
        if left.unseen:
            raise PreflightError(
                f"run {self._run_id}: {left.unseen} of its workers belong to a role whose activity yours cannot see.",
                hint="Resume as that role, or GRANT pg_read_all_stats and pg_signal_backend to yours.",
            )
        return self._by_step(left)

    def _unseen_steps(self, left: RemainingBackends) -> set[str]:
        """Return the steps whose requested worker was never seen: it may just be starting."""
        requested = {
            key for key, record in self._state.records.items() if record.state in HOLDING and record.worker is None
        }
        return requested - {key for key in requested for worker in left.workers if self._claims(worker, key)}

    def _by_step(self, left: RemainingBackends) -> dict[str, ev.Worker]:
        """Return these workers by step. PreflightError if the step of one cannot be determined."""
        steps = {record.worker: key for key, record in self._state.records.items() if record.worker is not None}
        self._assistants = {one.worker: key for one in left.workers if (key := self._assisted_step(one, steps))}
        workers = [one for one in left.workers if one.worker not in self._assistants]
        alive = {steps[one.worker]: one.worker for one in workers if one.worker in steps}
        for worker in workers:
            if worker.worker in steps:
                continue
            key = self._step_of(worker, alive)
            if key is not None:
                alive[key] = worker.worker
        awaited = sorted(self._unseen_steps(left))
        for worker in workers if awaited else ():
            if not (worker.readable or worker.worker in alive.values() or self._has_run_name(worker)):
                raise self._ambiguous(worker, awaited)
        return alive

    def _assisted_step(self, worker: RemainingWorker, steps: Mapping[ev.Worker, str]) -> str | None:
        """Return the step of a worker that does not execute the step's own SQL; None if it does, or is not known."""
        if worker.claim is not None and worker.claim.purpose:
            return next((key for key in self._state.records if self._claims(worker, key)), None)
        key = steps.get(worker.worker)
        if key is None:
            found = [key for key in self._state.records if self._claims(worker, key)]
            key = found[0] if len(found) == 1 else None
        return key if key is not None and self._state.records[key].assisted else None

    def _step_of(self, worker: RemainingWorker, alive: Mapping[str, ev.Worker]) -> str | None:
        """Return the step of a worker that the record lacks; None if the run did not launch it."""
        found = [key for key in self._state.records if self._claims(worker, key)]
        if len(found) > 1:  # names that were cut can be equal
            found = [key for key in found if key in self._unseen_steps(RemainingBackends())]
        if worker.claim is None and not found:
            if not self._has_run_name(worker) or self._launched_by_a_step(worker):
                return None
        elif worker.claim is None and found[0] in alive:
            return None  # a worker that the step itself launched has inherited its name
        if len(found) != 1:
            raise self._unknown(worker, "the record has no step for it")
        key = found[0]
        if key in alive:
            raise self._unknown(worker, f"its step has another running worker (pid {alive[key].pid})")
        attempt = max(self._state.records[key].attempt, 1)
        if worker.claim is not None and worker.claim.attempt not in (None, attempt):
            raise self._unknown(worker, f"its attempt is {worker.claim.attempt}, the last recorded one is {attempt}")
        return key

    def _claims(self, worker: RemainingWorker, key: str) -> bool:
        """Return whether a worker that the record lacks claims to work for this step."""
        name, claim = worker.worker.application_name, worker.claim
        if claim is None:
            return not worker.readable and has_name_of(name, self._run_id, key)
        if claim.run != self._run_id:
            return False
        return has_name_of(name, self._run_id, key) if claim.step is None else is_of_step(claim.step, key)

    def _has_run_name(self, worker: RemainingWorker) -> bool:
        return run_of(worker.worker.application_name) == self._run_id

    def _launched_by_a_step(self, worker: RemainingWorker) -> bool:
        """Return whether a step launched it itself: it has inherited the step's name, and its text has no label."""
        name = worker.worker.application_name
        return worker.readable and any(has_name_of(name, self._run_id, key) for key in self._state.records)

    def _unknown(self, worker: RemainingWorker, why: str) -> PreflightError:
        name, pid = worker.worker.application_name, worker.worker.pid
        return PreflightError(
            f"run {self._run_id}: the worker {name} (pid {pid}) is still running: {why}.",
            hint="Wait until it ends, or stop it with jobplan cancel.",
        )

    def _ambiguous(self, worker: RemainingWorker, steps: list[str]) -> PreflightError:
        name, pid = worker.worker.application_name, worker.worker.pid
        return PreflightError(
            f"run {self._run_id}: a worker was requested and never seen ({', '.join(steps[:4])}). The worker "
            f"{name!r} (pid {pid}) has no visible query text, so it may be that one.",
            hint="Wait until it ends, or set track_activities = on.",
        )

    async def _check_record(self) -> None:
        """Check with the ledger that the journal is not an old copy. The ledger records this takeover."""
        recorded = self._in_ledger = await self._gateway.ledger_record()
        if recorded is not None and self._takeover.known is not None:
            check_journal_is_latest(self._run_id, self._takeover.known, recorded)

    def _is_orphan(self, key: str) -> bool:
        """Return whether the run must wait for this worker: its step is not one that may be detached."""
        return not is_kept(self._state.records[key], {})

    async def _stop(self, workers: Iterable[tuple[str, ev.Worker]], *, cancel: bool) -> None:
        """Wait until these workers have ended; with `cancel`, ask them to stop first.

        UnstoppableError if one of them is still running after that.
        """
        handles = [self._gateway.adopt(worker, step=key) for key, worker in workers]
        for handle in handles if cancel else ():
            handle.cancel()
        await asyncio.gather(
            *(
                handle.wait_until_ended(on_seen=lambda _: None, on_lost=lambda _: None, on_unstoppable=_refuse)
                for handle in handles
            )
        )

    def _check_marks(self, alive: Mapping[str, ev.Worker]) -> None:
        for key in self._takeover.marks:
            record = self._state.records.get(key)
            if record is None:
                raise UsageError(f"--mark {key}: the run has no such step.")
            if record.instances is not None:
                one = next((leaf.key for leaf in leaves(self._state, record)), key)
                raise UsageError(f"--mark {key}: mark its instances, such as {one}.")
            if is_kept(record, {}):
                raise UsageError(f"--mark {key}: it is {record.state} already.")
            if key in alive:
                raise UsageError(f"--mark {key}: its worker (pid {alive[key].pid}) is still running.")
            if has_no_facts(record):
                raise UsageError(
                    f"--mark {key}: the step has not started, so it has no outcome to mark.",
                    hint="To leave a step out, start a new run with --exclude or --select.",
                )

    def _check_plan(self, alive: Mapping[str, ev.Worker]) -> None:
        """Check that the plan, which may have changed, still has the steps of the running workers."""
        known = steps_known(self._state, self._plan.all_steps)
        for key in alive.keys() - known:
            raise PreflightError(
                f"{key}: its worker (pid {alive[key].pid}) is still running, and the plan no longer has this step.",
                hint="Wait until it ends with jobplan attach, or stop it with jobplan cancel.",
            )

    async def _settle(
        self, alive: Mapping[str, ev.Worker], *, in_finally: bool, all_run_again: bool = False
    ) -> tuple[list[ev.Settled], dict[str, str]]:
        """Determine the outcomes of the ended workers, and return questions, by step, for those without evidence.

        `all_run_again`: all of these steps run again, whatever their outcome. Then only the user's marks are kept.
        """
        settled: list[ev.Settled] = []
        questions: dict[str, str] = {}
        for key, record in self._state.records.items():
            if key in alive or record.in_finally is not in_finally:
                continue
            if key in self._takeover.marks:
                settled.append(ev.Settled(step=key, outcome=self._takeover.marks[key], by=self._takeover.by))
            elif all_run_again:
                continue
            elif is_open(record):
                found = self._from_run_end(record) or await self._from_ledger(record)
                check_failed = found is None and await self._check_failed_after_commit(record)
                # a false `verify` does not say whether one batch of several has committed
                certain = check_failed or carries(record.step)
                found = found or await self._from_plan(record, committed=certain)
                if found is None:
                    questions[key] = question_about_failed_check(record) if check_failed else question(record)
                else:
                    settled.append(found)
            elif committed_but_failed(record):
                found = await self._from_plan(record, committed=True)
                if found is None:
                    questions[key] = question_about_failed_check(record)
                else:
                    settled.append(found)
        return settled, questions

    def _from_run_end(self, record: StepRecord) -> ev.Settled | None:
        """Use the event of the run's end: the runner that wrote it had the complete record."""
        return _settled(record, "ledger", succeeded=True) if self._final_state(record) in _DONE else None

    def _final_state(self, record: StepRecord) -> str | None:
        """Return the state in which the step ended, from its record or from the event of the run's end."""
        end = self._state.finished
        return record.state if record.final or end is None else end.steps.get(record.key)

    async def _from_ledger(self, record: StepRecord) -> ev.Settled | None:
        committed = await self._gateway.committed(record.key, record.attempt)
        if committed and record.step.repeat is not None:
            return await self._from_iteration(record)
        if committed and self._final_state(record) == StepState.FAILED:
            return None  # the record is incomplete: it lacks which check of the step failed
        if committed is None and self._was_never_requested(record):
            committed = False
        return None if committed is None else _settled(record, "ledger", succeeded=committed)

    def _was_never_requested(self, record: StepRecord) -> bool:
        """Return whether the last runner ended after it announced this attempt, and before it requested the worker.

        That is certain if it requested no worker before the launch was in the ledger, and the ledger has that runner's
        start, but not the launch.
        """
        attempt, known, ledger = (record.key, record.attempt), self._takeover.known, self._in_ledger
        runner = None if known is None else known.ledger_first.get(attempt)
        if runner is None or ledger is None or attempt in ledger.launched:
            return False
        return ledger.begun and (not runner or runner in ledger.takeovers)

    async def _check_failed_after_commit(self, record: StepRecord) -> bool:
        """Return whether the step failed although the ledger has its commit; the journal lacks the reason."""
        failed = self._final_state(record) == StepState.FAILED
        return failed and bool(await self._gateway.committed(record.key, record.attempt))

    async def _from_iteration(self, record: StepRecord) -> ev.Settled | None:
        """Decide about a committed iteration: `until` says whether it was the last one, else another one follows.

        None if it carries values that its transaction has not stored: then the next iteration has no beginning.
        """
        batch: Batch | None = None
        if carries(record.step):
            stored = await self._gateway.stored_batch(record.key, record.attempt)
            if stored is None:
                return None
            with contextlib.suppress(CarriedError):
                batch = stored_batch(record.step, stored.values, rows=stored.rows)
            if batch is None:
                return None
            record = replace(record, carried=batch.carried or record.carried)
        if record.step.repeat is not None and record.step.repeat.until_sql is not None:
            conditions = Conditions(self._gateway, record, self._values(record))
            said = await conditions.evaluate(ev.CheckPhase.AFTER, self._clock.now())
            if isinstance(said, ev.StepChecked) and said.verdict is ev.Verdict.PROCEED:
                return _settled(record, "ledger", succeeded=True)
        return ev.Settled(
            step=record.key,
            outcome=ev.Outcome.UNKNOWN,
            by="repeat",
            rows=None if batch is None else batch.rows,
            carried=None if batch is None else batch.carried,
        )

    async def _from_plan(self, record: StepRecord, *, committed: bool) -> ev.Settled | None:
        """Evaluate `verify`; a step that may run again needs no evidence.

        For a `committed` step, a false `verify` only means that its check still fails: the work is done, and is not
        repeated for that.
        """
        checked = await Conditions(self._gateway, record, self._values(record)).verify()
        if checked is not None and (checked or not committed):
            return _settled(record, "verify", succeeded=checked)
        if record.may_run_again:
            return ev.Settled(step=record.key, outcome=ev.Outcome.UNKNOWN, by="idempotent")
        return None


def _settled(record: StepRecord, by: str, *, succeeded: bool) -> ev.Settled:
    return ev.Settled(step=record.key, outcome=ev.Outcome.SUCCEEDED if succeeded else ev.Outcome.FAILED, by=by)


def _refuse(worker: ev.Worker, seconds: float) -> None:
    raise UnstoppableError(
        f"{worker.application_name} (pid {worker.pid}) is still running after {seconds:g} s of requests to stop.",
        hint="Its SQL catches the cancel, or does not process interrupts; nothing was started.",
    )
