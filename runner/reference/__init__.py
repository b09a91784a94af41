"""What every code and every key means: for `--explain`, for reports, and for the pages that are made from it."""
