"""The decisions of a fleet run: waves are barriers, limits stop it, busy targets get a second try, a resume ends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.fleet import events as ev
from runner.fleet.events import MemberState
from runner.fleet.rollout import FleetState, Member, apply, decide, exit_code, initial_state, member_state
from runner.fleet.targets import Cluster, Limits, OnStop, Rollout, Target, Wave, parse_selectors, place

CODES = {
    MemberState.SUCCEEDED: 0,
    MemberState.FAILED: 1,
    MemberState.UNREACHABLE: 4,
    MemberState.BUSY: 6,
    MemberState.UNKNOWN: 7,
    MemberState.UNFINISHED: 8,
    MemberState.UNMET: 9,
}


def fleet(
    waves: Mapping[str, int],
    *,
    rollout: Rollout | None = None,
    limits: Mapping[str, Limits] | None = None,
    clusters: int = 1,
    parallel: int | None = None,
) -> FleetState:
    targets = [
        Target(name=f"{wave}{number}", cluster=f"c{number % clusters}", database="d", labels={"wave": wave})
        for wave, size in waves.items()
        for number in range(size)
    ]
    found = tuple(
        Wave(name=name, where=parse_selectors([f"wave={name}"]), limits=(limits or {}).get(name, Limits()))
        for name in waves
    )
    rollout = rollout or Rollout(parallel=100)
    return initial_state("f", place(targets, found), rollout, clusters_of(*[1] * clusters, parallel=parallel))


def clusters_of(*slots: int, parallel: int | None = None) -> dict[str, Cluster]:
    """Return clusters c0, c1, … with so many slots."""
    names = {f"c{number}": count for number, count in enumerate(slots)}
    return {name: Cluster(name=name, connection={}, slots=count, parallel=parallel) for name, count in names.items()}


class Play:
    """Performs the decisions; `outcome` says how each member ends."""

    def __init__(self, state: FleetState, outcomes: Mapping[str, Sequence[MemberState]] | None = None) -> None:
        self.state = state
        self.outcomes = {name: list(found) for name, found in (outcomes or {}).items()}
        self.running: list[Member] = []
        self.started: list[str] = []
        self.now = 0.0
        self.over = False

    def step(self) -> None:
        """Decide until there is nothing to do but wait."""
        while True:
            decision = decide(self.state, self.now)
            for event in decision.events:
                apply(self.state, event)
            for member in decision.start:
                apply(
                    self.state,
                    ev.MemberStarted(at=self.now, target=member.target.name, run=member.run, wave=member.wave),
                )
                self.running.append(member)
                self.started.append(member.target.name)
            self.over = decision.over
            if decision.over or not (decision.events or decision.start):
                if decision.wake_at is not None:
                    self.now = max(self.now, decision.wake_at)
                    continue
                return

    def end(self, member: Member) -> None:
        """Let a member end."""
        self.running.remove(member)
        outcomes = self.outcomes.get(member.target.name, [])
        state = outcomes.pop(0) if outcomes else MemberState.SUCCEEDED
        self.now += 1
        finished = ev.MemberFinished(
            at=self.now, target=member.target.name, state=state, exit_code=CODES[state], seconds=1.0
        )
        apply(self.state, finished)

    def play(self) -> FleetState:
        """Run to the end, the first started member ends first."""
        self.step()
        while self.running:
            self.end(self.running[0])
            self.step()
        assert self.over
        return self.state


def test_a_wave_is_a_barrier() -> None:
    play = Play(fleet({"canary": 2, "rest": 3}))
    play.step()
    assert play.started == ["canary0", "canary1"]
    play.end(play.running[0])
    play.step()
    assert play.started == ["canary0", "canary1"]
    play.end(play.running[0])
    play.step()
    assert play.started[2:] == ["rest0", "rest1", "rest2"]
    assert exit_code(play.play()) == 0


def test_a_pause_lies_between_two_waves_and_not_after_the_last() -> None:
    state = fleet({"a": 1, "b": 1})
    state.waves = tuple(Wave(name=wave.name, where=wave.where, pause=600.0) for wave in state.waves)
    play = Play(state)
    play.play()
    ends = [state.ended[name] for name in ("a", "b")]
    assert ends == [1.0, 602.0]
    assert play.now == 602.0


@pytest.mark.parametrize(
    ("failures", "limit", "started"),
    [(1, 0, 1), (1, 1, 10), (2, 1, 2), (6, 5, 6), (5, 5, 10)],
)
def test_max_failures_stops_at_the_next_failure(failures: int, limit: int, started: int) -> None:
    rollout = Rollout(parallel=1, stop=Limits(failures=limit))
    play = Play(fleet({"a": 10}, rollout=rollout), {f"a{n}": [MemberState.FAILED] for n in range(failures)})
    state = play.play()
    assert len(play.started) == started
    assert exit_code(state) == 1


@pytest.mark.parametrize("how", [MemberState.FAILED, MemberState.UNREACHABLE])
def test_a_wave_has_limits_of_its_own_and_unreachable_counts(how: MemberState) -> None:
    play = Play(fleet({"canary": 2, "rest": 3}, limits={"canary": Limits(failures=0)}), {"canary1": [how]})
    state = play.play()
    assert play.started == ["canary0", "canary1"]
    assert state.stopping is not None
    assert state.stopping.reason == "wave canary: 1 failed, max_failures is 0"


def test_requirements_that_are_not_met_do_not_count_as_failures() -> None:
    play = Play(fleet({"a": 3}, limits={"a": Limits(failures=0)}), {"a0": [MemberState.UNMET]})
    state = play.play()
    assert len(play.started) == 3
    assert exit_code(state) == 9


def test_a_busy_target_is_tried_once_more_at_the_end_of_its_wave() -> None:
    play = Play(fleet({"a": 3, "b": 1}, rollout=Rollout(parallel=1)), {"a0": [MemberState.BUSY]})
    assert exit_code(play.play()) == 0
    assert play.started == ["a0", "a1", "a2", "a0", "b0"]
    play = Play(fleet({"a": 2}, limits={"a": Limits(failures=0)}), {"a0": [MemberState.BUSY] * 2})
    state = play.play()
    assert play.started == ["a0", "a1", "a0"]
    assert state.stopping is not None
    assert exit_code(state) == 1


def test_an_unknown_outcome_keeps_the_next_wave_from_starting() -> None:
    play = Play(fleet({"a": 2, "b": 1}), {"a0": [MemberState.UNKNOWN]})
    state = play.play()
    assert play.started == ["a0", "a1"]
    assert exit_code(state) == 7


def test_a_resume_tries_what_failed_what_is_unknown_and_what_was_never_tried() -> None:
    rollout = Rollout(parallel=1, stop=Limits(failures=1))
    outcomes = {"a1": [MemberState.FAILED], "a2": [MemberState.FAILED]}
    play = Play(fleet({"a": 4, "b": 1}, rollout=rollout), outcomes)
    state = play.play()
    assert play.started == ["a0", "a1", "a2"]
    apply(state, ev.FleetResumed(at=9.0, jobplan="1", host="h", os_pid=1))
    again = Play(state)
    assert exit_code(again.play()) == 0
    assert again.started == ["a1", "a2", "a3", "b0"]
    apply(state, ev.FleetResumed(at=9.0, jobplan="1", host="h", os_pid=1))
    nothing = Play(state)
    assert exit_code(nothing.play()) == 0
    assert nothing.started == []


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["succeeded"], 0),
        (["succeeded", "unmet"], 9),
        (["unmet", "unfinished"], 8),
        (["unfinished", "failed"], 1),
        (["failed", "unknown"], 7),
        (["unreachable", "succeeded"], 1),
        (["unreachable", "unreachable"], 4),
        (["busy", "succeeded"], 1),
    ],
)
def test_the_exit_code_is_the_most_serious_one(states: list[str], code: int) -> None:
    outcomes = {f"a{number}": [MemberState(state)] * 2 for number, state in enumerate(states)}
    assert exit_code(Play(fleet({"a": len(states)}), outcomes).play()) == code


def test_the_states_of_exit_codes() -> None:
    assert {code: member_state(code) for code in CODES.values()} == {code: state for state, code in CODES.items()}
    assert member_state(5) is MemberState.FAILED
    assert member_state(143) is MemberState.INTERRUPTED


def test_every_cluster_has_work_whatever_the_order_of_the_targets() -> None:
    targets = [
        Target(name=f"{cluster}-{number}", cluster=cluster, database="d")
        for cluster in ("c0", "c1")
        for number in range(6)
    ]
    placed = place(targets, (Wave(name="all"),))
    state = initial_state("f", placed, Rollout(parallel=6), clusters_of(2, 4))
    play = Play(state)
    play.step()
    assert sorted(play.started) == ["c0-0", "c0-1", "c1-0", "c1-1", "c1-2", "c1-3"]
    play.end(state.members["c1-0"])
    play.step()
    assert play.started[-1] == "c1-4"


def test_on_stop_cancel_is_in_the_event() -> None:
    for on_stop in OnStop:
        rollout = Rollout(parallel=9, stop=Limits(failures=0), on_stop=on_stop)
        state = Play(fleet({"a": 3}, rollout=rollout), {"a0": [MemberState.FAILED]}).play()
        assert state.stopping is not None
        assert state.stopping.cancel is (on_stop is OnStop.CANCEL)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    parallel=st.integers(1, 4),
    clusters=st.integers(1, 3),
    per_cluster=st.one_of(st.none(), st.integers(1, 2)),
    data=st.data(),
)
def test_every_rollout_keeps_the_rules(
    sizes: list[int], parallel: int, clusters: int, per_cluster: int | None, data: st.DataObject
) -> None:
    waves = {f"w{number}": size for number, size in enumerate(sizes)}
    state = fleet(waves, rollout=Rollout(parallel=parallel), clusters=clusters, parallel=per_cluster)
    states = st.sampled_from([one for one in CODES if one is not MemberState.UNKNOWN])
    outcomes = {name: data.draw(st.lists(states, max_size=2)) for name in state.members}
    play = Play(state, outcomes)
    play.step()
    while play.running:
        assert len(play.running) <= parallel
        by_cluster = [member.target.cluster for member in play.running]
        assert per_cluster is None or max(map(by_cluster.count, by_cluster)) <= per_cluster
        assert len({member.wave for member in play.running}) == 1
        play.end(data.draw(st.sampled_from(play.running)))
        play.step()
    assert play.over
    assert set(play.started) == set(state.members)
    assert all(play.started.count(name) <= 2 for name in state.members)
