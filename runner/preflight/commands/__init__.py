"""Commands that cannot be explained, checked by the catalog: what must be there, of the right kind, and allowed."""
