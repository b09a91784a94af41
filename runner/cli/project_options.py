"""The settings of the project, applied to a command: --env, --env-file, the chosen environment, and its confirmation.

Precedence: the command line, then environment variables (also those of --env-file), then the section of --env, then the
top of the settings file. They are read once for each command, when the first value is needed.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from runner.errors import JobplanError, UsageError
from runner.project.places import default_journal, find_config
from runner.reports.terminal_text import visible
from runner.structs import Struct

if TYPE_CHECKING:
    from runner.project.settings import Section

_F = TypeVar("_F", bound=Callable[..., Any])

_META = "jobplan.project"
_VARIABLE = "JOBPLAN_ENV"
_CONFIRMED = "JOBPLAN_CONFIRM"


class _Given:
    """What the options said, and what the settings say once they have been read."""

    def __init__(self) -> None:
        self.environment: str | None = None
        self.env_file: Path | None = None
        self.yes = False
        self.noted = False
        self.chosen: Chosen | None = None


def _given() -> _Given:
    context = click.get_current_context(silent=True)
    if context is None:
        return _Given()
    found = context.meta.setdefault(_META, _Given())
    return found if isinstance(found, _Given) else _Given()


def environment_options(function: _F) -> _F:
    """Add --env and --env-file; `chosen` and the functions below have their effect."""
    function = click.option(
        "--env-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        expose_value=False,
        is_eager=True,  # before the variables of other options are looked up
        callback=_read_env_file,
        help="Set environment variables of libpq and jobplan from FILE, with lines NAME=VALUE. Variables that are "
        "already set do not change.",
    )(function)
    return click.option(
        "--env",
        metavar="NAME",
        envvar=_VARIABLE,
        shell_complete=_complete_environment,
        expose_value=False,
        is_eager=True,  # before defaults are looked up that depend on it
        callback=_keep_environment,
        help=f"Use the section env.NAME of jobplan.toml. Also {_VARIABLE}.",
    )(function)


def confirm_option(function: _F) -> _F:
    """Add --yes, for `confirm`."""
    return click.option(
        "--yes",
        is_flag=True,
        expose_value=False,
        callback=_keep_yes,
        help="Do not ask for confirmation, which `confirm` of an environment requires. Also "
        f"{_CONFIRMED}=NAME, with the environment's name.",
    )(function)


def _complete_environment(_context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the environments of the settings."""
    try:
        names = chosen().environments
    except JobplanError:  # the shell completes a word: an error would only disturb it
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _read_env_file(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None or context.resilient_parsing:
        return
    from runner.project.env_file import add_variables

    add_variables(path, os.environ)
    _given().env_file = path


def _keep_environment(_context: click.Context, _: click.Parameter, name: str | None) -> None:
    _given().environment = name or None


def _keep_yes(_context: click.Context, _: click.Parameter, yes: bool) -> None:  # noqa: FBT001 - click's protocol
    _given().yes = yes


class Chosen(Struct, frozen=True, kw_only=True):
    """What the settings say for a command: the section of its environment, then the top of the file. None: nothing.

    `environment` is the one that --env or JOBPLAN_ENV names, and `own_server` its connection string.
    """

    file: Path | None = None
    environment: str | None = None
    server: str = ""
    own_server: str = ""
    journal: Path | None = None
    reports: tuple[str, ...] = ()
    params: Mapping[str, str] = {}
    #: The severities of rules, by code.
    severities: Mapping[str, str] = {}
    #: The folder of the project's plans.
    plans: Path | None = None
    environments: Mapping[str, Section] = {}


def chosen() -> Chosen:
    """Return what the settings say for this command. SettingsError or UsageError if they are wrong."""
    given = _given()
    if given.chosen is not None:
        return given.chosen
    if given.environment is None and find_config() is None:
        return Chosen()  # nothing else is imported
    from runner.project.settings import project_settings

    settings = project_settings()
    section = settings.section(given.environment)
    given.chosen = Chosen(
        file=settings.file,
        environment=given.environment,
        server=section.conninfo,
        own_server="" if given.environment is None else settings.environments[given.environment].conninfo,
        journal=section.journal,
        reports=section.reports or (),
        params=section.params,
        severities=settings.lint,
        plans=settings.plans,
        environments=settings.environments,
    )
    return given.chosen


def chosen_journal() -> Path:
    """Return the default of --journal."""
    context = click.get_current_context(silent=True)
    try:
        return chosen().journal or default_journal()
    except JobplanError:
        if context is None or not context.resilient_parsing:
            raise
        return default_journal()  # the shell completes a word: an error would only disturb it


def note_override(dsn: str) -> None:
    """Print once that JOBPLAN_DSN overrides the server of the environment that was named on the command line."""
    given = _given()
    context = click.get_current_context(silent=True)
    if given.noted or given.environment in (None, os.environ.get(_VARIABLE)) or context is None:
        return
    given.noted = True
    server = chosen().own_server
    if server and server != dsn and context.params.get("log_format") != "json":
        text = f"jobplan: JOBPLAN_DSN is set, and is used instead of the server of environment {given.environment}."
        click.echo(text, err=True)


class PlanPath(click.Path):
    """The type of a plan's argument: a path, or the name of a plan in the project's folder of plans."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click
        """Return the path; if there is no such file, the one of that name in the folder, if there is one."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if os.path.lexists(path) or path.is_absolute() or (ctx is not None and ctx.resilient_parsing):
            return path
        folder = chosen().plans
        if folder is None:
            return path
        tried = [folder / path, *(folder / f"{path}{ending}" for ending in (".yaml", ".yml"))]
        return next((one for one in tried if one.is_file()), path)


def environment_argument() -> str:
    """Return --env and --env-file as they were typed, with a space before, for a suggested command."""
    given = _given()
    words = []
    if given.environment is not None and given.environment != os.environ.get(_VARIABLE):
        words += ["--env", given.environment]
    if given.env_file is not None:
        words += ["--env-file", str(given.env_file)]
    return f" {shlex.join(words)}" if words else ""


def confirm(conninfo: Callable[[], str] | None = None) -> None:
    """Ask whether a protected environment is meant; `conninfo` returns the server that the command would use.

    An environment is protected by `confirm = true`, also if its server is reached without naming it. UsageError if the
    answer is not its name, or if there is no terminal and neither --yes nor JOBPLAN_CONFIRM.
    """
    found = chosen()
    name = _protected(found, conninfo)
    if name is None or _given().yes or os.environ.get(_CONFIRMED) == name:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"environment {name} is protected ({found.file}), and there is no terminal to ask: nothing was started.",
            hint=f"To confirm it: --yes, or {_CONFIRMED}={shlex.quote(name)}.",
        )
    shown = visible(f"Environment {name}{_server_words(conninfo)} is protected. To continue, type its name: ")
    click.echo(shown, nl=False, err=True)
    if sys.stdin.readline().strip() != name:
        raise UsageError(f"environment {name} was not confirmed: nothing was started.")


def _server_words(conninfo: Callable[[], str] | None) -> str:
    """Return the server that the command would use, in parentheses; empty if only libpq knows it."""
    if conninfo is None:
        return ""
    from runner.gateway.connecting import without_password

    server = without_password(conninfo())
    return f" ({server})" if server else ""


def _protected(found: Chosen, conninfo: Callable[[], str] | None) -> str | None:
    """Return the name of the protected environment that a command would change, None if there is none."""
    named = found.environments.items()
    if found.environment is not None and found.environments[found.environment].confirm:
        return found.environment
    guarded = {name: section.conninfo for name, section in named if section.confirm and section.conninfo}
    if not guarded or conninfo is None:
        return None
    from runner.gateway.connecting import is_within

    target = conninfo()
    return next((name for name, server in guarded.items() if target and is_within(server, target)), None)
