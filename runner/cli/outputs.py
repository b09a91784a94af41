"""What a command writes and sends besides its progress: reports, messages to a webhook, and a trace.

Reports go to files or to standard output (`--report KIND=PATH`), messages to a webhook (`--notify`), and a trace to a
collector (`--report otlp`, or where the environment names one).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from runner.cli.options import duration, option_group
from runner.cli.project_options import chosen
from runner.errors import JobplanError, UsageError
from runner.records.run_folders import PLAN, has_journal
from runner.reports.destinations import STDOUT, identity_of, is_device
from runner.structs import Struct

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from runner.plan.model import Plan
    from runner.reports.notify import Notifications

_F = TypeVar("_F", bound=Callable[..., object])

Reports = tuple[tuple[str, Path], ...]
#: The kinds of report of `validate` and `dry-run`.
CHECK_KINDS = ("junit", "codequality", "sarif", "json", "markdown")


def kinds_option(kinds: Iterable[str], more: str = "") -> Callable[[_F], _F]:
    """Return what adds --report for these kinds, as `reports: tuple[str, ...]` for `wanted_reports`."""
    return click.option(
        "--report",
        "reports",
        multiple=True,
        metavar="KIND=PATH",
        help=f"Write a report of KIND ({', '.join(kinds)}) to PATH; - is standard output; repeatable.{more}",
    )


def report_option(command: _F) -> _F:
    """Add --report for the reports of a run."""
    from runner.reports.report_kinds import KINDS

    return kinds_option(KINDS, " With otlp or otlp=URL, send a trace to an OpenTelemetry collector.")(command)


#: Adds --report for `validate` and `dry-run`, for `wanted_check_reports`.
check_report_option = kinds_option(CHECK_KINDS)


class OutputOptions(Struct, frozen=True, kw_only=True):
    """The values of --report, --notify, --notify-blocked and, for a fleet run, --notify-each."""

    reports: tuple[str, ...]
    notify: str | None
    notify_blocked: str | None
    notify_each: bool = False

    def read(self, kinds: Collection[str] | None = None) -> Outputs:
        """Return what the options mean; of the reports of the settings only these `kinds`, if any are named.

        UsageError if an option is wrong, or if OpenTelemetry is needed and not there.
        """
        texts = self.reports or tuple(
            text for text in chosen().reports if kinds is None or text.partition("=")[0] in (*kinds, "otlp")
        )
        urls = [text.partition("=")[2] for text in texts if _is_trace(text)]
        if len(urls) > 1:
            raise UsageError("--report otlp is given twice.")
        collector = next(iter(urls), None) or None
        if collector is not None:
            from runner.reports.notify import is_http_url

            if not is_http_url(collector):
                raise UsageError("--report otlp=URL: this is not the URL of a collector (http://… or https://…).")
        if urls:
            try:
                import runner.reports.otlp  # noqa: F401 - only whether that is possible
            except ImportError:
                raise UsageError("--report otlp needs OpenTelemetry.", hint="pip install 'jobplan[otel]'") from None
        return Outputs(
            files=tuple(text for text in texts if not _is_trace(text)),
            notify=self.notifications(),
            each=self.notify_each,
            traced=bool(urls),
            collector=collector,
        )

    def notifications(self) -> Notifications | None:
        """Return which messages are wanted. UsageError if the URL or the duration is none, without the URL."""
        if not self.notify:
            for option, given in (
                ("--notify-blocked", self.notify_blocked is not None),
                ("--notify-each", self.notify_each),
            ):
                if given:
                    raise UsageError(f"{option} needs --notify or JOBPLAN_NOTIFY.")
            return None
        from runner.reports.notify import Notifications, checked_url

        blocked = self.notify_blocked
        after = None if blocked is None else duration(f"--notify-blocked {blocked!r}", blocked)
        return Notifications(url=checked_url(self.notify), blocked_after=after)


def _is_trace(text: str) -> bool:
    return text.partition("=")[0] == "otlp"


class Outputs(Struct, frozen=True, kw_only=True):
    """What a run, or a fleet run, writes and sends. `files` are the values of --report that name files.

    `each`: also report each target that fails. `traced`: a trace is wanted although the environment names no collector.
    """

    files: tuple[str, ...]
    notify: Notifications | None
    each: bool
    traced: bool
    collector: str | None

    def span_exporter(self) -> SpanExporter | None:
        """Return what sends the trace; None if neither --report nor the environment asks for one."""
        if not self.traced and not _names_collector():
            return None
        try:
            from runner.reports.otlp import span_exporter
        except ImportError:  # the environment is for other programs, too
            return None
        return span_exporter(self.collector)


def _names_collector() -> bool:
    """Return whether the environment names a collector for traces, and does not disable them."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    other = os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    named = any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("TRACES_ENDPOINT", "ENDPOINT"))
    return named and not disabled and not other


#: Add --notify and --notify-blocked.
notify_options = (
    click.option(
        "--notify",
        metavar="URL",
        envvar="JOBPLAN_NOTIFY",
        help="Send a message to this webhook (Slack or JSON) when the run fails, and when it succeeds after a failure. "
        "Other users can see the URL in the process list: use JOBPLAN_NOTIFY to hide it.",
    ),
    click.option(
        "--notify-blocked",
        metavar="DURATION",
        help="Also send a message when a step has waited this long for a lock, such as 5m.",
    ),
)
#: Adds --report, --notify and --notify-blocked, as `outputs`.
output_options = option_group("outputs", OutputOptions, report_option, *notify_options)


def to_stdout(reports: Reports) -> bool:
    """Return whether a report goes to standard output, which then has nothing else."""
    return any(path == STDOUT for _, path in reports)


def wanted_check_reports(texts: tuple[str, ...], format_: str, *inputs: Path | None) -> Reports:
    """Return the kinds and paths. UsageError as `wanted_reports`, or if two texts would go to standard output."""
    reports = wanted_reports(texts, *inputs, kinds=CHECK_KINDS)
    if to_stdout(reports) and format_ != "text":
        raise UsageError(f"--report to standard output and --format {format_} exclude each other.")
    return reports


def wanted_reports(texts: tuple[str, ...], *inputs: Path | None, kinds: Collection[str] | None = None) -> Reports:
    """Return the kinds and paths; `-` is standard output. `kinds` are those that the command knows, else a run's.

    UsageError if a kind is not known, two reports go to one place, or one would overwrite one of the `inputs`.
    """
    reports = tuple(_report(text, kinds) for text in texts)
    taken: set[tuple[object, ...]] = set()
    for _, path in reports:
        place = _identity(path)
        if place in taken and not is_device(path):
            raise UsageError(f"--report would overwrite {path}, which is another report.")
        taken.add(place)
    protect(reports, [path for path in inputs if path is not None])
    return reports


def protect(reports: Reports, files: Iterable[Path]) -> None:
    """UsageError if a report would overwrite one of these files, under any name, or a run's journal."""
    inputs = {_identity(file) for file in files} if reports else set()
    for _, path in reports:
        if _identity(path) in inputs:
            raise UsageError(f"--report would overwrite {path}, which the plan or the command reads.")
        if path != STDOUT and any(map(_is_journal, Path(os.path.realpath(path)).parents)):
            raise UsageError(f"--report would write {path} into the journal of a run.", hint="Name another folder.")


def _is_journal(folder: Path) -> bool:
    """Return whether a folder is a run's journal, and not a folder with a report that is called events.jsonl."""
    return has_journal(folder) and (not os.access(folder, os.X_OK) or (folder / PLAN).exists())


def files_of_recorded(plan: Plan) -> frozenset[Path]:
    """Return the files of a recorded plan, from its file as it is now: the record does not have them."""
    if not plan.file:
        return frozenset()
    from runner.plan.plan_files import files_of

    try:
        return files_of(read_again(plan)) | {Path(plan.file)}
    except JobplanError:
        return frozenset({Path(plan.file)})


def read_again(plan: Plan) -> Plan:
    """Read the file of a recorded plan as it is now, with the recorded values. PlanError if it is not valid."""
    from runner.lint import read_plan
    from runner.sql.placeholders import plain_text

    given = {name: plain_text(value) for name, value in plan.values.items()}
    return read_plan(Path(plan.file), given=given, severities=chosen().severities)


def _identity(path: Path) -> tuple[object, ...]:
    try:
        return identity_of(path)
    except ValueError as error:
        raise UsageError(f"--report {path}: {error}.") from None


def _report(text: str, kinds: Collection[str] | None) -> tuple[str, Path]:
    from runner.reports.report_kinds import KINDS

    kinds = KINDS if kinds is None else kinds
    kind, equals, path = text.partition("=")
    if not equals or not path:
        raise UsageError(f"--report {text!r} is not KIND=PATH.")
    if kind not in kinds:
        raise UsageError(f"--report: there is no kind {kind!r}; the kinds are {', '.join(kinds)}.")
    if path == str(STDOUT):
        return kind, STDOUT
    return kind, Path(path) if Path(path) != STDOUT else Path.cwd() / path  # ./- is a file of that name
