"""The file of `--env-file`: variables for libpq (PGPASSWORD, PGHOST, …) and for jobplan, as other tools write them.

A line is `NAME=VALUE`, with `export ` before it if it is also for a shell. Empty lines and lines that begin with `#`
are comments. A value in quotes, single or double, is what is between them; one without ends at ` #`, a comment. Nothing
is substituted: `$` and backslashes stay. Variables that the environment has already are not changed.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from runner.errors import UsageError

_MAX_BYTES = 1_000_000
_LINE = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(.*)")
_QUOTED = re.compile(r"""(?:"([^"]*)"|'([^']*)')[ \t]*(?:#.*)?""")
_COMMENT = re.compile(r"(?:^|[ \t])#.*")


def add_variables(path: Path, environment: MutableMapping[str, str]) -> None:
    """Add the variables of a file to the environment, without changing any. UsageError if the file is not valid."""
    for name, value in list(variables(_text(path), path)):
        environment.setdefault(name, value)


def variables(text: str, path: Path) -> Iterator[tuple[str, str]]:
    """Yield the variables of a text. UsageError, with the line but not with its value, if one is not NAME=VALUE."""
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        line = line.strip()  # noqa: PLW2901 - the same line
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise UsageError(f"--env-file: {path}:{number} is not NAME=VALUE.")
        yield found[1], _value(found[2], path, number)


def _value(written: str, path: Path, number: int) -> str:
    if written[:1] not in ("'", '"'):
        value = _COMMENT.sub("", written, count=1).rstrip()
    elif (quoted := _QUOTED.fullmatch(written)) is not None:
        value = quoted[1] if quoted[1] is not None else quoted[2]
    else:
        raise UsageError(
            f"--env-file: {path}:{number}: the value begins with a quote that does not end it.",
            hint="Write the other kind of quote around it.",
        )
    if "\0" in value:
        raise UsageError(f"--env-file: {path}:{number} has a NUL character.")
    return value


def _text(path: Path) -> str:
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            raise UsageError(f"--env-file: {path} is a folder.")
        with path.open("rb") as file:  # also a pipe, such as <(vault …): the user has named it
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--env-file: {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UsageError(f"--env-file: {error}.") from None
    if len(data) > _MAX_BYTES:
        raise UsageError(f"--env-file: {path} is larger than {_MAX_BYTES:,} bytes.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"--env-file: {path} is not UTF-8.") from None
