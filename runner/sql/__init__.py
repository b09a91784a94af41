"""The analysis of SQL: parameters, statements and their kinds, relations and locks.

Only this package uses the SQL parser; no other package sees its types.

params        psql's `:'name'`, `:"name"`, `:name`: find, substitute and quote them
parse         text to statements, also before its parameters have values
kinds         the kinds of statement
relations     the relations that queries use
lockmodes     lock modes and which of them conflict
locks         the locks that a statement takes
alter         the subcommands of ALTER TABLE: lock, rewrite, scan
transactions  statements that must run alone, statements that a worker refuses
facts         WHERE, IF EXISTS, settings, functions, what is created and dropped
effects       whether a statement only reads
options       `VACUUM (FULL)` and the like, CONCURRENTLY

tokens, nodes, takers and functions are for the modules above only.
"""
