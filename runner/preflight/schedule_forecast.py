"""When each step would run: the engine's scheduler on a virtual clock, with the known durations.

Steps of unknown duration get the median of the known ones, so that the order can be shown; the output marks them. For a
plan with a window, the simulated run begins now, or when the window opens, and obeys the window. So the forecast,
including the steps that do not fit into the window, is what the scheduler would decide.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from runner.codes import new_problem
from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.simulation import AttemptScript, CheckScript, Simulation, simulate
from runner.engine.window import is_unfinished
from runner.errors import Position, Problem
from runner.identity import written_key
from runner.phrases import few
from runner.plan.graph import longest_path
from runner.plan.groups import written_out, written_steps
from runner.plan.model import OnFinish, Plan, RetryPolicy, Step, StepWindow, Window
from runner.plan.window import longest_opening, opening_at
from runner.preflight.step_durations import Duration, Durations
from runner.structs import Struct, replace

#: Seconds from the request to launch a worker to its first statement (pg_background.md#what-a-worker-costs).
_LAUNCH = 0.003
#: Seconds for a step of unknown duration if no duration is known.
_NOMINAL = 1.0
#: Within these seconds the end of one step counts as the start of another.
_SAME_MOMENT = 0.05
#: More slots do not help if they shorten the run by less than this share.
_HELPS = 0.01


class Bar(Struct, frozen=True, kw_only=True):
    """One step or instance, in seconds from the run's start; `ready` is when it began to wait for a slot."""

    step: str
    ready: float
    start: float
    end: float
    known: bool
    final: bool = False
    #: The run does not wait for it: `end` is when the run detaches it, if it has not ended before.
    detached: bool = False

    @property
    def seconds(self) -> float:
        """How long it runs."""
        return self.end - self.start


class SlotsTried(Struct, frozen=True, kw_only=True):
    """The makespan with a number of slots, in seconds."""

    slots: int
    makespan: float


class Schedule(Struct, frozen=True, kw_only=True):
    """The simulated schedule. Times are seconds.

    `makespan_p95` is that of a run in which every step takes as long as its 95th percentile; `lower_bound` is the
    shortest makespan with any number of slots. `unknown` are the steps without a known duration. `enough` is the number
    of slots beyond which more do not help, None if it was not computed or is higher than those that were tried.
    """

    bars: tuple[Bar, ...]
    makespan: float
    makespan_p95: float
    critical: tuple[str, ...]
    lower_bound: float
    unknown: tuple[str, ...]
    nothing_known: bool
    tried: tuple[SlotsTried, ...] = ()
    enough: int | None = None


#: The rows of a for_each's query, by step.
Rows = Mapping[str, ev.Rows]


class Forecaster(Struct, frozen=True, kw_only=True):
    """Simulates one plan with different numbers of slots."""

    plan: Plan
    durations: Durations
    rows: Rows
    left_out: frozenset[str]
    nominal: float

    def run(
        self, *, slots: int, late: bool = False, start: float = 0.0, usual: Mapping[str, float] | None = None
    ) -> Simulation:
        """Return a run with a number of slots; `late` uses the 95th percentiles. For the others see `simulate`."""
        budget = replace(self.plan.budget, slots=slots)
        return simulate(
            replace(self.plan, budget=budget),
            start=start,
            usual=usual or None,
            durations=lambda step, _: AttemptScript(
                duration=self.seconds(step.id, late=late), launch=_LAUNCH, stops_on_timeout=False
            ),
            checks=self._check,
            not_selected=sorted(self.left_out),
        )

    def _check(self, step: Step, phase: ev.CheckPhase, _: int) -> CheckScript:
        if phase is not ev.CheckPhase.ITEMS:
            return CheckScript()
        return CheckScript(rows=self.rows.get(step.id, ev.Rows(columns=("item",), rows=(("?",),))))

    def seconds(self, step: str, *, late: bool = False) -> float:
        """Return how long a step takes."""
        found = self.durations.of(step)
        if found is None:
            return self.nominal
        return found.p95 if late else found.p50


def _forecaster(
    plan: Plan,
    durations: Durations,
    *,
    rows: Rows,
    left_out: frozenset[str],
    window: Window | None = None,
) -> Forecaster:
    """Return what simulates a plan with these durations, under this window if there is one."""
    found = [durations.of(step.id) for step in written_steps(plan)]
    known = [duration.p50 for duration in found if duration is not None]
    return Forecaster(
        plan=replace(_bare(plan), window=window),
        durations=durations,
        rows=rows,
        left_out=left_out,
        nominal=median(known) if known else _NOMINAL,
    )


def forecast(
    plan: Plan,
    durations: Durations,
    *,
    rows: Rows,
    left_out: frozenset[str] = frozenset(),
    slots: Sequence[int] = (),
) -> Schedule:
    """Return the schedule of a plan; `slots` are the budgets that are tried for comparison."""
    written = written_out(plan)
    steps = written.all_steps
    simulated = _forecaster(plan, durations, rows=rows, left_out=left_out)
    bars = _bars(simulated.run(slots=plan.budget.slots), durations)
    widest = max((step.slots for step in steps), default=1)
    tried = tuple(
        SlotsTried(slots=number, makespan=_makespan(_bars(simulated.run(slots=number), durations)))
        for number in slots
        if number >= widest
    )
    return Schedule(
        bars=bars,
        makespan=_makespan(bars),
        makespan_p95=_makespan(_bars(simulated.run(slots=plan.budget.slots, late=True), durations)),
        critical=_critical(bars, written),
        lower_bound=_lower_bound(bars, written),
        unknown=tuple(dict.fromkeys(bar.step for bar in bars if not bar.known)),
        nothing_known=bool(bars) and not any(bar.known for bar in bars),
        tried=tried,
        enough=_enough(tried, _lower_bound(bars, written)),
    )


def _bare(plan: Plan) -> Plan:
    """Remove what ends a step early or runs it again: a duration is that of the whole step in previous runs."""
    steps = tuple(map(_bare_step, plan.steps))
    return replace(plan, steps=steps, finally_=tuple(map(_bare_step, plan.finally_)), run_timeout=None)


def _bare_step(step: Step) -> Step:
    return replace(
        step,
        timeout=None,
        queue_timeout=None,
        expect=None,
        repeat=None,
        verify=None,
        if_=None,
        preconditions=(),
        capture_rows=0,
        retry=RetryPolicy(),
        steps=tuple(map(_bare_step, step.steps)),
        yield_after=None,
    )


def _bars(simulation: Simulation, durations: Durations) -> tuple[Bar, ...]:
    ready: dict[str, float] = {}
    start: dict[str, float] = {}
    bars: list[Bar] = []
    for event in simulation.events:
        match event:
            case ev.StepReady():
                ready.setdefault(event.step, event.at)
            case ev.AttemptLaunching():
                start.setdefault(event.step, event.at)
            case ev.StepFinished() if event.step in start:
                record = simulation.state.records[event.step]
                bars.append(
                    Bar(
                        step=event.step,
                        ready=ready.get(event.step, start[event.step]),
                        start=start[event.step],
                        end=event.at,
                        known=durations.of(event.step) is not None,
                        final=record.in_finally,
                        detached=event.state == "detached",
                    )
                )
    return tuple(sorted(bars, key=lambda bar: (bar.start, bar.end)))


def _makespan(bars: Sequence[Bar]) -> float:
    return max((bar.end for bar in bars), default=0.0)


def _critical(bars: Sequence[Bar], plan: Plan) -> tuple[str, ...]:
    """Return the chain that ends last: each step with the step that it needed, or whose slot it waited for."""
    needs = {step.id: {need.step for need in step.needs} for step in plan.all_steps}
    path: list[str] = []
    current = max((bar for bar in bars if not bar.detached), key=lambda bar: bar.end, default=None)
    while current is not None:
        path.append(current.step)
        start = current.start
        wanted = needs.get(written_key(current.step), set())
        before = [bar for bar in bars if bar.end <= start + _SAME_MOMENT and bar.end < current.end]
        close = [bar for bar in before if bar.end >= start - _SAME_MOMENT]
        needed = [bar for bar in close if written_key(bar.step) in wanted]
        current = max(needed or close, key=lambda bar: bar.end, default=None)
    return tuple(reversed(path))


def _lower_bound(bars: Sequence[Bar], plan: Plan) -> float:
    """Return the shortest makespan with any budget: of the longest chain of needs, or of a pool or exclusive name.

    A run does not wait for a step that it detaches.
    """
    steps = {step.id: step for step in plan.all_steps}
    seconds: dict[str, list[float]] = defaultdict(list)
    waited_for = [bar for bar in bars if steps[written_key(bar.step)].on_finish is OnFinish.WAIT]
    for bar in waited_for:
        seconds[written_key(bar.step)].append(bar.seconds)
    weights = {name: max(*each, sum(each) / _side_by_side(steps[name])) for name, each in seconds.items()}
    main, final = (
        {step.id: [need.step for need in step.needs] for step in steps if step.id in weights}
        for steps in (plan.steps, plan.finally_)
    )
    pools = [_pool_bound(waited_for, plan, name, limit) for name, limit in plan.budget.pools.items()]
    alone: dict[str, float] = defaultdict(float)
    for step in plan.steps:
        for name in step.exclusive:
            alone[name] += sum(seconds.get(step.id, ()))
    return max(longest_path(main, weights)[0], *pools, *alone.values(), 0.0) + longest_path(final, weights)[0]


def _side_by_side(step: Step) -> float:
    """Return how many instances of a step may run at the same time."""
    limit = step.for_each.max_parallel if step.for_each is not None else None
    return math.inf if limit is None else limit


def _pool_bound(bars: Sequence[Bar], plan: Plan, name: str, limit: int) -> float:
    weight = {step.id: step.pools.get(name, 0) for step in plan.steps}
    return sum(bar.seconds * weight.get(written_key(bar.step), 0) for bar in bars) / limit


def _enough(tried: Sequence[SlotsTried], lower_bound: float) -> int | None:
    """Return the number of slots beyond which more do not help, None if it is higher than those that were tried."""
    if not tried:
        return None
    best = min(one.makespan for one in tried)
    found = next(one.slots for one in tried if one.makespan <= best * (1 + _HELPS))
    beatable = best > lower_bound * (1 + _HELPS) + _SAME_MOMENT
    return None if found == tried[-1].slots and beatable else found


def schedule_problems(plan: Plan, schedule: Schedule, durations: Durations) -> Iterator[Problem]:
    """Yield limits of the plan that the durations may exceed."""
    steps = {step.id: step for step in written_steps(plan)}
    for bar in schedule.bars:
        step = steps[written_key(bar.step)]
        duration = durations.of(bar.step)
        attempt = _attempt(step, duration) if duration is not None else None
        if duration is not None and attempt is not None and step.timeout is not None and attempt > step.timeout:
            yield _too_long(bar.step, step, duration, attempt)
        waited = bar.start - bar.ready
        if step.queue_timeout is not None and waited > step.queue_timeout and not schedule.nothing_known:
            message = (
                f"`{bar.step}` would wait {format_duration(waited)} for a slot, and its queue_timeout is "
                f"{format_duration(step.queue_timeout)}"
            )
            yield new_problem("JP803", message, step.position, step=step.id)
    if plan.run_timeout is not None and not schedule.nothing_known and schedule.makespan_p95 > plan.run_timeout:
        late, usual, limit = map(format_duration, (schedule.makespan_p95, schedule.makespan, plan.run_timeout))
        message = f"the run may take {late} (usually {usual}), and its run_timeout is {limit}"
        yield new_problem("JP802", message, Position(file=plan.file, line=1, column=1))


def _attempt(step: Step, duration: Duration) -> float | None:
    """Return how long one attempt may take; unknown for a repeat, whose duration is that of all iterations."""
    if duration.attempt_p95 is not None or step.repeat is not None:
        return duration.attempt_p95
    return duration.p95


def _too_long(key: str, step: Step, duration: Duration, attempt: float) -> Problem:
    limit = format_duration(step.timeout or 0.0)
    seen = f"in {duration.runs} runs" if duration.runs else "as assumed"
    message = f"`{key}` may take {format_duration(attempt)} ({seen}), and its timeout is {limit}"
    return new_problem("JP801", message, step.position, step=step.id)


#: Steps that a finding names.
_NAMED = 5


class WindowForecast(Struct, frozen=True, kw_only=True):
    """The present or next opening, and how much of a run would fit into it. Times are seconds since the epoch.

    The run begins now, or at the opening, and `ends_at` is when it would end. `left_over` are the steps that would not
    start, with the usual durations; `left_over_late` if every step takes as long as its 95th percentile. `known`:
    whether any duration is known; without one, the other values have no meaning.
    """

    window: Window
    server_time: float
    opens: float
    closes: float
    known: bool
    ends_at: float
    left_over: tuple[str, ...] = ()
    left_over_late: tuple[str, ...] = ()

    @property
    def open_now(self) -> bool:
        """Return whether the window is open."""
        return self.opens <= self.server_time


def window_forecast(
    plan: Plan,
    window: Window,
    durations: Durations,
    usual: Mapping[str, float],
    *,
    rows: Rows,
    left_out: frozenset[str],
    server_time: float,
) -> WindowForecast:
    """Return the forecast for a plan and its window. `usual` are the durations for `fit`."""
    opening = opening_at(window, server_time)
    simulated = _forecaster(plan, durations, rows=rows, left_out=left_out, window=window)
    start = max(server_time, opening.opens)
    usually, late = (
        simulated.run(slots=plan.budget.slots, late=late, start=start, usual=usual) for late in (False, True)
    )
    return WindowForecast(
        window=window,
        server_time=server_time,
        opens=opening.opens,
        closes=opening.closes,
        known=any(durations.of(step.id) is not None for step in plan.steps),
        ends_at=_end(usually),
        left_over=_left_over(plan, usually, opening.closes),
        left_over_late=_left_over(plan, late, opening.closes),
    )


def _end(run: Simulation) -> float:
    return max(event.at for event in run.events if not isinstance(event, ev.ServerClock))


def _left_over(plan: Plan, run: Simulation, closes: float) -> tuple[str, ...]:
    """Return the steps that do not start, are cancelled, or repeat and would need iterations after the close."""
    loops = {step.id for step in plan.steps if step.repeat is not None and step.window is not StepWindow.IGNORE}
    return tuple(
        key
        for key, one in run.state.records.items()
        if not one.instances
        and (is_unfinished(run.state, one) or (key.partition("[")[0] in loops and (one.ended_at or 0.0) > closes))
    )


def window_problems(plan: Plan, found: WindowForecast, usual: Mapping[str, float]) -> Iterator[Problem]:
    """Yield a problem for each step that can never start because of `fit`, and one if the plan does not fit."""
    window, longest = found.window, longest_opening(found.window)
    for step in plan.steps:
        seconds = usual.get(step.id)
        if seconds is not None and seconds >= longest and step.window is not StepWindow.IGNORE:
            message = (
                f"`{step.id}` usually takes {format_duration(seconds)} ({window.fit}), and the window is open for at "
                f"most {format_duration(longest)}: with `fit: {window.fit}` it never starts"
            )
            yield new_problem("JP626", message, step.position, step=step.id)
    if found.known and found.left_over:
        names = few(found.left_over, _NAMED)
        opening = "what is left of the window" if found.open_now else "the next opening of the window"
        length = format_duration(found.closes - max(found.opens, found.server_time))
        message = (
            f"the plan does not fit into {opening} ({length}): {len(found.left_over)} of its steps are left over "
            f"({names})"
        )
        hint = "The run would end with exit code 8; `jobplan run --or-resume` continues it in the next opening."
        yield new_problem("JP627", message, window.position, hint=hint)
