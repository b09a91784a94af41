"""libpq connection strings, as far as jobplan has to look into one."""

from __future__ import annotations

from psycopg.conninfo import conninfo_to_dict, make_conninfo


def without_password(conninfo: str) -> str:
    """Return the connection string without its password, in keyword form; empty if nothing else is in it."""
    parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value and name != "password"}
    return make_conninfo(**parts) if parts else ""
