"""The analysis of SQL. Only this package uses the SQL parser; no other package sees its types.

statements            text to statements and their kinds, also before its parameters have values
psql_commands         commands of psql, which are no SQL, and what a plan has instead
placeholders          psql's `:'name'`, `:"name"`, `:name`: find, substitute and quote them
session_settings      settings, roles and search_path: those that a plan sets, those that a statement sets
command_objects       what a command is about: what it creates, drops, changes, vacuums and rebuilds (REINDEX)
command_options       options of a command, those that PostgreSQL refuses, and CONCURRENTLY, IF EXISTS, CASCADE, NOWAIT
unfiltered_writes     UPDATE, DELETE and MERGE of every row
function_calls        the functions that a statement calls, and what acts on the whole server
text_traits           properties of a whole text: may it run again, what does it leave half done
transactions          statements that must run alone, statements that a worker refuses
statement_effects     whether a statement only reads, destroys data, or ends with its session
carried_rows          how a batch returns the values that a repeated step carries
returned_rows         whether a statement returns rows, and how they are read as text
relations             the relations and columns that queries use
lock_modes            lock modes and which of them conflict
table_locks           the locks that a statement takes, foreign keys included
bounds                bounds of partitions, and whether a CHECK implies one
alter_table           the subcommands of ALTER TABLE: lock, rewrite, scan
catalog_needs         what must exist, and which privileges are needed
catalog_changes       what a statement creates, drops and renames
definition_changes    every other change that a later statement may depend on
new_tables            what PostgreSQL refuses of new tables and columns by their text alone
routine_bodies        the body of a DO, function or procedure: its language and words
plpgsql_bodies        what these bodies do: loops that write, commits, commands that cannot run there
storage_parameters    storage parameters and options of views
version_needs         the first PostgreSQL version of each option and clause
builtin_functions     built-in functions that only read, and those that do more

comments, tokens, syntax_tree and qualified_names are for the modules above, and for names in plans.
"""
