"""The plan's window in a run: when steps may start, and what happens to them when it closes.

The server's clock decides. `RunState.window` has how far it is ahead of the run's clock; all comparisons are made on
the run's clock, which never goes backwards, while the server's clock may be set. Steps that obey the window take the
resource `WINDOW`, which is used up while the window is closed. After the close they are left over: skipped, or
cancelled with `at_end: cancel`, and a resume runs them.
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.durations import format_duration
from runner.engine import events as ev
from runner.engine.state import BAD, WINDOW, RunState, StepRecord, StepState, WindowState
from runner.engine.state_indices import latest_start, queue_again
from runner.errors import OutsideWindowError
from runner.exit_codes import ExitCode
from runner.phrases import counted
from runner.plan.model import AtEnd, Outside, Plan, Window
from runner.plan.window import Opening, local_words, opening_at, window_words
from runner.structs import replace

#: Seconds for which nothing is launched after the server has refused a launch outside the window.
SHUT_FOR = 0.5
#: Seconds before its opening at which a window counts as open for `outside: refuse`: the clock of a machine that begins
#: runs at fixed times can be a little ahead of the server's. The run waits for the opening.
EARLY = 2.0


def check_window(plan: Plan, server_time: float) -> Opening | None:
    """Return the opening of the plan's window in which the run begins; None without one, or if the run waits for it.

    OutsideWindowError if the window is closed now, and the run must not wait for it.
    """
    window = plan.window
    if window is None:
        return None
    found = opening_at(window, server_time)
    if found.contains(server_time):
        return found
    if not _may_wait(window, found, server_time):
        raise OutsideWindowError(
            f"nothing was started: the plan's window is {window_words(window)}, and it is "
            f"{local_words(window, server_time)} on the server.",
            hint=f"It opens at {local_words(window, found.opens, seen_at=server_time)}, in "
            f"{format_duration(found.opens - server_time)}. With `outside: wait` a run waits for that.",
        )
    return None


def _may_wait(window: Window, found: Opening, server_time: float) -> bool:
    return window.outside is Outside.WAIT or found.opens - server_time <= EARLY


# --- decisions --------------------------------------------------------------------------------------------------------


def window_turn(state: RunState, now: float) -> ev.Event | None:
    """Return that the window has opened or closed, or that the run waits for it; None if nothing has changed.

    An opening that was found stays the run's opening. If the server's clock jumps over its end, the window has closed;
    if the clock is set back to before its beginning, the run waits for the opening that comes next by that clock.
    """
    known, window = state.window, state.plan.window
    if known is None or window is None or known.closed or not state.main_unfinished or state.ending_at_once:
        return None
    if known.opens is None or known.closes is None:
        return _look(known, window, now)
    if now >= known.local(known.closes):
        return ev.WindowClosed(at=now, closes_at=known.closes) if known.open else _look(known, window, now)
    if now >= known.local(known.opens):
        return None if known.open else ev.WindowOpened(at=now, opens_at=known.opens, closes_at=known.closes)
    if known.open or now < known.local(known.known_at):
        return _look(known, window, now)
    return None


def _look(known: WindowState, window: Window, now: float) -> ev.Event | None:
    server_time = now + known.ahead
    found = opening_at(window, server_time)
    if found.contains(server_time):
        return ev.WindowOpened(at=now, opens_at=found.opens, closes_at=found.closes)
    if not known.open and not _may_wait(window, found, server_time):  # its opening has passed before it was noticed
        return ev.WindowClosed(at=now, closes_at=server_time if known.closes is None else known.closes)
    if not known.open and known.opens == found.opens:
        return None
    return ev.WindowWaiting(at=now, opens_at=found.opens, closes_at=found.closes)


def is_shut(state: RunState, now: float) -> bool:
    """Return whether steps that obey the window may not start now."""
    known = state.window
    if known is None:
        return False
    if known.opens is None or known.closes is None or not known.open or known.closed:
        return True
    return now < known.shut_until or not known.local(known.opens) <= now < known.local(known.closes)


def must_wait_for_window(state: RunState, record: StepRecord, now: float) -> bool:
    """Return whether the step may not start now because of the window."""
    return WINDOW in record.needs and is_shut(state, now)


def fits(state: RunState, record: StepRecord, now: float) -> bool:
    """Return whether the step's usual duration fits into the rest of the window, as far as `fit` requires that."""
    start_by = latest_start(state, record)
    return start_by is None or state.window is None or now < state.window.local(start_by)


def left_over(state: RunState, now: float) -> Iterator[ev.StepSkipped]:
    """Skip the steps that cannot start in this window any more: it has closed, or what is left of it is too short."""
    known = state.window
    if known is None or not (known.closed or known.open):
        return
    if known.closed:
        waiting = [*state.cleared, *(key for group in state.ready.values() for _, key in group)]
        waiting += [key for _, key in state.retrying]
        yield from (skip_left_over(state, state.records[key], now) for key in waiting if _obeys(state, key))
        return
    for key in state.cleared:
        if not fits(state, state.records[key], now):
            yield _skip_too_long(state, state.records[key], now)
    for start_by, key in known.latest_starts:
        if now < known.local(start_by):
            break
        yield _skip_too_long(state, state.records[key], now)


def _obeys(state: RunState, key: str) -> bool:
    return WINDOW in state.records[key].needs


def skip_left_over(state: RunState, record: StepRecord, now: float) -> ev.StepSkipped:
    """Return that the step is left over: the window has closed."""
    because = f"{closed_words(state)}{_so_far(record)}"
    return ev.StepSkipped(at=now, step=record.key, reason=ev.SkipReason.WINDOW, because=because)


def skip_upstream(record: StepRecord, needed: StepRecord, now: float) -> ev.StepSkipped:
    """Return that the step is left over because a step that it needs is."""
    because = f"{needed.key} is left over"
    return ev.StepSkipped(at=now, step=record.key, reason=ev.SkipReason.WINDOW, because=because)


def _skip_too_long(state: RunState, record: StepRecord, now: float) -> ev.StepSkipped:
    known, window = state.window, state.plan.window
    if known is None or window is None or known.closes is None:
        raise AssertionError("only a window has a rest that is too short")
    usual = known.closes - (latest_start(state, record) or 0.0)
    rest = max(0.0, known.local(known.closes) - now)
    because = (
        f"it usually takes {format_duration(usual)} ({window.fit}), and the window closes in "
        f"{format_duration(rest)}{_so_far(record)}"
    )
    return ev.StepSkipped(at=now, step=record.key, reason=ev.SkipReason.WINDOW, because=because)


def _so_far(record: StepRecord) -> str:
    """Return how far the step came before it was left over; empty if it never started."""
    last = record.last
    if record.refused and record.gate_error is not None:
        return f"; it was not launched before: {record.gate_error.message}"
    if record.iteration > 1 or (last is not None and last.outcome is ev.Outcome.SUCCEEDED and record.attempt):
        return f"; {counted(record.iterations, 'iteration')} so far"
    if last is None or last.attempt != record.attempt:
        return ""
    why = f": {last.error.message}" if last.error is not None else ""
    return f"; attempt {record.tries} {last.outcome.replace('_', ' ')}{why}"


def is_cancelled_by_window(state: RunState, record: StepRecord) -> bool:
    """Return whether the end of the window is the only cause of the step's failure."""
    if record.state is not StepState.CANCELLED:
        return False
    if not record.instances:
        return record.cancel_reason is ev.CancelReason.WINDOW
    bad = [one for one in map(state.records.__getitem__, record.instances) if one.state in BAD]
    return bool(bad) and all(is_cancelled_by_window(state, one) for one in bad)


def is_unfinished(state: RunState, record: StepRecord) -> bool:
    """Return whether the step is final in this window, and has to run in the next one."""
    skipped = record.state is StepState.SKIPPED and record.skip_reason is ev.SkipReason.WINDOW
    return skipped or is_cancelled_by_window(state, record)


def cancels(state: RunState, record: StepRecord) -> bool:
    """Return whether the end of the window cancels the worker of this step."""
    window = state.plan.window
    return window is not None and window.at_end is AtEnd.CANCEL and record.step.waits and state.is_left_over(record)


def window_wake_at(state: RunState, now: float) -> Iterator[float]:
    """Yield the times of the run's clock at which the window changes something, all of them in the future."""
    known = state.window
    if known is None or known.closed or not state.main_unfinished or known.opens is None or known.closes is None:
        return
    moments = [known.local(known.opens), known.local(known.closes), known.shut_until]
    moments += [known.local(start_by) for start_by, _ in known.latest_starts[:1] if known.open]
    yield from (moment for moment in moments if moment > now)


# --- what events change -----------------------------------------------------------------------------------------------

#: The events about the window as a whole.
WindowEvent = ev.ServerClock | ev.UsualDurations | ev.WindowWaiting | ev.WindowOpened | ev.WindowClosed


def window_changed(state: RunState, event: WindowEvent) -> None:
    """Change the state by an event about the window; nothing, if a changed plan has none any more."""
    known = state.window
    if known is None:
        return
    match event:
        case ev.ServerClock():
            known.ahead = event.ahead
        case ev.UsualDurations():
            queue_again(state, with_window=replace(known, usual=event.seconds, latest_starts=[]))
        case ev.WindowWaiting() | ev.WindowOpened():
            found = replace(
                known,
                opens=event.opens_at,
                closes=event.closes_at,
                known_at=event.at + known.ahead,
                open=isinstance(event, ev.WindowOpened),
                latest_starts=[],
            )
            queue_again(state, with_window=found)
        case ev.WindowClosed():
            known.closed = True


def launch_times(state: RunState, record: StepRecord) -> tuple[float, float] | None:
    """Return between which times of the server's clock the step may be launched; None if that does not matter."""
    known = state.window
    if known is None or known.opens is None or known.closes is None or WINDOW not in record.needs:
        return None
    return known.opens, known.closes


#: Seconds by which the server's clock must have changed before that is recorded.
CLOCK_CHANGES_BY = 0.25


def clock_changed(state: RunState, ahead: float | None) -> bool:
    """Return whether a measurement of the server's clock differs from the recorded one."""
    return state.window is not None and ahead is not None and abs(ahead - state.window.ahead) > CLOCK_CHANGES_BY


def shut_after_refusal(state: RunState, at: float) -> None:
    """Launch nothing for a moment: the server has refused a launch outside the window."""
    if state.window is not None:
        state.window.shut_until = at + SHUT_FOR


# --- words ------------------------------------------------------------------------------------------------------------


def closed_words(state: RunState) -> str:
    """Return that the window has closed, and when."""
    known, window = state.window, state.plan.window
    if known is None or window is None or known.closes is None:
        return "the window closed"
    return f"the window closed at {local_words(window, known.closes)}"


def window_status(state: RunState, now: float | None) -> str:
    """Return when the window opens or closes, as a phrase; empty without a window, or when its steps have ended.

    With `now`, a time of the run's clock, it also says in how much time that is.
    """
    known, window = state.window, state.plan.window
    if known is None or window is None or known.opens is None or known.closes is None or not state.main_unfinished:
        return ""
    if known.closed:
        return closed_words(state)
    moment = known.closes if known.open else known.opens
    seen_at = None if now is None else now + known.ahead
    rest = "" if seen_at is None else f", in {format_duration(max(0.0, moment - seen_at))}"
    return f"the window {'closes' if known.open else 'opens'} at {local_words(window, moment, seen_at=seen_at)}{rest}"


def unfinished_words(state: RunState) -> str:
    """Return why a run that has ended is not finished: because of its window; empty if that is not the reason."""
    known, finished = state.window, state.finished
    if known is None or finished is None or finished.exit_code != ExitCode.WINDOW_CLOSED:
        return ""
    return closed_words(state) if known.closed else "the rest does not fit into the window"
