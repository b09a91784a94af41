"""The analysis of SQL. Only this package uses the SQL parser; no other package sees its types.

statements            text to statements and their kinds, also before its parameters have values
placeholders          psql's `:'name'`, `:"name"`, `:name`: find, substitute and quote them
session_settings      settings, roles and search_path: those that a plan sets, those that a statement sets
facts                 WHERE, options, settings, functions, what is created and dropped
text_traits           properties of a whole text: may it run again, what does it leave half done
transactions          statements that must run alone, statements that a worker refuses
statement_effects     whether a statement only reads, destroys data, or ends with its session
returned_rows         whether a statement returns rows, and how they are read as text
relations             the relations and columns that queries use
lock_modes            lock modes and which of them conflict
table_locks           the locks that a statement takes, foreign keys included
alter_table           the subcommands of ALTER TABLE: lock, rewrite, scan
catalog_needs         what must exist, and which privileges are needed
catalog_changes       what a statement creates, drops and renames
definition_changes    every other change that a later statement may depend on
plpgsql_bodies        the bodies of DO, functions and procedures
storage_parameters    storage parameters and options of views
version_needs         the first PostgreSQL version of each option and clause
builtin_functions     built-in functions that only read, and those that do more

tokens, syntax_tree and qualified_names are for the modules above, and for names in plans.
"""
