"""The command line. Commands are imported when they are called, so that `jobplan --help` answers at once."""

from __future__ import annotations

import difflib
import errno
import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import click

from runner.cli.error_reports import report_bug, report_error
from runner.errors import JobplanError
from runner.exit_codes import ExitCode, for_error, for_signal

_COMMANDS = {
    "init": "Write a first plan, and how to check plans in CI.",
    "validate": "Check plans without a server.",
    "dry-run": "Say what a plan would do on a server, with nothing executed.",
    "run": "Run a plan.",
    "runs": "List the runs that were recorded, and remove old ones.",
    "show": "Show what is recorded of a run.",
    "resume": "Finish a run: what has succeeded is not run again.",
    "graph": "Draw a plan's graph: as a tree, Mermaid or DOT.",
    "status": "Say what lives on the server now: runs, workers, who blocks whom.",
    "cancel": "Stop a run's workers, from any machine.",
    "attach": "Follow a run's workers until they have gone.",
    "ledger": "Keep a record of runs in the database.",
    "doctor": "Say whether a server is ready for plans, and what mends it.",
    "schema": "Print the JSON Schema of plans.",
    "server": "Start, stop and use the embedded server, for trying things.",
}


class _LazyGroup(click.Group):
    """Knows the commands by name; a command's module, `runner.cli.<name>`, has the command of the same name.

    A dash is an underscore there; where the name is taken by something else, `_command` is behind it.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest a command for one that does not exist."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], _COMMANDS, n=3, cutoff=0.5)
            guess = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{guess}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = _import(f"runner.cli.{name}")
        command = getattr(module, f"{name}_command", None) or getattr(module, name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _import(name: str) -> ModuleType:
    """Import a module without garbage collection: modules are no garbage, and looking for it takes a seventh longer."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        if was_enabled:
            gc.enable()


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's signature
    if wanted and not ctx.resilient_parsing:
        from runner import __version__

        click.echo(f"jobplan {__version__}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def cli() -> None:
    """Run checked-in plans of SQL steps inside PostgreSQL, through the extension pg_background."""


#: What a full disk, a quota or a broken device answers when output is written to it.
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; every exit code of jobplan is decided here."""
    _open_closed_streams()
    _escape_what_an_encoding_lacks()
    try:
        code = cli.main(args=arguments, prog_name="jobplan", standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = for_signal(signal.SIGINT)
    except JobplanError as error:
        report_error(error)
        code = for_error(error)
    except BrokenPipeError:
        code = for_signal(signal.SIGPIPE)
    except MemoryError:
        click.echo("jobplan: out of memory", err=True)
        code = ExitCode.FAILED
    except OSError as error:
        if error.errno in _UNWRITABLE:
            click.echo(f"jobplan: the output cannot be written: {error.strerror}", err=True)
            code = ExitCode.FAILED
        elif not _has_working_directory():
            click.echo("jobplan: the working directory does not exist any more: change to another one.", err=True)
            code = ExitCode.USAGE
        else:
            report_bug(error)
            code = ExitCode.BUG
    except Exception as error:  # noqa: BLE001 - the one place where a bug becomes exit code 70
        report_bug(error)
        code = ExitCode.BUG
    _drop_what_nobody_takes()
    sys.exit(code if isinstance(code, int) else 0)


def _drop_what_nobody_takes() -> None:
    """Throw away output that a stream still holds and cannot write; else Python's own last flush would exit with 120.

    Source: https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


def _has_working_directory() -> bool:
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def _escape_what_an_encoding_lacks() -> None:
    """Have characters that standard output or standard error cannot write escaped: no message may be lost over one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open_closed_streams() -> None:
    """Open the standard streams that the process was started without: no report or socket may take their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
