"""The ledger: the record of runs in the database, beside the journal on disk."""
