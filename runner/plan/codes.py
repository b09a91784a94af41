"""The registry of the plan's problem codes: what each one means, why it is a problem, and how to fix the plan.

Codes are stable: a code is never given to another problem, and a retired one is never used again. JP0xx: the file is
not readable YAML. JP1xx: the schema forbids it. JP2xx: the plan as a whole is not valid. JP3xx and above belong to the
safety rules of `runner.lint`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from runner.errors import Severity

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


#: code → title, why, a wrong example, a right one.
CODES_OF_MEANING: Final = {
    "JP201": (
        "Two steps with one id",
        "Records, reports and `needs` refer to a step by its id, in `steps`, in `finally` and in included files.",
        "- id: vacuum\n  sql: VACUUM a\n- id: vacuum\n  sql: VACUUM b",
        "- id: vacuum_a\n  sql: VACUUM a\n- id: vacuum_b\n  sql: VACUUM b",
    ),
    "JP202": (
        "An unknown step",
        "A step can only need a step of the plan.",
        "needs: [vaccum]",
        "needs: [vacuum]",
    ),
    "JP203": (
        "Steps that need each other",
        "Each step would wait for the other forever.",
        "- id: a\n  needs: [b]\n- id: b\n  needs: [a]",
        "- id: a\n- id: b\n  needs: [a]",
    ),
    "JP204": (
        "No timeout",
        (
            "A step without a limit can hold its locks for hours before a person notices. So there is no built-in "
            "default: set it in the step or in `defaults`, if need be to `none`."
        ),
        "- id: vacuum\n  sql: VACUUM",
        "- id: vacuum\n  sql: VACUUM\n  timeout: 1h",
    ),
    "JP205": (
        "No on_finish",
        "The plan must say for every step whether the run waits for it or may end before it does.",
        "- id: vacuum\n  sql: VACUUM",
        "- id: vacuum\n  sql: VACUUM\n  on_finish: wait",
    ),
    "JP206": (
        "A detach step is needed",
        "The run may end before a detach step does, so no step can depend on its outcome.",
        "- id: refresh\n  on_finish: detach\n- id: report\n  needs: [refresh]",
        "- id: refresh\n  on_finish: wait\n- id: report\n  needs: [refresh]",
    ),
    "JP207": (
        "A step wider than the budget",
        "It would wait forever for slots that the run does not have.",
        "budget: {slots: 2}\n…\nslots: 4",
        "budget: {slots: 4}\n…\nslots: 4",
    ),
    "JP208": (
        "An unknown pool",
        "Pools are limits that the budget declares.",
        "budget: {slots: 4}\n…\npools: [heavy_io]",
        "budget: {slots: 4, pools: {heavy_io: 1}}\n…\npools: [heavy_io]",
    ),
    "JP209": (
        "A step that takes more than a pool has",
        "It would wait forever.",
        "budget: {slots: 4, pools: {heavy_io: 1}}\n…\npools: {heavy_io: 2}",
        "budget: {slots: 4, pools: {heavy_io: 2}}\n…\npools: {heavy_io: 2}",
    ),
    "JP210": (
        "A timeout longer than the run's",
        "`run_timeout` ends the run first, so the step never gets its whole timeout. Detach steps may outlive the run.",
        "run_timeout: 1h\n…\ntimeout: 2h",
        "run_timeout: 3h\n…\ntimeout: 2h",
    ),
    "JP211": (
        "An unknown error",
        (
            "Errors are named as PostgreSQL names them (Appendix A of its documentation), or by their SQLSTATE. A "
            "cancel is never retried; a timeout is called `timeout`."
        ),
        "on: [deadlock]",
        "on: [deadlock_detected, timeout]",
    ),
    "JP212": (
        "A setting that jobplan needs for itself",
        "It would break another key of the step, or the session that observes the worker.",
        "settings: {statement_timeout: 10min}",
        "timeout: 10m",
    ),
    "JP213": (
        "Not the name of a setting",
        "Settings have names like work_mem, and those of extensions a prefix with a dot.",
        "settings: {work mem: 64MB}",
        "settings: {work_mem: 64MB}",
    ),
    "JP214": (
        "A setting twice",
        "Names of settings are case-insensitive in PostgreSQL.",
        "settings: {work_mem: 64MB, Work_Mem: 1GB}",
        "settings: {work_mem: 64MB}",
    ),
    "JP215": (
        "A duration that is not valid",
        ("Each unit is written once, the longest first. PostgreSQL's limit is 24 days, and it takes zero as no limit."),
        "timeout: 0s",
        "timeout: none",
    ),
    "JP216": (
        "A buffer size that is not valid",
        "pg_background refuses queues of more than 256 MB, and below 1 kB not even an error message fits.",
        "output_buffer: 1GB",
        "output_buffer: 16MB",
    ),
    "JP217": (
        "A file outside the plan's folder",
        (
            "A plan is reviewed together with its folder, so everything that runs must be in it. Symbolic links are "
            "resolved before the check."
        ),
        "sql_file: ../../home/me/try.sql",
        "sql_file: sql/refresh.sql",
    ),
    "JP218": (
        "A file that does not exist",
        "Paths are relative to the file that names them.",
        "sql_file: refresh.sql",
        "sql_file: sql/refresh.sql",
    ),
    "JP219": (
        "No SQL",
        "PostgreSQL accepts an empty text without an error, and the step would do nothing.",
        'sql: ";"',
        "sql: VACUUM",
    ),
    "JP220": (
        "An unknown parameter in SQL",
        (
            "A colon and a name stand for a parameter of the plan, `run.id`, `run.name`, in finally steps "
            "`run.status`, or the step's `for_each` item."
        ),
        "sql: SELECT :day",
        "params:\n  days: {type: integer}\n…\nsql: SELECT :days",
    ),
    "JP221": (
        "A parameter in a form that its type does not allow",
        "Only numbers and booleans can be written as :name. A text needs :'name', and an identifier :\"name\".",
        "sql: SELECT * FROM :table",
        'sql: SELECT * FROM :"table"',
    ),
    "JP222": (
        "SQL that cannot be scanned",
        "With an unclosed quote, or a colon that introduces nothing, parameters cannot be recognized.",
        "sql: SELECT 'it''s, :days",
        "sql: SELECT 'it''s', :days",
    ),
    "JP223": (
        "Files that include each other",
        "The includes would never end. A plan can have 1,000 includes at most.",
        "# a.yaml\ninclude: [a.yaml]",
        "# a.yaml\ninclude: [b.yaml]",
    ),
    "JP224": (
        "A parameter declared in two ways",
        "Several files may declare one parameter if all declarations are equal.",
        "# a.yaml\nparams: {days: {type: integer}}\n# b.yaml\nparams: {days: {type: string}}",
        "# a.yaml\nparams: {days: {type: integer}}",
    ),
    "JP225": (
        "A value that its declaration or its form does not allow",
        (
            "Type, pattern, minimum and maximum must allow the default and each value of the enum. A number that SQL "
            "would get in another form than the plan has, such as 1.10 in `items`, may be meant as a text, which "
            "needs quotes."
        ),
        "days: {type: integer, minimum: 1, default: 0}",
        "days: {type: integer, minimum: 1, default: 90}",
    ),
    "JP226": (
        "A value that the parameter does not allow",
        "Values from every source are checked before anything runs.",
        "jobplan run plan.yaml --param days=ninety",
        "jobplan run plan.yaml --param days=90",
    ),
    "JP227": (
        "A value for a parameter that the plan does not have",
        "The value would have no effect; the name is probably misspelt.",
        "jobplan run plan.yaml --param dasy=90",
        "jobplan run plan.yaml --param days=90",
    ),
    "JP228": (
        "A parameter without a value",
        "A parameter without a default must be given.",
        "jobplan run plan.yaml",
        "jobplan run plan.yaml --param days=90",
    ),
    "JP229": (
        "Bounds that exclude everything",
        "The lower bound is above the upper one.",
        "expect: {rows: {min: 10, max: 1}}",
        "expect: {rows: {min: 1, max: 10}}",
    ),
    "JP230": (
        "Items that do not match each other",
        "Instances are named after their items, so each item is listed once, and all have the same keys.",
        "for_each: {items: [orders, {table: audit}]}",
        "for_each: {items: [orders, audit]}",
    ),
    "JP231": (
        "An item's name that is taken",
        "In SQL the item could not be distinguished from the parameter.",
        "params: {table: {type: identifier}}\n…\nfor_each: {items: [a, b], as: table}",
        "params: {table: {type: identifier}}\n…\nfor_each: {items: [a, b], as: part}",
    ),
    "JP232": (
        "A step needed twice",
        "One of the two was probably meant to be a different step.",
        "needs: [a, {step: a}]",
        "needs: [a, b]",
    ),
    "JP233": (
        "An id that is too long with its prefix",
        "Ids have 63 characters at most, including the prefix of an included file.",
        "include:\n  - {file: a.yaml, as: a_very_long_prefix_…}",
        "include:\n  - {file: a.yaml, as: a}",
    ),
    "JP234": (
        "A need between steps and finally",
        "Finally steps start when all other steps have ended, so neither kind can wait for the other.",
        "finally:\n  - id: note\n    needs: [vacuum]",
        "finally:\n  - id: note",
    ),
    "JP240": (
        "A parameter where none is allowed",
        (
            "In `role`, `search_path`, `settings` and `touches` a parameter is one whole name or the whole value of a "
            "setting, so that a value cannot add anything else. Other keys would use the parameter's name as text."
        ),
        "search_path: tenant_:n, public",
        'search_path: :"tenant", public',
    ),
    "JP241": (
        "A parameter in a text that is only displayed",
        "Descriptions and messages are displayed as written, with the parameter's name instead of its value.",
        "message: fewer than :least rows",
        "message: fewer rows than the parameter least",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCode:
    """One kind of problem, as `--explain` prints it; `wrong` and `right` are short examples of a plan or a command."""

    title: str
    why: str
    wrong: str
    right: str
    severity: Severity = Severity.ERROR


#: Codes of problems that are warnings.
_RISKS: Final = frozenset({"JP241", "JP210"})

#: Every code of this package, in order.
CODES: Final = MappingProxyType(
    {
        code: PlanCode(
            title=title,
            why=why,
            wrong=wrong,
            right=right,
            severity=Severity.WARNING if code in _RISKS else Severity.ERROR,
        )
        for code, (title, why, wrong, right) in (CODES_OF_FORM | CODES_OF_MEANING).items()
    }
)
