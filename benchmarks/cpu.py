"""Measure the CPU time of processes; the server's workers live for milliseconds, so the parent's total is read."""

from __future__ import annotations

import os
from pathlib import Path


def server_cpu(postmaster: int) -> float | None:
    """Return the seconds of CPU of the server's processes, ended ones included; None where there is no /proc."""
    own = _times(postmaster)
    if own is None:
        return None
    processes = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    living = (times[1:3] for pid in processes if (times := _times(pid)) is not None and times[0] == postmaster)
    return (sum(own[1:]) + sum(map(sum, living))) / os.sysconf("SC_CLK_TCK")


def own_cpu(pid: int) -> float | None:
    """Return the seconds of CPU that a process has used, without its children; None where there is no /proc."""
    times = _times(pid)
    return None if times is None else sum(times[1:3]) / os.sysconf("SC_CLK_TCK")


def _times(pid: int) -> tuple[int, ...] | None:
    """Return a process's parent, and ticks of CPU: its own in user and system mode, its ended children's in both."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = line[line.rindex(")") + 2 :].split()
    return int(fields[1]), *map(int, fields[11:15])
