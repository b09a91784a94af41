"""The identity of a run's server and database, and whether another session is on the same ones.

A connection string can lead to more than one server: it may list several hosts, `load_balance_hosts` may choose one, a
name may have several addresses, a proxy may switch, and a failover changes the primary. So every session of a run is
compared with the first one before it is used, and so is the server when a run is resumed. What is compared, and why, is
in docs/decisions/0020-identity.md.
"""

from __future__ import annotations

from runner.engine.events import Place
from runner.errors import ConnectionFailedError
from runner.structs import replace


class WrongServerError(ConnectionFailedError):
    """The connection leads, or may lead, to another server or database than the run's."""


def place_after(before: Place, found: Place, *, alive: bool = False, moved: bool = False) -> Place:
    """Return the location of the run's server as seen by a session at `found`. WrongServerError if it may differ.

    `alive`: the run has a working session there, so its server was not restarted. `moved`: the session was reached
    through another host or port than before.
    """
    problem = _problem(before, found, alive=alive, moved=moved)
    if problem:
        raise WrongServerError(f"the connection leads to another server than the run's: {problem}.")
    if (found.database, found.database_oid) != (before.database, before.database_oid):
        raise WrongServerError(
            f"the connection leads to the database {found.database} (oid {found.database_oid}), and the run is one of "
            f"{before.database} (oid {before.database_oid})."
        )
    known = (found.flushed or 0) >= (before.flushed or 0) or found.timeline != before.timeline
    return found if known else replace(found, flushed=before.flushed)


def on_another_server(recorded: Place | None, found: Place | None) -> str:
    """Return why a session is on another server than the recorded one; empty if it may be the same.

    Databases are not compared, because a run can be looked up from any of them.
    """
    if recorded is None or found is None or found.standby:
        return ""
    return _problem(recorded, found, alive=False, moved=False)


def _problem(before: Place, found: Place, *, alive: bool, moved: bool) -> str:
    """Return why a session is not on the run's server; empty if it may be the same."""
    identifiers = before.system_identifier, found.system_identifier
    if None not in identifiers and found.system_identifier != before.system_identifier:
        return f"its system identifier is {found.system_identifier}, and the run's is {before.system_identifier}"
    if found.started == before.started:
        return ""
    same_timeline = found.timeline == before.timeline
    problems = {
        "it is a standby": found.standby,
        "it was started since, and this role cannot see whether it is the same cluster (a superuser can allow it: "
        "GRANT EXECUTE ON FUNCTION pg_control_system() TO the role)": None in identifiers,
        "the run's server still serves the run, and this one was started at another time": alive,
        f"it is on timeline {found.timeline}, and the run's is on {before.timeline}": (
            (found.timeline or 0) < (before.timeline or 0)
        ),
        "it is a copy of the run's: it was not promoted, and it was up while the run's server was another one": (
            same_timeline and found.started < before.seen
        ),
        "it is a copy of the run's: it was not promoted, and it has another host or port": same_timeline and moved,
        "it is an older copy of the run's: it lacks WAL that the run's has written": (
            same_timeline and (found.flushed or 0) < (before.flushed or 0)
        ),
    }
    return next((words for words, true in problems.items() if true), "")
