"""The meaning of every code and every key: for `--explain`, for reports, and for the generated pages."""
