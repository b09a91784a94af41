"""The record of a fleet run on disk: `.jobplan/fleets/ID/` with its events, its targets, and the journals of members.

An event is on disk before what it announces: a member is recorded as started before its server is asked for anything.
A journal whose last line is incomplete was interrupted there; that line is ignored, and overwritten by a resume.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from runner.clock import parse_rfc3339
from runner.errors import RecordError, RunHeldError
from runner.exit_codes import is_failure
from runner.fleet import events as ev
from runner.fleet.rollout import FleetState, apply, initial_state
from runner.fleet.targets import Targets, place
from runner.records.journal_files import open_regular, read_regular, require_owner, write_new
from runner.records.run_folders import fsync_folder, is_locked, make_root, try_lock
from runner.structs import Struct, from_values, to_json_line, to_values

#: The folder of fleet runs, beside the folder of journals.
FLEETS = "fleets"
EVENTS = "fleet.jsonl"
TARGETS = "targets.json"
#: Fleet runs that are read to know whether the one before had failed.
_LATEST = 20
#: The beginning of the names of requests to cancel the fleet run.
CANCEL = "cancel"
#: The journals of the members.
RUNS = "runs"


def fleets_folder(journal: Path) -> Path:
    """Return the folder of fleet runs that belongs to a folder of journals: `.jobplan/fleets` for `.jobplan/runs`."""
    return journal.parent / FLEETS


class FleetJournal:
    """Writes the events of one fleet run, and holds the lock of its process. Use `create` or `reopen`."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor

    @property
    def runs(self) -> Path:
        """The folder with the journals of the members."""
        return self.folder / RUNS

    @classmethod
    def create(cls, root: Path, fleet: str, targets: Targets) -> FleetJournal:
        """Begin the record of a fleet run. RecordError if it exists, or cannot be written."""
        folder = root / fleet
        make_root(root)
        try:
            _remove_unbegun(folder)
            folder.mkdir(mode=0o700)
            (folder / RUNS).mkdir(mode=0o700)
            write_new(folder / TARGETS, json.dumps(to_values(targets), ensure_ascii=False, indent=1).encode())
            descriptor = os.open(folder / EVENTS, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fsync_folder(folder)
            fsync_folder(root)
        except FileExistsError:
            raise RecordError(
                f"there is a fleet run {fleet} in {root} already.",
                hint=f"To finish it: jobplan fleet resume {fleet}. Else choose another id.",
            ) from None
        except OSError as error:
            _remove_unbegun(folder)
            raise _refused(folder, error) from error
        journal = cls(folder, descriptor)
        journal._lock()
        return journal

    @classmethod
    def reopen(cls, root: Path, fleet: str) -> FleetJournal:
        """Continue the record of a fleet run. RecordError if there is none, RunHeldError if a process writes it."""
        folder = root / fleet
        if folder.is_dir():
            require_owner(root, folder, (EVENTS, TARGETS))
        try:
            descriptor = open_regular(folder / EVENTS, os.O_RDWR)
        except FileNotFoundError:
            raise missing(root, fleet) from None
        except OSError as error:
            raise _refused(folder, error) from error
        journal = cls(folder, descriptor)
        journal._lock()
        data = read_regular(folder / EVENTS)
        os.ftruncate(descriptor, data.rfind(b"\n") + 1)
        os.lseek(descriptor, 0, os.SEEK_END)
        return journal

    def write(self, event: ev.FleetEvent) -> None:
        """Write an event, durably. RecordError if that fails."""
        line = to_json_line(ev.event_values(event, self.folder.name))
        try:
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
            os.fsync(self._descriptor)
        except OSError as error:
            raise RecordError(f"the record {self.folder / EVENTS} cannot be written: {error.strerror}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        os.close(self._descriptor)

    def _lock(self) -> None:
        if not try_lock(self._descriptor):
            os.close(self._descriptor)
            raise RunHeldError(
                f"fleet run {self.folder.name} is being worked on by another process.",
                run_id=self.folder.name,
                hint="Wait until it ends, or stop it with jobplan fleet cancel.",
            )


def missing(root: Path, fleet: str) -> RecordError:
    """Return the error for a fleet run that has no record."""
    none = "there are no fleet runs" if fleet == "last" else f"there is no fleet run {fleet}"
    return RecordError(
        f"{none} in {root}.",
        hint="On another machine, name the plan and the targets file: jobplan fleet resume ID PLAN --targets FILE.",
    )


def is_running(folder: Path) -> bool:
    """Return whether a process works on the fleet run now."""
    try:
        return is_locked(folder, EVENTS)
    except OSError:
        return False


class FleetCancelRequest(Struct, frozen=True, kw_only=True):
    """A user wants to cancel the fleet run; with selectors in `where`, only the targets that match all of them."""

    by: str
    where: tuple[str, ...] = ()


def request_cancel(folder: Path, by: str, where: Sequence[str] = ()) -> None:
    """Ask the process that works on the fleet run to cancel it, or a part. RecordError if that cannot be written."""
    name = f"{CANCEL}-{secrets.token_hex(8)}"
    try:
        (folder / f".{name}").write_bytes(to_json_line(to_values(FleetCancelRequest(by=by, where=tuple(where)))))
        (folder / f".{name}").rename(folder / name)
    except OSError as error:
        raise _refused(folder, error) from error


def cancel_request(folder: Path) -> FleetCancelRequest | None:
    """Return one request to cancel, once; None without a request."""
    for path in sorted(folder.glob(f"{CANCEL}-*")):
        with contextlib.suppress(OSError, ValueError, TypeError, RecordError):
            request = from_values(json.loads(read_regular(path)), FleetCancelRequest)
            path.unlink()
            return request
    return None


def fleets(root: Path) -> tuple[str, ...]:
    """Return the ids of the recorded fleet runs, the last one last. RecordError if `root` cannot be read."""
    try:
        found = [folder for folder in root.iterdir() if has_begun(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise RecordError(
            f"the fleet runs in {root} cannot be read: {error.strerror}.",
            hint="Only the user who started them can read them; --journal DIR specifies another folder.",
        ) from error
    return tuple(folder.name for folder in sorted(found, key=_began))


def has_begun(folder: Path) -> bool:
    """Return whether the record has its first event; without it, nothing was started."""
    try:
        with (folder / EVENTS).open("rb") as file:
            return file.readline().endswith(b"\n")
    except OSError:
        return False


def _remove_unbegun(folder: Path) -> None:
    """Remove what a process has left that was killed before its fleet run began; nothing was started then."""
    if folder.is_symlink() or not folder.is_dir() or has_begun(folder) or is_running(folder):
        return
    with contextlib.suppress(OSError):
        for name in (EVENTS, TARGETS):
            (folder / name).unlink(missing_ok=True)
        (folder / RUNS).rmdir()
        folder.rmdir()


def _began(folder: Path) -> float:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), (folder / EVENTS).open("rb") as file:
        return parse_rfc3339(json.loads(file.readline())["at"])
    return 0.0


def find_fleet(root: Path, name: str) -> str:
    """Return the id of a fleet run; `last` is the one that began last. RecordError if there is none."""
    known = fleets(root)
    if name == "last" and known:
        return known[-1]
    if name not in known:
        raise missing(root, name)
    return name


def read_fleet(root: Path, fleet: str) -> tuple[Targets, FleetState]:
    """Return the targets and the state of a recorded fleet run. RecordError if the record cannot be read."""
    folder = root / fleet
    try:
        values = json.loads(read_regular(folder / TARGETS))
        targets = from_values(values, Targets)
        placed = place(targets.targets, targets.rollout.waves)
        state = initial_state(fleet, placed, targets.rollout, targets.clusters)
        for event in _events(folder):
            apply(state, event)
    except FileNotFoundError:
        raise missing(root, fleet) from None
    except OSError as error:
        raise RecordError(f"the record {folder} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(f"the record {folder} is damaged: {error}.") from error
    return targets, state


def failed_before(root: Path, plan: str, fleet: str) -> bool:
    """Return whether the last other fleet run of a plan that finished had failed; damaged records are left out."""
    found: list[tuple[float, int]] = []
    for folder in _latest(root):
        if folder.name == fleet:
            continue
        try:
            _, state = read_fleet(root, folder.name)
        except RecordError:
            continue
        if state.started is not None and state.started.plan == plan and state.finished is not None:
            found.append((state.started.at, state.finished.exit_code))
    return bool(found) and is_failure(max(found)[1])


def _latest(root: Path) -> list[Path]:
    """Return the folders of the fleet runs that were written last."""
    with contextlib.suppress(OSError):
        folders = [folder for folder in root.iterdir() if (folder / EVENTS).is_file()]
        return sorted(folders, key=lambda folder: (folder / EVENTS).stat().st_mtime)[-_LATEST:]
    return []


def _events(folder: Path) -> Iterator[ev.FleetEvent]:
    lines = read_regular(folder / EVENTS).split(b"\n")[:-1]
    for line in lines:
        values = json.loads(line)
        kind = ev.EVENTS[values.pop("event")]
        values.pop("fleet")
        yield from_values({**values, "at": parse_rfc3339(values["at"])}, kind)


def _refused(folder: Path, error: OSError) -> RecordError:
    return RecordError(
        f"the record {folder} cannot be written: {error.strerror}.",
        hint="Pass --journal DIR or set JOBPLAN_JOURNAL: the folder fleets beside it is used.",
    )
