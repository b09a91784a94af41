"""Decides what a fleet run does next: a pure function of its state and the time.

Waves are barriers: a wave begins when every member of the wave before has ended and its pause is over. A member that
was busy is tried once more when all others of its wave have ended. After each end of a member the limits of its wave
and of the rollout are compared with the failures: beyond a limit no further member is started. An unknown outcome
keeps the next wave from starting, until a person has answered.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence

from runner.exit_codes import ExitCode, for_signal
from runner.fleet import events as ev
from runner.fleet.events import ACTIVE, DONE, FAILURES, MemberState
from runner.fleet.targets import Cluster, OnStop, PlacedTargets, Rollout, Target, Wave, parse_selectors, select
from runner.structs import Struct, field


class Member(Struct, kw_only=True):
    """A target with the id of its run, and what is known of that run."""

    target: Target
    run: str
    wave: str
    state: MemberState = MemberState.PENDING
    last: ev.MemberFinished | None = None
    #: Tries of this process; a busy member has two.
    tries: int = 0
    tried: bool = False
    #: It was not selected when the fleet run was resumed.
    left_out: bool = False


class FleetState(Struct, kw_only=True):
    """The state of a fleet run: the result of its events."""

    fleet: str
    rollout: Rollout
    waves: tuple[Wave, ...]
    members: dict[str, Member]
    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    #: Waves that have begun, and ended, in this process.
    begun: set[str] = field(default_factory=set)
    ended: dict[str, float] = field(default_factory=dict)
    stopping: ev.FleetStopping | None = None
    started: ev.FleetStarted | None = None
    finished: ev.FleetFinished | None = None
    started_at: float | None = None

    def of_wave(self, wave: str) -> list[Member]:
        """Return the members of a wave that are worked on, in order."""
        return [member for member in self.members.values() if member.wave == wave and not member.left_out]

    def counts(self) -> Counter[MemberState]:
        """Count the members by state."""
        return Counter(member.state for member in self.members.values())

    @property
    def seconds(self) -> float:
        """Seconds from the beginning to the end of the fleet run; 0 if it has not ended."""
        if self.started_at is None or self.finished is None:
            return 0.0
        return max(0.0, self.finished.at - self.started_at)


def initial_state(fleet: str, placed: PlacedTargets, rollout: Rollout, clusters: Mapping[str, Cluster]) -> FleetState:
    """Return the state before the first event; members are numbered in the order of the waves."""
    members: dict[str, Member] = {}
    for wave, targets in placed.waves:
        for target in targets:
            run = f"{fleet}-{len(members) + 1:03}"
            members[target.name] = Member(target=target, run=run, wave=wave.name)
    waves = tuple(wave for wave, targets in placed.waves if targets)
    return FleetState(fleet=fleet, rollout=rollout, waves=waves, members=members, clusters=clusters)


def keep_waves(state: FleetState, names: Collection[str]) -> None:
    """Leave out the members of other waves, if `names` has any. The others keep the ids of their runs."""
    if names:
        state.members = {name: member for name, member in state.members.items() if member.wave in names}
        state.waves = tuple(wave for wave in state.waves if wave.name in names)


def keep_targets(state: FleetState, chosen: Collection[Target] | None) -> None:
    """Leave out all members but those of these targets; None keeps all."""
    if chosen is not None:
        names = {target.name for target in chosen}
        state.members = {name: member for name, member in state.members.items() if name in names}


def assign_runs(state: FleetState, known: Mapping[str, str]) -> None:
    """Give members the ids of runs that their ledgers have; the others get ids that none of these is."""
    taken = set(known.values())
    free = (run for number in itertools.count(1) if (run := f"{state.fleet}-{number:03}") not in taken)
    for name, member in state.members.items():
        member.run = known[name] if name in known else next(free)


def apply(state: FleetState, event: ev.FleetEvent) -> None:
    """Change the state as the event says."""
    match event:
        case ev.FleetStarted():
            state.started = event
            keep_waves(state, event.waves)
            state.started_at = event.at
        case ev.FleetResumed():
            state.begun.clear()
            state.ended.clear()
            state.stopping = state.finished = None
            where = parse_selectors(event.where)
            for member in state.members.values():
                member.left_out = not select([member.target], where)
                member.tries = 0
                if member.state not in DONE and not member.left_out:
                    member.state = MemberState.PENDING
        case ev.WaveStarted():
            state.begun.add(event.wave)
        case ev.WaveFinished():
            state.ended[event.wave] = event.at
        case ev.MemberStarted():
            member = state.members[event.target]
            member.run = event.run
            member.state = MemberState.RUNNING
            member.tries += 1
            member.tried = True
        case ev.MemberFinished():
            member = state.members[event.target]
            member.state, member.last = event.state, event
        case ev.FleetStopping():
            state.stopping = event
        case ev.FleetFinished():
            state.finished = event
        case _:
            raise TypeError(f"{event!r} is not an event of a fleet run")


class RolloutDecision(Struct, frozen=True, kw_only=True):
    """Events to record, members to start, and when to decide again even if nothing happens. `over`: all has ended."""

    events: tuple[ev.FleetEvent, ...] = ()
    start: tuple[Member, ...] = ()
    wake_at: float | None = None
    over: bool = False


def decide(state: FleetState, now: float) -> RolloutDecision:
    """Return the decision for `state` at `now`: either events, or members to start, or the time of the next one."""
    running = [member for member in state.members.values() if member.state is MemberState.RUNNING]
    if state.stopping is not None:
        return RolloutDecision(over=not running)
    for wave in state.waves:
        if wave.name in state.ended:
            continue
        return _in_wave(state, wave, running, now)
    return RolloutDecision(over=True)


def _in_wave(state: FleetState, wave: Wave, running: Sequence[Member], now: float) -> RolloutDecision:
    members = state.of_wave(wave.name)
    if wave.name not in state.begun:
        return _begin_wave(state, wave, members, now)
    reason = _exceeded(state, wave, members)
    if reason is not None:
        cancel = state.rollout.on_stop is OnStop.CANCEL
        return RolloutDecision(events=(ev.FleetStopping(at=now, reason=reason, cancel=cancel),))
    start = tuple(_startable(state, wave, members, running))
    if start or any(member.state in ACTIVE for member in members):
        return RolloutDecision(start=start)
    failed = sum(member.state in FAILURES for member in members)
    return RolloutDecision(events=(ev.WaveFinished(at=now, wave=wave.name, failed=failed),))


def _begin_wave(state: FleetState, wave: Wave, members: Sequence[Member], now: float) -> RolloutDecision:
    """Begin a wave, wait for the pause before it, or stop; a wave of which nothing is left is passed over."""
    if all(member.state in DONE for member in members):
        return RolloutDecision(events=(ev.WaveFinished(at=now, wave=wave.name, failed=0),))
    blocked = _blocked(state, wave, now)
    if isinstance(blocked, float):
        return RolloutDecision(wake_at=blocked)
    return RolloutDecision(events=(blocked or ev.WaveStarted(at=now, wave=wave.name, members=len(members)),))


def _blocked(state: FleetState, wave: Wave, now: float) -> ev.FleetStopping | float | None:
    """Return why a wave must not begin, or until when it waits; None if it may begin now."""
    earlier = [one for one in state.waves if one.name in state.ended]
    before = [member for one in earlier for member in state.of_wave(one.name)]
    unknown = [member.target.name for member in before if member.state is MemberState.UNKNOWN]
    if unknown:
        return ev.FleetStopping(
            at=now, reason=f"the outcome on {unknown[0]} is unknown, so the wave {wave.name} does not begin"
        )
    last = earlier[-1] if earlier else None
    if last is None or last.name not in state.begun:
        return None
    over = state.ended[last.name] + last.pause
    return over if now < over else None


def _exceeded(state: FleetState, wave: Wave, members: Sequence[Member]) -> str | None:
    """Return which limit the failures exceed."""
    failed = sum(_counts_as_failed(member) for member in members)
    why = wave.limits.exceeded(failed, len(members))
    if why is not None:
        return f"wave {wave.name}: {why}"
    everyone = state.members.values()
    why = state.rollout.stop.exceeded(sum(map(_counts_as_failed, everyone)), len(everyone))
    return None if why is None else f"the fleet: {why}"


def _counts_as_failed(member: Member) -> bool:
    """Return whether a member has failed; a busy one has not as long as it is tried again."""
    return member.state in FAILURES and not (member.state is MemberState.BUSY and member.tries < 2)


def _startable(state: FleetState, wave: Wave, members: Sequence[Member], running: Sequence[Member]) -> Iterator[Member]:
    """Yield the members to start now: as many as the fleet, the wave and their clusters allow.

    They are in order on each cluster. The next one is on the cluster with the fewest running members for its slots, so
    that every cluster has work, whatever the order of the targets.
    """
    free = min(state.rollout.parallel, wave.parallel or state.rollout.parallel) - len(running)
    on_cluster = Counter(member.target.cluster for member in running)
    waiting = [member for member in members if member.state is MemberState.PENDING]
    if not waiting and not running:
        waiting = [member for member in members if member.state is MemberState.BUSY and member.tries < 2]
    queues: dict[str, deque[Member]] = defaultdict(deque)
    for member in waiting:
        queues[member.target.cluster].append(member)

    def load(cluster: str) -> float:
        return on_cluster[cluster] / state.clusters[cluster].slots

    def may_start(cluster: str) -> bool:
        most = state.clusters[cluster].parallel
        return bool(queues[cluster]) and (most is None or on_cluster[cluster] < most)

    while free > 0:
        cluster = min(filter(may_start, queues), key=load, default=None)
        if cluster is None:
            return
        free -= 1
        on_cluster[cluster] += 1
        yield queues[cluster].popleft()


#: The state of a member by the exit code of its run; every other code is a failure.
_CODES: Mapping[int, MemberState] = {
    ExitCode.SUCCESS: MemberState.SUCCEEDED,
    ExitCode.NOT_STARTED: MemberState.UNREACHABLE,
    ExitCode.GROUP_HELD: MemberState.BUSY,
    ExitCode.UNKNOWN: MemberState.UNKNOWN,
    ExitCode.WINDOW_CLOSED: MemberState.UNFINISHED,
    ExitCode.REQUIREMENT_UNMET: MemberState.UNMET,
    **{for_signal(number): MemberState.INTERRUPTED for number in (1, 2, 14, 15)},
}


def member_state(exit_code: int) -> MemberState:
    """Return the state of a member whose run ended with this exit code."""
    return _CODES.get(exit_code, MemberState.FAILED)


def exit_code(state: FleetState) -> int:
    """Return the exit code of a fleet run that has ended: the most serious one of its members."""
    found = state.counts()
    failed = [member for member in state.members.values() if member.state in FAILURES]
    ended = [member for member in state.members.values() if member.state not in ACTIVE]
    timed_out = [one for one in failed if one.last is not None and one.last.exit_code == ExitCode.RUN_TIMEOUT]
    signal = None if state.stopping is None else state.stopping.signal
    reasons = (
        (found[MemberState.UNKNOWN] > 0, ExitCode.UNKNOWN),
        (signal is not None, for_signal(signal or 0)),
        (bool(ended) and found[MemberState.UNREACHABLE] == len(ended), ExitCode.NOT_STARTED),
        (len(failed) > len(timed_out), ExitCode.FAILED),
        (bool(timed_out), ExitCode.RUN_TIMEOUT),
        (state.stopping is not None or found[MemberState.INTERRUPTED] > 0, ExitCode.FAILED),
        (found[MemberState.UNFINISHED] > 0, ExitCode.WINDOW_CLOSED),
        (found[MemberState.UNMET] > 0, ExitCode.REQUIREMENT_UNMET),
    )
    return int(next((code for applies, code in reasons if applies), ExitCode.SUCCESS))
