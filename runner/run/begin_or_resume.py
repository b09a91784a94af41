"""Begin a run or resume it, for programs that start a run and may have to start it again: `runner.begin_or_resume`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from runner.clock import Clock, MonotonicClock
from runner.engine.events import Outcome
from runner.engine.ports import SharedSlots, Sink
from runner.errors import JobplanError, OpenQuestionError, RecordError, UsageError
from runner.plan.graph import not_selected
from runner.plan.model import Plan
from runner.preflight.step_durations import read_usual_durations
from runner.run.api import LEDGER, new_run
from runner.run.loop import Run, RunOrigin, RunResult
from runner.run.resumption import prepare
from runner.run.run_decision import Done, RunRequest, again
from runner.run.start import Ready


async def begin_or_resume(
    plan: Plan,
    *,
    run_id: str | None = None,
    dsn: str = "",
    journal: str | Path | None = None,
    ledger: str | None = LEDGER,
    trusted_roles: Sequence[str] = (),
    require_ledger: bool = False,
    select: Sequence[str] = (),
    exclude: Sequence[str] = (),
    allow_changed: bool = False,
    wait_for_runner: bool = False,
    marks: Mapping[str, str] | None = None,
    sinks: Sequence[Sink] = (),
) -> RunResult:
    """Begin a run, or resume the one that a previous call or `jobplan run` has begun; return how it ended.

    It is `jobplan run --or-resume` for programs: it handles no signals and prints nothing, and any number of calls
    share an event loop. With a `run_id`, the run with that id is resumed, also after a failure; a run that has
    succeeded is not run again. Without one, the last unfinished run of this plan, these parameters, this selection and
    this database is resumed. `RunResult.origin` says whether the run was begun, resumed, or done already.

    The record is the journals in the folder `journal`, the ledger in the schema `ledger`, or both. Without a `journal`
    the ledger is required, because nothing else would know the run. `marks` answer the questions of an
    OpenQuestionError: by step, `succeeded` or `failed`. `select`, `exclude`, `allow_changed` and `wait_for_runner` are
    as on the command line.

    Raises UsageError (the id cannot be one, or it is that of a run of another plan, parameters or selection, or the
    plan has changed), RunHeldError (the run has a runner), OpenQuestionError (no evidence shows what a worker did),
    RecordError (the record is damaged, or cannot be written) and PreflightError (nothing could be started). A call that
    is cancelled leaves its workers running; the next one takes over.
    """
    if journal is None and ledger is None:
        raise UsageError(
            "begin_or_resume: neither a journal nor a ledger keeps a record of the run.",
            hint="Give a folder as `journal`, or leave `ledger` as it is.",
        )
    clock = MonotonicClock()
    request = RunRequest(
        plan=plan,
        conninfo=dsn,
        left_out=not_selected(plan, select, exclude),
        run_id=run_id,
        journal=None if journal is None else Path(journal),
        ledger=ledger,
        trusted_roles=tuple(trusted_roles),
        or_resume=True,
        allow_changed=allow_changed,
        wait=wait_for_runner,
        marks={step: _outcome(step, outcome) for step, outcome in (marks or {}).items()},
    )
    try:
        return await carry_out(request, clock=clock, sinks=sinks, require_ledger=require_ledger or journal is None)
    except OpenQuestionError as error:
        answers = ", ".join(f"{step!r}: 'succeeded' or 'failed'" for step in error.questions)
        raise error.answered_by(f"begin_or_resume(…, marks={{{answers}}})") from error


async def carry_out(
    request: RunRequest,
    *,
    clock: Clock,
    sinks: Sequence[Sink] = (),
    require_ledger: bool = False,
    shared_slots: SharedSlots | None = None,
    target: str | None = None,
    on_run: Callable[[Run], None] = lambda _: None,
) -> RunResult:
    """Carry out a request, to the end of its run; raises what `begin_or_resume` raises.

    `on_run` receives the run before it begins, once more if it is tried again; `target` is its name in a fleet.
    """
    while True:
        ready: Ready | None = None
        try:
            found = await prepare(request, clock.now())
            if isinstance(found, Done):
                return RunResult(state=found.state, exit_code=0, run_id=found.run_id, origin=RunOrigin.DONE)
            ready = found
            with _recording(ready) as journal:
                usual = await read_usual_durations(
                    ready.plan,
                    request.conninfo,
                    journals=request.journal,
                    ledger=request.ledger is not None,
                    trusted_roles=request.trusted_roles,
                )
                run = new_run(
                    ready,
                    dsn=request.conninfo,
                    clock=clock,
                    sinks=[*journal, *sinks],
                    ledger=request.ledger,
                    trusted_roles=request.trusted_roles,
                    require_ledger=require_ledger,
                    ledger_first=True,
                    shared_slots=shared_slots,
                    target=target,
                    usual=usual,
                )
                on_run(run)
                return await run.execute()
        except OpenQuestionError:
            raise
        except JobplanError as error:
            request, pause = again(request, error, None if ready is None else ready.run_id)
        await asyncio.sleep(pause)


@contextlib.contextmanager
def _recording(ready: Ready) -> Iterator[tuple[Sink, ...]]:
    """Yield the journal of what is ready, if it has one, and close it at the end."""
    try:
        yield () if ready.journal is None else (ready.journal,)
    finally:
        if ready.journal is not None:
            with contextlib.suppress(RecordError):  # the result has it already
                ready.journal.close()


def _outcome(step: str, outcome: str) -> Outcome:
    if outcome not in (Outcome.SUCCEEDED, Outcome.FAILED):
        raise UsageError(f"marks: {step}: {outcome!r} is neither 'succeeded' nor 'failed'.")
    return Outcome(outcome)
