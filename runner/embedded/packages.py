"""Install Debian's packages into the cache: completely or not at all, and once, also with several processes.

The packages are built for a newer C library than the host's, so each program is started through the loader of its own
packages.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.embedded import debian, locks
from runner.embedded.finding import inspect, usable
from runner.embedded.places import CACHE_VARIABLE
from runner.embedded.programs import run_program
from runner.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from runner.embedded.finding import Installation

_STAGING_PREFIX = ".new-"
#: By architecture: the folder of the libraries, and the loader in it.
_LOADERS = {
    "amd64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "arm64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
}
#: apt's lists and indexes take 150 MB while it works, the packages 60 MB, unpacked 250 MB; the rest is a reserve.
_SPACE_NEEDED = 640 * 2**20
_UNSAFE = re.compile(r"[^A-Za-z0-9.+~-]+")

#: PostgreSQL derives its other folders from the name that it is started with, so the program keeps that (--argv0).
_WRAPPER = """\
#!/bin/sh
# Starts the program beside this file with the loader and the libraries of its own packages.
here=${{0%/*}}
libraries=$here/../../../{triplet}
exec "$libraries/{loader}" --library-path "$libraries:$here/../lib" --argv0 "$0" "$0.bin" "$@"
"""


def find_cached(cache: Path, environ: Mapping[str, str]) -> Installation | None:
    """Return the newest PostgreSQL in the cache for the configured suite; None if there is none."""
    suite = environ.get(debian.SUITE_VARIABLE) or debian.DEFAULT_SUITE
    found = sorted(_folder(cache).glob(f"{_safe(suite)}_*/root/usr/lib/postgresql/*/bin"))
    return next(usable(reversed(found)), None)  # a damaged one, or one of another architecture, is fetched again


def find_cached_major(cache: Path, major: int) -> Installation | None:
    """Return the newest PostgreSQL in the cache, of any suite, with this major version; None if there is none."""
    found = sorted(_folder(cache).glob(f"*/root/usr/lib/postgresql/{major}/bin"))
    return next((one for one in usable(reversed(found)) if one.major == major), None)


def install(cache: Path, environ: Mapping[str, str], progress: Callable[[str], None]) -> Installation:
    """Install PostgreSQL and the extension into the cache, unless they are there, and return them.

    EmbeddedServerError if this machine, its network or its disk does not allow it.
    """
    source = debian.find_source(environ)
    if not _folder(cache).is_dir():
        _folder(cache).mkdir(exist_ok=True)
        _folder(cache).chmod(stat.S_IMODE(cache.stat().st_mode) & 0o755)
    waiting = "another jobplan is fetching PostgreSQL; waiting for it"
    with locks.exclusive(cache / "packages.lock", lambda: progress(waiting)):
        installed = find_cached(cache, environ)  # another process may have installed it meanwhile
        if installed is not None:
            return installed
        for leftover in _folder(cache).glob(f"{_STAGING_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=_folder(cache)))
        try:
            return _install_from(staging, source, progress)
        except OSError as error:
            raise EmbeddedServerError(f"the packages could not be unpacked: {error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _folder(cache: Path) -> Path:
    return cache / "packages"


def _safe(text: str) -> str:
    """Return a version as part of a file name; the loader's library path cannot have the colon of an epoch."""
    return _UNSAFE.sub("-", text)


def _install_from(staging: Path, source: debian.Source, progress: Callable[[str], None]) -> Installation:
    """Fetch and unpack in `staging`, check the result, and only then move it to its place in the cache."""
    _check_space(staging)
    progress(f"looking for PostgreSQL with pg_background in Debian {source.suite}")
    package, needed, files = _fetch(debian.Apt(staging, source), source, progress)
    progress("unpacking")
    finished = staging / "finished"
    root = finished / "root"
    root.mkdir(parents=True)
    _unpack(files, root)
    _drop_special_bits(root)
    server = package.removesuffix("-pg-background")
    bin_dir = root / "usr/lib/postgresql" / server.removeprefix("postgresql-") / "bin"
    _wrap_programs(bin_dir, source.architecture)
    installation = inspect(bin_dir)
    versions = {one.name: one.version for one in needed}
    key = "_".join([source.suite, source.architecture, versions[server], versions[package]])
    target = staging.parent / _safe_key(key)
    for folder in (finished, root):
        folder.chmod(stat.S_IMODE(staging.parent.stat().st_mode))
    shutil.rmtree(target, ignore_errors=True)  # damaged, otherwise `find_cached` would have returned it
    finished.rename(target)
    return replace(installation, bin_dir=target / bin_dir.relative_to(finished))


def _fetch(
    apt: debian.Apt, source: debian.Source, progress: Callable[[str], None]
) -> tuple[str, tuple[debian.Package, ...], tuple[Path, ...]]:
    """Fetch the newest package of the extension; return its name, all packages that it needs, and their files."""
    apt.update()
    package = debian.newest_package(apt.package_names())
    if package is None:
        raise EmbeddedServerError(f"Debian {source.suite} at {source.mirror} has no postgresql-NN-pg-background")
    needed = apt.needed(package)
    size = sum(one.size for one in needed)
    progress(f"fetching {package} and {len(needed) - 1} packages ({size / 1e6:.0f} MB)")
    return package, needed, apt.fetch(package)


def _safe_key(key: str) -> str:
    return "_".join(_safe(part) for part in key.split("_"))


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _SPACE_NEEDED:
        raise EmbeddedServerError(
            f"{folder.parent} has {free // 2**20} MB free, and the installation needs {_SPACE_NEEDED // 2**20} MB;"
            f" set {CACHE_VARIABLE} to a folder with enough space"
        )


def _unpack(files: Iterable[Path], root: Path) -> None:
    def unpack(file: Path) -> None:
        run_program(["dpkg-deb", "--extract", str(file), str(root)])

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(unpack, files):
            pass


def _drop_special_bits(root: Path) -> None:
    """Remove set-user-id and similar bits from every file: unpacked by root, `passwd` would be a way to become root.

    Folders get mode 755, so that the user that unpacked them can remove them.
    """
    for folder, _, names in os.walk(root):
        os.chmod(folder, 0o755)  # noqa: PTH101, S103 (a Path for each of 9,000 files is slow)
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 (the same)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) and mode & 0o7000:
                os.chmod(path, mode & 0o0755)  # noqa: PTH101 (the same)


def _wrap_programs(bin_dir: Path, architecture: str) -> None:
    """Replace each program with a wrapper; the program itself becomes NAME.bin beside it."""
    triplet, loader = _LOADERS[architecture]
    for program in sorted(bin_dir.iterdir()):
        with program.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                continue
        program.rename(program.with_name(f"{program.name}.bin"))
        program.write_text(_WRAPPER.format(triplet=triplet, loader=loader), encoding="utf-8")
        program.chmod(0o755)
