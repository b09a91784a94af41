"""Problem codes of a plan's meaning, JP2xx: what each value may be, and what the plan must be as a whole."""

from __future__ import annotations

from typing import Final

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
