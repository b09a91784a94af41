"""The table of problem codes: `JP341` is `index-blocks-writes`, a warning.

Every package that reports a problem uses this table. Codes and slugs are stable: none is given to another problem, and
a retired one is never used again. What a code means, why it is a problem and what to do about it is in
`docs/rules/JP341.md`, one page for each code.

JP0xx: the file is not readable YAML. JP1xx: the schema forbids it. JP2xx: the plan as a whole is not valid. JP3xx and
JP4xx: the rules of `runner.lint`. JP5xx to JP8xx: findings of a dry run and of doctor on a server. JP9xx: comments.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from runner.errors import Cause, Position, Problem, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A kind of problem: its stable code and readable slug, its usual severity, and a title without a full stop."""

    code: str
    slug: str
    severity: Severity
    title: str


_E, _W = Severity.ERROR, Severity.WARNING

_ROWS: Final = (
    # the file
    ("JP001", "unreadable-file", _E, "The file cannot be read"),
    ("JP002", "file-too-large", _E, "The file is too large"),
    ("JP003", "not-utf8", _E, "The file is not UTF-8"),
    ("JP004", "forbidden-character", _E, "A character that is not allowed"),
    ("JP005", "yaml-syntax", _E, "This is not YAML"),
    ("JP006", "empty-file", _E, "The file is empty"),
    ("JP007", "several-documents", _E, "More than one document"),
    ("JP008", "not-a-mapping", _E, "The top level is not a mapping"),
    ("JP009", "key-not-text", _E, "A key is not text"),
    ("JP010", "duplicate-key", _E, "A key is repeated"),
    ("JP011", "bad-alias", _E, "An alias without an anchor, or within its own anchor"),
    ("JP012", "nested-too-deep", _E, "Nested too deep"),
    ("JP013", "too-many-values", _E, "Too many values"),
    ("JP014", "yaml-tag", _E, "A YAML tag"),
    ("JP015", "bad-merge", _E, "A merge key whose value is not a mapping"),
    ("JP016", "too-many-problems", _E, "Too many problems"),
    # the schema
    ("JP101", "unknown-key", _E, "An unknown key"),
    ("JP102", "missing-key", _E, "A required key is missing"),
    ("JP103", "wrong-type", _E, "A value of the wrong type"),
    ("JP104", "not-a-choice", _E, "A value that is not one of the allowed ones"),
    ("JP105", "out-of-range", _E, "A number out of range"),
    ("JP106", "wrong-form", _E, "A text that does not have the right form"),
    ("JP107", "empty-or-too-long", _E, "An empty value, or one that is too long"),
    ("JP108", "duplicate-item", _E, "The same item twice"),
    ("JP109", "not-exactly-one-key", _E, "Not exactly one of two keys"),
    # the plan as a whole
    ("JP201", "duplicate-step-id", _E, "Two steps with the same id"),
    ("JP202", "unknown-step", _E, "An unknown step"),
    ("JP203", "needs-cycle", _E, "Steps that need each other in a cycle"),
    ("JP204", "no-timeout", _E, "No timeout"),
    ("JP205", "no-on-finish", _E, "No on_finish"),
    ("JP206", "detach-step-needed", _E, "A step depends on a detach step"),
    ("JP207", "wider-than-budget", _E, "A step that needs more slots than the budget has"),
    ("JP208", "unknown-pool", _E, "An unknown pool"),
    ("JP209", "wider-than-pool", _E, "A step that takes more than a pool has"),
    ("JP210", "timeout-above-run-timeout", _W, "A timeout longer than run_timeout"),
    ("JP211", "unknown-condition", _E, "An unknown error condition"),
    ("JP212", "reserved-setting", _E, "A setting that jobplan needs for itself"),
    ("JP213", "bad-setting-name", _E, "Not the name of a setting"),
    ("JP214", "duplicate-setting", _E, "The same setting twice"),
    ("JP215", "bad-duration", _E, "A duration that is not valid"),
    ("JP216", "bad-output-buffer", _E, "A buffer size that is not valid"),
    ("JP217", "file-outside-folder", _E, "A file outside the plan's folder"),
    ("JP218", "missing-file", _E, "A file that does not exist"),
    ("JP219", "no-sql", _E, "No SQL"),
    ("JP220", "unknown-parameter", _E, "An unknown parameter in SQL"),
    ("JP221", "parameter-form", _E, "A parameter in a form that its type does not allow"),
    ("JP222", "unscannable-sql", _E, "SQL that cannot be scanned"),
    ("JP223", "include-cycle", _E, "Files that include each other"),
    ("JP224", "parameter-declared-twice", _E, "A parameter with two different declarations"),
    ("JP225", "bad-declaration", _E, "A value that its declaration or its form does not allow"),
    ("JP226", "bad-parameter-value", _E, "A value that the parameter does not allow"),
    ("JP227", "undeclared-parameter", _E, "A value for a parameter that the plan does not have"),
    ("JP228", "missing-parameter-value", _E, "A parameter without a value"),
    ("JP229", "empty-bounds", _E, "Bounds that exclude everything"),
    ("JP230", "unequal-items", _E, "Items that repeat, or have different keys"),
    ("JP231", "item-name-taken", _E, "An item's name that is already the name of a parameter"),
    ("JP232", "duplicate-need", _E, "The same step twice in `needs`"),
    ("JP233", "id-too-long", _E, "An id that is too long with its prefix"),
    ("JP234", "need-across-finally", _E, "`needs` between steps and finally"),
    ("JP240", "misplaced-parameter", _E, "A parameter where none is allowed"),
    ("JP241", "parameter-shown-as-text", _W, "A parameter in a text that is only displayed"),
    ("JP242", "unknown-time-zone", _E, "An unknown time zone"),
    ("JP243", "window-always-open", _E, "A window that never closes"),
    ("JP244", "timeout-above-window", _W, "A timeout longer than the window"),
    ("JP245", "no-window-to-ignore", _W, "A window that is ignored and does not exist"),
    ("JP247", "unknown-hold", _E, "An unknown hold"),
    ("JP248", "duplicate-hold", _E, "Two holds with one name"),
    ("JP249", "hold-in-finally", _E, "A hold for a step of finally"),
    ("JP250", "bad-hold-table", _E, "Not the name of a table"),
    ("JP251", "yielded-without-yield-after", _E, "A retry for a yield that cannot happen"),
    ("JP252", "carry-name-taken", _E, "The name of a carried value is already in use"),
    ("JP253", "adapt-param", _E, "A parameter that cannot be adapted"),
    ("JP254", "adapt-bounds", _E, "Bounds that do not fit the adapted parameter"),
    ("JP255", "carry-reads-one-row", _E, "A result that is not read with `carry`"),
    ("JP256", "repeat-without-limit", _E, "A repeat without max_iterations"),
    ("JP257", "key-not-for-group", _E, "A key that a group does not have"),
    ("JP258", "group-in-group", _E, "A group, or items, inside a group"),
    ("JP259", "bad-binding", _E, "A wrong value in `with`"),
    ("JP262", "chunk-with-repeat", _E, "A chunk in a loop"),
    ("JP263", "chunk-of-columns", _E, "A chunk of items with several columns"),
    ("JP264", "chunk-where-one-value", _E, "A chunk where one value is needed"),
    ("JP265", "leftovers-of-nothing", _E, "leftovers: drop without anything to remove"),
    # targets files
    ("JP270", "unknown-cluster", _E, "A cluster that the targets file does not have"),
    ("JP271", "duplicate-target", _E, "A target or a wave twice"),
    ("JP272", "secret-in-targets", _E, "A secret in a targets file"),
    ("JP273", "two-rest-waves", _E, "Two waves without a condition"),
    ("JP274", "bad-selector", _E, "A selector or a label that is not valid"),
    # the settings of a project
    ("JP275", "toml-syntax", _E, "This is not TOML"),
    ("JP276", "secret-in-settings", _E, "A secret in the settings of a project"),
    ("JP277", "bad-setting", _E, "A setting that is not valid"),
    # SQL and how it runs
    ("JP300", "sql-syntax", _E, "A syntax error in SQL"),
    ("JP301", "psql-command", _E, "A command of psql in SQL"),
    ("JP302", "sql-not-checked", _W, "SQL that is not checked"),
    ("JP303", "unknown-option", _E, "An option that no version knows"),
    ("JP304", "option-needs-newer-server", _W, "An option that older servers do not have"),
    ("JP305", "invisible-character", _E, "An invisible character in SQL"),
    ("JP306", "body-syntax", _E, "A syntax error in a body"),
    ("JP310", "transaction-control", _E, "Transaction control"),
    ("JP311", "listen-in-worker", _E, "LISTEN or UNLISTEN"),
    ("JP312", "client-copy", _E, "COPY from or to a client"),
    ("JP313", "unused-lock-or-cursor", _W, "A lock or a cursor that nothing uses"),
    ("JP314", "numbered-parameter", _E, "A numbered parameter"),
    ("JP320", "must-stand-alone", _E, "A statement that must stand alone"),
    ("JP321", "commit-beside-statements", _E, "COMMIT inside DO or CALL, with other statements in the step"),
    ("JP322", "new-enum-value-used", _W, "A new enum value that is used before it is committed"),
    ("JP323", "refused-in-body", _W, "A command that cannot run in a body"),
    ("JP330", "concurrently-short-lock-timeout", _W, "CONCURRENTLY with a short lock_timeout"),
    ("JP331", "index-if-not-exists-unverified", _W, "CREATE INDEX CONCURRENTLY IF NOT EXISTS without verify"),
    ("JP332", "validate-in-same-step", _W, "NOT VALID and VALIDATE in one step"),
    ("JP333", "lock-without-timeout", _W, "A strong lock without lock_timeout"),
    ("JP334", "check-under-lock", _W, "A constraint that is checked while the table is locked"),
    ("JP335", "lock-held-while-writing", _W, "A strong lock that is held while rows are written"),
    ("JP336", "new-column-not-null", _W, "A new column that is NOT NULL and has no default"),
    ("JP340", "concurrently-unverified", _W, "CONCURRENTLY without verify"),
    ("JP341", "index-blocks-writes", _W, "An index build that blocks writes"),
    ("JP342", "reindex-blocks-writes", _W, "REINDEX without CONCURRENTLY"),
    ("JP343", "refresh-blocks-reads", _W, "REFRESH MATERIALIZED VIEW without CONCURRENTLY"),
    ("JP350", "table-rewrite", _W, "A table that is rewritten"),
    ("JP351", "vacuum-full", _W, "VACUUM FULL or CLUSTER"),
    ("JP352", "no-where", _W, "UPDATE, DELETE or MERGE of every row"),
    ("JP353", "destroys-data", _W, "A statement that destroys data"),
    ("JP354", "server-wide", _W, "A statement that affects the whole server"),
    ("JP355", "loop-without-commit", _W, "A loop in DO without COMMIT"),
    ("JP356", "rename-breaks-clients", _W, "A rename that breaks running clients"),
    ("JP360", "unsafe-retry", _W, "A retry of a statement that a rollback does not undo"),
    ("JP361", "no-result-to-expect", _E, "A result that the last statement does not return"),
    ("JP362", "until-no-rows-uncounted", _E, "until: no_rows where no rows are counted"),
    ("JP363", "query-canceled-caught", _W, "A loop that catches query_canceled"),
    ("JP364", "own-temporary-table-checked", _E, "A check of a temporary table of the step"),
    ("JP365", "not-one-reading-query", _E, "A condition or a list that is not a single read-only query"),
    ("JP370", "timeout-none", _W, "timeout: none"),
    ("JP371", "statement-timeout-in-sql", _W, "statement_timeout in SQL"),
    ("JP372", "long-detach", _W, "A detach step with a timeout of more than a day"),
    ("JP373", "no-effect", _W, "A step without an effect"),
    ("JP374", "budget-too-large", _W, "A budget that the plan cannot use"),
    ("JP380", "qualified-name-as-identifier", _W, "A qualified name as one identifier"),
    ("JP381", "parameter-in-string", _W, "A parameter in a string"),
    ("JP382", "unused-parameter", _W, "A parameter or an item that nothing uses"),
    ("JP387", "yield-without-retry", _W, "A step that yields and is not tried again"),
    ("JP388", "yield-of-detach-step", _W, "A detach step that yields only while the runner runs"),
    ("JP389", "unused-hold", _W, "A hold that no step waits for"),
    ("JP390", "carry-not-returned", _E, "A carried value that the last statement does not return"),
    ("JP391", "carry-without-order", _E, "A carried value of rows without an order"),
    ("JP392", "carry-may-be-lost", _W, "Carried values that can be lost with their session"),
    ("JP393", "carry-unused", _W, "A carried or adapted value that the SQL does not use"),
    ("JP397", "on-retry-without-retry", _W, "on_retry without retry"),
    ("JP398", "chunk-not-a-list", _E, "A chunk where SQL takes no list"),
    ("JP399", "chunk-fails-as-a-whole", _W, "A chunk that is not repeated item by item"),
    # steps that conflict
    ("JP401", "concurrently-conflict", _W, "CONCURRENTLY at the same time as a conflicting statement"),
    ("JP402", "overlapping-locks", _W, "Steps that can overlap and exclude each other"),
    ("JP403", "possible-deadlock", _W, "Steps that can deadlock"),
    # the server
    ("JP501", "server-too-old", _E, "The server is too old"),
    ("JP502", "pooler", _W, "A pooler between jobplan and the server"),
    ("JP503", "extension-missing", _E, "The extension is missing or too old"),
    ("JP504", "extension-not-permitted", _E, "The role may not use the extension"),
    ("JP505", "extension-library", _E, "The extension's library cannot be used"),
    ("JP506", "server-is-standby", _E, "The server is a standby"),
    ("JP507", "read-only-default", _E, "Transactions are read-only by default"),
    ("JP508", "few-workers-free", _W, "Too few workers are free"),
    ("JP509", "parallel-queries-take-workers", _W, "Parallel queries can take every worker"),
    ("JP510", "few-connections-left", _W, "Too few connections are left"),
    ("JP511", "other-processes-hidden", _W, "Processes of other roles are not visible"),
    ("JP512", "old-transactions", _W, "Old transactions"),
    ("JP513", "prepared-transactions", _W, "Prepared transactions that stay open"),
    ("JP514", "invalid-indexes", _W, "INVALID indexes"),
    ("JP515", "ledger-not-trusted", _W, "A ledger that is ignored"),
    ("JP516", "worker-text-hidden", _W, "Workers do not show their text"),
    ("JP520", "requirement-unmet", _E, "A requirement of the plan does not hold"),
    ("JP521", "group-held", _W, "Another run holds the concurrency group"),
    ("JP522", "role-not-takable", _E, "A role that cannot be set"),
    ("JP523", "setting-refused", _E, "A setting that the server refuses"),
    # statements on a server
    ("JP601", "missing-relation", _E, "A relation or schema that does not exist"),
    ("JP602", "missing-column", _E, "A column or constraint that does not exist"),
    ("JP603", "missing-function-or-type", _E, "A function, operator or type that does not exist"),
    ("JP604", "dropped-earlier", _E, "Dropped by an earlier step"),
    ("JP605", "condition-not-boolean", _E, "A condition that does not return a boolean"),
    ("JP606", "statement-refused", _E, "The server refuses the statement"),
    ("JP607", "wrong-relation-kind", _E, "The wrong kind of relation"),
    ("JP608", "name-taken", _E, "The name is taken"),
    ("JP609", "dependents-exist", _E, "Other objects depend on it"),
    ("JP610", "missing-privilege", _E, "A privilege is missing"),
    ("JP611", "partitioned-not-possible", _E, "A command that does not work on a partitioned table"),
    ("JP612", "not-ordered-after-creation", _W, "No `needs` on the step that creates an object"),
    ("JP613", "wrong-volatility", _W, "A function with the wrong volatility"),
    ("JP614", "invalid-index-in-the-way", _E, "An INVALID index is in the way"),
    ("JP615", "refresh-concurrently-not-possible", _E, "REFRESH … CONCURRENTLY is not possible"),
    ("JP616", "disk-may-be-too-small", _W, "The disk may be too small"),
    ("JP617", "may-be-missing", _W, "An object that may be missing"),
    ("JP618", "detach-concurrently-not-possible", _E, "DETACH … CONCURRENTLY is not possible"),
    ("JP619", "items-unreadable", _E, "The items of for_each cannot be read"),
    ("JP620", "not-checkable-now", _W, "A statement that cannot be checked now"),
    ("JP621", "missing-role", _E, "A role that does not exist"),
    ("JP622", "missing-tablespace", _E, "A tablespace that does not exist"),
    ("JP623", "missing-extension", _E, "An extension or language that does not exist"),
    ("JP624", "statement-needs-newer-server", _E, "A statement that needs a newer server"),
    ("JP625", "rows-hidden-by-policy", _W, "Row-level security hides rows"),
    ("JP626", "step-longer-than-window", _W, "A step that never fits into the window"),
    ("JP627", "window-too-short", _W, "The plan does not fit into the window"),
    ("JP629", "hold-not-measurable", _E, "A hold that cannot be measured"),
    ("JP630", "hold-needs-privilege", _E, "A hold that needs a privilege"),
    ("JP631", "hold-is-on", _W, "A hold is on now"),
    # locks that are held now
    ("JP701", "lock-held-now", _W, "Another session holds a lock that a step would wait for"),
    ("JP702", "old-snapshot-now", _W, "CONCURRENTLY would wait for an old snapshot"),
    # the schedule
    ("JP801", "timeout-too-short", _W, "A step may exceed its timeout"),
    ("JP802", "run-timeout-too-short", _W, "The run may exceed its run_timeout"),
    ("JP803", "queue-timeout-too-short", _W, "A step may wait too long for a slot"),
    # comments
    ("JP901", "unused-ignore", _W, "An ignore comment without a finding"),
    ("JP902", "unknown-ignore", _W, "An ignore comment that names no rule"),
)

#: Every code, in order.
CODES: Final[Mapping[str, Code]] = MappingProxyType(
    {row[0]: Code(code=row[0], slug=row[1], severity=row[2], title=row[3]) for row in _ROWS}
)

#: slug → code.
CODES_BY_SLUG: Final[Mapping[str, str]] = MappingProxyType({entry.slug: entry.code for entry in CODES.values()})

_MAX_WORD = 40  # characters of a misspelt word that are compared


def slug_of(code: str) -> str:
    """Return the slug of a code, an empty text if it has none."""
    return CODES[code].slug if code in CODES else ""


def code_of(name: str) -> str | None:
    """Return the code that a code or a slug names, in upper or lower case; None if there is none."""
    word = name.strip()
    return CODES_BY_SLUG.get(word.lower()) or (word.upper() if word.upper() in CODES else None)


def with_slug(code: str) -> str:
    """Return a code followed by its slug: `JP341 index-blocks-writes`."""
    return f"{code} {CODES[code].slug}" if code in CODES else code


def nearest_code(word: str, known: Iterable[str]) -> str | None:
    """Return a hint that names the code or slug nearest to `word`, None if none is near."""
    codes = sorted(known)
    near = _nearest(word[:_MAX_WORD].upper(), codes) or _nearest(word[:_MAX_WORD].lower(), map(slug_of, codes))
    return f"did you mean {near}?" if near else None


def _nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the one of the similar names that begins like the word for longest: `JP30O` is JP300, not JP630."""
    near = difflib.get_close_matches(word, list(names), n=20)
    return max(near, key=lambda name: _same_beginning(word, name), default=None)


def _same_beginning(one: str, other: str) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def new_problem(
    code: str,
    message: str,
    position: Position,
    *,
    hint: str | None = None,
    step: str | None = None,
    severity: Severity | None = None,
    cause: Cause | None = None,
) -> Problem:
    """Return a problem with the severity of its code, unless `severity` overrides it."""
    return Problem(
        position=position,
        code=code,
        message=message,
        hint=hint,
        severity=severity or CODES[code].severity,
        step=step,
        cause=cause,
    )
