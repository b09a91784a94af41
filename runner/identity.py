"""Names that identify a run and its workers on the server.

A worker inherits its launcher's application_name, and that name, with pid and backend_start, is what finds it again
from any session (extension note 1). PostgreSQL cuts names at 63 bytes and replaces what is not printable ASCII, so a
step id that is long or holds an item in another script is cut and replaced here, with a hash.
"""

from __future__ import annotations

import hashlib
import re
import secrets

from runner.clock import rfc3339

PREFIX = "jobplan"
_MAX_BYTES = 63
_ALPHABET = "abcdefghjkmnpqrstvwxyz23456789"
_HASH_LENGTH = 6
_NOT_PRINTABLE_ASCII = re.compile(r"[^ -~]")


def new_run_id(now: float) -> str:
    """Return an id such as `260131-k7f3qz`: the UTC day of `now` (seconds since the epoch), and six random letters."""
    day = rfc3339(now)[2:10].replace("-", "")
    return day + "-" + "".join(secrets.choice(_ALPHABET) for _ in range(6))


def runner_name(run_id: str) -> str:
    """Return the application_name of the runner's own sessions."""
    return f"{PREFIX}:{run_id}:runner"


def run_of(application_name: str) -> str:
    """Return the run id in the name of a worker or of a runner's session; the name itself if it is none of ours."""
    prefix, _, rest = application_name.partition(":")
    return rest.partition(":")[0] if prefix == PREFIX else application_name


def worker_name(run_id: str, step: str) -> str:
    """Return the application_name of a step's worker: printable ASCII, 63 bytes at most."""
    name = f"{PREFIX}:{run_id}:{step}"
    ascii_name = _NOT_PRINTABLE_ASCII.sub("?", name)
    if ascii_name == name and len(name) <= _MAX_BYTES:
        return name
    digest = hashlib.sha256(step.encode()).hexdigest()[:_HASH_LENGTH]
    return ascii_name[: _MAX_BYTES - _HASH_LENGTH - 1] + "~" + digest
