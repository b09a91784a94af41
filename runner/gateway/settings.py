"""What a worker inherits: the settings that are made local to the launching transaction (extension note 6)."""

from __future__ import annotations

import json

from runner.durations import to_milliseconds
from runner.gateway.base import LaunchRequest


def worker_settings(request: LaunchRequest) -> str:
    """Return the settings as a JSON object, in the order in which they are to be set.

    The role comes last: what it may not set has been set by then. Both timeouts are always there, because a role's or a
    database's own value would otherwise reach the worker.
    """
    settings = {"application_name": request.application_name}
    settings["pg_background.worker_timeout"] = _milliseconds(request.timeout)
    if request.lock_timeout is not None:
        settings["lock_timeout"] = _milliseconds(request.lock_timeout)
    if request.search_path is not None:
        settings["search_path"] = request.search_path
    settings.update(request.settings)
    if request.role is not None:
        settings["role"] = request.role
    return json.dumps(settings)


def _milliseconds(seconds: float | None) -> str:
    return "0" if seconds is None else str(to_milliseconds(seconds))
