"""What a server must be for plans to run there, and the sentence for each thing that keeps them from running.

Read from what its own queries have said: whoever opens sessions (`pg.py`) asks, and here is judged.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.errors import PreflightError
from runner.gateway.base import ServerInfo
from runner.gateway.replies import Reply, Row, first_error
from runner.sql.params import quote_identifier

_OLDEST_SERVER = 140_000
ON_STANDBY = "the server is a standby, and pg_background can start no worker on one."


def raise_refusal(replies: Sequence[Reply], kind: type[PreflightError]) -> None:
    """Raise an error of `kind` if the server has refused one of our statements."""
    error = first_error(replies)
    if error is not None:
        raise kind(f"the server refuses to be used by jobplan: {error.message}")


def refuse_standby(info: ServerInfo) -> None:
    """PreflightError if the server is a standby."""
    if info.standby:
        raise PreflightError(
            ON_STANDBY,
            hint="Connect to the primary (target_session_attrs=primary in --dsn).",
        )


def describe_server(row: Row, standby: Reply) -> ServerInfo:
    """Read the replies to `server` and `standby`, without a judgement."""
    version, number, extension, schema, database, user, workers, _, _ = row
    return ServerInfo(
        version=version or "",
        version_number=int(number or 0),
        extension_version=extension or "",
        extension_schema=schema or "",
        database=database or "",
        user=user or "",
        max_worker_processes=int(workers or 0),
        standby=bool(standby.rows) and standby.rows[0][0] == "t",
    )


def check_server(row: Row) -> None:
    """Read the `server` query's row. PreflightError, with what to do, if plans cannot run there."""
    version, number, extension, schema, database, user, _, allowed, available = row
    if int(number or 0) < _OLDEST_SERVER:
        raise PreflightError(f"PostgreSQL {version} is too old: jobplan needs 14 or later.")
    if extension is None or schema is None:
        hint = (
            f"A superuser can create it: CREATE EXTENSION pg_background; in database {database}."
            if available == "t"
            else "Install pg_background on the server's machine (Debian has a package for PostgreSQL 18; for other "
            "versions build it from source), then CREATE EXTENSION pg_background."
        )
        raise PreflightError(f'the extension pg_background is not in database "{database}".', hint=hint)
    if int(extension.partition(".")[0]) < 2:
        raise PreflightError(
            f"pg_background {extension} is too old: jobplan needs 2.0 or later.",
            hint="Install a newer package, then ALTER EXTENSION pg_background UPDATE.",
        )
    if allowed != "t":
        raise PreflightError(
            f'the role "{user}" may not use pg_background.',
            hint=f"GRANT pgbackground_role TO {quote_identifier(user or '')};",
        )
