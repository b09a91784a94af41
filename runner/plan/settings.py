"""The settings of a step: their names, those that a step cannot set, and parameters in their values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from runner.plan.fields import Fields
from runner.plan.nodes import Scalar, sql_of
from runner.plan.scope import Scope, check_names
from runner.sql.session import Place, place_of_setting

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*")

_TIMEOUT = "use `timeout`"
_DEFAULT = "use `default_{}`, which applies to the worker's transaction"
_SESSION = "it would act on jobplan's own session, not on the worker"

#: Settings that a step cannot have, in lower case, and what to do instead. Each would break another key of the step, or
#: the session that launches and observes the worker.
FORBIDDEN: Final = {
    "application_name": "jobplan sets it, to identify the worker",
    "client_encoding": "jobplan's sessions are UTF8",
    "idle_in_transaction_session_timeout": _SESSION,
    "idle_session_timeout": _SESSION,
    "lock_timeout": "use `lock_timeout`, a key of the step",
    "role": "use `role`, a key of the step",
    "search_path": "use `search_path`, a key of the step",
    "session_authorization": "use `role`, a key of the step",
    "standard_conforming_strings": "the quoting of parameters depends on it",
    "statement_timeout": _TIMEOUT,
    "transaction_deferrable": _DEFAULT.format("transaction_deferrable"),
    "transaction_isolation": _DEFAULT.format("transaction_isolation"),
    "transaction_read_only": _DEFAULT.format("transaction_read_only"),
    "transaction_timeout": f"{_TIMEOUT}: a worker that it stops looks as if it had succeeded",
}
_OURS = "pg_background."


def read_settings(fields: Fields) -> dict[str, str]:
    """Return a step's settings; the values as SET takes them."""
    settings = fields.mapping("settings")
    if settings is None:
        return {}
    found: dict[str, str] = {}
    seen: dict[str, str] = {}
    for name, node in settings.pairs():
        lower = name.lower()
        hint = "jobplan sets these itself" if lower.startswith(_OURS) else FORBIDDEN.get(lower)
        if hint is not None:
            fields.add(settings.key(name), "JP212", f"`{name}` cannot be set by a step", hint=hint)
        elif not _NAME.fullmatch(name):
            fields.add(
                settings.key(name),
                "JP213",
                f"`{name}` is not the name of a setting",
                hint="like work_mem, or myapp.tenant",
            )
        elif lower in seen:
            fields.add(settings.key(name), "JP214", f"`{name}` and `{seen[lower]}` are the same setting")
        elif isinstance(node, Scalar):
            seen[lower] = name
            found[name] = ("on" if node.value else "off") if isinstance(node.value, bool) else node.text
    return found


def check_parameters(fields: Fields, scope: Scope) -> None:
    """Report every parameter that is not allowed in `role`, `search_path`, `settings` or `touches`."""
    for node, place in _texts(fields):
        if ":" in node.text:
            check_names(sql_of(node), place, scope, fields.report, step=fields.step)


def _texts(fields: Fields) -> Iterator[tuple[Scalar, Place]]:
    for key, place in (("role", Place.ROLE), ("search_path", Place.SEARCH_PATH)):
        node = fields.scalar(key)
        if node is not None:
            yield node, place
    settings = fields.mapping("settings") if fields.has("settings") else None
    for name, value in settings.pairs() if settings is not None else ():
        if isinstance(value, Scalar):
            yield value, place_of_setting(name)
    for item in fields.items("touches"):
        if isinstance(item, Scalar):
            yield item, Place.TOUCHES
