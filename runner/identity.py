"""Names and labels of runs and workers, as users see them on the server.

A worker is its pid, backend_start and database on one server (docs/decisions/0020). Its application_name and its label
are claims: they are displayed, and they find a worker whose pid is not known yet, but they are no evidence, because a
step can change its own name and any role can use one. A worker inherits its launcher's application_name
(pg_background.md#handles-are-session-local).
PostgreSQL cuts names at 63 bytes and replaces what is not printable ASCII, so a long step id, or one with an
item in another script, is cut and replaced here, with a hash. The label, a comment before the worker's SQL, has the
whole id; pg_stat_activity shows it (docs/decisions/0009).
"""

from __future__ import annotations

import getpass
import hashlib
import json
import math
import os
import re
import secrets
import socket
from typing import Any

from runner.clock import rfc3339
from runner.structs import Struct

PREFIX = "jobplan"
_MAX_BYTES = 63
_ALPHABET = "abcdefghjkmnpqrstvwxyz23456789"
#: Hexadecimal digits of the hash in a name or id that was cut: 64 bits. Earlier versions wrote fewer.
_HASH_LENGTH = 16
_EARLIER_HASH_LENGTHS = (6,)
#: The step id that would give a worker the name of the runner's own sessions.
_RUNNER = "runner"
_NOT_PRINTABLE_ASCII = re.compile(r"[^ -~]")
#: Bytes of a step's id in a comment; the whole comment then stays well within the smallest usual
#: track_activity_query_size, which is 1024.
_MAX_STEP_BYTES = 500
#: Bytes of the escape for a character beyond the Basic Multilingual Plane.
_MOST_ESCAPED = 12
_JSON = json.JSONEncoder(separators=(",", ":"))
_COMMENT = re.compile(r"/\* jobplan (\{[^*]*\}) \*/ ?")


def new_run_id(now: float) -> str:
    """Return an id such as `260131-k7f3qz`: the UTC day of `now` (seconds since the epoch), and six random letters."""
    day = rfc3339(now)[2:10].replace("-", "")
    return day + "-" + "".join(secrets.choice(_ALPHABET) for _ in range(6))


#: The longest id of a run: an application_name still has room for it, a character of the step, and a hash.
MAX_RUN_ID = 36
_RUN_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_RUN_ID - 1}}}")
#: Commands read this name as the run that was started last.
_RESERVED = "last"


def run_id_problem(run_id: str) -> str | None:
    """Return why a text cannot be the id of a run; None if it can.

    An id is a part of application names and labels, and the name of the folder of the run's journal.
    """
    if run_id == _RESERVED:
        return f"{_RESERVED!r} means the run that was started last"
    if _RUN_ID.fullmatch(run_id):
        return None
    return (
        f"an id has 1 to {MAX_RUN_ID} characters, which are ASCII letters, digits, '.', '_' and '-', and begins with a "
        "letter or a digit"
    )


def inner_key(owner: str, step_id: str) -> str:
    """Return the key of a step of a chain; `owner` is the key of the item, or of a group without items."""
    return f"{owner}.{step_id}"


def written_key(key: str) -> str:
    """Return the id of a step or instance in a plan as written out: `per_index.rebuild` of `per_index[a].rebuild`."""
    head, bracket, rest = key.partition("[")
    return head + rest.rpartition("]")[2] if bracket else key


def is_of_chain(key: str) -> bool:
    """Return whether the key is that of a step of a chain, of one item or without items."""
    return "." in key.rpartition("]")[2]


def is_of_plan(key: str) -> bool:
    """Return whether the key is that of a step of the plan: of no instance, and of no step of a chain."""
    return "[" not in key and not is_of_chain(key)


def runner_name(run_id: str) -> str:
    """Return the application_name of the runner's own sessions."""
    return f"{PREFIX}:{run_id}:{_RUNNER}"


def run_of(application_name: str) -> str:
    """Return the run id in the name of a worker or of a runner's session; or the name itself if it is not jobplan's."""
    prefix, _, rest = application_name.partition(":")
    return rest.partition(":")[0] if prefix == PREFIX else application_name


def step_of(application_name: str) -> str:
    """Return the step in the name of a worker, possibly cut; empty if jobplan did not make the name."""
    prefix, _, rest = application_name.partition(":")
    return rest.partition(":")[2] if prefix == PREFIX else ""


def worker_name(run_id: str, step: str) -> str:
    """Return the application_name of a step's worker: printable ASCII, 63 bytes at most, never that of the runner."""
    return _name(run_id, step, _HASH_LENGTH)


def has_name_of(application_name: str, run_id: str, step: str) -> bool:
    """Return whether a worker of this step has this application_name, in this or a previous version of jobplan."""
    plain = f"{PREFIX}:{run_id}:{step}"
    earlier = (_name(run_id, step, length) for length in _EARLIER_HASH_LENGTHS)
    return application_name in (worker_name(run_id, step), *earlier) or application_name == plain


def is_of_step(found: str, step: str) -> bool:
    """Return whether `found`, an id from a label, which may be cut, is that of this step."""
    return found == step or any(found == _cut(step, length) for length in (_HASH_LENGTH, *_EARLIER_HASH_LENGTHS))


def _name(run_id: str, step: str, hash_length: int) -> str:
    name = f"{PREFIX}:{run_id}:{step}"
    ascii_name = _NOT_PRINTABLE_ASCII.sub("?", name)
    if ascii_name == name and len(name) <= _MAX_BYTES and step != _RUNNER:
        return name
    return ascii_name[: _MAX_BYTES - hash_length - 1] + _digest(step, hash_length)


def _digest(step: str, length: int) -> str:
    return "~" + hashlib.sha256(step.encode()).hexdigest()[:length]


def this_user() -> str:
    """Return the operating system's user and the host as `user@host`. A user without a name is given as a number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class WorkerLabel(Struct, frozen=True, kw_only=True):
    """The description of a worker, for users who see only the server: `timeout` is seconds, None for no limit.

    `on_finish` is wait or detach, as in the plan; `in_finally`: the step is one of `finally`. `purpose` is that of a
    worker which does not execute the step's own SQL: `on_retry`, or `leftovers`.
    """

    run: str
    plan: str
    step: str
    attempt: int
    on_finish: str
    timeout: float | None
    in_finally: bool = False
    purpose: str = ""

    def to_comment(self) -> str:
        """Return the label as a SQL comment: ASCII, at most 1,000 bytes; no value in it can end the comment."""
        fields: dict[str, Any] = {
            "run": self.run,
            "plan": self.plan,
            "step": _cut(self.step, _HASH_LENGTH),
            "attempt": self.attempt,
            "on_finish": self.on_finish,
            "timeout": None if self.timeout is None else round(self.timeout, 3),
        }
        if self.in_finally:
            fields["finally"] = True
        if self.purpose:
            fields["purpose"] = self.purpose
        return f"/* jobplan {_escaped(fields)} */"

    @classmethod
    def from_query(cls, text: str) -> WorkerLabel | None:
        """Read the comment at the start of a worker's text; None if there is none, or if it is not complete.

        A step's id that was too long is returned cut, with its hash.
        """
        found = _COMMENT.match(text)
        try:
            fields = json.loads(found.group(1)) if found else None
            return cls._from_fields(fields) if isinstance(fields, dict) else None
        except (ValueError, OverflowError, RecursionError):
            return None

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> WorkerLabel | None:
        texts: dict[str, Any] = {name: fields.get(name) for name in ("run", "plan", "step", "on_finish")}
        attempt, timeout = fields.get("attempt"), fields.get("timeout")
        if not all(isinstance(value, str) for value in texts.values()) or type(attempt) is not int:
            return None
        if timeout is not None and type(timeout) not in (int, float):
            return None
        seconds = None if timeout is None else float(timeout)
        if seconds is not None and not math.isfinite(seconds):
            return None
        purpose = fields.get("purpose", "")
        return cls(
            **texts,
            attempt=attempt,
            timeout=seconds,
            in_finally=fields.get("finally") is True,
            purpose=purpose if isinstance(purpose, str) else "",
        )


def without_comment(text: str) -> str:
    """Return a worker's text without the comment before it, as it is in the plan."""
    found = _COMMENT.match(text)
    return text[found.end() :] if found else text


def _escaped(value: object) -> str:
    """Return JSON that neither begins nor ends a comment: PostgreSQL's comments nest."""
    return _JSON.encode(value).replace("*", "\\u002a").replace("/", "\\u002f")


def _cut(step: str, hash_length: int) -> str:
    """Cut a long id, as `worker_name` does."""
    if len(step) <= _MAX_STEP_BYTES // _MOST_ESCAPED - 1 or len(_escaped(step)) <= _MAX_STEP_BYTES:
        return step
    room = _MAX_STEP_BYTES - hash_length - 3
    kept = ""
    for character in step:
        room -= len(_escaped(character)) - 2
        if room < 0:
            break
        kept += character
    return kept + _digest(step, hash_length)


class Claim(Struct, frozen=True, kw_only=True):
    """The identity that a worker's text claims; `step` and `attempt` are None if the text is cut before them.

    `purpose` is that of the label: a worker with one does not execute the step's own SQL.
    """

    run: str
    step: str | None = None
    attempt: int | None = None
    purpose: str = ""

    @classmethod
    def from_query(cls, text: str) -> Claim | None:
        """Read a label, which track_activity_query_size may have cut; None if the text does not begin with one."""
        label = WorkerLabel.from_query(text)
        if label is not None:
            return cls(run=label.run, step=label.step, attempt=label.attempt, purpose=label.purpose)
        found = _CUT_COMMENT.match(text)
        if found is None or text.find("*/", found.end()) >= 0:
            return None
        run, step = found.groups()
        return cls(run=str(json.loads(run)), step=None if step is None else str(json.loads(step)))


_STRING = r'"(?:[^"\\]|\\(?:["\\bfnrt/]|u[0-9a-fA-F]{4}))*"'
_CUT_COMMENT = re.compile(
    rf'/\* jobplan \{{"run":({_STRING})(?:,"plan":{_STRING})?(?:,"step":({_STRING}))?',
)
