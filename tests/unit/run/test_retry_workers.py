"""Workers besides the step's own, on a gateway without a server: `on_retry`, and `leftovers: drop`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest

from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.leftovers import UnfinishedObject, read_leftover, removals
from runner.engine.ports import LaunchRequest, WorkerEnd
from runner.engine.state import RunState, initial_state
from runner.errors import CapacityError, GatewayError, OpenQuestionError
from runner.plan.model import OnLeftovers, Plan, RetryPolicy
from runner.reports.report_builder import run_report
from runner.run.retry_workers import failed_preparation
from runner.run.takeover import Orphans, Takeover
from runner.sql.text_traits import builds_of
from tests.builders import Recorder, execute, new_run, plan, sql, step
from tests.fake_gateway import FakeGateway, FakeWorker, Script

FAILS = Script(error=ev.ErrorDetails(message="no", sqlstate="P0001"))
FOREVER = Script(seconds=None)
RUN = "260101-abcdef"
TWICE = RetryPolicy(max_attempts=2)


@pytest.fixture(autouse=True)
def no_worker_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of the previous runner that is not there has ended: nothing waits for it to appear."""
    monkeypatch.setattr("runner.run.takeover.LAUNCH_SEEN_WITHIN", 0.0)


def launched(gateway: FakeGateway) -> list[tuple[str, str]]:
    """Return the SQL and the purpose of each worker, in order."""
    return [(one.sql, one.label.purpose if one.label is not None else "") for one in gateway.launched]


async def until(condition: Callable[[], bool]) -> None:
    """Let the run continue until this is so."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the run has no event for it
            await asyncio.sleep(0)


def names(record: Recorder) -> list[str]:
    """Return the events of attempts that begin or end something, in order."""
    kinds = (ev.AttemptPreparing, ev.AttemptLaunching, ev.AttemptRemoving, ev.AttemptFinished, ev.AttemptDeferred)
    return [event.name.removeprefix("attempt_") for event in record.events if isinstance(event, kinds)]


def state_after(of: Plan, events: Sequence[ev.Event]) -> RunState:
    """Return the state that a journal with these events gives."""
    state = initial_state(of)
    for event in events:
        apply(state, event)
    return state


async def test_on_retry_runs_between_attempts_in_the_slot_of_the_step() -> None:
    p = plan(step("a", "work", on_retry=sql("clean"), retry=RetryPolicy(max_attempts=3), role="keeper", timeout=7.0))
    gateway = FakeGateway(scripts={"work": FAILS})
    result, record = await execute(p, gateway)
    assert result.exit_code == 1
    assert launched(gateway) == [("work", ""), ("clean", "on_retry"), ("work", ""), ("clean", "on_retry"), ("work", "")]
    assert {(one.role, one.timeout) for one in gateway.launched} == {("keeper", 7.0)}
    assert gateway.most_alive == 1
    assert names(record) == ["launching", "finished", *["preparing", "launching", "finished"] * 2]


async def test_a_failed_on_retry_is_the_end_of_the_attempt() -> None:
    p = plan(step("a", "work", on_retry=sql("clean"), retry=RetryPolicy(max_attempts=3)))
    gateway = FakeGateway(scripts={"work": FAILS, "clean": FAILS})
    _, record = await execute(p, gateway)
    assert launched(gateway) == [("work", ""), ("clean", "on_retry"), ("clean", "on_retry")]
    messages = [end.error.message for end in record.ends("a") if end.error is not None]
    assert messages == ["no", "on_retry: no", "on_retry: no"]


async def test_on_retry_gets_the_item_and_the_parameters() -> None:
    p = plan(step("a", "work", on_retry=sql("clean :'run.name'"), retry=TWICE))
    gateway = FakeGateway(scripts={"work": FAILS})
    await execute(p, gateway)
    assert ("clean 'test'", "on_retry") in launched(gateway)


async def test_an_interrupt_during_on_retry_keeps_the_step_from_running() -> None:
    p = plan(step("a", "work", on_retry=sql("clean"), retry=TWICE))
    gateway = FakeGateway(scripts={"work": FAILS, "clean": FOREVER})
    run, record = new_run(p, gateway)
    executed = asyncio.create_task(run.execute())
    await until(lambda: bool(gateway.alive) and gateway.launched[-1].sql == "clean")
    run.interrupt(2)
    result = await executed
    assert result.exit_code == 130
    assert launched(gateway) == [("work", ""), ("clean", "on_retry")]
    assert record.outcomes() == {"a": ev.Outcome.CANCELLED}


async def test_a_server_without_room_for_on_retry_puts_the_attempt_off() -> None:
    class Full(FakeGateway):
        """Has no room for the first worker of on_retry."""

        refused = False

        async def launch(self, request: LaunchRequest) -> FakeWorker:
            if request.sql == "clean" and not self.refused:
                self.refused = True
                raise CapacityError("no room")
            return await super().launch(request)

    p = plan(step("a", "work", on_retry=sql("clean"), retry=TWICE))
    gateway = Full(scripts={"work": FAILS})
    _, record = await execute(p, gateway)
    assert names(record) == [
        *("launching", "finished", "preparing", "deferred"),
        *("preparing", "launching", "finished"),
    ]
    assert [end.attempt for end in record.ends("a")] == [1, 2]


@pytest.mark.parametrize("end", range(1, 40))
async def test_a_runner_killed_at_any_event_leaves_a_run_that_can_be_finished(end: int) -> None:
    """The step is done once more where that is allowed; what only prepares it never raises a question."""
    p = plan(
        step("a", "work", on_retry=sql("clean"), retry=RetryPolicy(max_attempts=3)), step("b", "SELECT 1", needs=["a"])
    )
    gateway = FakeGateway(scripts={"work": FAILS})
    _, record = await execute(p, gateway, run_id=RUN)
    if end > len(record.events):
        return
    events = record.events[:end]
    state = state_after(p, events)
    preparing = state.records["a"].preparing
    own = isinstance(events[-1], ev.AttemptLaunching | ev.AttemptRunning) and not preparing
    again = FakeGateway()
    takeover = Takeover(by="ann", marks={"a": ev.Outcome.FAILED} if own else {})
    result, second = await execute(p, again, run_id=RUN, previous_state=state, takeover=takeover)
    assert result.exit_code == 0
    tried = any(isinstance(event, ev.AttemptLaunching) for event in events)
    assert launched(again)[0] == (("clean", "on_retry") if tried else ("work", ""))
    assert second.outcomes() == {"a": ev.Outcome.SUCCEEDED, "b": ev.Outcome.SUCCEEDED}


@pytest.mark.parametrize("orphans", list(Orphans))
async def test_a_worker_that_prepares_an_attempt_is_never_taken_for_the_steps_own(orphans: Orphans) -> None:
    p = plan(step("a", "work", on_retry=sql("clean"), retry=TWICE))
    slow = Script(seconds=0.05) if orphans is Orphans.WAIT else FOREVER
    first = FakeGateway(scripts={"work": FAILS, "clean": slow})
    run, record = new_run(p, first, run_id=RUN)
    executed = asyncio.create_task(run.execute())
    await until(lambda: bool(record.of(ev.AttemptPreparing)) and bool(first.alive))
    state = state_after(p, record.events)
    executed.cancel()
    await asyncio.gather(executed, return_exceptions=True)
    second = FakeGateway()
    second.inherit(first)
    takeover = Takeover(by="ann", orphans=orphans)
    result, again = await execute(p, second, run_id=RUN, previous_state=state, takeover=takeover)
    assert result.exit_code == 0
    assert again.of(ev.RunResumed)[0].adopted == ()
    assert launched(second) == [("clean", "on_retry"), ("work", "")]


async def test_the_steps_own_worker_still_raises_a_question() -> None:
    p = plan(step("a", "work", on_retry=sql("clean"), retry=TWICE))
    gateway = FakeGateway(scripts={"work": FAILS})
    _, record = await execute(p, gateway, run_id=RUN)
    last = max(place for place, event in enumerate(record.events) if isinstance(event, ev.AttemptLaunching))
    state = state_after(p, record.events[: last + 1])
    with pytest.raises(OpenQuestionError):
        await execute(p, FakeGateway(), run_id=RUN, previous_state=state, takeover=Takeover(by="ann"))


async def test_an_attempt_that_was_only_prepared_when_the_runner_was_killed_is_no_unknown_outcome() -> None:
    p = plan(step("a", "work", on_retry=sql("clean"), retry=TWICE))
    _, record = await execute(p, FakeGateway(scripts={"work": FAILS}), run_id=RUN)
    cut = next(place for place, event in enumerate(record.events) if isinstance(event, ev.AttemptPreparing))
    events = record.events[: cut + 1]
    state = state_after(p, events)
    _, second = await execute(p, FakeGateway(), run_id=RUN, previous_state=state, takeover=Takeover(by="ann"))
    (found,) = run_report(p, RUN, [*events, *second.events]).steps
    assert [attempt.outcome for attempt in found.attempts] == [
        *(ev.Outcome.FAILED, ev.Outcome.CANCELLED, ev.Outcome.SUCCEEDED)
    ]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (WorkerEnd(lost=True), ev.Outcome.FAILED),
        (WorkerEnd(detached=True), ev.Outcome.FAILED),
        (WorkerEnd(confirmed=True), None),
    ],
)
def test_the_outcome_of_on_retry_is_never_unknown(end: WorkerEnd, expected: ev.Outcome | None) -> None:
    found = failed_preparation(end, timeout=None, cancelled=None)
    assert (found[0] if found is not None else None) is expected


# --- leftovers --------------------------------------------------------------------------------------------------------

BUILD = "CREATE INDEX CONCURRENTLY i ON public.t (a)"


def index(oid: int, name: str, table: str = "t") -> UnfinishedObject:
    """Return an INVALID index."""
    return UnfinishedObject(
        oid=oid,
        kind="index",
        shown=f"public.{name}",
        parent=f"public.{table}",
        schema="public",
        name=name,
        table_schema="public",
        table=table,
    )


class Server(FakeGateway):
    """A server on which CREATE INDEX leaves an INVALID index behind, and DROP INDEX removes it."""

    def __init__(
        self, *before: UnfinishedObject, drops: bool = True, scripts: Mapping[str, Script] | None = None
    ) -> None:
        super().__init__(scripts=scripts)
        self.left_unfinished = list(before)
        self._drops = drops
        self.last_oid = 100

    async def launch(self, request: LaunchRequest) -> FakeWorker:
        """Execute the statements that this server knows."""
        worker = await super().launch(request)
        if request.sql == BUILD:
            self.last_oid += 1
            self.left_unfinished.append(index(self.last_oid, "i"))
        elif request.sql.startswith("DROP INDEX CONCURRENTLY") and self._drops:
            self.left_unfinished = [one for one in self.left_unfinished if f'"{one.name}"' not in request.sql]
        return worker


def building(**keys: object) -> Plan:
    """A plan that builds an index and removes what that leaves behind."""
    return plan(step("a", BUILD, leftovers=OnLeftovers.DROP, **keys))


async def test_what_an_attempt_left_is_removed_before_the_next_one_and_at_the_end() -> None:
    gateway = Server(index(7, "other"), scripts={BUILD: FAILS})
    _, record = await execute(building(retry=TWICE), gateway)
    drop = ('DROP INDEX CONCURRENTLY "public"."i"', "leftovers")
    assert launched(gateway) == [(BUILD, ""), drop, (BUILD, ""), drop]
    assert [one.name for one in gateway.left_unfinished] == ["other"]
    assert [(len(end.removed), len(end.leftovers)) for end in record.ends("a")] == [(1, 0), (1, 0)]
    assert names(record) == ["launching", "removing", "finished"] * 2
    assert [event.unfinished for event in record.of(ev.UnfinishedNoted)] == [('7 "public"."other"',)] * 2


async def test_what_was_there_before_the_attempt_is_not_removed() -> None:
    gateway = Server(index(7, "i"), scripts={BUILD: FAILS})
    gateway.last_oid = 6
    _, record = await execute(building(), gateway)
    assert launched(gateway) == [(BUILD, "")]
    assert record.end("a").removed == ()


async def test_without_a_record_of_what_was_there_nothing_is_removed() -> None:
    class Silent(Server):
        """Does not answer before the attempt."""

        async def unfinished_objects(self, *, in_progress: bool = False) -> tuple[UnfinishedObject, ...]:
            if in_progress:
                raise GatewayError("no answer")
            return await super().unfinished_objects()

    gateway = Silent(scripts={BUILD: FAILS})
    _, record = await execute(building(), gateway)
    assert launched(gateway) == [(BUILD, "")]
    assert len(record.end("a").leftovers) == 1


async def test_a_removal_that_fails_is_tried_again_before_the_next_attempt() -> None:
    gateway = Server(drops=False, scripts={BUILD: FAILS, 'DROP INDEX CONCURRENTLY "public"."i"': FAILS})
    _, record = await execute(building(retry=TWICE), gateway)
    drop = ('DROP INDEX CONCURRENTLY "public"."i"', "leftovers")
    assert launched(gateway) == [(BUILD, ""), drop, drop, (BUILD, ""), drop, drop]
    assert [(len(end.removed), len(end.leftovers)) for end in record.ends("a")] == [(0, 1), (0, 2)]


@pytest.mark.parametrize("end", range(1, 16))
async def test_a_runner_killed_at_any_event_of_a_removal_leaves_nothing_behind(end: int) -> None:
    gateway = Server(scripts={BUILD: FAILS})
    p = building()
    _, record = await execute(p, gateway, run_id=RUN)
    if end > len(record.events):
        return
    state = state_after(p, record.events[:end])
    noted = any(isinstance(event, ev.UnfinishedNoted) for event in record.events[:end])
    own = state.records["a"].attempt == 1 and record.of(ev.AttemptRemoving)[0] not in record.events[:end]
    left = index(55, "i")
    begun = noted and not any(isinstance(event, ev.AttemptFinished) for event in record.events[:end])
    again = Server(*([left] if begun else []))
    marks = {"a": ev.Outcome.FAILED} if own and state.records["a"].attempt else {}
    result, _ = await execute(p, again, run_id=RUN, previous_state=state, takeover=Takeover(by="ann", marks=marks))
    assert result.exit_code == 0
    assert (launched(again)[0][1] == "leftovers") is begun
    assert [one.oid for one in again.left_unfinished if one.oid == left.oid and begun] == []


async def test_what_a_worker_of_unknown_outcome_left_is_removed_if_the_worker_has_ended() -> None:
    lost = Script(seconds=0.05, loses_session=True)
    gateway = Server(scripts={BUILD: lost})
    _, record = await execute(building(), gateway)
    end = record.end("a")
    assert (end.outcome, len(end.removed)) == (ev.Outcome.UNKNOWN, 1)
    unseen = Server(scripts={BUILD: Script(seconds=0.05, loses_session=True, seen=False)})
    _, record = await execute(building(), unseen)
    assert (record.end("a").outcome, record.end("a").removed) == (ev.Outcome.UNKNOWN, ())
    assert launched(unseen) == [(BUILD, "")]


def _removed(text: str, *now: UnfinishedObject, before: Sequence[str] = ()) -> list[str]:
    return [one.sql for one in removals(builds_of(text), now, before)]


def test_only_what_the_statement_can_have_made_is_removed() -> None:
    objects = (index(1, "i"), index(2, "j"), index(3, "i_ccnew"), index(4, "i_ccold1"), index(5, "k", "u"))
    assert _removed(BUILD, *objects) == ['DROP INDEX CONCURRENTLY "public"."i"']
    copies = ['DROP INDEX CONCURRENTLY "public"."i_ccnew"', 'DROP INDEX CONCURRENTLY "public"."i_ccold1"']
    assert _removed("REINDEX INDEX CONCURRENTLY i", *objects) == copies
    assert _removed("REINDEX TABLE CONCURRENTLY t", *objects) == copies
    assert _removed("REINDEX TABLE CONCURRENTLY u", *objects) == []
    assert _removed("DROP INDEX CONCURRENTLY i", *objects) == []
    assert _removed("CREATE INDEX i ON t (a)", *objects) == []


def test_the_old_index_of_a_rebuild_counts_as_new_under_its_new_name() -> None:
    before = [index(1, "i").mark]
    assert _removed("REINDEX INDEX CONCURRENTLY i", index(1, "i_ccold"), before=before) == [
        'DROP INDEX CONCURRENTLY "public"."i_ccold"'
    ]
    assert _removed("REINDEX INDEX CONCURRENTLY i", index(1, "i_ccold"), before=[index(1, "i_ccold").mark]) == []


def test_names_are_quoted_and_qualified() -> None:
    odd = UnfinishedObject(
        oid=1, kind="partition", shown="p1", parent="p", schema="A b", name='p"1', table_schema="s", table="P"
    )
    (found,) = removals(builds_of('ALTER TABLE s."P" DETACH PARTITION "A b"."p""1" CONCURRENTLY'), [odd], ())
    assert found.sql == 'ALTER TABLE "s"."P" DETACH PARTITION "A b"."p""1" FINALIZE'
    assert found.completes
    assert found.left == read_leftover("partition", "p1", "p")
