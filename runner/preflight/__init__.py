"""Checks against a server, with nothing executed."""
