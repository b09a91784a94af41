"""Run other programs with a clean environment and the right account; errors show the program's output."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from runner.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.embedded.account import Account

_LAST_LINES = 8
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def server_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for PostgreSQL's programs.

    The caller's PG… variables could connect psql to another server, and LD_… variables load the wrong libraries.
    """
    return {"PATH": environ.get("PATH", _DEFAULT_PATH), "LC_ALL": "C", "HOME": "/"}


def run_program(
    arguments: Sequence[str],
    *,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
    own_session: bool = False,
) -> str:
    """Run a program to its end and return what it wrote to stdout.

    It runs as `account` if that is given. With `own_session`, Ctrl-C in the terminal does not reach it or the processes
    that it starts. EmbeddedServerError, with the program's last lines, if it cannot be started or fails.
    """
    dropped = account if account is not None and account.drop else None
    try:
        done = subprocess.run(
            list(arguments),
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            cwd="/",  # the caller's folder may be closed to the account
            umask=0o022,
            env=dict(environment) if environment is not None else server_environment(os.environ),
            start_new_session=own_session,
            user=dropped.uid if dropped else None,
            group=dropped.gid if dropped else None,
            extra_groups=[dropped.gid] if dropped else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        as_account = f" as {dropped.name}" if dropped else ""
        raise EmbeddedServerError(f"{arguments[0]} could not be started{as_account}: {error}.") from error
    if done.returncode != 0:
        raise EmbeddedServerError(f"{arguments[0]} failed: {_last_lines(done)}")
    return done.stdout


def _last_lines(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    if lines:
        return "\n".join(lines[-_LAST_LINES:])
    return f"it ended with exit code {done.returncode} and without output."
