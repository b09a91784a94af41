"""The chaos suite's judge finds what it is there to find: each rule has a violation seeded for it, and a clean case."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from runner import structs
from runner.engine.for_each_items import literal_items
from runner.identity import worker_name
from runner.lint import check_plan
from runner.plan.groups import written_steps
from runner.plan.model import ForEach
from tests.builders import step as step_of_plan
from tests.chaos import plans
from tests.chaos.campaign import Order, summary
from tests.chaos.circumstances import cut
from tests.chaos.evidence import Effects, Event, Evidence, Phase, Row, Sample, item_key, item_keys
from tests.chaos.pipe import UnreadPipe
from tests.chaos.plans import PAIRS, ChaosPlan, ChaosStep, reordered, witness_name
from tests.chaos.sampler import samples_of, strangers_of, taken_of
from tests.chaos.witness import judge, read_claims
from tests.chaos.work import HOPELESS, Work

INSERT = ChaosStep(id="a", work=Work.INSERT)
AGAIN = ChaosStep(id="a", work=Work.INSERT, idempotent=True)
INDEX = ChaosStep(id="a", work=Work.INDEX)
GONE = Phase(command="run", code=-9)


def a_plan(*steps: ChaosStep, slots: int = 2, **pools: int) -> ChaosPlan:
    return ChaosPlan(schema="c", text="", setup="", steps=steps, slots=slots, pools=pools, group=False)


def launch(key: str, attempt: int = 1) -> Event:
    return {"event": "attempt_launching", "step": key, "attempt": attempt}


def end(key: str, outcome: str, attempt: int = 1) -> Event:
    return {"event": "attempt_finished", "step": key, "attempt": attempt, "outcome": outcome}


def state(key: str, name: str) -> Event:
    return {"event": "step_finished", "step": key, "state": name}


def ran(key: str, outcome: str, final: str | None = None) -> list[Event]:
    return [launch(key), end(key, outcome), state(key, final or outcome)]


def row(key: str, part: int = 1, txid: str = "7", at: float = 1.0, committed: float = 2.0) -> Row:
    return Row(key=key, part=part, txid=txid, at=at, committed=committed)


def rules(of: ChaosPlan, events: Iterable[Event], *rows: Row, phase: Phase | None = None, **keys: Any) -> list[str]:
    """Return the names of the rules that are violated."""
    effects = keys.pop("effects", Effects(rows=rows))
    phase = phase or Phase(command="run", code=7)
    evidence = Evidence(plan=of, events=list(events), phases=(phase,), effects=effects, **keys)
    return [violation.rule for violation in judge(evidence)]


@pytest.mark.parametrize("final", ["succeeded", "failed", "unknown", "cancelled", "timed_out"])
def test_what_was_said_and_is_so_is_no_violation(final: str) -> None:
    there = [row("a")] if final == "succeeded" else []
    assert rules(a_plan(INSERT), ran("a", final), *there) == []


def test_a_reported_success_without_its_effect_is_found() -> None:
    assert rules(a_plan(INSERT), ran("a", "succeeded")) == ["missing"]
    assert rules(a_plan(INSERT), ran("a", "unknown", "succeeded")) == ["missing"]
    assert rules(a_plan(INDEX), ran("a", "succeeded")) == ["missing"]
    call = ChaosStep(id="a", work=Work.CALL)
    assert rules(a_plan(call), ran("a", "succeeded"), row("a", 1)) == ["missing"]
    twice = [*ran("a", "succeeded"), launch("a", 2), end("a", "succeeded", 2), state("a", "succeeded")]
    assert rules(a_plan(AGAIN), twice, row("a")) == ["missing"]


def test_a_queue_that_was_not_emptied_is_found() -> None:
    batches = ChaosStep(id="a", work=Work.BATCHES)
    assert rules(a_plan(batches), ran("a", "succeeded"), effects=Effects(moved={"a": (1, 1, 0)})) == ["missing"]
    assert rules(a_plan(batches), ran("a", "succeeded"), effects=Effects(moved={"a": (1, 2, 1)})) == ["twice"]
    assert rules(a_plan(batches), ran("a", "succeeded"), effects=Effects(moved={"a": (1, 1, 1)})) == []


CLOSED, OPENED = (
    {"event": "window_closed", "closes_at": "2026-01-01T05:00:00Z"},
    {
        "event": "window_opened",
        "opens_at": "2026-01-01T04:00:00Z",
        "closes_at": "2026-01-01T05:00:00Z",
    },
)


def launch_at(moment: str, key: str = "a") -> list[Event]:
    begun = {**launch(key), "at": f"2026-01-01T{moment}Z"}
    return [begun, end(key, "succeeded"), state(key, "succeeded")]


def test_a_launch_outside_the_window_is_found() -> None:
    windows = replace(a_plan(INSERT), window=True)
    ahead = {"event": "server_clock", "ahead": 60.0}
    assert rules(windows, [OPENED, *launch_at("04:30:00")], row("a")) == []
    assert rules(windows, launch_at("04:30:00"), row("a")) == ["window"]
    assert rules(windows, [OPENED, *launch_at("05:00:01")], row("a")) == ["window"]
    assert rules(windows, [OPENED, *launch_at("03:59:59")], row("a")) == ["window"]
    assert rules(windows, [OPENED, CLOSED, *launch_at("04:30:00")], row("a")) == ["window"]
    assert rules(windows, [ahead, OPENED, *launch_at("04:59:30")], row("a")) == ["window"]
    assert rules(windows, [ahead, OPENED, *launch_at("03:59:30")], row("a")) == []
    assert rules(replace(windows, free=frozenset({"a"})), launch_at("04:30:00"), row("a")) == []
    last = replace(a_plan(replace(INSERT, final=True)), window=True)
    assert rules(last, [OPENED, CLOSED, *launch_at("05:30:00")], row("a")) == []


def test_a_worker_that_begins_long_after_the_close_is_found() -> None:
    windows = replace(a_plan(INSERT), window=True)
    running = {
        "event": "attempt_running",
        "step": "a",
        "attempt": 1,
        "worker": {"backend_start": "2026-01-01T05:01:00Z"},
    }
    events = [OPENED, *launch_at("04:30:00")]
    assert rules(windows, [*events[:2], running, *events[2:]], row("a")) == ["window"]


def test_what_a_crash_may_forget_of_vacuum_is_no_violation() -> None:
    vacuum = a_plan(ChaosStep(id="a", work=Work.VACUUM))
    assert rules(vacuum, ran("a", "succeeded")) == ["missing"]
    assert rules(vacuum, ran("a", "succeeded"), phase=Phase(command="run", code=0, faults=("crash",))) == []


def test_an_effect_that_is_there_twice_is_found() -> None:
    both = [*ran("a", "unknown"), launch("a", 2), end("a", "succeeded", 2)]
    assert rules(a_plan(INSERT), both, row("a"), row("a", txid="8")) == ["twice"]
    for other in (AGAIN, replace(INSERT, final=True)):
        assert rules(a_plan(other), both, row("a"), row("a", txid="8")) == []


@pytest.mark.parametrize("outcome", ["failed", "cancelled", "timed_out"])
def test_a_denied_effect_is_found(outcome: str) -> None:
    assert rules(a_plan(INSERT), ran("a", outcome), row("a")) == ["denied"]
    assert rules(a_plan(INDEX), ran("a", outcome), effects=Effects(done=frozenset({"a"}))) == ["denied"]


def test_an_idempotent_step_that_ran_more_often_than_was_said_is_found() -> None:
    assert rules(a_plan(AGAIN), ran("a", "succeeded"), row("a"), row("a", txid="8")) == ["denied", "unrecorded"]


@pytest.mark.parametrize(
    "said", [[launch("a")], [launch("a"), end("a", "unknown")], [launch("a"), end("a", "detached")]]
)
def test_an_effect_that_no_session_has_denied_is_no_violation(said: list[Event]) -> None:
    assert rules(a_plan(INSERT), said, row("a"), phase=GONE) == []


def test_a_verify_that_was_taken_for_a_failure_is_found() -> None:
    verified = replace(INSERT, verify=True)
    assert rules(a_plan(verified), ran("a", "unknown", "failed"), row("a")) == ["denied"]
    assert rules(a_plan(verified), ran("a", "unknown", "failed")) == []


def test_half_a_transaction_is_found() -> None:
    both = a_plan(ChaosStep(id="a", work=Work.PARTS))
    assert rules(both, ran("a", "succeeded"), row("a", 1), row("a", 2)) == []
    assert rules(both, ran("a", "failed"), row("a", 1)) == ["torn"]


def test_what_ran_without_a_record_is_found() -> None:
    assert rules(a_plan(INSERT), [], row("a"), phase=GONE) == ["denied", "unrecorded"]
    seen = [Sample(workers=("a",), seen=1)]
    assert rules(a_plan(INSERT), [], samples=seen, phase=GONE) == ["unrecorded"]
    assert rules(a_plan(INSERT), [launch("a")], samples=seen, phase=GONE) == []
    assert rules(a_plan(INSERT), [], samples=[Sample(workers=("b",), seen=1)], phase=GONE) == ["unrecorded"]


def test_a_launch_that_only_a_report_knows_is_found() -> None:
    assert rules(a_plan(INSERT), [], reported=[launch("a")], phase=GONE) == ["unrecorded"]
    assert rules(a_plan(INSERT), [launch("a")], reported=[launch("a")], phase=GONE) == []


def test_an_attempt_that_was_put_off_did_not_begin() -> None:
    deferred: Event = {"event": "attempt_deferred", "step": "a", "attempt": 1}
    assert rules(a_plan(INSERT), [launch("a"), deferred], row("a"), phase=GONE) == ["denied", "unrecorded"]


def test_a_step_that_began_too_early_is_found() -> None:
    later = ChaosStep(id="b", work=Work.INSERT, needs={"a": "success"})
    said = [*ran("a", "succeeded"), *ran("b", "succeeded")]
    first = row("a", at=1.0, committed=2.0)
    assert rules(a_plan(INSERT, later), said, first, row("b", at=1.9)) == ["order"]
    assert rules(a_plan(INSERT, later), said, first, row("b", at=2.1)) == []


def test_the_ledger_leaves_no_doubt() -> None:
    assert rules(a_plan(INSERT), ran("a", "unknown"), ledger=True) == ["settled"]
    assert rules(a_plan(INDEX), ran("a", "unknown"), ledger=True) == []
    assert rules(a_plan(INSERT), ran("a", "unknown"), ledger=False) == []


def test_limits_that_are_exceeded_are_found() -> None:
    wide = ChaosStep(id="a", work=Work.INSERT, slots=2)
    io = ChaosStep(id="b", work=Work.INSERT, pools={"io": 1}, exclusive=frozenset({"t"}))
    each = ChaosStep(id="c", work=Work.INSERT, items=("x", "y"), max_parallel=1)
    other = replace(io, id="d")
    of = a_plan(wide, io, each, other, io=1)
    said = [launch(key) for key in ("a", "b", "c[x]", "c[y]", "d")]

    def seen(*workers: str, looks: int = 2) -> list[str]:
        return rules(of, said, samples=[Sample(workers=workers, seen=looks)], phase=GONE)

    assert seen("a") == []
    assert seen("a", "b") == ["budget"]
    assert seen("a", "b", looks=1) == []
    assert seen("b", "d") == ["budget", "budget"]
    assert seen("c[x]", "c[y]") == ["budget"]


def test_what_was_detached_takes_nothing_from_finally() -> None:
    last = ChaosStep(id="z", work=Work.INSERT, final=True)
    both = [Sample(workers=("a", "z"), seen=5)]
    for outcome, found in {"detached": [], "unknown": ["budget"]}.items():
        said = [launch("a"), end("a", outcome), launch("z")]
        assert rules(a_plan(INSERT, last, slots=1), said, samples=both, phase=GONE) == found
    settled: Event = {"event": "run_resumed", "settled": [{"step": "a", "outcome": "failed", "by": "verify"}]}
    said = [launch("a"), end("a", "detached"), launch("z"), settled]
    assert rules(a_plan(INSERT, last, slots=1), said, samples=both, phase=GONE) == []


#: What Python says of a signal that comes while it imports a module, where warnings are errors.
LEFT_OPEN = """Exception ignored in: <_io.FileIO name='/x/repeat.cpython-311.pyc' mode='rb' closefd=True>
Traceback (most recent call last):
  File "<frozen importlib._bootstrap_external>", line 1130, in get_data
ResourceWarning: unclosed file <_io.BufferedReader name='/x/repeat.cpython-311.pyc'>
"""


def test_commands_that_end_badly_are_found() -> None:
    def ended(code: int | None, stderr: str = "", final: str = "succeeded") -> list[str]:
        there = [row("a")] if final == "succeeded" else []
        return rules(a_plan(INSERT), ran("a", final), *there, phase=Phase(command="run", code=code, stderr=stderr))

    assert ended(0) == []
    assert ended(None) == ["ending"]
    assert ended(70) == ["ending"]
    assert ended(7, "Traceback (most recent call last):") == ["ending"]
    assert ended(-2, "Traceback (most recent call last):\n\nKeyboardInterrupt\n") == []
    assert ended(0, LEFT_OPEN) == []
    assert ended(7, f"{LEFT_OPEN}Traceback (most recent call last):") == ["ending"]
    assert ended(0, final="failed") == ["ending"]
    assert ended(1) == ["ending"]
    assert ended(1, final="failed") == []


def test_workers_that_are_left_are_found() -> None:
    hidden = Phase(command="run", code=-9, alive=("a",), hidden=("a",))
    assert rules(a_plan(INSERT), [launch("a")], phase=hidden) == ["left"]
    over = Phase(command="run", code=0, alive=("a",))
    assert rules(a_plan(INSERT), ran("a", "succeeded"), row("a"), phase=over) == ["left"]
    assert rules(a_plan(INSERT), ran("a", "detached"), row("a"), phase=over) == []


def test_claims_follow_a_run_through_its_phases() -> None:
    first = [launch("a"), launch("b"), end("b", "failed"), state("b", "failed")]
    second = [end("a", "unknown"), launch("b", 2), end("b", "succeeded", 2), state("b", "succeeded")]
    finished: Event = {"event": "run_finished", "steps": {"a": "unknown", "b": "succeeded"}}
    claims = read_claims([*first, *second, finished])
    assert {key: claim.state for key, claim in claims.items()} == {"a": "unknown", "b": "succeeded"}
    assert claims["b"].outcomes == {1: "failed", 2: "succeeded"}
    assert (claims["a"].undecided, claims["b"].undecided) == (1, 0)


def test_what_a_resume_has_settled_is_a_claim() -> None:
    def resumed(outcome: str) -> list[Event]:
        found = {"step": "a", "outcome": outcome, "by": "verify"}
        return [launch("a"), {"event": "run_resumed", "settled": [found]}]

    assert rules(a_plan(INSERT), resumed("failed"), row("a"), phase=GONE) == ["denied"]
    assert rules(a_plan(INSERT), resumed("succeeded"), phase=GONE) == ["missing"]
    assert rules(a_plan(INSERT), resumed("unknown"), row("a"), phase=GONE) == []


def test_what_two_machines_have_recorded_is_read_apart() -> None:
    def resumed(*keys: str) -> Event:
        return {"event": "run_resumed", "settled": [{"step": key, "outcome": "failed", "by": "ledger"} for key in keys]}

    here = [launch("a"), resumed("a"), launch("a", 2), end("a", "succeeded", 2), state("a", "succeeded")]
    there = [launch("a"), resumed("a"), launch("a", 2), end("a", "succeeded", 2), state("a", "succeeded")]
    assert rules(a_plan(INSERT), there, row("a"), elsewhere=[here], phase=GONE) == []
    assert rules(a_plan(INSERT), there[:1], row("a"), elsewhere=[here], phase=GONE) == []
    assert rules(a_plan(INSERT), there, elsewhere=[here], phase=GONE) == ["missing"]


def test_what_only_a_report_has_said_counts() -> None:
    over = Phase(command="run", code=1, alive=("a",), stderr="the record is lost")
    reported = ran("a", "detached")
    assert rules(a_plan(INSERT), [launch("a")], row("a"), phase=over, reported=reported) == []
    assert rules(a_plan(INSERT), [launch("a")], reported=ran("a", "succeeded"), phase=GONE) == ["missing"]


def test_a_cancel_that_finds_nothing_is_no_violation() -> None:
    late = Phase(command="0-run-cancel-0", code=2, stderr="jobplan: no run 'x' is active on the server.")
    assert rules(a_plan(INSERT), [], phase=late) == []
    assert rules(a_plan(INSERT), [], phase=replace(late, command="0-run")) == ["ending"]


def test_what_ran_on_a_second_cluster_is_found() -> None:
    there = [row("a")]
    assert rules(a_plan(INSERT), ran("a", "succeeded"), *there, astray=Effects(rows=(row("a"),))) == ["astray"]
    assert rules(a_plan(INSERT), ran("a", "succeeded"), *there, astray=Effects(moved={"b": (0, 1)})) == ["astray"]
    assert rules(a_plan(INSERT), ran("a", "succeeded"), *there, astray=Effects(moved={"b": (0, 0)})) == []


def test_a_launch_while_a_hold_is_on_is_found() -> None:
    from_start: list[Event] = [{"event": "run_started"}, {"event": "attempt_launching", "step": "a", "attempt": 1}]
    on: list[Event] = [{"event": "hold_began", "hold": "flaps"}, *from_start[1:]]
    off: list[Event] = [{"event": "hold_measured", "hold": "flaps"}]
    for held, events, found in (
        (True, from_start, 1),
        (True, [*from_start[:1], *off, *from_start[1:]], 0),
        (True, [*from_start[:1], *off, *on], 1),
        (True, [*from_start[:1], *off, {"event": "run_resumed"}, *from_start[1:]], 1),
        (False, from_start, 0),
    ):
        of = replace(a_plan(ChaosStep(id="a", work=Work.INSERT, held=held)), holds=("flaps",))
        assert rules(of, events).count("held") == found, events


def test_a_reserve_that_is_not_kept_is_found() -> None:
    def found(*taken: tuple[int, int], most: int | None = 2) -> list[str]:
        return rules(a_plan(INSERT), ran("a", "failed"), taken=taken, most=most)

    assert found((2, 50), (3, 1)) == []
    assert found((3, 2)) == ["reserve"]
    assert found((9, 9), most=None) == []


def test_the_sampler_counts_the_workers_of_all_runs() -> None:
    lines = [
        '{"look": 1, "workers": []}\n',
        '{"look": 4, "workers": ["jobplan:r:a", "jobplan:q:a"]}\n',
        '{"look": 6, "workers": ["jobplan:r:b", "jobplan:q:a"]}\n',
        '{"look": 9, "workers": []}\n',
    ]
    assert taken_of(lines) == [(0, 3), (2, 5)]


def test_rows_of_colliding_items_belong_to_the_keys_that_the_run_gave_them() -> None:
    items = [{"key": "a[a,b]", "values": {"t.who": "a,b", "t.what": ""}}]
    later = [{"key": "a[a,b#2]", "values": {"t.who": "a", "t.what": "b"}}, {"key": "a[x]", "values": {"t": "x"}}]
    resumed = {"event": "run_resumed", "expansions": [{"step": "a", "items": later}]}
    keys = item_keys([{"event": "step_expanded", "step": "a", "items": items}, resumed, launch("a")])
    assert keys == {("a", "a,b/"): "a[a,b]", ("a", "a/b"): "a[a,b#2]"}


def test_the_keys_of_colliding_items_are_those_that_jobplan_gives_them() -> None:
    colliding = next(step for seed in range(99) for step in _drawn(seed).steps if step.colliding)
    each = ForEach(as_="t", items=tuple(PAIRS.values()))
    given = literal_items(structs.replace(step_of_plan(colliding.id, "SELECT 1"), for_each=each))
    assert {(item.key, f"{item.values['t.who']}/{item.values['t.what']}") for item in given} == {
        (colliding.witnessed(witness_name(pair)), witness_name(pair)) for pair in PAIRS.values()
    }
    assert tuple(item.key for item in given) == colliding.keys


def test_what_is_recorded_of_a_chunk_counts_for_each_of_its_items_until_it_is_split() -> None:
    parts = [{"key": f"a[{name}]", "values": {"t": name}} for name in "xy"]
    chunk = {"key": "a[x+1]", "values": {}, "items": parts}
    expanded = {"event": "step_expanded", "step": "a", "items": [chunk, {"key": "a[z]", "values": {"t": "z"}}]}
    split = {"event": "step_split", "step": "a[x+1]", "items": parts}
    other = {"key": "a[y+1]", "values": {}, "items": parts[::-1]}
    expanded_again = {"event": "step_expanded", "step": "a", "items": [other]}
    ended = {"event": "run_finished", "steps": {"a": "failed", "a[x+1]": "failed", "a[x]": "succeeded"}}
    events = [expanded, launch("a[x+1]"), split, launch("a[x]", 2), ended]
    claims = read_claims(events)
    assert {key: len(claim.launched) for key, claim in claims.items()} == {"a": 0, "a[x]": 2, "a[y]": 1}
    assert claims["a[x]"].state == "succeeded"
    assert len(read_claims([*events, expanded_again, launch("a[y+1]")])["a[y]"].launched) == 2
    assert item_key("a[x+1]") == "a[x]"
    assert item_key("a[x]") == "a[x]"


@pytest.mark.parametrize("seed", range(30))
def test_a_journal_is_cut_at_the_end_of_a_line_or_in_the_middle_of_one(seed: int) -> None:
    whole = b'{"event": 1}\n{"event": 2}\n'
    left = cut(whole, Random(seed))  # noqa: S311 - a reproducible generator is wanted
    assert whole.startswith(left)
    assert left != whole


def test_items_in_another_order_are_the_same_items() -> None:
    drawn = next(plan for plan in map(_drawn, range(99)) if any(step.items for step in plan.steps))
    documents = [yaml.safe_load(text) for text in (drawn.text, reordered(drawn.text))]
    each, other = ([step["for_each"]["items"] for step in of["steps"] if "for_each" in step] for of in documents)
    assert each == [[*items[-1:], *items[:-1]] for items in other]


def test_a_pipe_that_is_full_is_read_to_its_end_later(tmp_path: Path) -> None:
    pipe = UnreadPipe(tmp_path / "err")
    process = subprocess.Popen(["sh", "-c", "read go; echo said >&2"], stdin=subprocess.PIPE, stderr=pipe.write_end)
    pipe.started()
    assert pipe.fill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(b"go\n", timeout=0.2)
    assert process.poll() is None
    pipe.read()
    assert process.wait(timeout=60) == 0
    pipe.close()
    assert (tmp_path / "err").read_bytes() == b"said\n"


def test_samples_report_how_long_workers_were_seen_together() -> None:
    lines = [
        '{"look": 1, "workers": []}\n',
        '{"look": 4, "workers": ["jobplan:r:a", "jobplan:q:a", "odd"]}\n',
        '{"look": 6, "workers": ["jobplan:r:a", "odd"]}\n',
        '{"look": 9, "workers": ["jobplan:r:a", "jobplan:r:b"]}\n',
        '{"look": 10, "workers": ["job',
    ]
    assert [(sample.workers, sample.seen) for sample in samples_of(lines, "r")] == [
        ((), 3),
        (("a",), 5),
        (("a", "b"), 1),
    ]
    assert samples_of([], "r") == []


def test_a_sample_has_the_key_of_a_worker_whose_name_is_cut() -> None:
    key = f"a[{'orders_' * 12}]"
    lines = [f'{{"look": 1, "workers": ["{worker_name("r", key)}"]}}\n', '{"look": 2, "workers": []}\n']
    assert samples_of(lines, "r", (key, "b"))[0].workers == (key,)


def test_workers_by_a_name_that_says_nothing_are_found() -> None:
    def seen(until: int) -> list[str]:
        lines = ['{"look": 4, "workers": ["jobplan:r:a", ""]}', '{"look": 5, "workers": ["jobplan:r:b", ""]}']
        last = f'{{"look": {until}, "workers": []}}'
        return strangers_of([f"{line}\n" for line in (*lines, last)], ["jobplan:"])

    assert seen(until=20) == []
    assert seen(until=40) == [""]


def _drawn(seed: int) -> ChaosPlan:
    return plans.random_plan(Random(seed), "c1")  # noqa: S311 - a reproducible generator is wanted


@pytest.mark.parametrize("seed", range(40))
def test_every_random_plan_is_valid_and_has_what_the_judge_expects(seed: int, tmp_path: Any) -> None:
    drawn = _drawn(seed)
    path = tmp_path / "plan.yaml"
    path.write_text(drawn.text, encoding="utf-8")
    loaded = check_plan(path)
    assert loaded.plan is not None, loaded.problems
    names = {known.id: known.id if known.chain is None else ".".join(known.chain) for known in drawn.steps}
    groups = {known.chain[0] for known in drawn.steps if known.chain is not None}
    for step, known in zip(written_steps(loaded.plan), drawn.steps, strict=True):
        assert (step.id, step.slots, dict(step.pools), step.exclusive, step.idempotent, not step.waits) == (
            names[known.id],
            known.slots,
            dict(known.pools),
            known.exclusive,
            known.idempotent,
            known.detach,
        )
        needs = {need.step: need.on.value for need in step.needs}
        expected = {names[other]: when for other, when in known.needs.items()}
        # A step of a chain, or one that needs a group, needs more than the plan as written out says.
        assert needs.items() <= expected.items() if groups else needs == expected


def test_every_kind_of_work_is_drawn() -> None:
    drawn = {step.work for seed in range(60) for step in _drawn(seed).steps}
    assert drawn == set(Work)
    assert drawn > HOPELESS


def a_verdict(number: int, *violations: str) -> dict[str, Any]:
    lists: dict[str, Any] = {name: [] for name in ("faults", "codes", "outcomes", "states")}
    return {"number": number, "ledger": True, "server_wide": False, "marks": 0, "violations": violations, **lists}


def test_the_summary_says_how_many_trials_were_finished() -> None:
    def said(verdicts: list[dict[str, Any]], seconds: float | None = 120.0) -> list[str]:
        return summary(Order(runs=6, seed=3, seconds=seconds, folder=Path("x")), verdicts).splitlines()

    every = [a_verdict(number) for number in range(6)]
    assert said(every)[0].startswith("seed 3: 6 of 6 trials finished")
    assert said(every)[-1] == "violations: none in 6 trials"
    limited = said(every[:2])
    assert "2 of 6 trials finished (the limit of 2 minutes was reached" in limited[0]
    assert limited[-1] == "violations: none in 2 trials"
    assert said([])[-1] == "violations: unknown, because no trial was finished"
    bad = [*every[:3], a_verdict(3, "twice: a", "left: b"), {"number": -1, "violations": ["stranger: x"]}]
    assert "violations: 3 in 2 of 4 trials (3, the sampler)" in said(bad)
