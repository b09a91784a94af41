"""How fast jobplan is, against what is possible: each figure is a ratio, or a budget that the design sets.

`python -m benchmarks`; docs/benchmarks.md says what each one measures and how to read it.
"""
