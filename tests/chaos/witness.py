"""The judge: what jobplan reported against what is in the database and what was seen on the server.

Each rule is a function from the evidence to sentences, one for each violation. A rule that cannot find anything is
worthless, so each has its seeded violations in the unit tests.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tests.chaos.evidence import Event, Evidence, Phase, by_items, item_key
from tests.chaos.plans import ChaosStep
from tests.chaos.work import ATOMIC, COUNTED, GRADUAL, IN_LEDGER, Work, last_part, parts

#: States after which a run may end with 0.
_GOOD = frozenset({"succeeded", "failed_allowed", "skipped", "detached"})
#: Faults after which a server has forgotten what was not flushed: what VACUUM did is not.
FORGETTING = frozenset({"restart_immediate", "crash"})
#: In how many looks in a row a limit must be seen exceeded: one look is not one moment.
_LOOKS = 2
#: Seconds by which a moment in a record may be rounded; and by which a worker may begin later than it was requested, on
#: a server whose postmaster is stopped for a while.
_ROUNDING = 0.002
_SLOW_START = 20.0
#: Codes with which a command may end here, where plans are valid and the usage is correct. Negative ones are
#: signals: SIGKILL, and a SIGINT or SIGTERM that comes when the run is over and only the process is left to be ended.
CODES = frozenset({0, 1, 4, 5, 6, 7, 8, 130, 143, -9, -2, -15})


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """What is not as it was promised."""

    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


@dataclass(slots=True, kw_only=True)
class Claims:
    """What jobplan said of one step or instance: its attempts by number, and its last state."""

    launched: set[int] = field(default_factory=set)
    outcomes: dict[int, str] = field(default_factory=dict)
    state: str | None = None
    ever_unknown: bool = False
    ever_detached: bool = False

    def count(self, outcome: str) -> int:
        """Return how many attempts ended so."""
        return sum(each == outcome for each in self.outcomes.values())

    @property
    def undecided(self) -> int:
        """How many attempts may or may not have had their effect, by what was said of them."""
        open_ = len(self.launched - self.outcomes.keys())
        return open_ + self.count("unknown") + self.count("detached")


def judge(evidence: Evidence) -> list[Violation]:
    """Return everything that is not as it was promised."""
    claims = all_claims(evidence)
    return [
        Violation(rule=rule.__name__.removeprefix("_"), message=message)
        for rule in _RULES
        for message in rule(evidence, claims)
    ]


def all_claims(evidence: Evidence) -> Mapping[str, Claims]:
    """Return what was said in every record of the run; where two machines' records differ, what the later one says."""
    merged: dict[str, Claims] = defaultdict(Claims)
    for events in (*evidence.elsewhere, evidence.events):
        for key, claim in read_claims(events).items():
            merged[key].launched |= claim.launched
            merged[key].outcomes.update(claim.outcomes)
            merged[key].ever_unknown |= claim.ever_unknown
            merged[key].ever_detached |= claim.ever_detached
            merged[key].state = claim.state
    return merged


def read_claims(events: Sequence[Event]) -> Mapping[str, Claims]:
    """Fold the events of a run, through all of its phases, into what they say of each step and instance."""
    claims: dict[str, Claims] = defaultdict(Claims)
    for event in by_items(events):
        name = event["event"]
        if name == "run_resumed":
            for found in event.get("settled", ()):
                _settle(claims[found["step"]], found["outcome"])
        elif name == "run_finished":
            for key, state in event["steps"].items():
                claims[key].state = state
        elif "step" in event:
            _note(claims[event["step"]], event)
    return claims


def _settle(claim: Claims, outcome: str) -> None:
    """Take what a resume has found out about the last attempt of an earlier runner."""
    if claim.launched:
        claim.outcomes[max(claim.launched)] = outcome


def _note(claim: Claims, event: Event) -> None:
    attempt = event.get("attempt", 0)
    match event["event"]:
        case "attempt_launching":
            claim.launched.add(attempt)
            claim.state = None
        case "attempt_deferred":
            claim.launched.discard(attempt)
        case "attempt_finished":
            claim.outcomes[attempt] = event["outcome"]
            claim.ever_unknown |= event["outcome"] == "unknown"
            claim.ever_detached |= event["outcome"] == "detached"
        case "step_finished":
            claim.state = event["state"]
        case "step_skipped":
            claim.state = "skipped"


def _each(evidence: Evidence, claims: Mapping[str, Claims]) -> Iterator[tuple[ChaosStep, str, Claims]]:
    for step in evidence.plan.steps:
        for key in step.keys:
            yield step, key, claims.get(key, Claims())


def _missing(evidence: Evidence, claims: Mapping[str, Claims]) -> Iterator[str]:
    """No effect is missing that was reported as succeeded."""
    reported = read_claims(evidence.reported)  # what a journal that ended early does not have
    for step, key, claim in _each(evidence, claims):
        said = (claim, reported.get(key, Claims()))
        succeeded = max(max(each.count("succeeded"), each.state == "succeeded") for each in said)
        if step.work in COUNTED:
            there = evidence.effects.times(step, key)
            if there < succeeded:
                yield f"{key} was reported as succeeded {succeeded} times, and its effect is there {there} times"
        elif step.work is Work.BATCHES:
            if claim.state == "succeeded" and 0 in evidence.effects.moved[step.id]:
                yield f"{key} was reported as succeeded, and its queue was not emptied"
        elif succeeded and key not in evidence.effects.done:
            if step.work is Work.VACUUM and evidence.faults & FORGETTING:
                continue
            yield f"{key} was reported as succeeded, and the catalogs know nothing of it"


def _twice(evidence: Evidence, claims: Mapping[str, Claims]) -> Iterator[str]:
    """No effect is there twice, unless the step is idempotent, or of `finally`, which every ending has anew."""
    for step, key, _ in _each(evidence, claims):
        there = evidence.effects.times(step, key) if step.work in COUNTED else 0
        if there > 1 and not step.idempotent and not step.final:
            yield f"{key} is not idempotent, and its effect is there {there} times"
        if step.work is Work.BATCHES and max(evidence.effects.moved[step.id]) > 1:
            yield f"{key} moved a number twice"


def _denied(evidence: Evidence, claims: Mapping[str, Claims]) -> Iterator[str]:
    """Nothing is reported as failed, cancelled or not begun whose effect is there, unless it was said to be unknown."""
    for step, key, claim in _each(evidence, claims):
        if step.work in COUNTED:
            there = evidence.effects.times(step, key)
        elif step.work in GRADUAL or step.work is Work.BATCHES:
            continue
        else:
            there = int(key in evidence.effects.done)
        may_be = claim.count("succeeded") + claim.undecided
        if there > may_be:
            yield f"{key}: its effect is there {there} times, and only {may_be} attempts may have had it"
        settled = claim.state == "failed" and claim.ever_unknown and step.verify
        if settled and there and set(claim.outcomes.values()) == {"unknown"}:
            yield f"{key}: its verify was taken to say that it failed, and its effect is there"


def _torn(evidence: Evidence, claims: Mapping[str, Claims]) -> Iterator[str]:
    """What one transaction did is there as a whole."""
    for step, key, _ in _each(evidence, claims):
        if step.work not in ATOMIC:
            continue
        for txid, count in Counter(row.txid for row in evidence.effects.of(key)).items():
            if count != parts(step.work):
                yield f"{key}: transaction {txid} left {count} of {parts(step.work)} rows"


def _unrecorded(evidence: Evidence, claims: Mapping[str, Claims]) -> Iterator[str]:
    """Nothing ran whose launch was not recorded before."""
    seen = {key for sample in evidence.samples for key in sample.workers}
    for step, key, claim in _each(evidence, claims):
        begun = sum(row.part == 1 for row in evidence.effects.of(key)) if step.work in COUNTED else 0
        if begun > len(claim.launched):
            yield f"{key} began {begun} times at least, and {len(claim.launched)} launches are recorded"
        elif key in seen and not claim.launched:
            yield f"{key} had a worker, and no launch of it is recorded"
    for key, said in read_claims(evidence.reported).items():
        if said.launched - claims.get(key, Claims()).launched:
            yield f"{key}: a report has a launch that the journal does not have"
    keys = {key for step in evidence.plan.steps for key in step.keys}
    yield from (f"{key} had a worker and is no step of the plan" for key in sorted(seen - keys))


def _order(evidence: Evidence, claims: Mapping[str, Claims]) -> Iterator[str]:
    """A step that needs another's success begins after that has committed."""
    for step, key, _ in _each(evidence, claims):
        begun = min((row.at for row in evidence.effects.of(key)), default=None)
        for other, when in step.needs.items():
            upstream = evidence.plan.step_of(other)
            if begun is None or when != "success" or upstream.work not in COUNTED:
                continue
            of_item = key.rpartition(".")[0]
            mates = step.chain is not None and upstream.chain is not None and step.chain[0] == upstream.chain[0]
            for needed in (one for one in upstream.keys if not mates or one.rpartition(".")[0] == of_item):
                commits = [row.committed for row in evidence.effects.of(needed) if row.part == last_part(upstream.work)]
                if commits and min(commits) > begun:
                    yield f"{key} began {min(commits) - begun:.3f} s before {needed}, which it needs, had committed"


def _settled(evidence: Evidence, claims: Mapping[str, Claims]) -> Iterator[str]:
    """With the ledger the outcome of a transactional step is known exactly."""
    if not evidence.ledger:
        return
    for step, key, claim in _each(evidence, claims):
        if step.work in IN_LEDGER and not step.detach and claim.state == "unknown":
            yield f"{key} is one transaction, the ledger was there, and its outcome was reported as unknown"


def _budget(evidence: Evidence, claims: Mapping[str, Claims]) -> Iterator[str]:
    """No limit of the plan is exceeded; `finally` has slots of its own beside what was detached."""
    steps = {key: step for step in evidence.plan.steps for key in step.keys}
    for sample in evidence.samples:
        workers = [key for key in sample.workers if key in steps]
        if any(steps[key].final for key in workers):
            workers = [key for key in workers if not claims.get(key, Claims()).ever_detached]
        if sample.seen >= _LOOKS:
            yield from (f"{what}: {', '.join(sample.workers)}" for what in _exceeded(evidence, workers))


def _exceeded(evidence: Evidence, workers: Sequence[str]) -> Iterator[str]:
    plan = evidence.plan
    steps = [plan.step_of(key) for key in workers]
    if sum(step.slots for step in steps) > plan.slots:
        yield f"more than {plan.slots} slots taken"
    for pool, limit in plan.pools.items():
        if sum(step.pools.get(pool, 0) for step in steps) > limit:
            yield f"more than {limit} of pool {pool} taken"
    for lock, count in Counter(lock for step in steps for lock in step.exclusive).items():
        if count > 1:
            yield f"{count} hold the exclusive name {lock}"
    for identity, count in Counter(step.id for step in steps).items():
        most = plan.step_of(identity).max_parallel or len(plan.step_of(identity).keys)
        if count > most:
            yield f"{count} workers of {identity} at the same time, and {most} are allowed"


def _ending(evidence: Evidence, claims: Mapping[str, Claims]) -> Iterator[str]:
    """Every command ends, with a code that says what its steps say, and without an error of jobplan's own."""
    for phase in evidence.phases:
        if phase.code is None:
            yield f"{phase.command} did not end: {_tail(phase.stderr)}"
        elif (phase.code not in CODES and not _nothing_to_cancel(phase)) or has_crashed(phase.stderr):
            yield f"{phase.command} ended with {phase.code}: {_tail(phase.stderr)}"
    last = evidence.phases[-1]
    bad = sorted(f"{key} {claim.state}" for key, claim in claims.items() if claim.state not in _GOOD)
    if last.code == 0 and bad:
        yield f"{last.command} ended with 0, and these are not well: {', '.join(bad)}"
    if last.code == 1 and not bad and "record" not in last.stderr and "full_pipe" not in last.faults:
        yield f"{last.command} ended with 1, and every step is well"


#: What Python says, where warnings are errors, of the file of a module that it was reading when a signal came.
_LEFT_OPEN = re.compile(
    r"Exception ignored in: .*\n(?:Traceback .*\n(?:  .*\n)+)?ResourceWarning: unclosed .*\.pyc?'>\n"
)


def has_crashed(stderr: str) -> bool:
    """Say whether there was an error of jobplan's own; Ctrl-C while Python begins or imports a module is none."""
    said = _LEFT_OPEN.sub("", stderr)
    return "Traceback" in said and not said.rstrip().endswith("KeyboardInterrupt")


def _nothing_to_cancel(phase: Phase) -> bool:
    return "-cancel" in phase.command and phase.code == 2 and "is active on the server" in phase.stderr


def _tail(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-3:])


def _left(evidence: Evidence, claims: Mapping[str, Claims]) -> Iterator[str]:
    """No worker is left that no command finds; none lives on whose step was reported as over."""
    for phase in evidence.phases:
        yield from (f"after {phase.command} a worker lived that status did not name: {name}" for name in phase.hidden)
    reported = read_claims(evidence.reported)  # what a journal that ended early does not have
    last = evidence.phases[-1]
    for key in last.alive if last.code in (0, 1) else ():
        states = {each.get(item_key(key), Claims()).state for each in (claims, reported)}
        if "detached" not in states:
            yield f"{last.command} was over, and the worker of {key}, which is {states}, lived on"


def _astray(evidence: Evidence, _: Mapping[str, Claims]) -> Iterator[str]:
    """No step ran on another cluster than that of the run."""
    keys = {row.key for row in evidence.astray.rows} | evidence.astray.done
    keys |= {key for key, moved in evidence.astray.moved.items() if any(moved)}
    yield from (f"{key} ran on the second cluster" for key in sorted(keys))


def _held(evidence: Evidence, _: Mapping[str, Claims]) -> Iterator[str]:
    """Nothing that a hold concerns is launched while it is on, or before it was measured; `finally` is not concerned.

    A journal that was restored from the ledger may lack the end of a hold.
    """
    waiting: set[str] = set()
    for event in evidence.events if evidence.plan.holds and not evidence.elsewhere else ():
        match event["event"]:
            case "run_started" | "run_resumed":
                waiting = set(evidence.plan.holds)
            case "hold_began":
                waiting.add(event["hold"])
            case "hold_measured" | "hold_ended":
                waiting.discard(event["hold"])
            case "attempt_launching" if waiting:
                step = evidence.plan.step_of(event["step"])
                if step.held and not step.final:
                    yield f"{event['step']} was launched while {', '.join(sorted(waiting))} was on"


def _window(evidence: Evidence, _: Mapping[str, Claims]) -> Iterator[str]:
    """Nothing that obeys the window starts outside it, by the server's clock."""
    free = {step.id for step in evidence.plan.steps if step.final} | evidence.plan.free
    opening: tuple[float, float] | None = None
    ahead = 0.0
    for event in evidence.events if evidence.plan.window else ():
        match event["event"]:
            case "server_clock":
                ahead = float(event["ahead"])
            case "window_opened":
                opening = (_seconds(event["opens_at"]), _seconds(event["closes_at"]))
            case "window_waiting" | "window_closed" | "run_resumed":
                opening = None
            case "attempt_launching" if event["step"].partition("[")[0] not in free:
                moment = _seconds(event["at"]) + ahead
                if opening is None or not opening[0] - _ROUNDING <= moment < opening[1] + _ROUNDING:
                    yield f"{event['step']} was launched at {moment:.3f}, and the window is {opening}"
            case "attempt_running" if opening is not None and event["step"].partition("[")[0] not in free:
                begun = _seconds(event["worker"]["backend_start"])
                if begun >= opening[1] + _SLOW_START:
                    yield f"the worker of {event['step']} began {begun - opening[1]:.3f} s after the close"


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _reserve(evidence: Evidence, _: Mapping[str, Claims]) -> Iterator[str]:
    """Runs that keep the same reserve leave it free, however many there are."""
    if evidence.most is None:
        return
    for count, looks in evidence.taken:
        if count > evidence.most and looks >= _LOOKS:
            yield f"{count} workers in {looks} looks in a row, and the reserve leaves {evidence.most}"


_RULES: tuple[Callable[[Evidence, Mapping[str, Claims]], Iterator[str]], ...] = (
    _missing,
    _twice,
    _denied,
    _torn,
    _unrecorded,
    _order,
    _settled,
    _budget,
    _ending,
    _left,
    _astray,
    _reserve,
    _held,
    _window,
)
