"""Rules about steps that can run at the same time and whose table locks conflict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from runner.durations import format_duration
from runner.errors import Cause
from runner.lint.rule import Finding, Rule
from runner.locks.conflicts import Held, LockTiming
from runner.locks.contention import ContentionResult, Meeting, find_contention
from runner.locks.step_locks import Locking
from runner.plan.parsed_sql import Subject
from runner.plan.version_ranges import allowed_versions

_CONCURRENT = frozenset({LockTiming.BUILD, LockTiming.DROP, LockTiming.DETACH})


#: The first version in which a concurrent ADD COLUMN makes a DETACH … CONCURRENTLY fail.
_GETS_IN_BETWEEN = 18


def _is_harmless_before(meeting: Meeting) -> bool:
    held, other = meeting.held, meeting.other_held
    natures = {held.nature, other.nature}
    added = any("ADD COLUMN" in one.what for one in (held, other))
    return meeting.outcome is ContentionResult.FAILURE and natures == {LockTiming.DETACH, LockTiming.PLAIN} and added


def _findings(subject: Subject) -> Mapping[ContentionResult, Sequence[Finding]]:
    """Return the findings of all three rules, which one search gives."""
    found: dict[ContentionResult, list[Finding]] = {each: [] for each in ContentionResult}
    newest = max(allowed_versions(subject.plan.requires.server_version), default=_GETS_IN_BETWEEN)
    for meeting in find_contention(subject):
        if newest >= _GETS_IN_BETWEEN or not _is_harmless_before(meeting):
            found[meeting.outcome].extend(findings_of(meeting))
    return found


def findings_of(meeting: Meeting) -> Iterator[Finding]:
    """Yield the finding for two conflicting steps, and one for the further pairs that are only counted.

    Pairs with the same relation and outcome have one cause.
    """
    step, held = _place(meeting)
    position = step.sql.position(held.offset)
    yield Finding(
        position=position, message=_message(meeting), hint=_hint(meeting), step=step.id, cause=_cause(meeting)
    )
    if meeting.more:
        pairs = "1 more pair of steps" if meeting.more == 1 else f"{meeting.more:,} more pairs of steps"
        message = f"{pairs} do the same on {held.name}" if meeting.more > 1 else f"{pairs} does the same on {held.name}"
        yield Finding(position=position, message=message, step=step.id, cause=_cause(meeting, pairs))


def _cause(meeting: Meeting, part: str | None = None) -> Cause:
    one, other = meeting.one, meeting.other
    held = _place(meeting)[1]
    if meeting.with_itself:
        return Cause(key=f"{held.name} {one.id}", part=part or f"instances of `{one.id}`")
    across = one.sql.final != other.sql.final
    hint = None if across else "order them with `needs`, or give all of them a common name in `exclusive`"
    return Cause(key=f"{held.name} {across}", part=part or f"`{one.id}` and `{other.id}`", hint=hint)


def _place(meeting: Meeting) -> tuple[Locking, Held]:
    """Return the place of a finding: its CONCURRENTLY command, else the later step of the plan."""
    if meeting.outcome is ContentionResult.FAILURE and meeting.other_held.nature not in _CONCURRENT:
        return meeting.one, meeting.held
    return meeting.other, meeting.other_held


def _message(meeting: Meeting) -> str:
    match meeting.outcome:
        case ContentionResult.FAILURE:
            return _failure(meeting)
        case ContentionResult.DEADLOCK:
            return _deadlock(meeting)
        case ContentionResult.WAIT:
            return _wait(meeting)


def _failure(meeting: Meeting) -> str:
    step, held = _place(meeting)
    at_one = held is meeting.held
    other, other_held = (meeting.other, meeting.other_held) if at_one else (meeting.one, meeting.held)
    where = "in another instance of the step" if meeting.with_itself else f"in `{other.id}`"
    same_time = f"{held.what} in `{step.id}` can run at the same time as {_command(other_held)} {where}"
    start = f"{same_time}, on {_relation(held, other_held)}"
    if held.nature is not LockTiming.DETACH:
        return f"{start}: the two wait for each other, and PostgreSQL ends one as a deadlock (40P01)"
    if other_held.nature is LockTiming.DETACH:
        return f"{start}: PostgreSQL detaches only one partition of a table at a time (55000)"
    version = f" (version {_GETS_IN_BETWEEN} and later)" if _is_harmless_before(meeting) else ""
    return f"{start}: it can fail between its two phases and leave the partition half detached{version}"


def _deadlock(meeting: Meeting) -> str:
    found = meeting.deadlock
    if found is None:
        return _wait(meeting)
    mine = f"has {found.has.name} ({found.has.what}) and wants {found.wants.name} ({found.wants.what})"
    its = f"{found.other_has.name} ({found.other_has.what}) and wants {found.other_wants.name}"
    if meeting.with_itself:
        start = f"two instances of `{meeting.one.id}` can end in a deadlock (40P01): one {mine}"
        return f"{start}, the other has {its} ({found.other_wants.what})"
    start = f"`{meeting.one.id}` and `{meeting.other.id}` can end in a deadlock (40P01): `{meeting.one.id}` {mine}"
    return f"{start}, `{meeting.other.id}` has {its} ({found.other_wants.what})"


def _wait(meeting: Meeting) -> str:
    relation = _relation(meeting.held, meeting.other_held)
    mine, its = _with_mode(meeting.held), _with_mode(meeting.other_held)
    if meeting.with_itself:
        start = f"instances of `{meeting.one.id}` can run at the same time and exclude each other on {relation}"
        commands = mine if mine == its else f"{mine}, {its}"
        return f"{start} ({commands}): {_patience(meeting)}"
    items = " for different items" if meeting.of_items else ""
    start = f"`{meeting.one.id}` ({mine}) and `{meeting.other.id}` ({its}) can run at the same time{items}"
    return f"{start} and exclude each other on {relation}: {_patience(meeting)}"


def _command(held: Held) -> str:
    return f"{held.what} (by the foreign key {held.via})" if held.via else held.what


def _with_mode(held: Held) -> str:
    via = f" by the foreign key {held.via}" if held.via else ""
    return f"{held.what}: {held.mode}{via}"


def _relation(held: Held, other: Held) -> str:
    """Return the name of what both lock: the relation itself if one of them locks every table."""
    return other.name if held.on.sweeping else held.name


def _patience(meeting: Meeting) -> str:
    one, other = meeting.one.sql.step, meeting.other.sql.step
    if one.lock_timeout is None and other.lock_timeout is None:
        return "the later one waits until the other has ended"
    if one.lock_timeout == other.lock_timeout:
        return f"the later one waits, and fails after its lock_timeout of {_limit(one.lock_timeout)}"
    limits = f"{_limit(one.lock_timeout)} for `{one.id}`, {_limit(other.lock_timeout)} for `{other.id}`"
    return f"the later one waits, and fails after its lock_timeout ({limits})"


def _limit(seconds: float | None) -> str:
    return "none" if seconds is None else format_duration(seconds).replace(".0s", "s")


def _hint(meeting: Meeting) -> str:
    one, other = meeting.one, meeting.other
    if meeting.with_itself and one.sql.step.group is None:
        return "give the step's `for_each` a `max_parallel: 1`"
    if meeting.with_itself or meeting.of_items:
        return f"give `for_each` of the group `{one.sql.step.group}` a `max_parallel: 1`"
    if one.sql.final != other.sql.final:
        return f"let the run wait for `{one.id}` (`on_finish: wait`): its worker continues during the finally steps"
    apart = "give both a common name in `exclusive`, or a pool of 1"
    first, second = (one, other) if one.sql.step.waits else (other, one)
    if not first.sql.step.waits:
        return apart
    return f"order them (`needs: [{first.id}]` in `{second.id}`), or {apart}"


#: The codes of what two steps can come to.
CODES_OF_OUTCOMES = {
    ContentionResult.FAILURE: "JP401",
    ContentionResult.WAIT: "JP402",
    ContentionResult.DEADLOCK: "JP403",
}


def _of(outcome: ContentionResult) -> Callable[[Subject], Sequence[Finding]]:
    return lambda subject: subject.once("contention", _findings)[outcome]


RULES = tuple(Rule(code=code, check=_of(outcome)) for outcome, code in CODES_OF_OUTCOMES.items())
