"""Where the records of a project are: `.jobplan`, found from the working directory upwards.

So a command in a subfolder uses the same records as one in the project's root.
The first of these folders counts, the working directory first:

- one with a folder `.jobplan`,
- the root of a project: one with `.git`, `jobplan.toml`, or a `pyproject.toml` that has `[tool.jobplan]`.

If there is none, it is the working directory. The search ends before a folder that another user could have prepared:
one of another owner, one that every user may write into (such as /tmp), one on another file system, and the root of the
file system. It never leaves the home directory upwards.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

#: The folder of a project's records.
RECORDS = ".jobplan"
#: The folder of journals, relative to the project.
JOURNALS = Path(RECORDS) / "runs"
CONFIG = "jobplan.toml"
PYPROJECT = "pyproject.toml"
_REPOSITORY = ".git"
_LARGEST_PYPROJECT = 1_000_000
#: A table of pyproject.toml that belongs to jobplan.
_TABLE = re.compile(rb"^[ \t]*\[[ \t]*tool[ \t]*\.[ \t]*jobplan[ \t]*[.\]]", re.MULTILINE)
#: Names the settings file, for commands outside of the project, such as those of cron.
VARIABLE = "JOBPLAN_CONFIG"


def default_journal() -> Path:
    """Return the folder of journals for the working directory, relative to it; it need not exist."""
    if named := os.environ.get(VARIABLE):
        return Path(named).parent / JOURNALS
    for up, folder in enumerate(searched()):
        if ((folder / RECORDS).is_dir() and (up == 0 or _is_trusted(folder / RECORDS))) or _is_root(folder):
            return Path(*[os.pardir] * up, JOURNALS)
    return JOURNALS


def find_config() -> Path | None:
    """Return the settings file for the working directory, relative to it: that of the nearest root which has one.

    The search ends with the repository. JOBPLAN_CONFIG names another file, which need not exist.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named)
    for up, folder in enumerate(searched()):
        if (found := _config_in(folder)) is not None:
            return Path(*[os.pardir] * up, found.name)
        if (folder / _REPOSITORY).exists():
            return None
    return None


def _is_root(folder: Path) -> bool:
    """Return whether a folder is the root of a project."""
    return (folder / _REPOSITORY).exists() or _config_in(folder) is not None


def _config_in(folder: Path) -> Path | None:
    """Return the file with the project's settings in a folder; None if there is none."""
    if os.path.lexists(folder / CONFIG):
        return folder / CONFIG
    path = folder / PYPROJECT
    try:
        if stat.S_ISREG(path.stat().st_mode):  # not a pipe, whose reading need not end
            with path.open("rb") as file:
                return path if _TABLE.search(file.read(_LARGEST_PYPROJECT)) else None
    except OSError:
        return None
    return None


def searched() -> Iterator[Path]:
    """Yield the working directory and the folders above it that may be of the same project, the nearest first."""
    try:
        here = Path.cwd()
        own = here.stat()
    except OSError:  # it was removed: the command reports that when it needs it
        return
    yield here
    home = _home()
    owners = {own.st_uid, os.geteuid()}
    for below, folder in zip((here, *here.parents), here.parents, strict=False):
        try:
            found = folder.stat()
        except OSError:
            return
        foreign = found.st_uid not in owners or found.st_dev != own.st_dev
        if foreign or found.st_mode & stat.S_IWOTH or below == home or folder == folder.parent:
            return
        yield folder


def _is_trusted(path: Path) -> bool:
    """Return whether the user, or the owner of the folder that the path is in, owns it."""
    try:
        return path.stat().st_uid in (os.geteuid(), path.parent.stat().st_uid)
    except OSError:
        return False


def _home() -> Path | None:
    try:
        return Path.home().resolve()
    except (OSError, RuntimeError):  # an account without a home directory
        return None
