"""A throwaway PostgreSQL with pg_background, for trials and tests: no setup, no root, nothing left behind.

It is not meant for production.
"""

from __future__ import annotations

from runner.embedded.server import EmbeddedServer, start_server

__all__ = ["EmbeddedServer", "start_server"]
