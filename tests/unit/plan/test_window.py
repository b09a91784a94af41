"""When a window is open: compared with a clock that is read minute by minute, also on days on which it changes."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import Problem
from runner.plan import load_plan
from runner.plan.model import Day, Window
from runner.plan.window import Opening, local_words, longest_opening, opening_at, window_words

#: Zones that change by an hour in spring, by half an hour, at midnight, in the south, for Ramadan, never; and one that
#: left out a day (2011-12-30).
ZONES = (
    *("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut", "America/Santiago"),
    *("Africa/Casablanca", "Asia/Kolkata", "UTC", "Pacific/Apia"),
)
#: Days near changes of the clock in these zones, and an ordinary day.
DAYS = (
    *("2026-03-28", "2026-03-29", "2026-10-25", "2026-03-08", "2026-11-01", "2026-04-05", "2026-10-04"),
    *("2026-09-06", "2026-02-15", "2026-03-22", "2011-12-29", "2011-12-31", "2026-06-17"),
)
MINUTE = 60


def window(begin: str, end: str, *days: Day, zone: str = "Europe/Berlin") -> Window:
    begins, ends = (int(text[:2]) * 3600 + int(text[3:5]) * 60 for text in (begin, end))
    return Window(timezone=zone, from_=begins, to=ends, days=days)


def at(text: str, zone: str = "Europe/Berlin") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def utc(opening: Opening) -> tuple[str, str]:
    opens, closes = (datetime.fromtimestamp(moment, UTC) for moment in (opening.opens, opening.closes))
    return f"{opens:%m-%d %H:%M}", f"{closes:%m-%d %H:%M}"


def scan(a_window: Window, moment: float) -> Opening:
    """Find the opening by reading a clock every minute, from nine days before the moment on."""
    zone = ZoneInfo(a_window.timezone)
    first = int(moment // MINUTE * MINUTE) - 9 * 86_400
    clock = [
        (stamp, datetime.fromtimestamp(stamp, zone).replace(tzinfo=None, fold=0))
        for stamp in range(first, first + 22 * 86_400, MINUTE)
    ]
    openings: list[Opening] = []
    length = (a_window.to - a_window.from_) % 86_400 or 86_400
    start = clock[0][1].date()
    for number in range(1, 20):
        day = start + timedelta(days=number)
        if a_window.days and list(Day)[day.weekday()] not in a_window.days:
            continue
        opens, closes = (first_at(clock, day, seconds) for seconds in (a_window.from_, a_window.from_ + length))
        if openings and opens <= openings[-1].closes:
            openings[-1] = Opening(opens=openings[-1].opens, closes=max(closes, openings[-1].closes))
        elif closes > opens:
            openings.append(Opening(opens=opens, closes=closes))
    return next(opening for opening in openings if moment < opening.closes)


def first_at(clock: list[tuple[int, datetime]], day: date, seconds: int) -> int:
    shown = datetime.combine(day, datetime.min.time()) + timedelta(seconds=seconds)
    return next(stamp for stamp, reading in clock if reading >= shown)


times = st.integers(0, 24 * 12 - 1).map(lambda number: f"{number // 12:02}:{number % 12 * 5:02}")


@settings(max_examples=60, deadline=None)
@given(
    begin=times,
    end=times,
    days=st.sets(st.sampled_from(Day), min_size=1, max_size=6),
    zone=st.sampled_from(ZONES),
    day=st.sampled_from(DAYS),
    minute=st.integers(0, 2 * 24 * 60),
)
def test_the_next_opening_is_what_a_clock_shows(
    begin: str, end: str, days: set[Day], zone: str, day: str, minute: int
) -> None:
    a_window = window(begin, end, *sorted(days, key=list(Day).index), zone=zone)
    moment = at(day, zone) + minute * MINUTE
    found = opening_at(a_window, moment)
    assert moment < found.closes
    assert found.opens < found.closes
    try:
        expected = scan(a_window, moment)
    except StopIteration:  # the change of the clock has skipped the only opening of two weeks
        return
    assert found == expected


@pytest.mark.parametrize(
    ("a_window", "moment", "expected"),
    [
        pytest.param(("22:00", "05:00"), "2026-01-10T12:00", ("01-10 21:00", "01-11 04:00"), id="next, over midnight"),
        pytest.param(
            ("22:00", "05:00"), "2026-01-11T04:59", ("01-10 21:00", "01-11 04:00"), id="inside, after midnight"
        ),
        pytest.param(("22:00", "05:00"), "2026-01-11T05:00", ("01-11 21:00", "01-12 04:00"), id="closed at `to`"),
        pytest.param(("22:00", "05:00"), "2026-03-28T23:00", ("03-28 21:00", "03-29 03:00"), id="an hour shorter"),
        pytest.param(("22:00", "05:00"), "2026-10-24T23:00", ("10-24 20:00", "10-25 04:00"), id="an hour longer"),
        pytest.param(("02:30", "05:00"), "2026-03-28T12:00", ("03-29 01:00", "03-29 03:00"), id="from is skipped"),
        pytest.param(("22:00", "02:30"), "2026-03-28T23:00", ("03-28 21:00", "03-29 01:00"), id="to is skipped"),
        pytest.param(("02:10", "02:50"), "2026-03-28T12:00", ("03-30 00:10", "03-30 00:50"), id="both are skipped"),
        pytest.param(("02:30", "05:00"), "2026-10-24T12:00", ("10-25 00:30", "10-25 04:00"), id="from occurs twice"),
        pytest.param(("22:00", "02:30"), "2026-10-24T23:00", ("10-24 20:00", "10-25 00:30"), id="to occurs twice"),
        pytest.param(("02:15", "02:45"), "2026-10-24T12:00", ("10-25 00:15", "10-25 00:45"), id="both occur twice"),
    ],
)
def test_an_opening_near_a_change_of_the_clock(
    a_window: tuple[str, str], moment: str, expected: tuple[str, str]
) -> None:
    assert utc(opening_at(window(*a_window), at(moment))) == expected


def test_a_day_is_the_one_on_which_the_window_opens() -> None:
    weekend = window("22:00", "05:00", Day.SAT, Day.SUN)
    assert utc(opening_at(weekend, at("2026-01-05T04:00"))) == ("01-04 21:00", "01-05 04:00")  # early on Monday
    assert utc(opening_at(weekend, at("2026-01-05T05:00"))) == ("01-10 21:00", "01-11 04:00")


def test_the_same_time_twice_is_24_hours_and_adjacent_days_are_one_opening() -> None:
    weekend = window("00:00", "00:00", Day.SAT, Day.SUN)
    assert utc(opening_at(weekend, at("2026-01-04T12:00"))) == ("01-02 23:00", "01-04 23:00")
    assert longest_opening(weekend) == 48 * 3600
    assert longest_opening(window("00:00", "00:00", Day.SUN, Day.MON, Day.WED)) == 48 * 3600
    assert longest_opening(window("00:00", "00:00", Day.MON)) == 24 * 3600


def test_seconds_count() -> None:
    short = Window(timezone="UTC", from_=12 * 3600 + 5, to=12 * 3600 + 8)
    noon = at("2026-01-05T12:00", "UTC")
    assert opening_at(short, noon) == Opening(opens=noon + 5, closes=noon + 8)
    assert opening_at(short, noon + 7.999) == Opening(opens=noon + 5, closes=noon + 8)
    assert opening_at(short, noon + 8).opens == noon + 86_400 + 5
    assert longest_opening(short) == 3


def test_words_name_days_times_and_zone() -> None:
    a_window = window("22:00", "05:00", Day.SAT, Day.SUN)
    opening = opening_at(a_window, at("2026-01-03T12:00"))
    assert window_words(a_window) == "sat, sun 22:00 to 05:00 (Europe/Berlin)"
    assert window_words(Window(timezone="UTC", from_=15, to=7 * 3600)) == "00:00:15 to 07:00 (UTC)"
    assert local_words(a_window, opening.opens) == "Sat 2026-01-03 22:00 CET"
    assert local_words(a_window, opening.closes, seen_at=opening.closes - 3600) == "05:00 CET"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Berlin", "did you mean `Europe/Berlin`?"),
        ("europe/berlin", "did you mean `Europe/Berlin`?"),
        ("America/New York", "did you mean `America/New_York`?"),
    ],
)
def test_an_unknown_time_zone_is_refused_with_the_nearest_one(tmp_path: Path, name: str, hint: str) -> None:
    (problem,) = problems(tmp_path, name)
    assert (problem.code, problem.position.line, problem.hint) == ("JP242", 5, hint)


@pytest.mark.parametrize("name", ["Europe", "../UTC", "/etc/passwd", "+02:00", "Zürich", ".", "UTC/", "x" * 100])
def test_what_is_no_time_zone_is_refused(tmp_path: Path, name: str) -> None:
    (problem,) = problems(tmp_path, name)
    assert (problem.code, problem.position.line) == ("JP242", 5)
    assert name in problem.message


def problems(folder: Path, zone: str) -> tuple[Problem, ...]:
    plan = folder / "plan.yaml"
    plan.write_text(
        "version: 1\nname: zones\nbudget: {slots: 1}\ndefaults: {timeout: 1m, on_finish: wait}\n"
        f'window: {{timezone: "{zone}", from: "22:00", to: "05:00"}}\nsteps: [{{id: a, sql: SELECT 1}}]\n',
        encoding="utf-8",
    )
    return load_plan(plan).problems
