"""The journal: a run's events on disk, each before the action that it announces.

Each line is written to the operating system at once, so that killing the runner loses nothing. Commands are made
durable before they are performed, so that even a crash of the machine cannot cause a step to be run twice by mistake. A
thread waits for the disk, and further lines are written meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shlex
import stat
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

from runner.engine import events as ev
from runner.engine.event_json import to_line
from runner.engine.state import RunState
from runner.errors import JournalExistsError, JournalLostError, RecordError
from runner.plan.model import Plan
from runner.plan.plan_json import resolved_json, sha256_of
from runner.records.journal_files import (
    HEAD,
    Head,
    check_head,
    intact_length,
    open_regular,
    read_head,
    read_regular,
    write_new,
)
from runner.records.run_folders import (
    DIGEST,
    EVENTS,
    PLAN,
    fsync_folder,
    later_plan,
    lock,
    locked,
    locked_root,
    make_root,
    refused,
)

#: Events that announce an action: it must not be performed before they are durable.
_ORDERS = (
    ev.AttemptPreparing,
    ev.AttemptLaunching,
    ev.UnfinishedNoted,
    ev.AttemptRemoving,
    ev.AttemptCancelRequested,
    ev.AttemptDetachRequested,
)
_sync = getattr(os, "fdatasync", os.fsync)


def _is_routine(event: ev.Event, state: RunState) -> bool:
    """Return whether the record can omit the event: the launch that follows shows that the conditions are met."""
    if not isinstance(event, ev.StepChecking | ev.StepChecked) or event.phase is not ev.CheckPhase.BEFORE:
        return False
    holds = isinstance(event, ev.StepChecking) or event.verdict is ev.Verdict.PROCEED
    record = state.records.get(event.step)  # a restored journal uses the initial state, without instances
    return holds and record is not None and record.iteration > 1


class EventFile(Protocol):
    """The methods of the file that a journal appends to."""

    def write(self, data: bytes | memoryview, /) -> int | None:
        """Append as many bytes as possible."""
        ...

    def truncate(self, size: int, /) -> int:
        """Truncate the file."""
        ...

    def fileno(self) -> int:
        """Return the descriptor."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Journal:
    """A sink that records every event; created by `create` or `reopen`. Close it in every case.

    The journal of a run that never began is removed.
    """

    def __init__(self, folder: Path, run_id: str, file: EventFile, *, size: int = 0, head: Head | None = None) -> None:
        self.folder = folder
        #: Whether the journal was lost: later events are missing in it.
        self.lost = False
        #: Whether it was lost because its file was removed or replaced, so that no reader finds its events.
        self.gone = False
        self._run_id = run_id
        self._file = file
        self._head = head
        self._size = size
        self._begun = size > 0
        #: The number of durable bytes; and, from the first command that is not durable, the start of each line and its
        #: text (None for a command).
        self._durable = size
        self._undurable: deque[tuple[int, bytes | None]] = deque()
        self._tick_due = False
        self._closed = False
        #: Whether the file is in the folder, so that it could be removed there.
        self._watched = False

    @classmethod
    def create(cls, root: Path, run_id: str, plan: Plan) -> Journal:
        """Begin the journal of a new run. RecordError, with a hint, if that fails.

        JournalExistsError if there is one already; what a process has left that was killed before its run began is
        replaced.
        """
        make_root(root)
        folder = root / run_id
        try:
            with locked_root(root):
                return cls._create(root, folder, plan)
        except OSError as error:
            raise refused(folder, error) from error

    @classmethod
    def _create(cls, root: Path, folder: Path, plan: Plan) -> Journal:
        """As `create`, while no other process begins a journal in `root`. OSError if it cannot be written."""
        if os.path.lexists(folder) and not _remove_unbegun(folder):
            raise JournalExistsError(
                f"there is a run {folder.name} in {root} already, and its journal is not overwritten.",
                hint=f"jobplan resume {shlex.quote(folder.name)} continues that journal; "
                "--journal NEW_FOLDER begins another one.",
            )
        folder.mkdir(mode=0o700)
        with contextlib.ExitStack() as opened:
            try:
                resolved = resolved_json(plan)
                write_new(folder / PLAN, resolved.encode())
                write_new(folder / DIGEST, f"{sha256_of(resolved)}  {PLAN}\n".encode())
                head = Head(folder, create=True)
                opened.callback(head.close)
                head.confirm(head.confirmation())
                head.make_durable()  # from now on, it is overwritten in place
                file = _open(folder, os.O_CREAT | os.O_EXCL)  # last, because a folder with events is a journal
                opened.callback(file.close)
                fsync_folder(folder)
                fsync_folder(root)
            except OSError:
                _remove(folder)
                raise
            opened.pop_all()
        journal = cls(folder, folder.name, file, head=head)
        journal._watched = True
        return journal

    @classmethod
    def reopen(cls, root: Path, run_id: str, plan: Plan) -> Journal:
        """Continue the journal of a run, with this plan; an incomplete last line is removed.

        RecordError if there is none, if another runner writes it, or if it cannot be written.
        """
        folder = root / run_id
        with contextlib.ExitStack() as opened:
            try:
                file = _open(folder, 0)
                opened.callback(file.close)
                data = read_regular(folder / EVENTS)  # missing if it was removed before the lock was taken
                size = intact_length(data)
                file.truncate(size)
                _keep_plan(folder, plan)
                head = Head(folder, data[:size]) if (folder / HEAD).exists() else None
            except FileNotFoundError as error:
                raise RecordError(f"there is no run {run_id} in {root}.", hint="jobplan runs lists them.") from error
            except OSError as error:
                raise refused(folder, error) from error
            opened.pop_all()
        journal = cls(folder, run_id, file, size=size, head=head)
        journal._watched = True
        return journal

    def handle(self, event: ev.Event, state: RunState) -> None:
        """Write one line. JournalLostError if it cannot be written completely.

        Conditions of a later iteration that are met are not written: a loop may have thousands.
        """
        if _is_routine(event, state):
            return
        line = to_line(event, self._run_id)
        try:
            _append(self._file, line)
        except OSError as error:
            raise self._lose(error) from error
        is_order = isinstance(event, _ORDERS)
        if is_order or self._undurable:
            self._undurable.append((self._size, None if is_order else line))
        self._size += len(line)
        if self._head is not None:
            self._head.add(line)
        self._begun = self._begun or isinstance(event, ev.RunStarted)

    def flush(self) -> Coroutine[Any, Any, None] | None:
        """Make commands durable, and after a tick everything. The result raises JournalLostError on failure.

        After a tick, a removal of the journal is noticed, too.
        """
        due = self._tick_due and (self._begun or self._durable < self._size)
        self._tick_due = False
        return self._flush() if self._undurable or due else None

    def tick(self, now: float, state: RunState) -> None:  # noqa: ARG002 - the protocol's parameters
        """Let the next flush make all lines durable, also without a command."""
        self._tick_due = True

    def close(self) -> None:
        """Make everything durable and release the lock. JournalLostError if the end cannot be recorded."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self.lost and self._durable < self._size:
                self._sync()
                self._confirm(self._size, self._confirmation())
        except OSError as error:
            raise self._lose(error) from error
        finally:
            if not self._begun:
                _remove(self.folder)
            with contextlib.suppress(OSError):
                self._file.close()
            if self._head is not None:
                with contextlib.suppress(OSError):
                    self._head.close()

    async def _flush(self) -> None:
        """Make the written lines durable; lines that are written meanwhile wait for the next flush."""
        size, confirmation = self._size, self._confirmation()
        try:
            await asyncio.to_thread(self._sync)
            if not self.lost:
                self._confirm(size, confirmation)
        except OSError as error:
            if not self.lost:
                raise self._lose(error) from error

    def _sync(self) -> None:
        """Make the file durable. It runs in a thread, and changes no state here."""
        self._check_place()
        if self._durable < self._size:
            _sync(self._file.fileno())

    def _check_place(self) -> None:
        """OSError if the open file is no longer the one in the folder: no reader would find its content."""
        if not self._watched:
            return
        own = os.fstat(self._file.fileno())
        try:
            there = (self.folder / EVENTS).lstat()
        except FileNotFoundError:
            raise OSError(errno.ENOENT, "it was removed or moved") from None
        if not os.path.samestat(own, there):
            raise OSError(errno.ESTALE, "it was replaced by another file")

    def _confirmation(self) -> bytes | None:
        return None if self._head is None else self._head.confirmation()

    def _confirm(self, size: int, confirmation: bytes | None) -> None:
        """Record that the first `size` bytes are durable."""
        if self._head is not None and confirmation is not None:
            self._head.confirm(confirmation)
        self._durable = size
        while self._undurable and (self._undurable[0][0] < size or self._undurable[0][1] is not None):
            self._undurable.popleft()

    def _lose(self, error: OSError) -> JournalLostError:
        """Remove an incomplete line, and commands that are now not performed, so that the journal stays true.

        Other lines after such a command are kept, if there is space for them.
        """
        self.lost = True
        self.gone = error.errno in {errno.ENOENT, errno.ESTALE}
        size = self._undurable[0][0] if self._undurable else self._size
        with contextlib.suppress(OSError):
            self._file.truncate(size)
            try:
                for line in (line for _, line in self._undurable if line is not None):
                    _append(self._file, line)
                    size += len(line)
            except OSError:
                self._file.truncate(size)
        return JournalLostError(f"the journal {self.folder} cannot be written any more: {error.strerror}")


def _open(folder: Path, flags: int) -> EventFile:
    """Open the events for appending, and take the lock on them."""
    descriptor = open_regular(folder / EVENTS, os.O_RDWR | os.O_APPEND | flags)
    try:
        lock(descriptor, folder)
        return os.fdopen(descriptor, "ab", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def _keep_plan(folder: Path, plan: Plan) -> None:
    """Write a plan that was changed since the run began."""
    resolved = resolved_json(plan)
    text, digest = resolved.encode(), sha256_of(resolved)
    if read_regular(folder / PLAN) != text:
        with contextlib.suppress(FileExistsError):
            write_new(folder / later_plan(digest), text)
        fsync_folder(folder)


def _append(file: EventFile, data: bytes) -> None:
    """Write all of `data`; a full disk accepts only a part of it."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) or 0 :]


#: The line without which nothing of a run was launched.
_BEGINS = b'{"event": "run_started"'


def _remove_unbegun(folder: Path) -> bool:
    """Remove what was left by a process that was killed before its run began; false if that is not what is there."""
    if not _is_made_here(folder):
        return False
    try:
        with locked(folder):
            head, data = read_head(folder), read_regular(folder / EVENTS)
            check_head(folder, head, data)
            if _BEGINS in data[: intact_length(data)]:
                return False
            _remove(folder)
    except FileNotFoundError:
        _remove(folder)
    except (OSError, RecordError):
        return False
    return not os.path.lexists(folder)


def _is_made_here(folder: Path) -> bool:
    """Return whether the folder has nothing in it but the files of a journal, and is as `Journal.create` makes it."""
    try:
        found = folder.lstat()
        names = {path.name for path in folder.iterdir()}
    except OSError:
        return False
    made_so = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return made_so and names <= {EVENTS, PLAN, DIGEST, HEAD}


def _remove(folder: Path) -> None:
    """Remove a journal that never began, and no other file in its folder."""
    with contextlib.suppress(OSError):
        for name in (EVENTS, PLAN, DIGEST, HEAD):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
