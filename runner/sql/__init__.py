"""What jobplan knows about SQL: parameters, statements and their kinds, relations and locks.

The only users of the SQL parser; nobody above this floor sees its types.

params        psql's `:'name'`, `:"name"`, `:name`: find them, give them values, quote
parse         text to statements, also before its parameters have values
kinds         the kinds of statement
relations     the relations that queries use
lockmodes     lock modes and which of them exclude each other
locks         the locks that a statement takes
alter         the subcommands of ALTER TABLE: lock, rewrite, scan
transactions  what must stand alone, what a worker refuses
facts         WHERE, IF EXISTS, settings, functions, what is created and dropped
effects       whether a statement only reads
options       `VACUUM (FULL)` and the like, CONCURRENTLY

tokens, nodes, takers and functions are for the modules above only.
"""
