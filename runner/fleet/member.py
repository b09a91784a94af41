"""One member of a fleet run: an ordinary run on one target, and how its end is reported to the fleet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runner.clock import Clock
from runner.engine import events as run_events
from runner.engine.ports import SharedSlots, Sink
from runner.engine.state import BAD, RunState, StepRecord
from runner.errors import ConnectionFailedError, JobplanError, OpenQuestionError, PlanError
from runner.exit_codes import ExitCode, for_error
from runner.fleet.discovery import target_conninfo
from runner.fleet.events import Failure, MemberFinished, MemberState
from runner.fleet.rollout import Member, member_state
from runner.fleet.targets import Cluster
from runner.gateway.connecting import FULL
from runner.plan.model import Plan
from runner.run.begin_or_resume import carry_out
from runner.run.loop import Run
from runner.run.run_decision import RunRequest
from runner.structs import Struct, field, replace

#: How many failed steps of a member the record of the fleet has; its own record has all.
_KEPT = 20
#: Characters of a message that are kept.
_MESSAGE = 500


class MemberOptions(Struct, frozen=True, kw_only=True):
    """What all members of a fleet run have in common."""

    runs: Path
    ledger: str | None
    trusted_roles: tuple[str, ...] = ()
    require_ledger: bool = False
    allow_changed: bool = False
    #: The answers to open questions, by target, then by step.
    marks: Mapping[str, Mapping[str, run_events.Outcome]] = field(default_factory=dict)


async def run_member(
    member: Member,
    plan: Plan,
    left_out: frozenset[str],
    cluster: Cluster,
    options: MemberOptions,
    *,
    clock: Clock,
    slots: SharedSlots,
    on_run: Callable[[Run], None],
    sinks: Sequence[Sink],
) -> MemberFinished:
    """Run the plan on the target, or finish the run that a previous process began there, and return how it ended."""
    target = member.target
    began = clock.now()
    request = RunRequest(
        plan=plan,
        conninfo=target_conninfo(cluster, target.database),
        left_out=left_out,
        run_id=member.run,
        journal=options.runs,
        ledger=options.ledger,
        trusted_roles=options.trusted_roles,
        or_resume=True,
        allow_changed=options.allow_changed,
        marks=options.marks.get(target.name, {}),
    )
    try:
        result = await carry_out(
            request,
            clock=clock,
            sinks=sinks,
            require_ledger=options.require_ledger,
            shared_slots=slots,
            target=target.name,
            on_run=on_run,
        )
    except JobplanError as error:
        return of_error(target.name, error, clock.now(), began)
    failures = _failures(result.state)
    code = result.exit_code
    if result.record_errors and code == ExitCode.SUCCESS:
        code = ExitCode.FAILED
    if result.record_errors and not failures:
        failures = tuple(Failure(message=str(error)) for error in result.record_errors)
    return replace(
        _end(target.name, clock.now(), began, code),
        failures=failures,
        counts={str(state): number for state, number in result.state.counts().items()},
        steps={key: str(one.state) for key, one in result.state.records.items() if one.parent is None},
    )


def of_error(target: str, error: JobplanError, now: float, began: float) -> MemberFinished:
    """Return the end of a member whose run could not begin, or could not go on."""
    if isinstance(error, OpenQuestionError):  # it cannot be resumed before a person has answered
        questions = tuple(Failure(step=step, message=_cut(text)) for step, text in error.questions.items())
        end = _end(target, now, began, ExitCode.UNKNOWN)
        return replace(end, failures=questions, questions=tuple(error.questions))
    code = for_error(error)
    state = member_state(code)
    if isinstance(error, ConnectionFailedError):
        state = MemberState.BUSY if error.hint == FULL else MemberState.UNREACHABLE
    elif state is MemberState.UNREACHABLE:
        state = MemberState.FAILED
    message = "; ".join(map(str, error.problems)) if isinstance(error, PlanError) and error.problems else error.message
    failures = () if code == ExitCode.SUCCESS else (Failure(message=_cut(message)),)
    return replace(_end(target, now, began, code), state=state, failures=failures)


def _end(target: str, now: float, began: float, code: int) -> MemberFinished:
    """Return the end of a member, in the state of its exit code."""
    seconds = round(now - began, 3)
    return MemberFinished(at=now, target=target, state=member_state(code), exit_code=int(code), seconds=seconds)


def _failures(state: RunState) -> tuple[Failure, ...]:
    """Return what failed, steps before those of `finally`, without steps that only have failed instances."""
    bad = (record for record in state.records.values() if record.state in BAD and not record.instances)
    found = [_failure(record) for record in bad]
    return tuple(found[:_KEPT])


def _failure(record: StepRecord) -> Failure:
    error = record.error or (record.last.error if record.last is not None else None)
    words = str(record.state).replace("_", " ")
    message = words if error is None else error.message
    return Failure(
        message=_cut(message),
        step=record.key,
        sqlstate=None if error is None else error.sqlstate,
        place=str(record.step.position),
    )


def _cut(text: str) -> str:
    return text if len(text) <= _MESSAGE else f"{text[:_MESSAGE]}…"
