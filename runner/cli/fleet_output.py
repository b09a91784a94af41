"""The options of a fleet run for messages to a webhook, and for a trace to a collector."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from runner.cli.console import print_text
from runner.cli.options import wanted_notifications, wanted_trace
from runner.cli.project_options import chosen_reports
from runner.errors import JobplanError, UsageError
from runner.exit_codes import for_error, is_failure
from runner.structs import Struct

if TYPE_CHECKING:
    from runner.fleet.events import FleetEvent
    from runner.fleet.notify import FleetNotifier
    from runner.fleet.otlp import FleetTrace
    from runner.fleet.records import FleetJournal
    from runner.fleet.rollout import FleetState
    from runner.reports.notify import Notifications

#: Adds --notify-each.
notify_each_option = click.option(
    "--notify-each", is_flag=True, help="With --notify: also send a message for each target that fails, when it ends."
)


class FleetOutput(Struct, frozen=True, kw_only=True):
    """What a fleet run sends to other programs: messages and a trace. `files` are the reports that are files."""

    files: tuple[str, ...]
    notify: Notifications | None
    each: bool
    trace: bool
    collector: str | None

    @contextlib.contextmanager
    def reporting_errors(self, plan: str, fleet_id: str) -> Iterator[None]:
        """Send a message if an error ends the command before the fleet run has begun."""
        try:
            yield
        except JobplanError as error:
            if self.notify is not None:
                self._notifier(plan, fleet_id).ended_early(for_error(error))
            raise

    def sinks(
        self, state: FleetState, record: FleetJournal, first: FleetEvent
    ) -> tuple[FleetNotifier | FleetTrace, ...]:
        """Return the sinks of a fleet run that begins, or is resumed, with `first`; each has one for each member."""
        from runner.fleet.events import FleetStarted
        from runner.fleet.records import failed_before

        began = first if isinstance(first, FleetStarted) else state.started
        plan = "" if began is None else began.plan
        if state.finished is not None:
            failed = is_failure(state.finished.exit_code)
        else:
            failed = self.notify is not None and failed_before(record.folder.parent, plan, state.fleet)
        notifier = None if self.notify is None else self._notifier(plan, state.fleet, failed_before=failed)
        return tuple(one for one in (notifier, self._trace()) if one is not None)

    def _notifier(self, plan: str, fleet_id: str, *, failed_before: bool = False) -> FleetNotifier:
        from runner.fleet.notify import FleetNotifier
        from runner.reports.notify import Webhook

        if self.notify is None:
            raise ValueError("no messages are wanted")
        return FleetNotifier(
            Webhook(self.notify.url, _warn),
            plan=plan,
            fleet=fleet_id,
            failed_before=failed_before,
            each=self.each,
            blocked_after=self.notify.blocked_after,
        )

    def _trace(self) -> FleetTrace | None:
        from runner.cli.run_control import wants_trace

        if not self.trace and not wants_trace(os.environ):
            return None
        try:
            from runner.fleet.otlp import FleetTrace
            from runner.reports.otlp import span_exporter
        except ImportError:  # the environment is for other programs, too
            return None
        return FleetTrace(span_exporter(self.collector), environment=dict(os.environ), warn=_warn)


def _warn(text: str) -> None:
    print_text(f"jobplan: {text}.", err=True)


def fleet_output(reports: tuple[str, ...], notify: str | None, blocked: str | None, *, each: bool) -> FleetOutput:
    """Read the options. UsageError if they are wrong."""
    traced, collector, files = wanted_trace(_chosen_reports(reports))
    notifications = wanted_notifications(notify, blocked)
    if each and notifications is None:
        raise UsageError("--notify-each needs --notify or JOBPLAN_NOTIFY.")
    return FleetOutput(files=files, notify=notifications, each=each, trace=traced, collector=collector)


def _chosen_reports(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of --report, or those of the project's settings that a fleet run can have."""
    from runner.fleet.reports import KINDS

    return given or tuple(text for text in chosen_reports(()) if text.partition("=")[0] in (*KINDS, "otlp"))
