"""Start, restart and stop an embedded server, and show the postmaster's log when it does not start."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from runner.embedded import cluster, debian_packages, watchdog
from runner.embedded.installations import PROGRAMS_VARIABLE, find_installed, find_major
from runner.embedded.programs import reachable, run_program, server_account, write_file
from runner.embedded.server_folders import (
    CACHE_VARIABLE,
    cache_folder,
    choose_base,
    is_plain,
    make_server_folder,
    start_watchdog,
    sweep,
)
from runner.errors import EmbeddedServerError
from runner.structs import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from runner.embedded.installations import Installation
    from runner.embedded.programs import Account
    from runner.embedded.server_folders import ServerFolder


_START_SECONDS = 60
#: Another program may take a free port between the search for one and the server's start.
_PORT_ATTEMPTS = 5
_PORT_TAKEN = "Address already in use"
_LOG_LINES = 6


class Postmaster(Struct, frozen=True, kw_only=True):
    """Everything needed to start a server, and to start it again: programs, data, log, and the owning account."""

    bin_dir: Path
    data_dir: Path
    log_file: Path
    account: Account

    def start(self) -> None:
        """Start it and wait until it accepts connections; EmbeddedServerError with its log if it does not."""
        arguments = [str(self.bin_dir / "pg_ctl"), "start", "--silent", "--wait", f"--timeout={_START_SECONDS}"]
        arguments += ["-D", str(self.data_dir), "-l", str(self.log_file)]
        try:
            run_program(arguments, account=self.account, own_session=True)
        except EmbeddedServerError as error:
            raise EmbeddedServerError(f"The embedded server did not start{self._log_tail()}") from error

    def start_on_free_port(self, socket_dir: Path, extra: Mapping[str, str]) -> int:
        """Start it with the embedded server's settings and `extra`, and return its port."""
        write_file(self.log_file, "", self.account)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            port = _free_port()
            settings = cluster.server_settings(port=port, socket_dir=socket_dir, extra=extra)
            write_file(self.data_dir / cluster.SETTINGS_FILE, cluster.render_settings(settings), self.account)
            try:
                self.start()
            except EmbeddedServerError:
                if attempt == _PORT_ATTEMPTS or _PORT_TAKEN not in self._read_log():
                    raise
                write_file(self.log_file, "", self.account)
            else:
                return port
        raise EmbeddedServerError("No free port was found on 127.0.0.1.")

    def pid(self) -> int:
        """Return its process id; EmbeddedServerError if it does not run."""
        pid = watchdog.postmaster_pid(self.data_dir)
        if pid is None:
            raise EmbeddedServerError(f"The embedded server is not running{self._log_tail()}")
        return pid

    def _read_log(self) -> str:
        with contextlib.suppress(OSError):
            return self.log_file.read_text(encoding="utf-8", errors="replace")
        return ""

    def _log_tail(self) -> str:
        lines = self._read_log().splitlines()[-_LOG_LINES:]
        return ":\n" + "\n".join(lines) if lines else "."


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


Mode = Literal["fast", "immediate"]

_WAYS_OUT = """Do one of these:
  - run jobplan in the container that docs/embedded-server.md describes;
  - install your system's package of the extension: postgresql-NN-pg-background, or pg_background_NN;
  - give --dsn with a server that has the extension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """A running PostgreSQL that has pg_background in the database `postgres` and in every one that is created.

    `dsn` uses the private socket and needs no password; `tcp_dsn` is for programs that need TCP, and contains the
    password. Use it as a context manager, or call `stop`; otherwise it stops with this process, unless it is kept.
    """

    dsn: str
    tcp_dsn: str = field(repr=False)
    version: str
    data_dir: Path
    log_file: Path
    bin_dir: Path
    _postmaster: Postmaster = field(repr=False)
    _folder: ServerFolder = field(repr=False)
    _held: list[int] = field(repr=False)  # file descriptors; the first `stop` closes them

    @property
    def pid(self) -> int:
        """The postmaster's process id; EmbeddedServerError if it does not run."""
        return self._postmaster.pid()

    @property
    def folder(self) -> Path:
        """The server's own folder, with its socket; it is removed when the server is stopped."""
        return self._folder.path

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server and remove its folder; a second call does nothing.

        Data in another folder (`data_dir` was given) are kept.
        """
        if not self._held:
            return
        watchdog.tear_down(self.data_dir, self._folder.path, fast=mode == "fast")
        _close(self._held)

    def restart(self, mode: Mode = "fast") -> None:
        """Stop the server and start it again on the same data, port and socket.

        With `immediate` this is a crash for its clients, and it starts with crash recovery.
        """
        watchdog.stop_postmaster(self.data_dir, fast=mode == "fast")
        self._postmaster.start()

    def leave_running(self) -> None:
        """Detach a kept server from this process; after this, `stop` does nothing."""
        _close(self._held)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Parts(Struct, frozen=True, kw_only=True):
    """What a new server needs; all of it is found before anything is created."""

    installation: Installation
    template: Path
    account: Account
    settings: Mapping[str, str]


def start_server(
    *,
    progress: Callable[[str], None],
    data_dir: Path | None = None,
    settings: Mapping[str, str] | None = None,
    keep: bool = False,
) -> EmbeddedServer:
    """Start a PostgreSQL with pg_background, found on this machine or installed into the cache, and return it.

    It stops when this process ends, also when that is killed, unless `keep`. Its data are removed when it stops unless
    `data_dir` names their folder; data of a previous server in that folder are used again. `progress` is called with
    short lines for the user. EmbeddedServerError has a hint where this is not possible.
    """
    account = server_account()
    with _file_errors():
        cache = cache_folder(os.environ, account)
        made_by = None if data_dir is None else cluster.made_by(data_dir)
        installation = _provide(cache, progress) if made_by is None else _provide_again(cache, made_by, progress)
        template = cluster.ensure_template(cache, installation, account, progress)
        parts = _Parts(installation=installation, template=template, account=account, settings=settings or {})
        sweep()
        if data_dir is not None:
            data_dir = data_dir.absolute()
            _check_data_dir(data_dir, parts)
        folder = make_server_folder(choose_base(account), account, data_dir, keep=keep)
        held = [folder.lock]
        try:
            if not keep:
                held.append(start_watchdog(folder))
            return _start(parts, folder, held, progress)
        except BaseException:  # Ctrl-C as well: nothing is left behind
            watchdog.tear_down(folder.record.data_dir, folder.path, fast=False)
            _close(held)
            raise


@contextlib.contextmanager
def _file_errors() -> Iterator[None]:
    """Turn an error of the file system (a full disk, no locks on a network drive) into one with a hint."""
    try:
        yield
    except OSError as error:
        raise EmbeddedServerError(
            f"The embedded server's files cannot be created: {error}.",
            hint=f"Set {CACHE_VARIABLE} and TMPDIR to folders on a local disk with enough space.",
        ) from error


def _provide(cache: Path, progress: Callable[[str], None]) -> Installation:
    """Return PostgreSQL with the extension: an installed one, or from the cache, or from Debian."""
    installation = find_installed(os.environ) or debian_packages.find_cached(cache, os.environ)
    if installation is not None:
        return installation
    try:
        return debian_packages.install(cache, os.environ, progress)
    except EmbeddedServerError as error:
        raise EmbeddedServerError(
            "This machine has no PostgreSQL 14 or later with the extension pg_background 2, and Debian's packages could"
            f" not be installed: {error.message.rstrip('.')}.",
            hint=_WAYS_OUT,
        ) from error


def _provide_again(cache: Path, made_by: cluster.MadeBy, progress: Callable[[str], None]) -> Installation:
    """Return the programs that made the data, or others of the same major version.

    EmbeddedServerError if there are none: data of one major version cannot be started by another.
    """
    named = find_installed(os.environ) if os.environ.get(PROGRAMS_VARIABLE) else None
    if named is not None:
        _check_version(made_by, named)
        return named
    found = find_major(made_by.major, made_by.programs, os.environ) or debian_packages.find_cached_major(
        cache, made_by.major
    )
    why = "no PostgreSQL of that version with pg_background 2 is on this machine"
    if found is None:
        try:
            found = debian_packages.install(cache, os.environ, progress)
        except EmbeddedServerError as error:
            why += f", and Debian's packages could not be installed: {error.message.rstrip('.')}"
    if found is None or found.major != made_by.major:
        where = f" ({made_by.programs})" if made_by.programs is not None else ""
        raise EmbeddedServerError(
            f"The data in {made_by.data_dir} are those of PostgreSQL {made_by.major}{where}, and {why}.",
            hint=f"Install postgresql-{made_by.major} and its pg_background, or name its programs in "
            f"{PROGRAMS_VARIABLE}; or remove the data: jobplan server stop --remove-data",
        )
    return found


def _check_version(made_by: cluster.MadeBy, installation: Installation) -> None:
    if made_by.major != installation.major:
        raise EmbeddedServerError(
            f"The data in {made_by.data_dir} are those of PostgreSQL {made_by.major},"
            f" and this is {installation.version}.",
            hint="Remove them, or name the programs of that version in JOBPLAN_PG_BIN.",
        )


def _check_data_dir(data_dir: Path, parts: _Parts) -> None:
    """Refuse a data directory that jobplan or this major version did not make, or that is in use or not reachable."""
    if not is_plain(data_dir):
        raise EmbeddedServerError(f"{data_dir} has a character that PostgreSQL's programs do not accept.")
    if not data_dir.parent.is_dir() or not reachable(data_dir.parent, parts.account):
        raise EmbeddedServerError(f"{data_dir.parent} does not exist or is closed to the account {parts.account.name}.")
    if not data_dir.exists() or not any(data_dir.iterdir()):
        return
    if not cluster.is_ours(data_dir):
        raise EmbeddedServerError(f"{data_dir} is neither empty nor the data directory of an embedded server.")
    made_by = cluster.made_by(data_dir)
    if made_by is not None:
        _check_version(made_by, parts.installation)
    if watchdog.postmaster_pid(data_dir) is not None:
        raise EmbeddedServerError(f"A server is already running on {data_dir}.")


def _start(parts: _Parts, folder: ServerFolder, held: list[int], progress: Callable[[str], None]) -> EmbeddedServer:
    """Give the folder's server its data, start it, and set its password."""
    data_dir = folder.record.data_dir
    if cluster.is_ours(data_dir):
        watchdog.stop_postmaster(data_dir)  # backends of a postmaster that was killed may still use the data
    else:
        cluster.copy_template(parts.template, data_dir, parts.account)
    progress(f"starting PostgreSQL {parts.installation.version}")
    inside = folder.path in data_dir.parents
    postmaster = Postmaster(
        bin_dir=parts.installation.bin_dir,
        data_dir=data_dir,
        log_file=folder.path / "log" if inside else data_dir / "server.log",
        account=parts.account,
    )
    port = postmaster.start_on_free_port(folder.socket_dir, parts.settings)
    dsn = f"postgresql://postgres@/postgres?host={quote(str(folder.socket_dir), safe='/')}&port={port}"
    if not inside:
        cluster.note_programs(data_dir, parts.installation.bin_dir)
    password = secrets.token_urlsafe(24)
    _set_password(parts, dsn, password)
    return EmbeddedServer(
        dsn=dsn,
        tcp_dsn=f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres",
        version=parts.installation.version,
        data_dir=data_dir,
        log_file=postmaster.log_file,
        bin_dir=postmaster.bin_dir,
        _postmaster=postmaster,
        _folder=folder,
        _held=held,
    )


def _set_password(parts: _Parts, dsn: str, password: str) -> None:
    """Store the password's verifier, through psql's stdin, because other users can see command lines."""
    statement = f"ALTER ROLE postgres PASSWORD '{cluster.scram_verifier(password, secrets.token_bytes(16))}'"
    psql = [parts.installation.program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", dsn]
    run_program(psql, account=parts.account, stdin=statement, own_session=True)


def _close(held: list[int]) -> None:
    while held:
        os.close(held.pop())
