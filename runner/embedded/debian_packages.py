"""Fetch Debian's packages of PostgreSQL with pg_background into the cache, without changing the system.

apt works in a private folder: it neither reads nor writes the system's package state, needs no root, and checks
Debian's signatures against the keyring that the host already has. Packages are installed completely or not at all, and
once, also with several processes. They are built for a newer C library than the host's, so each program is started
through the loader of its own packages.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runner.embedded import server_folders
from runner.embedded.installations import inspect, usable
from runner.embedded.programs import run_program
from runner.embedded.server_folders import CACHE_VARIABLE
from runner.errors import EmbeddedServerError
from runner.structs import Struct, replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from runner.embedded.installations import Installation


MIRROR_VARIABLE = "JOBPLAN_DEBIAN_MIRROR"
SUITE_VARIABLE = "JOBPLAN_DEBIAN_SUITE"
#: The suite that has postgresql-NN-pg-background: Debian 14.
DEFAULT_SUITE = "forky"

_TOOLS = ("apt-get", "apt-cache", "dpkg", "dpkg-deb")
_ARCHITECTURES = ("amd64", "arm64")
_KEYRINGS = ("debian-archive-keyring.pgp", "debian-archive-keyring.gpg")
_SUITE = re.compile(r"[a-z][a-z0-9./-]*")
_PACKAGE = re.compile(r"postgresql-(\d+)-pg-background")
_URI_LINE = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)", re.MULTILINE)
#: Hooks that a host may have configured for updates and installations. They are cleared: the host's packages do not
#: change.
_HOOKS = (
    "APT::Update::Pre-Invoke",
    "APT::Update::Post-Invoke",
    "APT::Update::Post-Invoke-Success",
    "DPkg::Pre-Invoke",
    "DPkg::Post-Invoke",
    "DPkg::Pre-Install-Pkgs",
    "APT::Install::Pre-Invoke",
    "APT::Install::Post-Invoke",
    "APT::Default-Release",
)


class PackageSource(Struct, frozen=True, kw_only=True):
    """The mirror of the packages, the architecture, and the keyring that must have signed them."""

    mirror: str
    suite: str
    architecture: str
    keyring: Path


class Package(Struct, frozen=True, kw_only=True):
    """A package file that apt would fetch: name and version from the file's name, size in bytes."""

    name: str
    version: str
    size: int


def find_source(environ: Mapping[str, str]) -> PackageSource:
    """Return Debian's mirror for this machine; EmbeddedServerError with the reason if there is none."""
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=environ.get("PATH")) is None]
    if missing:
        raise EmbeddedServerError(f"this is not a Debian-family system ({', '.join(missing)} not found)")
    architecture = run_program(["dpkg", "--print-architecture"]).strip()
    if architecture not in _ARCHITECTURES:
        raise EmbeddedServerError(f"the architecture {architecture} is not supported")
    suite = environ.get(SUITE_VARIABLE) or DEFAULT_SUITE
    if not _SUITE.fullmatch(suite):
        raise EmbeddedServerError(f"{SUITE_VARIABLE} is not the name of a suite: {suite!r}")
    mirror = environ.get(MIRROR_VARIABLE) or _mirror_of_host()
    if mirror is None:
        raise EmbeddedServerError(f"apt is not configured with a Debian mirror; set {MIRROR_VARIABLE}")
    if re.search(r"[\s\[\]]", mirror) or not urlsplit(mirror).scheme:
        raise EmbeddedServerError(f"{MIRROR_VARIABLE} is not the address of a mirror: {mirror!r}")
    return PackageSource(mirror=mirror, suite=suite, architecture=architecture, keyring=_keyring())


def _keyring() -> Path:
    for name in _KEYRINGS:
        keyring = Path("/usr/share/keyrings", name)
        if keyring.is_file():
            return keyring
    raise EmbeddedServerError("Debian's archive keys are missing; install the package debian-archive-keyring")


def _mirror_of_host() -> str | None:
    # --no-release-info: a fresh container has no package lists yet, and apt then shows no target without it
    return parse_mirror(run_program(["apt-get", "indextargets"], environment=_apt_environment())) or parse_mirror(
        run_program(["apt-get", "indextargets", "--no-release-info"], environment=_apt_environment())
    )


def parse_mirror(targets: str) -> str | None:
    """Return the site of Debian's own archive from what `apt-get indextargets` prints; None if there is none.

    A package list that was fetched has an Origin. Without one, only an address that ends as Debian's mirrors do
    is accepted.
    """
    unnamed = None
    for target in _paragraphs(targets):
        site = target.get("Site", "")
        if target.get("Created-By", "Packages") != "Packages" or not site or site.startswith("cdrom"):
            continue
        if target.get("Origin") == "Debian" and target.get("Label", "Debian") == "Debian":
            return site
        if "Origin" not in target and site.rstrip("/").endswith("/debian"):
            unnamed = unnamed or site
    return unnamed


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    for paragraph in re.split(r"\n\s*\n", text):
        lines = (line.partition(":") for line in paragraph.splitlines())
        yield {name: value.strip() for name, _, value in lines}


def newest_package(names: Iterable[str]) -> str | None:
    """Return the `postgresql-NN-pg-background` of the newest PostgreSQL among package names."""
    found = [match for name in names if (match := _PACKAGE.fullmatch(name.strip()))]
    return max(found, key=lambda match: int(match[1]))[0] if found else None


def parse_uris(text: str) -> tuple[Package, ...]:
    """Return the packages that `apt-get --print-uris` lists."""
    packages = []
    for match in _URI_LINE.finditer(text):
        name, _, rest = match["file"].partition("_")
        packages.append(Package(name=name, version=rest.rpartition("_")[0], size=int(match["size"])))
    return tuple(packages)


def render_configuration(folder: Path) -> str:
    """Return an apt configuration that uses `folder` only and ignores the host's configuration."""
    settings = {
        "Dir::Etc::sourcelist": str(folder / "sources.list"),
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": str(folder / "state"),
        "Dir::State::lists": str(folder / "lists"),
        "Dir::State::status": "/dev/null",
        "Dir::Cache": str(folder / "cache"),
        "Dir::Cache::archives": str(folder / "archives"),
        # containers disable these files and compress the lists; apt would then read all lists for each command
        "Dir::Cache::pkgcache": "pkgcache.bin",
        "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
        "Acquire::GzipIndexes": "0",
        "Acquire::IndexTargets::deb::Packages::KeepCompressed": "0",
        "Dir::Log": str(folder / "state"),
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",  # apt's own user could not write into this folder
        "APT::Install-Recommends": "0",
        "APT::Install-Suggests": "0",
        "APT::Get::AllowUnauthenticated": "0",
        "APT::Update::Error-Mode": "any",  # otherwise an unreachable mirror is only a warning
        "Acquire::AllowInsecureRepositories": "0",
        "Acquire::AllowDowngradeToInsecureRepositories": "0",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Acquire::http::Timeout": "30",
        "Acquire::https::Timeout": "30",
    }
    lines = [f"#clear {name};" for name in _HOOKS]
    return "\n".join([*lines, *(f'{name} "{value}";' for name, value in settings.items())]) + "\n"


def render_sources(source: PackageSource) -> str:
    """Return the line of sources.list: one architecture, package lists only, Debian's signature required."""
    options = f"arch={source.architecture} signed-by={source.keyring} target=Packages"
    return f"deb [{options}] {source.mirror} {source.suite} main\n"


class Apt:
    """apt in a private folder, which holds its state and the fetched packages."""

    def __init__(self, folder: Path, source: PackageSource) -> None:
        self.archives = folder / "archives"
        self._configuration = folder / "apt.conf"
        for place in ("lists/partial", "cache", "archives/partial", "state"):
            (folder / place).mkdir(parents=True)
        (folder / "sources.list").write_text(render_sources(source), encoding="utf-8")
        self._configuration.write_text(render_configuration(folder), encoding="utf-8")

    def update(self) -> None:
        """Fetch the suite's package list."""
        self._run("apt-get", "-qq", "update")

    def package_names(self) -> tuple[str, ...]:
        """Return the names of the suite's PostgreSQL packages."""
        return tuple(self._run("apt-cache", "pkgnames", "postgresql-").split())

    def needed(self, package: str) -> tuple[Package, ...]:
        """Return `package` and everything it needs, as if nothing were installed."""
        return parse_uris(self._run("apt-get", "-qq", "--yes", "--print-uris", "install", package))

    def fetch(self, package: str) -> tuple[Path, ...]:
        """Fetch `package` and everything it needs, and return the files."""
        self._run("apt-get", "-qq", "--yes", "--download-only", "install", package)
        return tuple(sorted(self.archives.glob("*.deb")))

    def _run(self, program: str, *arguments: str) -> str:
        return run_program([program, "-c", str(self._configuration), *arguments], environment=_apt_environment())


def _apt_environment() -> dict[str, str]:
    """Return this process's environment, which may name proxies, with untranslated messages."""
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


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
    suite = environ.get(SUITE_VARIABLE) or DEFAULT_SUITE
    found = sorted(_folder(cache).glob(f"{cache_key(suite)}_*/root/usr/lib/postgresql/*/bin"))
    return next(usable(reversed(found)), None)  # a damaged one, or one of another architecture, is fetched again


def find_cached_major(cache: Path, major: int) -> Installation | None:
    """Return the newest PostgreSQL in the cache, of any suite, with this major version; None if there is none."""
    found = sorted(_folder(cache).glob(f"*/root/usr/lib/postgresql/{major}/bin"))
    return next((one for one in usable(reversed(found)) if one.major == major), None)


def install(cache: Path, environ: Mapping[str, str], progress: Callable[[str], None]) -> Installation:
    """Install PostgreSQL and the extension into the cache, unless they are there, and return them.

    EmbeddedServerError if this machine, its network or its disk does not allow it.
    """
    source = find_source(environ)
    if not _folder(cache).is_dir():
        _folder(cache).mkdir(exist_ok=True)
        _folder(cache).chmod(stat.S_IMODE(cache.stat().st_mode) & 0o755)
    waiting = "another jobplan is fetching PostgreSQL; waiting for it"
    with server_folders.exclusive(cache / "packages.lock", lambda: progress(waiting)):
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


def cache_key(*parts: str) -> str:
    """Return a folder name made of a suite and versions, without colons: they separate the loader's library paths."""
    return "_".join(_UNSAFE.sub("-", part) for part in parts)


def _install_from(staging: Path, source: PackageSource, progress: Callable[[str], None]) -> Installation:
    """Fetch and unpack in `staging`, check the result, and only then move it to its place in the cache."""
    check_space(staging)
    progress(f"looking for PostgreSQL with pg_background in Debian {source.suite}")
    package, needed, files = _fetch(Apt(staging, source), source, progress)
    progress("unpacking")
    finished = staging / "finished"
    root = finished / "root"
    root.mkdir(parents=True)
    _unpack(files, root)
    drop_special_bits(root)
    server = package.removesuffix("-pg-background")
    bin_dir = root / "usr/lib/postgresql" / server.removeprefix("postgresql-") / "bin"
    wrap_programs(bin_dir, source.architecture)
    installation = inspect(bin_dir)
    versions = {one.name: one.version for one in needed}
    target = staging.parent / cache_key(source.suite, source.architecture, versions[server], versions[package])
    for folder in (finished, root):
        folder.chmod(stat.S_IMODE(staging.parent.stat().st_mode))
    shutil.rmtree(target, ignore_errors=True)  # damaged, otherwise `find_cached` would have returned it
    finished.rename(target)
    return replace(installation, bin_dir=target / bin_dir.relative_to(finished))


def _fetch(
    apt: Apt, source: PackageSource, progress: Callable[[str], None]
) -> tuple[str, tuple[Package, ...], tuple[Path, ...]]:
    """Fetch the newest package of the extension; return its name, all packages that it needs, and their files."""
    apt.update()
    package = newest_package(apt.package_names())
    if package is None:
        raise EmbeddedServerError(f"Debian {source.suite} at {source.mirror} has no postgresql-NN-pg-background")
    needed = apt.needed(package)
    size = sum(one.size for one in needed)
    progress(f"fetching {package} and {len(needed) - 1} packages ({size / 1e6:.0f} MB)")
    return package, needed, apt.fetch(package)


def check_space(folder: Path) -> None:
    """EmbeddedServerError if there is not enough space to install the packages."""
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


def drop_special_bits(root: Path) -> None:
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


def wrap_programs(bin_dir: Path, architecture: str) -> None:
    """Replace each program with a wrapper; the program itself becomes NAME.bin beside it."""
    triplet, loader = _LOADERS[architecture]
    for program in sorted(bin_dir.iterdir()):
        with program.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                continue
        program.rename(program.with_name(f"{program.name}.bin"))
        program.write_text(_WRAPPER.format(triplet=triplet, loader=loader), encoding="utf-8")
        program.chmod(0o755)
