"""Fetch Debian's packages of PostgreSQL with pg_background without changing the system.

apt works in a private folder: it neither reads nor writes the system's package state, needs no root, and checks
Debian's signatures against the keyring that the host already has.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runner.embedded.programs import run_program
from runner.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The mirror of the packages, the architecture, and the keyring that must have signed them."""

    mirror: str
    suite: str
    architecture: str
    keyring: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package file that apt would fetch: name and version from the file's name, size in bytes."""

    name: str
    version: str
    size: int


def find_source(environ: Mapping[str, str]) -> Source:
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
    return Source(mirror=mirror, suite=suite, architecture=architecture, keyring=_keyring())


def _keyring(folder: Path = Path("/usr/share/keyrings")) -> Path:
    for name in _KEYRINGS:
        if (folder / name).is_file():
            return folder / name
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


def render_sources(source: Source) -> str:
    """Return the line of sources.list: one architecture, package lists only, Debian's signature required."""
    options = f"arch={source.architecture} signed-by={source.keyring} target=Packages"
    return f"deb [{options}] {source.mirror} {source.suite} main\n"


class Apt:
    """apt in a private folder, which holds its state and the fetched packages."""

    def __init__(self, folder: Path, source: Source) -> None:
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
