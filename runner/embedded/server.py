"""A running embedded server: started, restarted and stopped here."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from runner.embedded import cluster, packages, watchdog
from runner.embedded.account import reachable, server_account, write_file
from runner.embedded.finding import find_installed
from runner.embedded.folders import make_server_folder, start_watchdog, sweep
from runner.embedded.places import cache_folder, choose_base, is_plain
from runner.embedded.programs import run_program
from runner.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from runner.embedded.account import Account
    from runner.embedded.finding import Installation
    from runner.embedded.folders import ServerFolder

Mode = Literal["fast", "immediate"]

_START_SECONDS = 60
#: Another program may take a free port between our asking for one and the server's taking it.
_PORT_ATTEMPTS = 5
_LOG_LINES = 6
_GUIDE = "docs/embedded-server.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """A running PostgreSQL that has pg_background in the database `postgres` and in every one that is created.

    `dsn` goes through the private socket and needs no password; `tcp_dsn` is for programs that only speak TCP, and
    holds one. Use it as a context manager, or call `stop`; else it stops with this process, unless it is a kept one.
    """

    dsn: str
    tcp_dsn: str = field(repr=False)
    version: str
    data_dir: Path
    log_file: Path
    bin_dir: Path
    _folder: ServerFolder = field(repr=False)
    _account: Account = field(repr=False)
    _leash: list[int] = field(repr=False)  # descriptors that are closed once, by the first stop

    @property
    def pid(self) -> int:
        """The postmaster's process; EmbeddedServerError if it does not run."""
        pid = watchdog.postmaster_pid(self.data_dir)
        if pid is None:
            raise EmbeddedServerError(f"The embedded server does not run{_log_tail(self.log_file)}")
        return pid

    @property
    def folder(self) -> Path:
        """The server's own folder, with its socket; it is removed when the server is stopped."""
        return self._folder.path

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server and remove its folder; a second call does nothing.

        Data that lie elsewhere (`data_dir` was given) stay.
        """
        if not self._leash:
            return
        watchdog.tear_down(self.data_dir, self._folder.path, fast=mode == "fast")
        _let_go(self._leash)

    def restart(self, mode: Mode = "fast") -> None:
        """Stop the server and start it again on the same data, port and socket.

        With `immediate` that is a crash, to its clients and to its own recovery.
        """
        watchdog.stop_postmaster(self.data_dir, fast=mode == "fast")
        _run_postmaster(self.bin_dir, self.data_dir, self.log_file, self._account)

    def leave_running(self) -> None:
        """Let a kept server go on without this process; after this, `stop` does nothing."""
        _let_go(self._leash)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_server(
    *,
    progress: Callable[[str], None],
    data_dir: Path | None = None,
    settings: Mapping[str, str] | None = None,
    keep: bool = False,
) -> EmbeddedServer:
    """Start a PostgreSQL with pg_background, found on this machine or brought to it, and return it.

    It stops with this process, also when that is killed; `keep` makes it outlive it. The data are thrown away with it
    unless `data_dir` says where they lie: there, data of an earlier server are taken up. `progress` is given short
    lines for a person. EmbeddedServerError says what to do where this is not possible.
    """
    account = server_account()
    cache = cache_folder(os.environ, account)
    installation = provide(cache, progress)
    template = cluster.ensure_template(cache, installation, account, progress)
    sweep()
    if data_dir is not None:
        data_dir = data_dir.absolute()
        _check_data_dir(data_dir, installation, account)
    folder = make_server_folder(choose_base(account), account, data_dir, keep=keep)
    leash = [folder.lock]
    try:
        if not keep:
            leash.append(start_watchdog(folder))
        if not cluster.is_ours(folder.record.data_dir):
            cluster.copy_template(template, folder.record.data_dir, account)
        progress(f"starting PostgreSQL {installation.version}")
        return _start(installation, folder, account, settings or {}, leash)
    except BaseException:  # Ctrl-C as well: nothing may stay behind
        watchdog.tear_down(folder.record.data_dir, folder.path, fast=False)
        _let_go(leash)
        raise


def provide(cache: Path, progress: Callable[[str], None]) -> Installation:
    """Return PostgreSQL with the extension: the machine's own, or from the cache, or from Debian."""
    installation = find_installed(os.environ) or packages.find_cached(cache, os.environ)
    if installation is not None:
        return installation
    try:
        return packages.install(cache, os.environ, progress)
    except EmbeddedServerError as error:
        raise EmbeddedServerError(
            "This machine has no PostgreSQL 14 or later with the extension pg_background 2, and Debian's packages could"
            f" not be brought: {error.message}",
            hint=f"""\n\
  either  run jobplan in the container of {_GUIDE},
  or      install your system's package of the extension: postgresql-NN-pg-background, pg_background_NN,
  or      give the --dsn of a server that has it.""",
        ) from error


def _check_data_dir(data_dir: Path, installation: Installation, account: Account) -> None:
    """Refuse a data directory that is not ours, that another major version made, that is in use or out of reach."""
    if not is_plain(data_dir):
        raise EmbeddedServerError(f"{data_dir} has a character that PostgreSQL's programs cannot take.")
    if not data_dir.parent.is_dir() or not reachable(data_dir.parent, account):
        raise EmbeddedServerError(f"{data_dir.parent} is not there or is closed to the account {account.name}.")
    if not data_dir.exists() or not any(data_dir.iterdir()):
        return
    if not cluster.is_ours(data_dir):
        raise EmbeddedServerError(f"{data_dir} is neither empty nor an embedded server's.")
    made_by = (data_dir / "PG_VERSION").read_text(encoding="utf-8").strip()
    if made_by != str(installation.major):
        raise EmbeddedServerError(
            f"The data in {data_dir} are PostgreSQL {made_by}'s, and this is {installation.version}.",
            hint="Remove them, or name the older programs in JOBPLAN_PG_BIN.",
        )
    if watchdog.postmaster_pid(data_dir) is not None:
        raise EmbeddedServerError(f"A server is running on {data_dir} already.")


def _start(
    installation: Installation,
    folder: ServerFolder,
    account: Account,
    settings: Mapping[str, str],
    leash: list[int],
) -> EmbeddedServer:
    data_dir = folder.record.data_dir
    inside = folder.path in data_dir.parents
    log_file = folder.path / "log" if inside else data_dir / "server.log"
    write_file(log_file, "", account)
    port = _start_on_free_port(installation, folder, account, settings, log_file)
    password = secrets.token_urlsafe(24)
    server = EmbeddedServer(
        dsn=f"postgresql://postgres@/postgres?host={quote(str(folder.socket_dir), safe='/')}&port={port}",
        tcp_dsn=f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres",
        version=installation.version,
        data_dir=data_dir,
        log_file=log_file,
        bin_dir=installation.bin_dir,
        _folder=folder,
        _account=account,
        _leash=leash,
    )
    statement = f"ALTER ROLE postgres PASSWORD '{cluster.scram_verifier(password, secrets.token_bytes(16))}'"
    psql = [installation.program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", server.dsn]
    run_program(psql, account=account, stdin=statement, own_session=True)
    return server


def _start_on_free_port(
    installation: Installation, folder: ServerFolder, account: Account, settings: Mapping[str, str], log_file: Path
) -> int:
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        port = _free_port()
        try:
            chosen = cluster.server_settings(port=port, socket_dir=folder.socket_dir, extra=settings)
            text = cluster.render_settings(chosen)
        except ValueError as error:
            raise EmbeddedServerError(f"The embedded server cannot have these settings: {error}.") from error
        write_file(folder.record.data_dir / cluster.SETTINGS_FILE, text, account)
        try:
            _run_postmaster(installation.bin_dir, folder.record.data_dir, log_file, account)
        except EmbeddedServerError:
            if attempt == _PORT_ATTEMPTS or "Address already in use" not in _read_log(log_file):
                raise
            write_file(log_file, "", account)
        else:
            return port
    raise EmbeddedServerError("No free port was found on 127.0.0.1.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run_postmaster(bin_dir: Path, data_dir: Path, log_file: Path, account: Account) -> None:
    arguments = [str(bin_dir / "pg_ctl"), "start", "--silent", "--wait", f"--timeout={_START_SECONDS}"]
    try:
        run_program([*arguments, "-D", str(data_dir), "-l", str(log_file)], account=account, own_session=True)
    except EmbeddedServerError as error:
        raise EmbeddedServerError(f"The embedded server did not start{_log_tail(log_file)}") from error


def _read_log(log_file: Path) -> str:
    with contextlib.suppress(OSError):
        return log_file.read_text(encoding="utf-8", errors="replace")
    return ""


def _log_tail(log_file: Path) -> str:
    lines = _read_log(log_file).splitlines()[-_LOG_LINES:]
    return ":\n" + "\n".join(lines) if lines else "."


def _let_go(leash: list[int]) -> None:
    while leash:
        os.close(leash.pop())
