"""Random plans, and random servers to run them on, for the properties of the scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from runner.engine import events as ev
from runner.engine.simulation import AttemptScript, CheckScript, HoldScript, Simulation, simulate
from runner.errors import Position
from runner.plan.model import (
    AllowFailure,
    Budget,
    Check,
    Expect,
    ForEach,
    Hold,
    Need,
    NeedOn,
    OnFailure,
    OnFinish,
    OnRunnerExit,
    Plan,
    Repeat,
    RetryPolicy,
    Sql,
    Step,
)
from runner.structs import replace

NOTHING = Sql(text="select 1", start=Position(file="", line=1, column=1))
POOLS = ("io", "cpu")
NAMES = ("orders", "lines")
SQLSTATES = ("40P01", "55P03", "23505")
OUTCOMES = (
    *[ev.Outcome.SUCCEEDED] * 6,
    *[ev.Outcome.FAILED] * 3,
    ev.Outcome.TIMED_OUT,
    ev.Outcome.CANCELLED,
    ev.Outcome.UNKNOWN,
)
ITEMS = ("a", "a", "a#2", "b\nb", "é]", "x" * 100)


def random_plan(random: Random) -> Plan:
    """Draw a plan: mostly small, now and then a crowd in which another session is overtaken often."""
    crowded = random.random() < 0.05
    slots = random.randint(2, 3) if crowded else random.randint(1, 4)
    limits = {name: random.randint(1, 3) for name in POOLS}
    steps: list[Step] = []
    for number in range(random.randint(15, 30) if crowded else random.randint(1, 6)):
        grouped = not crowded and random.random() < 0.2
        draw = _random_group if grouped else _random_step
        steps.append(draw(random, f"s{number}", steps, slots, limits, crowded=crowded))
    last: list[Step] = []
    for number in range(random.choice((0, 0, 0, 1, 2, 3))):
        last.append(_random_step(random, f"f{number}", last, slots, limits, crowded=False))
    plan = Plan(
        name="random",
        budget=Budget(slots=slots, pools=limits),
        steps=tuple(steps),
        finally_=tuple(last),
        run_timeout=random.choice((None, None, None, 3.0, 10.0, 40.0)),
        on_failure=random.choice((*[OnFailure.CONTINUE] * 4, OnFailure.DRAIN, OnFailure.CANCEL)),
    )
    return _with_holds(random, plan) if random.random() < 0.4 else plan


def _with_holds(random: Random, plan: Plan) -> Plan:
    """Draw conditions under which nothing starts, and steps that step aside for other sessions."""
    names = ("load", "lag")[: random.randint(1, 2)]
    holds = tuple(Hold(name=name, while_=NOTHING, at_most=random.choice((None, None, 1.0, 5.0))) for name in names)

    def changed(step: Step, *, final: bool) -> Step:
        yields = random.random() < 0.4
        retry = RetryPolicy(max_attempts=3, delay=random.choice((0.0, 0.5)), on=frozenset({"yielded", "40P01"}))
        return replace(
            step,
            holds=() if final else tuple(name for name in names if random.random() < 0.7),
            yield_after=random.choice((0.5, 2.0)) if yields else None,
            retry=retry if yields and random.random() < 0.6 else step.retry,
        )

    return replace(
        plan,
        holds=holds,
        steps=tuple(changed(step, final=False) for step in plan.steps),
        finally_=tuple(changed(step, final=True) for step in plan.finally_),
    )


def _random_step(
    random: Random, key: str, before: Sequence[Step], slots: int, limits: Mapping[str, int], *, crowded: bool
) -> Step:
    """Draw a step that needs some of those before it; nothing may need a detach step."""
    needable = [step.id for step in before if step.waits]
    needed = random.sample(needable, min(len(needable), random.choice((0, 0, 0) if crowded else (0, 0, 1, 1, 2, 3))))
    wait = random.random() < 0.8
    retries = random.random() < 0.3
    return Step(
        id=key,
        sql=NOTHING,
        timeout=random.choice((None, 2.0, 5.0, 20.0)),
        on_finish=OnFinish.WAIT if wait else OnFinish.DETACH,
        on_runner_exit=random.choice((OnRunnerExit.CANCEL, OnRunnerExit.DETACH)),
        needs=tuple(Need(step=other, on=random.choice((NeedOn.SUCCESS, *NeedOn))) for other in needed),
        queue_timeout=random.choice((None, None, None, 0.0, 1.5, 6.0)),
        slots=random.choice((1, 1, 1, random.randint(1, slots))),
        pools={name: random.randint(1, limit) for name, limit in limits.items() if random.random() < 0.25},
        exclusive=frozenset(name for name in NAMES if random.random() < 0.1),
        priority=random.choice((0, 0, 0, 0, 0, 1, -1)),
        retry=_random_retry(random) if retries else RetryPolicy(),
        on_retry=NOTHING if retries and random.random() < 0.4 else None,
        idempotent=random.random() < 0.3,
        allow_failure=random.choice(
            (None, None, None, None, AllowFailure(), AllowFailure(sqlstates=frozenset({"23505"})))
        ),
        **({} if crowded or random.random() < 0.4 else _random_conditions(random)),
    )


def _random_group(
    random: Random, key: str, before: Sequence[Step], slots: int, limits: Mapping[str, int], *, crowded: bool
) -> Step:
    """Draw a chain of steps, for items or without them."""
    chain: list[Step] = []
    for number in range(random.randint(1, 4)):
        inner = _random_step(random, f"i{number}", chain, slots, limits, crowded=crowded)
        chain.append(replace(inner, for_each=None))
    for_each = ForEach(
        as_="t",
        items=tuple(random.choices(ITEMS, k=random.randint(1, 5))),
        sql=random.choice((None, NOTHING)),
        max_parallel=random.choice((None, 1, 2)),
    )
    outer = _random_step(random, key, before, slots, limits, crowded=crowded)
    return Step(
        id=key,
        sql=Sql(text="", start=NOTHING.start),
        on_finish=OnFinish.WAIT,
        on_runner_exit=OnRunnerExit.CANCEL,
        needs=outer.needs,
        for_each=random.choice((None, for_each, for_each)),
        steps=tuple(chain),
    )


def _random_retry(random: Random) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=random.randint(2, 4),
        delay=random.choice((0.0, 0.5, 2.0)),
        backoff=random.choice((1.0, 2.0)),
        max_delay=random.choice((None, 3.0)),
        on=random.choice((frozenset(), frozenset({"timeout"}), frozenset({"40P01", "55P03"}))),
    )


def _random_conditions(random: Random) -> dict[str, Any]:
    """Draw what a step asks the server, whether it repeats, and for which items it runs."""

    def sometimes(share: float, value: object) -> Any:
        return value if random.random() < share else None

    chunk = random.choice((None, None, None, 2, 3))
    for_each = ForEach(
        as_="t",
        items=tuple(random.choices(ITEMS, k=random.randint(0, 4))),
        sql=sometimes(0.5, NOTHING),
        max_parallel=random.choice((None, 1, 2)),
        chunk=chunk,
    )
    repeat = Repeat(
        max_iterations=random.randint(1, 4), until_sql=sometimes(0.5, NOTHING), pause=random.choice((0.0, 0.3, 2.0))
    )
    expect = random.choice(
        (Expect(rows_min=0, rows_max=2), Expect(value=1, has_value=True), Expect(sql=NOTHING), Expect(rows_min=1))
    )
    return {
        "if_": sometimes(0.2, NOTHING),
        "preconditions": (Check(sql=NOTHING, message="no"),) if random.random() < 0.2 else (),
        "verify": sometimes(0.3, NOTHING),
        "expect": sometimes(0.2, expect),
        "for_each": sometimes(0.4, for_each),
        "repeat": sometimes(0.3, repeat) if chunk is None else None,
    }


class World:
    """What the server does in one run: how attempts end, how many workers it has, and when Ctrl-C comes."""

    def __init__(self, random: Random, plan: Plan) -> None:
        self._random = random
        self._quiet = random.random() < 0.4
        #: Until when the server has how many workers; later it has as many as are asked for.
        self._levels: list[tuple[float, int]] = []
        if random.random() < 0.4:
            until = 0.0
            for _ in range(random.randint(1, 4)):
                until += random.choice((0.3, 1.0, 2.7, 8.0))
                self._levels.append((until, random.randint(0, 3)))
        self.interrupts = [random.uniform(0.0, 12.0)] if random.random() < 0.2 else []
        if random.random() < 0.03:
            self.interrupts.append(random.uniform(5.0, 25.0))
        self.cancels = self._random_cancels([step.id for step in plan.all_steps])
        picky = random.random() < 0.1
        self.not_selected = [step.id for step in plan.steps if picky and random.random() < 0.4]
        self.holds = [script for hold in plan.holds for script in self._random_changes(hold.name)]

    def _random_changes(self, hold: str) -> list[HoldScript]:
        """Draw when a hold is on: often for a moment, sometimes from the start, and in the end it is released."""
        random = self._random
        changes: list[HoldScript] = []
        now = random.choice((0.0, 0.0, 0.4, 2.0))
        for _ in range(random.randint(0, 4)):
            changes.append(HoldScript(at=now, hold=hold, on=True))
            now += random.choice((0.0, 0.1, 0.7, 3.0, 8.0))
            changes.append(HoldScript(at=now, hold=hold, on=False))
            now += random.choice((0.0, 0.2, 1.0, 4.0))
        return changes

    def _random_cancels(self, steps: Sequence[str]) -> list[tuple[float, str | None]]:
        """Draw who asks through the server for what to be stopped."""
        random = self._random
        cancels: list[tuple[float, str | None]] = []
        if random.random() < 0.1:
            cancels.append((random.uniform(0.0, 12.0), None))
        if random.random() < 0.03:
            cancels.append((random.uniform(5.0, 25.0), None))
        for _ in range(random.choice((0, 0, 0, 1, 2))):
            key = random.choice(steps)
            cancels.append(
                (random.choice((0.0, random.uniform(0.0, 12.0))), key + random.choice(("", "", "[a]", "[a].i0", ".i0")))
            )
        return cancels

    def run(self, plan: Plan, **keys: Any) -> Simulation:
        """Run the plan in this world; `keys` are those of `simulate`, and replace what was drawn."""
        drawn = {
            "durations": self.attempt,
            "checks": self.check,
            "capacity": self.capacity,
            "interrupts": self.interrupts,
            "cancels": self.cancels,
            "not_selected": self.not_selected,
            "holds": self.holds,
        }
        return simulate(plan, **{**drawn, **keys})

    def capacity(self, now: float) -> int:
        """Return the workers that the server has at `now`."""
        return next((level for until, level in self._levels if now < until), 100)

    def attempt(self, step: Step, _: int) -> AttemptScript:
        """Draw what an attempt does."""
        random = self._random
        value = random.choice(("1", "1", "2", None))
        return AttemptScript(
            duration=random.choice((0.0, 0.1, 0.5, 1.0, 1.0, 3.0, 9.0)),
            outcome=ev.Outcome.SUCCEEDED if self._quiet else random.choice(OUTCOMES),
            sqlstate=random.choice(SQLSTATES),
            launch=random.choice((0.0, 0.0, 0.01, 0.7)),
            cancel_latency=random.choice((0.0, 0.2, 4.0)),
            seen=random.random() < 0.8,
            skip=random.random() < 0.02,
            stops_on_timeout=random.random() < 0.8,
            row_count=random.choice((0, 1, 3, None)),
            yields_at=random.choice((None, 0.0, 0.3, 1.0)) if step.yield_after is not None else None,
            result=random.choice((ev.Rows(columns=("v",), rows=((value,),)), ev.Rows(problem="void"), None)),
            prepares=random.choice((0.0, 0.3, 3.0)),
            prepared=self._quiet or random.random() < 0.7,
        )

    def check(self, step: Step, phase: ev.CheckPhase, _: int) -> CheckScript:
        """Draw what conditions say; a step without `if` is never skipped, and so on."""
        random = self._random
        duration = random.choice((0.0, 0.0, 0.1, 1.5))
        if not self._quiet and random.random() < 0.1:
            return CheckScript(duration=duration, verdict=ev.Verdict.ERROR)
        if phase is ev.CheckPhase.ITEMS:
            rows = tuple((item,) for item in random.choices((*ITEMS, None), k=random.randint(0, 4)))
            return CheckScript(duration=duration, rows=ev.Rows(columns=("c",), rows=rows))
        verdicts = [ev.Verdict.PROCEED] * 4
        if phase is ev.CheckPhase.BEFORE:
            verdicts += [ev.Verdict.SKIP] * (2 if step.if_ else 0) + [ev.Verdict.FAIL] * len(step.preconditions)
        else:
            until = step.repeat is not None and step.repeat.until_sql is not None
            verdicts += [ev.Verdict.AGAIN] * (4 if until else 0) + [ev.Verdict.FAIL] * 2 * bool(step.verify)
        return CheckScript(duration=duration, verdict=random.choice(verdicts))
