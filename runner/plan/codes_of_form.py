"""Problem codes of a file's form: JP0xx, the YAML cannot be read, and JP1xx, the schema forbids it."""

from __future__ import annotations

from typing import Final

#: code → title, why, a wrong example, a right one.
CODES_OF_FORM: Final = {
    "JP001": (
        "The file cannot be read",
        "It does not exist, it is a folder, or this user may not read it.",
        "jobplan validate nigthly.yaml",
        "jobplan validate nightly.yaml",
    ),
    "JP002": (
        "The file is too large",
        (
            "A plan is read into memory, also in CI from an unknown user's pull request. 20 MB is more than any plan "
            "needs, and 10 MB more than any SQL file."
        ),
        "a generated plan of 100,000 steps",
        "a step with `for_each`, or several plans",
    ),
    "JP003": (
        "The file is not UTF-8",
        "YAML and SQL files are read as UTF-8; guessing another encoding could change texts without a warning.",
        "a file saved as UTF-16 or Latin-1",
        "the same file saved as UTF-8",
    ),
    "JP004": (
        "A character that is not allowed",
        (
            "Control characters are invisible in an editor, PostgreSQL cannot store NUL, and only some YAML readers "
            "take U+2028 as a line break."
        ),
        'sql: "SELECT \\0"',
        "sql: SELECT 0",
    ),
    "JP005": (
        "This is not YAML",
        "The parser cannot read the text. Usual causes are the indentation, a tab, or a value that needs quotes.",
        "description: after hours: vacuum",
        'description: "after hours: vacuum"',
    ),
    "JP006": (
        "The file is empty",
        "There is nothing to run.",
        "# to do",
        "version: 1\nname: nightly\n…",
    ),
    "JP007": (
        "More than one document",
        "`---` begins a second document, and it is not clear which of the two is the plan.",
        "version: 1\n---\nversion: 1",
        "two files",
    ),
    "JP008": (
        "The top level is not a mapping",
        "A plan is a mapping of keys to values, not a list or a single text.",
        "- id: vacuum\n  sql: VACUUM",
        "steps:\n  - id: vacuum\n    sql: VACUUM",
    ),
    "JP009": (
        "A key is not text",
        "Keys of a plan are words. YAML reads `1:` as a number and `true:` as a boolean.",
        "x-shards: {1: north}",
        'x-shards: {"1": north}',
    ),
    "JP010": (
        "A key is repeated",
        (
            "Most YAML readers keep the last one without a warning, so a second `timeout` far below the first would be "
            "easy to miss."
        ),
        "timeout: 10m\nslots: 1\ntimeout: 2h",
        "timeout: 2h\nslots: 1",
    ),
    "JP011": (
        "An alias of nothing, or of itself",
        "`*name` repeats the value that an earlier `&name` marks.",
        "retry: *often",
        "x-often: &often {max_attempts: 5}\n…\nretry: *often",
    ),
    "JP012": (
        "Nested too deep",
        "No part of the plan language is nested more than a few levels deep.",
        "x-a: [[[[[…]]]]]",
        "x-a: []",
    ),
    "JP013": (
        "Too many values",
        "Aliases of aliases can expand a few lines to billions of values. More than a million are refused.",
        "x-a: &a [*b, *b, *b, …]",
        "fewer aliases, or a smaller plan",
    ),
    "JP014": (
        "A tag",
        "A tag sets the type of a value for a YAML reader. In a plan, the key determines the type.",
        "timeout: !!python/name:os.system 10m",
        "timeout: 10m",
    ),
    "JP015": (
        "A merge of something that is no mapping",
        "`<<` adds the keys of another mapping to this one.",
        "x-tags: &tags [nightly]\n…\n<<: *tags",
        "x-common: &common {tags: [nightly]}\n…\n<<: *common",
    ),
    "JP016": (
        "Too many problems",
        "Only the first 1,000 problems are reported; most of them probably have one cause.",
        "a file that is no plan",
        "a plan",
    ),
    "JP101": (
        "An unknown key",
        "A misspelt key would otherwise be ignored. A team's own keys begin with `x-`.",
        "tiemout: 10m",
        "timeout: 10m",
    ),
    "JP102": (
        "A required key is missing",
        "There is no sensible default for it.",
        "budget: {}",
        "budget: {slots: 4}",
    ),
    "JP103": (
        "A value of the wrong type",
        (
            "The key takes a value of another type: a text, a number, a list or a mapping. Only `true` and `false` "
            "are booleans; `yes` and `on` are texts."
        ),
        "idempotent: yes",
        "idempotent: true",
    ),
    "JP104": (
        "A value that is none of those allowed",
        "The key takes one of a few words.",
        "on_finish: waits",
        "on_finish: wait",
    ),
    "JP105": (
        "A number out of range",
        "The number has no meaning outside its range.",
        "slots: 0",
        "slots: 1",
    ),
    "JP106": (
        "A text that does not have the right form",
        "Names, durations, sizes and versions each have one form, so that they cannot be misread.",
        "timeout: 30",
        "timeout: 30s",
    ),
    "JP107": (
        "An empty value, or one that is too long",
        "An empty list, mapping or text usually means that a line was forgotten.",
        "steps: []",
        "steps:\n  - id: vacuum\n    sql: VACUUM",
    ),
    "JP108": (
        "The same item twice",
        "Each item of this list counts once; the second was probably meant to be a different one.",
        "tags: [nightly, nightly]",
        "tags: [nightly, weekly]",
    ),
    "JP109": (
        "Not exactly one of two keys",
        "A step runs either its `sql` or its `sql_file`; a `for_each` takes either `items` or `sql`.",
        "id: vacuum\nsql: VACUUM\nsql_file: vacuum.sql",
        "id: vacuum\nsql_file: vacuum.sql",
    ),
}
