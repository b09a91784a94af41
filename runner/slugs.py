"""The readable name of every problem code: `JP341` is `index-blocks-writes`.

The table stands on the ground floor because every floor that reports a problem prints both. Slugs are as stable as
codes: a slug is never given to another code, and never changed.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

#: code → slug, in the order of the codes.
SLUGS: Final = MappingProxyType(
    {
        "JP001": "unreadable-file",
        "JP002": "file-too-large",
        "JP003": "not-utf8",
        "JP004": "forbidden-character",
        "JP005": "yaml-syntax",
        "JP006": "empty-file",
        "JP007": "several-documents",
        "JP008": "not-a-mapping",
        "JP009": "key-not-text",
        "JP010": "duplicate-key",
        "JP011": "bad-alias",
        "JP012": "nested-too-deep",
        "JP013": "too-many-values",
        "JP014": "yaml-tag",
        "JP015": "bad-merge",
        "JP016": "too-many-problems",
        "JP101": "unknown-key",
        "JP102": "missing-key",
        "JP103": "wrong-type",
        "JP104": "not-a-choice",
        "JP105": "out-of-range",
        "JP106": "wrong-form",
        "JP107": "empty-or-too-long",
        "JP108": "duplicate-item",
        "JP109": "not-exactly-one-key",
        "JP201": "duplicate-step-id",
        "JP202": "unknown-step",
        "JP203": "needs-cycle",
        "JP204": "no-timeout",
        "JP205": "no-on-finish",
        "JP206": "detach-step-needed",
        "JP207": "wider-than-budget",
        "JP208": "unknown-pool",
        "JP209": "wider-than-pool",
        "JP210": "timeout-above-run-timeout",
        "JP211": "unknown-condition",
        "JP212": "reserved-setting",
        "JP213": "bad-setting-name",
        "JP214": "duplicate-setting",
        "JP215": "bad-duration",
        "JP216": "bad-output-buffer",
        "JP217": "file-outside-folder",
        "JP218": "missing-file",
        "JP219": "no-sql",
        "JP220": "unknown-parameter",
        "JP221": "parameter-form",
        "JP222": "unscannable-sql",
        "JP223": "include-cycle",
        "JP224": "parameter-declared-twice",
        "JP225": "bad-declaration",
        "JP226": "bad-parameter-value",
        "JP227": "undeclared-parameter",
        "JP228": "missing-parameter-value",
        "JP229": "empty-bounds",
        "JP230": "unequal-items",
        "JP231": "item-name-taken",
        "JP232": "duplicate-need",
        "JP233": "id-too-long",
        "JP234": "need-across-finally",
        "JP300": "sql-syntax",
        "JP301": "psql-command",
        "JP310": "transaction-control",
        "JP311": "listen-in-worker",
        "JP312": "client-copy",
        "JP313": "unused-lock-or-cursor",
        "JP314": "numbered-parameter",
        "JP320": "must-stand-alone",
        "JP321": "commit-beside-statements",
        "JP330": "concurrently-short-lock-timeout",
        "JP331": "index-if-not-exists-unverified",
        "JP332": "validate-in-same-step",
        "JP333": "lock-without-timeout",
        "JP334": "check-under-lock",
        "JP340": "concurrently-unverified",
        "JP341": "index-blocks-writes",
        "JP342": "reindex-blocks-writes",
        "JP343": "refresh-blocks-reads",
        "JP350": "table-rewrite",
        "JP351": "vacuum-full",
        "JP352": "no-where",
        "JP353": "destroys-data",
        "JP354": "server-wide",
        "JP355": "loop-without-commit",
        "JP360": "unsafe-retry",
        "JP361": "no-result-to-expect",
        "JP362": "until-no-rows-uncounted",
        "JP370": "timeout-none",
        "JP371": "statement-timeout-in-sql",
        "JP372": "long-detach",
        "JP373": "no-effect",
        "JP374": "budget-too-large",
        "JP401": "concurrently-conflict",
        "JP402": "overlapping-locks",
        "JP403": "possible-deadlock",
        "JP501": "server-too-old",
        "JP502": "pooler",
        "JP503": "extension-missing",
        "JP504": "extension-not-permitted",
        "JP505": "extension-library",
        "JP506": "server-is-standby",
        "JP507": "read-only-default",
        "JP508": "few-workers-free",
        "JP509": "parallel-queries-take-workers",
        "JP510": "few-connections-left",
        "JP511": "other-processes-hidden",
        "JP512": "old-transactions",
        "JP513": "prepared-transactions",
        "JP514": "invalid-indexes",
        "JP520": "requirement-unmet",
        "JP521": "group-held",
        "JP522": "role-not-takable",
        "JP523": "setting-refused",
        "JP601": "missing-relation",
        "JP602": "missing-column",
        "JP603": "missing-function-or-type",
        "JP604": "dropped-earlier",
        "JP605": "condition-not-boolean",
        "JP606": "statement-refused",
        "JP607": "wrong-relation-kind",
        "JP608": "name-taken",
        "JP609": "dependents-exist",
        "JP610": "missing-privilege",
        "JP611": "partitioned-not-possible",
        "JP612": "not-ordered-after-creation",
        "JP613": "wrong-volatility",
        "JP614": "invalid-index-in-the-way",
        "JP615": "refresh-concurrently-not-possible",
        "JP616": "disk-may-be-too-small",
        "JP617": "may-be-missing",
        "JP618": "detach-concurrently-not-possible",
        "JP619": "items-unreadable",
        "JP620": "not-checkable-now",
        "JP621": "missing-role",
        "JP622": "missing-tablespace",
        "JP623": "missing-extension",
        "JP701": "lock-held-now",
        "JP702": "old-snapshot-now",
        "JP801": "timeout-too-short",
        "JP802": "run-timeout-too-short",
        "JP803": "queue-timeout-too-short",
        "JP901": "unused-ignore",
        "JP902": "unknown-ignore",
    }
)

#: slug → code.
CODES_BY_SLUG: Final = MappingProxyType({slug: code for code, slug in SLUGS.items()})


def slug_of(code: str) -> str:
    """Return the slug of a code, an empty text if it has none."""
    return SLUGS.get(code, "")


def code_of(name: str) -> str | None:
    """Return the code that a code or a slug names, in upper or lower case; None if there is none."""
    word = name.strip()
    return CODES_BY_SLUG.get(word.lower()) or (word.upper() if word.upper() in SLUGS else None)


def with_slug(code: str) -> str:
    """Return a code with its slug behind it: `JP341 index-blocks-writes`."""
    return f"{code} {SLUGS[code]}" if code in SLUGS else code
