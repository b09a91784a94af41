"""The documentation holds together: every page is reachable, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))])


def anchors(page: Path) -> set[str]:
    """Return the places of a page that a link can name: its headings, and what it marks itself."""
    text = page.read_text(encoding="utf-8")
    headings = (re.sub(r"[^\w\- ]", "", line.lower()) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE))
    return {heading.strip().replace(" ", "-") for heading in headings} | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no {target}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: {target.name} has no such heading"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert f" {page.name}\n" in navigation, page.name


def test_every_decision_is_listed() -> None:
    listed = re.findall(r"\]\((0[^)]*)\)", (DOCS / "decisions/index.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))


def test_what_comments_cite_of_the_extension_is_there() -> None:
    known = anchors(DOCS / "pg_background.md")
    for source in (
        *(ROOT / "runner").rglob("*.py"),
        *(ROOT / "runner").rglob("*.sql"),
        *(ROOT / "tests").rglob("*.py"),
    ):
        for cited in re.findall(r"pg_background\.md#([\w-]+)", source.read_text(encoding="utf-8")):
            assert cited in known, f"{source}: #{cited}"


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_module_that_a_page_names_is_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = {*re.findall(r"`((?:runner/)?[a-z_]+/[a-z_/]*(?:[a-z_]+\.(?:py|sql))?)`", text)}
    assert len(named) > 5
    for path in named:
        places = [ROOT / path, ROOT / "runner" / path]
        assert any(place.exists() for place in places), f"{name} names {path}"
