"""The slots of a cluster: never more than there are, no member starves, and a free slot wakes the one that waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.fleet.budget import ClusterBudget, Share


def test_a_free_slot_wakes_the_first_in_line_only() -> None:
    budget = ClusterBudget(1)
    first, second, third = budget.share(), budget.share(), budget.share()
    woken: list[str] = []
    second.on_turn(lambda: woken.append("second"))
    third.on_turn(lambda: woken.append("third"))
    first.use(1)
    for share in (second, third):
        assert share.left() == 0
        share.wait(waiting=True)
    first.use(0)
    assert woken == ["second"]
    assert (second.left(), third.left()) == (1, 0)
    second.use(1)
    second.wait(waiting=False)
    second.use(0)
    assert woken == ["second", "third"]


def test_a_member_whose_turn_it_is_and_that_needs_nothing_lets_the_next_one_have_it() -> None:
    budget = ClusterBudget(1)
    busy, first, second = budget.share(), budget.share(), budget.share()
    woken: list[str] = []
    second.on_turn(lambda: woken.append("second"))
    busy.use(1)
    first.wait(waiting=True)
    second.wait(waiting=True)
    busy.use(0)
    assert not woken
    first.wait(waiting=False)
    assert woken == ["second"]
    assert second.left() == 1


class Member:
    """A run that takes what it is allowed to, like the scheduler's allowance."""

    def __init__(self, budget: ClusterBudget, work: list[int]) -> None:
        self.share: Share = budget.share()
        self.work = work
        self.workers = 0
        self.woken = True
        self.share.on_turn(self.wake)

    def wake(self) -> None:
        self.woken = True

    def decide(self) -> None:
        self.share.use(self.workers)
        taken = min(self.share.left(), len(self.work))
        self.workers += taken
        del self.work[:taken]
        self.share.use(self.workers)
        self.share.wait(waiting=bool(self.work) and not self.share.left())
        self.woken = False


@given(
    slots=st.integers(1, 5),
    sizes=st.lists(st.integers(0, 8), min_size=1, max_size=6),
    data=st.data(),
)
def test_members_share_the_slots_and_all_of_them_finish(slots: int, sizes: list[int], data: st.DataObject) -> None:
    """Only members that are woken, or whose worker ends, decide: no member polls."""
    budget = ClusterBudget(slots)
    members = [Member(budget, [0] * size) for size in sizes]
    for _ in range(1_000):
        ready = [member for member in members if member.woken]
        if ready:
            data.draw(st.sampled_from(ready)).decide()
        else:
            working = [member for member in members if member.workers]
            if not working:
                break
            one = data.draw(st.sampled_from(working))
            one.workers -= 1
            one.decide()
        assert budget.used == sum(member.workers for member in members) <= slots
    assert all(not member.work and not member.workers for member in members)
