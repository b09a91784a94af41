"""A TCP tunnel in front of a server that can stop delivering while it acknowledges every packet."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import partial

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Tunnel:
    """Forwards connections to a server. While it is stalled, it reads and delivers nothing."""

    def __init__(self, target: str) -> None:
        self._dsn = target
        parts = conninfo_to_dict(target)
        self._host, self._port = str(parts.get("host", "")), int(str(parts.get("port", 5432)))
        self._delivers = threading.Event()
        self._delivers.set()
        self._closed = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)

    def close(self) -> None:
        """End every connection."""
        self._closed = True
        self._delivers.set()
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()

    @property
    def dsn(self) -> str:
        """The connection through the tunnel."""
        port = str(self._listener.getsockname()[1])
        return make_conninfo(self._dsn, host="127.0.0.1", port=port, connect_timeout="2")

    def switch(self, target: str) -> None:
        """Let the same address lead to another server, and end the connections that there are."""
        parts = conninfo_to_dict(target)
        self._host, self._port = str(parts["host"]), int(str(parts["port"]))
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Deliver nothing from now on; connections stay, and new ones are accepted."""
        self._delivers.clear()

    def resume(self) -> None:
        """Deliver everything that was held back."""
        self._delivers.set()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = self._connect()
            except OSError:  # the server is down: the client sees its connection end
                client.close()
                continue
            self._sockets += [client, server]
            self._start(partial(self._forward, client, server))
            self._start(partial(self._forward, server, client))

    def _connect(self) -> socket.socket:
        if not self._host.startswith("/"):
            return socket.create_connection((self._host, self._port))
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(f"{self._host}/.s.PGSQL.{self._port}")
        except OSError:
            server.close()
            raise
        return server

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        """Forward what arrives; the end of a connection is held back as well while the tunnel is stalled."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._delivers.wait()
                if self._closed:
                    return
                target.sendall(data)
        self._delivers.wait()
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
