"""A small disk for journals, which a trial can fill: a tmpfs where this may be mounted, else a limit on file sizes."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_SIZE = 4 * 2**20


class SmallDisk:
    """A folder for journals. `real`: it is a file system of its own, and full means full (ENOSPC).

    Otherwise the process is forbidden to write files (RLIMIT_FSIZE, EFBIG), which needs no privilege, and hits its
    other files too.
    """

    def __init__(self, folder: Path, *, real: bool) -> None:
        self.folder = folder
        self.real = real
        self._filler = folder / "filler"
        self._limits: tuple[int, int] | None = None
        self._pid = 0

    def fill(self, pid: int) -> bool:
        """Leave no room for the process; False if it has ended."""
        if self.real:
            with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
                for size in (65536, 4096, 512, 1):
                    with contextlib.suppress(OSError):
                        while file.write(b"\0" * size):
                            pass
            return True
        try:
            self._limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, self._limits[1]))
        except ProcessLookupError:
            return False
        self._pid = pid
        return True

    def free(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)
        if self._limits is not None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._limits)
            self._limits = None

    def clear(self) -> None:
        """Remove what a trial has left."""
        self.free()
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Make a small disk in a new folder, and remove it at the end."""
    if folder.exists():  # of a campaign that was killed
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    real = os.geteuid() == 0 and _mounted(folder)
    try:
        yield SmallDisk(folder, real=real)
    finally:
        if real:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _mounted(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0700", "jobplan-chaos", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
