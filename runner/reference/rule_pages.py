"""The explanation of every problem code, for `--explain`, SARIF and the documentation: the pages in `docs/rules`.

A page begins with code and slug, then severity and title, then the reason in prose. Its sections are those of
`_SECTIONS`. A wheel has the pages in the package; a checkout has them in `docs/rules`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from runner.codes import CODES, Code, code_of, nearest_code
from runner.errors import UsageError
from runner.structs import Struct

_SECTIONS: Final = ("Wrong", "Right", "What to do", "How to suppress it")
_HEAD: Final = re.compile(
    r"# (?P<code>JP\d{3}): (?P<slug>[a-z0-9-]+)\n\n\*\*(?P<kind>[^*]+)\.\*\* (?P<title>[^\n]+)\.\n"
)
_FENCED: Final = re.compile(r"```\w+\n(.*?)\n```", re.DOTALL)
#: A line break inside a paragraph or an item of a list; the one before an item stays.
_LINE_BREAK: Final = re.compile(r"(?<=[^\n])\n(?!- ) *(?=[^\n])")


class Explanation(Struct, frozen=True, kw_only=True):
    """The content of a page: `why`, `remedy` and `suppression` are prose in Markdown, with one line for each paragraph
    and each item of a list.

    `wrong` and `right` are parts of a plan, SQL, or a command. `suppression` is an example of the comment that
    suppresses the problem, an empty text if no comment does.
    """

    code: Code
    why: str
    wrong: str
    right: str
    remedy: str
    suppression: str


@lru_cache(maxsize=1)
def explanations() -> MappingProxyType[str, Explanation]:
    """Return the explanation of every code, in the order of the codes."""
    folder = pages_folder()
    return MappingProxyType({code: _explanation(folder, code) for code in CODES})


def explain(name: str) -> Explanation:
    """Return the explanation of a code or slug, in upper or lower case; UsageError if there is none."""
    code = code_of(name)
    if code is None:
        hint = nearest_code(name, CODES)
        raise UsageError(f"There is no code {name!r}.", hint=f"{hint[0].upper()}{hint[1:]}" if hint else None)
    return _explanation(pages_folder(), code)


def pages_folder() -> Traversable:
    """Return the folder with one page for each code."""
    packaged = resources.files("runner") / "rules"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "docs" / "rules"


def read_page(text: str) -> Explanation:
    """Return the explanation that a page holds; ValueError if it lacks a part or differs from the table of codes."""
    head = _HEAD.match(text)
    if head is None:
        raise ValueError("the page does not begin with code, slug, severity and title")
    code = CODES[head["code"]]
    stated = (head["slug"], head["kind"].partition(",")[0].lower(), head["title"])
    if stated != (code.slug, code.severity.value, code.title):
        raise ValueError(f"the page states {stated}, the table {(code.slug, code.severity.value, code.title)}")
    why, *parts = re.split(r"^## (.+)$", text[head.end() :].rpartition("\n[")[0], flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    if tuple(sections) not in {_SECTIONS, _SECTIONS[:-1]}:
        raise ValueError(f"the page has the sections {', '.join(sections)}")
    return Explanation(
        code=code,
        why=_prose(why),
        wrong=_example(sections["Wrong"]),
        right=_example(sections["Right"]),
        remedy=_prose(sections["What to do"]),
        suppression=_example(sections["How to suppress it"]) if _SECTIONS[-1] in sections else "",
    )


def _explanation(folder: Traversable, code: str) -> Explanation:
    return read_page((folder / f"{code}.md").read_text(encoding="utf-8"))


def _prose(text: str) -> str:
    return _LINE_BREAK.sub(" ", text.strip())


def _example(text: str) -> str:
    found = _FENCED.search(text)
    if found is None:
        raise ValueError("a section has no example")
    return found[1]
