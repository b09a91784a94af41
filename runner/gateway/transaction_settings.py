"""Settings that are local to one transaction: those that a worker inherits, and the limits of a query.

See docs/pg_background.md#timeouts-are-armed-at-launch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from runner.durations import to_milliseconds
from runner.engine.ports import LaunchRequest, Query
from runner.structs import replace

#: Seconds that a worker waits for a lock on the ledger. The text of the commit row restores the step's lock_timeout.
COMMIT_ROW_LOCK_TIMEOUT = 1.7
#: Seconds. Another session of the run may hold the lock for long, and the launch cannot continue meanwhile.
_DESCRIPTION_LOCK_TIMEOUT = 0.5


def with_lock_timeout(request: LaunchRequest, seconds: float) -> LaunchRequest:
    """Return the request with another lock_timeout, instead of the one in its settings."""
    settings = {name: value for name, value in request.settings.items() if name.lower() != "lock_timeout"}
    return replace(request, lock_timeout=seconds, settings=settings)


def lock_timeout(request: LaunchRequest, inherited: str) -> str:
    """Return the worker's lock_timeout; `inherited` is that of its launcher session."""
    given = [value for name, value in request.settings.items() if name.lower() == "lock_timeout"]
    if request.lock_timeout is not None:
        given.insert(0, _milliseconds(request.lock_timeout))
    return given[-1] if given else inherited


def worker_settings(request: LaunchRequest, search_path: str) -> str:
    """Return the settings as a JSON object, in the order in which they are to be set.

    `search_path` is that of the login role, for a step without its own. The timeout is always included, because a
    previous value would reach the worker otherwise. The role comes last: it may lack the privilege for the other
    settings.
    """
    settings = {"application_name": request.application_name}
    settings["pg_background.worker_timeout"] = _milliseconds(request.timeout)
    if request.lock_timeout is not None:
        settings["lock_timeout"] = _milliseconds(request.lock_timeout)
    settings["search_path"] = search_path if request.search_path is None else request.search_path
    settings.update(request.settings)
    if request.role is not None:
        settings["role"] = request.role
    return json.dumps(settings)


def plain_settings(request: LaunchRequest, search_path: str) -> tuple[str, str, str, str]:
    """Return the settings of a worker without a role and other settings, as parameters of `launch_at_once`."""
    lock_timeout = "" if request.lock_timeout is None else _milliseconds(request.lock_timeout)
    path = search_path if request.search_path is None else request.search_path
    return request.application_name, _milliseconds(request.timeout), lock_timeout, path


def description_settings(request: LaunchRequest, search_path: str, own: Mapping[str, str]) -> str:
    """Return the settings for the description of the worker's statement, which must not wait for the worker's locks.

    `own` are the settings in the text itself on which names depend.
    """
    settings = {**json.loads(worker_settings(request, search_path)), **own}
    role = settings.pop("role", None)
    settings["lock_timeout"] = _milliseconds(_DESCRIPTION_LOCK_TIMEOUT)
    return json.dumps(settings if role is None else {**settings, "role": role})


def query_settings(query: Query, search_path: str) -> str:
    """Return the settings of a read-only query, like `worker_settings` for a worker."""
    settings = {
        "statement_timeout": _milliseconds(query.timeout),
        "lock_timeout": _milliseconds(query.lock_timeout),
        "search_path": search_path if query.search_path is None else query.search_path,
        "transaction_read_only": "on",
    }
    if query.role is not None:
        settings["role"] = query.role
    return json.dumps(settings)


def _milliseconds(seconds: float | None) -> str:
    return "0" if seconds is None else str(to_milliseconds(seconds))
