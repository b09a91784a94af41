"""Start the postmaster on a prepared data directory, and show its log when it does not start."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.embedded import cluster, watchdog
from runner.embedded.account import write_file
from runner.embedded.programs import run_program
from runner.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.embedded.account import Account

_START_SECONDS = 60
#: Another program may take a free port between the search for one and the server's start.
_PORT_ATTEMPTS = 5
_PORT_TAKEN = "Address already in use"
_LOG_LINES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Postmaster:
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
