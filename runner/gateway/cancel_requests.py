"""Cancel requests through the server: `jobplan cancel` sends them with NOTIFY, and the runner listens.

Every role that can connect can NOTIFY, so a request is accepted only if its sender is still connected and may stop the
run's workers itself (docs/decisions/0011).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from runner.engine.ports import CancelRequest
from runner.structs import Struct, replace

#: The channel; NOTIFY reaches the listeners in the same database.
CHANNEL = "jobplan"
#: The limits of notifications of one sender that wait to be checked, and of senders: only a flood exceeds them, and the
#: excess is not read. The limit is for each sender, so that one role cannot displace the requests of another.
_MOST_OF_SENDER = 20
_MOST_SENDERS = 1000
#: The limit of characters in a request's key: the answer repeats it, and must fit into a notification of 8,000 bytes.
_MOST_IN_KEY = 200


def payload_of(request: CancelRequest) -> str:
    """Return a request as the payload of a notification, of at most 8,000 bytes."""
    return json.dumps({"run": request.run, "step": request.step, "by": request.by[:200], "key": request.key})


class CancelAnswer(Struct, frozen=True, kw_only=True):
    """The runner's answer: the number of unfinished steps that the request cancels; None: there is no such step."""

    run: str
    key: str
    steps: int | None

    def to_payload(self) -> str:
        """Return it as the payload of a notification."""
        return json.dumps({"run": self.run, "answer": self.key, "steps": self.steps})


def read_answer(payload: str, request: CancelRequest) -> CancelAnswer | None:
    """Return the answer to this request in a notification; None if it has another content."""
    fields = _fields(payload)
    if (fields.get("run"), fields.get("answer")) != (request.run, request.key):
        return None
    steps = fields.get("steps")
    return CancelAnswer(run=request.run, key=request.key, steps=steps if isinstance(steps, int) else None)


def read_request(payload: str) -> CancelRequest | None:
    """Return the request in a notification; None if it has another content."""
    run, step, by, key = map(_fields(payload).get, ("run", "step", "by", "key"))
    if not (isinstance(run, str) and isinstance(by, str) and isinstance(key, str)) or len(key) > _MOST_IN_KEY:
        return None
    return CancelRequest(run=run, step=step if isinstance(step, str) else None, by=_printable(by), key=key)


def _fields(payload: str) -> Mapping[str, Any]:
    """Return what a notification has as a JSON object; empty if it is none."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:200])


class ReceivedRequests:
    """The requests that one run has received."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._keys: set[str] = set()
        #: The requests that were not checked yet, by the pid of the backend that sent them, and how many notifications
        #: with this run's id it has sent, which need not be requests.
        self._to_check: dict[int, list[CancelRequest]] = {}
        self._sent: Counter[int] = Counter()
        self._accepted: list[CancelRequest] = []
        self._not_taken: list[CancelRequest] = []

    def receive(self, channel: str, payload: str, sender: int) -> bool:
        """Add a notification of the backend `sender`; return whether there is a request to check."""
        if channel != CHANNEL or self._run_id not in payload or self._is_beyond_limits(sender):
            return False
        self._sent[sender] += 1
        request = read_request(payload)
        if request is None or request.run != self._run_id or request.key in self._keys:
            return False
        self._to_check.setdefault(sender, []).append(request)
        return True

    def _is_beyond_limits(self, sender: int) -> bool:
        return self._sent[sender] >= _MOST_OF_SENDER or (sender not in self._sent and len(self._sent) >= _MOST_SENDERS)

    @property
    def senders_to_check(self) -> tuple[int, ...]:
        """The pids of the backends that sent requests that were not checked yet."""
        return tuple(self._to_check)

    def judge(self, sender: int, role: str | None) -> None:
        """Accept the sender's requests with this role, or drop them if no role was found that may stop the workers."""
        for request in self._to_check.pop(sender, ()):
            if role is not None and request.key not in self._keys:
                self._accept(request, role)

    def end_check(self) -> None:
        """Note that the senders were judged: each may send again as much as the limits allow."""
        self._sent = Counter({sender: len(requests) for sender, requests in self._to_check.items()})

    def _accept(self, request: CancelRequest, role: str) -> None:
        self._keys.add(request.key)
        named = replace(request, by=f"{request.by} (role {role})")
        self._accepted.append(named)
        self._not_taken.append(named)

    def take(self, *, of_run: bool) -> CancelRequest | None:
        """Return the first request to cancel the run, or else one step of it, once."""
        found = next((request for request in self._not_taken if (request.step is None) is of_run), None)
        if found is not None:
            self._not_taken.remove(found)
        return found

    def requester_of(self, step: str) -> str | None:
        """Return the requester of the last request that concerns this step's workers: for the step, or for the run."""
        return next((one.by for one in reversed(self._accepted) if _concerns(one, step)), None)


def _concerns(request: CancelRequest, step: str) -> bool:
    return request.step is None or step == request.step or step.startswith(f"{request.step}[")
