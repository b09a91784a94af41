"""Ranges of versions, as `requires` writes them: `>=14, <18`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Final

Version = tuple[int, ...]

#: The versions of PostgreSQL on which plans run.
SUPPORTED: Final = (14, 15, 16, 17, 18)
#: How many later versions are tried: a plan may require one that does not exist yet.
_LATER = 5
_MINORS = 100

_COMPARATORS: Mapping[str, Callable[[int, int], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "!=": operator.ne,
    "==": operator.eq,
    "": operator.eq,
}
_CONSTRAINT = re.compile(r"(>=|<=|>|<|==|!=)?\s*(\d+(?:\.\d+)*)", re.ASCII)


def allowed_versions(constraints: str | None) -> tuple[int, ...]:
    """Return the major versions that satisfy constraints on the server, supported and later ones.

    A version counts if any of its minor releases does. Without constraints every supported version does, and none that
    does not exist yet.
    """
    if constraints is None:
        return SUPPORTED
    majors = range(SUPPORTED[0], SUPPORTED[-1] + _LATER + 1)
    return tuple(
        major
        for major in majors
        if any(version_fits(f"{major}.{minor}", constraints) for minor in (*range(_MINORS), 10**6))
    )


def version_fits(version: str, constraints: str) -> bool:
    """Return whether a version such as `16.4` satisfies constraints such as `>=14, <18`.

    Only as many parts are compared as the constraint has: 16.4 is `==16` and `<=16`. Text after the numbers of a
    version (`18beta1`, `16.4 (Debian …)`) is ignored.
    """
    found = re.match(r"\d+(?:\.\d+)*", version, re.ASCII)
    numbers = _numbers(found.group()) if found else ()
    return all(_fits(numbers, part.strip()) for part in constraints.split(","))


def _fits(version: Version, constraint: str) -> bool:
    match = _CONSTRAINT.fullmatch(constraint)
    if match is None:
        return False
    wanted = _numbers(match.group(2))
    compared = _compare(version[: len(wanted)], wanted)
    return _COMPARATORS[match.group(1) or ""](compared, 0)


def _compare(left: Version, right: Version) -> int:
    for a, b in zip_longest(left, right, fillvalue=0):
        if a != b:
            return -1 if a < b else 1
    return 0


def _numbers(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))
