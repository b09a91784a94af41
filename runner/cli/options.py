"""The options that commands share: --dsn, --journal, the ledger, parameters, the selection of steps.

Options that belong together are a group (`option_group`): a command gets their values as one. `outputs` has the options
of reports and messages. A command's `--help` imports this module, so heavy imports are where a value is used.
`written_out` is the inverse: it returns the next command, which can be pasted into the shell of this command.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, TypeVar, cast

import click

from runner.cli.project_options import chosen, chosen_journal, environment_argument, note_override
from runner.durations import parse_duration
from runner.errors import RecordError, UsageError
from runner.identity import run_id_problem
from runner.sql.qualified_names import MAX_NAME_BYTES
from runner.structs import Struct

if TYPE_CHECKING:
    from runner.plan.model import Plan

_F = TypeVar("_F", bound=Callable[..., Any])


def option_group(name: str, kind: Callable[..., object], *options: Callable[[Any], Any]) -> Callable[[_F], _F]:
    """Return a decorator that adds options whose values a command gets as one, as `name`: what `kind` makes of them."""

    def add(command: _F) -> _F:
        @functools.wraps(command)
        def with_group(**values: Any) -> Any:  # noqa: ANN401 - of any command
            return command(**{name: kind(**{option: values.pop(option) for option in names})}, **values)

        before = len(vars(with_group).get("__click_params__", ()))
        for option in reversed(options):
            option(with_group)
        names = [added.name for added in vars(with_group)["__click_params__"][before:]]
        return cast("_F", with_group)

    return add


def as_one(kind: Callable[..., object]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator with which a command gets all of its arguments and options as one value of this kind."""

    def gather(command: Callable[..., Any]) -> Callable[..., Any]:
        return functools.wraps(command)(lambda **values: command(kind(**values)))

    return gather


#: Adds --format, as `form`, for commands that print a result.
format_option = click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)


def duration(option: str, text: str, *, for_server: bool = True) -> float:
    """Return the seconds of a duration such as 5m. UsageError, which begins with `option`, if it is none."""
    try:
        return parse_duration(text, for_server=for_server)
    except ValueError as error:
        raise UsageError(f"{option}: {error}.") from None


#: Adds --dsn.
dsn_option = click.option(
    "--dsn",
    metavar="CONNINFO",
    help="libpq connection string. Default: JOBPLAN_DSN, else jobplan.toml, else PGHOST, PGSERVICE and so on.",
)


def chosen_dsn(given: str | None, *, general: bool = True) -> str:
    """Return the connection string: the option's, else JOBPLAN_DSN, else that of the project's settings.

    If it is empty, libpq uses its environment. Without `general` the settings count only if --env names a section.
    UsageError if it is not UTF-8.
    """
    dsn = _given_dsn(given)
    if dsn or given is not None:
        return dsn
    return chosen().server if general else chosen().own_server


def _given_dsn(given: str | None) -> str:
    """Return the option's connection string, else JOBPLAN_DSN. UsageError if it is not UTF-8."""
    dsn = given if given is not None else os.environ.get("JOBPLAN_DSN", "")
    try:
        dsn.encode()
    except UnicodeEncodeError as error:
        source = "--dsn" if given is not None else "JOBPLAN_DSN"
        raise UsageError(f"{source} is not UTF-8: libpq takes no other connection string.") from error
    if dsn and given is None:
        note_override(dsn)
    return dsn


@contextlib.contextmanager
def server(conninfo: Callable[[], str], *, embedded: bool, progress: Callable[[str], None]) -> Iterator[str]:
    """Yield how to connect to the server, which is a temporary one if it is `embedded`."""
    if not embedded:
        yield conninfo()
        return
    from runner.embedded import start_server

    with start_server(progress=progress) as started:
        yield started.dsn


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
    more: Iterable[str],
    given: Iterable[str] = (),
) -> str:
    """Return the command that resumes a run, with the marks `given`, and one to fill in for each question."""
    from runner.engine.resume_state import mark_option

    marks = [mark_option(text) for text in (*given, *(f"{step}=…" for step in asked))]
    return " ".join([written_out("resume", run_id, journal=journal, dsn=dsn, more=more), *marks])


#: Adds --journal, as `journal: Path`; its default is JOBPLAN_JOURNAL, else the project's folder of journals. A folder
#: that cannot be read is no wrong usage: the code that reads it reports that, and some commands do not need it.
journal_option = click.option(
    "--journal",
    type=click.Path(path_type=Path, readable=False),
    envvar="JOBPLAN_JOURNAL",
    default=chosen_journal,
    show_default=False,
    metavar="DIR",
    help="Folder with the journals of runs. Also JOBPLAN_JOURNAL. Default: .jobplan/runs of the project.",
)


#: The default schema of the ledger.
DEFAULT_SCHEMA = "jobplan"
_VARIABLE = "JOBPLAN_LEDGER_SCHEMA"
_TRUSTED_VARIABLE = "JOBPLAN_TRUST_LEDGER_ROLES"


#: Adds --schema, for `ledger_schema`.
schema_option = click.option(
    "--schema", metavar="NAME", help=f"Schema of the ledger. Default: {_VARIABLE}, else {DEFAULT_SCHEMA}."
)


def _with_environment(_context: click.Context, _: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    named = (role.strip() for role in os.environ.get(_TRUSTED_VARIABLE, "").split(","))
    return tuple(dict.fromkeys([*given, *filter(None, named)]))


#: Adds --trust-ledger-role, as `trusted_roles`: roles whose ledger, and whose rows in it, count as evidence.
trust_option = click.option(
    "--trust-ledger-role",
    "trusted_roles",
    multiple=True,
    metavar="ROLE",
    callback=_with_environment,
    help=f"Trust a ledger of ROLE, and rows that ROLE wrote; repeatable. Also {_TRUSTED_VARIABLE}=ROLE,…",
)


class LedgerUse(Struct, frozen=True, kw_only=True):
    """The values of --no-ledger and --trust-ledger-role."""

    no_ledger: bool
    trusted_roles: tuple[str, ...]

    @property
    def schema(self) -> str | None:
        """The schema of the ledger, None for no ledger. UsageError if it cannot be one."""
        return None if self.no_ledger else ledger_schema()


#: Adds --no-ledger.
no_ledger_option = click.option(
    "--no-ledger", is_flag=True, help=f"Do not write to the ledger in the database ({_VARIABLE} names its schema)."
)
#: Adds --no-ledger and --trust-ledger-role, as `ledger`.
ledger_options = option_group("ledger", LedgerUse, no_ledger_option, trust_option)


def ledger_schema(given: str | None = None) -> str:
    """Return the schema: the option's, else the environment's, else the default. UsageError if it cannot be one."""
    schema = given if given is not None else os.environ.get(_VARIABLE) or DEFAULT_SCHEMA
    source = "--schema" if given is not None else _VARIABLE
    if not schema or len(schema.encode(errors="replace")) > MAX_NAME_BYTES or not schema.isprintable():
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


class Parameters(Struct, frozen=True, kw_only=True):
    """The values of --param and --params-file."""

    params: tuple[str, ...] = ()
    params_file: Path | None = None

    def given(self) -> dict[str, str]:
        """Return the values of --param by name. UsageError if one is not NAME=VALUE, or comes twice."""
        given: dict[str, str] = {}
        for text in self.params:
            name, equals, value = text.partition("=")
            if not name or not equals:
                raise UsageError(f"--param {text!r} is not NAME=VALUE.")
            if name in given:
                raise UsageError(f"--param {name} is given twice.")
            given[name] = value
        return given

    def values(self) -> ParameterValues:
        """Return what plans are read with. UsageError as `given`."""
        return ParameterValues(
            given=self.given(),
            params_file=self.params_file,
            environment=dict(os.environ),
            defaults=chosen().params,
            severities=chosen().severities,
        )


#: Adds --param and --params-file, as `parameters`.
parameter_options = option_group(
    "parameters",
    Parameters,
    click.option(
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="Value of a parameter; repeatable. Also JOBPLAN_PARAM_<NAME>.",
    ),
    click.option(
        "--params-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="YAML or JSON file with parameter values.",
    ),
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


#: Adds --select, --exclude and --assume-done, as `selection`.
selection_options = option_group(
    "selection",
    Selection,
    click.option(
        "-s",
        "--select",
        multiple=True,
        metavar="SELECTOR",
        help="Select steps: an id, a glob, tag:x, +id (and all that it needs), id+ (and all that need it); repeatable.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="SELECTOR",
        help="Leave out these steps; the same selectors as --select; repeatable.",
    ),
    click.option("--assume-done", is_flag=True, help="Treat steps that are needed but not selected as done."),
)


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
                "--or-resume --allow-changed needs --run-id: without an id, jobplan finds the run by its plan."
            )
        excluded = [
            ("--or-resume", self.or_resume, "--embedded", embedded),
            ("--or-resume", self.or_resume, "--dry-run", dry_run),
            ("--require-ledger", self.require_ledger, "--no-ledger", ledger is None),
        ]
        for option, given, other, also in excluded:
            if given and also:
                raise UsageError(f"{option} and {other} exclude each other.")


#: Adds --run-id, --or-resume, --wait-for-runner, --allow-changed and --require-ledger, as `continuing`.
continuing_options = option_group(
    "continuing",
    Continuing,
    click.option("--run-id", metavar="ID", help="Id of the run. Default: a new id."),
    click.option(
        "--or-resume",
        is_flag=True,
        help="Resume the run with --run-id, or the last unfinished run with this plan, parameters, selection and "
        "database. If there is none, begin a new run.",
    ),
    click.option(
        "--wait-for-runner",
        is_flag=True,
        help="With --or-resume: if another runner executes the run, wait until it ends.",
    ),
    click.option(
        "--allow-changed", is_flag=True, help="With --run-id or --or-resume: resume although the plan has changed."
    ),
    click.option(
        "--require-ledger", is_flag=True, help="Do not start without a ledger. A retry is safe only with a ledger."
    ),
)
