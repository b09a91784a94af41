"""Find an installed PostgreSQL that has the extension."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from runner.embedded.programs import run_program
from runner.errors import EmbeddedServerError
from runner.structs import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


PROGRAMS_VARIABLE = "JOBPLAN_PG_BIN"
OLDEST_MAJOR = 14
#: The functions that jobplan calls exist since 2.0.
OLDEST_EXTENSION = 2
_NEEDED = ("postgres", "initdb", "pg_ctl", "psql")
_FOLDER_PATTERNS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")
_VERSION = re.compile(r"PostgreSQL\)? (\d+)(\S*)")
_DEFAULT_VERSION = re.compile(r"^\s*default_version\s*=\s*'(\d+)", re.MULTILINE)


class Installation(Struct, frozen=True, kw_only=True):
    """The folder of PostgreSQL's programs, and their version.

    `build` is the whole output of `postgres --version`, `extension` the text of the extension's control file.
    """

    bin_dir: Path
    version: str
    major: int
    build: str
    extension: str

    def program(self, name: str) -> str:
        """Return the path of the program `name`."""
        return str(self.bin_dir / name)


def parse_version(answer: str) -> tuple[int, str]:
    """Return major and full version from the output of `postgres --version`, such as `(18, "18.6")`.

    ValueError if it has another form.
    """
    match = _VERSION.search(answer)
    if match is None:
        raise ValueError(f"{answer.strip()!r} is not a version of PostgreSQL")
    return int(match[1]), match[1] + match[2]


def parse_extension_major(control: str) -> int | None:
    """Return the major version that an extension's control file installs by default; None if it names none."""
    match = _DEFAULT_VERSION.search(control)
    return int(match[1]) if match else None


def inspect(bin_dir: Path) -> Installation:
    """Return the installation in `bin_dir`.

    EmbeddedServerError with the reason if it cannot be used: programs missing, too old, or without the extension.
    """
    missing = [name for name in _NEEDED if not os.access(bin_dir / name, os.X_OK)]
    if missing:
        raise EmbeddedServerError(f"{bin_dir} has no {', '.join(missing)}.")
    build = run_program([str(bin_dir / "postgres"), "--version"]).strip()
    try:
        major, version = parse_version(build)
    except ValueError as error:
        raise EmbeddedServerError(f"{bin_dir}: {error}.") from error
    if major < OLDEST_MAJOR:
        raise EmbeddedServerError(f"{bin_dir} is PostgreSQL {version}; {OLDEST_MAJOR} or later is needed.")
    control = _share_folder(bin_dir, major) / "extension" / "pg_background.control"
    if not control.is_file():
        raise EmbeddedServerError(f"PostgreSQL {version} in {bin_dir} has no extension pg_background.")
    extension = control.read_text(encoding="utf-8", errors="replace")
    if (parse_extension_major(extension) or 0) < OLDEST_EXTENSION:
        raise EmbeddedServerError(f"PostgreSQL {version} in {bin_dir} has a pg_background before {OLDEST_EXTENSION}.0.")
    return Installation(bin_dir=bin_dir, version=version, major=major, build=build, extension=extension)


def _share_folder(bin_dir: Path, major: int) -> Path:
    """Ask pg_config; where it is not installed, try Debian's folder, then the one beside the programs."""
    if os.access(bin_dir / "pg_config", os.X_OK):
        return Path(run_program([str(bin_dir / "pg_config"), "--sharedir"]).strip())
    of_debian = bin_dir.parents[3] / "share" / "postgresql" / str(major) if len(bin_dir.parents) > 3 else bin_dir
    return of_debian if of_debian.is_dir() else bin_dir.parent / "share"


def find_installed(environ: Mapping[str, str], root: Path = Path("/")) -> Installation | None:
    """Return the first usable PostgreSQL: JOBPLAN_PG_BIN, pg_config's, then the newest of the system's folders.

    None if there is none. EmbeddedServerError if JOBPLAN_PG_BIN is set and cannot be used: no other replaces it.
    """
    if named := environ.get(PROGRAMS_VARIABLE):
        try:
            return inspect(Path(named).absolute())
        except EmbeddedServerError as error:
            raise EmbeddedServerError(
                f"{PROGRAMS_VARIABLE} cannot be used: {error.message}",
                hint="Set it to the folder of PostgreSQL's programs, such as the one that pg_config --bindir prints.",
            ) from error
    return next(usable(dict.fromkeys(_candidates(environ, root))), None)


def find_major(
    major: int, first: Path | None, environ: Mapping[str, str], root: Path = Path("/")
) -> Installation | None:
    """Return programs that can start data of this major version; None if there are none.

    `first` is the folder of the programs that last ran on the data. It is preferred to a PostgreSQL installed later.
    """
    candidates = [*([first] if first is not None else []), *_candidates(environ, root)]
    return next((found for found in usable(dict.fromkeys(candidates)) if found.major == major), None)


def usable(folders: Iterable[Path]) -> Iterator[Installation]:
    """Yield the usable installations among the folders; most have no pg_background."""
    for bin_dir in folders:
        with contextlib.suppress(EmbeddedServerError):
            yield inspect(bin_dir)


def _candidates(environ: Mapping[str, str], root: Path) -> Iterator[Path]:
    pg_config = shutil.which("pg_config", path=environ.get("PATH"))
    if pg_config is not None:
        with contextlib.suppress(EmbeddedServerError):  # Debian's pg_config fails when no server package is installed
            yield Path(run_program([pg_config, "--bindir"]).strip())
    found = [bin_dir for pattern in _FOLDER_PATTERNS for bin_dir in root.glob(pattern)]
    yield from sorted(found, key=_major_in_name, reverse=True)


def _major_in_name(bin_dir: Path) -> float:
    number = re.search(r"\d+(\.\d+)?$", bin_dir.parent.name)
    return float(number[0]) if number else 0.0
