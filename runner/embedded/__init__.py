"""A real PostgreSQL with pg_background in seconds, for trying and testing: nothing to set up, no root, no trace.

Production brings its own server.
"""

from __future__ import annotations

from runner.embedded.server import EmbeddedServer, start_server

__all__ = ["EmbeddedServer", "start_server"]
