"""`jobplan report --site`: real records of runs and of a ledger as pages, opened from a disk in Chromium."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from psycopg.conninfo import conninfo_to_dict

from tests.acceptance.console import Database, Jobplan, clean_environment
from tests.chromium import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; as root it has no sandbox."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield started
        started.close()


def _opened(browser: Browser, file: Path, **keys: object) -> tuple[Page, list[str]]:
    """Open a page; the list has what it complained of, or asked the network for."""
    page = browser.new_page(**keys)  # type: ignore[arg-type] # Playwright's own keys
    trouble: list[str] = []
    page.on("console", lambda said: trouble.append(said.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(file.as_uri())
    return page, trouble


def _recorded(jobplan: Jobplan, db: Database, *more: str) -> None:
    good = jobplan.plan("- {id: a, sql: SELECT 1}", name="good", file="good.yaml")
    bad = jobplan.plan("- {id: a, sql: SELECT 1}\n- {id: b, sql: SELECT 1/0, needs: [a]}", name="bad", file="bad.yaml")
    for plan, code in ((good, 0), (bad, 1), (good, 0), (bad, 1)):
        assert jobplan("run", plan, "--dsn", db.dsn, *more).code == code


def test_the_pages_open_from_a_disk_and_lead_to_each_other(jobplan: Jobplan, db: Database, browser: Browser) -> None:
    _recorded(jobplan, db)
    written = jobplan("report", "--site", "public")
    assert (written.code, written.out) == (0, "public/index.html: 4 runs of 2 plans\n")
    page, trouble = _opened(browser, jobplan.folder / "public" / "index.html", timezone_id="Africa/Nairobi")
    assert page.get_by_role("region", name="Failed in the last run").locator("h3 a").all_inner_texts() == ["bad"]
    assert "Africa/Nairobi" in page.locator("header time").inner_text()
    page.get_by_role("region", name="Plans").get_by_role("link", name="bad").click()
    assert page.locator("h1").inner_text() == "bad"
    steps = page.get_by_role("region", name="Steps").locator("td.name").all_inner_texts()
    assert steps == ["a", "b"]
    assert page.get_by_role("region", name="Failures").locator("tbody tr").count() == 2
    assert "division by zero" in page.get_by_role("region", name="Failures").inner_text()
    page.get_by_role("link", name="All plans").click()
    assert page.locator("h1").inner_text() == "Recorded runs"
    assert trouble == []
    page.close()


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_the_window(
    jobplan: Jobplan, db: Database, browser: Browser, width: int, scheme: str
) -> None:
    _recorded(jobplan, db)
    assert jobplan("report", "--site", "public").code == 0
    for file in (jobplan.folder / "public").iterdir():
        page, trouble = _opened(browser, file, viewport={"width": width, "height": 844}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert trouble == []
        page.close()


def test_the_ledger_adds_the_runs_that_this_machine_has_no_journal_of(jobplan: Jobplan, db: Database) -> None:
    assert jobplan("ledger", "install", "--dsn", db.dsn).code == 0
    _recorded(jobplan, db, "--journal", "elsewhere")
    assert jobplan("report", "--site", "public").out == "public/index.html: 0 runs of 0 plans\n"
    written = jobplan("report", "--site", "public", "--dsn", db.dsn)
    assert (written.code, written.out) == (0, "public/index.html: 4 runs of 2 plans\n")
    from_ledger = {path.name: path.read_text() for path in (jobplan.folder / "public").iterdir()}
    both = jobplan("report", "--site", "both", "--dsn", db.dsn, "--journal", "elsewhere")
    assert both.out == "both/index.html: 4 runs of 2 plans\n"
    page = next(text for name, text in from_ledger.items() if name.startswith("plan-bad"))
    assert "division by zero" in page
    assert page.count('<td class="name"><code>') == 2
    assert "1 failed" in from_ledger["index.html"]


def test_without_a_ledger_and_without_a_server_it_says_so(jobplan: Jobplan, db: Database) -> None:
    none = jobplan("report", "--site", "public", "--dsn", db.dsn)
    assert (none.code, "there is no ledger in schema jobplan" in none.err) == (4, True)
    lost = jobplan("report", "--site", "public", "--dsn", "host=127.0.0.1 port=1")
    assert lost.code == 4
    assert not (jobplan.folder / "public").exists()


@pytest.mark.parametrize("server", ["without a ledger", "down"])
def test_a_server_that_only_the_environment_names_is_left_out_with_a_note(
    jobplan: Jobplan, db: Database, server: str
) -> None:
    _recorded(jobplan, db)
    dsn = db.dsn if server == "without a ledger" else "host=127.0.0.1 port=1"
    written = jobplan("report", "--site", "public", env={"JOBPLAN_DSN": dsn})
    assert (written.code, written.out) == (0, "public/index.html: 4 runs of 2 plans\n")
    assert written.err.startswith("jobplan: the ledger is left out: ")
    assert len(written.err.splitlines()) == 1
    assert "the ledger in schema" not in (jobplan.folder / "public" / "index.html").read_text()


def test_damaged_journals_are_listed_and_the_others_counted(jobplan: Jobplan, db: Database) -> None:
    _recorded(jobplan, db)
    runs = sorted((jobplan.folder / ".jobplan" / "runs").iterdir())
    lines = (runs[0] / "events.jsonl").read_bytes().splitlines(keepends=True)
    (runs[0] / "events.jsonl").write_bytes(b"".join([*lines[:2], b"{broken\n", *lines[3:]]))
    (runs[1] / "events.jsonl").write_bytes(b"\x00\xff not JSON\n")
    written = jobplan("report", "--site", "public")
    assert (written.code, written.out) == (0, "public/index.html: 4 runs of 2 plans, 2 of them damaged\n")
    index = (jobplan.folder / "public" / "index.html").read_text()
    assert "Damaged records" in index
    assert all(run.name in index for run in runs[:2])


def test_a_folder_that_cannot_be_written_is_an_error_in_a_line(jobplan: Jobplan) -> None:
    (jobplan.folder / "file").write_text("mine")
    for place in ("file", "file/site", "/proc/site"):
        refused = jobplan("report", "--site", place)
        assert refused.code == 4
        assert f"the pages in {place} cannot be written" in refused.err
    assert (jobplan.folder / "file").read_text() == "mine"


def test_a_limit_on_the_size_of_files_keeps_the_previous_pages(jobplan: Jobplan, db: Database) -> None:
    _recorded(jobplan, db)
    assert jobplan("report", "--site", "public").code == 0
    before = {path.name: path.read_bytes() for path in (jobplan.folder / "public").iterdir()}
    full = subprocess.run(
        [sys.executable, "-m", "runner", "report", "--site", "public"],
        cwd=jobplan.folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert (full.returncode, "cannot be written: File too large" in full.stderr) == (4, True)
    assert {path.name: path.read_bytes() for path in (jobplan.folder / "public").iterdir()} == before


def test_the_folder_must_be_named(jobplan: Jobplan) -> None:
    assert "--site" in jobplan("report").err
    assert jobplan("report").code == 2


def test_the_targets_of_a_fleet_run_have_their_last_status(jobplan: Jobplan, db: Database) -> None:
    where = conninfo_to_dict(db.dsn)
    connection = {"host": where["host"], "port": int(str(where["port"])), "user": where["user"]}
    targets = {
        "version": 1,
        "name": "tenants",
        "clusters": {"c1": {"connection": connection, "slots": 4}},
        "targets": [
            {"name": "acme", "cluster": "c1", "database": where["dbname"]},
            {"name": "globex", "cluster": "c1", "database": "missing"},
        ],
    }
    (jobplan.folder / "targets.json").write_text(json.dumps(targets))
    plan = jobplan.plan("- {id: a, sql: SELECT 1}")
    assert jobplan("fleet", "run", plan, "--targets", "targets.json").code == 1
    written = jobplan("report", "--site", "public")
    assert written.code == 0, written.err
    index = (jobplan.folder / "public" / "index.html").read_text()
    rows = re.findall("<tr[^>]*>(.*?)</tr>", index.partition('aria-label="Targets"')[2].partition("</section>")[0])
    assert [re.sub("<[^>]+>", " ", row).split()[:3] for row in rows[1:]] == [["acme", "trial", "succeeded"]]


def test_journals_of_each_age_are_read(jobplan: Jobplan) -> None:
    golden = Path(__file__).parents[1] / "golden" / "journals"
    shutil.copytree(golden, jobplan.folder / "journals")
    written = jobplan("report", "--site", "public", "--journal", "journals")
    assert (written.code, written.err) == (0, "")
    assert "damaged" not in written.out


def test_hundreds_of_journals_are_read(jobplan: Jobplan, db: Database) -> None:
    _recorded(jobplan, db)
    runs = sorted((jobplan.folder / ".jobplan" / "runs").iterdir())
    for number in range(300):
        shutil.copytree(runs[number % 4], jobplan.folder / ".jobplan" / "runs" / f"250101-{number:06}")
    written = jobplan("report", "--site", "public")
    assert (written.code, written.out) == (0, "public/index.html: 304 runs of 2 plans\n")
    assert all(path.stat().st_size < 1_000_000 for path in (jobplan.folder / "public").iterdir())
