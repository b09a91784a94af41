"""The table locks of a plan's steps: which relations each step locks, and which steps exclude each other."""
