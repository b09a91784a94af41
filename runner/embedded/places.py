"""Choose the folder of the cache and the folder that holds a server's own folder.

Three limits apply. A unix socket's path has at most 107 bytes. The account that runs PostgreSQL has to reach programs
and data, and root's home is usually closed to it. Programs are executed from the cache, so no other user may be able
to write to it.
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
#: The prefix of the name of every server's own folder.
FOLDER_PREFIX = "jobplan-pg-"

#: sun_path has 108 bytes on Linux, the last of them NUL; macOS has 104.
_SOCKET_PATH_MAX = 103
#: The longest path below the base: the folder's random name, the socket's folder and the name of the socket.
_SOCKET_SUFFIX = f"/{FOLDER_PREFIX}xxxxxxxx/s/.s.PGSQL.65535.lock"
_SYSTEM_CACHE = Path("/var/cache/jobplan")
_SERVER_SPACE = 256 * 1024 * 1024
#: pg_ctl hands paths to a shell in double quotes, the loader splits at colons and semicolons, PostgreSQL at commas.
_UNUSABLE = re.compile(r"[\"$`\\:;,%\n\r]")


def is_plain(path: Path) -> bool:
    """Return whether PostgreSQL's programs and the loader accept `path`: blanks yes; `$`, `:`, `,`, `"` no."""
    return not _UNUSABLE.search(str(path))


def fits_socket(base: Path) -> bool:
    """Return whether the path of a server's socket under `base` is within the limit."""
    return len(os.fsencode(base)) + len(_SOCKET_SUFFIX) <= _SOCKET_PATH_MAX


def temp_bases() -> tuple[Path, ...]:
    """Return the folders that may hold servers' own folders, in order of preference."""
    bases = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 (each server makes a private folder in it)
    return tuple(dict.fromkeys(base.resolve() for base in bases if base.is_dir()))


def choose_base(account: Account) -> Path:
    """Return the first temporary folder with a short path that `account` can reach and that is writable and has space.

    EmbeddedServerError if there is none.
    """
    for base in temp_bases():
        if not (fits_socket(base) and is_plain(base) and reachable(base, account)):
            continue
        if os.access(base, os.W_OK | os.X_OK) and shutil.disk_usage(base).free >= _SERVER_SPACE:
            return base
    tried = ", ".join(str(base) for base in temp_bases())
    raise EmbeddedServerError(
        f"No temporary folder is writable, accessible to the account {account.name}, short enough for a socket's path"
        f" and has {_SERVER_SPACE // 2**20} MB free (tried {tried}).",
        hint="Set TMPDIR to a folder that is.",
    )


def cache_candidates(environ: Mapping[str, str], account: Account) -> tuple[Path, ...]:
    """Return the candidates for the cache in order of preference; JOBPLAN_CACHE_DIR is the only one if it is set.

    Root gets a system folder: its home is closed to the account that runs PostgreSQL, and with a HOME inherited from
    another user root would execute files of that user.
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
    """Return the cache folder; create it if it does not exist.

    EmbeddedServerError with the reasons if no folder can be used.
    """
    refusals = []
    for place in cache_candidates(environ, account):
        refusal = _try_cache(place, account, trusted=CACHE_VARIABLE in environ)
        if refusal is None:
            return place
        refusals.append(f"{place} {refusal}")
    raise EmbeddedServerError(
        f"No folder can be used for the embedded server's files: {'; '.join(refusals)}.",
        hint=f"Set {CACHE_VARIABLE} to a folder that you can write to and that the account {account.name} can reach.",
    )


def _try_cache(place: Path, account: Account, *, trusted: bool) -> str | None:
    """Make `place` usable and return None, or return the reason why it is not usable."""
    if not is_plain(place):
        return "has a character in its path that PostgreSQL's programs do not accept"
    try:
        if not place.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(0o755 if account.drop else 0o700)
        status = place.lstat() if not trusted else place.stat()
    except OSError as error:
        return f"cannot be created ({error.strerror or error})"
    if not os.access(place, os.W_OK | os.X_OK):
        return "is not writable"
    if not reachable(place, account):
        return f"is closed to the account {account.name}"
    if not trusted and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        return "can be written by another user"
    return None
