#!/usr/bin/env python3
"""Find words of `.ci/words.toml` in tracked files, print each place, and exit 1 if there is one.

A word is matched without regard to case, also as a part of a name (`test_a_role_is_told`). An exception names a file, a
text of the line and a reason; one that matches nothing is an error too, so that the list stays true.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Return the exit code."""
    rules = tomllib.loads((ROOT / ".ci/words.toml").read_text(encoding="utf-8"))
    words = [
        (re.compile(rf"(?<![a-z])(?:{word['pattern'].replace(' ', '[ _]')})(?![a-z])", re.IGNORECASE), word["say"])
        for word in rules["words"]
    ]
    exceptions = rules.get("exceptions", [])
    used: set[int] = set()
    found = 0
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *rules["paths"]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            for pattern, say in words:
                match = pattern.search(line)
                if match is None:
                    continue
                excused = [i for i, e in enumerate(exceptions) if e["path"] == name and e["text"] in line]
                used.update(excused)
                if not excused:
                    found += 1
                    print(f"{name}:{number}: “{match.group()}”: say {say}")
    for i, exception in enumerate(exceptions):
        if i not in used:
            found += 1
            print(f".ci/words.toml: the exception for {exception['path']} matches nothing: {exception['text']}")
    if found:
        print(f"{found} places use words that docs/glossary.md and .ci/words.toml replace")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
