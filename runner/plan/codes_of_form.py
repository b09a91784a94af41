"""Problem codes of a file's form: JP0xx, what keeps YAML from being read, and JP1xx, what the schema forbids."""

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
            "A plan is read whole, also in CI from a stranger's pull request; 20 MB is more than any plan needs, and "
            "10 MB more than any SQL file."
        ),
        "a generated plan of 100,000 steps",
        "a step with `for_each`, or several plans",
    ),
    "JP003": (
        "The file is not UTF-8",
        "YAML and SQL files are read as UTF-8; guessing another encoding would change texts without a word.",
        "a file saved as UTF-16 or Latin-1",
        "the same file saved as UTF-8",
    ),
    "JP004": (
        "A character that is not allowed",
        (
            "Control characters are invisible in an editor, PostgreSQL cannot hold NUL, and U+2028 is a line break "
            "for some readers and none for others."
        ),
        'sql: "SELECT \\0"',
        "sql: SELECT 0",
    ),
    "JP005": (
        "This is not YAML",
        "The parser cannot make sense of the text. Mostly it is the indentation, a tab, or a value that needs quotes.",
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
        "`---` begins a second document, and nobody could say which of the two is the plan.",
        "version: 1\n---\nversion: 1",
        "two files",
    ),
    "JP008": (
        "The top level is not a mapping",
        "A plan is keys and values; a list or a single text is something else.",
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
        "A key is there twice",
        (
            "Most YAML readers keep the last one without a word; a second `timeout` far below the first has cost more"
            " than one night."
        ),
        "timeout: 10m\nslots: 1\ntimeout: 2h",
        "timeout: 2h\nslots: 1",
    ),
    "JP011": (
        "An alias of nothing, or of itself",
        "`*name` repeats what `&name` marked before it.",
        "retry: *often",
        "x-often: &often {max_attempts: 5}\n…\nretry: *often",
    ),
    "JP012": (
        "Nested too deep",
        "No part of the plan language is deeper than a few levels; a file that is would only stress its readers.",
        "x-a: [[[[[…]]]]]",
        "x-a: []",
    ),
    "JP013": (
        "Too many values",
        "Aliases of aliases can make a few lines stand for billions of values. More than a million are refused.",
        "x-a: &a [*b, *b, *b, …]",
        "fewer aliases, or a smaller plan",
    ),
    "JP014": (
        "A tag",
        "Tags tell a YAML reader which type to make. A plan's types are given by its keys.",
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
        "After the first 1,000 the rest is not told; most of them are probably one problem.",
        "a file that is no plan",
        "a plan",
    ),
    "JP101": (
        "An unknown key",
        "A misspelt key would be ignored, and with it what it was meant to say. A team's own keys begin with `x-`.",
        "tiemout: 10m",
        "timeout: 10m",
    ),
    "JP102": (
        "A required key is missing",
        "There is nothing sensible to assume for it.",
        "budget: {}",
        "budget: {slots: 4}",
    ),
    "JP103": (
        "A value of the wrong type",
        (
            "The key takes a text, a number, a list or a mapping, and this is another one. Only `true` and `false` "
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
        "Outside its range the number means nothing.",
        "slots: 0",
        "slots: 1",
    ),
    "JP106": (
        "A text that does not have the right form",
        "Names, durations, sizes and versions are written in one way each, so that everybody reads them alike.",
        "timeout: 30",
        "timeout: 30s",
    ),
    "JP107": (
        "An empty value, or one that is too long",
        "A list, a mapping or a text that says nothing is mostly a line that was forgotten.",
        "steps: []",
        "steps:\n  - id: vacuum\n    sql: VACUUM",
    ),
    "JP108": (
        "The same item twice",
        "Each item of this list counts once; the second was probably meant to be another.",
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
