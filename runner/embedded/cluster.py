"""The data directory of an embedded server: a template that is made once and copied for each server, and the settings.

initdb takes seconds, a copy of its result a tenth of a second. The template has the extension in `postgres` and in
template1, so that every database of a copy has it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from runner.embedded import server_folders
from runner.embedded.programs import make_folder, make_readable_folder, run_program, write_file
from runner.errors import EmbeddedServerError
from runner.structs import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runner.embedded.installations import Installation
    from runner.embedded.programs import Account

SETTINGS_FILE = "jobplan.conf"
#: The connection strings and the server's own folder depend on these.
RESERVED_SETTINGS = frozenset({"listen_addresses", "port", "unix_socket_directories", "unix_socket_permissions"})

#: Increased when the way a template is made changes, so that existing templates are not used any more.
_TEMPLATE_FORMAT = 1
_STAGING_PREFIX = ".new-"
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?")
_SCRAM_ITERATIONS = 4096
#: Packaged builds use the host's time zone files, not their own.
_UTC_DATA = Path("/usr/share/zoneinfo/UTC")


def server_settings(*, port: int, socket_dir: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return an embedded server's settings; `extra` has the caller's, which override the defaults.

    EmbeddedServerError if `extra` has an invalid name, or one that the connection strings depend on.
    """
    for name in extra:
        if not _SETTING_NAME.fullmatch(name):
            raise EmbeddedServerError(f"{name!r} is not the name of a PostgreSQL setting.")
        if name.lower() in RESERVED_SETTINGS:
            raise EmbeddedServerError(f"The embedded server chooses {name} itself.")
    zone = "UTC" if _UTC_DATA.exists() else "GMT"
    return {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": str(socket_dir),
        "unix_socket_permissions": "0700",
        "max_worker_processes": "64",
        "fsync": "off",  # for trials and tests: a crash of the machine may lose all data
        "autovacuum": "on",
        # the same on every machine; only GMT needs no time zone data, which small containers lack
        "timezone": zone,
        "log_timezone": zone,
        **extra,
    }


def render_settings(settings: Mapping[str, str]) -> str:
    """Return the text of a configuration file, every value quoted; EmbeddedServerError if one has a line break."""
    lines = ["# Written at each start by jobplan's embedded server."]
    for name, value in settings.items():
        if "\n" in value or "\r" in value:
            raise EmbeddedServerError(f"The value of the setting {name} has a line break.")
        lines.append(f"{name} = '{value.replace(chr(92), chr(92) * 2).replace(chr(39), chr(39) * 2)}'")
    return "\n".join(lines) + "\n"


def scram_verifier(password: str, salt: bytes) -> str:
    """Return the form in which PostgreSQL stores a password (RFC 5802, 7677), so that the password is never logged."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored, server = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{salt_text}${stored}:{server}"


def is_ours(data_dir: Path) -> bool:
    """Return whether jobplan made `data_dir`; no other cluster is ever started or changed."""
    return (data_dir / SETTINGS_FILE).exists()


class MadeBy(Struct, frozen=True, kw_only=True):
    """The major version of an embedded server's data, and the programs that last ran on them, if known."""

    data_dir: Path
    major: int
    programs: Path | None


def made_by(data_dir: Path) -> MadeBy | None:
    """Return what made the data in `data_dir`; None if they are not those of an embedded server."""
    if not is_ours(data_dir):
        return None
    try:
        major = int((data_dir / "PG_VERSION").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return MadeBy(data_dir=data_dir, major=major, programs=_noted_programs(data_dir))


def note_programs(data_dir: Path, bin_dir: Path) -> None:
    """Record which programs run on the data, in a file beside them, because the data may belong to another account."""
    with contextlib.suppress(OSError):  # the version alone is enough to find programs
        write_file(programs_file(data_dir), f"{bin_dir}\n")


def programs_file(data_dir: Path) -> Path:
    """Return the file that `note_programs` writes."""
    return data_dir.with_name(f"{data_dir.name}.programs")


def _noted_programs(data_dir: Path) -> Path | None:
    """Return what `note_programs` wrote, unless another user can write the file: it names programs to execute."""
    path = programs_file(data_dir)
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return None
        return Path(path.read_text(encoding="utf-8").rstrip("\n"))
    except (OSError, ValueError):
        return None


def ensure_template(cache: Path, installation: Installation, account: Account, progress: Callable[[str], None]) -> Path:
    """Return the template for `installation`; make it if there is none yet."""
    templates = cache / "templates"
    make_readable_folder(templates, account)
    target = templates / template_name(installation, account)
    if target.is_dir():
        return target
    with server_folders.exclusive(cache / "templates.lock"):
        if target.is_dir():
            return target
        for leftover in templates.glob(f"{_STAGING_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        progress("preparing an empty database cluster (once)")
        staging = _reserve(templates, account)
        try:
            _make_cluster(staging, installation, account)
            staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _reserve(templates: Path, account: Account) -> Path:
    staging = templates / tempfile.mktemp(prefix=_STAGING_PREFIX, dir="")  # noqa: S306 (mkdir below refuses what is there)
    make_folder(staging, account)
    return staging


def template_name(installation: Installation, account: Account) -> str:
    """Return a name that is different for every combination of what a template depends on."""
    made_of = (_TEMPLATE_FORMAT, installation.bin_dir, installation.build, installation.extension, account.uid)
    return f"{installation.version}-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]}"


def _make_cluster(data_dir: Path, installation: Installation, account: Account) -> None:
    if not account.listed:
        raise EmbeddedServerError(
            f"PostgreSQL's initdb needs a name for the user id {account.uid}, and /etc/passwd has none.",
            hint="Add an entry for it, or run jobplan as a user that has one.",
        )
    arguments = [
        installation.program("initdb"),
        f"--pgdata={data_dir}",
        "--username=postgres",
        "--auth-local=trust",  # the socket's folder is private
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--no-sync",
        *locale_options(installation.major, _locale_names()),
    ]
    run_program(arguments, account=account, own_session=True)
    for database in ("template1", "postgres"):
        # single-user mode needs no server; without exit_on_error it returns 0 even when a statement failed
        single = [installation.program("postgres"), "--single", "-F", "-j", "-D", str(data_dir)]
        single += ["-c", "exit_on_error=on"]
        run_program([*single, database], account=account, stdin="CREATE EXTENSION pg_background;\n\n", own_session=True)
    with (data_dir / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(f"\ninclude '{SETTINGS_FILE}'\n")
    write_file(data_dir / SETTINGS_FILE, render_settings({}), account)


def locale_options(major: int, known: frozenset[str]) -> list[str]:
    """Return initdb's options for C.UTF-8: of the builtin provider (17 or later), else of the system."""
    if major >= 17:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    for name in ("C.UTF-8", "C.utf8"):
        if name in known:
            return [f"--locale={name}"]
    return ["--locale=C"]


def _locale_names() -> frozenset[str]:
    program = shutil.which("locale")
    return frozenset(run_program([program, "-a"]).split()) if program else frozenset()


def copy_template(template: Path, data_dir: Path, account: Account) -> None:
    """Make `data_dir` a copy of the template, completely or not at all; copy-on-write if possible."""
    staging = data_dir.with_name(f"{data_dir.name}{_STAGING_PREFIX}")
    shutil.rmtree(staging, ignore_errors=True)
    make_folder(staging, account)
    source = f"{template}/."
    try:
        run_program(["cp", "-a", "--reflink=auto", source, str(staging)], account=account)
    except EmbeddedServerError:
        # cp of another system than GNU; with GNU's cp this repeats the error
        run_program(["cp", "-Rp", source, str(staging)], account=account)
    staging.rename(data_dir)
