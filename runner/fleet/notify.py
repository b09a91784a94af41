"""Messages about a fleet run: one at its end, with counts; on request one for each target that failed.

They are sent as those of a run (`runner.reports.notify`): no SQL, no values, no messages of the server, and never a
delay of more than a few seconds at the end.
"""

from __future__ import annotations

import socket
from typing import Final

from runner.engine.ports import Sink
from runner.exit_codes import is_failure
from runner.fleet import events as ev
from runner.fleet.coordinator import FleetSink
from runner.fleet.events import MemberState
from runner.fleet.messages import count_words, member_words
from runner.fleet.rollout import FleetState, Member
from runner.phrases import some
from runner.reports.notify import Message, Notifier, Webhook

#: Targets that did not succeed and are named in a message.
_MOST_TARGETS: Final = 10
#: States of targets that a message at the end of the fleet run does not name.
_NO_FAILURES: Final = frozenset({MemberState.SUCCEEDED, MemberState.PENDING, MemberState.UNMET})


class FleetNotifier(FleetSink):
    """A sink of a fleet run that sends messages.

    `failed_before`: the previous fleet run of the plan, or this one before it was resumed, had failed. `each`: also
    report each target that fails, when it ends.
    """

    def __init__(
        self,
        webhook: Webhook,
        *,
        plan: str,
        fleet: str,
        failed_before: bool = False,
        each: bool = False,
        blocked_after: float | None = None,
    ) -> None:
        self._webhook = webhook
        self._about = {"plan": plan, "fleet": fleet, "host": socket.gethostname()}
        self._failed_before = failed_before
        self._each = each
        self._blocked_after = blocked_after

    def member(self, member: Member) -> Sink | None:
        """Return the sink for the run of a target; None if nothing of it is worth a message."""
        if self._blocked_after is None:
            return None
        return Notifier(
            _MemberWebhook(self._webhook),
            plan=self._about["plan"],
            run=member.run,
            database=member.target.database,
            ends=False,
            blocked_after=self._blocked_after,
        )

    def handle(self, event: ev.FleetEvent, state: FleetState) -> None:
        """Send a message if the event is worth one."""
        match event:
            case ev.MemberFinished() if self._each and is_failure(event.exit_code):
                self._member_failed(event)
            case ev.FleetFinished(exit_code=0):
                if self._failed_before:
                    self._send("recovery", f"succeeded after a failure: {count_words(state.counts())}", exit_code=0)
            case ev.FleetFinished() if is_failure(event.exit_code):
                self._failed(event, state)

    def close(self) -> None:
        """Wait, for a short time, until everything is sent."""
        self._webhook.close()

    def ended_early(self, exit_code: int) -> None:
        """Report that an error ended the command, and wait for a short time until that is sent."""
        if is_failure(exit_code):
            self._send("failure", f"ended with exit code {exit_code} before it had begun", exit_code=exit_code)
        self.close()

    def _member_failed(self, event: ev.MemberFinished) -> None:
        steps = [{"step": one.step, "sqlstate": one.sqlstate} for one in event.failures if one.step is not None]
        what = f"target {event.target} {member_words(event.state)}, exit code {event.exit_code}"
        fields = {"target": event.target, "state": str(event.state), "exit_code": event.exit_code, "steps": steps}
        self._send("failure", what, **fields)

    def _failed(self, event: ev.FleetFinished, state: FleetState) -> None:
        bad = [member for member in state.members.values() if member.state not in _NO_FAILURES]
        targets = [{"target": one.target.name, "state": str(one.state)} for one in bad[:_MOST_TARGETS]]
        counts = {str(kind): number for kind, number in state.counts().items()}
        what = f"ended with exit code {event.exit_code}: {count_words(state.counts())}"
        what += f" ({some([one.target.name for one in bad], _MOST_TARGETS)})" if bad else ""
        self._send("failure", what, exit_code=event.exit_code, counts=counts, targets=targets)

    def _send(self, event: str, what: str, **fields: object) -> None:
        fleet = f", fleet run {self._about['fleet']}" if self._about["fleet"] else ""
        self._webhook.send(
            {"text": f"jobplan: {self._about['plan']}{fleet} {what}", "event": event, **self._about, **fields}
        )


class _MemberWebhook:
    """The webhook of a fleet run for one of its members, whose end does not wait for it."""

    def __init__(self, webhook: Webhook) -> None:
        self._webhook = webhook

    def send(self, message: Message) -> None:
        """Send a message; returns at once."""
        self._webhook.send(message)

    def close(self) -> None:
        """Do nothing: the fleet run waits at its end."""
