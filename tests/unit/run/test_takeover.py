"""A run that another runner takes up: workers are followed, outcomes settled, and the rest is asked."""

from __future__ import annotations

import io
import shlex
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from runner.clock import MonotonicClock
from runner.engine import events as ev
from runner.engine.fold import apply
from runner.engine.ports import GroupHolder, LaunchRequest, RemainingBackends
from runner.engine.state import RunState, initial_state
from runner.errors import GroupHeldError, OpenQuestionError, PreflightError, RecordError, UsageError
from runner.identity import worker_name
from runner.plan.model import Expect, ForEach, Plan, Repeat
from runner.reports.progress import Plain
from runner.reports.run_end import NextCommands, run_end
from runner.run.loop import RunResult
from runner.run.takeover import Orphans, Takeover, journal_record
from tests.builders import Recorder, execute, plan, sql, step
from tests.fake_gateway import FakeGateway, Script

RUN = "260101-aaaaaa"
LONG = Script(seconds=None)


@pytest.fixture(autouse=True)
def no_worker_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The double starts its workers at once."""
    monkeypatch.setattr("runner.run.takeover.LAUNCH_SEEN_WITHIN", 0.0)


class KilledError(Exception):
    """The runner was killed."""


class Killer:
    """A sink that kills the runner when the step's event of a kind has been recorded, and keeps what was."""

    def __init__(self, kind: type[ev.Event], key: str) -> None:
        self.recorded: list[ev.Event] = []
        self._kind = kind
        self._key = key

    def handle(self, event: ev.Event, state: RunState) -> None:  # noqa: ARG002 - the protocol's parameters
        """Keep the event, and kill."""
        self.recorded.append(event)
        if isinstance(event, self._kind) and getattr(event, "step", None) == self._key:
            raise KilledError

    def flush(self) -> None:
        """Do nothing."""

    def tick(self, now: float, state: RunState) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


async def killed(of: Plan, gateway: FakeGateway, kind: type[ev.Event], key: str) -> list[ev.Event]:
    """Run the plan until its runner is killed, and return what was recorded."""
    killer = Killer(kind, key)
    with pytest.raises(KilledError):
        await execute(of, gateway, killer, run_id=RUN)
    return killer.recorded


async def resume(
    of: Plan, gateway: FakeGateway, recorded: Sequence[ev.Event], **keys: Any
) -> tuple[RunResult, Recorder]:
    """Take the run up."""
    state = initial_state(of)
    for event in recorded:
        apply(state, event)
    clock = MonotonicClock()
    return await execute(
        of, gateway, run_id=RUN, clock=clock, previous_state=state, takeover=Takeover(by="ann", **keys)
    )


def _states(result: RunResult) -> dict[str, str]:
    return {key: str(record.state) for key, record in result.state.records.items()}


def _settled(record: Recorder) -> dict[str, tuple[str, str]]:
    (event,) = record.of(ev.RunResumed)
    return {found.step: (str(found.outcome), found.by) for found in event.settled}


async def test_a_worker_that_lives_is_followed_and_settled_by_verify() -> None:
    p = plan(step("a", "long", verify=sql("select true")), step("b", "select 1", needs=["a"]))
    gateway = FakeGateway(scripts={"long": Script(seconds=0.3)})
    recorded = await killed(p, gateway, ev.AttemptRunning, "a")
    result, record = await resume(p, gateway, recorded)
    (event,) = record.of(ev.RunResumed)
    assert [(found.step, found.attempt) for found in event.adopted] == [("a", 1)]
    assert _states(result) == {"a": "succeeded", "b": "succeeded"}
    assert [request.sql for request in gateway.launched] == ["long", "select 1"]
    assert result.exit_code == 0


async def test_a_worker_that_was_detached_keeps_its_slot_and_is_not_stopped() -> None:
    p = plan(step("d", "long", detach=True), step("a", "fails"), slots=2)
    fails = Script(error=ev.ErrorDetails(message="no", sqlstate="XX000"))
    gateway = FakeGateway(scripts={"long": LONG, "fails": fails})
    _, first = await execute(p, gateway, run_id=RUN)
    gateway.scripts = {"fails": Script(seconds=0.0)}
    result, record = await resume(p, gateway, first.events, orphans=Orphans.CANCEL)
    (event,) = record.of(ev.RunResumed)
    assert [found.step for found in event.adopted] == ["d"]
    assert not record.of(ev.AttemptCancelRequested)
    assert _states(result) == {"d": "detached", "a": "succeeded"}
    assert gateway.most_alive == 2


async def test_a_worker_that_lives_can_be_stopped_first() -> None:
    p = plan(step("a", "long", idempotent=True))
    gateway = FakeGateway(scripts={"long": LONG})
    recorded = await killed(p, gateway, ev.AttemptRunning, "a")
    gateway.scripts = {"long": Script(seconds=0.0)}
    result, record = await resume(p, gateway, recorded, orphans=Orphans.CANCEL)
    assert _settled(record) == {"a": ("unknown", "idempotent")}
    assert _states(result) == {"a": "succeeded"}
    assert len(gateway.launched) == 2


async def crashed(of: Plan, key: str) -> tuple[FakeGateway, list[ev.Event]]:
    """Return a server and what was recorded when the runner was killed, and the worker that was asked for is lost."""
    gateway = FakeGateway()
    recorded = await killed(of, gateway, ev.AttemptLaunching, key)
    return gateway, recorded


@pytest.mark.parametrize(("committed", "launches"), [(True, 0), (False, 1)])
async def test_the_ledger_settles_before_all_else(committed: bool, launches: int) -> None:
    p = plan(step("a", "select 1", verify=sql("select 1/0 = 1"), idempotent=True))
    gateway, recorded = await crashed(p, "a")
    gateway.commits["a", 1] = committed
    result, record = await resume(p, gateway, recorded)
    assert _settled(record) == {"a": ("succeeded" if committed else "failed", "ledger")}
    assert len(gateway.launched) == launches
    assert result.exit_code == (0 if committed else 1)  # what runs again is verified, and cannot be


@pytest.mark.parametrize(("holds", "outcome", "launches"), [("true", "succeeded", 0), ("false", "failed", 1)])
async def test_then_verify_settles(holds: str, outcome: str, launches: int) -> None:
    p = plan(step("a", "select 1", verify=sql(f"select {holds}"), idempotent=True))
    gateway, recorded = await crashed(p, "a")
    _, record = await resume(p, gateway, recorded)
    assert _settled(record) == {"a": (outcome, "verify")}
    assert len(gateway.launched) == launches


async def test_then_an_idempotent_step_runs_again() -> None:
    p = plan(step("a", "select 1", verify=sql("select 1/0 = 1"), idempotent=True))
    gateway, recorded = await crashed(p, "a")
    _, record = await resume(p, gateway, recorded)
    assert _settled(record) == {"a": ("unknown", "idempotent")}
    assert len(gateway.launched) == 1


async def test_what_is_left_is_asked_and_nothing_is_started() -> None:
    p = plan(step("a", "work 1"), step("b", "work 2"), step("c", "work 3", needs=["a"]))
    gateway, recorded = await crashed(p, "b")
    with pytest.raises(OpenQuestionError) as caught:
        await resume(p, gateway, recorded)
    assert len(caught.value.questions) == 2
    assert "--mark 'a=succeeded'" in caught.value.questions["a"]
    assert "--mark 'b=failed'" in caught.value.questions["b"]
    assert not gateway.launched


@pytest.mark.parametrize(
    "text",
    [
        "VACUUM t",
        "ANALYZE",
        "REINDEX TABLE CONCURRENTLY t",
        "REFRESH MATERIALIZED VIEW m",
        "CHECKPOINT",
        "SELECT 1 FROM t",
    ],
)
async def test_what_is_idempotent_by_nature_needs_no_answer(text: str) -> None:
    gateway, recorded = await crashed(plan(step("a", text)), "a")
    result, record = await resume(plan(step("a", text)), gateway, recorded)
    assert _settled(record) == {"a": ("unknown", "idempotent")}
    assert [request.sql for request in gateway.launched] == [text]
    assert result.exit_code == 0


@pytest.mark.parametrize("text", ["SELECT f()", "CREATE INDEX CONCURRENTLY i ON t (a)", "CALL p()", "DELETE FROM t"])
async def test_what_may_not_run_twice_is_asked_about(text: str) -> None:
    gateway, recorded = await crashed(plan(step("a", text)), "a")
    with pytest.raises(OpenQuestionError):
        await resume(plan(step("a", text)), gateway, recorded)


async def test_an_answer_settles() -> None:
    p = plan(step("a", "select 1"), step("b", "select 2"), step("c", "select 3", needs=["a"]))
    gateway, recorded = await crashed(p, "b")
    marks = {"a": ev.Outcome.SUCCEEDED, "b": ev.Outcome.FAILED}
    result, record = await resume(p, gateway, recorded, marks=marks)
    assert _settled(record) == {"a": ("succeeded", "ann"), "b": ("failed", "ann")}
    assert sorted(request.sql for request in gateway.launched) == ["select 2", "select 3"]
    assert result.exit_code == 0


async def test_a_step_whose_success_was_recorded_is_judged_and_not_run_again() -> None:
    p = plan(step("a", "select 1", verify=sql("select true")))
    gateway = FakeGateway()
    recorded = await killed(p, gateway, ev.AttemptFinished, "a")
    result, record = await resume(p, gateway, recorded)
    assert _states(result) == {"a": "succeeded"}
    assert len(gateway.launched) == 1
    assert record.of(ev.StepChecking)


@pytest.mark.parametrize(
    ("until", "settled", "launches"),
    [
        (None, ("unknown", "repeat"), 1),
        ("select false", ("unknown", "repeat"), 1),
        ("select true", ("succeeded", "ledger"), 0),
    ],
)
async def test_an_iteration_that_has_committed_need_not_be_the_last_one(
    until: str | None, settled: tuple[str, str], launches: int
) -> None:
    repeat = Repeat(max_iterations=1, until_sql=sql(until) if until else None)
    p = plan(step("a", "delete", repeat=repeat))
    gateway = FakeGateway(scripts={"delete": Script(command_tag="DELETE", row_count=0)})
    recorded = await killed(p, gateway, ev.AttemptLaunching, "a")
    gateway.commits["a", 1] = True
    _, record = await resume(p, gateway, recorded)
    assert _settled(record) == {"a": settled}
    assert len(gateway.launched) == launches


UNMET = Script(command_tag="INSERT", row_count=0)


@pytest.mark.parametrize(
    ("keys", "launches"),
    [
        ({"idempotent": True}, 1),
        ({"idempotent": True, "verify": sql("select false")}, 1),
        ({"verify": sql("select true")}, 0),
    ],
)
async def test_a_step_that_committed_and_failed_runs_again_where_the_plan_says_so(
    keys: dict[str, Any], launches: int
) -> None:
    p = plan(step("a", "insert", expect=Expect(rows_min=1), **keys))
    gateway = FakeGateway(scripts={"insert": UNMET})
    first, record = await execute(p, gateway, run_id=RUN)
    assert first.exit_code == 1
    gateway.launched.clear()
    await resume(p, gateway, record.events)
    assert len(gateway.launched) == launches


@pytest.mark.parametrize("keys", [{}, {"verify": sql("select false")}, {"repeat": Repeat(max_iterations=1)}])
async def test_a_step_that_committed_and_failed_is_otherwise_asked_about(keys: dict[str, Any]) -> None:
    p = plan(step("a", "insert", expect=Expect(rows_min=1), **keys))
    gateway = FakeGateway(scripts={"insert": UNMET})
    _, record = await execute(p, gateway, run_id=RUN)
    gateway.commits["a", 1] = True
    with pytest.raises(OpenQuestionError, match="its worker committed"):
        await resume(p, gateway, record.events)
    result, _ = await resume(p, gateway, record.events, marks={"a": ev.Outcome.SUCCEEDED})
    assert result.exit_code == 0


async def test_a_check_that_failed_is_made_again() -> None:
    check = "SELECT FROM t WHERE bad"
    p = plan(step("a", check, expect=Expect(rows_min=1)))
    gateway = FakeGateway(scripts={check: Script(row_count=0)})
    _, record = await execute(p, gateway, run_id=RUN)
    gateway.scripts = {check: Script(row_count=1)}
    result, _ = await resume(p, gateway, record.events)
    assert result.exit_code == 0


async def test_a_step_that_failed_runs_again_and_needs_no_answer() -> None:
    p = plan(step("a", "fails"), step("b", "select 1", needs=["a"]))
    gateway = FakeGateway(scripts={"fails": Script(error=ev.ErrorDetails(message="no", sqlstate="XX000"))})
    first, record = await execute(p, gateway, run_id=RUN)
    assert first.exit_code == 1
    gateway.scripts = {"fails": Script()}
    second, _ = await resume(p, gateway, record.events)
    assert _states(second) == {"a": "succeeded", "b": "succeeded"}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("x", "no such step"),
        ("done", "succeeded already"),
        ("lives", "is still running"),
        ("each", r"each\[1\]"),
        ("after", r"the step has not started, so it has no outcome to mark\. .* --exclude"),
        ("note", "the step has not started"),
    ],
)
async def test_a_mark_that_contradicts_what_is_known_is_refused(key: str, message: str) -> None:
    each = step("each", "select 1", for_each=ForEach(as_="t", items=("1", "2")))
    after = step("after", "select 1", needs=["lives"])
    p = plan(
        step("done", "select 1"),
        each,
        step("lives", "long", needs=["done", "each"]),
        after,
        finally_=(step("note", "select 1"),),
    )
    gateway = FakeGateway(scripts={"long": LONG})
    recorded = await killed(p, gateway, ev.AttemptRunning, "lives")
    with pytest.raises(UsageError, match=message):
        await resume(p, gateway, recorded, marks={key: ev.Outcome.SUCCEEDED})


@pytest.mark.parametrize("sqlstate", ["XX000", "57014", "57P01"])
async def test_a_step_that_another_session_has_mended_by_hand_is_marked(sqlstate: str) -> None:
    p = plan(step("a", "bad"), step("b", "select 1", needs=["a"]))
    gateway = FakeGateway(scripts={"bad": Script(error=ev.ErrorDetails(message="no", sqlstate=sqlstate))})
    first, record = await execute(p, gateway, run_id=RUN)
    assert first.exit_code != 0
    result, _ = await resume(p, gateway, record.events, marks={"a": ev.Outcome.SUCCEEDED})
    assert _states(result) == {"a": "succeeded", "b": "succeeded"}
    assert [request.sql for request in gateway.launched] == ["bad", "select 1"]


@pytest.mark.parametrize("lives", [True, False])
async def test_a_detached_worker_is_followed_only_while_it_runs(lives: bool) -> None:
    p = plan(step("d", "long", detach=True), step("a", "fails"), slots=2)
    fails = Script(error=ev.ErrorDetails(message="no", sqlstate="XX000"))
    gateway = FakeGateway(scripts={"long": LONG, "fails": fails})
    _, first = await execute(p, gateway, run_id=RUN)
    if not lives:
        gateway.alive.clear()
    gateway.scripts = {}
    result, _ = await resume(p, gateway, first.events)
    assert _states(result) == {"d": "detached", "a": "succeeded"}
    end = run_end(result.state, run_id=RUN, exit_code=0, seconds=1.0, commands=NextCommands(follow="F", cancel="S"))
    assert list(end.lines())[1:] == (["Follow  F", "Cancel  S"] if lives else [])


@pytest.mark.parametrize(
    ("text", "listed"), [("create index  concurrently i on t (x)", True), ("create index i on t (x)", False)]
)
async def test_a_question_about_an_index_names_the_command_that_lists_invalid_ones(text: str, *, listed: bool) -> None:
    p = plan(step("a", text))
    gateway, recorded = await crashed(p, "a")
    with pytest.raises(OpenQuestionError) as caught:
        await resume(p, gateway, recorded)
    assert ("INVALID index behind: jobplan doctor" in caught.value.questions["a"]) is listed


async def test_a_question_names_the_workers_that_were_stopped_before() -> None:
    p = plan(step("a", "long"))
    gateway = FakeGateway(scripts={"long": LONG})
    recorded = await killed(p, gateway, ev.AttemptRunning, "a")
    with pytest.raises(OpenQuestionError, match=r"is open\.\nstopped before that: a \(pid \d+\)\.\na: the worker"):
        await resume(p, gateway, recorded, orphans=Orphans.CANCEL)


async def test_nothing_is_stopped_if_a_mark_is_refused() -> None:
    p = plan(step("a", "long", idempotent=True))
    gateway = FakeGateway(scripts={"long": LONG})
    recorded = await killed(p, gateway, ev.AttemptRunning, "a")
    with pytest.raises(UsageError, match="no such step"):
        await resume(p, gateway, recorded, orphans=Orphans.CANCEL, marks={"x": ev.Outcome.FAILED})
    assert (await gateway.remaining_backends()).workers


@pytest.mark.parametrize("item", ["naïve'q", "1", "a b", "$(x)"])
async def test_a_question_can_be_answered_by_pasting_whatever_an_item_is(item: str) -> None:
    p = plan(step("z", "work", for_each=ForEach(as_="t", items=(item,))))
    gateway, recorded = await crashed(p, f"z[{item}]")
    with pytest.raises(OpenQuestionError) as caught:
        await resume(p, gateway, recorded)
    ((key, question),) = caught.value.questions.items()
    assert f"{key}=succeeded" in shlex.split(question.partition(", then pass ")[2].partition(" if its")[0])


async def test_a_run_that_has_a_runner_is_not_taken_over() -> None:
    p = plan(step("a", "select 1"))
    gateway, recorded = await crashed(p, "a")
    gateway.run_held_by = GroupHolder(run=RUN, host="db1", since="2026-01-01T00:00:00Z")
    with pytest.raises(GroupHeldError, match="db1"):
        await resume(p, gateway, recorded)


async def test_sessions_of_the_last_runner_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.run.takeover.POLL_INTERVAL", 0.0)
    p = plan(step("a", "select 1", idempotent=True))
    gateway, recorded = await crashed(p, "a")
    gateway.sessions_left = [2, 1, 0]
    result, _ = await resume(p, gateway, recorded)
    assert result.exit_code == 0
    assert not gateway.sessions_left


async def test_sessions_that_do_not_go_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.run.takeover.SESSIONS_END_WITHIN", 0.0)
    p = plan(step("a", "select 1", idempotent=True))
    gateway, recorded = await crashed(p, "a")
    gateway.sessions_left = [2, 2]
    with pytest.raises(PreflightError, match=r"still connected \(2\)"):
        await resume(p, gateway, recorded)


async def test_a_worker_that_the_record_does_not_know_stops_the_resumption() -> None:
    p = plan(step("a", "select 1", idempotent=True))
    gateway, recorded = await crashed(p, "a")
    gateway.scripts = {"long": LONG}
    await gateway.launch(LaunchRequest(sql="long", application_name=worker_name(RUN, "stranger")))
    with pytest.raises(PreflightError, match="stranger"):
        await resume(p, gateway, recorded)


async def test_a_worker_of_finally_is_waited_for_before_the_rest_runs_again() -> None:
    p = plan(step("a", "fails"), finally_=(step("f", "long", idempotent=True),))
    fails = Script(error=ev.ErrorDetails(message="no", sqlstate="XX000"))
    gateway = FakeGateway(scripts={"fails": fails, "long": Script(seconds=0.2)})
    recorded = await killed(p, gateway, ev.AttemptRunning, "f")
    gateway.scripts = {}
    result, record = await resume(p, gateway, recorded)
    (event,) = record.of(ev.RunResumed)
    assert not event.adopted
    assert _states(result) == {"a": "succeeded", "f": "succeeded"}
    assert [launched.step for launched in record.of(ev.AttemptLaunching)] == ["a", "f"]


async def test_a_worker_that_appears_late_is_not_taken_for_one_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.run.takeover.LAUNCH_SEEN_WITHIN", 60.0)
    p = plan(step("a", "long", idempotent=True))
    gateway, recorded = await crashed(p, "a")
    gateway.scripts = {"long": Script(seconds=0.2)}
    looks = 0
    look = gateway.remaining_backends

    async def remaining_backends(known: Collection[ev.Worker] = ()) -> RemainingBackends:
        nonlocal looks
        looks += 1
        if looks == 3:
            await gateway.launch(LaunchRequest(sql="long", application_name=worker_name(RUN, "a")))
        return await look(known)

    monkeypatch.setattr(gateway, "remaining_backends", remaining_backends)
    monkeypatch.setattr("runner.run.takeover.POLL_INTERVAL", 0.0)
    _, record = await resume(p, gateway, recorded)
    (event,) = record.of(ev.RunResumed)
    assert [found.step for found in event.adopted] == ["a"]


async def test_a_worker_that_lives_is_not_lost_with_its_step() -> None:
    p = plan(step("a", "long"), step("b", "select 1", idempotent=True))
    gateway = FakeGateway(scripts={"long": LONG})
    recorded = await killed(p, gateway, ev.AttemptRunning, "a")
    state = initial_state(p)
    for event in recorded:
        apply(state, event)
    changed = plan(step("b", "select 1", idempotent=True))
    with pytest.raises(PreflightError, match="a: its worker"):
        await execute(changed, gateway, run_id=RUN, previous_state=state, takeover=Takeover(by="ann"))


async def test_the_selection_holds_although_the_runner_died_before_it_was_recorded_step_by_step() -> None:
    p = plan(step("a", "select 1"), step("b", "select 2"))
    gateway = FakeGateway()
    _, first = await execute(p, gateway, run_id=RUN, left_out=frozenset({"b"}))
    started = first.events[:1]
    assert first.of(ev.RunStarted)[0].left_out == ("b",)
    gateway.launched.clear()
    state = initial_state(p)
    apply(state, started[0])
    result, _ = await execute(
        p,
        gateway,
        run_id=RUN,
        left_out=frozenset({"b"}),
        clock=MonotonicClock(),
        previous_state=state,
        takeover=Takeover(),
    )
    assert [request.sql for request in gateway.launched] == ["select 1"]
    assert _states(result) == {"a": "succeeded", "b": "skipped"}


async def finally_broken_off(**keys: Any) -> tuple[Plan, FakeGateway, list[ev.Event]]:
    """Return a plan whose runner was killed in `finally`, of which no session knows what it did; `keys` are of `a`."""
    p = plan(step("a", "fails", **keys), finally_=(step("f", "note"),))
    fails = Script(error=ev.ErrorDetails(message="no", sqlstate="XX000"))
    gateway = FakeGateway(scripts={"fails": fails})
    recorded = await killed(p, gateway, ev.AttemptLaunching, "f")
    gateway.scripts = {}
    return p, gateway, recorded


async def test_no_session_is_asked_about_a_finally_step_that_runs_once_more_anyway() -> None:
    p, gateway, recorded = await finally_broken_off()
    result, record = await resume(p, gateway, recorded)
    assert _settled(record) == {}
    assert _states(result) == {"a": "succeeded", "f": "succeeded"}
    assert [request.sql for request in gateway.launched] == ["fails", "fails", "note"]


async def test_that_a_mark_of_a_finally_step_changes_nothing_is_reported() -> None:
    p, gateway, recorded = await finally_broken_off()
    state = initial_state(p)
    for event in recorded:
        apply(state, event)
    marks = {"f": ev.Outcome.SUCCEEDED}
    reported = io.StringIO()
    _, record = await execute(
        p,
        gateway,
        Plain(reported, RUN),
        run_id=RUN,
        clock=MonotonicClock(),
        previous_state=state,
        takeover=Takeover(by="ann", marks=marks),
    )
    assert _settled(record) == {"f": ("succeeded", "ann")}
    assert [launched.step for launched in record.of(ev.AttemptLaunching)] == ["a", "f"]
    assert "f: its last worker completed its work (marked by ann); it runs again nevertheless" in reported.getvalue()


async def test_a_finally_step_is_asked_about_together_with_what_decides_whether_it_matters() -> None:
    p = plan(step("a", "long"), finally_=(step("f", "note"),))
    gateway = FakeGateway(scripts={"long": Script(loses_session=True)})
    recorded = await killed(p, gateway, ev.AttemptLaunching, "f")
    with pytest.raises(OpenQuestionError) as caught:
        await resume(p, gateway, recorded)
    assert list(caught.value.questions) == ["a", "f"]
    both = {"a": ev.Outcome.SUCCEEDED, "f": ev.Outcome.SUCCEEDED}
    result, record = await resume(p, gateway, recorded, marks=both)
    assert not record.of(ev.AttemptLaunching)
    assert _states(result) == {"a": "succeeded", "f": "succeeded"}


OLD_COPY = "the journal of run 260101-aaaaaa is out of date"


async def test_an_old_copy_of_a_journal_is_refused_where_the_ledger_knows_more() -> None:
    p = plan(step("a", "select 1"), step("b", "select 2", needs=["a"]))
    gateway = FakeGateway()
    copy = await killed(p, gateway, ev.StepFinished, "a")
    _, whole = await resume(p, gateway, copy)
    gateway.recorded = journal_record([*copy, *whole.events])
    gateway.launched.clear()
    with pytest.raises(RecordError, match=OLD_COPY) as caught:
        await resume(p, gateway, copy, known=journal_record(copy))
    assert "a runner on test took the run over at " in caught.value.message
    assert r"workers were launched: b (1)" in caught.value.message
    assert not gateway.launched


async def test_a_copy_is_refused_too_if_its_own_runner_continued() -> None:
    p = plan(step("a", "select 1"), step("b", "select 2", needs=["a"]))
    gateway = FakeGateway()
    copy = await killed(p, gateway, ev.StepFinished, "a")
    _, whole = await execute(p, gateway, run_id=RUN)
    gateway.recorded = journal_record(whole.events)
    with pytest.raises(RecordError, match=OLD_COPY):
        await resume(p, gateway, copy, known=journal_record(copy))


async def test_a_journal_that_knows_all_that_the_ledger_does_is_lost_on_with() -> None:
    p = plan(step("a", "select 1", idempotent=True), step("b", "select 2", needs=["a"]))
    gateway, recorded = await crashed(p, "a")
    gateway.recorded = journal_record(recorded[:2])
    result, _ = await resume(p, gateway, recorded, known=journal_record(recorded))
    assert result.exit_code == 0


async def with_holes(of: Plan, gateway: FakeGateway, last: type[ev.Event], key: str) -> list[ev.Event]:
    """Return the record of a run that was taken over, without what its first runner had found out about step a.

    A ledger has it so if that runner was killed before it wrote the last events. The second one dies as reported.
    """
    recorded = await killed(of, gateway, ev.StepFinished, "a")
    lost = (ev.AttemptFinished, ev.StepChecking, ev.StepChecked, ev.StepFinished)
    kept = [event for event in recorded if not (isinstance(event, lost) and event.step == "a")]
    state = initial_state(of)
    for event in recorded:
        apply(state, event)
    killer = Killer(last, key)
    with pytest.raises(KilledError):
        await execute(of, gateway, killer, run_id=RUN, previous_state=state, takeover=Takeover(by="ann"))
    return [*kept, *killer.recorded]


async def test_a_record_with_holes_leaves_open_what_was_found_out_and_not_reported() -> None:
    p = plan(step("a", "work"), step("b", "long", needs=["a"], idempotent=True))
    gateway = FakeGateway(scripts={"long": LONG})
    recorded = await with_holes(p, gateway, ev.AttemptLaunching, "b")
    with pytest.raises(OpenQuestionError) as caught:
        await resume(p, gateway, recorded)
    assert list(caught.value.questions) == ["a"]


@pytest.mark.parametrize(("committed", "asks"), [(True, "worker committed"), (None, "no evidence"), (False, None)])
async def test_a_failure_whose_attempt_a_record_with_holes_does_not_report(
    committed: bool | None, asks: str | None
) -> None:
    """It may have been the step's result that was wrong, and not what it did."""
    p = plan(step("a", "insert", expect=Expect(rows_min=1)))
    gateway = FakeGateway(scripts={"insert": UNMET})
    recorded = await killed(p, gateway, ev.StepFinished, "a")
    kept = [event for event in recorded if not isinstance(event, ev.AttemptFinished | ev.StepChecked)]
    if committed is not None:
        gateway.commits["a", 1] = committed
    if asks is None:
        _, record = await resume(p, gateway, kept)
        assert _settled(record) == {"a": ("failed", "ledger")}
        return
    with pytest.raises(OpenQuestionError, match=asks):
        await resume(p, gateway, kept)


@pytest.mark.parametrize(("sql_of_a", "asks"), [("select 1", None), ("insert", "worker committed")])
async def test_the_end_of_a_run_reports_how_a_step_ended_whose_own_end_is_missing(
    sql_of_a: str, asks: str | None
) -> None:
    p = plan(step("a", sql_of_a, expect=Expect(rows_min=1)), step("b", "fails"))
    fails = Script(error=ev.ErrorDetails(message="no", sqlstate="XX000"))
    gateway = FakeGateway(scripts={"insert": UNMET, "select 1": Script(row_count=1), "fails": fails})
    _, first = await execute(p, gateway, run_id=RUN)
    lost = (ev.AttemptFinished, ev.StepChecking, ev.StepChecked, ev.StepFinished)
    kept = [event for event in first.events if not (isinstance(event, lost) and event.step == "a")]
    gateway.commits["a", 1] = True
    if asks is None:
        _, record = await resume(p, gateway, kept)
        assert _settled(record) == {"a": ("succeeded", "ledger")}
    else:
        with pytest.raises(OpenQuestionError, match=asks):
            await resume(p, gateway, kept)


async def test_what_a_record_with_holes_leaves_open_is_settled_as_ever() -> None:
    p = plan(step("a", "select 1", verify=sql("select true")), step("b", "fails", needs=["a"]))
    gateway = FakeGateway()
    recorded = await with_holes(p, gateway, ev.StepFinished, "b")
    result, record = await resume(p, gateway, recorded)
    assert _settled(record) == {"a": ("succeeded", "verify")}
    assert _states(result)["a"] == "succeeded"
    assert [request.sql for request in gateway.launched].count("select 1") == 1


async def test_the_end_of_a_run_reports_what_a_record_with_holes_lacks() -> None:
    p = plan(step("a", "select 1"), step("b", "fails", needs=["a"]))
    fails = Script(error=ev.ErrorDetails(message="no", sqlstate="XX000"))
    gateway = FakeGateway(scripts={"fails": fails})
    recorded = await with_holes(p, gateway, ev.StepFinished, "b")
    steps = {"a": "succeeded", "b": "failed"}
    recorded.append(ev.RunFinished(at=recorded[-1].at, exit_code=1, steps=steps))
    result, record = await resume(p, gateway, recorded)
    assert _settled(record) == {"a": ("succeeded", "ledger")}
    assert _states(result) == {"a": "succeeded", "b": "failed"}
    assert [request.sql for request in gateway.launched] == ["select 1", "fails", "fails"]
