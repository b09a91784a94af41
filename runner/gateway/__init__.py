"""The only package that talks to the server: sessions, workers, the ledger, inspection."""
