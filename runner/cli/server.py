"""`jobplan server`: the embedded PostgreSQL for experiments, which runs between commands."""

from __future__ import annotations

import json
import os
import shlex
import time
from urllib.parse import parse_qs, urlsplit

import click

from runner.cli.options import format_option
from runner.durations import format_duration
from runner.embedded.kept_server import KeptServer, find_kept, start_kept, stop_kept
from runner.errors import EmbeddedServerError
from runner.exit_codes import ExitCode


@click.group()
def server() -> None:
    """Run a PostgreSQL server with pg_background, for experiments.

    It uses the PostgreSQL programs of this machine or, on Debian and its derivatives, Debian's packages, which it
    unpacks into a cache without changing the system. Not for production: a crash of the machine can lose the data.
    """


@server.command()
@format_option
def start(form: str) -> None:
    """Start the server, or report that it is already running."""
    running, started = start_kept(_progress)
    if not started:
        _progress("it is already running")
    _show(running, form)


@server.command()
@click.option("--remove-data", is_flag=True, help="Also remove its databases.")
def stop(*, remove_data: bool) -> None:
    """Stop the server. Its databases are available again after the next start."""
    stopped = stop_kept(remove_data=remove_data)
    _progress("stopped" if stopped else "it was not running")
    if remove_data:
        _progress("its data was removed")


@server.command()
@format_option
@click.pass_context
def status(context: click.Context, form: str) -> None:
    """Show whether the server is running, and how to connect to it.

    The exit code is 0 if it is running, and 3 if it is not.
    """
    _show(running := find_kept(), form)
    if running is None:
        context.exit(ExitCode.NOT_THERE)


@server.command()
def env() -> None:
    """Print shell variables that select the server: eval "$(jobplan server env)".

    JOBPLAN_DSN is for jobplan, PGHOST and so on are for psql and other programs.
    """
    click.echo("\n".join(_environment_lines(_running())))


def _environment_lines(running: KeptServer) -> list[str]:
    """Return statements for a POSIX shell; each ends with a semicolon, in case line ends are lost."""
    ours = {"JOBPLAN_DSN": running.dsn, **_psql_variables(running)}
    return [
        *(f"export {name}={shlex.quote(value)};" for name, value in ours.items()),
        f"unset {' '.join(_IN_THE_WAY)};",
    ]


def _running() -> KeptServer:
    running = find_kept()
    if running is None:
        raise EmbeddedServerError("The embedded server is not running.", hint="Start it: jobplan server start")
    return running


@server.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
def psql(arguments: tuple[str, ...]) -> None:
    """Start psql on the server. ARGS are arguments of psql; write them after -- if jobplan has the same option."""
    running = _running()
    program = str(running.bin_dir / "psql")
    os.execve(program, [program, *arguments], _psql_environment(dict(os.environ), running))  # noqa: S606 (our own psql)


def _psql_environment(environ: dict[str, str], running: KeptServer) -> dict[str, str]:
    """Return `environ` with the server as psql's default; arguments of psql, such as a database, take precedence."""
    others = {name: value for name, value in environ.items() if name not in _IN_THE_WAY}
    return {**others, **_psql_variables(running)}


#: Variables that would lead libpq to another server.
_IN_THE_WAY = ("PGSERVICE", "PGHOSTADDR", "PGPASSWORD")


def _psql_variables(running: KeptServer) -> dict[str, str]:
    """Return the variables with which libpq connects to the server."""
    host, port = _socket_of(running.dsn)
    return {"PGHOST": host, "PGPORT": port, "PGUSER": "postgres", "PGDATABASE": "postgres"}


def _socket_of(dsn: str) -> tuple[str, str]:
    """Return the socket's folder and the port from the connection string of an embedded server."""
    query = parse_qs(urlsplit(dsn).query)
    return query["host"][0], query["port"][0]


def _progress(line: str) -> None:
    click.echo(line, err=True)


def _show(running: KeptServer | None, form: str) -> None:
    if form == "json":
        click.echo(json.dumps(_as_data(running), indent=2))
    elif running is None:
        click.echo("not running")
    else:
        click.echo(_as_text(running))


def _as_data(running: KeptServer | None) -> dict[str, object]:
    if running is None:
        return {"running": False}
    return {
        "running": True,
        "version": running.version,
        "pid": running.pid,
        "uptime_seconds": round(_uptime(running), 3),
        "dsn": running.dsn,
        "tcp_dsn": running.tcp_dsn,
        "passfile": str(running.passfile),
        "data_dir": str(running.data_dir),
        "log_file": str(running.log_file),
        "bin_dir": str(running.bin_dir),
    }


def _as_text(running: KeptServer) -> str:
    return "\n".join(
        [
            f"running: PostgreSQL {running.version}, pid {running.pid}, up {format_duration(_uptime(running))}",
            f"dsn:     {running.dsn}",
            f"tcp:     {running.tcp_dsn} with PGPASSFILE={shlex.quote(str(running.passfile))}",
            f"data:    {running.data_dir}",
            f"log:     {running.log_file}",
            f"use it:  export JOBPLAN_DSN={shlex.quote(running.dsn)}",
            'or:      eval "$(jobplan server env)"',
        ]
    )


def _uptime(running: KeptServer) -> float:
    return max(0.0, time.time() - running.started_at)
