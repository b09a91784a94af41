"""How messages count things, list names and shorten texts: `1 step`, `1,234 steps`, `a, b and 3 more`, `a long t…`.

All commands use these functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def counted(number: int, thing: str) -> str:
    """Return a number and what it counts: `1 step`, `2 steps`, `1,234 steps`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def counts(found: Mapping[str, int]) -> str:
    """Return several counts, without those that are 0: `2 errors, 1 warning`; empty if all are 0."""
    return ", ".join(counted(number, thing) for thing, number in found.items() if number)


def ended(sentence: str) -> str:
    """Return a sentence with a full stop at its end, added if there is none."""
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


def some(items: Sequence[str], limit: int = 8) -> str:
    """Return the first items and how many more there are; `nothing` without items."""
    if not items:
        return "nothing"
    more = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def few(items: Sequence[str], limit: int) -> str:
    """Return the first items, and an ellipsis for the others: `a, b, …`."""
    return ", ".join(items[:limit]) + (", …" if len(items) > limit else "")


def cut(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters, with an ellipsis for what is left out."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def listed(words: Iterable[str], *, last: str = "or") -> str:
    """Return words in backquotes as a sentence lists them: `a`, `b` or `c`."""
    quoted = [f"`{word}`" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"
