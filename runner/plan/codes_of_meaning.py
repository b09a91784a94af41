"""Problem codes of a plan's meaning, JP2xx: what each value may be, and what the plan must be as a whole."""

from __future__ import annotations

from typing import Final

#: code → title, why, a wrong example, a right one.
CODES_OF_MEANING: Final = {
    "JP201": (
        "Two steps with one id",
        "Records, reports and `needs` know a step by its id, in `steps`, in `finally` and in included files.",
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
        "Each would wait for the other for ever.",
        "- id: a\n  needs: [b]\n- id: b\n  needs: [a]",
        "- id: a\n- id: b\n  needs: [a]",
    ),
    "JP204": (
        "No timeout",
        (
            "A step that nothing stops can hold its locks until somebody wakes up. So there is no built-in default: "
            "the step or `defaults` must say, be it `none`."
        ),
        "- id: vacuum\n  sql: VACUUM",
        "- id: vacuum\n  sql: VACUUM\n  timeout: 1h",
    ),
    "JP205": (
        "No on_finish",
        "Whether the run waits for a step or leaves it behind in the server is the author's decision, in every case.",
        "- id: vacuum\n  sql: VACUUM",
        "- id: vacuum\n  sql: VACUUM\n  on_finish: wait",
    ),
    "JP206": (
        "A detach step is needed",
        "The run may be over before a detach step is, so nothing can depend on how it ends.",
        "- id: refresh\n  on_finish: detach\n- id: report\n  needs: [refresh]",
        "- id: refresh\n  on_finish: wait\n- id: report\n  needs: [refresh]",
    ),
    "JP207": (
        "A step wider than the budget",
        "It would wait for slots that the run never has.",
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
        "It would wait for ever.",
        "budget: {slots: 4, pools: {heavy_io: 1}}\n…\npools: {heavy_io: 2}",
        "budget: {slots: 4, pools: {heavy_io: 2}}\n…\npools: {heavy_io: 2}",
    ),
    "JP210": (
        "A timeout longer than the run's",
        "run_timeout ends the run first, so the step never has as long as it says. Detach steps may outlive the run.",
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
        "It would break what another key of the step promises, or the session that watches the worker.",
        "settings: {statement_timeout: 10min}",
        "timeout: 10m",
    ),
    "JP213": (
        "No name of a setting",
        "Settings have names like work_mem, and those of extensions a prefix with a dot.",
        "settings: {work mem: 64MB}",
        "settings: {work_mem: 64MB}",
    ),
    "JP214": (
        "A setting twice",
        "PostgreSQL does not tell upper case from lower case in the names of settings.",
        "settings: {work_mem: 64MB, Work_Mem: 1GB}",
        "settings: {work_mem: 64MB}",
    ),
    "JP215": (
        "A duration that cannot be",
        (
            "Each unit stands once, the longest first; PostgreSQL counts up to 24 days; and zero would mean no limit "
            "to it."
        ),
        "timeout: 0s",
        "timeout: none",
    ),
    "JP216": (
        "A buffer that cannot be",
        "pg_background refuses queues of more than 256 MB, and below 1 kB not even an error fits in.",
        "output_buffer: 1GB",
        "output_buffer: 16MB",
    ),
    "JP217": (
        "A file outside the plan's folder",
        (
            "A plan is reviewed with its folder: what runs must be what the folder's history shows. Symbolic links "
            "are followed before the question is asked."
        ),
        "sql_file: ../../home/me/try.sql",
        "sql_file: sql/refresh.sql",
    ),
    "JP218": (
        "A file that is not there",
        "Paths are relative to the file that names them.",
        "sql_file: refresh.sql",
        "sql_file: sql/refresh.sql",
    ),
    "JP219": (
        "No SQL",
        "PostgreSQL runs an empty text without an error, and the step would have done nothing.",
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
        "A parameter in a form that it cannot have",
        'Only numbers and booleans can stand in SQL as they are; a text needs quotes, and :"name" makes an identifier.',
        "sql: SELECT * FROM :table",
        'sql: SELECT * FROM :"table"',
    ),
    "JP222": (
        "SQL that cannot be scanned",
        "Where a quote is never closed, or a colon introduces nothing, nobody can say what is a parameter.",
        "sql: SELECT 'it''s, :days",
        "sql: SELECT 'it''s', :days",
    ),
    "JP223": (
        "Files that include each other",
        "There would be no end; nor can a plan have more than 1,000 includes.",
        "# a.yaml\ninclude: [a.yaml]",
        "# a.yaml\ninclude: [b.yaml]",
    ),
    "JP224": (
        "A parameter declared in two ways",
        "Several files may declare one parameter, if they agree on everything.",
        "# a.yaml\nparams: {days: {type: integer}}\n# b.yaml\nparams: {days: {type: string}}",
        "# a.yaml\nparams: {days: {type: integer}}",
    ),
    "JP225": (
        "A value that its declaration or its form does not allow",
        (
            "The default and the enum must be what the type, pattern, minimum and maximum allow. A number that SQL "
            "would get in another form than the plan has it, such as 1.10 in `items`, may be meant as a text, which "
            "has quotes."
        ),
        "days: {type: integer, minimum: 1, default: 0}",
        "days: {type: integer, minimum: 1, default: 90}",
    ),
    "JP226": (
        "A value that a parameter cannot have",
        "Values are checked before anything runs, wherever they come from.",
        "jobplan run plan.yaml --param days=ninety",
        "jobplan run plan.yaml --param days=90",
    ),
    "JP227": (
        "A value for a parameter that the plan does not have",
        "It would have no effect; the name is probably misspelt.",
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
        "Items that do not go together",
        "Instances are named by their items, so each item stands once; and all have the same keys.",
        "for_each: {items: [orders, {table: audit}]}",
        "for_each: {items: [orders, audit]}",
    ),
    "JP231": (
        "An item's name that is taken",
        "SQL could not tell the item from the parameter.",
        "params: {table: {type: identifier}}\n…\nfor_each: {items: [a, b], as: table}",
        "params: {table: {type: identifier}}\n…\nfor_each: {items: [a, b], as: part}",
    ),
    "JP232": (
        "A step needed twice",
        "One of the two was probably meant to be another.",
        "needs: [a, {step: a}]",
        "needs: [a, b]",
    ),
    "JP233": (
        "An id that is too long with its prefix",
        "Ids have 63 characters at most, the prefix of an included file counted.",
        "include:\n  - {file: a.yaml, as: a_very_long_prefix_…}",
        "include:\n  - {file: a.yaml, as: a}",
    ),
    "JP234": (
        "A need between steps and finally",
        "Finally steps start when all other steps are over, so neither can wait for the other.",
        "finally:\n  - id: note\n    needs: [vacuum]",
        "finally:\n  - id: note",
    ),
    "JP240": (
        "A parameter where none can stand",
        (
            "In `role`, `search_path`, `settings` and `touches` a parameter is one whole name or the whole value of a "
            "setting, so that no value can become more than that. Other keys take none, and would use its name as text."
        ),
        "search_path: tenant_:n, public",
        'search_path: :"tenant", public',
    ),
    "JP241": (
        "A parameter in a text that is only shown",
        "Descriptions and messages are shown as they are written; a parameter's name stands in them, not its value.",
        "message: fewer than :least rows",
        "message: fewer rows than the parameter least",
    ),
}
