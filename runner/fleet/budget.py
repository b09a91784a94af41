"""The slots of a cluster, shared by the members that run on it: how many workers each has, and which one is next.

A member that waits is woken when a slot is free and it is first in line; no member polls. A member that has
got a worker and wants another one goes to the end of the line, so that a long plan does not keep the others waiting.
"""

from __future__ import annotations

from collections.abc import Callable


class ClusterBudget:
    """The slots of one cluster."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._used: dict[Share, int] = {}
        #: The members that wait, the longest waiting first.
        self._line: dict[Share, None] = {}

    @property
    def used(self) -> int:
        """The number of workers that all members have now."""
        return sum(self._used.values())

    def share(self) -> Share:
        """Return the part of one member, which has no worker yet."""
        return Share(self)

    def left(self, member: Share) -> int:
        """Return how many workers a member may request now: the free slots without one for each that waits longer."""
        ahead = 0
        for other in self._line:
            if other is member:
                break
            ahead += 1
        return max(0, self.slots - self.used - ahead)

    def use(self, member: Share, workers: int) -> None:
        """Note the workers of a member. One that has got a worker goes to the end of the line."""
        before = self._used.get(member, 0)
        if workers:
            self._used[member] = workers
        else:
            self._used.pop(member, None)
        if workers > before and member in self._line:
            del self._line[member]
            self._line[member] = None
        if workers < before:
            self._wake(member)

    def wait(self, member: Share, *, waiting: bool) -> None:
        """Note whether a member waits for a worker. If it does not, the next one in line may have its turn."""
        if waiting:
            self._line.setdefault(member)
        elif member in self._line:
            del self._line[member]
            self._wake(member)

    def _wake(self, but: Share) -> None:
        """Wake the first in line, one for each free slot."""
        free = max(0, self.slots - self.used)
        for member in list(self._line)[:free]:
            if member is not but:
                member.wake()


class Share:
    """The slots of one member: what a run needs to know of them (`engine.ports.SharedSlots`)."""

    def __init__(self, budget: ClusterBudget) -> None:
        self._budget = budget
        self.wake: Callable[[], None] = _nothing

    def left(self) -> int:
        """Return how many workers the run may request now besides those that it has."""
        return self._budget.left(self)

    def use(self, workers: int) -> None:
        """Note how many workers the run has."""
        self._budget.use(self, workers)

    def wait(self, *, waiting: bool) -> None:
        """Note whether a step of the run waits for one of these workers."""
        self._budget.wait(self, waiting=waiting)

    def on_turn(self, wake: Callable[[], None]) -> None:
        """Call `wake` when it is the turn of the run."""
        self.wake = wake


def _nothing() -> None:
    """Wake no run: it has not begun yet."""
