"""What jobplan knows about SQL: parameters, statements and their kinds, relations and locks.

The only users of the SQL parser; nobody above this floor sees its types.
"""
