"""Checks for values that Kubernetes or Argo would refuse: the error comes before the manifest is applied."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from typing import Final

from runner.errors import UsageError
from runner.secret_words import is_keyword_string, secrets_in

#: At night, at a minute at which few other jobs start.
SCHEDULE: Final = "17 1 * * *"
_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAMES: Final = {
    "--namespace": re.compile(_LABEL),
    "--secret": re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*"),
    "--service-account": re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*"),
    "--executor-service-account": re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*"),
}
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
#: The fields of a schedule: lowest and highest value, and the names of values from the lowest one.
#: Source: the parser that Kubernetes and Argo use, https://pkg.go.dev/github.com/robfig/cron/v3 (day 7 is an error).
_FIELDS: Final = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _DAYS),
)
_PREDEFINED: Final = re.compile(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)")
_RANGE: Final = re.compile(r"(?:[*?]|(\w+)(?:-(\w+))?)(?:/(\d{1,4}))?", re.ASCII)


def check_name(option: str, name: str | None) -> None:
    """UsageError if an object cannot have this name."""
    if name is not None and not _NAMES[option].fullmatch(name):
        allowed = (
            "63 lower-case letters, digits and dashes"
            if option == "--namespace"
            else "253 lower-case letters, digits, dashes and dots"
        )
        raise UsageError(f"{option} {name!r} is not a name in Kubernetes: use at most {allowed}.")


def check_image(image: str | None) -> None:
    """UsageError if a text cannot be the name of an image."""
    if image is not None and not re.fullmatch(r"[!-~]+", image):
        raise UsageError(f"--image {image!r} is not the name of an image.")


def check_path(option: str, path: str | None) -> None:
    """UsageError if a path in the image is not absolute."""
    if path is not None and not path.startswith("/"):
        raise UsageError(f"{option} {path!r} is not an absolute path in the image.")


def check_dsn(dsn: str) -> None:
    """UsageError if a connection string has a secret, or does not consist of keywords with values."""
    if "://" in dsn or any(secrets_in(dsn)):
        raise UsageError(
            "--dsn: a manifest must not contain a password or a URI.",
            hint="Use keywords, and put the password into the Secret.",
        )
    if not is_keyword_string(dsn):
        raise UsageError("--dsn: this is not a connection string of keywords, such as 'host=db1 dbname=shop'.")


def check_time_zone(zone: str | None) -> None:
    """UsageError if there is no such time zone; if this machine has no time zones, only its form is checked."""
    known = zoneinfo.available_timezones()
    if zone is None or (zone in known if known else re.fullmatch(r"[A-Z][\w+-]*(/[A-Z][\w+-]*)*", zone)):
        return
    raise UsageError(f"--time-zone {zone!r} is not a time zone such as Europe/Vienna.")


def check_schedule(schedule: str) -> None:
    """UsageError if a schedule cannot be parsed by Kubernetes and Argo."""
    problem = next(_schedule_problems(schedule), None)
    if problem is not None:
        raise UsageError(f"--schedule {schedule!r} {problem}.")


def _schedule_problems(schedule: str) -> Iterator[str]:
    if _PREDEFINED.fullmatch(schedule):
        return
    fields = schedule.split(" ")
    if len(fields) != len(_FIELDS):
        yield f"must have five fields, as {SCHEDULE!r} has"
        return
    for field, (name, lowest, highest, names) in zip(fields, _FIELDS, strict=True):
        for part in field.split(","):
            if not _fits(part, lowest, highest, names):
                yield f"has {part!r} as a {name}, which must be from {lowest} to {highest}"


def _fits(part: str, lowest: int, highest: int, names: tuple[str, ...]) -> bool:
    """Return whether a part of a field is `*`, a value, a range of values, or one of these with a step."""
    found = _RANGE.fullmatch(part)
    if found is None or (found[3] is not None and int(found[3]) == 0):
        return False
    numbers = [_number(text.lower(), lowest, names) for text in found.group(1, 2) if text]
    return all(lowest <= number <= highest for number in numbers) and numbers == sorted(numbers)


def _number(text: str, lowest: int, names: tuple[str, ...]) -> int:
    """Return a value of a field as a number; -1, which no field allows, if it is not valid."""
    if text in names:
        return lowest + names.index(text)
    return int(text) if text.isdecimal() else -1
