"""Match a value against the `pattern` of a declaration, in bounded time.

Python's engine backtracks, and for a pattern such as `(a+)+b` forty letters take it years. CI checks the plans of
strangers' pull requests, so no pattern may take long. Simple patterns cannot, and are matched here. Every other one is
matched in a process of its own with a limit on its processor time, and all of them together have a limit too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from functools import lru_cache
from typing import Final

#: The longest value that is matched.
MAX_MATCHED: Final = 1_000
#: Seconds of processor time that one match may take, and of real time if the machine is busy.
_MATCH_SECONDS: Final = 1
_WALL_SECONDS: Final = 10.0
#: Seconds that all matches in other processes may take within a minute.
_ALL_SECONDS: Final = 10.0
_WINDOW: Final = 60.0

_CHILD: Final = """\
import json, re, sys, warnings
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
except (ImportError, OSError, ValueError):
    pass
warnings.simplefilter("ignore")
pattern, text = json.load(sys.stdin)
print(int(re.fullmatch(pattern, text) is not None))
"""
#: A piece of a pattern: an escape, a set, the start or end of a group, a quantifier.
_PIECE: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(|\)|[*+?]|\{\d*,?\d*\}|.", re.DOTALL)
#: How many choices a simple pattern may leave to the engine: as many as two stars.
_MOST_CHOICES: Final = 3_000_000


class TooSlowError(ValueError):
    """Matching takes too long, or there is no process to do it in."""


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return a compiled pattern that must match the whole value; ValueError if it is not a regular expression."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about constructs whose meaning may change; they are still valid
            return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None


def matches(pattern: str, text: str) -> bool:
    """Return whether a pattern matches a whole text; ValueError if it is not one, TooSlowError if it takes too long."""
    compiled = compile_pattern(pattern)
    if is_simple(pattern):
        return compiled.fullmatch(text) is not None
    return _elsewhere(pattern, text)


def is_simple(pattern: str) -> bool:
    """Return whether no text of `MAX_MATCHED` characters can keep the engine busy for long.

    That is so if nothing is repeated but single characters and sets, nothing refers to what was matched before, and the
    product of all choices that the engine can try is small.
    """
    choices = 1
    before = ""
    for piece in _PIECE.findall(pattern):
        if before == "(" and piece == "?":  # an extension such as (?: or (?=
            before = ""
            continue
        if re.fullmatch(r"\\[1-9]", piece):
            return False
        repeats = _repeats(piece)
        if piece == "|":
            choices *= 2
        elif repeats is not None:
            if before == ")" and piece != "?":
                return False
            choices *= repeats
        before = "" if repeats is not None else piece
        if choices > _MOST_CHOICES:
            return False
    return "(?P=" not in pattern and "(?(" not in pattern


def _repeats(piece: str) -> int | None:
    """Return how many numbers of repetitions a quantifier allows, None if it is not a quantifier."""
    if piece in {"*", "+"}:
        return MAX_MATCHED + 1
    if piece == "?":
        return 2
    if piece[0] != "{" or len(piece) == 1:
        return None
    low, comma, high = piece[1:-1].partition(",")
    least = int(low[:9] or "0")
    most = (int(high[:9]) if high else MAX_MATCHED) if comma else least
    # Also an exact number repeats a group, and the group may have choices each time.
    return max(min(most, MAX_MATCHED) - least + 1, 1) if comma else 1


_LOCK: Final = threading.Lock()
_SPENT: Final[deque[tuple[float, float]]] = deque()


@lru_cache(maxsize=1024)
def _elsewhere(pattern: str, text: str) -> bool:
    with _LOCK:
        now = time.monotonic()
        while _SPENT and _SPENT[0][0] < now - _WINDOW:
            _SPENT.popleft()
        if sum(seconds for _, seconds in _SPENT) > _ALL_SECONDS:
            raise TooSlowError("cannot be matched: previous patterns took too long")
        try:
            return _in_process(pattern, text)
        finally:
            _SPENT.append((now, time.monotonic() - now))


def _in_process(pattern: str, text: str) -> bool:
    command = [sys.executable, "-I", "-S", "-c", _CHILD.replace("SECONDS", str(_MATCH_SECONDS))]
    try:
        done = subprocess.run(
            command, input=json.dumps([pattern, text]).encode(), capture_output=True, timeout=_WALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise TooSlowError("takes too long to match") from None
    except OSError as error:
        raise TooSlowError(f"cannot be matched: {error}") from None
    if done.stdout.strip() not in {b"0", b"1"}:
        raise TooSlowError("takes too long to match")
    return done.stdout.strip() == b"1"
