"""Programs and libraries that a few tests need beside PostgreSQL, brought from Debian as the embedded server's are."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from runner.embedded import debian_packages, server_folders
from runner.embedded.debian_packages import _LOADERS, _unpack, drop_special_bits
from runner.embedded.programs import server_account
from runner.embedded.server_folders import cache_folder


def fetch_package(name: str, environ: Mapping[str, str] | None = None) -> tuple[Path, debian_packages.PackageSource]:
    """Return the root of a Debian package that is unpacked with all that it needs, and where it came from.

    It is kept in the embedded server's cache. EmbeddedServerError where that is not possible.
    """
    environ = environ if environ is not None else os.environ
    source = debian_packages.find_source(environ)
    tools = cache_folder(environ, server_account()) / "tools"
    if not tools.is_dir():
        tools.mkdir(exist_ok=True)
        tools.chmod(0o755)
    root = tools / f"{name}_{source.suite}_{source.architecture}"
    with server_folders.exclusive(tools.parent / "tools.lock"):
        if not root.is_dir():
            _bring(name, source, root)
    return root, source


def _bring(name: str, source: debian_packages.PackageSource, root: Path) -> None:
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=root.parent))
    try:
        apt = debian_packages.Apt(staging, source)
        apt.update()
        finished = staging / "finished"
        finished.mkdir()
        _unpack(apt.fetch(name), finished)
        drop_special_bits(finished)
        finished.chmod(0o755)
        finished.rename(root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def fetch_program(name: str, path: str) -> list[str]:
    """Return the beginning of a command line for a package's program, with the loader and libraries that fit it."""
    root, source = fetch_package(name)
    triplet, loader = _LOADERS[source.architecture]
    libraries = root / "usr/lib" / triplet
    return [str(libraries / loader), "--library-path", str(libraries), str(root / path)]


def host_suite() -> str | None:
    """Return the name of this machine's own Debian release; None if it is none."""
    release = Path("/etc/os-release")
    lines = release.read_text(encoding="utf-8").splitlines() if release.exists() else []
    names = dict(line.split("=", 1) for line in lines if "=" in line)
    return names.get("VERSION_CODENAME", "").strip('"') or None if names.get("ID") == "debian" else None
