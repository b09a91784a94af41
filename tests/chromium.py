"""Finds a Chromium for the tests of the HTML report, or brings Debian's into a cache of its own.

Nothing of the system is touched: the packages are fetched by apt in a private folder, as the embedded server's are, but
from the release that the host runs, so that the host's own C library fits them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from runner.embedded import debian_packages, server_folders
from runner.embedded.programs import run_program

VARIABLE = "JOBPLAN_TEST_CHROMIUM"
_NAMES = ("chromium-headless-shell", "chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
_WRAPPER = """\
#!/bin/sh
# Starts the unpacked Chromium with the libraries and fonts that came with it.
root={root}
export LD_LIBRARY_PATH="{libraries}" FONTCONFIG_SYSROOT="$root"
exec "$root/usr/lib/chromium/chromium-headless-shell" "$@"
"""


def chromium() -> Path:
    """Return the program: the one that the environment names, one on the path, else one that is fetched.

    EmbeddedServerError, with the reason, if there is none and none can be brought; name one with the variable then.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    for name in _NAMES:
        found = shutil.which(name)
        if found:
            return Path(found)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jobplan-tests"
    return fetched(base)


def fetched(base: Path) -> Path:
    """Return Debian's Chromium from a cache folder, which is filled if it is empty."""
    base.mkdir(parents=True, exist_ok=True)
    program = base / "chromium" / "chromium"
    with server_folders.exclusive(base / "chromium.lock"):
        if not program.exists():
            staging = Path(tempfile.mkdtemp(prefix=".new-", dir=base))
            try:
                _install(staging, base / "chromium")
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        wrapper = _wrapper(base / "chromium" / "root")
        if program.read_text(encoding="utf-8") != wrapper:  # of an earlier version of this module
            program.write_text(wrapper, encoding="utf-8")
    return program


def _wrapper(root: Path) -> str:
    """Return what starts the program; some libraries lie in folders of their own, which Debian's build knows of."""
    folders = {library.parent.relative_to(root) for library in root.glob("usr/lib/*-linux-gnu/**/lib*.so*")}
    return _WRAPPER.format(root=root, libraries=":".join(f"$root/{folder}" for folder in sorted(folders)))


def _install(staging: Path, target: Path) -> None:
    source = debian_packages.find_source({**os.environ, debian_packages.SUITE_VARIABLE: _codename()})
    apt = debian_packages.Apt(staging / "apt", source)
    apt.update()
    files = {*apt.fetch("chromium-headless-shell"), *apt.fetch("fonts-dejavu-core")}
    root = staging / "finished" / "root"
    root.mkdir(parents=True)
    for file in sorted(files):
        if not file.name.startswith("libc6_"):  # the host's own fits its own loader
            run_program(["dpkg-deb", "--extract", str(file), str(root)])
    program = staging / "finished" / "chromium"
    program.touch(mode=0o755)
    shutil.rmtree(target, ignore_errors=True)
    (staging / "finished").rename(target)


def _codename() -> str:
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    return debian_packages.DEFAULT_SUITE
