"""What a step reports of its own progress: only the session that launched its worker can read it.

That is why `jobplan status` never shows it, and a run's own terminal and heartbeat do.
"""

from __future__ import annotations

import time

import psycopg

REPORTS = "SELECT pg_background_report_progress(40, 'copying'); SELECT pg_sleep(60)"
PROGRESS = "SELECT progress_pct, progress_msg FROM pg_background_get_progress(%s, %s)"


def test_progress_that_a_step_reports_is_its_launchers_alone(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as launcher, psycopg.connect(database, autocommit=True) as other:
        handle = launcher.execute("SELECT pid, cookie FROM pg_background_launch(%s, 0, '')", (REPORTS,)).fetchone()
        assert handle is not None
        end = time.monotonic() + 30
        while launcher.execute(PROGRESS, handle).fetchone() != (40, "copying"):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert other.execute(PROGRESS, handle).fetchone() in (None, (None, None))
        shown = other.execute("SELECT * FROM pg_stat_activity WHERE pid = %s", handle[:1]).fetchone()
        assert shown is not None
        assert not any("copying" in str(value) and "pg_background_report" not in str(value) for value in shown)
        other.execute("SELECT pg_terminate_backend(%s)", handle[:1])
