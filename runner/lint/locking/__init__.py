"""Which relations each step of a plan locks, in which mode and order, from the steps' SQL and what the plan creates."""
