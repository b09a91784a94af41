"""The options that commands share: --dsn, --journal, the ledger, parameters, the selection of steps, --report.

A command's `--help` imports this module, so heavy imports are where a value is used. `written_out` is the inverse: it
returns the next command, which can be pasted into the shell of this command.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, TypeVar

import click

from runner.cli.project_options import (
    chosen_journal,
    chosen_params,
    chosen_server,
    chosen_severities,
    environment_argument,
    note_override,
)
from runner.errors import JobplanError, RecordError, UsageError
from runner.identity import run_id_problem
from runner.records.run_folders import PLAN, has_journal
from runner.reports.destinations import STDOUT, identity_of, is_device
from runner.structs import Struct

if TYPE_CHECKING:
    from runner.plan.model import Plan
    from runner.reports.notify import Notifications


_F = TypeVar("_F", bound=Callable[..., Any])


def dsn_option(function: _F) -> _F:
    """Add --dsn."""
    return click.option(
        "--dsn",
        metavar="CONNINFO",
        help="libpq connection string. Default: JOBPLAN_DSN, else jobplan.toml, else PGHOST, PGSERVICE and so on.",
    )(function)


def chosen_dsn(given: str | None, *, general: bool = True) -> str:
    """Return the connection string: the option's, else JOBPLAN_DSN, else that of the project's settings.

    If it is empty, libpq uses its environment. Without `general` the settings count only if --env names a section.
    UsageError if it is not UTF-8.
    """
    return _given_dsn(given) or ("" if given is not None else chosen_server(general=general))


def _given_dsn(given: str | None) -> str:
    """Return the option's connection string, else JOBPLAN_DSN. UsageError if it is not UTF-8."""
    dsn = given if given is not None else os.environ.get("JOBPLAN_DSN", "")
    try:
        dsn.encode()
    except UnicodeEncodeError as error:
        source = "--dsn" if given is not None else "JOBPLAN_DSN"
        raise UsageError(f"{source} is not UTF-8: libpq takes no other connection string.") from error
    if dsn and given is None:
        note_override("JOBPLAN_DSN", dsn)
    return dsn


def dsn_argument(given: str | None) -> str:
    """Return --env and --dsn, with a space before them, for a suggested command that must reach the same server.

    No --dsn without --dsn on the command line, and if JOBPLAN_DSN has the same: the environment still applies. The
    password is left out: libpq asks for it or finds it where it found it before.
    """
    environment = environment_argument()
    if not given or given == os.environ.get("JOBPLAN_DSN"):
        return environment
    from runner.gateway.connecting import without_password

    target = without_password(given)
    return environment + (f" --dsn {shlex.quote(target)}" if target else "")


def dsn_of_run(given: str | None, journal: Path, run: str | None) -> str:
    """Return the connection string for a run.

    It is the option's, else JOBPLAN_DSN, else that of --env, else the one that the run's record names, if there is one,
    else that of the project's settings.
    """
    dsn = chosen_dsn(given, general=run is None)
    if dsn or given is not None or run is None:
        return dsn
    from runner.records.record import find_run, read_record

    try:
        started = read_record(journal, find_run(journal, run), own=True).started
    except RecordError:
        started = None
    return (started.connection if started is not None else "") or chosen_dsn(given)


def written_out(
    name: str, run: str, *, journal: Path | None = None, dsn: str | None = None, more: Iterable[str] = ()
) -> str:
    """Return a command for a run, with the options for its journal and its server, without a password.

    What the environment gives is left out. `more` are further arguments.
    """
    where = "" if journal is None else journal_argument(journal)
    return " ".join([shlex.join(["jobplan", name, run]) + where + dsn_argument(dsn), *map(shlex.quote, more)])


def journal_argument(journal: Path) -> str:
    """Return the --journal option, with a space before it, for a suggested command; empty if it is the default."""
    default = os.environ.get("JOBPLAN_JOURNAL") or chosen_journal()
    return "" if journal == Path(default) else f" --journal {shlex.quote(str(journal))}"


def questions_command(
    run_id: str,
    asked: Iterable[str],
    *,
    journal: Path,
    dsn: str | None,
    more: Iterable[str] = (),
    given: Iterable[str] = (),
) -> str:
    """Return the command that resumes a run, with the marks `given`, and one to fill in for each question."""
    from runner.engine.resume_state import mark_option

    marks = [mark_option(text) for text in (*given, *(f"{step}=…" for step in asked))]
    return " ".join([written_out("resume", run_id, journal=journal, dsn=dsn, more=more), *marks])


def journal_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --journal, as `journal: Path`; its default is JOBPLAN_JOURNAL, else the project's folder of journals.

    A folder that cannot be read is no wrong usage: the code that reads it reports that, and some commands do not need
    it.
    """
    return click.option(
        "--journal",
        type=click.Path(path_type=Path, readable=False),
        envvar="JOBPLAN_JOURNAL",
        default=chosen_journal,
        show_default=False,
        metavar="DIR",
        help="Folder with the journals of runs. Also JOBPLAN_JOURNAL. Default: .jobplan/runs of the project.",
    )(command)


#: The default schema of the ledger.
DEFAULT_SCHEMA = "jobplan"
_VARIABLE = "JOBPLAN_LEDGER_SCHEMA"
_TRUSTED_VARIABLE = "JOBPLAN_TRUST_LEDGER_ROLES"
#: Bytes of a name; PostgreSQL truncates longer names without an error.
_MAX_BYTES = 63


def schema_option(function: _F) -> _F:
    """Add --schema."""
    return click.option(
        "--schema", metavar="NAME", help=f"Schema of the ledger. Default: {_VARIABLE}, else {DEFAULT_SCHEMA}."
    )(function)


def no_ledger_option(function: _F) -> _F:
    """Add --no-ledger."""
    return click.option(
        "--no-ledger", is_flag=True, help=f"Do not write to the ledger in the database ({_VARIABLE} names its schema)."
    )(function)


def trust_option(function: _F) -> _F:
    """Add --trust-ledger-role, as `trusted_roles`: roles whose ledger, and whose rows in it, count as evidence."""
    return click.option(
        "--trust-ledger-role",
        "trusted_roles",
        multiple=True,
        metavar="ROLE",
        callback=_with_environment,
        help=f"Trust a ledger of ROLE, and rows that ROLE wrote; repeatable. Also {_TRUSTED_VARIABLE}=ROLE,…",
    )(function)


def _with_environment(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ARG001 - click's protocol
    named = (role.strip() for role in os.environ.get(_TRUSTED_VARIABLE, "").split(","))
    return tuple(dict.fromkeys([*given, *filter(None, named)]))


def ledger_schema(given: str | None = None) -> str:
    """Return the schema: the option's, else the environment's, else the default. UsageError if it cannot be one."""
    schema = given if given is not None else os.environ.get(_VARIABLE) or DEFAULT_SCHEMA
    source = "--schema" if given is not None else _VARIABLE
    if not schema or len(schema.encode(errors="replace")) > _MAX_BYTES or not schema.isprintable():
        raise UsageError(f"{source} {schema!r} is not the name of a schema.")
    return schema


class ParameterValues(TypedDict):
    """What plans are read with: the keyword arguments of `read_plan`. Values are in the order of precedence."""

    given: Mapping[str, str]
    params_file: Path | None
    environment: Mapping[str, str]
    #: Values and severities of the project's settings.
    defaults: NotRequired[Mapping[str, str]]
    severities: NotRequired[Mapping[str, str]]


def parameter_options(function: _F) -> _F:
    """Add --param and --params-file."""
    function = click.option(
        "--params-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="YAML or JSON file with parameter values.",
    )(function)
    return click.option(
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="Value of a parameter; repeatable. Also JOBPLAN_PARAM_<NAME>.",
    )(function)


def parameter_values(params: tuple[str, ...], params_file: Path | None) -> ParameterValues:
    """Read the options. UsageError if a --param is not NAME=VALUE or comes twice."""
    given: dict[str, str] = {}
    for text in params:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"--param {text!r} is not NAME=VALUE.")
        if name in given:
            raise UsageError(f"--param {name} is given twice.")
        given[name] = value
    return ParameterValues(
        given=given,
        params_file=params_file,
        environment=dict(os.environ),
        defaults=chosen_params(),
        severities=chosen_severities(),
    )


class Selection(Struct, frozen=True, kw_only=True):
    """The values of the selection options."""

    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    assume_done: bool = False

    def left_out(self, plan: Plan) -> frozenset[str]:
        """Return the ids of the steps that are not selected. UsageError if the selection is not valid."""
        from runner.plan.graph import not_selected

        return not_selected(plan, self.select, self.exclude, assume_done=self.assume_done)


def selection_options(function: _F) -> _F:
    """Add --select, --exclude and --assume-done."""
    function = click.option(
        "--assume-done", is_flag=True, help="Treat steps that are needed but not selected as done."
    )(function)
    function = click.option(
        "--exclude",
        multiple=True,
        metavar="SELECTOR",
        help="Leave out these steps; the same selectors as --select; repeatable.",
    )(function)
    return click.option(
        "-s",
        "--select",
        multiple=True,
        metavar="SELECTOR",
        help="Select steps: an id, a glob, tag:x, +id (and all that it needs), id+ (and all that need it); repeatable.",
    )(function)


def report_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --report, as `reports: tuple[str, ...]` for `wanted_reports`."""
    from runner.reports.report_kinds import KINDS

    known = ", ".join(KINDS)
    return click.option(
        "--report",
        "reports",
        multiple=True,
        metavar="KIND=PATH",
        help=f"Write a report of KIND ({known}) to PATH; - is standard output; repeatable. With "
        "otlp or otlp=URL, send a trace to an OpenTelemetry collector.",
    )(command)


def check_report_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --report for `validate` and `dry-run`, as `reports: tuple[str, ...]` for `wanted_check_reports`."""
    known = ", ".join(CHECK_KINDS)
    return click.option(
        "--report",
        "reports",
        multiple=True,
        metavar="KIND=PATH",
        help=f"Write a report of KIND ({known}) to PATH; - is standard output; repeatable.",
    )(command)


def wanted_check_reports(texts: tuple[str, ...], format_: str, *inputs: Path | None) -> Reports:
    """Return the kinds and paths. UsageError as `wanted_reports`, or if two texts would go to standard output."""
    reports = wanted_reports(texts, *inputs, kinds=CHECK_KINDS)
    if to_stdout(reports) and format_ != "text":
        raise UsageError(f"--report to standard output and --format {format_} exclude each other.")
    return reports


def to_stdout(reports: Reports) -> bool:
    """Return whether a report goes to standard output, which then has nothing else."""
    return any(path == STDOUT for _, path in reports)


def notify_options(function: _F) -> _F:
    """Add --notify and --notify-blocked, for `wanted_notifications`."""
    function = click.option(
        "--notify-blocked",
        metavar="DURATION",
        help="Also send a message when a step has waited this long for a lock, such as 5m.",
    )(function)
    return click.option(
        "--notify",
        metavar="URL",
        envvar="JOBPLAN_NOTIFY",
        help="Send a message to this webhook (Slack or JSON) when the run fails, and when it succeeds after a failure. "
        "Other users can see the URL in the process list: use JOBPLAN_NOTIFY to hide it.",
    )(function)


def wanted_notifications(url: str | None, blocked: str | None) -> Notifications | None:
    """Read the options. UsageError if the URL or the duration is none; the message does not contain the URL."""
    if not url:
        if blocked is not None:
            raise UsageError("--notify-blocked needs --notify or JOBPLAN_NOTIFY.")
        return None
    from runner.durations import parse_duration
    from runner.reports.notify import Notifications, checked_url

    try:
        return Notifications(url=checked_url(url), blocked_after=None if blocked is None else parse_duration(blocked))
    except ValueError as error:
        raise UsageError(f"--notify-blocked {blocked!r}: {error}.") from None


Reports = tuple[tuple[str, Path], ...]
#: The kinds of report of `validate` and `dry-run`.
CHECK_KINDS = ("junit", "codequality", "sarif", "json", "markdown")


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


def wanted_trace(texts: tuple[str, ...]) -> tuple[bool, str | None, tuple[str, ...]]:
    """Return whether `--report otlp[=URL]` is among the reports, its URL, and the other reports."""
    others = tuple(text for text in texts if text != "otlp" and not text.startswith("otlp="))
    urls = [text.partition("=")[2] for text in texts if text not in others]
    if len(urls) > 1:
        raise UsageError("--report otlp is given twice.")
    if urls and urls[0] and not urls[0].startswith(("http://", "https://")):
        raise UsageError("--report otlp=URL: the URL of a collector begins with http:// or https://.")
    if urls:
        try:
            import runner.reports.otlp  # noqa: F401 - only whether that is possible
        except ImportError:
            raise UsageError("--report otlp needs OpenTelemetry.", hint="pip install 'jobplan[otel]'") from None
    return bool(urls), (urls[0] if urls else None) or None, others


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
    from runner.lint import read_plan
    from runner.plan.plan_files import files_of
    from runner.sql.placeholders import plain_text

    given = {name: plain_text(value) for name, value in plan.values.items()}
    try:
        return files_of(read_plan(Path(plan.file), given=given, severities=chosen_severities())) | {Path(plan.file)}
    except JobplanError:
        return frozenset({Path(plan.file)})


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


class Continuing(Struct, frozen=True, kw_only=True):
    """Which run is meant: what --run-id, --or-resume and the options that belong to them said."""

    run_id: str | None = None
    or_resume: bool = False
    wait_for_runner: bool = False
    allow_changed: bool = False
    require_ledger: bool = False

    def check(self, *, embedded: bool, dry_run: bool, ledger: str | None) -> None:
        """UsageError if the options contradict each other or others."""
        problem = None if self.run_id is None else run_id_problem(self.run_id)
        if problem is not None:
            raise UsageError(f"--run-id {self.run_id!r}: {problem}.")
        needs = [("--wait-for-runner", self.wait_for_runner), ("--allow-changed", self.allow_changed)]
        for option, given in needs:
            if given and not self.or_resume:
                raise UsageError(f"{option} needs --or-resume.")
        if self.allow_changed and self.run_id is None:
            raise UsageError(
                "--or-resume --allow-changed needs --run-id: without an id, the plan itself says which run."
            )
        excluded = [
            ("--or-resume", self.or_resume, "--embedded", embedded),
            ("--or-resume", self.or_resume, "--dry-run", dry_run),
            ("--require-ledger", self.require_ledger, "--no-ledger", ledger is None),
        ]
        for option, given, other, also in excluded:
            if given and also:
                raise UsageError(f"{option} and {other} exclude each other.")


def continuing_options(function: _F) -> _F:
    """Add --run-id, --or-resume, --wait-for-runner, --allow-changed and --require-ledger."""
    for option in (
        click.option(
            "--require-ledger", is_flag=True, help="Do not start without a ledger. A retry is safe only with a ledger."
        ),
        click.option(
            "--allow-changed", is_flag=True, help="With --run-id or --or-resume: resume although the plan has changed."
        ),
        click.option(
            "--wait-for-runner",
            is_flag=True,
            help="With --or-resume: if another runner executes the run, wait until it ends.",
        ),
        click.option(
            "--or-resume",
            is_flag=True,
            help="Resume the run with --run-id, or the last unfinished run with this plan, parameters, selection and "
            "database. If there is none, begin a new run.",
        ),
        click.option("--run-id", metavar="ID", help="Id of the run. Default: a new id."),
    ):
        function = option(function)
    return function
