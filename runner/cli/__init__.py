"""The command line. A command is imported when it is called, so that `jobplan --help` is fast."""

from __future__ import annotations

import contextlib
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
from click.shell_completion import CompletionItem

from runner.cli.console import print_text, report_bug, report_error
from runner.cli.examples import add_examples
from runner.errors import JobplanError
from runner.exit_codes import ExitCode, for_error, for_signal

_COMMANDS = {
    "init": "Write a first plan, with a README that shows how to check plans in CI.",
    "validate": "Check plans without a server.",
    "dry-run": "Show what a plan would do on a server, without executing it.",
    "run": "Run a plan.",
    "runs": "List recorded runs, and remove old records.",
    "show": "Show the record of a run.",
    "report": "Write static pages of all recorded runs.",
    "resume": "Finish a run: steps that succeeded do not run again.",
    "graph": "Draw a plan's graph: as a tree, Mermaid or DOT.",
    "status": "Show what runs on the server now: runs, workers and lock waits.",
    "cancel": "Cancel a run's workers, from any machine.",
    "attach": "Follow a run's workers until they end.",
    "fleet": "Run one plan over many databases.",
    "export": "Print a plan as YAML for Kubernetes or Argo Workflows.",
    "ledger": "Keep a record of runs in the database.",
    "doctor": "Check whether a server is ready for plans, and show how to fix it.",
    "schema": "Print the JSON Schema of plans.",
    "completion": "Print a script for completion in bash, zsh or fish.",
    "help": "Show the help of a command.",
    "server": "Start, stop and use the embedded server, for experiments.",
}


class _LazyGroup(click.Group):
    """Lists the commands by name; the module of a command, `runner.cli.<name>`, defines a command of the same name.

    A dash in the name is an underscore in the module. If the name has another meaning there, `_command` is appended.
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

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - the same
        if cmd_name not in _COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = _import(f"runner.cli.{name}")
        command = getattr(module, f"{name}_command", None) or getattr(module, name)
        if not isinstance(command, click.Command):
            return None
        add_examples(command, cmd_name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of commands without importing them, and the options."""
        names = (CompletionItem(name, help=text) for name, text in _COMMANDS.items() if name.startswith(incomplete))
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - the same
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _import(name: str) -> ModuleType:
    """Import a module without garbage collection, which would take a seventh of the time and find nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        module = importlib.import_module(name)
        gc.freeze()  # what is imported stays: no later collection looks through it, nor the one at the end
        return module
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


#: Errors of a write to a full disk, over a quota, or to a broken device.
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


#: Errors of a path that this user cannot use.
_UNUSABLE = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    _open_closed_streams()
    _escape_unencodable()
    code = _complete(arguments) if "_JOBPLAN_COMPLETE" in os.environ else _perform(arguments)
    _discard_unwritable_output()
    sys.exit(code)


def _perform(arguments: Sequence[str] | None) -> int:
    """Run a command, and return its exit code; every exit code of jobplan is decided here."""
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
        elif error.errno in _UNUSABLE and error.filename is not None:
            print_text(f"jobplan: {os.fsdecode(error.filename)}: {error.strerror}.", err=True)
            code = ExitCode.USAGE
        elif not _has_working_directory():
            click.echo("jobplan: the working directory does not exist any more: change to another one.", err=True)
            code = ExitCode.USAGE
        else:
            report_bug(error)
            code = ExitCode.BUG
    except Exception as error:  # noqa: BLE001 - the one place where a bug becomes exit code 70
        report_bug(error)
        code = ExitCode.BUG
    return code if isinstance(code, int) else 0


def _complete(arguments: Sequence[str] | None) -> int:
    """Answer a completion request of a shell. No error is printed: it would appear in the line that the user types."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            cli.main(args=arguments, prog_name="jobplan", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (Exception, click.Abort):  # noqa: BLE001 - as the docstring says
        return int(ExitCode.FAILED)
    return 0


def _discard_unwritable_output() -> None:
    """Discard buffered output that cannot be written; otherwise Python's last flush would exit with code 120.

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


def _escape_unencodable() -> None:
    """Escape characters that the encoding of standard output or standard error lacks, so that no message is lost."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open_closed_streams() -> None:
    """Open standard streams that are closed, so that no report or socket gets their descriptors."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
