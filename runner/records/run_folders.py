"""The folder of a run's journal, its files, and the lock of its writer.

One folder for each run, readable by its owner only, because it contains SQL and rows. The writer holds a lock on the
events; the operating system releases the lock of a killed runner.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from runner.errors import JournalHeldError, RecordError
from runner.project.places import RECORDS
from runner.records.journal_files import open_regular, read_regular

EVENTS = "events.jsonl"
PLAN = "plan.json"
DIGEST = "plan.sha256"
#: Changed plans of resumes; each name has the beginning of the plan's SHA-256.
LATER_PLANS = "plan-*.json"

_ELSEWHERE = "Pass --journal DIR or set JOBPLAN_JOURNAL to a writable folder."
_OTHER_FOLDER = (
    "Only the user who started its runs can read them; --journal DIR specifies another folder, and a ledger has its "
    "own record."
)
#: The default form of a run's id; other folders that cannot be read are no journals.
_RUN_ID = re.compile(r"\d{6}-[a-z0-9]{6}")
#: Seconds for which a lock is tried again: a process that only checks the lock holds it for a moment.
_PATIENCE = 0.5


def later_plan(sha256: str) -> str:
    """Return the file name of a plan that a run was resumed with."""
    return LATER_PLANS.replace("*", sha256[:16])


def make_root(root: Path) -> None:
    """Create the folder of all journals; `.jobplan` is kept out of git. RecordError if that fails."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        if root.absolute().parent.name == RECORDS:
            with contextlib.suppress(FileExistsError), (root.parent / ".gitignore").open("x", encoding="utf-8") as file:
                file.write("*\n")
    except OSError as error:
        raise refused(root, error) from error


def refused(path: Path, error: OSError) -> RecordError:
    """Return the error for a journal that cannot be created."""
    return RecordError(f"the journal {path} cannot be written: {error.strerror}.", hint=_ELSEWHERE)


def journals(root: Path) -> tuple[Path, ...]:
    """Return the folders of the runs in `root`, including those that cannot be read.

    RecordError, with a hint, if `root` itself cannot be read.
    """
    try:
        return tuple(folder for folder in sorted(root.iterdir()) if folder.name[:1] != "." and has_journal(folder))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise RecordError(f"the journals in {root} cannot be read: {error.strerror}.", hint=_OTHER_FOLDER) from error


def has_journal(folder: Path) -> bool:
    """Return whether the folder has a run's journal, even if it cannot be read."""
    try:
        (folder / EVENTS).stat()
    except PermissionError:
        return _RUN_ID.fullmatch(folder.name) is not None
    except OSError:
        return False
    return True


def lock(events: int, folder: Path) -> None:
    """Take the lock on a journal's events, an open file. RecordError, with the holder, if another runner has it."""
    end = time.monotonic() + _PATIENCE
    while not try_lock(events):
        if time.monotonic() >= end:
            raise JournalHeldError(
                f"run {folder.name} is being written by {_writer(folder)}.",
                run_id=folder.name,
                hint="A run has one runner at a time: wait until it ends, or stop it.",
            )
        time.sleep(_PATIENCE / 10)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a journal. RecordError, with the holder, if another runner has it; OSError if it is missing."""
    descriptor = open_regular(folder / EVENTS, os.O_RDWR)
    try:
        lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_root(root: Path) -> Iterator[None]:
    """Let one process at a time begin journals in `root`; without effect where a folder cannot be locked."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path, name: str = EVENTS) -> bool:
    """Return whether a runner is writing this journal now. OSError if that cannot be determined."""
    events = open_regular(folder / name)
    try:
        return not try_lock(events, fcntl.LOCK_SH)
    finally:
        os.close(events)


def try_lock(file: int, how: int = fcntl.LOCK_EX) -> bool:
    """Take a lock on an open file, and return whether that was possible at once."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _writer(folder: Path) -> str:
    """Return the last runner that began or resumed the run."""
    found = "another process"
    with contextlib.suppress(OSError, ValueError, RecordError):
        for line in read_regular(folder / EVENTS).splitlines():
            if b'"os_pid"' in line:
                data = json.loads(line)
                found = f"process {data['os_pid']} on {data['host']}"
    return found


def set_aside(root: Path, run_id: str) -> Path:
    """Rename the journal of a run so that it is not found any more, and return its new path.

    JournalHeldError if another process writes it; OSError if it cannot be renamed.
    """
    folder = root / run_id
    with locked(folder):
        free = (root / f".{run_id}.{number}" for number in itertools.count(1))
        target = next(path for path in free if not os.path.lexists(path))
        folder.rename(target)
    return target


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
