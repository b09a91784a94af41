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
    from runner.project.settings import Section, Settings

_F = TypeVar("_F", bound=Callable[..., Any])

_META = "jobplan.project"
_VARIABLE = "JOBPLAN_ENV"
_CONFIRMED = "JOBPLAN_CONFIRM"


class _Given:
    """What the options said, and the settings once they have been read."""

    def __init__(self) -> None:
        self.environment: str | None = None
        self.env_file: Path | None = None
        self.yes = False
        self.noted = False
        self.settings: Settings | None = None


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
        found = chosen()
    except JobplanError:  # the shell completes a word: an error would only disturb it
        return []
    names = () if found is None else found.settings.environments
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
    """The settings, and the environment that --env or JOBPLAN_ENV names."""

    settings: Settings
    environment: str | None

    @property
    def section(self) -> Section:
        """The settings that apply: the environment's section, else the top of the file. UsageError if there is none."""
        return self.settings.section(self.environment)

    @property
    def own_server(self) -> str:
        """The connection string of the environment itself; empty if it has none, or none was named."""
        if self.environment is None:
            return ""
        self.settings.section(self.environment)
        return self.settings.environments[self.environment].conninfo


def chosen() -> Chosen | None:
    """Return the settings for this command; None without a file. SettingsError or UsageError if they are wrong."""
    given = _given()
    if given.settings is None:
        if given.environment is None and find_config() is None:
            return None  # nothing else is imported
        from runner.project.settings import project_settings

        given.settings = project_settings()
        given.settings.section(given.environment)
    return Chosen(settings=given.settings, environment=given.environment)


def chosen_journal() -> Path:
    """Return the default of --journal."""
    context = click.get_current_context(silent=True)
    try:
        found = chosen()
    except JobplanError:
        if context is None or not context.resilient_parsing:
            raise
        found = None  # the shell completes a word: an error would only disturb it
    journal = None if found is None else found.section.journal
    return default_journal() if journal is None else journal


def chosen_server(*, general: bool = True) -> str:
    """Return the connection string of the settings; without `general` only that of an environment.

    Empty if there is none.
    """
    found = chosen()
    if found is None:
        return ""
    return found.section.conninfo if general else found.own_server


def note_override(variable: str, dsn: str) -> None:
    """Print once that a variable overrides the server of the environment that was named on the command line."""
    given = _given()
    context = click.get_current_context(silent=True)
    if given.noted or given.environment in (None, os.environ.get(_VARIABLE)) or context is None:
        return
    given.noted = True
    server = chosen_server(general=False)
    if server and server != dsn and context.params.get("log_format") != "json":
        text = f"jobplan: {variable} is set, and is used instead of the server of environment {given.environment}."
        click.echo(text, err=True)


def chosen_reports(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of --report, or those of the settings if there are none."""
    found = chosen() if not given else None
    return given if found is None else found.section.reports or ()


def chosen_params() -> Mapping[str, str]:
    """Return the values of parameters in the settings."""
    found = chosen()
    return {} if found is None else found.section.params


def chosen_severities() -> Mapping[str, str]:
    """Return the severities of rules in the settings, by code."""
    found = chosen()
    return {} if found is None else found.settings.lint


def plans_folder() -> Path | None:
    """Return the folder of the project's plans, if the settings name one."""
    found = chosen()
    return None if found is None else found.settings.plans


class PlanPath(click.Path):
    """The type of a plan's argument: a path, or the name of a plan in the project's folder of plans."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click
        """Return the path; if there is no such file, the one of that name in the folder, if there is one."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if os.path.lexists(path) or path.is_absolute() or (ctx is not None and ctx.resilient_parsing):
            return path
        folder = plans_folder()
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
    name = None if found is None else _protected(found, conninfo)
    given = _given()
    if found is None or name is None or given.yes or os.environ.get(_CONFIRMED) == name:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"environment {name} is protected ({found.settings.file}), and there is no terminal to ask: "
            "nothing was started.",
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
    environments = found.settings.environments
    if found.environment is not None and environments[found.environment].confirm:
        return found.environment
    guarded = {name: section.conninfo for name, section in environments.items() if section.confirm and section.conninfo}
    if not guarded or conninfo is None:
        return None
    from runner.gateway.connecting import is_within

    target = conninfo()
    return next((name for name, server in guarded.items() if target and is_within(server, target)), None)
