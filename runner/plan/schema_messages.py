"""The messages for values that the schema forbids, for readers who do not know JSON Schema."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from collections.abc import Mapping as MappingABC
from functools import partial
from typing import Any, Final, NamedTuple

from runner.durations import parse_duration
from runner.phrases import listed
from runner.plan.problem_collector import Guesses
from runner.plan.sqlstates import CONDITIONS
from runner.plan.yaml_nodes import Mapping, Node, Scalar
from runner.secret_words import SECRET_WORDS
from runner.sql.tokens import INVISIBLE, name_of

_TYPE_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true` or `false`",
    "null": "null",
    "array": "a list",
    "object": "a mapping",
}
_BOOLEANS = {"true": "true", "yes": "true", "on": "true", "y": "true"}
_BOOLEANS |= {"false": "false", "no": "false", "off": "false", "n": "false"}
#: Keys of other tools, and the key of a plan that means the same.
_ELSEWHERE = {
    "after": "needs",
    "always": "finally",
    "cmd": "sql",
    "command": "sql",
    "concurrency": "budget",
    "condition": "if",
    "depends": "needs",
    "depends_on": "needs",
    "continue_on_error": "allow_failure",
    "continue-on-error": "allow_failure",
    "dependencies": "needs",
    "env": "settings",
    "file": "sql_file",
    "gucs": "settings",
    "jobs": "steps",
    "loop": "for_each",
    "matrix": "for_each",
    "max_parallel": "slots",
    "name": "id",
    "parallelism": "slots",
    "parameters": "params",
    "pool": "pools",
    "query": "sql",
    "register": "capture",
    "retries": "retry",
    "run": "sql",
    "script": "sql_file",
    "statement_timeout": "timeout",
    "tasks": "steps",
    "timeout-minutes": "timeout",
    "timeout_minutes": "timeout",
    "uses": "include",
    "variables": "params",
    "vars": "params",
    "when": "if",
    "with_items": "for_each",
}
_MAIL = (
    "`jobplan run --notify` sends to a webhook; a CI job or a timer's OnFailure sends mail by the exit code, with the "
    "file of `--report`"
)
#: Keys of other tools for which a plan has no key: what to use instead.
_OUTSIDE = {
    "cron": "cron, a systemd timer or a CI schedule starts jobplan",
    "email": _MAIL,
    "mail": _MAIL,
    "notify": _MAIL,
    "on_success": "the step that follows has `needs` with this step",
    "schedule": "cron, a systemd timer or a CI schedule starts jobplan",
    "shell": "a plan has only SQL: the script that calls jobplan runs programs before and after it",
    "slack": _MAIL,
    "trigger": "cron, a systemd timer or a CI schedule starts jobplan",
}
#: Keys of other tools in a step, where a plan has a similar key with another meaning.
_OF_ANOTHER_STEP = {
    "on_failure": "write it in the step that follows: needs: [{step: ID, on: failure}]",
}
_UNIT_WORDS = (
    (r"(?:milliseconds?|millis|msecs?)", "ms"),
    (r"(?:seconds?|secs?)", "s"),
    (r"(?:minutes?|mins?)", "m"),
    (r"(?:hours?|hrs?)", "h"),
    (r"days?", "d"),
)
#: No number in a plan needs more characters than this.
_LONG_NUMBER = 9
_SIZE_UNITS = {"": "kB", "b": "B", "k": "kB", "kb": "kB", "kib": "kB", "m": "MB", "mb": "MB", "mib": "MB", "g": "GB"}


class Wording(NamedTuple):
    """A message and a hint. `meant` is the key that an unknown key probably means."""

    message: str
    hint: str | None = None
    meant: str | None = None


class About(NamedTuple):
    """What a part of the schema describes: its title, and whether it describes the items of a list."""

    title: str | None
    item: bool

    def phrase(self, label: str) -> str:
        """Return the name of the wrong value for a message."""
        if self.item:
            return "a step" if self.title == "a step" else f"an item of `{label}`"
        return label if " " in label else f"`{label}`"


def type_words(types: Iterable[str]) -> str:
    """Return the expected types in words."""
    return " or ".join(_TYPE_WORDS[name] for name in types)


def wrong_type(about: About, label: str, node: Node, expected: str, kinds: Collection[str]) -> Wording:
    """A value has the wrong type."""
    if isinstance(node, Scalar) and node.value is None:
        return Wording(f"{about.phrase(label)} has no value; it must be {expected}")
    message = f"{about.phrase(label)} must be {expected}, not {_shown(node)}"
    return Wording(message, _type_hint(about, node, kinds))


def wrong_form(about: About, label: str, node: Scalar) -> Wording:
    """A text does not have the required form."""
    return Wording(f"{about.phrase(label)}: {_quoted(node.text)} is not {about.title}", _form_hint(about, node.text))


#: Title → the form with a number of any length, and the bound. The schema's pattern limits the digits.
_BOUNDED = {
    "a duration": (re.compile(r"(?:[0-9]+(?:[.][0-9]{1,3})?(?:ms|s|m|h|d))+|[0-9]{19,}"), "at most 24d20h"),
    "a size": (re.compile(r"[0-9]+ ?(?:B|kB|MB|GB)|[0-9]{19,}"), "at most 256MB"),
}


def exceeded(about: About, text: str) -> str | None:
    """Return the bound that a duration or size exceeds if it has the form of one but too many digits."""
    for title, (form, bound) in _BOUNDED.items():
        if (about.title or "").startswith(title) and form.fullmatch(text):
            return bound
    return None


#: A type that only parameters have.
_A_PARAMETER_S_TYPE = "identifier"
NO_SECRETS = (
    "no parameter is secret: a worker's SQL is in pg_stat_activity, the server's log, the journal and the ledger. Keep "
    "the secret on the server, where the SQL reads it: in a user mapping, or a table that only the step's role may read"
)


def not_in(about: About, label: str, node: Node, allowed: list[Any], guesses: Guesses) -> Wording:
    """A value is not one of those allowed."""
    words = [str(word) for word in allowed]
    hint = guesses.did_you_mean(node.text, words) if isinstance(node, Scalar) else None
    if _A_PARAMETER_S_TYPE in words and isinstance(node, Scalar) and node.text.lower() in SECRET_WORDS:
        hint = NO_SECRETS
    return Wording(f"{about.phrase(label)} must be {listed(words)}, not {_shown(node)}", hint)


def out_of_range(about: About, label: str, node: Scalar, bound: str) -> Wording:
    """A number is below or above its bound."""
    if len(node.text) > _LONG_NUMBER:
        return Wording(f"{about.phrase(label)}: {_quoted(node.text)} is out of range; it must be {bound}")
    return Wording(f"{about.phrase(label)} must be {bound}, not {node.text}")


def huge(about: About, label: str, node: Scalar) -> Wording:
    """A whole number has far too many digits."""
    return Wording(f"{about.phrase(label)}: {_quoted(node.text)} is out of range; it has {len(node.text):,} digits")


def empty(about: About, label: str) -> Wording:
    """A value is empty."""
    return Wording(f"{about.phrase(label)} must not be empty")


def too_long(about: About, label: str, at_most: int) -> Wording:
    """A text is too long."""
    return Wording(f"{about.phrase(label)} must have at most {at_most} characters")


def twice(label: str, node: Node) -> Wording:
    """A list has an item twice."""
    what = _quoted(node.text) if isinstance(node, Scalar) else "this item"
    return Wording(f"{what} is in `{label}` twice")


def unknown_key(about: About, label: str, key: str, known: Collection[str], guesses: Guesses) -> Wording:
    """A key is unknown; the hint names the one that was probably meant."""
    hint: str | None
    if (invisible := INVISIBLE.search(key)) is not None:
        hint = f"{name_of(invisible.group())} is in it, which is invisible or looks like a space; remove it"
        return Wording(f"{about.phrase(label)} has no key {_quoted(key)}", hint)
    meant = _ELSEWHERE.get(key)
    if meant in known:
        hint = f"did you mean `{meant}`?"
    elif key in _OUTSIDE:
        hint = _OUTSIDE[key]
    elif meant is not None and key != "name" and "steps" in known and "sql" not in known:
        hint = f"a step has the key `{meant}`"
    else:
        hint = _OF_ANOTHER_STEP.get(key) or guesses.did_you_mean(key, known)
    named = _MEANT.fullmatch(hint or "")
    if hint is None and len(known) <= 8:
        hint = f"its keys are {listed(known, last='and')}"
    return Wording(f"{about.phrase(label)} has no key {_quoted(key)}", hint, named[1] if named is not None else None)


_MEANT = re.compile(r"did you mean `(\w+)`\?")


def missing(about: About, label: str, key: str) -> Wording:
    """A required key is missing."""
    return Wording(f"{about.phrase(label)} has no `{key}`, which is required")


def not_one(about: About, label: str, keys: list[str], node: Mapping) -> Wording:
    """A mapping does not have exactly one of some keys."""
    if len(keys) == 2:
        found = "has both" if any(key in node.values for key in keys) else "has neither"
    else:
        number = sum(key in node.values for key in keys)
        found = f"has {number}" if number else "has none"
    return Wording(f"{about.phrase(label)} must have exactly one of {listed(keys, last='and')}; this one {found}")


def _quoted(text: str) -> str:
    """Quote a text of the file; write invisible characters as their code points."""
    if not text.isascii():
        text = INVISIBLE.sub(lambda found: f"<U+{ord(found.group()):04X}>", text)
    shown = " ".join(text.split())
    return f"`{shown[:57]}…`" if len(shown) > 60 else f"`{shown}`"


def _shown(node: Node) -> str:
    if isinstance(node, Scalar):
        if node.value is None:
            return "nothing"
        return f"the text {_quoted(node.text)}" if isinstance(node.value, str) else _quoted(node.text)
    return "a mapping" if isinstance(node, Mapping) else "a list"


def _type_hint(about: About, node: Node, kinds: Collection[str]) -> str | None:
    if not isinstance(node, Scalar):
        return None
    text = node.text[:60]
    if isinstance(node.value, str):
        if _PARAMETER.fullmatch(text.strip()):
            return _NO_PARAMETER
        word = text.lower()
        if "boolean" in kinds and word in _BOOLEANS:
            return f"write `{_BOOLEANS[word]}`"
        if "integer" in kinds and text.isdecimal():
            return f"write {text.lstrip('0') or '0'}, without quotes"
    elif "string" in kinds:
        return _form_hint(about, text) or f'put it in quotes: "{text}"'
    return f"write it as a list: [{text}]" if "array" in kinds else None


#: A parameter in a place where parameters are not substituted.
_PARAMETER = re.compile(r""":(?:'[\w.]+'|"[\w.]+"|[A-Za-z_]\w*)""")
_NO_PARAMETER = "parameters are not substituted here: write the value itself"


def _form_hint(about: About, text: str) -> str | None:
    """Return a hint with the text that was probably meant."""
    if (invisible := INVISIBLE.search(text)) is not None:
        return f"{name_of(invisible.group())} is in it, which is invisible or looks like a space; remove it"
    if _PARAMETER.fullmatch(text.strip()):
        return _NO_PARAMETER
    meant: str | None = None
    for title, mend in _MENDERS.items():
        if (about.title or "").startswith(title):
            meant = mend(text.strip()[:100])
    return f"did you mean `{meant}`?" if meant and meant != text else None


def _mend_duration(text: str) -> str | None:
    meant = re.sub(r"[\s,]+|\band\b", "", text.lower())
    for words, unit in _UNIT_WORDS:
        meant = re.sub(words, unit, meant)
    if re.fullmatch(r"\d+(\.\d+)?", meant):
        meant += "s"
    try:
        parse_duration(meant)
    except ValueError:
        return None
    return meant


def _mend_size(text: str) -> str | None:
    match = re.fullmatch(r"([0-9]+) *([A-Za-z]*)", text)
    unit = _SIZE_UNITS.get(match[2].lower()) if match else None
    return f"{match[1]}{unit}" if match and unit else None


def _mend_word(text: str, *, joiner: str, allowed: str) -> str | None:
    """Return a text as one word, with `joiner` for characters that are neither letters, digits nor `allowed`."""
    meant = re.sub(f"[^a-z0-9{allowed}]+", joiner, text.lower()).strip(allowed)[:63]
    return meant if meant[:1].isalpha() else None


def _mend_condition(text: str) -> str | None:
    meant = re.sub(r"[^A-Za-z0-9]+", "_", text).lower()
    if len(meant) == 5:
        return meant.upper()
    return meant if meant in CONDITIONS else None


def _mend_time(text: str) -> str | None:
    match = re.fullmatch(r"([0-9]{1,2})(?:[:.h]?([0-9]{2}))?(?::([0-9]{2}))? *(am|pm)?", text.lower())
    if match is None:
        return None
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    if match[4] is not None and 1 <= hour <= 12:
        hour = hour % 12 + (12 if match[4] == "pm" else 0)
    if (hour, minute, second) == (24, 0, 0):
        hour = 0
    if hour > 23 or minute > 59 or second > 59:
        return None
    return f"{hour:02}:{minute:02}" + (f":{second:02}" if match[3] else "")


_MENDERS: Final[MappingABC[str, Callable[[str], str | None]]] = {
    "a duration": _mend_duration,
    "a size": _mend_size,
    "a time of day": _mend_time,
    "an id": partial(_mend_word, joiner="_", allowed="_"),
    "a step's id": partial(_mend_word, joiner="_", allowed="_-"),
    "a name": partial(_mend_word, joiner="-", allowed="_-"),
    "a PostgreSQL condition": _mend_condition,
}
