"""Report files: one table of kinds, whole files or none, and a page whose text cannot become markup."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from runner.engine.fold import apply
from runner.engine.state import initial_state
from runner.errors import RecordError
from runner.reports.report_kinds import KINDS, ReportFile, open_report, report_text, write_report
from tests.unit.report_samples import HOSTILE, HOSTILE_ITEM, LONG, RUN, everything


def write(kind: str, path: Path, count: int | None = None) -> ReportFile:
    """Let a sink see a run, or the beginning of it, and close it."""
    a_plan, events = everything()
    sink = open_report(kind, path, RUN)
    state = initial_state(a_plan)
    for event in events[:count]:
        apply(state, event)
        sink.handle(event, state)
    sink.tick(events[-1].at, state)
    sink.close()
    assert isinstance(sink, ReportFile) == (kind != "jsonl")
    return sink  # type: ignore[return-value]  # JsonLines has the same attributes


@pytest.mark.parametrize("kind", KINDS)
def test_a_live_report_and_a_recorded_one_are_the_same(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "report"
    sink = write(kind, path)
    a_plan, events = everything()
    assert path.read_text(encoding="utf-8") == report_text(kind, a_plan, RUN, events)
    assert not sink.broken
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_that_cannot_be_written_to_is_refused_before_the_run(kind: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot be written: No such file"):
        open_report(kind, tmp_path / "nowhere" / "report", RUN)


def test_a_place_that_is_lost_during_the_run_is_reported_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    a_plan, events = everything()
    sink = ReportFile("html", folder / "report", RUN)
    state = initial_state(a_plan)
    apply(state, events[0])
    sink.handle(events[0], state)
    folder.rmdir()
    with pytest.raises(RecordError, match=r"the html report .* cannot be written"):
        sink.close()
    assert sink.broken


def test_a_run_that_never_began_leaves_no_report_and_an_old_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("the last one", encoding="utf-8")
    assert write("junit", path, count=0).broken
    assert path.read_text(encoding="utf-8") == "the last one"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write("junit", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text(encoding="utf-8").startswith("<?xml")


class _Page(HTMLParser):
    """Reads a page and keeps its elements and the text of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        self.texts.setdefault(attributes.get("id") or tag, data)


def page() -> _Page:
    a_plan, events = everything()
    parsed = _Page()
    parsed.feed(report_text("html", a_plan, RUN, events))
    return parsed


def test_hostile_text_makes_no_element_on_the_page() -> None:
    tags = [tag for tag, _ in page().elements]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert all(not name.startswith("on") for _, attributes in page().elements for name in attributes)


def test_the_page_loads_nothing() -> None:
    for tag, attributes in page().elements:
        assert not {"src", "action", "data", "poster"} & attributes.keys(), tag
        assert (attributes.get("href") or "#").startswith("#"), tag  # a link leads to a step of the page
    assert "@import" not in page().texts["style"]
    assert "url(" not in page().texts["style"].replace("url(#", "")


def test_the_page_allows_its_own_style_and_script_and_nothing_else() -> None:
    policy = next(a["content"] for tag, a in page().elements if a.get("http-equiv") == "Content-Security-Policy")
    for name in ("style", "script"):
        text = page().texts[name]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}';" in str(policy)
    assert "default-src 'none'" in str(policy)
    assert "unsafe" not in str(policy)


def test_the_data_of_the_page_is_whole() -> None:
    text = page().texts["run"]
    assert not re.search("[<>&\u2028]", text)
    data = json.loads(text)
    steps = {step["key"]: step for step in data["steps"]}
    assert data["texts"][steps["lost"]["sql"]] == LONG
    assert f"vacuum[{HOSTILE_ITEM}]" in steps
    assert steps["deadlocked"]["attempts"][1]["result"]["rows"] == [["1", HOSTILE], ["2", None]]
    assert data["critical"] == ["purge", "vacuum", "wide"]
    assert {node["key"] for node in data["graph"]["nodes"]} == {key for key, one in steps.items() if not one["parent"]}


def test_a_report_that_cannot_be_completed_leaves_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RecordError, match="cannot be written: No space left on device"):
        write_report("html", tmp_path / "a.html", "text")
    assert list(tmp_path.iterdir()) == []


def test_two_runs_that_write_the_same_report_do_not_mix_their_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    replaced = Path.replace

    def watched(part: Path, target: Path) -> Path:
        names.append(part.name)
        return replaced(part, target)

    monkeypatch.setattr(Path, "replace", watched)
    for pid in (1, 2):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        write_report("html", tmp_path / ("a" * 250 + ".html"), "text")
    assert len(set(names)) == 2
    assert all(name.startswith(".") and not name.endswith(".html") for name in names)
