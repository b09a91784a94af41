"""The words for a fleet run: progress lines, groups of failures, and what to type next."""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from runner.durations import format_duration
from runner.fleet import events as ev
from runner.fleet.events import ACTIVE, FAILURES, MemberState
from runner.fleet.rollout import FleetState, Member
from runner.phrases import counted, some
from runner.reports.run_end import SHOWN_FAILURES, next_line
from runner.reports.terminal_text import broken, broken_command
from runner.structs import Struct, to_values

#: How many targets a group of failures lists.
SHOWN_TARGETS = 5

#: States in the order in which they are counted for people.
_ORDER = (
    MemberState.FAILED,
    MemberState.UNREACHABLE,
    MemberState.BUSY,
    MemberState.UNKNOWN,
    MemberState.INTERRUPTED,
    MemberState.UNFINISHED,
    MemberState.UNMET,
    MemberState.SUCCEEDED,
    MemberState.RUNNING,
    MemberState.PENDING,
)
_WORDS = {
    MemberState.PENDING: "not started",
    MemberState.UNMET: "requirements not met",
    MemberState.UNFINISHED: "not finished",
    MemberState.UNKNOWN: "unknown outcome",
}


def member_words(state: MemberState) -> str:
    """Return a member's state in words."""
    return _WORDS.get(state, str(state))


def count_words(counts: Mapping[MemberState, int]) -> str:
    """Return the counts of members in words, the failures first: `2 failed, 198 succeeded`."""
    return ", ".join(f"{counts[state]:,} {member_words(state)}" for state in _ORDER if counts.get(state))


class FailureGroup(Struct, frozen=True, kw_only=True):
    """Failures with the same step, SQLSTATE and message, apart from names and numbers in it."""

    step: str | None
    sqlstate: str | None
    message: str
    state: MemberState
    targets: tuple[str, ...]
    place: str | None = None


_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_NUMBER = re.compile(r"\b\d+(?:\.\d+)?\b")


def normalised(message: str) -> str:
    """Return a message without what differs from one database to the next: quoted names and numbers."""
    return _NUMBER.sub("…", _QUOTED.sub("…", message))


def failure_groups(members: Sequence[Member]) -> tuple[FailureGroup, ...]:
    """Group what failed by step, SQLSTATE and normalised message, the most frequent first."""
    found: dict[tuple[str | None, str | None, str, MemberState], list[tuple[str, ev.Failure]]] = defaultdict(list)
    for member in members:
        if member.last is None or member.state in ACTIVE:
            continue
        for failure in member.last.failures:
            key = (failure.step, failure.sqlstate, normalised(failure.message), member.state)
            found[key].append((member.target.name, failure))
    groups = []
    for (step, sqlstate, message, state), failed in found.items():
        texts = {failure.message for _, failure in failed}
        groups.append(
            FailureGroup(
                step=step,
                sqlstate=sqlstate,
                message=texts.pop() if len(texts) == 1 else message,
                state=state,
                targets=tuple(dict.fromkeys(name for name, _ in failed)),
                place=failed[0][1].place,
            )
        )
    return tuple(sorted(groups, key=lambda group: -len(group.targets)))


def group_words(group: FailureGroup) -> str:
    """Return what failed, where, and with which SQLSTATE."""
    where = f"step {group.step}: " if group.step else ""
    code = f" ({group.sqlstate})" if group.sqlstate else ""
    kind = "" if group.state is MemberState.FAILED else f"{member_words(group.state)}: "
    return f"{kind}{where}{group.message}{code}"


def _group_lines(groups: Sequence[FailureGroup], targets: int) -> Iterator[str]:
    """Yield each group: where, what, how often, and on which targets."""
    for group in groups:
        yield group_words(group)
        yield f"  {len(group.targets):,} of {counted(targets, 'target')}: {listed_targets(group.targets)}"
        if group.place:
            yield f"  {group.place}"


def listed_targets(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    return some(names, SHOWN_TARGETS)


def event_line(event: ev.FleetEvent, state: FleetState) -> str | None:
    """Return the progress line of an event; None for one that is not shown."""
    line: str | None = None
    match event:
        case ev.FleetStarted():
            line = f"fleet run {state.fleet}: {event.plan} on {counted(event.targets, 'target')}"
        case ev.FleetResumed():
            left = sum(member.state in ACTIVE for member in state.members.values())
            line = f"fleet run {state.fleet}: resumed, {counted(left, 'target')} left"
        case ev.WaveStarted():
            line = f"wave {event.wave} begins: {counted(event.members, 'target')}"
        case ev.WaveFinished() if event.wave in state.begun:
            line = _end_of_wave(event.wave, state)
        case ev.MemberFinished() if event.state is not MemberState.SUCCEEDED:
            first = event.failures[0] if event.failures else None
            why = "" if first is None else f": {f'step {first.step}: ' if first.step else ''}{first.message}"
            again = " (it is tried once more)" if _is_tried_again(state, event) else ""
            line = f"{event.target} {member_words(event.state)}{why}{again}"
        case ev.FleetStopping():
            line = f"no further target is started: {event.reason}"
        case _:
            pass
    return line


def _end_of_wave(name: str, state: FleetState) -> str:
    pause = next((wave.pause for wave in state.waves if wave.name == name), 0.0)
    last = all(wave.name in state.ended for wave in state.waves)
    then = f"; the next wave begins in {format_duration(pause)}" if pause and not last else ""
    words = count_words(Counter(member.state for member in state.of_wave(name)))
    return f"wave {name} ended: {words}{then}"


def _is_tried_again(state: FleetState, event: ev.MemberFinished) -> bool:
    member = state.members[event.target]
    return event.state is MemberState.BUSY and member.tries < 2 and state.stopping is None


def summary_lines(
    state: FleetState, *, journal: str = "", width: int | None = None, most: int | None = None
) -> Iterator[str]:
    """Yield the end of a fleet run: what failed, the counts, and the command that continues.

    `journal` are further options of that command. With the `width` of a terminal, lines are broken between words.
    `most` is the number of groups of failures that are listed, if not all.
    """
    for line in (*_failure_lines(state, most, journal), _end_line(state)):
        yield from broken(line, width)
    if is_unfinished(state):
        yield from broken_command(next_line("Resume", resume_command(state, journal=journal)), width)


class FleetEnd(Struct, frozen=True, kw_only=True):
    """What is printed at the end of a fleet run. `options` are further options of the command that continues it."""

    state: FleetState
    options: str
    record: str
    reports: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The result in one line."""
        return _end_line(self.state)

    def lines(self, width: int | None = None) -> Iterator[str]:
        """Yield the lines for a person."""
        yield from summary_lines(self.state, journal=self.options, width=width, most=SHOWN_FAILURES)
        yield next_line("Record", self.record)
        yield from (next_line("Report", report) for report in self.reports)

    def fields(self) -> Mapping[str, object]:
        """Return the fields of the JSON summary, without those that do not apply."""
        groups = [to_values(group) for group in groups_of(self.state)]
        resume = resume_command(self.state, journal=self.options) if is_unfinished(self.state) else ""
        found = {"groups": groups, "record": self.record, "reports": self.reports, "resume": resume}
        return {name: value for name, value in found.items() if value}


def is_unfinished(state: FleetState) -> bool:
    """Return whether a target did not succeed, so that a resume would try it."""
    return any(member.state is not MemberState.SUCCEEDED for member in state.members.values())


def groups_of(state: FleetState) -> tuple[FailureGroup, ...]:
    """Return what went wrong in the members that were tried."""
    return failure_groups([member for member in state.members.values() if member.tried])


def _failure_lines(state: FleetState, most: int | None, journal: str) -> Iterator[str]:
    groups = groups_of(state)
    if groups:
        yield "What went wrong:"
        shown = groups[:most]
        for line in _group_lines(shown, len(state.members)):
            yield f"  {line}"
        if len(shown) < len(groups):
            more = counted(len(groups) - len(shown), "more group")
            yield f"  and {more} of failures: jobplan fleet show {shlex.quote(state.fleet)}{journal}"


def _end_line(state: FleetState) -> str:
    """Return the counts of a fleet run, its duration, and why it stopped, in one line."""
    took = "" if state.finished is None else f" in {format_duration(state.seconds)}"
    why = f"; stopped: {state.stopping.reason}" if state.stopping is not None else ""
    return f"fleet run {state.fleet}: {count_words(state.counts())}{took}{why}"


def resume_command(state: FleetState, *, journal: str = "") -> str:
    """Return the command that continues the fleet run, with a mark to fill in for each open question."""
    questions = (
        f" --mark {shlex.quote(f'{member.target.name}:{step}=…')}"
        for member in state.members.values()
        if member.last is not None and member.state is MemberState.UNKNOWN
        for step in (member.last.questions or [one.step for one in member.last.failures if one.step])
    )
    return f"jobplan fleet resume {shlex.quote(state.fleet)}{journal}{''.join(questions)}"


def heartbeat_line(state: FleetState, workers: int) -> str:
    """Return one line on where the fleet run stands."""
    counts = state.counts()
    ended = sum(number for member, number in counts.items() if member not in ACTIVE)
    failed = sum(counts[one] for one in FAILURES)
    wave = next((wave.name for wave in state.waves if wave.name in state.begun and wave.name not in state.ended), None)
    where = f", in wave {wave}" if wave and len(state.waves) > 1 else ""
    return (
        f"{ended:,}/{counted(sum(counts.values()), 'target')} ended, {failed:,} failed, "
        f"{counts[MemberState.RUNNING]:,} running with {counted(workers, 'worker')}{where}"
    )
