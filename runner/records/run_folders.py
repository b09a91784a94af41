"""Where a run's journal lies, what is in it, and who may write to it.

One folder for each run, readable by its owner only: SQL and rows may be nobody else's business. Whoever writes holds a
lock on the events as long as it lives; the operating system takes it back from a runner that was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from pathlib import Path

from runner.errors import RecordError
from runner.records.journal_files import open_regular, read_regular

#: Where journals are, from the folder that jobplan is called in.
DEFAULT_ROOT = Path(".jobplan") / "runs"
EVENTS = "events.jsonl"
PLAN = "plan.json"
DIGEST = "plan.sha256"
#: Plans that a run was gone on with after it had been changed; each name has the beginning of the plan's SHA-256.
LATER_PLANS = "plan-*.json"

_ELSEWHERE = "Say --journal DIR or set JOBPLAN_JOURNAL to a folder that can be written."
_WHO_MAY = (
    "Only the user who started its runs may; --journal DIR says where others are, and a ledger has its own record."
)
#: How a run is called unless somebody has named it; other folders that may not be looked into are none of ours.
_RUN_ID = re.compile(r"\d{6}-[a-z0-9]{6}")
#: Seconds for which a lock is tried again: who only looks whether it is held, holds it for a moment.
_PATIENCE = 0.5


def later_plan(sha256: str) -> str:
    """Return the name of the file for a plan that a run was gone on with."""
    return LATER_PLANS.replace("*", sha256[:16])


def make_root(root: Path) -> None:
    """Make the folder of all journals; `.jobplan` is kept out of git. RecordError if it cannot be."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        if root.absolute().parent.name == DEFAULT_ROOT.parent.name:
            with contextlib.suppress(FileExistsError), (root.parent / ".gitignore").open("x", encoding="utf-8") as file:
                file.write("*\n")
    except OSError as error:
        raise refused(root, error) from error


def refused(path: Path, error: OSError) -> RecordError:
    """Return the error for a journal that cannot be begun."""
    return RecordError(f"the journal {path} cannot be written: {error.strerror}.", hint=_ELSEWHERE)


def journals(root: Path) -> tuple[Path, ...]:
    """Return the folders of the runs in `root`, those that may not be looked into among them.

    RecordError, with what to do, if `root` itself may not.
    """
    try:
        return tuple(folder for folder in sorted(root.iterdir()) if folder.name[:1] != "." and has_journal(folder))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise RecordError(f"the journals in {root} cannot be read: {error.strerror}.", hint=_WHO_MAY) from error


def has_journal(folder: Path) -> bool:
    """Say whether a run's journal lies in this folder, whoever may read it."""
    try:
        (folder / EVENTS).stat()
    except PermissionError:
        return _RUN_ID.fullmatch(folder.name) is not None
    except OSError:
        return False
    return True


def lock(events: int, folder: Path) -> None:
    """Take the lock on a journal's events, an open file. RecordError, naming the holder, if another runner has it."""
    end = time.monotonic() + _PATIENCE
    while not _locked(events, fcntl.LOCK_EX):
        if time.monotonic() >= end:
            raise RecordError(
                f"run {folder.name} is being written by {_writer(folder)}.",
                hint="A run has one runner at a time: wait for its end, or stop it.",
            )
        time.sleep(_PATIENCE / 10)


def is_locked(folder: Path) -> bool:
    """Say whether a runner is writing this journal now. OSError if that cannot be found out."""
    events = open_regular(folder / EVENTS)
    try:
        return not _locked(events, fcntl.LOCK_SH)
    finally:
        os.close(events)


def _locked(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _writer(folder: Path) -> str:
    """Say who wrote last that it begins or goes on with the run."""
    found = "another process"
    with contextlib.suppress(OSError, ValueError, RecordError):
        for line in read_regular(folder / EVENTS).splitlines():
            if b'"os_pid"' in line:
                data = json.loads(line)
                found = f"process {data['os_pid']} on {data['host']}"
    return found


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
