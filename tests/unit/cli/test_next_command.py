"""The command that comes next can be pasted as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.cli.options import written_out
from runner.project.places import JOURNALS


@pytest.mark.parametrize(
    ("journal", "dsn", "more", "written"),
    [
        (JOURNALS, "", (), "jobplan resume R"),
        (Path("my journals"), "", (), "jobplan resume R --journal 'my journals'"),
        (JOURNALS, "host=h password=secret", (), "jobplan resume R --dsn host=h"),
        (JOURNALS, "password=secret", (), "jobplan resume R"),
        (JOURNALS, "postgresql://u@h/d", ("--mark", "a=…"), "--dsn 'user=u dbname=d host=h' --mark 'a=…'"),
    ],
)
def test_it_contains_the_given_journal_and_server(journal: Path, dsn: str, more: tuple[str, ...], written: str) -> None:
    assert written_out("resume", "R", journal=journal, dsn=dsn, more=more).endswith(written)


def test_it_leaves_out_what_the_environment_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPLAN_DSN", "host=h dbname=d")
    monkeypatch.setenv("JOBPLAN_JOURNAL", "/var/lib/journals")
    here = Path("/var/lib/journals")
    assert written_out("resume", "R", journal=here, dsn="host=h dbname=d") == "jobplan resume R"
    assert written_out("resume", "R", journal=here, dsn=None) == "jobplan resume R"
    assert written_out("attach", "R", dsn="host=other") == "jobplan attach R --dsn host=other"
    assert written_out("resume", "R", journal=JOURNALS).endswith(f" --journal {JOURNALS}")
