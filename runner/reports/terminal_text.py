r"""Makes text from a plan or a server safe for a terminal: control characters become visible escapes.

A message with an escape sequence could clear the screen, rewrite previous lines or colour a failure green. So control
characters are printed as escapes, as psql does. JSON has its own escapes. `##[`, with which GitHub's runner finds
commands in the middle of a line, is written as `##\x5b`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
#: C0 and C1 controls, half surrogate pairs, line separators, and what changes the writing direction or has no
#: width; not the two joiners (U+200C, U+200D), without which some scripts and emoji cannot be written.
#: Source: https://www.unicode.org/reports/tr36/ and the categories Cc, Cf, Cs, Zl, Zp.
_ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0001\U000e0020-\U000e007f]|(?<=##)\\["
)
#: Of these, what `json.dumps` writes as it is.
_LEFT_BY_JSON = re.compile(_ACTING.pattern.replace("\x00-\x1f", ""))


def visible(text: str, *, keep: str = "") -> str:
    r"""Return text on one line in which control characters are escapes: `\x1b`, `\n`; those in `keep` stay."""
    return _ACTING.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def visible_lines(text: str) -> str:
    """Return text of several lines, each as `visible` gives it."""
    return visible(text, keep="\n")


#: What makes a line a workflow command for GitHub's runner, which reads standard output.
_COMMAND = re.compile(r"^(\s*):(?=:)", re.MULTILINE)


def without_commands(text: str) -> str:
    r"""Return text in which no line is a workflow command of GitHub: one that begins with `::` begins with `\x3a:`."""
    return _COMMAND.sub(r"\1\\x3a", text)


def visible_json(text: str) -> str:
    """Return JSON with the same meaning, in which no character acts on a terminal."""
    return _LEFT_BY_JSON.sub(lambda found: "".join(f"\\u{unit:04x}" for unit in _utf16(found[0])), text)


def _escape(character: str) -> str:
    code = ord(character)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return _SHORT.get(character) or (f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}")


def _utf16(character: str) -> tuple[int, ...]:
    data = character.encode("utf-16-be", "surrogatepass")
    return tuple(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))


def columns(text: str) -> int:
    """Return how many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or character in "\u200c\u200d\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


#: A number, with what separates its digits.
_NUMBER = re.compile(r"[(]?[0-9][0-9,./]*")


def _words(text: str) -> list[str]:
    """Return the parts of a line that stay whole: words, and a number with the word that it counts."""
    words: list[str] = []
    for word in text.split(" "):
        if words and word[:1].islower() and _NUMBER.fullmatch(words[-1]):
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


def at_words(text: str, width: int, *, rest: str = "  ") -> list[str]:
    """Return a line as lines of at most `width` columns, broken only between words; `rest` begins the further ones.

    A word that is wider than a line stays whole: the terminal breaks it, and it can be copied as one. What indents the
    first line stays.
    """
    if columns(text) <= width:
        return [text]
    indent = len(text) - len(text.lstrip(" "))
    first, *words = _words(text[indent:])
    lines = [text[:indent] + first]
    for word in words:
        if columns(lines[-1]) + 1 + columns(word) <= width:
            lines[-1] += f" {word}"
        elif word:
            lines.append(rest + word)
    return [line.rstrip() for line in lines]


def some_lines(text: str, width: int, number: int, *, rest: str = "  ") -> list[str]:
    """Return a line in the same way, with an ellipsis for what does not fit into so many lines; none is wider."""
    lines = at_words(text, width, rest=rest)
    if len(lines) > number:
        lines[number - 1 :] = [
            f"{lines[number - 1]} {lines[number].lstrip()} {'…' * (len(lines) > number + 1)}".rstrip()
        ]
    return [cut_at_words(line, width) for line in lines]


def broken(line: str, width: int | None) -> list[str]:
    """Return a line as it is printed: in a terminal of `width` columns broken between words, else as it is.

    Further lines are indented by two more columns.
    """
    if width is None:
        return [line]
    return at_words(visible(line), width, rest=" " * (len(line) - len(line.lstrip()) + 2))


def broken_command(line: str, width: int | None) -> list[str]:
    """Return a line with a label and a command, in which a backslash ends each line but the last, as a shell wants."""
    if width is None:
        return [line]
    text = visible(line)
    lines = at_words(text, width - 2, rest=" " * 10) if columns(text) > width else [text]
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def flowing(parts: Iterable[str], width: int, *, gap: str = "  ") -> list[list[str]]:
    """Return the parts in lines of at most `width` columns, none of them broken; further lines are indented by two."""
    lines: list[list[str]] = []
    room = 0
    for part in parts:
        if lines and columns(part) + len(gap) <= room:
            lines[-1].append(part)
            room -= columns(part) + len(gap)
        else:
            room = width - columns(part) - (2 if lines else 0)
            lines.append([part])
    return lines


def cut_at_words(text: str, width: int) -> str:
    """Return as many words of the text as fit, and an ellipsis for the rest; a first word that is too wide is cut."""
    if columns(text) <= width:
        return text
    lines = at_words(text, max(width - 2, 1), rest="")
    if columns(lines[0]) <= width - 2:
        return f"{lines[0]} …"
    while text and columns(text) > width - 1:
        text = text[: max(len(text) - max((columns(text) - width + 1) // 2, 1), 0)]
    return f"{text.rstrip()}…"
