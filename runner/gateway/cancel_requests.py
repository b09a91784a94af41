"""What somebody asks of a run through the server: `jobplan cancel` says it with NOTIFY, the runner listens.

Whoever can connect can NOTIFY, so a request counts only if its sender is still there and may stop the run's workers
anyway (docs/decisions/0011).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from runner.engine.ports import RunCancel, StepCancel

#: The channel; NOTIFY reaches who listens in the same database.
CHANNEL = "jobplan"
#: Requests that are kept until somebody looks whether they count. Nobody in good faith sends more.
_MOST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequest:
    """Stop the run, or one step of it. `key` is new for each request, so that it may be said twice."""

    run: str
    step: str | None
    by: str
    key: str

    def to_payload(self) -> str:
        """Return it as a notification carries it, which is 8,000 bytes at most."""
        return json.dumps({"run": self.run, "step": self.step, "by": self.by[:200], "key": self.key})


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAnswer:
    """What the runner says to a request: how many steps that are not over it concerns; None: there is no such step."""

    run: str
    key: str
    steps: int | None

    def to_payload(self) -> str:
        """Return it as a notification carries it."""
        return json.dumps({"run": self.run, "answer": self.key, "steps": self.steps})


def read_answer(payload: str, request: CancelRequest) -> CancelAnswer | None:
    """Return what a notification answers to this request; None if it is something else."""
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or (fields.get("run"), fields.get("answer")) != (request.run, request.key):
        return None
    steps = fields.get("steps")
    return CancelAnswer(run=request.run, key=request.key, steps=steps if isinstance(steps, int) else None)


def read_request(payload: str) -> CancelRequest | None:
    """Return what a notification asks for; None if it is none of ours."""
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    run, step, by, key = (fields.get(name) for name in ("run", "step", "by", "key"))
    if not (isinstance(run, str) and isinstance(by, str) and isinstance(key, str)):
        return None
    return CancelRequest(run=run, step=_text_or_none(step), by=_printable(by), key=key)


def _text_or_none(value: Any) -> str | None:  # noqa: ANN401 - whatever JSON holds
    return value if isinstance(value, str) else None


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:200])


class HeardRequests:
    """The requests that one run has heard."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._keys: set[str] = set()
        self._to_check: list[tuple[CancelRequest, int]] = []
        self._accepted: list[CancelRequest] = []
        self._not_taken: list[CancelRequest] = []
        self._steps_not_taken: list[CancelRequest] = []

    def hear(self, channel: str, payload: str, sender: int) -> bool:
        """Take a notification of the backend `sender`; say whether there is something to check now."""
        request = read_request(payload) if channel == CHANNEL else None
        if request is None or request.run != self._run_id or request.key in self._keys:
            return False
        if len(self._to_check) < _MOST:
            self._to_check.append((request, sender))
        return True

    @property
    def to_check(self) -> tuple[tuple[CancelRequest, int], ...]:
        """What was heard and not yet judged, and which backend said it."""
        return tuple(self._to_check)

    def judge(self, request: CancelRequest, sender: int, role: str | None) -> None:
        """Accept a request of this role, or forget it if there is no role that may stop the run's workers."""
        if (request, sender) in self._to_check:
            self._to_check.remove((request, sender))
        if role is None or request.key in self._keys:
            return
        self._keys.add(request.key)
        named = CancelRequest(run=request.run, step=request.step, by=f"{request.by} (role {role})", key=request.key)
        self._accepted.append(named)
        if named.step is None:
            self._not_taken.append(named)
        else:
            self._steps_not_taken.append(named)

    def take_step_cancel(self) -> StepCancel | None:
        """Return who wants which step stopped, the first one first, each once."""
        if not self._steps_not_taken:
            return None
        request = self._steps_not_taken.pop(0)
        return StepCancel(step=request.step or "", by=request.by, key=request.key)

    def take_cancel(self) -> RunCancel | None:
        """Return who wants the run stopped, the first one first, each once."""
        if not self._not_taken:
            return None
        request = self._not_taken.pop(0)
        return RunCancel(by=request.by, key=request.key)

    def by_whom(self, step: str) -> str | None:
        """Return the requester of the last request that concerns this step's workers: for the step, or for the run."""
        return next((one.by for one in reversed(self._accepted) if _concerns(one, step)), None)


def _concerns(request: CancelRequest, step: str) -> bool:
    return request.step is None or step == request.step or step.startswith(f"{request.step}[")
