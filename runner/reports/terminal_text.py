r"""Makes text from a plan or a server safe for a terminal: control characters become visible escapes.

A message with an escape sequence could clear the screen, rewrite previous lines or colour a failure green. So control
characters are printed as escapes, as psql does. JSON has its own escapes. `##[`, with which GitHub's runner finds
commands in the middle of a line, is written as `##\x5b`.
"""

from __future__ import annotations

import re

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
