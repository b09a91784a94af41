"""Run other programs with a clean environment and the right account; errors show the program's output.

PostgreSQL refuses to run as root, so root uses an ordinary account for it.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
from typing import TYPE_CHECKING

from runner.errors import EmbeddedServerError
from runner.structs import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


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


#: In order of preference: the account that PostgreSQL's packages create, then the one that every Unix has.
_STAND_INS = ("postgres", "nobody")


class Account(Struct, frozen=True, kw_only=True):
    """The account that owns the server's files and runs its programs.

    `drop`: it is not the account of this process. Programs are started as this account, and files are given to it.
    """

    name: str
    uid: int
    gid: int
    drop: bool

    @property
    def listed(self) -> bool:
        """Whether the system has a name for it; initdb refuses a user id without a name."""
        return self.name != str(self.uid)


def server_account() -> Account:
    """Return the account to run PostgreSQL as: that of this process or, for root, `postgres` or `nobody`.

    EmbeddedServerError if this process is root and neither exists.
    """
    if os.geteuid() != 0:
        return Account(name=_name_of(os.geteuid()), uid=os.geteuid(), gid=os.getegid(), drop=False)
    for name in _STAND_INS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid, drop=True)
    raise EmbeddedServerError(
        "PostgreSQL does not run as root, and this machine has neither an account postgres nor nobody.",
        hint="Run jobplan as an ordinary user, or use --dsn.",
    )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # containers often run with a user id that has no entry
        return str(uid)


def reachable(folder: Path, account: Account) -> bool:
    """Return whether `account` may enter `folder` and every folder above it.

    For an account other than that of this process the permission bits decide: it has no group but its own.
    """
    if not account.drop:
        return os.access(folder, os.X_OK)
    try:
        return all(_may_pass(place.stat(), account) for place in (folder, *folder.parents))
    except OSError:
        return False


def _may_pass(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def make_folder(path: Path, account: Account) -> None:
    """Create the folder `path`, or reuse it if it exists, so that only `account` (and root) can enter it."""
    path.mkdir(mode=0o700, exist_ok=True)
    if account.drop:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    path.chmod(0o700)


def make_readable_folder(path: Path, account: Account, *, parents: bool = False) -> None:
    """Create the folder `path` if it does not exist; another account than this process's can read it, too."""
    if not path.is_dir():
        path.mkdir(parents=parents, exist_ok=True)
        path.chmod(0o755 if account.drop else 0o700)


def write_file(path: Path, text: str, account: Account | None = None) -> None:
    """Write a file that belongs to `account` (or to the account of this process) and that no other user can read.

    It always creates a new file, so that root never follows a symbolic link in a folder of another account.
    """
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if account is not None and account.drop:
            os.fchown(descriptor, account.uid, account.gid)
        file.write(text)
