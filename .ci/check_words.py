#!/usr/bin/env python3
"""Find words of `.ci/words.toml` in tracked files and names of tests, print each place, and exit 1 if there is one.

A word is matched without regard to case, also as a part of a name (`test_a_role_is_told`). An exception names a file, a
text of the line and a reason; one that matches nothing is an error too, so that the list stays true.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class Words:
    """The rules of a words file. `find` reads files; `unused` then lists the exceptions that matched nothing."""

    def __init__(self, rules: Mapping[str, Any]) -> None:
        self._words = [
            (re.compile(rf"(?<![a-z])(?:{word['pattern'].replace(' ', '[ _]')})(?![a-z])", re.IGNORECASE), word["say"])
            for word in rules["words"]
        ]
        self._exceptions: list[Mapping[str, str]] = rules.get("exceptions", [])
        self._used: set[int] = set()

    def find(self, name: str, lines: Iterable[str]) -> Iterator[str]:
        """Yield a message for each word in the lines of the file `name`, except where an exception allows it."""
        for number, line in enumerate(lines, 1):
            for pattern, say in self._words:
                match = pattern.search(line)
                if match is None:
                    continue
                excused = [i for i, one in enumerate(self._exceptions) if one["path"] == name and one["text"] in line]
                self._used.update(excused)
                if not excused:
                    yield f"{name}:{number}: “{match.group()}”: say {say}"

    def unused(self) -> Iterator[str]:
        """Yield a message for each exception that no line needed."""
        for i, one in enumerate(self._exceptions):
            if i not in self._used:
                yield f".ci/words.toml: the exception for {one['path']} matches nothing: {one['text']}"


def _tracked(paths: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the lines of each tracked text file under `paths`."""
    command = ["git", "ls-files", "-z", "--", *paths]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        try:
            yield name, path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        except UnicodeDecodeError:
            continue


def main() -> int:
    """Return the exit code."""
    rules = tomllib.loads((ROOT / ".ci/words.toml").read_text(encoding="utf-8"))
    words = Words(rules)
    found = [message for name, lines in _tracked(rules["paths"]) for message in words.find(name, lines)]
    for name, lines in _tracked(rules["test_paths"]):
        names = (line if re.match(r"\s*(async )?def test_", line) else "" for line in lines)
        found += words.find(name, names)
    found += words.unused()
    for message in found:
        print(message)
    if found:
        print(f"{len(found)} places use words that docs/glossary.md and .ci/words.toml replace")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
