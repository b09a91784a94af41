"""Where things may lie: the cache that is kept, and the short path of a server's own folder.

Three limits meet here. A unix socket's path has at most 107 bytes. The account that runs PostgreSQL has to reach
programs and data, and root's home is usually closed to it. Programs are executed from the cache, so nobody else may
be able to write there.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from runner.embedded.account import reachable
from runner.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.embedded.account import Account

CACHE_VARIABLE = "JOBPLAN_CACHE_DIR"
#: What the name of every server's own folder begins with.
FOLDER_PREFIX = "jobplan-pg-"

#: sun_path has 108 bytes on Linux, the last of them NUL; macOS has 104.
_SOCKET_PATH_MAX = 103
#: What is added to the base: the folder's random name, the socket's folder and the longest name of a socket.
_SOCKET_SUFFIX = f"/{FOLDER_PREFIX}xxxxxxxx/s/.s.PGSQL.65535.lock"
_SYSTEM_CACHE = Path("/var/cache/jobplan")
_SERVER_SPACE = 256 * 1024 * 1024
#: pg_ctl hands paths to a shell in double quotes, the loader splits at colons and semicolons, PostgreSQL at commas.
_UNUSABLE = re.compile(r"[\"$`\\:;,%\n\r]")


def is_plain(path: Path) -> bool:
    """Tell whether PostgreSQL's programs and the loader can take `path`: blanks yes; `$`, `:`, `,`, `"` no."""
    return not _UNUSABLE.search(str(path))


def fits_socket(base: Path) -> bool:
    """Tell whether a server's socket under `base` keeps within the limit for a unix socket's path."""
    return len(os.fsencode(base)) + len(_SOCKET_SUFFIX) <= _SOCKET_PATH_MAX


def temp_bases() -> tuple[Path, ...]:
    """Return the folders in which servers' own folders may lie, best first."""
    bases = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 (each server makes a private folder in it)
    return tuple(dict.fromkeys(base.resolve() for base in bases if base.is_dir()))


def choose_base(account: Account) -> Path:
    """Return the first folder for temporary files that is short, open to `account`, writable and has room.

    EmbeddedServerError if there is none.
    """
    for base in temp_bases():
        if not (fits_socket(base) and is_plain(base) and reachable(base, account)):
            continue
        if os.access(base, os.W_OK | os.X_OK) and shutil.disk_usage(base).free >= _SERVER_SPACE:
            return base
    tried = ", ".join(str(base) for base in temp_bases())
    raise EmbeddedServerError(
        f"No folder for temporary files is writable, open to {account.name}, short enough for a socket's path and"
        f" has {_SERVER_SPACE // 2**20} MB free (tried {tried}).",
        hint="Set TMPDIR to one that is.",
    )


def cache_candidates(environ: Mapping[str, str], account: Account) -> tuple[Path, ...]:
    """Return where the cache may be, best first; an explicit JOBPLAN_CACHE_DIR is the only one.

    Root gets a place of the system: its home is closed to the account that runs PostgreSQL, and a HOME inherited from
    somebody else would make root execute that person's files.
    """
    if explicit := environ.get(CACHE_VARIABLE):
        return (Path(explicit).absolute(),)
    fallback = Path(tempfile.gettempdir()).resolve() / f"jobplan-cache-{os.geteuid()}"
    if account.drop:
        return (_SYSTEM_CACHE, fallback)
    places = []
    if (xdg := environ.get("XDG_CACHE_HOME")) and Path(xdg).is_absolute():
        places.append(Path(xdg) / "jobplan")
    if (home := environ.get("HOME")) and Path(home).is_absolute():
        places.append(Path(home) / ".cache" / "jobplan")
    return (*places, fallback)


def cache_folder(environ: Mapping[str, str], account: Account) -> Path:
    """Return the cache folder, made if it was not there.

    EmbeddedServerError, with the reason, if no place can be used.
    """
    refusals = []
    for place in cache_candidates(environ, account):
        refusal = _try_cache(place, account, trusted=CACHE_VARIABLE in environ)
        if refusal is None:
            return place
        refusals.append(f"{place} {refusal}")
    raise EmbeddedServerError(
        f"There is no place for the embedded server's files: {'; '.join(refusals)}.",
        hint=f"Set {CACHE_VARIABLE} to a folder that you can write and {account.name} can reach.",
    )


def _try_cache(place: Path, account: Account, *, trusted: bool) -> str | None:
    """Make `place` usable and return None, or say why it is not."""
    if not is_plain(place):
        return "has a character in its path that the programs cannot take"
    try:
        if not place.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(0o755 if account.drop else 0o700)
        status = place.lstat() if not trusted else place.stat()
    except OSError as error:
        return f"cannot be made ({error.strerror or error})"
    if not os.access(place, os.W_OK | os.X_OK):
        return "is not writable"
    if not reachable(place, account):
        return f"is closed to the account {account.name}"
    if not trusted and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        return "could be written by somebody else"
    return None
