"""The static pages of all recorded runs, without a browser and without records on a disk."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from runner.engine.previous_runs import PastRun
from runner.errors import RecordError
from runner.reports.site import INDEX, page_name, site_pages, write_site
from runner.structs import replace
from tests.unit.report_samples import AT, HOSTILE

DAY = 86_400.0


def _run(number: int, plan: str = "nightly", **keys: Any) -> PastRun:
    made = PastRun(
        run=f"26{number:04}-abcdef",
        standing="finished",
        plan=plan,
        database="shop",
        started_at=AT + number * DAY,
        ended_at=AT + number * DAY + 60,
        exit_code=0,
        seconds=60.0,
        steps={"load": (20.0 + number, "succeeded"), "vacuum[a]": (5.0, "succeeded"), "vacuum[b]": (7.0, "succeeded")},
    )
    return replace(made, **keys)


def _failed(number: int, **keys: Any) -> PastRun:
    failures = {"load": ("failed", 'relation "audit" does not exist')}
    return _run(number, exit_code=1, failures=failures, steps={"load": (1.0, "failed")}, **keys)


def _pages(*runs: PastRun) -> dict[str, str]:
    return site_pages(runs, sources=["journals in /srv/<x>"], now=AT, jobplan="1.0")


def _rows(page: str, card: str) -> list[str]:
    """Return the rows of a card as text."""
    section = page.partition(f'aria-label="{card}"')[2].partition("</section>")[0]
    return [re.sub("<title>.*?</title>|<[^>]+>", " ", row) for row in re.findall("<tr[^>]*>(.*?)</tr>", section)][1:]


def test_the_index_has_the_last_status_of_each_plan_and_target_and_links_to_each_plan() -> None:
    runs = [_run(1), _failed(2), _run(1, plan="weekly", run="w"), *(_run(3, target=name, run=name) for name in "ab")]
    pages = _pages(*runs)
    index = pages[INDEX]
    assert [row.split()[:2] for row in _rows(index, "Plans")] == [["nightly", "succeeded"], ["weekly", "succeeded"]]
    targets = {tuple(row.split()[:3]) for row in _rows(index, "Targets")}
    assert targets == {
        ("a", "nightly", "succeeded"),
        ("b", "nightly", "succeeded"),
        ("shop", "nightly", "failed"),
        ("shop", "weekly", "succeeded"),
    }
    assert sorted(set(re.findall(r'href="(plan-[^"]+)"', index))) == sorted(set(pages) - {INDEX})


def test_what_failed_last_is_on_top_with_its_message() -> None:
    page = _pages(_run(1), _failed(2))[INDEX]
    card = page.partition('aria-label="Failed in the last run"')[2].partition("</section>")[0]
    assert "relation &quot;audit&quot; does not exist" in card
    assert page.index('aria-label="Failed in the last run"') < page.index('aria-label="Plans"')
    assert "Failed in the last run" not in _pages(_failed(1), _run(2))[INDEX]


def test_the_page_of_a_plan_has_the_trend_of_each_step_with_instances_added_up() -> None:
    page = _pages(*(_run(number) for number in range(1, 9)), _run(9, steps={"load": (120.0, "succeeded")}))[
        page_name("nightly")
    ]
    rows = {row.split()[0]: row for row in _rows(page, "Steps")}
    assert list(rows) == ["load", "vacuum", "vacuum[a]", "vacuum[b]"]
    assert "2m00s" in rows["load"]
    assert "4.8 times the median" in rows["load"]
    assert "2 instances, added up" in rows["vacuum"]
    assert "12.0s" in rows["vacuum"]
    section = page.partition('aria-label="Steps"')[2].partition("</section>")[0]
    assert section.count("<rect") == 9 + 3 * 8


def test_hundreds_of_runs_and_steps_stay_within_limits_and_say_what_is_left_out() -> None:
    steps = {f"step_{at}": (1.0 + at, "succeeded") for at in range(600)}
    pages = _pages(*(_run(number, steps=steps if number % 50 == 0 else {}) for number in range(700)), _failed(701))
    assert "651 more runs" in pages[INDEX]
    page = pages[page_name("nightly")]
    assert "101 more rows" in page
    assert len(page) < 2_000_000


def test_a_run_without_an_end_a_damaged_one_and_one_that_never_began_are_listed() -> None:
    pages = _pages(
        _run(1, exit_code=None, seconds=None, standing="broken_off", run="killed"),
        _run(2, exit_code=None, seconds=None, standing="running", run="now"),
        PastRun(run="none", standing="not_started"),
        PastRun(run="bad", standing="unreadable", problem="its events are damaged"),
    )
    runs = {row.split()[0]: row for row in _rows(pages[INDEX], "Runs")}
    assert "has no end" in runs["killed"]
    assert "running" in runs["now"]
    assert "not started" in runs["none"]
    assert _rows(pages[INDEX], "Damaged records")[0].split() == ["bad", "its", "events", "are", "damaged"]


def test_no_record_is_a_page_that_says_so() -> None:
    pages = _pages()
    assert list(pages) == [INDEX]
    assert "No run is recorded here." in pages[INDEX]


def test_hostile_names_are_only_text_and_make_no_other_file_name() -> None:
    hostile = _failed(1, plan=HOSTILE, target=HOSTILE, run=HOSTILE, database=HOSTILE, problem=HOSTILE)
    hostile = replace(hostile, failures={HOSTILE: ("failed", HOSTILE)}, steps={HOSTILE: (1.0, HOSTILE)})
    for name, page in _pages(hostile, _run(2, plan="../../etc"), _run(3, plan="\ud800")).items():
        assert re.fullmatch(r"index\.html|plan-[a-z0-9-]+\.html", name)
        assert page.count("<script") == page.count("</script>") == 1
        assert "<img" not in page
        assert all(link == INDEX or link.startswith("plan-") for link in re.findall('href="([^"]*)"', page))


def test_two_plans_never_share_a_page() -> None:
    names = {page_name(plan) for plan in ("a b", "a-b", "A-B", "a" * 60, "a" * 61, "日本", "日", "")}
    assert len(names) == 8


def test_the_ledgers_copy_of_a_run_does_not_count_twice() -> None:
    page = _pages(_run(1), _run(1, host="ledger"))[INDEX]
    assert len(_rows(page, "Runs")) == 1


def test_files_are_replaced_in_one_go_and_the_index_is_the_last(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "site"
    write_site(folder, _pages(_run(1)))
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert set(before) == {INDEX, page_name("nightly")}
    assert all(stat.S_ISREG(path.stat().st_mode) for path in folder.iterdir())
    write_site(folder, _pages(_run(1), _failed(2)))
    assert {path.name for path in folder.iterdir()} == set(before)
    assert all(path.stat().st_ino != before[path.name] for path in folder.iterdir())
    assert (folder / INDEX).stat().st_mtime_ns >= (folder / page_name("nightly")).stat().st_mtime_ns


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_keeps_the_previous_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    write_site(tmp_path, _pages(_run(1)))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RecordError, match=os.strerror(number)):
        write_site(tmp_path, _pages(_run(1), _failed(2)))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("mine", encoding="utf-8")
    with pytest.raises(RecordError, match="cannot be written"):
        write_site(tmp_path / "site", _pages())
    assert (tmp_path / "site").read_text(encoding="utf-8") == "mine"
