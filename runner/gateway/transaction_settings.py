"""Settings that are local to one transaction: what a worker inherits (pg_background.md#timeouts-are-armed-at-launch),
and a query's limits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from runner.durations import to_milliseconds
from runner.engine.ports import LaunchRequest, Query

#: Seconds for which a worker waits for a lock on the ledger. The commit row's own text sets the step's again.
COMMIT_ROW_LOCK_TIMEOUT = 1.7
#: Seconds. Another session of the run may hold the lock for long, and the worker cannot go on meanwhile.
_DESCRIPTION_LOCK_TIMEOUT = 0.5


def with_lock_timeout(request: LaunchRequest, seconds: float) -> LaunchRequest:
    """Return the request with another lock_timeout, whatever its settings say."""
    settings = {name: value for name, value in request.settings.items() if name.lower() != "lock_timeout"}
    return replace(request, lock_timeout=seconds, settings=settings)


def lock_timeout(request: LaunchRequest, inherited: str) -> str:
    """Return the worker's lock_timeout; `inherited` is that of the session that launches it."""
    given = [value for name, value in request.settings.items() if name.lower() == "lock_timeout"]
    if request.lock_timeout is not None:
        given.insert(0, _milliseconds(request.lock_timeout))
    return given[-1] if given else inherited


def worker_settings(request: LaunchRequest, search_path: str) -> str:
    """Return the settings as a JSON object, in the order in which they are to be set.

    `search_path` is what the login role has, for a step without one of its own. The timeout is always there, because an
    earlier value would otherwise reach the worker. The role comes last: what it may not set has been set by then.
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
    """Return the settings of a worker that has no others and no role, as parameters of `launch_at_once`."""
    lock_timeout = "" if request.lock_timeout is None else _milliseconds(request.lock_timeout)
    path = search_path if request.search_path is None else request.search_path
    return request.application_name, _milliseconds(request.timeout), lock_timeout, path


def description_settings(request: LaunchRequest, search_path: str, own: Mapping[str, str]) -> str:
    """Return the settings in which the worker's statement is described, which must not wait for the worker's locks.

    `own` are those that the text itself has set before, as far as names depend on them.
    """
    settings = {**json.loads(worker_settings(request, search_path)), **own}
    role = settings.pop("role", None)
    settings["lock_timeout"] = _milliseconds(_DESCRIPTION_LOCK_TIMEOUT)
    return json.dumps(settings if role is None else {**settings, "role": role})


def query_settings(query: Query, search_path: str) -> str:
    """Return the settings of a query that only reads, as `worker_settings` does for a worker."""
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
