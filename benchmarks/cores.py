"""Who may use which core: what a runner costs a server that it shares no core with, as on a machine of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def apart(postmaster: int) -> Iterator[bool]:
    """Give this process the last core and the server the others; say False, and do nothing, where that cannot be.

    New processes of the server inherit the CPUs of their parent. At the end all processes may use all CPUs again.
    """
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    if len(ours) < 2:
        yield False
        return
    last = {max(ours)}
    try:
        _give(0, last)
        _give_server(postmaster, ours - last)
        yield True
    finally:
        _give(0, ours)
        _give_server(postmaster, ours)


def _give_server(postmaster: int, cores: set[int]) -> None:
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text(encoding="ascii").split()
    for pid in (postmaster, *map(int, children)):
        _give(pid, cores)


def _give(pid: int, cores: set[int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
        os.sched_setaffinity(pid, cores)
