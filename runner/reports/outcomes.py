"""What there is to say of a step's outcome beside its state, in the same words in every form of a report.

Committed although it failed, the sum of its iterations, the server's WARNINGs, what it has left half done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runner.engine.events import WARNING, Leftover, Notice
from runner.engine.state import StepRecord

COMMITTED = "committed, but its check failed"
#: WARNINGs of one attempt that progress shows.
SHOWN_WARNINGS = 10
#: Commands whose number of rows says something.
_COUNTING = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "FETCH", "MOVE"})


def tag_words(tag: str, row_count: int | None) -> str:
    """Write a command tag as psql does: `DELETE 3`, but `VACUUM`."""
    return f"{tag} {row_count}" if row_count is not None and tag in _COUNTING else tag


def sum_words(tag: str, rows: int, iterations: int) -> str:
    """Sum up the iterations of a repeat: `DELETE 57,840 in 7 iterations`; nothing for none."""
    if not iterations:
        return ""
    done = f"{tag} {rows:,}" if tag in _COUNTING else tag
    return f"{done} in {counted(iterations, 'iteration')}".strip()


def sum_of(record: StepRecord) -> str:
    """Sum up the iterations of a step so far; nothing for a step that does not repeat."""
    return sum_words(record.tag, record.rows, record.iterations)


def failure_words(text: str, *, committed: bool) -> str:
    """Say why a step failed, and first of all if its work is committed all the same."""
    return f"{COMMITTED}: {text}" if committed else text


def counted(number: int, thing: str) -> str:
    """Write a number and what it counts: `1 step`, `2 steps`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def warning_texts(notices: Iterable[Notice]) -> Iterator[str]:
    """Yield the server's WARNINGs among the messages of a worker, each on one line, with detail and hint."""
    for notice in notices:
        if notice.severity == WARNING:
            parts = (notice.message, notice.detail, notice.hint)
            yield " ".join(" ".join(part for part in parts if part).split())


def leftover_lines(leftovers: Iterable[Leftover]) -> Iterator[str]:
    """Yield what is left behind, and each way to repair it on a line of its own."""
    for one in leftovers:
        yield f"left behind: {one.what}"
        yield from (f"  {'or ' if number else ''}{repair}" for number, repair in enumerate(one.repair))


def leftover_words(leftovers: Iterable[Leftover]) -> str:
    """Say on one line what is left behind, and the first way to repair each."""
    return "; ".join(f"{one.what} ({one.repair[0]})" if one.repair else one.what for one in leftovers)
